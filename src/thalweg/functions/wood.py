"""Wood's function: two banana valleys tied together, with a saddle on the way. Colville 1968; More, Garbow and Hillstrom 1981, 14"""

from torch import Tensor

from thalweg.core.method import function


@function(start=(-3.0, -1.0, -3.0, -1.0), minimum=0.0, minimiser=(1.0, 1.0, 1.0, 1.0))
def wood(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind()
    valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valleys + 10 * (b + d - 2) ** 2 + 0.1 * (b - d) ** 2
