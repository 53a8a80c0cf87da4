"""x1^2 - x2^2 + x2^4: the start leads gradient methods to the saddle between two minima."""

import math

from torch import Tensor

from thalweg.core.method import function


@function(start=(1.0, 0.0), minimum=-0.25, minimiser=(0.0, math.sqrt(0.5)))
def saddle(x: Tensor) -> Tensor:
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4
