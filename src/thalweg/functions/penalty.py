"""Penalty function I: a sphere of penalty around a weak bowl. Gill, Murray and Pitfield 1972; More, Garbow and Hillstrom 1981, 23"""

from torch import Tensor

from thalweg.core.method import function


@function(
    n=10,
    start=lambda n: [float(i + 1) for i in range(n)],
    minimum=lambda n: {10: 7.08765146709037e-05}.get(n),
    minimiser=lambda n: [0.15812230111311634] * 10 if n == 10 else None,
)
def penalty(x: Tensor) -> Tensor:
    return 1e-5 * ((x - 1) ** 2).sum() + ((x**2).sum() - 0.25) ** 2
