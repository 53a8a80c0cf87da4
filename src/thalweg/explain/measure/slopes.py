"""Gradients: of single batches against what lies in `.grad` and against weight decay, by layer, and through time; and the curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.problem import Batch
from thalweg.errors import UserError
from thalweg.explain.case import Case
from thalweg.explain.measure.state import Parts, Settings
from thalweg.probes.gradients import gradients
from thalweg.probes.sharpness import sharpness

BATCHES = 16
"""Batches whose gradients are taken."""

ROWS = 512
"""Rows on which curvature and layers are looked at."""


@dataclass(frozen=True)
class Slopes:
    """mean: norm of the mean gradient; single: the median norm of a batch's, largest: the largest. scale: of the gradient's noise, the
    batch size at which noise and gradient are equal (McCandlish et al. 2018, arXiv:1812.06162). left: norm of what lies in `.grad`, nan
    where nothing does; against: its cosine with the mean gradient. pull: norm of the weights times weight decay over the mean
    gradient's; along: the cosine of the gradient and the weights: -1 where decay and gradient hold each other. weights: their norm."""

    mean: float
    single: float
    largest: float
    scale: float
    left: float
    against: float
    pull: float
    along: float
    weights: float


def slopes(case: Case, settings: Settings | None = None) -> Slopes | None:
    if not case.alive:
        return None
    model, _ = case.copy()
    points = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not points:
        return None
    count = BATCHES if case.batch_size >= 8 else 3 * BATCHES
    norms = torch.zeros(count, dtype=torch.float64)
    mean = torch.zeros((), dtype=torch.float64, device=next(iter(points.values())).device)
    for i, batch in enumerate(case.batches(count)):
        one = _gradient(case, model, points, batch).double()
        mean, norms[i] = mean + one / count, one.norm()
    size = float(mean.norm())
    variance = max(float(norms.square().sum()) - count * size * size, 0.0) / max(count - 1, 1)
    true = max(size * size - variance / count, 1e-30)
    left = [case.slopes[name].flatten() if name in case.slopes else torch.zeros_like(p).flatten() for name, p in points.items()]
    kept = torch.cat(left).double() if any(name in case.slopes for name in points) else None
    weights = torch.cat([p.detach().flatten() for p in points.values()]).double()
    decay = settings.decay if settings is not None else 0.0
    return Slopes(
        size, float(norms.median()), float(norms.max()), variance * case.batch_size / true,
        math.nan if kept is None else float(kept.norm()), math.nan if kept is None else _cosine(kept, mean),
        decay * float(weights.norm()) / max(size, 1e-300), _cosine(mean, weights), float(weights.norm()),
    )  # fmt: skip


def _gradient(case: Case, model: nn.Module, points: dict[str, nn.Parameter], batch: Batch) -> Tensor:
    loss = case.problem.lose(model, batch)
    if not loss.requires_grad:
        raise UserError("the loss does not depend on any trainable parameter")
    grads = torch.autograd.grad(loss.reshape(()), list(points.values()), allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(grads, points.values(), strict=True)])


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))


def flow(case: Case) -> Any:
    """What `tw.probes.gradients` finds; at the weights as they are, or at fresh ones where these are not finite."""
    where = case if case.alive else case.restarted()
    if where is None:
        return None
    return gradients(where.model, where.problem, where.some(256), where.optimizer, batch_size=64, batches=2, train=where.model.training)


def flow_fresh(case: Case, parts: Parts) -> Any:
    """The same at fresh weights."""
    where = case.restarted() if parts.alive and not parts.recurrent else None
    return None if where is None else flow(where)


@dataclass(frozen=True)
class Memory:
    """Of a recurrent net: steps of its sequences; first, last: norm of the loss's derivative by the inputs of the first and the last step;
    factor: the geometric mean by which it changes a step back in time. radius: the largest size of an eigenvalue of recurrent weights."""

    steps: int
    first: float
    last: float
    factor: float
    radius: float


def memory(case: Case, parts: Parts) -> Memory | None:
    if not parts.recurrent:
        return None
    where = case if case.alive else case.restarted()
    radius = 0.0
    for module in case.model.modules():
        if isinstance(module, nn.RNN):
            for name, p in module.named_parameters(recurse=False):
                if name.startswith("weight_hh") and bool(p.isfinite().all()):
                    radius = max(radius, float(torch.linalg.eigvals(p.detach().double()).abs().max()))
    if where is None:
        return Memory(0, math.nan, math.nan, math.nan, radius)
    model, _ = where.copy()
    batch = where.some(64)
    if not (isinstance(batch, tuple) and batch[0].is_floating_point() and batch[0].dim() == 3):
        return Memory(0, math.nan, math.nan, math.nan, radius)
    x = batch[0].detach().clone().requires_grad_()
    slope = torch.autograd.grad(where.problem.lose(model, (x, batch[1])).reshape(()), x, allow_unused=True)[0]
    if slope is None:
        return Memory(0, math.nan, math.nan, math.nan, radius)
    first_batch = all(m.batch_first for m in model.modules() if isinstance(m, nn.RNNBase))
    series = slope.norm(dim=(0, 2) if first_batch else (1, 2)).double()
    steps = len(series)
    first, last = float(series[0]), float(series[-1])
    factor = (first / last) ** (1 / (steps - 1)) if steps > 1 and last > 0 else math.nan
    return Memory(steps, first, last, factor, radius)


def curvature(case: Case, settings: Settings) -> Any:
    """What `tw.probes.sharpness` finds; at the weights as they are, or at fresh ones where these are not finite."""
    where = case if case.alive else case.restarted()
    if where is None or where.optimizer is None:
        return None
    loss = case.history.get("loss")
    history = None if where is not case or loss is None or not np.isfinite(loss).all() else loss.tolist()
    return sharpness(where.model, where.problem, where.some(ROWS), where.optimizer, history=history)
