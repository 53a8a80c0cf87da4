"""Gradient check: the analytic gradient against differences, coordinate by coordinate. Nocedal and Wright 2006, section 8.1

A kink is told from a wrong gradient by the slopes on the two sides: between them there is a gap h f'' where f is smooth, and one that
stays as h shrinks at a kink, where any slope between the two is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.calculus.differences import POWER, Kind, check_step
from thalweg.calculus.subject import Named, Subject, subject
from thalweg.errors import UserError, unknown

SHRINK = (1.0, 1 / 8, 1 / 64, 1 / 512, 1 / 4096)  # the steps of a closer look; the last two where larger ones leave the domain
LOOKS = 3


@dataclass(frozen=True)
class Coordinate:
    """One comparison. where: as `weight[3, 1]`, or `weight along a random direction`. error: |analytic - numerical| / the larger of the two
    (or the resolution, where that is larger).

    verdict: "right"; "kink" (at a kink, and between the slopes of its sides); "wrong"; "not finite".
    """

    parameter: str
    where: str
    analytic: float
    numerical: float
    error: float
    verdict: Literal["right", "kink", "wrong", "not finite"]


@dataclass(frozen=True)
class GradientCheck:
    """The answer of `gradcheck`; true where the gradient is right.

    coordinates: all comparisons. resolution: errors of a derivative below it are lost in the round-off of the function's values.
    tolerance: the relative error allowed. evaluations: of the function.
    """

    coordinates: tuple[Coordinate, ...]
    resolution: float
    tolerance: float
    evaluations: int

    @property
    def ok(self) -> bool:
        """Whether no coordinate is wrong or not finite."""
        return not self.offending

    def __bool__(self) -> bool:
        return self.ok

    @property
    def offending(self) -> tuple[str, ...]:
        """The parameters in which something is wrong, each once."""
        return tuple(dict.fromkeys(c.parameter for c in self.coordinates if c.verdict in ("wrong", "not finite")))

    @property
    def kinks(self) -> tuple[str, ...]:
        """Where the function has a kink."""
        return tuple(c.where for c in self.coordinates if c.verdict == "kink")

    @property
    def worst(self) -> Coordinate:
        """The comparison with the largest relative error, wrong ones before others."""
        return max(self.coordinates, key=lambda c: (("kink", "right", "wrong", "not finite").index(c.verdict), c.error))

    def __str__(self) -> str:
        worst = self.worst
        figures = f"analytic {worst.analytic:.8g}, by differences {worst.numerical:.8g}, relative error {worst.error:.2g}"
        wrong = sum(c.verdict in ("wrong", "not finite") for c in self.coordinates)
        blind = self.resolution > 0.01 * max(abs(c.analytic) for c in self.coordinates)
        if self.ok:
            text = "nothing wrong is seen in the gradient" if blind else "the gradient is right"
            text += f" in {len(self.coordinates)} comparisons; the worst, {worst.where}: {figures}"
        else:
            text = f"the gradient is wrong, or not finite, in {', '.join(self.offending)} ({wrong} of {len(self.coordinates)} comparisons)"
            text += f"; at {worst.where}: {figures}"
        if self.kinks:
            shown = ", ".join(self.kinks[:3]) + (", ..." if len(self.kinks) > 3 else "")
            text += f"; at a kink, where any slope between those of its sides is right: {shown}"
        if blind:
            text += f"; the values are so inexact that errors below {self.resolution:.2g} cannot be seen"
        return text

    def rows(self) -> list[dict[str, Any]]:
        """A row a comparison, the worst first."""
        order = sorted(self.coordinates, key=lambda c: (c.verdict in ("right", "kink"), -c.error))
        return [{k: getattr(c, k) for k in ("where", "analytic", "numerical", "error", "verdict")} for c in order]


def gradcheck(
    fun: Any, x: Any = None, *, loss: Callable[[Any, Any], Tensor] | None = None, gradient: Callable | None = None,
    differences: Kind = "central", h: float | None = None, tolerance: float = 1e-5, coordinates: int = 100, seed: int = 0,
) -> GradientCheck:  # fmt: skip
    """Compare a gradient with differences, in float64.

    fun: a function of x -> scalar; or a module, with loss=(output, targets) -> scalar and x=(inputs, targets); or a Problem, x being a
        batch, or None for the first rows of its training data. The module is copied; random layers draw the same numbers every time.
    x: for a function, a tensor, or a tuple or dict of tensors, which the messages then name.
    gradient: a function of x -> the gradient in x's form, to be checked in place of autograd's.
    differences, h: "central" or "forward", and the step, chosen by the precision of the values where none is given.
    coordinates: at most so many of each tensor are compared, drawn by the seed, and a random direction with them.

    Raises UserError where the function gives no number, gives another one each time, or is cut off from x.

    >>> print(gradcheck(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0])).ok)
    True
    >>> check = gradcheck(lambda x: x[0] * x[1].detach(), torch.tensor([1.0, 2.0]))
    >>> check.offending, check.worst.where, check.worst.analytic, round(check.worst.numerical, 6)
    (('x',), 'x[1]', 0.0, 1.0)
    """
    if differences not in POWER:
        raise unknown("kind of differences", str(differences), POWER)
    if coordinates < 1:
        raise UserError(f"coordinates = {coordinates} must be at least 1")
    return _Check(subject(fun, x, loss), differences, check_step(h), tolerance).run(gradient, coordinates, seed)


class _Check:
    """One check: the subject, how differences are taken, and what the values are good for."""

    def __init__(self, subject: Subject, kind: Kind, h: float | None, tolerance: float) -> None:
        self.subject, self.kind, self.tolerance, self.evaluations = subject, kind, tolerance, 0
        self.here = self.value({})
        if not math.isfinite(self.here):
            raise UserError(f"the function is {self.here} at the point; give a point where it is finite")
        if self.value({}) != self.here:
            raise UserError("the function gives different values at the same point: let it draw nothing, or seed what it draws by itself")
        usual = torch.finfo(torch.float64).eps
        self.noise = max(4 * usual * abs(self.here), self.seen_noise(usual ** POWER["central"]))
        relative = self.noise / abs(self.here) if self.here else usual
        self.h = h or min(1e-2, max(usual, relative / 4)) ** POWER[kind]
        self.scaled = h is None  # a step that the user gives is taken as it is

    def value(self, moves: Named) -> float:
        """The function at the start plus the moves."""
        self.evaluations += 1
        with torch.no_grad():
            return float(self.subject.value({name: p + moves[name] if name in moves else p for name, p in self.subject.start.items()}))

    def seen_noise(self, step: float) -> float:
        """The error of the values, seen in their sixth differences along lines, where a smooth function has almost none. Hamming 1971, 6

        The smallest over steps and ways: neither a kink on one way nor what a large step leaves is noise. Lines on which values repeat are
        stairs seen from too near, as those of a function that computes in single precision.
        """
        generator = torch.Generator().manual_seed(0)
        signs = {n: torch.randint(2, p.shape, generator=generator).to(p) * 2 - 1 for n, p in self.subject.start.items()}
        found = []
        for way in (step, -step, step / 16, -step / 16, 1e-9, -1e-9):
            units = {n: way * s * self.subject.start[n].abs().clamp(min=1) for n, s in signs.items()}
            line = torch.tensor([self.here, *(self.value({n: k * u for n, u in units.items()}) for k in range(1, 10))], dtype=torch.float64)
            if bool(line.isfinite().all()) and len(line.unique()) == len(line):
                found.append(float(line.diff(n=6).square().mean().sqrt()) / math.sqrt(924))
        return 3 * min(found, default=0.0)

    def run(self, gradient: Callable | None, coordinates: int, seed: int) -> GradientCheck:
        found = self.subject.gradient() if gradient is None else self.given(gradient)
        generator = torch.Generator().manual_seed(seed)
        compared = [self.compare(*item) for n, p in self.subject.start.items() for item in _moves(n, p, found[n], coordinates, generator)]
        if not compared:
            raise UserError("x has no numbers, so there is no gradient to compare")
        return GradientCheck(tuple(compared), 2 * self.noise / self.h, self.tolerance, self.evaluations)

    def given(self, gradient: Callable) -> Named:
        """The user's gradient, by name."""
        start = self.subject.start
        answer = gradient(self.subject.structure(start))
        parts = (
            answer
            if isinstance(answer, dict)
            else dict(zip(start, answer if isinstance(answer, tuple | list) else (answer,), strict=False))
        )
        named = {n: torch.as_tensor(g, dtype=torch.float64).detach() for n, g in parts.items()}
        for n, p in start.items():
            if n not in named or named[n].shape != p.shape:
                shape = f"of shape {tuple(named[n].shape)}" if n in named else "missing"
                raise UserError(f"gradient= gives {n} {shape}; it must have the form of x, there {tuple(p.shape)}")
        return named

    def compare(self, name: str, where: str, analytic: float, unit: Tensor, size: float) -> Coordinate:
        """The derivative along `unit`, a tensor of the parameter's shape, against the analytic one. size: what the step is scaled by."""
        sides: list[tuple[float, float, float]] = []  # the step, and the slopes above and below
        central: list[float] = []
        verdict, numerical = "not finite", math.nan
        for shrink in SHRINK:
            h = self.h * shrink * (size if self.scaled else 1.0)
            above = (self.value({name: h * unit}) - self.here) / h
            below = (self.here - self.value({name: -h * unit})) / h
            slope = (above + below) / 2 if self.kind == "central" else above
            if not all(map(math.isfinite, (above, below, analytic))):
                continue
            sides.append((h, above, below))
            central.append(slope)
            numerical, gap = slope, abs(above - below)
            allowed = self.tolerance * max(abs(analytic), abs(slope)) + 2 * self.noise / h
            # what a difference of this step leaves out, as far as it can be seen
            allowed += abs(central[-1] - central[-2]) if len(central) > 1 else 0.0
            allowed += gap / 2 if self.kind == "forward" and len(sides) > 1 else 0.0
            smooth = gap <= 0.01 * max(abs(above), abs(below)) + 8 * self.noise / h
            if abs(analytic - slope) <= allowed and smooth:
                verdict = "right"
                break
            if len(sides) == LOOKS:
                first = abs(sides[0][1] - sides[0][2])
                kink = gap > first / 2 and gap > 8 * self.noise / h
                low, high = min(above, below) - allowed, max(above, below) + allowed
                if kink:
                    verdict = "kink" if low <= analytic <= high else "wrong"
                else:
                    verdict = "right" if abs(analytic - slope) <= allowed else "wrong"
                break
        larger = max(abs(analytic), abs(numerical), 2 * self.noise / self.h, 1e-300)
        error = abs(analytic - numerical) / larger if math.isfinite(analytic) and math.isfinite(numerical) else math.inf
        return Coordinate(name, where, analytic, numerical, error, verdict)  # type: ignore[arg-type]


def _moves(name: str, p: Tensor, g: Tensor, most: int, generator: torch.Generator) -> Iterator[tuple[str, str, float, Tensor, float]]:
    """What is compared of one tensor: (name, where, analytic derivative, direction, scale of the step)."""
    flat = g.reshape(-1)
    chosen: Sequence[int] = range(p.numel())
    if p.numel() > most:
        # the largest derivative is always among them
        chosen = sorted({int(flat.abs().argmax()), *torch.randperm(p.numel(), generator=generator)[: most - 1].tolist()})
    for i in chosen:
        unit = torch.zeros_like(p)
        unit.view(-1)[i] = 1.0
        index = ", ".join(str(int(k)) for k in torch.unravel_index(torch.tensor(i), p.shape)) if p.dim() else ""
        yield name, f"{name}[{index}]" if p.dim() else name, float(flat[i]), unit, max(1.0, abs(float(p.reshape(-1)[i])))
    if p.numel() > most:
        unit = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        unit = unit / torch.linalg.vector_norm(unit)
        yield name, f"{name} along a random direction", float((g * unit).sum()), unit, max(1.0, float(p.abs().max()))
