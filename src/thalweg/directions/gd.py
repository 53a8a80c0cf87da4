"""Gradient descent: straight down the gradient. Cauchy 1847"""

from thalweg.core.method import direction


@direction(needs="gradient", unit=False)
def gd(point, memory):
    return -point.g, None
