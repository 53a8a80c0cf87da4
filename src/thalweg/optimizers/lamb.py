"""LAMB: Adam whose step is, in every tensor, as long as the weights' norm times the rate. You et al. 2019, arXiv:1904.00962"""

import torch

from thalweg.core import Decay, Epsilon, Penalty, Rate, rule, zeros


@rule(scope="tensor")
def lamb(
    x, g, m=zeros, s=zeros, *,
    lr: Rate = 1e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-6, weight_decay: Penalty = 0.0, t,
):  # fmt: skip
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g * g
    step = m / (1 - beta1**t) / ((s / (1 - beta2**t)).sqrt() + eps) + weight_decay * x
    length, stride = x.norm(), step.norm()
    ratio = torch.where((length > 0) & (stride > 0), length / stride, 1.0)
    return x - lr * ratio * step, m, s
