"""A user's own derivatives as torch's: a function whose gradient and Hessian the user wrote, as a node of a graph.

So what is built around a function, such as a Lagrangian, is differentiated as if torch had made all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from thalweg.solve.objective import Objective


class Value(torch.autograd.Function):
    """(objective, leaves ...) -> the scalar fun(x); its gradient is the user's."""

    @staticmethod
    def forward(ctx: Any, objective: Objective, *leaves: Tensor) -> Tensor:
        ctx.objective = objective
        ctx.save_for_backward(*leaves)
        return torch.as_tensor(objective.call(objective.variables.build(leaves))).detach().reshape(()).to(leaves[0])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, *(outer[0] * part for part in Slope.apply(ctx.objective, *ctx.saved_tensors))


class Slope(torch.autograd.Function):
    """(objective, leaves ...) -> the user's gradient, a tensor a leaf; its derivative is the user's Hessian, or differences."""

    @staticmethod
    def forward(ctx: Any, objective: Objective, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.objective, variables = objective, objective.variables
        ctx.save_for_backward(*leaves)
        x = variables.flat([leaf.detach() for leaf in leaves]).double().cpu().numpy()
        return tuple(part.clone() for part in variables.tensors(objective.own_slope(x)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Any:
        variables = ctx.objective.variables
        x, v = (variables.flat(list(given)).double().cpu().numpy().copy() for given in (ctx.saved_tensors, outer))
        return None, *variables.tensors(np.ascontiguousarray(ctx.objective.product(x, v)))
