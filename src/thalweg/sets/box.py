"""Box: bounds on each number, low <= x <= high. Boyd and Vandenberghe 2004, section 8.1"""

from __future__ import annotations

import math

import torch

from thalweg.core.convex import Numbers, Projection, convex_set, numbers
from thalweg.errors import UserError


@convex_set
def box(low: Numbers = -math.inf, high: Numbers = math.inf) -> Projection:
    """The points with low <= x <= high; each bound is a number or one number a coordinate, and may be infinite.

    Points are (..., n). Raises UserError where the box is empty.

    >>> box(low=0.0, high=[1.0, 1.0, 2.0]).project([0.5, -1.2, 3.0])
    tensor([0.5000, 0.0000, 2.0000], dtype=torch.float64)
    """
    low, high = numbers(low, "box: low", infinite=True), numbers(high, "box: high", infinite=True)
    try:
        crossed = (low > high) | (low == math.inf) | (high == -math.inf)
    except RuntimeError:
        raise UserError(f"box: low has shape {tuple(low.shape)} and high {tuple(high.shape)}; give both the shape of a point") from None
    if bool(crossed.any()):
        where = crossed.nonzero()[0].tolist()
        ends = [bound.expand(crossed.shape)[tuple(where)].item() for bound in (low, high)]
        at = f" in coordinate {where[0] if len(where) == 1 else tuple(where)}" if where else ""
        raise UserError(f"box: low = {ends[0]:g} is above high = {ends[1]:g}{at}, so the box is empty; exchange them or widen it")
    return lambda x: torch.minimum(torch.maximum(x, low.to(x)), high.to(x))
