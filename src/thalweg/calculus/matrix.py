"""Matrices as vectors, and the products of derivatives: vec, Hadamard, Kronecker. Magnus and Neudecker 2019, chapter 2"""

from __future__ import annotations

import math

from torch import Tensor

from thalweg.errors import UserError


def vec(X: Tensor) -> Tensor:
    """The columns of a matrix, one below the other: (m, n) -> (m n,). Vectors and numbers become vectors as they are.

    The weights W of a layer, listed row by row, are vec(W^T).

    >>> import torch
    >>> vec(torch.tensor([[1, 2], [3, 4]]))
    tensor([1, 3, 2, 4])
    """
    if X.dim() > 2:
        raise UserError(
            f"vec stacks the columns of a matrix, and this has shape {tuple(X.shape)}; flatten it yourself, in the order you mean"
        )
    return X.T.reshape(-1) if X.dim() == 2 else X.reshape(-1)


def unvec(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What `vec` made a vector of: (m n,) -> shape.

    >>> import torch
    >>> unvec(torch.tensor([1, 3, 2, 4]), (2, 2))
    tensor([[1, 2],
            [3, 4]])
    """
    if x.numel() != math.prod(shape):
        raise UserError(f"unvec: {x.numel()} numbers do not fill the shape {tuple(shape)}")
    return x.reshape(shape[::-1]).T if len(shape) == 2 else x.reshape(shape)


def hadamard(X: Tensor, Y: Tensor) -> Tensor:
    """The product number by number, of two tensors of one shape; nothing is broadcast.

    >>> import torch
    >>> hadamard(torch.tensor([1, 2]), torch.tensor([3, 4]))
    tensor([3, 8])
    """
    if X.shape != Y.shape:
        raise UserError(f"hadamard takes two tensors of one shape, not {tuple(X.shape)} and {tuple(Y.shape)}")
    return X * Y


def kron(X: Tensor, Y: Tensor) -> Tensor:
    """The Kronecker product, the block matrix of x_ij Y: (m, n), (p, q) -> (m p, n q). A vector is one column.

    (X (x) Y)^T = X^T (x) Y^T, and vec(X Y Z) = (Z^T (x) X) vec(Y).

    >>> import torch
    >>> kron(torch.eye(2, dtype=torch.int64), torch.tensor([[5, 6]]))
    tensor([[5, 6, 0, 0],
            [0, 0, 5, 6]])
    """
    if X.dim() > 2 or Y.dim() > 2:
        raise UserError(f"kron takes two matrices or vectors, not shapes {tuple(X.shape)} and {tuple(Y.shape)}")
    X, Y = (M if M.dim() == 2 else M.reshape(-1, 1) for M in (X, Y))
    blocks = X[:, None, :, None] * Y[None, :, None, :]  # (m, p, n, q)
    return blocks.reshape(X.shape[0] * Y.shape[0], X.shape[1] * Y.shape[1])
