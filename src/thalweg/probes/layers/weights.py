"""A model's weights: by name, or joined into one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import UserError

Names = Mapping[str, Tensor]
"""Parameters and buffers by name."""


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, copied."""
    return {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


def parameters_in(model: nn.Module, names: Names) -> Names:
    """Without the buffers."""
    return {name: names[name] for name, _ in model.named_parameters() if name in names}


def weights_of(model: nn.Module, given: Any, label: str) -> dict[str, Tensor]:
    """Weights as the model names them. Raises UserError where they do not fit."""
    known = state_of(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(given, Tensor):
        count = sum(p.numel() for p in trained.values())
        if given.numel() != count:
            raise UserError(f"{label} has {given.numel()} numbers, and the model {count} trainable parameters")
        return dict(split(given.detach().reshape(-1), trained))
    values = state_of(given) if isinstance(given, nn.Module) else given
    if not isinstance(values, Mapping):
        raise UserError(f"{label} must be a state_dict, a module or a tensor of all weights, not {type(given).__name__}")
    for name in dict(model.named_parameters()):
        if name not in values or values[name].shape != known[name].shape:
            raise UserError(f"{label} has no {name} of shape {tuple(known[name].shape)}; it must be weights of the same model")
    return {name: values[name].detach().to(known[name]) for name in known if name in values and values[name].shape == known[name].shape}


def joined(names: Names, parameters: Mapping[str, Tensor]) -> Tensor:
    """(n,), of all parameters in their order; 0 where none is named."""
    return torch.cat([names[n].reshape(-1) if n in names else torch.zeros_like(p).reshape(-1) for n, p in parameters.items()])


def split(whole: Tensor, parameters: Mapping[str, Tensor]) -> Names:
    """(n,) as the parameters it holds."""
    parts = whole.split([p.numel() for p in parameters.values()])
    return {n: part.reshape(p.shape).to(p) for part, (n, p) in zip(parts, parameters.items(), strict=True)}
