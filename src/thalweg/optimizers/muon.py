"""Muon: momentum of a matrix, made orthogonal by Newton and Schulz' iteration. Jordan et al. 2024. Matrices only

Shapes of other dimensions are seen as a matrix of their first dimension by the rest; what has fewer than two takes the momentum's sign.
"""

from typing import Annotated

import torch

from thalweg.core import Choice, Decay, Domain, Epsilon, Flag, Penalty, Rate, rule, zeros

Coefficient = Annotated[float, Domain("Coefficient")]
Rounds = Annotated[int, Domain("Rounds", kind="int", low=0, high=99)]


def orthogonal(m, a, b, c, eps, steps):
    """The matrix with the singular vectors of m and singular values near 1, in bfloat16 as torch.optim.Muon computes it."""
    q = m.bfloat16()
    q = q.mT if m.shape[0] > m.shape[1] else q
    q = q / q.norm().clamp(min=eps)
    for _ in range(steps):
        gram = q @ q.mT
        q = torch.addmm(q, torch.addmm(gram, gram, gram, beta=b, alpha=c), q, beta=a)
    return q.mT if m.shape[0] > m.shape[1] else q


@rule(scope="tensor", decay="decoupled", batched=False)
def muon(
    x, g, v=zeros, *, lr: Rate = 1e-3, momentum: Decay = 0.95, nesterov: Flag = True,
    ns_a: Coefficient = 3.4445, ns_b: Coefficient = -4.775, ns_c: Coefficient = 2.0315, eps: Epsilon = 1e-7, ns_steps: Rounds = 5,
    adjust: Annotated[str, Choice("original", "match_rms_adamw")] = "original", weight_decay: Penalty = 0.1,
):  # fmt: skip
    v = v.lerp(g, 1 - momentum)
    u = g.lerp(v, momentum) if nesterov else v
    if x.dim() < 2:
        return (1 - lr * weight_decay) * x - lr * u.sign(), v
    matrix = u.reshape(len(x), -1)
    ratio = 0.2 * max(matrix.shape) ** 0.5 if adjust == "match_rms_adamw" else max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
    step = orthogonal(matrix, ns_a, ns_b, ns_c, eps, ns_steps).reshape(x.shape).to(x.dtype)
    return x * (1 - lr * weight_decay) - lr * ratio * step, v
