"""Adamax: Adam whose second moment is the largest gradient, slowly forgotten. Kingma and Ba 2014, arXiv:1412.6980, section 7"""

import torch

from thalweg.core import Decay, Epsilon, Rate, rule, zeros


@rule
def adamax(
    x, g, m=zeros, u=zeros, *, lr: Rate = 2e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8, t,
):  # fmt: skip
    m = beta1 * m + (1 - beta1) * g
    u = torch.maximum(beta2 * u, g.abs() + eps)
    return x - lr / (1 - beta1**t) * m / u, m, u
