"""Backtracking until the value falls enough, each step the least of a parabola through what is known. Armijo 1966; N&W 3.5"""

import math

from thalweg.core.method import search


def _accept(f0, d0, alpha, f, d, noise, *, c1=1e-4):
    return f <= f0 + c1 * alpha * d0 + noise


@search(slopes=False, accept=_accept)
def armijo(f0, d0, first, noise, *, c1=1e-4, shrink=0.5, most=60):
    alpha = first
    for _ in range(most):
        f, d = yield alpha
        if _accept(f0, d0, alpha, f, d, noise, c1=c1):
            return alpha
        down = -d0 * alpha * alpha / (2 * (f - f0 - d0 * alpha)) if math.isfinite(f) else 0.0
        alpha = min(max(down, 0.1 * alpha), shrink * alpha)
    return None
