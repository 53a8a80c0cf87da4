"""Newton's step by conjugate gradients, which stop early or where the curvature turns negative. Nocedal and Wright 2006, algorithm 7.1"""

import numpy as np

from thalweg.core.method import direction


@direction(needs="products", lanes=False)
def newton_cg(point, memory):
    g = point.g
    size = np.sqrt(g @ g)
    p, r, d = np.zeros_like(g), g, -g
    for j in range(2 * len(g)):
        Hd = point.product(d)
        curvature = d @ Hd
        if curvature <= 0:
            return (d if j == 0 else p), None
        alpha = (r @ r) / curvature
        p, after = p + alpha * d, r + alpha * Hd
        if np.sqrt(after @ after) <= min(0.1, np.sqrt(size)) * size:
            break
        d, r = -after + (after @ after) / (r @ r) * d, after
    return p, None
