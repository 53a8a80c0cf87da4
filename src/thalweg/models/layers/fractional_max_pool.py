"""Fractional max-pooling: maps shrink by a factor between 1 and 2, over windows at random places. Graham 2014, arXiv:1412.6071"""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional

from thalweg.core.declare import within
from thalweg.core.domain import Domain
from thalweg.errors import UserError

Ratio = Annotated[float, Domain("Ratio", low=0.5, high=1, open_high=True)]


class FractionalMaxPool(nn.Module):
    """The largest of each of floor(ratio h) x floor(ratio w) windows of 2x2 pixels that overlap; (n, c, h, w) -> (n, c, ..., ...).

    Where they lie is drawn from torch's generator for every map in training, and fixed in evaluation.
    ratio: in [0.5, 1); the default halves the area. Raises UserError for other ratios, and for maps of less than 2x2.

    >>> import torch
    >>> FractionalMaxPool(0.7)(torch.zeros(1, 3, 10, 25)).shape
    torch.Size([1, 3, 7, 17])
    """

    def __init__(self, ratio: float = math.sqrt(0.5)) -> None:
        super().__init__()
        self.ratio = within(Ratio, ratio, "FractionalMaxPool: ratio")

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or min(x.shape[2:]) < 2:
            raise UserError(f"FractionalMaxPool takes (n, channels, height, width) of at least 2x2 pixels, not shape {tuple(x.shape)}")
        sizes = [math.floor(self.ratio * side) for side in x.shape[2:]]
        middle = None if self.training else x.new_full((*x.shape[:2], 2), 0.5)  # numbers in [0, 1) that place the windows
        return functional.fractional_max_pool2d(x, 2, output_size=sizes, _random_samples=middle)

    def extra_repr(self) -> str:
        return f"{self.ratio:g}"
