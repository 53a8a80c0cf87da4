"""Adafactor: second moments of a matrix kept as the sums of its rows and columns. Shazeer and Stern 2018, arXiv:1804.04235

As torch.optim has it: `lr` is the largest relative step, `eps1` bounds the second moment from below, weight decay is decoupled.
"""

from typing import Annotated

import torch

from thalweg.core import Domain, Epsilon, Penalty, Rate, rule

Power = Annotated[float, Domain("Power", high=0)]
Clip = Annotated[float, Domain("Clip", low=1)]


def rows(x):
    return x.new_zeros((*x.shape[:-1], 1)) if x.dim() > 1 else None


def columns(x):
    return x.new_zeros((*x.shape[:-2], 1, x.shape[-1])) if x.dim() > 1 else None


def numbers(x):
    return torch.zeros_like(x) if x.dim() < 2 else None


@rule(scope="tensor", decay="decoupled")
def adafactor(
    x, g, r=rows, c=columns, v=numbers, *, lr: Rate = 1e-2, beta2_decay: Power = -0.8,
    eps1: Epsilon = 2.0**-23, eps2: Epsilon = 1e-3, d: Clip = 1.0, weight_decay: Penalty = 0.0, t,
):  # fmt: skip
    new = t**beta2_decay  # the weight of the new square
    square = g * g
    if x.dim() > 1:
        r = r + new * (square.mean(-1, keepdim=True) - r)
        c = c + new * (square.mean(-2, keepdim=True) - c)
        square = r / r.mean(-2, keepdim=True).clamp(min=eps1) * c
    else:
        square = v = v + new * (square - v)
    u = square.clamp(min=eps1 * eps1).rsqrt() * g
    root = x.numel() ** 0.5
    rho = lr + (lr > t**-0.5) * (t**-0.5 - lr)
    size = (x.norm() / root).clamp(min=eps2) * rho / (u.norm() / (root * d)).clamp(min=1.0)
    return torch.addcmul((1 - lr * weight_decay) * x, size, u, value=-1), r, c, v
