"""Conjugate gradients until they leave a ball, the curvature turns negative or the residual is small. Steihaug 1983; N&W 7.2"""

import numpy as np

from thalweg.core.method import direction


@direction(needs="products", region=True, lanes=False)
def trust_cg(point, radius, memory):
    g = point.g
    size = float(np.linalg.norm(g))
    radius = 0.5 * max(float(np.linalg.norm(point.x)), np.sqrt(len(g))) if radius is None else radius
    p, Hp, r, d = np.zeros_like(g), np.zeros_like(g), g, -g
    for _ in range(2 * len(g)):
        Hd = point.product(d)
        curvature = d @ Hd
        alpha = (r @ r) / curvature if curvature > 0 else np.inf
        if np.isinf(alpha) or np.linalg.norm(p + alpha * d) >= radius:
            tau = _to_the_edge(p, d, radius)
            p, Hp = p + tau * d, Hp + tau * Hd
            break
        p, Hp, after = p + alpha * d, Hp + alpha * Hd, r + alpha * Hd
        if np.linalg.norm(after) <= min(0.1, np.sqrt(size)) * size:
            break
        d, r = -after + (after @ after) / (r @ r) * d, after
    return p, float(-(g @ p) - p @ Hp / 2), float(np.linalg.norm(p)), None


def _to_the_edge(p, d, radius):
    a, b, c = d @ d, p @ d, p @ p - radius**2
    root = np.sqrt(max(b * b - a * c, 0.0))
    return -c / (b + root) if b > 0 else (root - b) / a
