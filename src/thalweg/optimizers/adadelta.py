"""Adadelta: the step's own size, averaged, takes the place of a rate. Zeiler 2012, arXiv:1212.5701"""

from thalweg.core import Decay, Epsilon, GradientRate, rule, zeros


@rule
def adadelta(x, g, s=zeros, d=zeros, *, lr: GradientRate = 1.0, rho: Decay = 0.9, eps: Epsilon = 1e-6):
    s = rho * s + (1 - rho) * g * g
    u = (d + eps).sqrt() / (s + eps).sqrt() * g
    return x - lr * u, s, rho * d + (1 - rho) * u * u
