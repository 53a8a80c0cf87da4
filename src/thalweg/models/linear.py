"""Linear regression: W x + b. Legendre 1805."""

import math

from torch import nn

from thalweg.core.declare import model


@model(tasks=("regression",))
def linear(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Linear regression, W x + b. Weights start as N(0, 0.01^2), biases at 0.

    shape: of one row, which is flattened. The module maps (n, *shape) to (n, outputs).

    >>> sum(p.numel() for p in linear((3,), 1).parameters())
    4
    """
    affine = nn.Linear(math.prod(shape), outputs)
    nn.init.normal_(affine.weight, std=0.01)
    nn.init.zeros_(affine.bias)
    return nn.Sequential(nn.Flatten(), affine)
