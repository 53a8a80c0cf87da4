"""Ball of the largest number: |x|_inf <= radius, a cube. Boyd and Vandenberghe 2004, section 8.1"""

from __future__ import annotations

from thalweg.core.convex import Projection, Radius, convex_set


@convex_set
def linf_ball(radius: Radius = 1.0) -> Projection:
    """The points with |x_i| <= radius for each i. Points are (..., n).

    >>> linf_ball(radius=1.0).project([0.5, -1.2, 3.0])
    tensor([ 0.5000, -1.0000,  1.0000], dtype=torch.float64)
    """
    return lambda x: x.clamp(-radius, radius)
