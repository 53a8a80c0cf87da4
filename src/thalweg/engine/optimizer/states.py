"""States of an optimizer's parameters: how they begin, and what a rule is given besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.bound import Bound
from thalweg.engine.optimizer.groups import Kind
from thalweg.engine.optimizer.stepping import Member, real, wide
from thalweg.errors import UserError

States = Mapping[Any, dict[str, Any]]
Group = Mapping[str, Any]


def begin(
    kind: Kind, values: Mapping[str, Any], p: Tensor, states: States, title: str, dtype: torch.dtype | None, group: Group
) -> dict[str, Any]:
    """The states of a parameter before its first update. states: of all parameters; dtype: of these, by default the parameter's."""
    bound = kind.bound
    if p.is_complex() and bound.rule.scope == "tensor":
        raise RuntimeError(f"{title} does not support complex parameters: give their real view, torch.view_as_real(p)")
    x = real(p.detach())
    x = x if dtype is None else x.to(dtype)
    found: dict[str, Any] = {"step": count(p, 0.0, group)}
    with torch.no_grad():
        started = {**bound.begin(bound.states, x, values), **bound.begin(bound.outer, x, values)}
    for name, value in started.items():
        if value is None:
            continue
        if name in kind.singles:
            shared = next((s[name] for s in states.values() if name in s), None) if bound.rule.scope == "group" else None
            kept = _single_type() if hasattr(torch.optim, title) else wide(x.dtype)  # torch's own keep these in the default type
            found[name] = value.to(kept) if shared is None else shared
        else:
            found[name] = torch.view_as_complex(value) if p.is_complex() else value
    if "x0" in bound.requests:
        found["x0"] = p.detach().clone()
    return found


def count(p: Tensor, value: float, group: Group) -> Tensor:
    """The count of updates, as torch.optim keeps it: on the processor unless it must be captured, in single precision where fused."""
    away = p.device.type not in ("cpu", "meta") and group.get("capturable")
    return torch.tensor(value, dtype=torch.float32 if group.get("fused") else _single_type(), device=p.device if away else "cpu")


def _single_type() -> torch.dtype:
    """The type of states of one number, as torch.optim has it."""
    return torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32


def given(bound: Bound, m: Member, loss: Any, title: str) -> dict[str, Any]:
    """What a rule asks for beside its count, for one parameter."""
    found: dict[str, Any] = {}
    if "weights" in bound.requests:
        found["weights"] = float(m.p.dim() > 1)
    if "x0" in bound.requests:
        found["x0"] = m.state["x0"]
    if "loss" in bound.requests:
        if loss is None:
            raise UserError(f"{title} needs the loss: give step() a closure that computes and returns it")
        found["loss"] = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
    return found
