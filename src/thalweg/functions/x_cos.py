"""x cos(0.15 pi x): minima without end, concave between them. Zhang, Lipton, Li and Smola, Dive into Deep Learning, 12.3"""

import math

from torch import Tensor

from thalweg.core.method import function


@function(start=(10.0,))
def x_cos(x: Tensor) -> Tensor:
    return (x * (0.15 * math.pi * x).cos()).sum()
