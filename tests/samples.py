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


# name -> (model, shape of a row, classes, rows, rows a batch): every epoch ends with a short batch
MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, int]] = {
    "mlp": (lambda: mlp((6,), 3, hidden=8, depth=2), (6,), 3, 50, 16),
    "cnn": (lambda: cnn((1, 8, 8), 4), (1, 8, 8), 4, 20, 8),
    "batch-norm": (_normed, (6,), 3, 50, 16),
    "dropout": (_dropped, (6,), 3, 50, 16),
    # wide enough that the number of threads changes the order of sums; smooth, so that round-off grows smoothly
    "wide": (lambda: mlp((64,), 10, hidden=128, depth=2, activation="tanh"), (64,), 10, 600, 256),
}


def sample(name: str, dtype: torch.dtype = torch.float64) -> Sample:
    """A model with classes to learn: labels depend on the inputs and are noisy."""
    make, shape, classes, rows, batch_size = MAKERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = make().to(dtype)
        inputs = torch.randn(rows, *shape, dtype=torch.float64)
        scores = inputs.flatten(1) @ torch.randn(inputs[0].numel(), classes, dtype=torch.float64)
        targets = (scores + torch.randn_like(scores)).argmax(1)
    return Sample(model, nn.functional.cross_entropy, (inputs.to(dtype), targets), batch_size)
