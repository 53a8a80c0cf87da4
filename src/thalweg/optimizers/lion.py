"""Lion: step along the sign of a blended momentum. Chen et al. 2023, arXiv:2302.06675"""

from thalweg.core import Decay, Rate, rule, zeros


@rule(decay="decoupled")
def lion(x, g, m=zeros, *, lr: Rate = 1e-4, beta1: Decay = 0.9, beta2: Decay = 0.99):
    step = (beta1 * m + (1 - beta1) * g).sign()
    return x - lr * step, beta2 * m + (1 - beta2) * g
