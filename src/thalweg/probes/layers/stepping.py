"""What a step of the optimizer does to each parameter, and which parameters it does nothing to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserError
from thalweg.probes.layers.watch import squared

STEPS = 16
"""Calls of an optimizer's step until one moves the weights: it may gather the gradients of several."""


def lost(problem: Problem, model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch, one number, finite or not."""
    loss = problem.lose(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")
    return loss.reshape(())


def frozen(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[nn.Parameter, str]:
    """Parameter -> why it does not learn, of those that do not."""
    rates: dict[Any, Any] | None = (
        None if optimizer is None else {p: group.get("lr") for group in optimizer.param_groups for p in group["params"]}
    )
    found = {}
    for p in model.parameters():
        if not p.requires_grad:
            found[p] = "requires_grad is off"
        elif rates is not None and p not in rates:
            found[p] = "not among the optimizer's parameters"
        elif rates is not None and rates[p] is not None and float(rates[p]) == 0:
            found[p] = "its learning rate is 0"
    return found


def updates(
    problem: Problem, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, gradients: list[Tensor | None]
) -> dict[nn.Parameter, float]:
    """Parameter -> squared length of one step with these gradients, in the optimizer's state; the model's weights are put back."""
    points = list(model.parameters())
    before = [p.detach().clone() for p in points]
    buffers = [b.clone() for b in model.buffers()]

    def closure() -> Tensor:
        for b, was in zip(model.buffers(), buffers, strict=True):
            b.copy_(was)
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = lost(problem, model, batch)
            loss.backward()
        return loss

    needed = isinstance(optimizer, torch.optim.LBFGS)
    if needed:
        optimizer.__dict__.setdefault("_params", optimizer.param_groups[0]["params"])  # torch's own forgets these two when it is copied
        optimizer.__dict__.setdefault("_numel_cache", None)
    for _ in range(STEPS):
        for p, g in zip(points, gradients, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step(closure if needed else None)  # type: ignore[arg-type]
        moved = [squared(p.detach() - was) for p, was in zip(points, before, strict=True)]
        if any(moved):
            break
    with torch.no_grad():
        for p, was in zip(points, before, strict=True):
            p.copy_(was)
    return dict(zip(points, moved, strict=True))
