"""Stochastic gradient descent, Robbins and Monro 1951; momentum, Polyak 1964; Nesterov's form as in Sutskever et al. 2013."""

from thalweg.core import Decay, Flag, Fraction, GradientRate, rule, when, zeros


@rule
def sgd(
    x, g, v=when("momentum", zeros), *,
    lr: GradientRate = 1e-3, momentum: Decay = 0.0, dampening: Fraction = 0.0, nesterov: Flag = False, t,
):  # fmt: skip
    """Step against the gradient, or against a leaky sum of gradients when momentum is on."""
    if v is None:
        return x - lr * g
    v = momentum * v + (1 - dampening * (t > 1)) * g
    return x - lr * (g + momentum * v if nesterov else v), v


momentum = sgd.preset("momentum", "SGD with heavy-ball momentum 0.9. Polyak 1964.", momentum=0.9)
nesterov = sgd.preset("nesterov", "SGD with Nesterov momentum 0.9. Sutskever et al. 2013.", momentum=0.9, nesterov=True)
