"""The loss on a line or a plane through weights. Goodfellow, Vinyals and Saxe 2015, arXiv:1412.6544; Li et al. 2018, arXiv:1712.09913

Random directions are filter-normalised: each filter (the weights of one unit or channel) of a direction has the norm of that filter of the
weights, so that landscapes of nets of other scales compare. Along a trajectory the directions are its principal components; between
solutions they lead from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.probe import copied, probe, problem_of, whole
from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserError
from thalweg.probes.layers.terrain import Terrain
from thalweg.probes.layers.weights import Names, joined, parameters_in, split, state_of, weights_of

MARGIN = 0.25
"""A grid reaches beyond a path or solutions by this share of their extent."""


@dataclass(frozen=True)
class Landscape:
    """Losses on a line, betas (0,) and losses (a,), or on a plane, losses (a, b): at origin + alpha directions[0] + beta directions[1].

    kind: what the directions are: random, given, the trajectory's principal components, or between solutions. directions (k, n): over all
    parameters in the model's order. explained (k,): the trajectory's variance along each direction, as a share; nan without one.
    path (m, k): where the trajectory's points, or the solutions, lie on it. path_losses (m,): the loss there, at the projections;
    path_true (m,): at the points themselves, which lie off the plane by what is not explained. center: the loss at the model's weights.
    Losses may be inf or nan. evaluations: losses over all rows that were taken.
    """

    kind: Literal["random", "given", "trajectory", "between"]
    alphas: np.ndarray
    betas: np.ndarray
    losses: np.ndarray = field(repr=False)
    center: float
    explained: np.ndarray
    path: np.ndarray = field(repr=False)
    path_losses: np.ndarray = field(repr=False)
    path_true: np.ndarray = field(repr=False)
    evaluations: int
    directions: Tensor = field(repr=False, compare=False)

    @property
    def dimensions(self) -> int:
        """1 for a line, 2 for a plane."""
        return self.losses.ndim


@probe
def landscape(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    dimensions: int = 2,
    points: int = 51,
    span: float = 1.0,
    directions: Sequence[Any] | None = None,
    trajectory: Sequence[Any] | None = None,
    between: Any = None,
    filters: bool = True,
    biases: bool = False,
    train: bool = False,
    double: bool = False,
    chunk: int = 4096,
    seed: int = 0,
    cheaper: bool = True,
) -> Landscape:
    """The loss over all rows of the data on `points` places of a line, or points x points of a plane, through the model's weights.

    Works on a copy: the model stays what it is. loss: (output, targets) -> scalar, or step: (model, batch) -> scalar, a mean over rows;
    a Problem brings its own, and its training rows. dimensions: 1 or 2. Weights are given as a state_dict, a module like the model, or a
    tensor (n,) of the parameters that need a gradient in their order (such as `Spectrum.vector`).

    directions: one or two of one's own, taken as they are, from -span to span. trajectory: weights along a run, the model's being the
    last or not; the directions are its principal components, and the grid holds it all. between: one further solution, on a line, the
    model at 0 and it at 1; or two, on the plane through the three (Garipov et al. 2018, arXiv:1802.10026). Without these directions are
    drawn by `seed`, and `filters` scales each filter to the weights' own; biases and the scales of norms stay where they are unless
    `biases`. Buffers, such as batch norm's statistics, go along between solutions, and else stay.
    train: the loss in training mode. chunk: rows at once. cheaper: False evaluates any model in the general way.
    Raises UserError for weights that do not fit the model.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(net.weight, 3.0)   # the loss is w^2; the direction's size is the weight's
    >>> found = landscape(net, lambda out, y: out.square().mean(), (torch.ones(4, 1), torch.zeros(4)), dimensions=1, points=3)
    >>> sorted(found.losses.tolist()), found.center
    ([0.0, 9.0, 36.0], 9.0)
    """
    problem = problem_of(model, loss, data, step)
    if dimensions not in (1, 2):
        raise UserError(f"dimensions = {dimensions!r} must be 1, a line, or 2, a plane")
    if sum(given is not None for given in (directions, trajectory, between)) > 1:
        raise UserError("give directions, a trajectory or solutions to go between, one of the three")
    whole("points", points, 2), whole("chunk", chunk, 1)
    if not 0 < span < np.inf:
        raise UserError(f"span = {span!r} must be a positive number, such as 1.0")
    twin = copied(model, train, double)
    if not dict(twin.named_parameters()):
        raise UserError("the model has no parameters: there are no weights to vary")
    with torch.inference_mode(False), torch.no_grad():
        if trajectory is not None:
            plan = _along(twin, list(trajectory), dimensions)
        elif between is not None:
            plan = _between(twin, between)
        else:
            plan = _spanned(twin, directions, dimensions, span, filters, biases, seed)
        terrain = Terrain(twin, problem, plan.origin, plan.ways, plan.held, chunk, seed)
        center = terrain.at([0.0] * len(plan.ways))
        axes = [np.linspace(low, high, points) for low, high in plan.ranges]
        alphas, betas = axes[0], axes[1] if len(axes) > 1 else np.zeros(1)
        losses = terrain.grid(alphas, betas, cheaper)
        projected = np.array([terrain.at(place) for place in plan.path])
        true = np.array([_true(terrain, names) for names in plan.solutions])
    return Landscape(
        plan.kind, alphas, betas if len(axes) > 1 else np.zeros(0), losses if len(axes) > 1 else losses[:, 0], center, plan.explained,
        plan.path, projected, true, losses.size + 1 + 2 * len(true), torch.stack([joined(way, terrain.parameters) for way in plan.ways]),
    )  # fmt: skip


# --- where to look


@dataclass(frozen=True)
class _Plan:
    """Which plane, and how far. held: place -> the coordinates at which buffers are taken."""

    kind: Literal["random", "given", "trajectory", "between"]
    origin: Names
    ways: tuple[Names, ...]
    ranges: tuple[tuple[float, float], ...]
    path: np.ndarray
    solutions: tuple[Names, ...]
    explained: np.ndarray
    held: Callable[[Sequence[float]], Sequence[float]] = lambda place: [0.0] * len(place)


def _spanned(
    model: nn.Module, directions: Sequence[Any] | None, dimensions: int, span: float, filters: bool, biases: bool, seed: int
) -> _Plan:  # fmt: skip
    origin = state_of(model)
    if directions is not None:
        given = [directions] if isinstance(directions, Tensor | Mapping | nn.Module) else list(directions)
        if len(given) not in (1, 2):
            raise UserError(f"directions has {len(given)} entries; give one for a line, two for a plane")
        ways = tuple(parameters_in(model, weights_of(model, one, f"directions[{k}]")) for k, one in enumerate(given))
    else:
        draw = torch.Generator().manual_seed(seed)
        ways = tuple(_random(model, draw, filters, biases) for _ in range(dimensions))
    nothing = np.zeros((0, len(ways)))
    return _Plan(
        "random" if directions is None else "given", origin, ways, ((-span, span),) * len(ways), nothing, (), np.full(len(ways), np.nan)
    )


def _random(model: nn.Module, draw: torch.Generator, filters: bool, biases: bool) -> Names:
    """A normal direction, whose filters have the norms of the weights' filters; of biases and norms' scales none, unless asked."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad} or dict(model.named_parameters())
    biases = biases or all(p.dim() < 2 for p in trained.values())
    found = {}
    for name, p in trained.items():
        way = torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p)
        if p.dim() < 2 and not biases:
            continue
        if filters:
            parts, own = (way.reshape(len(p), -1), p.reshape(len(p), -1)) if p.dim() > 1 else (way.reshape(1, -1), p.reshape(1, -1))
            way = (parts * (own.norm(dim=1, keepdim=True) / parts.norm(dim=1, keepdim=True).clamp_min(1e-30))).reshape(p.shape)
        found[name] = way
    return found


