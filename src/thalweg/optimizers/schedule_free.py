"""Schedule-free learning: an average of the points takes the place of a schedule. Defazio et al. 2024, arXiv:2405.15682

The point x is where gradients are taken, between the moving point z and the answer, the mean.
"""

from thalweg.core import Decay, Epsilon, GradientRate, Penalty, Rate, like_point, rule, scalar, zeros


def _share(weight, total):
    """What a point weighs in the mean of points; 0 while all weights are 0."""
    return weight / (total + (total == 0))


@rule
def schedule_free_sgd(
    x, g, z=like_point, mean=like_point, total=scalar(0.0), *, lr: GradientRate = 1.0, beta: Decay = 0.9, weight_decay: Penalty = 0.0,
):  # fmt: skip
    """SGD without a schedule: steps of z, their mean, and gradients in between. Defazio et al. 2024."""
    z = z - lr * (g + weight_decay * x)
    total = total + lr**2
    mean = mean + _share(lr**2, total) * (z - mean)
    return (1 - beta) * z + beta * mean, z, mean, total


@rule
def schedule_free_adamw(
    x, g, s=zeros, z=like_point, mean=like_point, total=scalar(0.0), *,
    lr: Rate = 2.5e-3, beta1: Decay = 0.9, beta2: Decay = 0.999, eps: Epsilon = 1e-8, weight_decay: Penalty = 0.0, t,
):  # fmt: skip
    """AdamW without a schedule: steps of z, their mean, and gradients in between. Defazio et al. 2024."""
    rate = lr * (1 - beta2**t) ** 0.5
    s = beta2 * s + (1 - beta2) * g * g
    z = z - rate * (g / (s.sqrt() + eps) + weight_decay * x)
    total = total + rate**2
    mean = mean + _share(rate**2, total) * (z - mean)
    return (1 - beta1) * z + beta1 * mean, s, z, mean, total


@schedule_free_sgd.readout
@schedule_free_adamw.readout
def _answer(mean):
    return mean
