"""Yogi: Adam whose second moment moves by at most (1 - beta2) g^2 a step, so it falls slowly. Zaheer et al. 2018 (NeurIPS)"""

from thalweg.core import Decay, Epsilon, Rate, rule, zeros


@rule
def yogi(
    x, g, m=zeros, s=zeros, *, lr: Rate = 1e-2, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-3, t,
):  # fmt: skip
    m = beta1 * m + (1 - beta1) * g
    s = s + (1 - beta2) * (g * g - s).sign() * g * g
    return x - lr / (1 - beta1**t) * m / ((s / (1 - beta2**t)).sqrt() + eps), m, s
