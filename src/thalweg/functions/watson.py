"""Watson's function: a differential equation by a polynomial, worse conditioned with every term. Kowalik and Osborne 1968; MGH 1981, 20"""

import torch
from torch import Tensor

from thalweg.core.method import function

BEST = [
    -1.5307036521392675e-05, 0.9997897039319482, 0.014763963693566681, 0.14634232829925864, 1.0008211030051875, -2.617731140520151,
    4.104403164480306, -3.143612278557387, 1.0526264080104133,
]  # fmt: skip


@function(
    n=9,
    start=lambda n: [0.0] * n,
    minimum=lambda n: {9: 1.3997601380999808e-06}.get(n),
    minimiser=lambda n: BEST if n == 9 else None,
)
def watson(x: Tensor) -> Tensor:
    t = torch.arange(1, 30, dtype=x.dtype, device=x.device)[:, None] / 29
    j = torch.arange(len(x), dtype=x.dtype, device=x.device)
    slope = (j[1:] * x[1:] * t ** j[:-1]).sum(1)
    return ((slope - (x * t**j).sum(1) ** 2 - 1) ** 2).sum() + x[0] ** 2 + (x[1] - x[0] ** 2 - 1) ** 2
