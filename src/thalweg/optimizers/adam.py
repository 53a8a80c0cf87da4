"""Adam: momentum over the root of a leaky average of squares, both corrected for their start. Kingma and Ba 2014, arXiv:1412.6980

AdamW is Adam whose weight decay acts apart from the gradient. Loshchilov and Hutter 2017, arXiv:1711.05101
"""

from thalweg.core import Decay, Epsilon, Flag, Rate, rule, zeros


@rule
def adam(
    x, g, m=zeros, s=zeros, *,
    lr: Rate = 1e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8, correct: Flag = True, t,
):  # fmt: skip
    """Adam: momentum over the root of a leaky average of squares, both corrected for their start. Kingma and Ba 2014."""
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g * g
    if not correct:
        return x - lr * m / (s.sqrt() + eps), m, s
    return x - lr / (1 - beta1**t) * m / ((s / (1 - beta2**t)).sqrt() + eps), m, s


adamw = adam.preset("adamw", "Adam with decoupled weight decay. Loshchilov and Hutter 2017.", decay="decoupled", weight_decay=1e-2)
