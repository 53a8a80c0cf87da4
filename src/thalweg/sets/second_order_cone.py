"""Second-order cone: vectors (u, t) with |u|_2 <= t. Boyd and Vandenberghe 2004, exercise 8.3"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.convex import Projection, convex_set, norm


@convex_set
def second_order_cone() -> Projection:
    """The points (u, t) with |u|_2 <= t, t the last number. Points are (..., n), n at least 2.

    >>> second_order_cone().project([3.0, 4.0, 1.0])
    tensor([1.8000, 2.4000, 3.0000], dtype=torch.float64)
    """

    def project(x: Tensor) -> Tensor:
        u, t = x[..., :-1], x[..., -1:]
        size = norm(u)
        # between the cone and its polar; size is positive there, and the clamp only keeps the other branches finite
        reach = (size + t) / 2
        surface = torch.cat([u * (reach / size.clamp(min=torch.finfo(x.dtype).tiny)), reach], -1)
        return torch.where(size <= t, x, torch.where(size <= -t, torch.zeros_like(x), surface))

    return project
