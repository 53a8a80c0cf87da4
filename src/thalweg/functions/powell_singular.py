"""Powell's singular function, whose Hessian at the minimum has rank 2 of 4. Powell 1962; More, Garbow and Hillstrom 1981, 13 and 22

For any multiple of four variables, four by four.
"""

from torch import Tensor

from thalweg.core.method import function


@function(n=4, start=lambda n: [3.0, -1.0, 0.0, 1.0] * (n // 4), minimum=0.0, minimiser=lambda n: [0.0] * n)
def powell_singular(x: Tensor) -> Tensor:
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return ((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4).sum()
