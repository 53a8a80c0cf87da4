"""Quadratic penalty and augmented Lagrangian. Courant 1943; Hestenes 1969; Powell 1969; Rockafellar 1973; Bertsekas 1982

Both minimise, within the bounds or the set,

    f + sum_i (lambda_i h_i + k h_i^2 / 2) + sum_i (max(0, mu_i + k c_i)^2 - mu_i^2) / (2 k),

for larger and larger k. The penalty keeps lambda = mu = 0, and k h(x_k), k max(0, c(x_k)) tend to the multipliers; the augmented Lagrangian
takes lambda + k h and max(0, mu + k c) for the next lambda and mu, and needs no large k.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.solve import projected, sqp
from thalweg.solve.constraints import Constraints
from thalweg.solve.objective import Objective
from thalweg.solve.path import Limits, Path

Array = np.ndarray
GROW = 10.0
LARGEST = 1e12
ENOUGH = 1e-5
ROUGH = 1e-6
"""What may be missed, in units of x, and the gradient's size, when a Newton method on the conditions themselves comes afterwards."""
SHRINK = 0.25
"""The violation an augmented step must at least shrink to, so that k stays."""
DENSE = 500


def sequence(
    objective: Objective, constraints: Constraints, path: Path, limits: Limits, keep: bool, polished: bool
) -> Array:  # fmt: skip
    """Solve for larger and larger k; keep: lambda = mu = 0 throughout. polished: a Newton method on the conditions comes afterwards.

    Returns the multipliers (m,), equalities first. The path has a row a k, with the estimates in it.
    """
    variables, first = objective.variables, path.x
    m = sum(part.m for part in (constraints.equality, constraints.inequality) if part)
    equal = np.arange(m) < (constraints.equality.m if constraints.equality else 0)
    y, k, before = np.zeros(m), _first(constraints, path), math.inf
    found, inner = y, 1e-2
    least, enough = (max(limits.tol, ROUGH), ENOUGH) if polished else (limits.tol, limits.tol)
    while k <= LARGEST:
        target = Objective(functools.partial(_augmented, objective, constraints, y, k, equal), variables)
        room = Limits(inner, max(limits.iterations - path.iterations, 0), limits.evaluations - max(objective.f, objective.g))
        stage = minimum(target, constraints, path.x if math.isfinite(target.value(path.x)) else first, room)
        objective.f, objective.g, objective.H = objective.f + target.f, objective.g + target.g, objective.H + target.H
        violation = constraints.violation(stage.x)
        lost = stage.ended in ("unbounded", "non-finite")
        if lost and violation > limits.tol:
            k *= GROW**2  # too low a price: the function falls for ever where constraints are missed
            continue
        a = sqp.values(constraints, stage.x)
        found = np.where(equal, y + k * a, np.maximum(y + k * a, 0.0))
        missed = float(np.where(equal, np.abs(a), np.abs(np.maximum(a, -found / k))).max(initial=0.0))
        path.x, path.f, path.g, path.iterations = stage.x, objective.value(stage.x), stage.g, path.iterations + stage.iterations
        ended = path.over(objective, limits, 0.0, missed, violation=violation, penalty=k, multipliers=found.tolist())
        if ended and path.ended != "stalled":
            return found
        if lost or (inner <= least and missed <= enough * max(1.0, float(np.abs(path.x).max()))):
            path.ended = stage.ended if lost else "stationary"
            return found
        y = y if keep else found
        if keep or missed > SHRINK * before:
            k *= GROW
        before, inner = missed, max(inner / GROW, least)
    path.ended = "stalled"
    return found


def minimum(objective: Objective, constraints: Constraints, x: Array, limits: Limits) -> Path:
    """Minimise within the bounds or the set only, from x; path.g as the method leaves it."""
    path = Path(x, *objective.both(x))
    if constraints.within is not None or objective.n > DENSE:
        return projected.descend(objective, path, projected.projection(objective, constraints), limits)
    box = Constraints(None, None, constraints.low, constraints.high, None)
    return sqp.descend(sqp.Run.at(objective, box, path, limits), exact=True).path


def _augmented(objective: Objective, constraints: Constraints, y: Array, k: float, equal: Array, argument: Any) -> Tensor:
    variables = objective.variables
    total = objective.on_graph(argument)
    weights = torch.as_tensor(y, dtype=variables.dtype, device=variables.device)
    count = int(equal.sum())
    if constraints.equality:
        h = constraints.equality(argument)
        total = total + weights[:count] @ h + k / 2 * (h * h).sum()
    if constraints.inequality:
        mu = weights[count:]
        total = total + ((mu + k * constraints.inequality(argument)).clamp(min=0).square() - mu.square()).sum() / (2 * k)
    return total


def _first(constraints: Constraints, path: Path) -> float:
    """A k at which f and the penalty weigh about the same at the start. Birgin and Martinez 2014, section 4.1"""
    a = constraints.violation(path.x)
    return min(max(2 * abs(path.f) / a**2, 1.0), 1e3) if a > 1e-6 else 10.0


def least_violation(objective: Objective, constraints: Constraints, x: Array, limits: Limits) -> Array:
    """Where the sum of squared violations has a minimum near x, within the bounds or the set."""

    def missed(argument: Any) -> Tensor:
        parts = [constraints.equality(argument)] if constraints.equality else []
        parts += [constraints.inequality(argument).clamp(min=0)] if constraints.inequality else []
        return torch.cat(parts).square().sum() / 2

    target = Objective(missed, objective.variables)
    return minimum(target, constraints, x, Limits(limits.tol, 200 if constraints.within is None else 2000)).x
