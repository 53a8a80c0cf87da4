"""RMSProp: divide by the root of a leaky average of squared gradients. Tieleman and Hinton 2012; centred: Graves 2013"""

from thalweg.core import Decay, Epsilon, Flag, Rate, rule, when, zeros


@rule
def rmsprop(
    x, g, s=zeros, a=when("centered", zeros), v=when("momentum", zeros), *,
    lr: Rate = 1e-2, gamma: Decay = 0.99, eps: Epsilon = 1e-8, eps_root: Epsilon = 0.0,
    momentum: Decay = 0.0, centered: Flag = False,
):  # fmt: skip
    s = gamma * s + (1 - gamma) * g * g
    variance = s
    if centered:
        a = gamma * a + (1 - gamma) * g
        variance = s - a * a
    u = g / ((variance + eps_root).sqrt() + eps)
    if v is not None:
        u = v = momentum * v + u
    return x - lr * u, s, a, v
