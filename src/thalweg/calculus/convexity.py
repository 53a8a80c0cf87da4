"""Is it convex? Functions by Jensen, along lines and by second derivatives; sets by midpoints. Boyd and Vandenberghe 2004, chapters 2, 3"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.core.convex import ConvexSet, Union, point
from thalweg.errors import UserError

SCALES = (0.1, 1.0, 10.0)
HESSIANS_UP_TO = 200  # numbers in x: a Hessian has the square of it


@dataclass(frozen=True, eq=False)
class Witness:
    """Why the answer is no: a point between two others, point = a + t (b - a), that should not be as it is.

    Of a function: value = f(point) is above limit = (1 - t) f(a) + t f(b). Of a set: a and b are in it and the point is not; value is its
    distance to the set where that is known, and limit is 0.
    """

    kind: str
    a: Tensor
    b: Tensor
    t: float
    point: Tensor
    value: float
    limit: float

    def __str__(self) -> str:
        where = f"a = {_short(self.a)}, b = {_short(self.b)}, t = {self.t:g}, a + t (b - a) = {_short(self.point)}"
        if self.kind == "midpoint":
            return f"{where}: a and b are in the set, the point between them is not"
        return f"{where}: f there is {self.value:.10g}, above (1 - t) f(a) + t f(b) = {self.limit:.10g} (found by {self.kind})"


@dataclass(frozen=True, eq=False)
class Convexity:
    """The answer of `is_convex`; true where it is yes.

    proved: whether a yes is known from how the thing is made. Otherwise it means that nothing was found against it. tried: what was done.
    """

    convex: bool
    witness: Witness | None
    proved: bool
    tried: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.convex

    def __str__(self) -> str:
        tried = f"tried: {'; '.join(self.tried)}"
        if self.witness is not None:
            return f"no: {self.witness}"
        return f"yes, by how it is made; {tried}" if self.proved else f"nothing speaks against it, which is no proof; {tried}"


def is_convex(thing: Any, x: Any, *, within: ConvexSet | None = None, samples: int = 60, seed: int = 0) -> Convexity:
    """Whether a function or a set is convex, with a witness where it is not.

    thing: a function x -> scalar of torch operations (inf or nan where it is not defined); or a set, a union of sets, or a function
        x -> bool that says whether x is a member.
    x: a point, of any shape, near which to look; lists become float64 tensors.
    within: a set; a function is looked at there only, and x is projected onto it.
    samples: pairs of points. seed: of the random points, at distances from 0.1 to 10 times max(1, |x_i|) from x.

    Raises UserError where the function does not give one number, or too few points or members are found.

    >>> print(is_convex(lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 0.0]).convex)
    False
    >>> bool(is_convex(lambda x: x.square().sum(), [1.0, 2.0]))
    True
    >>> from thalweg.sets import box, union
    >>> print(is_convex(union(box(0, 1), box(2, 3)), [0.5]).witness.kind)
    midpoint
    """
    x = point(x).detach()
    if samples < 2:
        raise UserError(f"is_convex: samples = {samples} must be at least 2")
    if not bool(x.isfinite().all()):
        raise UserError("is_convex: x has numbers that are not finite; give a point near which to look")
    generator = torch.Generator().manual_seed(seed)
    if isinstance(thing, ConvexSet | Union):
        return _set(thing, x, samples, generator)
    if not callable(thing):
        raise UserError(f"is_convex takes a function or a set, not {type(thing).__name__}")
    start = x if within is None else within.project(x)
    first = _call(thing, start)
    if isinstance(first, bool) or (isinstance(first, Tensor) and first.dtype == torch.bool):
        return _set(_Members(thing), x, samples, generator)
    return _function(thing, start, within, samples, generator)


# --- functions


def _function(f: Callable, x: Tensor, within: ConvexSet | None, samples: int, generator: torch.Generator) -> Convexity:
    def value(at: Tensor) -> float:
        return _number(f, at)

    drawn = _around(x, 4 * samples, generator)
    inside = ((p, value(p)) for p in (drawn if within is None else map(within.project, drawn)))
    found = [(p, v) for p, v in inside if math.isfinite(v)][: 2 * samples]
    if len(found) < 2:
        raise UserError("is_convex: f is finite at fewer than two of the points drawn near x; give an x where it is, or within=")
    pairs = list(zip(found[::2], found[1::2], strict=False))
    where = f" of {within}" if within is not None else ""
    tried = [f"Jensen's inequality for {len(pairs)} pairs of points{where}"]
    for (a, fa), (b, fb) in pairs:
        for t in (0.5, float(torch.rand((), generator=generator)) * 0.8 + 0.1):
            if (witness := _between(value, "Jensen's inequality", a, fa, b, fb, t)) is not None:
                return Convexity(False, witness, False, tuple(tried))
    tried.append(f"{len(pairs)} lines, each at 9 points in a row")
    for (a, fa), (b, fb) in pairs:
        between = [a + k / 8 * (b - a) for k in range(1, 8)]
        line = [(a, fa), *((p, value(p)) for p in between), (b, fb)]
        for (left, fl), (right, fr) in zip(line, line[2:], strict=False):
            if math.isfinite(fl + fr) and (witness := _between(value, "values along a line", left, fl, right, fr, 0.5)) is not None:
                return Convexity(False, witness, False, tuple(tried))
    if x.numel() > HESSIANS_UP_TO:
        return Convexity(True, None, False, (*tried, f"no Hessian, since x has more than {HESSIANS_UP_TO} numbers"))
    few = [p for p, _ in found[: max(2, samples // 3)]]
    tried.append(f"the smallest eigenvalue of the Hessian at {len(few) + 1} points")
    for p in (x, *few):
        if (witness := _curvature(f, value, p, within)) is not None:
            return Convexity(False, witness, False, tuple(tried))
    return Convexity(True, None, False, tuple(tried))


def _between(value: Callable, kind: str, a: Tensor, fa: float, b: Tensor, fb: float, t: float) -> Witness | None:
    """A witness where f between a and b is above the chord by more than round-off; where f is not finite there, it is above."""
    middle = a + t * (b - a)
    fm, limit = value(middle), (1 - t) * fa + t * fb
    slack = 1e3 * torch.finfo(a.dtype).eps * (abs(fa) + abs(fb) + abs(limit) + 1e-300)
    return None if fm <= limit + slack else Witness(kind, a, b, t, middle, fm, limit)


def _curvature(f: Callable, value: Callable, x: Tensor, within: ConvexSet | None) -> Witness | None:
    """A witness on the line through x along the eigenvector of the Hessian's smallest eigenvalue, where that is negative.

    The values of f have to bear it out at some distance: a Hessian alone may be wrong, as that of code that detaches.
    """
    try:
        H = torch.autograd.functional.hessian(lambda y: f(y).reshape(()), x).reshape(x.numel(), x.numel())
    except RuntimeError:  # no derivatives: the values have been looked at
        return None
    if not bool(H.isfinite().all()):
        return None
    values, vectors = torch.linalg.eigh((H + H.T) / 2)
    if values[0] >= -1e3 * torch.finfo(x.dtype).eps * values.abs().max():
        return None
    v = vectors[:, 0].reshape(x.shape) * x.abs().max().clamp(min=1)
    for h in (1e-2, 1e-1, 1.0, 1e-3, 1e-4):
        a, b = x - h * v, x + h * v
        if within is not None and not bool(within.contains(torch.stack([a, b])).all()):
            continue
        fa, fb = value(a), value(b)
        if (
            math.isfinite(fa)
            and math.isfinite(fb)
            and (witness := _between(value, "the Hessian's smallest eigenvalue", a, fa, b, fb, 0.5)) is not None
        ):
            return witness
    return None


def _call(f: Callable, x: Tensor) -> Any:
    with torch.no_grad():
        return f(x)


def _number(f: Callable, x: Tensor) -> float:
    result = _call(f, x)
    if isinstance(result, Tensor) and result.numel() != 1:
        raise UserError(f"is_convex: f gives a tensor of shape {tuple(result.shape)}; it must give one number, or True or False for a set")
    number = float(result)
    return math.inf if math.isnan(number) else number  # not defined there: outside its domain


# --- sets


@dataclass(frozen=True)
class _Members:
    """A set of which only a test of membership is known, for one point at a time."""

    test: Callable[[Tensor], Any]

    def contains(self, x: Tensor) -> Tensor:
        return torch.tensor([bool(self.test(p)) for p in x])


def _set(thing: Any, x: Tensor, samples: int, generator: torch.Generator) -> Convexity:
    proved = isinstance(thing, ConvexSet) and thing.proved
    samples = min(samples, 10) if proved else samples  # a look for form's sake: projections onto intersections take long
    parts = thing.parts if isinstance(thing, Union) else (thing,)
    per_part = -(-2 * samples // len(parts))
    drawn = torch.stack(list(_around(x, per_part if isinstance(thing, ConvexSet | Union) else 50 * samples, generator)))
    if isinstance(thing, ConvexSet | Union):
        members = torch.cat([part.project(drawn) for part in parts])
        members = members[torch.randperm(len(members), generator=generator)]
    else:
        members = drawn[thing.contains(drawn)][: 2 * samples]
        if len(members) < 2:
            raise UserError(f"is_convex: {len(members)} of {len(drawn)} points drawn near x are in the set; give an x in the middle of it")
    pairs = len(members) // 2
    a, b = members[:pairs], members[pairs : 2 * pairs]
    tried = [f"midpoints and other points between {pairs} pairs of members"]
    for t in (0.5, 0.25, float(torch.rand((), generator=generator))):
        middle = a + t * (b - a)
        out = ~thing.contains(middle)
        if bool(out.any()):
            distance = thing.distance(middle) if hasattr(thing, "distance") else torch.full((pairs,), float("nan"))
            k = int(torch.where(out, distance.nan_to_num(nan=1.0), torch.full_like(distance, -1.0)).argmax())
            return Convexity(False, Witness("midpoint", a[k], b[k], t, middle[k], float(distance[k]), 0.0), False, tuple(tried))
    return Convexity(True, None, proved, tuple(tried))


def _around(x: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random points around x, near ones and far ones in turn."""
    unit = x.abs().clamp(min=1)
    for k in range(count):
        yield x + SCALES[k % len(SCALES)] * unit * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def _short(x: Tensor) -> str:
    numbers = ", ".join(f"{v:.6g}" for v in x.flatten()[:6].tolist())
    return f"({numbers}{', ...' if x.numel() > 6 else ''})"
