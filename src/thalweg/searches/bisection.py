"""Doubling, then halving an interval until the value falls and the slope has flattened enough: weak Wolfe. Burke, Lewis and Overton 2005

A point that is not finite counts as too far.
"""

import math

from thalweg.core.method import search


def _accept(f0, d0, alpha, f, d, noise, *, c1=1e-4, c2=0.9):
    return (f <= f0 + c1 * alpha * d0 + noise) & (d >= c2 * d0)


@search(slopes=True, accept=_accept)
def bisection(f0, d0, first, noise, *, c1=1e-4, c2=0.9, most=80):
    low, high, alpha = 0.0, math.inf, first
    for _ in range(most):
        f, d = yield alpha
        if _accept(f0, d0, alpha, f, d, noise, c1=c1, c2=c2):
            return alpha
        if f <= f0 + c1 * alpha * d0 + noise and math.isfinite(d):
            low = alpha
        else:
            high = alpha
        alpha = 2 * low if math.isinf(high) else (low + high) / 2
    return low or None
