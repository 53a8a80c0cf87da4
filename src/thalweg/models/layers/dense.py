"""Dense block and the transition between two of them. Huang et al. 2016, arXiv:1608.06993"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.core.declare import Width, within
from thalweg.models.layers.batch_norm import BatchNorm


class DenseBlock(nn.Module):
    """`depth` layers norm - relu - conv 3x3, each of which sees the block's input and all layers before it.

    (n, n_in, h, w) -> (n, n_in + depth * growth, h, w): the input, then the layers' `growth` channels in order; the number
    of channels is `n_out`. Raises UserError for sizes that are not positive.

    >>> DenseBlock(3, growth=10, depth=2)(torch.zeros(4, 3, 8, 8)).shape
    torch.Size([4, 23, 8, 8])
    """

    def __init__(self, n_in: int, growth: int, depth: int) -> None:
        super().__init__()
        for name, value in (("n_in", n_in), ("growth", growth), ("depth", depth)):
            within(Width, value, f"DenseBlock: {name}")
        self.layers = nn.ModuleList(
            nn.Sequential(BatchNorm(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1))
            for width in range(n_in, n_in + depth * growth, growth)
        )
        self.n_out = n_in + depth * growth

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Module):
    """Norm - relu - conv 1x1 to n_out channels, then the mean of 2x2 pixels; a side of one pixel stays as it is.

    (n, n_in, h, w) -> (n, n_out, h / 2, w / 2), rounded down. Raises UserError for sizes that are not positive.

    >>> Transition(23, 10)(torch.zeros(4, 23, 8, 8)).shape
    torch.Size([4, 10, 4, 4])
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        for name, value in (("n_in", n_in), ("n_out", n_out)):
            within(Width, value, f"Transition: {name}")
        self.narrow = nn.Sequential(BatchNorm(n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        window = [min(2, side) for side in x.shape[2:]]
        return x if window == [1, 1] else functional.avg_pool2d(x, window)
