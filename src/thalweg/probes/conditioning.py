"""Conditioning: how unlike the curvatures of a loss are, what that costs descent, and which features make it so.

Rates and momentum for a quadratic with curvatures in [l, L]: 2 / (L + l) for gradient descent; ((sqrt k - 1) / (sqrt k + 1))^2 with rate
4 / (sqrt L + sqrt l)^2 for momentum, k = L / l. Polyak 1964, doi:10.1016/0041-5553(64)90137-5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.hessian import Hessian
from thalweg.core.lanczos import Lanczos
from thalweg.core.probe import probe, problem_of, whole
from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserError

EXACT = 500
"""Parameters up to which the whole Hessian is taken."""

FAR = 10.0
"""A feature is badly scaled where its root mean square is so many times 1, the scale of weights and of the constant, or beyond."""

ROUND = 1e-13
"""Of the largest, times the count: eigenvalues below it are 0 in double precision."""

WORTH = 3.0
"""A feature is not called badly scaled unless standardising all of them divides the condition number by so much."""


@dataclass(frozen=True)
class Feature:
    """A column of the inputs. zeros: the share of rows where it is 0. bad: what is wrong with its scale, or ""."""

    name: str
    mean: float
    deviation: float
    zeros: float
    bad: str = ""

    @property
    def size(self) -> float:
        """Its root mean square."""
        return math.hypot(self.mean, self.deviation)


@dataclass(frozen=True)
class Conditioning:
    """number: largest over smallest curvature; inf where the smallest is 0 within round-off, nan where it is negative, as away from a
    minimum; exact, or else a lower bound. largest, smallest: the ends of the Hessian. stable_rate: below which gradient descent shrinks
    every direction, 2 / largest. best_rate, best_momentum, rate_with_momentum: those that shrink the slowest direction fastest; directions
    without curvature are left out where the Hessian is exact, and all three are nan where it is not positive. features: the columns of the
    inputs, empty where these are no table. badly_scaled: their names, the worst first. features_number: the condition number of the
    inputs' matrix of second moments with a constant beside them, features that never change left out; standardized_number: what it is when
    each has mean 0 and deviation 1; both nan without features. products: Hessian-vector products. text: all that in words.
    """

    number: float
    largest: float
    smallest: float
    exact: bool
    stable_rate: float
    best_rate: float
    best_momentum: float
    rate_with_momentum: float
    features: tuple[Feature, ...]
    badly_scaled: tuple[str, ...]
    features_number: float
    standardized_number: float
    products: int
    text: str


@probe
def conditioning(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    names: Sequence[str] | None = None,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    products: int = 60,
    exact: int = EXACT,
    chunk: int = 1024,
    train: bool = False,
    seed: int = 0,
) -> Conditioning:
    """The condition number of the loss's Hessian over all rows at the model's weights, in double precision, and the features behind it.

    names: of the features, in place of a Problem's columns, or "feature 0" and on. exact: parameters up to which the whole Hessian is
    taken, a product each; beyond it, up to `products` of Lanczos's method. The rest is as in `spectrum`. Raises UserError as that does, and
    where the names are not one a feature.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> X = torch.tensor([[100.0, 1.0], [-100.0, 1.0]])
    >>> found = conditioning(model, lambda out, y: 0.5 * (out - y).square().mean(), (X, torch.zeros(2, 1)), names=["wide", "even"])
    >>> found.largest, found.smallest, round(found.number), found.stable_rate, found.badly_scaled
    (10000.0, 1.0, 10000, 0.0002, ('wide',))
    """
    problem = problem_of(model, loss, data, step)
    whole("products", products, 1)
    X = _table(problem.train)
    labels = _names(names, X, loss if isinstance(loss, Problem) else data)
    hessian = Hessian(model, problem, chunk, train, True, seed)
    if hessian.size <= exact:
        values = torch.linalg.eigvalsh(hessian.dense()).cpu().numpy()
    else:
        draw = torch.Generator().manual_seed(seed)
        krylov = Lanczos(hessian, products, draw)
        krylov.run(krylov.start(None, hessian.lead(draw)), lambda seen: len(seen.theta) > 3 and seen.met([0, -1], 0.01, 0.0))
        values = krylov.theta
    known = hessian.size <= exact or len(values) == hessian.size
    largest, smallest = float(values[-1]), float(values[0])
    zero = ROUND * hessian.size * float(np.abs(values).max())
    curved = values[values > zero] if known else values
    low = float(curved[0]) if len(curved) and smallest >= -zero and (known or smallest > zero) else math.nan
    root = math.sqrt(largest / low) if low > 0 else math.nan
    number = math.nan if smallest < -zero or largest <= zero else math.inf if smallest <= zero else largest / smallest
    features = _features(X, labels) if X is not None else ()
    raw, even = _numbers(X) if X is not None else (math.nan, math.nan)
    features, bad = _judged(features, raw, even)
    stable = 2 / largest if largest > zero else math.inf
    found = (
        (2 / (largest + low), ((root - 1) / (root + 1)) ** 2, 4 / (math.sqrt(largest) + math.sqrt(low)) ** 2)
        if low > 0
        else (math.nan,) * 3
    )
    text = _said(number, largest, smallest, known, stable, found, features, bad, raw, even)
    return Conditioning(number, largest, smallest, known, stable, *found, features, bad, raw, even, hessian.products, text)


def _table(data: Batch) -> Tensor | None:
    """The inputs as a table (n, d) in double precision, where they are one."""
    X = data if isinstance(data, Tensor) else data[0] if isinstance(data, tuple | list) and data else None
    if not isinstance(X, Tensor) or X.dim() != 2 or not X.shape[1] or not X.is_floating_point() or not bool(X.isfinite().all()):
        return None
    return X.detach().double()


def _names(names: Sequence[str] | None, X: Tensor | None, given: Any) -> list[str]:
    count = X.shape[1] if X is not None else 0
    found = list(names) if names is not None else list(given.columns) if isinstance(given, Problem) else []
    if names is not None and X is not None and len(found) != count:
        raise UserError(f"names has {len(found)} names for {count} features; give one a feature")
    return [str(name) for name in found] if len(found) == count else [f"feature {i}" for i in range(count)]


def _features(X: Tensor, names: list[str]) -> tuple[Feature, ...]:
    deviation, mean = torch.std_mean(X, 0, correction=0)
    zeros = (X == 0).double().mean(0)
    return tuple(Feature(*row) for row in zip(names, mean.tolist(), deviation.tolist(), zeros.tolist(), strict=True))


def _numbers(X: Tensor) -> tuple[float, float]:
    """Condition numbers of the second moments of (1, features), as they are and standardised."""
    deviation, mean = torch.std_mean(X, 0, correction=0)
    moves = deviation > 1e-12 * mean.abs()
    if not bool(moves.any()):
        return math.nan, math.nan
    X, mean, deviation = X[:, moves], mean[moves], deviation[moves]
    found = []
    for part in (X, (X - mean) / deviation):
        rows = torch.cat([torch.ones_like(X[:, :1]), part], 1)
        values = torch.linalg.svdvals(rows).square()  # of the rows, since squared the small ones would drown
        found.append(
            float(values[0] / values[-1]) if values[-1] > 1e-28 * values[0] * len(rows) and len(rows) >= rows.shape[1] else math.inf
        )
    return found[0], found[1]


def _judged(features: tuple[Feature, ...], raw: float, even: float) -> tuple[tuple[Feature, ...], tuple[str, ...]]:
    """The features with what is wrong with each, and the names of those, the worst first."""
    if not features or (math.isfinite(raw) and math.isfinite(even) and raw < WORTH * even):
        return features, ()
    widest = max(f.size for f in features)
    judged, worst = [], {}
    for f in features:
        bad = ""
        if f.deviation > 1e-12 * abs(f.mean):
            if f.size > FAR:
                bad, worst[f.name] = "large", f.size
            elif f.size < 1 / FAR and f.size < widest / FAR**2 and f.zeros < 0.5:
                bad, worst[f.name] = "small", 1 / f.size
            elif abs(f.mean) > FAR * f.deviation and abs(f.mean) > 1:
                bad, worst[f.name] = "off centre", abs(f.mean) / f.deviation
        judged.append(Feature(f.name, f.mean, f.deviation, f.zeros, bad))
    return tuple(judged), tuple(sorted(worst, key=lambda name: -worst[name]))


def _said(
    number: float, largest: float, smallest: float, known: bool, stable: float, best: tuple[float, ...], features: tuple[Feature, ...],
    bad: tuple[str, ...], raw: float, even: float,
) -> str:  # fmt: skip
    if math.isnan(number):
        text = f"the loss curves by {smallest:.3g} to {largest:.3g}: not only upwards, so that no condition number is defined"
    elif math.isinf(number):
        text = f"the loss curves by up to {largest:.3g}, and in some directions not at all: the condition number is infinite"
    else:
        text = f"the condition number is {'' if known else 'at least '}{number:.3g} (curvatures {smallest:.3g} to {largest:.3g})"
    text += f"; gradient descent is stable below a rate of {stable:.3g}"
    if not math.isnan(best[0]):
        text += f", is fastest at {best[0]:.3g}, and with momentum {best[1]:.4g} at {best[2]:.3g}"
    if bad:
        shown = {f.name: f for f in features}
        said = [f"{name} (mean {shown[name].mean:.3g}, deviation {shown[name].deviation:.3g})" for name in bad[:4]]
        text += f"; badly scaled: {', '.join(said)}{', ...' if len(bad) > 4 else ''}"
    if math.isfinite(raw) and math.isfinite(even) and raw >= WORTH * even:
        text += f"; standardised, the features' condition number would be {even:.3g} in place of {raw:.3g}"
    return text
