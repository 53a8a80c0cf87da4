"""A model and data of one's own.

    thalweg compare examples/own_model.py:problem -o sgd -o momentum -o adam --budget 8 --seeds 3
"""

import torch
from torch import nn

import thalweg as tw


def spirals(rows: int = 900, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three arms of a spiral in the plane: (rows, 2) points and (rows,) classes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(rows) % 3
    radius = torch.rand(rows, generator=generator)
    angle = 4 * radius + label * 2 * torch.pi / 3 + 0.2 * torch.randn(rows, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), label


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))


problem = tw.Problem(
    model=net, loss=nn.functional.cross_entropy, train=spirals(), metrics="accuracy", batch_size=32, epochs=20, name="spirals"
)
