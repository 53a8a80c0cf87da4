"""Powell's badly scaled function: a parabola of curvature 1e10 across, 1e-8 along. Powell 1970; More, Garbow and Hillstrom 1981, 3"""

from torch import Tensor

from thalweg.core.method import function


@function(start=(0.0, 1.0), minimum=0.0, minimiser=(1.0981593296998053e-05, 9.106146739866624))
def powell_badly_scaled(x: Tensor) -> Tensor:
    return (1e4 * x[0] * x[1] - 1) ** 2 + ((-x).exp().sum() - 1.0001) ** 2
