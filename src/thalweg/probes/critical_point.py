"""What kind of point the weights are at: minimum, maximum, saddle or none, by the gradient and the ends of the Hessian. Dauphin et al.
2014, arXiv:1406.2572

A gradient is 0 where round-off explains what is left of it: that of the weights, which moves it by up to the curvature times their size,
and that of a sum over rows whose gradients cancel. A curvature is 0 below the root of the precision, as a share of the largest: at weights
that are known to so many digits it has no sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.core.hessian import Hessian
from thalweg.core.lanczos import Lanczos
from thalweg.core.probe import probe, problem_of, whole
from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserError

ROUND = 8.0
"""Round-offs, of the weights and of the rows' gradients, that a gradient of 0 may show."""

SOME = 16
"""Rows whose gradients are looked at one by one."""

Kind = Literal["minimum", "maximum", "saddle", "flat", "not critical"]


@dataclass(frozen=True)
class CriticalPoint:
    """kind: what the weights are at, to second order; a "minimum" curves up in some directions and down in none, "flat" is without
    curvature. strict: whether it curves in every direction. gradient_norm: and gradient_zero, the norm up to which round-off explains it.
    largest, smallest: the ends of the Hessian, and curvature_zero, the size up to which a curvature counts as 0. residual: an eigenvalue is
    no further from `smallest` than that. escape (n,): the unit direction along which the loss falls fastest to second order, where one
    curves down, also away from critical points; None where none does. products: Hessian-vector products. converged: whether both ends were
    found to 1 %. text: all that in words.
    """

    kind: Kind
    strict: bool
    gradient_norm: float
    gradient_zero: float
    largest: float
    smallest: float
    curvature_zero: float
    residual: float
    products: int
    converged: bool
    text: str
    escape: Tensor | None = field(repr=False, compare=False)


@probe
def critical_point(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    gradient: float | None = None,
    products: int = 60,
    start: Tensor | None = None,
    chunk: int = 1024,
    train: bool = False,
    double: bool = False,
    seed: int = 0,
) -> CriticalPoint:
    """What kind of point of the loss over all rows the model's weights are at.

    gradient: the norm up to which a gradient counts as 0, in place of what round-off explains. The rest is as in `spectrum`, and UserError
    is raised as there.

    >>> class Point(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w = nn.Parameter(torch.zeros(2))
    ...     def forward(self, _): return self.w
    >>> found = critical_point(Point(), lambda w, _: w[0] ** 2 - w[1] ** 2, (torch.zeros(1), torch.zeros(1)))
    >>> found.kind, round(found.largest, 4), round(found.smallest, 4), found.escape.abs().round(decimals=6).tolist()
    ('saddle', 2.0, -2.0, [0.0, 1.0])
    """
    problem = problem_of(model, loss, data, step)
    whole("products", products, 1)
    if gradient is not None and not 0 <= gradient < math.inf:
        raise UserError(f"gradient = {gradient!r} must be the norm up to which a gradient counts as 0, such as 1e-6")
    with torch.inference_mode(False):
        hessian = Hessian(model, problem, chunk, train, double, seed)
        terms = hessian.terms(SOME)
        draw = torch.Generator().manual_seed(seed)
        krylov = Lanczos(hessian, products, draw)
        krylov.run(
            krylov.start(start, hessian.lead(draw) if start is None else None),
            lambda seen: len(seen.theta) >= 3 and seen.met([0, -1], 0.01),
        )
        epsilon = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.requires_grad)
        slope, escape = hessian.gradient(), krylov.vector(0)
    norm, largest, smallest = float(slope.double().norm()), float(krylov.theta[-1]), float(krylov.theta[0])
    allowed = ROUND * epsilon * (krylov.scale * float(hessian.weights().norm()) + terms)
    zero = max(math.sqrt(epsilon) * krylov.scale, krylov.noise)
    limit = allowed if gradient is None else gradient
    down, up = smallest < -zero, largest > zero
    kind: Kind = "not critical" if norm > limit else "saddle" if down and up else "maximum" if down else "minimum" if up else "flat"
    strict = smallest > zero or largest < -zero
    if float(slope @ escape) > 0:
        escape = -escape
    text = _said(kind, strict, norm, limit, largest, smallest, zero)
    return CriticalPoint(
        kind, strict, norm, limit, largest, smallest, zero, float(krylov.residual[0]), hessian.products, krylov.met([0, -1], 0.01), text,
        escape if down else None,
    )  # fmt: skip


def _said(kind: Kind, strict: bool, norm: float, limit: float, largest: float, smallest: float, zero: float) -> str:
    ends = f"curvatures lie between {smallest:.3g} and {largest:.3g}"
    zeros = "" if strict else f"; some are 0 within round-off ({zero:.1g}), so that higher orders decide there" if kind != "flat" else ""
    if kind == "not critical":
        return f"not critical: the gradient's norm is {norm:.3g}, and round-off explains {limit:.1g}; {ends}"
    if kind == "saddle":
        return f"a saddle: {ends}; along `escape` the loss falls"
    if kind == "flat":
        return f"flat: the gradient's norm is {norm:.3g}, and the loss curves in no direction"
    return f"a {'strict ' if strict else ''}{kind}, to second order: {ends}{zeros}"
