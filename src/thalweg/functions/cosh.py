"""cosh(x / 2), convex, whose curvature changes fast. Zhang, Lipton, Li and Smola, Dive into Deep Learning, 12.3"""

from torch import Tensor

from thalweg.core.method import function


@function(start=(10.0,), minimum=1.0, minimiser=(0.0,))
def cosh(x: Tensor) -> Tensor:
    return (x / 2).cosh().sum()
