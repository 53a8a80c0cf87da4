"""Two-layer net: W2 max(0, W1 x), with biases. Initialised after He et al. 2015, arXiv:1502.01852"""

import math

from torch import nn

from thalweg.core.declare import Width, model


@model(tasks=("regression", "binary", "classes"))
def two_layer(shape: tuple[int, ...], outputs: int, *, hidden: Width = 100) -> nn.Module:
    """Two-layer net, W2 max(0, W1 x + b1) + b2. Weights start as N(0, 2 / fan in) and N(0, 1 / fan in), biases at 0.

    shape: of one row, which is flattened. hidden: rows of W1. The module maps (n, *shape) to (n, outputs).

    >>> sum(p.numel() for p in two_layer((64,), 10, hidden=100).parameters())
    7510
    """
    first, second = nn.Linear(math.prod(shape), hidden), nn.Linear(hidden, outputs)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(second.weight, nonlinearity="linear")
    nn.init.zeros_(first.bias)
    nn.init.zeros_(second.bias)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)
