"""Jennrich and Sampson's function: two exponentials that overflow on a long step. Technometrics 1968; More, Garbow and Hillstrom 1981, 6"""

import torch
from torch import Tensor

from thalweg.core.method import function


@function(start=(0.3, 0.4), minimum=124.36218235561485, minimiser=(0.2578252136703641, 0.2578252136703641))
def jennrich_sampson(x: Tensor) -> Tensor:
    i = torch.arange(1, 11, dtype=x.dtype, device=x.device)
    return ((2 + 2 * i - ((i * x[0]).exp() + (i * x[1]).exp())) ** 2).sum()
