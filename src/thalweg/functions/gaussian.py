"""A fit of the normal density, whose value is small from the start on. More, Garbow and Hillstrom 1981, 9"""

import torch
from torch import Tensor

from thalweg.core.method import function

HALF = (0.0009, 0.0044, 0.0175, 0.054, 0.1295, 0.242, 0.3521)


@function(start=(0.4, 1.0, 0.0), minimum=1.1279327696190113e-08, minimiser=(0.39895613783875666, 1.0000190844878056, 0.0))
def gaussian(x: Tensor) -> Tensor:
    t = (8 - torch.arange(1, 16, dtype=x.dtype, device=x.device)) / 2
    return ((x[0] * (-x[1] * (t - x[2]) ** 2 / 2).exp() - x.new_tensor((*HALF, 0.3989, *HALF[::-1]))) ** 2).sum()
