"""Prodigy: Adam that estimates its own rate, the distance to the solution, as it goes. Mishchenko and Defazio 2023, arXiv:2306.06101

The estimate is one for all parameters, of all groups: two groups are not two optimizers.
"""

from typing import Annotated

import torch

from thalweg.core import Decay, Domain, Epsilon, Penalty, Rate, rule, scalar, zeros

Distance = Annotated[float, Domain("Distance", low=0, open_low=True, search=(1e-8, 1e-2), scale="log")]


@rule(scope="group")
def prodigy(
    x, g, m=zeros, v=zeros, s=zeros, r=scalar(0.0), d=scalar("d0"), *,
    lr: Rate = 1.0, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8, d0: Distance = 1e-6,
    weight_decay: Penalty = 0.0, x0,
):  # fmt: skip
    slow = beta2**0.5
    m = beta1 * m + (1 - beta1) * d * g
    v = beta2 * v + (1 - beta2) * d * d * g * g
    r = slow * r + (1 - slow) * d * d * (lr * g * (x0 - x)).sum()
    s = slow * s + (1 - slow) * d * d * lr * g
    size = s.abs().sum()
    found = torch.where(size > 0, r / size, 0.0)
    x = x - lr * d * (weight_decay * x + m / (v.sqrt() + d * eps))
    return x, m, v, s, r, torch.maximum(d, found)
