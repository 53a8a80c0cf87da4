"""RAdam: Adam that steps along plain momentum until the variance of its denominator is known. Liu et al. 2019, arXiv:1908.03265"""

from thalweg.core import Decay, Epsilon, Rate, rule, zeros


@rule
def radam(
    x, g, m=zeros, s=zeros, *, lr: Rate = 1e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8, t,
):  # fmt: skip
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g * g
    longest = 2 / (1 - beta2) - 1
    rho = longest - 2 * t * beta2**t / (1 - beta2**t)  # the length of a simple average as good as this one
    known, early = rho > 5, rho <= 5
    rho, longest = rho + early * (5 - rho), longest + (longest <= 5) * (6 - longest)  # so that no root of a negative number is taken
    r = ((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho) * (1 - beta2**t)) ** 0.5
    return x - lr / (1 - beta1**t) * m * (known * r / (s.sqrt() + eps) + early * 1.0), m, s
