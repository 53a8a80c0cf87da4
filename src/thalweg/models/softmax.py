"""Softmax classifier: scores W x + b, trained by cross-entropy. Bridle 1990."""

import math

from torch import nn

from thalweg.core.declare import model
from thalweg.errors import UserError


@model(tasks=("binary", "classes"), loss="cross_entropy")
def softmax(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Softmax classifier, scores W x + b trained by cross-entropy. Weights start as N(0, 0.01^2), biases at 0.

    shape: of one row, which is flattened. The module maps (n, *shape) to (n, outputs). Raises UserError for fewer than
    2 outputs.

    >>> sum(p.numel() for p in softmax((784,), 10).parameters())
    7850
    """
    if outputs < 2:
        raise UserError(f"softmax gives a score for each of 2 or more classes, not {outputs}; for one logit take logistic")
    affine = nn.Linear(math.prod(shape), outputs)
    nn.init.normal_(affine.weight, std=0.01)
    nn.init.zeros_(affine.bias)
    return nn.Sequential(nn.Flatten(), affine)
