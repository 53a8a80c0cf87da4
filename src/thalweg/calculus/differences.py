"""Numerical derivatives: forward differences (f(x + h) - f(x)) / h and central ones (f(x + h) - f(x - h)) / 2h. Nocedal and Wright, 8.1"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.core.convex import point
from thalweg.errors import UserError, unknown

Kind = Literal["central", "forward"]
POWER = {"central": 1 / 3, "forward": 1 / 2}  # of the relative error of f: the step at which round-off and truncation are alike


def differences(fun: Callable[[Tensor], Any], x: Any, h: float | None = None, kind: Kind = "central") -> Tensor:
    """The gradient of fun, tensor -> scalar, at x by differences, in float64 and in x's shape.

    h: the step; without one, max(1, |x_i|) times the cube root of the precision (central) or its square root (forward).

    The losses of a lecture, 1.25347 at w and 1.25322, 1.25353, 1.25347 with 1e-4 added to one of its numbers:

    >>> w, losses = torch.tensor([0.34, -1.11, 0.78], dtype=torch.float64), [1.25322, 1.25353, 1.25347]
    >>> def loss(v):
    ...     moved = (v - w).argmax()
    ...     return losses[moved] if v[moved] > w[moved] else 1.25347
    >>> [round(v, 9) for v in differences(loss, w, h=1e-4, kind="forward").tolist()]
    [-2.5, 0.6, 0.0]
    """
    if kind not in POWER:
        raise unknown("kind of differences", str(kind), POWER)
    x = point(x).detach().double()
    step = check_step(h) or torch.finfo(torch.float64).eps ** POWER[kind]
    steps = torch.full_like(x, step) if h is not None else step * x.abs().clamp(min=1)
    out = torch.empty_like(x)
    here = float(fun(x)) if kind == "forward" else 0.0
    with torch.no_grad():
        for i in range(x.numel()):
            s = float(steps.reshape(-1)[i])
            above = float(fun(moved(x, i, s)))
            out.view(-1)[i] = (above - here) / s if kind == "forward" else (above - float(fun(moved(x, i, -s)))) / (2 * s)
    return out


def moved(x: Tensor, i: int, step: float) -> Tensor:
    """x with `step` added to its i-th number, counted row by row."""
    x = x.clone(memory_format=torch.contiguous_format)
    x.view(-1)[i] += step
    return x


def check_step(h: float | None) -> float | None:
    """The step, if one was given; UserError where it is not positive and finite."""
    if h is not None and not 0 < h < float("inf"):
        raise UserError(f"h = {h!r} must be a positive number, such as 1e-5")
    return h
