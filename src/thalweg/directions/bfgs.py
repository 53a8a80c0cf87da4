"""BFGS: an inverse Hessian learnt from the changes of the gradient. Broyden, Fletcher, Goldfarb, Shanno 1970; Nocedal and Wright 2006, 6.17

It starts as s.y / y.y times the identity (6.20). The curvature it learns is that at the end of the step, not the mean over it, which values
and slopes together tell (`thalweg.core.method.bend`). A pair of steps without positive curvature teaches nothing and is left out.
"""

import numpy as np

from thalweg.core.method import direction, dot, first_step, outer, pair, times


@direction(needs="gradient")
def bfgs(point, memory):
    g, s = point.g, point.s
    if s is None:
        return first_step(point.x, g), None
    y, sy, yy, use = pair(point)
    if not use.all():
        s, sy, yy = np.where(use, s, 0.0), np.where(use, sy, 1.0), np.where(use, yy, 1.0)
    H = (sy / yy)[..., None] * np.eye(g.shape[-1]) if memory is None else memory
    w = times(H, y) / sy
    half = outer(s, (0.5 + 0.5 * dot(y, w)) / sy * s - w)  # the update is this and its transpose
    H = H + half + half.swapaxes(-1, -2)
    return -times(H, g), H
