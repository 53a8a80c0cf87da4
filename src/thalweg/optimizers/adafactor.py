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
    if x.dim() > 1:
        r = r + new * ((g * g).mean(-1, keepdim=True) - r)
        c = c + new * ((g * g).mean(-2, keepdim=True) - c)
        square = r * c / r.mean(-2, keepdim=True).clamp(min=eps1)
    else:
        square = v = v + new * (g * g - v)
    u = g / square.clamp(min=eps1 * eps1).sqrt()
    rho = lr + (lr > t**-0.5) * (t**-0.5 - lr)
    size = x.square().mean().sqrt().clamp(min=eps2) * rho / (u.square().mean().sqrt() / d).clamp(min=1.0)
    return (1 - lr * weight_decay) * x - size * u, r, c, v
