"""Automatic, symbolic and numerical differentiation of one function, side by side. Baydin, Pearlmutter, Radul and Siskind 2018"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.calculus.differences import differences
from thalweg.calculus.symbolic import Formula, formula, letter
from thalweg.core.convex import point
from thalweg.errors import UserError

WRITTEN = 60  # operations: longer formulas are counted and not shown


@dataclass(frozen=True, eq=False)
class Derivative:
    """The gradient by one way. gradient: as x, or None where the way does not apply. error: its largest difference from the automatic one.

    cost: what it took, in words. note: the formula, or why there is none.
    """

    way: str
    gradient: Tensor | None
    error: float
    cost: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The answer of `compare_derivatives`: a row a way, and as text a table."""

    ways: tuple[Derivative, ...]

    def __str__(self) -> str:
        lines = []
        for d in self.ways:
            numbers = "not available" if d.gradient is None else ", ".join(f"{v:.12g}" for v in d.gradient.flatten().tolist())
            error = "" if d.gradient is None else f"  error {d.error:.1e}"
            lines.append(f"{d.way:<20}  {numbers}{error}  ({d.cost}){f': {d.note}' if d.note else ''}")
        return "\n".join(lines)


def compare_derivatives(fun: Callable[[Any], Any], x: Any) -> Comparison:
    """The gradient of fun at x by autograd, by its formula, and by forward and central differences.

    x: a number, or a vector of up to 26 of them. The symbolic way calls fun with letters, x or a list x[0], x[1], ..., and knows
    + - * / **, exp, log, sin, cos, tanh, sigmoid, sqrt and square; where fun does more, it says so.

    >>> for d in compare_derivatives(lambda x: x * torch.cos(3 * x), 1.0).ways:
    ...     print(f"{d.way:<20} {d.gradient.item():.5f} {d.cost}")
    automatic            -1.41335 one pass back
    symbolic             -1.41335 8 operations, 3 in the function
    forward differences  -1.41335 2 values
    central differences  -1.41335 2 values
    """
    x = point(x).detach().double()
    if x.dim() > 1 or x.numel() > 26:
        raise UserError(
            f"compare_derivatives takes a number or a vector of up to 26, and x has shape {tuple(x.shape)}; use gradcheck for others"
        )
    leaf = x.clone().requires_grad_()
    value = fun(leaf)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise UserError("compare_derivatives: the function must make one number of x by torch's operations")
    (automatic,) = torch.autograd.grad(value.reshape(()), leaf)
    ways = [Derivative("automatic", automatic, 0.0, "one pass back"), _symbolic(fun, x, automatic)]
    for kind, count in (("forward", x.numel() + 1), ("central", 2 * x.numel())):
        found = differences(fun, x, kind=kind)  # type: ignore[arg-type]
        ways.append(Derivative(f"{kind} differences", found, _error(found, automatic), f"{count} values"))
    return Comparison(tuple(ways))


def _symbolic(fun: Callable[[Any], Any], x: Tensor, automatic: Tensor) -> Derivative:
    names = ["x"] if x.dim() == 0 else [f"x{i}" for i in range(x.numel())]
    letters: list[Formula] = [letter(name) for name in names]
    try:
        whole = formula(fun(letters[0] if x.dim() == 0 else letters))
    except (UserError, TypeError, AttributeError) as error:
        return Derivative("symbolic", None, float("nan"), "no formula", str(error))
    slopes = [whole.derivative(name) for name in names]
    at = dict(zip(names, x.reshape(-1).tolist(), strict=True))
    found = torch.tensor([slope(**at) for slope in slopes], dtype=torch.float64).reshape(x.shape)
    cost = f"{sum(slope.operations for slope in slopes)} operations, {whole.operations} in the function"
    return Derivative(
        "symbolic",
        found,
        _error(found, automatic),
        cost,
        "; ".join(map(str, slopes)) if sum(s.operations for s in slopes) <= WRITTEN else "",
    )


def _error(found: Tensor, automatic: Tensor) -> float:
    return float((found - automatic).abs().max())
