"""Ball of the sum of absolute values: |x|_1 <= radius. Duchi, Shalev-Shwartz, Singer and Chandra 2008"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.convex import Projection, Radius, convex_set, lowered


@convex_set
def l1_ball(radius: Radius = 1.0) -> Projection:
    """The points with |x|_1 <= radius. Points are (..., n).

    Outside, the absolute values are projected onto the simplex and keep their signs.

    >>> l1_ball(radius=1.0).project([0.5, -1.2, 0.25])
    tensor([ 0.1500, -0.8500,  0.0000], dtype=torch.float64)
    """

    def project(x: Tensor) -> Tensor:
        size = x.abs()
        return torch.where(size.sum(-1, keepdim=True) > radius, x.sign() * lowered(size, radius), x)

    return project
