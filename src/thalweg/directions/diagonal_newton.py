"""Newton's step with the Hessian's diagonal alone, each entry in absolute value so that no coordinate climbs."""

import numpy as np

from thalweg.core.method import direction


@direction(needs="diagonal")
def diagonal_newton(point, memory):
    h = np.abs(np.einsum("...ii->...i", point.hessian()))
    top = h.max(-1, keepdims=True)
    return -point.g / np.maximum(h, np.where(top > 0, 1e-8 * top, 1.0)), None
