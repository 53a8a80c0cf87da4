"""L-BFGS: BFGS of the last steps, by the two-loop recursion. Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4

As many steps are kept as memory bears, 10 to 60 of them: more take fewer iterations, and their cost is small beside an evaluation's.
"""

import numpy as np

from thalweg.core.method import direction, dot, first_step, pair

FEWEST, MOST = 10, 60
NUMBERS = 6_000_000
"""Numbers kept, of steps and as many of changes of the gradient; more only where FEWEST take them."""


@direction(needs="gradient")
def lbfgs(point, memory):
    g, s = point.g, point.s
    if s is None:
        return first_step(point.x, g), None
    y, sy, yy, use = pair(point)
    rho = np.atleast_1d(np.where(use, 1 / np.where(use, sy, 1.0), 0.0))  # 0 makes a pair without effect
    gamma = np.atleast_1d(np.where(use, sy / np.where(yy > 0, yy, 1.0), 1.0))
    if memory is None:
        pairs = np.zeros((*g.shape[:-1], min(MOST, max(FEWEST, NUMBERS // g.size)), g.shape[-1]))
        memory = pairs, pairs, pairs[..., :1], gamma
    S, Y, R = (np.concatenate([old[..., 1:, :], new[..., None, :]], -2) for old, new in zip(memory, (s, y, rho), strict=False))
    gamma = np.where(use, gamma, memory[3])
    kept = np.flatnonzero(R.any((*range(R.ndim - 2), -1)))
    q, weights = g, []
    for i in kept[::-1]:
        weights.append(R[..., i, :] * dot(S[..., i, :], q))
        q = q - weights[-1] * Y[..., i, :]
    q = gamma * q
    for i in kept:
        q = q + (weights.pop() - R[..., i, :] * dot(Y[..., i, :], q)) * S[..., i, :]
    return -q, (S, Y, R, gamma)
