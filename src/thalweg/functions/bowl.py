"""The unequal bowl x1^2 + 2 x2^2, and further squares for further variables. Zhang, Lipton, Li and Smola, Dive into Deep Learning, 12.3"""

import torch
from torch import Tensor

from thalweg.core.method import function


@function(n=2, start=lambda n: [-5.0, -2.0] + [1.0] * (n - 2), minimum=0.0, minimiser=lambda n: [0.0] * n)
def bowl(x: Tensor) -> Tensor:
    return (torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device) * x * x).sum()
