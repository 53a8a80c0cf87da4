"""Derivatives of a solution by the tensors inside the functions: the implicit function theorem on the first-order conditions.

Without constraints these are grad f = 0; with functions and bounds the Lagrangian's gradient and the active constraints, as one system in
x and the multipliers (Fiacco 1976, doi:10.1007/BF01580677); on a set, x = Proj(x - grad f(x)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from thalweg.errors import UserError
from thalweg.solve.constraints import Active, Constraints, lagrangian, linearised
from thalweg.solve.objective import Objective
from thalweg.solve.variables import Variables

Array = np.ndarray
WEAK = 1e-7
"""Of the largest multiplier: an inequality with less is taken for one that does not hold x back."""


def implicit(objective: Objective, x: Array, constraints: Constraints | None = None, multipliers: Mapping[str, Array] | None = None) -> Any:
    """x in the user's form, carrying gradients: the value of x, the derivative of x less a Newton step on the conditions.

    multipliers: by kind, as `given_multipliers` reads them. Raises UserError for a module, for a set among other constraints, and where fun
    is no function of torch.
    """
    variables = objective.variables
    if variables.module is not None:
        raise UserError("differentiable=True needs x0 as tensors: a module holds parameters, which carry no gradient of their own")
    if constraints is None or constraints.none:
        step = _free(objective, x)
    elif constraints.within is None:
        step = _held(objective, x, constraints, multipliers or {})
    elif constraints.general:
        raise UserError("differentiable=True takes within, or functions and bounds, not both; write the set as functions")
    else:
        step = _inside(objective, x, constraints.within)
    moved = torch.from_numpy(x.copy()).to(step) - (step - step.detach())
    return variables.build(_parts(variables, moved))


def _parts(variables: Variables, v: Tensor) -> list[Tensor]:
    return [p.reshape(s) for p, s in zip(v.split(variables.sizes), variables.shapes, strict=True)]


def _slope(variables: Variables, leaves: list[Tensor], value: Tensor) -> Tensor:
    """The gradient (n,) in the users' own graph, through which other tensors are reached."""
    if not value.requires_grad:
        raise UserError("differentiable=True needs fun in torch operations on x: without them nothing leads to the tensors inside it")
    return variables.flat(torch.autograd.grad(value.reshape(()), leaves, create_graph=True, allow_unused=True))


def _newton(matrix: Array, residual: Tensor) -> Tensor:
    return torch.linalg.lstsq(torch.from_numpy(matrix).to(residual), residual[:, None]).solution[:, 0]


def _free(objective: Objective, x: Array) -> Tensor:
    leaves, argument = objective.variables.open(x)
    return _newton(objective.hessian(x), _slope(objective.variables, leaves, torch.as_tensor(objective.call(argument))))


def _held(objective: Objective, x: Array, constraints: Constraints, multipliers: Mapping[str, Array]) -> Tensor:
    variables, n = objective.variables, objective.n
    active, _ = linearised(constraints, x, multipliers, 0.0)
    y = np.array([multipliers[kind][i] if len(multipliers.get(kind, ())) else 0.0 for kind, i in active.names])
    strong = ~active.signed | (y > WEAK * np.abs(y).max(initial=0.0))
    names = [name for name, kept in zip(active.names, strong, strict=True) if kept]
    active, y = Active(active.A[strong], active.values[strong], names), y[strong]

    leaves, argument = variables.open(x)
    slope = _slope(variables, leaves, torch.as_tensor(objective.call(argument)))
    values = {k: part(argument) for k, part in (("equality", constraints.equality), ("inequality", constraints.inequality)) if part}
    held = []
    for (kind, i), row, multiplier in zip(names, active.A, y, strict=True):
        if kind in values:
            slope = slope + multiplier * _slope(variables, leaves, values[kind][i])
            held.append(values[kind][i])
        else:  # a bound, which is a number
            slope = slope + multiplier * torch.from_numpy(row).to(slope)
            held.append(slope.new_zeros(()))
    m = len(names)
    weights = {k: np.asarray(multipliers[k]) if len(multipliers.get(k, ())) else np.zeros(0) for k in ("equality", "inequality")}
    curved = lagrangian(objective, constraints, weights).hessian(x)
    matrix = np.block([[curved, active.A.T], [active.A, np.zeros((m, m))]])
    return _newton(matrix, torch.cat([slope, torch.stack(held)]) if held else slope)[:n]


def _inside(objective: Objective, x: Array, within: Any) -> Tensor:
    variables, n = objective.variables, objective.n

    def project(v: Tensor) -> Tensor:
        back = within.project(variables.build(_parts(variables, v)))
        return variables.flat([back] if isinstance(back, Tensor) else tree_flatten(back)[0])

    leaves, argument = variables.open(x)
    slope = _slope(variables, leaves, torch.as_tensor(objective.call(argument)))
    start = torch.from_numpy(x.copy()).to(slope) - slope.detach()
    turned = torch.autograd.functional.jacobian(project, start)
    curved = torch.from_numpy(objective.hessian(x)).to(slope)
    one = torch.eye(n).to(slope)
    return torch.linalg.lstsq(one - turned @ (one - curved), (turned @ slope)[:, None]).solution[:, 0]
