"""The least of the quadratic model inside a ball, by the Hessian's eigenvalues. More and Sorensen 1983; Nocedal and Wright 2006, 4.3

In the hard case the step goes on along the lowest eigenvector, which is how it leaves a saddle. The first ball is half as wide as x, or
as a vector of ones.
"""

import numpy as np

from thalweg.core.method import direction


@direction(needs="hessian", region=True, lanes=False)
def trust_exact(point, radius, memory):
    x, g = point.x, point.g
    if memory is None or memory[0] is not x:  # a smaller ball at the same point asks for no new Hessian
        memory = x, *np.linalg.eigh(point.hessian())
    _, values, V = memory
    b = V.T @ g
    if radius is None:
        radius = 0.5 * max(float(np.linalg.norm(x)), np.sqrt(len(x)))
    u = _inside(values, b, radius)
    return V @ u, float(-(b @ u) - (u * values) @ u / 2), float(np.linalg.norm(u)), memory


def _inside(values, b, radius):
    """The step of length at most radius, in the eigenvectors' coordinates."""
    low, tiny = values[0], 1e-14 * max(float(np.abs(values).max()), 1e-300)
    if low > tiny:
        u = -b / values
        if np.linalg.norm(u) <= radius:
            return u
    floor = max(0.0, -low)
    soft = values + floor <= tiny
    if np.linalg.norm(b[soft]) <= 1e-14 * np.linalg.norm(b):
        u = np.where(soft, 0.0, -b / np.where(soft, 1.0, values + floor))
        rest = radius**2 - u @ u
        if rest >= 0:  # the hard case
            if low < -tiny:
                u[0] = np.sqrt(rest)
            return u
    bottom, top = floor, floor + np.linalg.norm(b) / radius
    shift = bottom + 1e-3 * (top - bottom)
    for _ in range(60):
        size = values + shift
        u = -b / size
        length = np.linalg.norm(u)
        if abs(length - radius) <= 1e-3 * radius:
            break
        bottom, top = (shift, top) if length > radius else (bottom, shift)
        fall = (b * b / size**3).sum()
        step = shift + (length - radius) / radius * length**2 / max(fall, 1e-300)  # Newton's method on 1 / radius - 1 / length
        shift = step if bottom < step < top else (bottom + top) / 2
    return u
