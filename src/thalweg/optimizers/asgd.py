"""Averaged SGD: SGD whose answer is the mean of its points. Polyak and Juditsky 1992; rates as in Bottou 2010"""

from typing import Annotated

from thalweg.core import Domain, Fraction, GradientRate, like_point, rule, scalar

Amount = Annotated[float, Domain("Amount", low=0)]


@rule
def asgd(
    x, g, mean=like_point, eta=scalar("lr"), mu=scalar(1.0), *,
    lr: GradientRate = 1e-2, lambd: Amount = 1e-4, alpha: Fraction = 0.75, t0: Amount = 1e6, t,
):  # fmt: skip
    x = (1 - lambd * eta) * x - eta * g
    mean = mean + mu * (x - mean)
    eta = lr / (1 + lambd * lr * t) ** alpha
    late = (t - t0 > 1) * (t - t0 - 1)
    return x, mean, eta, 1 / (1 + late)


@asgd.readout
def answer(mean):
    return mean
