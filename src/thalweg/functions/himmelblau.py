"""Himmelblau's function: four minima of the same value 0. Himmelblau 1972"""

from torch import Tensor

from thalweg.core.method import function


@function(start=(0.0, 0.0), minimum=0.0, minimiser=(3.0, 2.0))
def himmelblau(x: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2
