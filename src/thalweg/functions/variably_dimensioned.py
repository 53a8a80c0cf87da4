"""The variably dimensioned function: a bowl with one direction of fourth order. More, Garbow and Hillstrom 1981, 25"""

import torch
from torch import Tensor

from thalweg.core.method import function


@function(n=10, start=lambda n: [1 - (i + 1) / n for i in range(n)], minimum=0.0, minimiser=lambda n: [1.0] * n)
def variably_dimensioned(x: Tensor) -> Tensor:
    away = x - 1
    along = (torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device) * away).sum()
    return (away**2).sum() + along**2 + along**4
