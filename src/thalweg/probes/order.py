"""The order at which a method converges: q in e' = C e^q, fitted to its errors. Nocedal and Wright 2006, appendix A.2"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from thalweg.core.probe import probe
from thalweg.errors import UserError

WINDOW = 12
"""Errors at the end that are fitted: an order shows in the limit."""

SLOW = 0.2
"""A step that leaves more of the error than this is no fast one, and where all are such the order is that of all of them."""


@dataclass(frozen=True)
class Order:
    """order: q, nan where too few errors are left to tell. constant: C. error: the standard error of q, nan with fewer than four errors.
    used: the errors that were fitted. word: "linear", "quadratic" and the like, of the nearest order. text: all that in words.
    """

    order: float
    constant: float
    error: float
    used: tuple[float, ...]
    word: str
    text: str


@probe
def order(errors: Sequence[float] | Any, *, scale: float = 1.0) -> Order:
    """The observed order of convergence of errors e_0, e_1, ..., by a straight line through log e_{k+1} against log e_k.

    errors: distances from the solution, or losses above the least one (which have the same order). scale: the size of the solution; errors
    below some round-offs of it, and all behind the first that does not fall, are left out. Where the errors begin to fall fast only later,
    that part alone is fitted. Raises UserError for fewer than three errors, or negative ones.

    >>> order([0.5 ** 2 ** k for k in range(6)]).order.__round__(6), order([0.9 ** k for k in range(50)]).word
    (2.0, 'linear')
    """
    e = torch.as_tensor(errors).detach().double().flatten().cpu().numpy() if not isinstance(errors, np.ndarray) else errors.astype(float)
    if len(e) < 3 or np.isnan(e).any() or (e < 0).any():
        raise UserError("an order is told by three errors at least, one a step, none negative")
    lowest = 8 * np.finfo(float).eps * scale
    low = np.flatnonzero((e <= lowest) | ~np.isfinite(e))
    e = e[: low[0]] if len(low) else e
    stuck = np.flatnonzero(np.diff(e) >= 0)
    early = stuck[stuck < len(e) // 2]
    e = e[early[-1] + 1 :] if len(early) else e
    stuck = np.flatnonzero(np.diff(e) >= 0)
    e = e[: stuck[0] + 1] if len(stuck) else e
    e = _limit(e)
    if len(e) < 3:
        return Order(np.nan, np.nan, np.nan, tuple(e), "unknown", "the order cannot be told: fewer than three errors fall above round-off")
    x, y = np.log(e[:-1]), np.log(e[1:])
    if np.ptp(x) == 0:
        return Order(np.nan, np.nan, np.nan, tuple(e), "unknown", "the order cannot be told: the errors do not change")
    (q, c), error = np.polyfit(x, y, 1), np.nan
    if len(x) > 2:
        error = float(np.sqrt(np.square(y - q * x - c).sum() / (len(x) - 2) / np.square(x - x.mean()).sum()))
    word = _word(q)
    constant = float(np.exp(c))
    text = f"the order of convergence is {q:.3g}, {word}, by {len(e)} errors from {e[0]:.2g} to {e[-1]:.2g}"
    return Order(float(q), constant, error, tuple(float(v) for v in e), word, text)


def _limit(e: np.ndarray) -> np.ndarray:
    """The errors that show the order: the last few, and of a method that becomes fast those of its fast steps."""
    if len(e) < 3:
        return e
    fast = np.flatnonzero(e[1:] / e[:-1] > SLOW)  # steps that are slow
    begin = fast[-1] + 1 if len(fast) and fast[-1] < len(e) - 2 else 0
    e = e[min(begin, len(e) - 3) :]
    return e[-WINDOW:]


def _word(q: float) -> str:
    names = {1: "linear", 2: "quadratic", 3: "cubic"}
    nearest = round(q)
    if nearest in names and abs(q - nearest) <= 0.15:
        return names[nearest]
    return "slower than linear" if q < 1 else "superlinear" if q < 2 else f"of order {q:.2g}"
