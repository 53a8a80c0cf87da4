"""Beale's function: a curved valley with steep corners. Beale 1958; More, Garbow and Hillstrom 1981, 5"""

import torch
from torch import Tensor

from thalweg.core.method import function


@function(start=(1.0, 1.0), minimum=0.0, minimiser=(3.0, 0.5))
def beale(x: Tensor) -> Tensor:
    y = x.new_tensor([1.5, 2.25, 2.625])
    return ((y - x[0] * (1 - torch.stack([x[1], x[1] ** 2, x[1] ** 3]))) ** 2).sum()
