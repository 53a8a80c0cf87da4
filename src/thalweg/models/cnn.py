"""Convolutional net of three conv-relu-pool stages and one affine layer, after LeNet. LeCun et al. 1998"""

import math

from torch import nn

from thalweg.core import Flag
from thalweg.core.declare import Probability, model
from thalweg.models.layers import BatchNorm


@model(tasks=("regression", "binary", "classes"), images=True)
def cnn(shape: tuple[int, ...], outputs: int, *, batch_norm: Flag = False, dropout: Probability = 0.0) -> nn.Module:
    """Convolutional net: three times conv 3x3, relu, max-pool 2 (16, 32, 32 channels), then flatten and one affine layer.

    Weights and biases start as U(-1, 1) / sqrt(fan in), torch's own initialisation.
    batch_norm: between each convolution, which then has no bias, and its relu. dropout: its probability after each relu.
    shape: (channels, height, width) with height and width at least 8. The module maps (n, *shape) to (n, outputs).
    Raises UserError for any other shape.

    >>> sum(p.numel() for p in cnn((1, 28, 28), 10).parameters())
    16938
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for n_in, n_out in ((channels, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=not batch_norm), *([BatchNorm(n_out)] if batch_norm else []), nn.ReLU()]
        layers += [*([nn.Dropout(dropout)] if dropout else []), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32 * (height // 8) * (width // 8), outputs)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound)
    return nn.Sequential(*layers)
