"""SOAP: Adam in the eigenbasis of Shampoo's two matrices. Vyas et al. 2024, arXiv:2409.11321

As its authors' code has it: the first gradient only finds the basis, which is kept in the order of its eigenvalues. A tensor of more than
two dimensions is seen as a matrix of its first by the rest; one of fewer than two is stepped by Adam.
"""

from typing import Annotated

import torch

from thalweg.core import Count, Decay, Domain, Epsilon, Penalty, Rate, rule, zeros

Span = Annotated[int, Domain("Span", kind="int", low=1)]


def _square(side):
    """A state (n, n) of zeros for the rows (0) or columns (1) of the matrix; none for vectors and for sides longer than `largest`."""

    def start(x, largest):
        n = x.reshape(len(x), -1).shape[side] if x.dim() > 1 else 0
        return x.new_zeros(n, n) if 0 < n <= largest else None

    return start


def _turn(a, p, q, back=False):
    """A matrix in the eigenbasis, or back from there."""
    a = a if p is None else (p if back else p.mT) @ a
    return a if q is None else a @ (q.mT if back else q)


def _moved(t, frequency, a, q, v, side):
    """The eigenvectors of a, largest first, moved on by one power iteration every so many steps; v keeps to their order."""
    if a is None or (t - 1) % frequency:
        return q, v
    if t == 1:
        return torch.linalg.eigh(a)[1].flip(-1), v
    order = (q * (a @ q)).sum(0).argsort(descending=True)
    return torch.linalg.qr(a @ q.index_select(1, order))[0], v.index_select(side, order)


@rule(scope="tensor", decay="decoupled")
def soap(
    x, g, m=zeros, v=zeros, left=_square(0), right=_square(1), p=_square(0), q=_square(1), *,
    lr: Rate = 3e-3, beta1: Decay = 0.95, beta2: Decay = 0.95, shampoo_beta: Decay = 0.95, eps: Epsilon = 1e-8,
    frequency: Span = 10, largest: Count = 10000, weight_decay: Penalty = 0.01, t,
):  # fmt: skip
    x = (1 - lr * weight_decay) * x
    G, M, V = (a.reshape(len(a), -1) if x.dim() > 1 else a for a in (g, beta1 * m + (1 - beta1) * g, v))
    if t > 1 or (left is None and right is None):  # the first gradient only finds the basis
        turned = _turn(G, p, q)
        V = beta2 * V + (1 - beta2) * turned * turned
        step = _turn(M, p, q) / (1 - beta1**t) / ((V / (1 - beta2**t)).sqrt() + eps)
        x = x - lr * _turn(step, p, q, back=True).reshape(x.shape)
    left = None if left is None else shampoo_beta * left + (1 - shampoo_beta) * G @ G.mT
    right = None if right is None else shampoo_beta * right + (1 - shampoo_beta) * G.mT @ G
    p, V = _moved(t, frequency, left, p, V, 0)
    q, V = _moved(t, frequency, right, q, V, 1)
    return x, M.reshape(x.shape), V.reshape(x.shape), left, right, p, q
