"""NAdam: Adam with Nesterov's look ahead, its momentum growing with a schedule of its own. Dozat 2016 (ICLR workshop)"""

from typing import Annotated

from thalweg.core import Decay, Domain, Epsilon, Rate, rule, scalar, zeros

Growth = Annotated[float, Domain("Growth", low=0, search=(1e-4, 1e-1), scale="log")]


@rule
def nadam(
    x, g, m=zeros, s=zeros, product=scalar(1.0), *,
    lr: Rate = 2e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8, momentum_decay: Growth = 4e-3, t,
):  # fmt: skip
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product = product * mu
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g * g
    ahead = lr * (1 - mu) / (1 - product) * g + lr * mu_next / (1 - product * mu_next) * m
    return x - ahead / ((s / (1 - beta2**t)).sqrt() + eps), m, s, product
