"""LARS: momentum whose step is, in every tensor, a fixed share of the weights' norm. You, Gitman and Ginsburg 2017, arXiv:1708.03888"""

import torch

from thalweg.core import Decay, Epsilon, GradientRate, Penalty, rule, zeros


@rule(scope="tensor")
def lars(
    x, g, v=zeros, *,
    lr: GradientRate = 0.1, momentum: Decay = 0.9, trust: Penalty = 1e-3, eps: Epsilon = 1e-8, weight_decay: Penalty = 0.0,
):  # fmt: skip
    length, slope = x.norm(), g.norm()
    local = torch.where((length > 0) & (slope > 0), trust * length / (slope + weight_decay * length + eps), 1.0)
    v = momentum * v + lr * local * (g + weight_decay * x)
    return x - v, v
