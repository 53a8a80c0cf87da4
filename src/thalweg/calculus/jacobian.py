"""Jacobians as matrices, and the chain rule J_{g o f}(x) = J_g(f(x)) J_f(x). Magnus and Neudecker 2019, chapter 5"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.calculus.matrix import unvec, vec
from thalweg.errors import UserError


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The matrix of derivatives of vec(f(x)) by vec(x): (numbers in f(x), numbers in x). Matrices are stacked column by column.

    A function that acts number by number has a diagonal Jacobian. Raises UserError where x has no floats or f gives no tensor.

    >>> jacobian(lambda x: x**2, torch.tensor([1.0, 3.0]))
    tensor([[2., 0.],
            [0., 6.]])
    >>> W = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> jacobian(lambda x: W @ x, torch.tensor([5.0, 6.0])).equal(W)
    True
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise UserError("jacobian: x must be a tensor of floats, such as torch.tensor([1.0, 2.0])")
    if x.dim() < 2:
        flat = x.reshape(-1)
        return torch.func.jacrev(lambda v: _flat(f(v.reshape(x.shape))))(flat)
    return torch.func.jacrev(lambda v: _flat(f(unvec(v, tuple(x.shape)))))(vec(x))


@dataclass(frozen=True, eq=False)
class Chain:
    """The Jacobians of composed functions, the innermost first, each at its own point, and their product."""

    factors: tuple[Tensor, ...]
    product: Tensor


def chain(x: Tensor, *functions: Callable[[Tensor], Tensor]) -> Chain:
    """The chain rule for functions that are applied to x one after the other, the first of them first.

    >>> chain(torch.tensor(2.0), torch.square, torch.exp).product / torch.exp(torch.tensor(4.0))
    tensor([[4.]])
    """
    if not functions:
        raise UserError("chain takes a point and one or more functions, the one that is applied first given first")
    factors = []
    for f in functions:
        factors.append(jacobian(f, x))
        x = f(x)
    product = factors[0]
    for J in factors[1:]:
        product = J @ product
    return Chain(tuple(factors), product)


def _flat(y: Tensor) -> Tensor:
    if not isinstance(y, Tensor):
        raise UserError(f"jacobian: f gives {type(y).__name__}; it must give a tensor made of x by torch's operations")
    return vec(y)
