"""Bard's fit of a rational function; it also falls towards 17.4286 at infinity. Bard 1970; More, Garbow and Hillstrom 1981, 8"""

import torch
from torch import Tensor

from thalweg.core.method import function

Y = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.1, 4.39)


@function(start=(1.0, 1.0, 1.0), minimum=0.00821487730657898, minimiser=(0.08241055974978892, 1.133036092029721, 2.3436951786425375))
def bard(x: Tensor) -> Tensor:
    u = torch.arange(1, 16, dtype=x.dtype, device=x.device)
    v = 16 - u
    return ((x.new_tensor(Y) - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))) ** 2).sum()
