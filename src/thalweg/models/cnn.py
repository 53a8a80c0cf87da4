"""Convolutional net of three conv-relu-pool stages and one affine layer, after LeNet. LeCun et al. 1998"""

import math

from torch import nn

from thalweg.core.declare import model
from thalweg.errors import UserError


@model(tasks=("regression", "binary", "classes"), images=True)
def cnn(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Convolutional net: three times conv 3x3, relu, max-pool 2 (16, 32, 32 channels), then flatten and one affine layer.

    Weights and biases start as U(-1, 1) / sqrt(fan in), torch's own initialisation.
    shape: (channels, height, width) with height and width at least 8. The module maps (n, *shape) to (n, outputs).
    Raises UserError for any other shape.

    >>> sum(p.numel() for p in cnn((1, 28, 28), 10).parameters())
    16938
    """
    if len(shape) != 3 or min(shape[1:]) < 8 or shape[0] < 1:
        raise UserError(
            f"cnn needs images, (channels, height, width) of at least 8x8 pixels, and a row has shape {shape}; "
            "reshape the inputs, or take mlp"
        )
    channels, height, width = shape
    layers: list[nn.Module] = []
    for n_in, n_out in ((channels, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32 * (height // 8) * (width // 8), outputs)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
            assert layer.bias is not None
            nn.init.uniform_(layer.bias, -bound, bound)
    return nn.Sequential(*layers)
