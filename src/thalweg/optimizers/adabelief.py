"""AdaBelief: Adam that divides by how far gradients stray from their mean. Zhuang et al. 2020, arXiv:2010.07468"""

from thalweg.core import Decay, Epsilon, Rate, rule, zeros


@rule(decay="decoupled")
def adabelief(
    x, g, m=zeros, s=zeros, *, lr: Rate = 1e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-16, t,
):  # fmt: skip
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * (g - m) * (g - m) + eps
    return x - lr / (1 - beta1**t) * m / ((s / (1 - beta2**t)).sqrt() + eps), m, s