def _along(model: nn.Module, trajectory: list[Any], dimensions: int) -> _Plan:
    """The trajectory's principal components through its last point; the variance is about its mean."""
    if len(trajectory) < dimensions + 1:
        raise UserError(f"trajectory has {len(trajectory)} points; its {dimensions} principal components need {dimensions + 1} or more")
    solutions = tuple(weights_of(model, one, f"trajectory[{k}]") for k, one in enumerate(trajectory))
    parameters = dict(model.named_parameters())
    flat = torch.stack([joined(names, parameters) for names in solutions]).double()
    if not bool(flat.isfinite().all()):
        raise UserError("the trajectory has weights that are not finite; leave out the points after it diverged")
    spread = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(spread @ spread.T)  # of the small matrix (m, m), rising
    if float(values[-dimensions]) <= 1e-12 * float(values[-1]) or not float(values[-1]) > 0:
        raise UserError(f"the trajectory does not extend in {dimensions} direction{'s' * (dimensions > 1)}; take other points or a line")
    top = [(spread.T @ vectors[:, -1 - k]) / values[-1 - k].sqrt() for k in range(dimensions)]
    path = torch.stack([(flat - flat[-1]) @ way for way in top], 1).numpy()
    ways = tuple(split(way, parameters) for way in top)
    origin = {**state_of(model), **solutions[-1]}
    share = (values.flip(0)[:dimensions] / values.clamp_min(0).sum()).numpy()
    return _Plan("trajectory", origin, ways, tuple(_reach(path[:, k]) for k in range(dimensions)), path, solutions, share)


