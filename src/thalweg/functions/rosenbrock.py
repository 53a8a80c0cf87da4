"""Rosenbrock's banana valley, for any even number of variables, two by two. Rosenbrock 1960; More, Garbow and Hillstrom 1981, 1, 21"""

from torch import Tensor

from thalweg.core.method import function


@function(n=2, start=lambda n: [-1.2, 1.0] * (n // 2), minimum=0.0, minimiser=lambda n: [1.0] * n)
def rosenbrock(x: Tensor) -> Tensor:
    a, b = x[::2], x[1::2]
    return (100 * (b - a * a) ** 2 + (1 - a) ** 2).sum()
