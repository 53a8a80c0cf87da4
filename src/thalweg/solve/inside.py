"""Before the first step under constraints: which method applies, and a start that keeps bounds and set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from thalweg.errors import UserError
from thalweg.solve.constraints import Constraints
from thalweg.solve.objective import Objective, Vector
from thalweg.solve.projected import projection
from thalweg.solve.variables import Variables

Array = np.ndarray
LARGE = 2000
"""Variables above which `auto` keeps no matrix."""
ROUNDS = 300
APART = 1e-3


def choose(objective: Objective, constraints: Constraints, method: str) -> str:
    """The method's name; "auto" is resolved. Raises UserError where it does not apply."""
    functions = constraints.equality is not None or constraints.inequality is not None
    alone = not functions and not (constraints.within is not None and constraints.bounded)
    able = ["projected"] * alone + ["sqp"] * (constraints.within is None) + ["augmented", "penalty"]
    if method == "auto":
        large = objective.n > LARGE
        return ("projected" if large and alone else "augmented" if large else "sqp") if "sqp" in able else able[0]
    if method not in able:
        given = {"equality": constraints.equality, "inequality": constraints.inequality, "within": constraints.within}
        words = [name for name, part in given.items() if part is not None] + ["bounds"] * constraints.bounded
        raise UserError(f"method '{method}' is not for problems with {' and '.join(words)}; take {', '.join(able)}, or auto")
    return method


def feasible_start(objective: Objective, constraints: Constraints) -> Array:
    """The start moved into bounds and set, (n,). Raises UserError where these have no common point."""
    x, low, high = objective.variables.start, constraints.low, constraints.high
    project = projection(objective, constraints)
    if constraints.within is None or not constraints.bounded:
        return project(x)
    for _ in range(ROUNDS):  # alternating projections tend to the two points that are nearest to each other
        inside = np.minimum(np.maximum(x, low), high)
        x = project(inside)
        gap = float(np.abs(x - inside).max())
        if gap <= objective.variables.eps * max(1.0, float(np.abs(x).max())):
            break
    if gap > APART * max(1.0, float(np.abs(x).max())):
        raise UserError(f"bounds and within exclude each other: {constraints.within} stays {gap:.3g} from the bounds; widen one of them")
    return x


def bounds_as_functions(constraints: Constraints, variables: Variables) -> Constraints:
    """The same constraints with the bounds among the inequalities, after those that are there: lower ones first."""
    lower, upper = (torch.from_numpy(np.flatnonzero(np.isfinite(edge))) for edge in (constraints.low, constraints.high))
    low, high = (torch.from_numpy(edge).to(device=variables.device, dtype=variables.dtype) for edge in (constraints.low, constraints.high))

    def edges(argument: Any) -> Tensor:
        x = variables.flat(variables.parameters or tree_flatten(argument)[0])
        return torch.cat([(low - x)[lower], (x - high)[upper]])

    parts = constraints.inequality.parts if constraints.inequality else []
    far = np.full(variables.n, np.inf)
    return Constraints(constraints.equality, Vector([*parts, edges], variables, "inequality"), -far, far, constraints.within)


def split(y: Array, constraints: Constraints, n: int) -> dict[str, Array]:
    """Multipliers of `bounds_as_functions` by the kinds of the constraints it was made of."""
    e, i = (part.m if part else 0 for part in (constraints.equality, constraints.inequality))
    answer = {"equality": y[:e], "inequality": y[e : e + i], "lower": np.zeros(0), "upper": np.zeros(0)}
    if constraints.bounded:
        rest = y[e + i :]
        for kind, edge in (("lower", constraints.low), ("upper", constraints.high)):
            there = np.flatnonzero(np.isfinite(edge))
            answer[kind] = np.zeros(n)
            answer[kind][there], rest = rest[: len(there)], rest[len(there) :]
    return answer
