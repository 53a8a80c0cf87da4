"""Fletcher and Powell's helical valley; the usual start lies on the cut of the angle. 1963; More, Garbow and Hillstrom 1981, 7"""

import math

import torch
from torch import Tensor

from thalweg.core.method import function


@function(start=(-1.0, 0.0, 0.0), minimum=0.0, minimiser=(1.0, 0.0, 0.0))
def helical_valley(x: Tensor) -> Tensor:
    turns = torch.atan2(x[1], x[0]) / (2 * math.pi)
    return (10 * (x[2] - 10 * turns)) ** 2 + (10 * ((x[0] ** 2 + x[1] ** 2).sqrt() - 1)) ** 2 + x[2] ** 2
