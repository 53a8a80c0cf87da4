"""The numbers in an optimizer's groups by name: lr, weight_decay, ..., and beta1, beta2 inside betas."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dial:
    """One number of a group: group[key], or group[key][index] where that holds several."""

    key: str
    index: int | None = None

    def held(self, group: Mapping[str, Any]) -> Any:
        """What stands there: a number, or a tensor of one element."""
        value = group[self.key]
        return value if self.index is None else value[self.index]

    def read(self, group: Mapping[str, Any]) -> float:
        return float(self.held(group))

    def write(self, group: dict[str, Any], number: float) -> None:
        """Put a number there; a tensor stays the same tensor, since compiled steps and captured graphs refer to it."""
        held = self.held(group)
        if isinstance(held, Tensor):
            with torch.no_grad():
                held.fill_(number)
        elif self.index is None:
            group[self.key] = number
        else:
            values = group[self.key]
            group[self.key] = type(values)([*values[: self.index], number, *values[self.index + 1 :]])


def dials(group: Mapping[str, Any]) -> dict[str, Dial]:
    """All numbers of a group; those of a tuple `betas` are beta1, beta2.

    >>> sorted(dials({"params": [], "lr": 0.1, "betas": (0.9, 0.99), "maximize": False}))
    ['beta1', 'beta2', 'lr']
    """
    found: dict[str, Dial] = {}
    for key, value in group.items():
        if key == "params":
            continue
        if _is_number(value):
            found[key] = Dial(key)
        elif isinstance(value, tuple | list):
            one = key[:-1] if key.endswith("s") and key != "eps" else key
            found |= {f"{one}{k + 1}": Dial(key, k) for k, part in enumerate(value) if _is_number(part)}
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
