"""Small models with data, as `name -> Sample`, for the engines' tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.models import cnn, mlp


@dataclass(frozen=True)
class Sample:
    """model: before training. loss: (output, targets) -> scalar. data: (inputs, targets). batch_size: leaves a short last batch."""

    model: nn.Module
    loss: Callable
    data: tuple[Tensor, Tensor]
    batch_size: int


def _normed() -> nn.Module:
    # no bias before a norm: its gradient is pure round-off, which adaptive rules blow up
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (lambda: mlp((6,), 3, hidden=8, depth=2), (6,), 3),
    "cnn": (lambda: cnn((1, 8, 8), 4), (1, 8, 8), 4),
    "batch-norm": (_normed, (6,), 3),
    "dropout": (_dropped, (6,), 3),
}


def sample(name: str, dtype: torch.dtype = torch.float64, rows: int = 50, batch_size: int = 16) -> Sample:
    """A model with classes to learn: labels depend on the inputs and are noisy."""
    make, shape, classes = SHAPES[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = make().to(dtype)
        inputs = torch.randn(rows, *shape, dtype=torch.float64)
        scores = inputs.flatten(1) @ torch.randn(inputs[0].numel(), classes, dtype=torch.float64)
        targets = (scores + torch.randn_like(scores)).argmax(1)
    return Sample(model, nn.functional.cross_entropy, (inputs.to(dtype), targets), batch_size)
