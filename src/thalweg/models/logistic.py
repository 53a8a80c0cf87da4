"""Logistic regression: one logit w x + b for two classes. Cox 1958."""

import math

from torch import nn

from thalweg.core.declare import model
from thalweg.errors import UserError


@model(tasks=("binary",), loss="bce_with_logits")
def logistic(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Logistic regression, one logit w x + b whose sign is the class. Weights start as N(0, 0.01^2), the bias at 0.

    shape: of one row, which is flattened. The module maps (n, *shape) to (n, 1). Raises UserError unless outputs is 1.

    >>> sum(p.numel() for p in logistic((30,), 1).parameters())
    31
    """
    if outputs != 1:
        raise UserError(f"logistic has one output, the logit of the second of 2 classes, not {outputs}; take softmax")
    affine = nn.Linear(math.prod(shape), 1)
    nn.init.normal_(affine.weight, std=0.01)
    nn.init.zeros_(affine.bias)
    return nn.Sequential(nn.Flatten(), affine)
