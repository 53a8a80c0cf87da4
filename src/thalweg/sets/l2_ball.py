"""Euclidean ball: |x - center|_2 <= radius. Boyd and Vandenberghe 2004, section 8.1"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.convex import Numbers, Projection, Radius, convex_set, norm, numbers


@convex_set
def l2_ball(radius: Radius = 1.0, center: Numbers = 0.0) -> Projection:
    """The points with |x - center|_2 <= radius. center: (n,), or a number for all coordinates. Points are (..., n).

    >>> l2_ball(radius=2.0).project([3.0, 4.0])
    tensor([1.2000, 1.6000], dtype=torch.float64)
    """
    center = numbers(center, "l2_ball: center")

    def project(x: Tensor) -> Tensor:
        step = x - center.to(x)
        size = norm(step)
        return torch.where(size > radius, center.to(x) + step * (radius / size.clamp(min=radius)), x)

    return project
