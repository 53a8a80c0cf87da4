"""Adam: momentum over the root of a leaky average of squares, both corrected for their start. Kingma and Ba 2014, arXiv:1412.6980

AdamW is Adam whose weight decay acts apart from the gradient. Loshchilov and Hutter 2017, arXiv:1711.05101
AMSGrad divides by the largest average seen. Reddi, Kale and Kumar 2018, arXiv:1904.09237
"""

import torch

from thalweg.core import Decay, Epsilon, Flag, Rate, rule, when, zeros


@rule
def adam(
    x, g, m=zeros, s=zeros, top=when("amsgrad", zeros), *,
    lr: Rate = 1e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8,
    amsgrad: Flag = False, correct: Flag = True, t,
):  # fmt: skip
    """Adam: momentum over the root of a leaky average of squares, both corrected for their start. Kingma and Ba 2014."""
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g * g
    if amsgrad:
        top = torch.maximum(top, s)
    size = top if amsgrad else s
    if not correct:
        return x - lr * m / (size.sqrt() + eps), m, s, top
    return x - lr / (1 - beta1**t) * m / ((size / (1 - beta2**t)).sqrt() + eps), m, s, top


adamw = adam.preset("adamw", "Adam with decoupled weight decay. Loshchilov and Hutter 2017.", decay="decoupled", weight_decay=1e-2)
amsgrad = adam.preset("amsgrad", "Adam that divides by the largest second moment seen. Reddi, Kale and Kumar 2018.", amsgrad=True)
