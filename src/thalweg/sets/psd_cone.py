"""Cone of positive semidefinite matrices. Higham 1988; its derivative: Malick and Sendov 2006"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.convex import Projection, convex_set


@convex_set(axes=2)
def psd_cone() -> Projection:
    """The symmetric matrices without negative eigenvalues. Points are (..., n, n); of others, the symmetric part is projected.

    First derivatives are right, also where eigenvalues coincide (one of the generalised derivatives where one is 0); second ones are not.

    >>> psd_cone().project([[1.0, 2.0], [2.0, 1.0]])
    tensor([[1.5000, 1.5000],
            [1.5000, 1.5000]], dtype=torch.float64)
    """

    def project(x: Tensor) -> Tensor:
        symmetric = (x + x.mT) / 2
        values, V = torch.linalg.eigh(symmetric.detach())
        kept = values.clamp(min=0)
        gap = values.unsqueeze(-1) - values.unsqueeze(-2)
        # (kept_i - kept_j) / (values_i - values_j), and where both are one number, the slope of max(0, .) there
        slopes = torch.where(gap == 0, (values > 0).to(x).unsqueeze(-1), (kept.unsqueeze(-1) - kept.unsqueeze(-2)) / (gap + (gap == 0)))
        # V^T S V is diagonal, so this is V max(values, 0) V^T, and its derivative with V and the slopes fixed is the projection's
        projected = V @ (slopes * (V.mT @ symmetric @ V)) @ V.mT
        return (projected + projected.mT) / 2

    return project
