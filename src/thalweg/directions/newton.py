"""Newton's step, with the absolute values of the Hessian's eigenvalues: it never climbs. Nocedal and Wright 2006, section 3.4

The Hessian is first scaled to a unit diagonal, so that the floor under its eigenvalues means the same for every scale of the variables.
"""

import numpy as np

from thalweg.core.method import direction

FLOOR = 1e-10


@direction(needs="hessian")
def newton(point, memory):
    H, g = point.hessian(), point.g
    h = np.abs(np.einsum("...ii->...i", H))
    top = np.abs(H).max((-2, -1))[..., None]
    D = np.sqrt(np.maximum(h, np.where(top > 0, 1e-16 * top, 1.0)))
    values, V = np.linalg.eigh(H / D[..., :, None] / D[..., None, :])
    size = np.where(top > 0, np.abs(values), 1.0)
    inner = np.einsum("...ij,...i->...j", V, g / D) / np.maximum(size, FLOOR * size.max(-1, keepdims=True))
    return -np.einsum("...ij,...j->...i", V, inner) / D, None
