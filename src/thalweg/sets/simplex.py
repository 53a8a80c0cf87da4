"""Simplex: numbers that are not negative and have a given sum. Held, Wolfe and Crowder 1974"""

from __future__ import annotations

from thalweg.core.convex import Projection, Radius, convex_set, lowered


@convex_set
def simplex(radius: Radius = 1.0) -> Projection:
    """The points with x >= 0 and sum x = radius: with radius 1, the probability distributions. Points are (..., n).

    All numbers are lowered by one threshold, and those below 0 are cut off.

    >>> simplex(radius=1.0).project([0.5, 1.2, -0.3])
    tensor([0.1500, 0.8500, 0.0000], dtype=torch.float64)
    """
    return lambda x: lowered(x, radius)
