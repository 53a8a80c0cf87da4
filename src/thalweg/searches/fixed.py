"""The same step every time, as the textbooks' examples take it; it stops at a point that is not finite."""

import numpy as np

from thalweg.core.method import search


def _accept(f0, d0, alpha, f, d, noise, *, lr=1.0):
    return np.isfinite(f) & (alpha == lr)


@search(slopes=False, accept=_accept, constant="lr")
def fixed(f0, d0, first, noise, *, lr=1.0):
    f, d = yield lr
    return lr if _accept(f0, d0, lr, f, d, noise, lr=lr) else None