def _between(model: nn.Module, others: Any) -> _Plan:
    """The line to another solution, in units of its distance; or the plane through three, in orthonormal coordinates."""
    given = [others] if isinstance(others, Tensor | Mapping | nn.Module) else list(others)
    if len(given) not in (1, 2):
        raise UserError(f"between has {len(given)} solutions; give one for the line from the model to it, two for the plane through three")
    origin = state_of(model)
    solutions = (origin, *({**origin, **weights_of(model, one, f"between[{k}]")} for k, one in enumerate(given)))
    legs = [{n: s[n] - origin[n] for n in origin if origin[n].is_floating_point()} for s in solutions[1:]]
    parameters = dict(model.named_parameters())
    flat = torch.stack([joined(leg, parameters).double() for leg in legs])  # (1 or 2, n)
    if len(legs) == 1:
        mix, places = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[0.0], [1.0]])
    else:
        length = flat[0].norm()
        along = flat[1] @ flat[0] / length
        rest = (flat[1].square().sum() - along * along).clamp_min(0).sqrt()
        if not float(length) > 0 or not float(rest) > 1e-9 * float(length):
            raise UserError("the three solutions lie on one line, or two are the same: there is no plane through them")
        mix = torch.stack([torch.stack([1 / length, 0 * length]), torch.stack([-along / (length * rest), 1 / rest])])  # ways by legs
        places = torch.stack([torch.zeros(2), torch.stack([length, 0 * length]), torch.stack([along, rest])])
    ways = tuple({n: torch.stack([float(m) * leg[n] for m, leg in zip(row, legs, strict=True)]).sum(0) for n in legs[0]} for row in mix)
    path = places.double().numpy()

    def held(place: Sequence[float]) -> list[float]:
        """Where buffers are taken: nowhere beyond the solutions, where variances would become negative."""
        share = (torch.tensor(place, dtype=torch.float64) @ mix).clamp(0, 1)  # of each leg
        share = share / share.sum().clamp_min(1.0)
        return (share @ torch.linalg.inv(mix)).tolist()

    ranges = tuple(_reach(path[:, k]) for k in range(len(ways)))
    return _Plan("between", origin, ways, ranges, path, solutions, np.full(len(ways), np.nan), held)


def _reach(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def _true(terrain: Terrain, names: Names) -> float:
    """The loss at weights that may lie off the plane."""
    terrain.put({**terrain.origin, **names})
    return terrain.here()
