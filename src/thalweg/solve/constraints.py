"""Constraints as functions of a flat vector, and which of them hold with equality at a point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from thalweg.errors import UserError
from thalweg.solve.objective import Objective, Vector

Array = np.ndarray
ACTIVE = 1e-6
"""How near its bound (in units of its gradient's length) an inequality counts as active."""


@dataclass(frozen=True)
class Constraints:
    """h = 0, c <= 0, low <= x <= high (infinite where there is no bound), x in a set."""

    equality: Vector | None
    inequality: Vector | None
    low: Array
    high: Array
    within: Any

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    @property
    def general(self) -> int:
        """How many kinds there are besides the set."""
        return (self.equality is not None) + (self.inequality is not None) + self.bounded

    @property
    def none(self) -> bool:
        return self.general == 0 and self.within is None

    def violation(self, x: Array) -> float:
        """The most by which x misses a constraint; 0 where it misses none."""
        h = self.equality.value(x) if self.equality else np.zeros(0)
        c = self.inequality.value(x) if self.inequality else np.zeros(0)
        return float(max(np.abs(h).max(initial=0.0), c.max(initial=0.0), (self.low - x).max(), (x - self.high).max(), 0.0))


@dataclass
class Active:
    """The constraints that hold with equality at x: gradients A (m, n), values (m,), names, which are inequalities."""

    A: Array
    values: Array
    names: list[tuple[str, int]]

    @property
    def signed(self) -> Array:
        return np.array([kind != "equality" for kind, _ in self.names], bool)


def linearised(constraints: Constraints, x: Array, given: Mapping[str, Array], tol: float) -> tuple[Active, float]:
    """The active constraints at x, those with a given positive multiplier among them, and the violation."""
    n, rows, values, names = len(x), [], [], []
    if constraints.equality:
        h = constraints.equality.value(x)
        rows += list(constraints.equality.jacobian(x))
        values += list(h)
        names += [("equality", i) for i in range(len(h))]
    if constraints.inequality:
        c, J = constraints.inequality.value(x), constraints.inequality.jacobian(x)
        mu = given.get("inequality", np.zeros(len(c)))
        near = (c >= -np.maximum(ACTIVE, tol) * np.maximum(1.0, np.linalg.norm(J, axis=1))) | (mu > tol)
        for i in np.flatnonzero(near):
            rows.append(J[i])
            values.append(c[i])
            names.append(("inequality", int(i)))
    for kind, sign, gap in (("lower", -1.0, constraints.low - x), ("upper", 1.0, x - constraints.high)):
        mu = given[kind] if len(given.get(kind, ())) else np.zeros(n)
        for i in np.flatnonzero((gap >= -np.maximum(ACTIVE, tol)) | (mu > tol)):
            rows.append(sign * np.eye(n)[i])
            values.append(gap[i])
            names.append((kind, int(i)))
    return Active(np.array(rows).reshape(-1, n), np.array(values), names), constraints.violation(x)


def by_kind(active: Active, y: Array, constraints: Constraints, n: int) -> dict[str, Array]:
    """Multipliers of active constraints as full vectors, zero where a constraint is not active."""
    sizes = {"equality": constraints.equality, "inequality": constraints.inequality}
    full = {kind: np.zeros(part.m if part else 0) for kind, part in sizes.items()}
    full |= {kind: np.zeros(n if constraints.bounded else 0) for kind in ("lower", "upper")}
    for (kind, i), value in zip(active.names, y, strict=True):
        full[kind][i] = value
    return full


def given_multipliers(multipliers: Any, constraints: Constraints, n: int) -> dict[str, Array]:
    if multipliers is None:
        return {}
    if not isinstance(multipliers, Mapping):
        raise UserError('multipliers must be a mapping with "equality", "inequality", "lower", "upper", as Result.multipliers is')
    empty = by_kind(Active(np.zeros((0, n)), np.zeros(0), []), np.zeros(0), constraints, n)
    answer = {}
    for kind, value in multipliers.items():
        if kind not in empty:
            raise UserError(f"multipliers has no '{kind}'; it takes equality, inequality, lower, upper")
        flat = torch.as_tensor(value).detach().double().reshape(-1).cpu().numpy()
        if flat.size not in (0, empty[kind].size):
            raise UserError(f"multipliers['{kind}'] has {flat.size} numbers for {empty[kind].size} constraints")
        answer[kind] = flat if flat.size else empty[kind]
    return answer


def lagrangian(objective: Objective, constraints: Constraints, y: Mapping[str, Array]) -> Objective:
    """f + lambda.h + mu.c as an objective of its own (bounds are linear and left out)."""
    variables = objective.variables
    weights = {k: torch.as_tensor(y[k], dtype=variables.dtype, device=variables.device) for k in ("equality", "inequality")}

    def L(argument: Any) -> Tensor:
        value = objective.on_graph(argument)
        for kind, part in (("equality", constraints.equality), ("inequality", constraints.inequality)):
            if part is not None:
                value = value + weights[kind] @ part(argument)
        return value

    return Objective(L, variables)


def natural_residual(objective: Objective, x: Array, g: Array, within: Any) -> float:
    """The largest entry of x - Proj(x - g)."""
    variables = objective.variables
    moved = variables.build(variables.tensors(np.ascontiguousarray(x - g)))
    with torch.no_grad():
        back = within.project(moved)
    leaves = [back] if isinstance(back, Tensor) else tree_flatten(back)[0]
    return float(np.abs(x - variables.flat(leaves).double().cpu().numpy()).max())
