"""What a run looks at besides its loss: whether a state fits a model, and the length of a gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thalweg.errors import UserError


def fit(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise UserError, naming the first tensor that differs, where a state is not one of such a module."""
    own = module.state_dict()
    for name in dict.fromkeys((*own, *state)):
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (state, own)]
        if shapes[0] != shapes[1]:
            there, here = (f"has no {name}" if shape is None else f"has {name} of shape {shape}" for shape in shapes)
            raise UserError(f"the checkpoint is of another model: it {there}, and this one {here}; give the model that it was made with")


def slope_length(optimizer: torch.optim.Optimizer) -> Tensor:
    """The length of the whole gradient, of all parameters that have one."""
    found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    slopes = [g.coalesce().values() if g.is_sparse else g for g in found]
    if not slopes:
        return torch.tensor(math.nan)
    return torch.linalg.vector_norm(torch.stack([length.double() for length in torch._foreach_norm(slopes)]))
