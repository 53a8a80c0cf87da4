"""Affine set: linear equations, A x = b. Boyd and Vandenberghe 2004, section 8.1"""

from __future__ import annotations

import torch

from thalweg.core.convex import Numbers, Projection, convex_set, numbers
from thalweg.errors import UserError


@convex_set
def affine(A: Numbers, b: Numbers = 0.0) -> Projection:
    """The points with A x = b. A: (m, n), of any rank. b: (m,) or a number for all equations. Points are (..., n).

    Raises UserError where the equations contradict each other.

    >>> affine([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]], [1.0, 0.0]).project([1.0, 1.0, 2.0])
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    A, b = numbers(A, "affine: A"), numbers(b, "affine: b")
    if A.dim() != 2 or b.shape not in ((), (A.shape[0],)):
        raise UserError(
            f"affine: A has shape {tuple(A.shape)} and b {tuple(b.shape)}; give A (m, n) and b (m,), a row and a number an equation"
        )
    inverse = torch.linalg.pinv(A)  # (n, m)
    some = inverse @ b.expand(A.shape[0])  # the point of the set that is nearest to 0
    if bool(((A @ some - b).abs() > 1e-9 * (A.abs().sum(1) * some.abs().max() + b.abs())).any()):
        raise UserError("affine: the equations A x = b contradict each other, so that no point satisfies them; leave some out")
    onto = inverse @ A  # (n, n), onto the row space
    return lambda x: x - (x - some.to(x)) @ onto.to(x)
