"""Birkhoff polytope: doubly stochastic matrices. Projection by a Newton method on the dual: Li, Sun and Toh 2020, arXiv:1702.05934"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.convex import Projection, convex_set
from thalweg.errors import ThalwegError


@convex_set(axes=2)
def birkhoff() -> Projection:
    """The matrices without negative numbers whose rows and columns all sum to 1. Points are (..., n, n).

    The projection is max(0, x - u - v) with one number u a row and one number v a column; they maximise a concave function, the dual.
    Where it is known which numbers are positive, u and v solve linear equations, which also give the (first) derivative.

    >>> birkhoff().project([[0.9, 0.4], [0.2, 0.1]])
    tensor([[0.6000, 0.4000],
            [0.4000, 0.6000]], dtype=torch.float64)
    """

    def project(x: Tensor) -> Tensor:
        positive = _positive(x.detach().double())
        once = _fitted(x.double(), positive)
        return _fitted(once, positive).clamp(min=0).to(x.dtype)  # twice: the round-off of large numbers is gone, the derivative the same

    return project


def _normal(positive: Tensor) -> Tensor:
    """The matrix of the equations for (u, v): [[diag(row sums), P], [P^T, diag(column sums)]], (..., 2n, 2n)."""
    rows = torch.cat([torch.diag_embed(positive.sum(-1)), positive], -1)
    columns = torch.cat([positive.mT, torch.diag_embed(positive.sum(-2))], -1)
    return torch.cat([rows, columns], -2)


def _lowered(x: Tensor, dual: Tensor) -> Tensor:
    """x - u - v, dual = (u, v): (..., 2n)."""
    n = x.shape[-1]
    return x - dual[..., :n, None] - dual[..., None, n:]


def _sums(y: Tensor) -> Tensor:
    """Row sums, then column sums, less 1: (..., 2n)."""
    return torch.cat([y.sum(-1), y.sum(-2)], -1) - 1


def _fitted(x: Tensor, positive: Tensor) -> Tensor:
    """The nearest matrix that is 0 where `positive` is 0 and has rows and columns of sum 1."""
    dual = (torch.linalg.pinv(_normal(positive), hermitian=True) @ _sums(positive * x).unsqueeze(-1)).squeeze(-1)
    return positive * _lowered(x, dual)


def _positive(x: Tensor) -> Tensor:
    """1 where the projection is positive and 0 elsewhere, by Newton steps on the dual, damped so that it grows."""
    n = x.shape[-1]
    dual = _sums(x) / n
    dual = dual - dual.sum(-1, keepdim=True) / (4 * n)  # exact where no number of the answer is 0
    enough = 1e-12 * n * (1 + x.abs().amax((-1, -2)))
    identity = torch.eye(2 * n, dtype=x.dtype, device=x.device)

    def height(dual: Tensor) -> Tensor:
        return -0.5 * _lowered(x, dual).clamp(min=0).square().sum((-1, -2)) - dual.sum(-1)

    for _ in range(200):
        y = _lowered(x, dual).clamp(min=0)
        slope = _sums(y)  # (..., 2n), the gradient of the height
        size = slope.abs().amax(-1)
        if bool((size <= enough).all()):
            return (y > 0).to(x)
        ridge = (1e-10 + 1e-6 * size.clamp(max=1))[..., None, None] * identity
        step = torch.linalg.solve(_normal((y > 0).to(x)) + ridge, slope)
        rate = torch.ones_like(size)
        here, rise = height(dual), (slope * step).sum(-1)
        for _ in range(60):
            short = height(dual + rate[..., None] * step) < here + 1e-4 * rate * rise - 1e-14 * (1 + here.abs())
            if not bool(short.any()):
                break
            rate = torch.where(short, rate / 2, rate)
        dual = dual + rate[..., None] * step
    raise ThalwegError(
        f"birkhoff: no projection was found in 200 Newton steps for a matrix of size {n} with numbers up to {x.abs().max():g}"
    )
