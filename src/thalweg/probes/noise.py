"""The noise of a batch's gradient: the noise scale tr(Sigma) / |G|^2 and the batch from which larger ones pay less. McCandlish et al. 2018,
arXiv:1812.06162, appendix A.1, with many batches in place of two, and the jackknife of Tukey 1958 for its error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.hessian import Hessian
from thalweg.core.probe import probe, problem_of, trainable, whole
from thalweg.core.problem import Batch, Problem, leaves, rows, take
from thalweg.errors import UserError

GROUPS = 64
"""Batches whose gradients are compared, or fewer, at least LEAST, where these are larger than ROOM numbers."""

LEAST = 8
ROOM = 50_000_000


@dataclass(frozen=True)
class Noise:
    """scale: tr(Sigma) / |G|^2 in rows, Sigma the covariance of one row's gradient, G their mean; inf where the gradient cannot be told
    from 0. error: its standard error. critical_batch: the batch at which noise and gradient are alike, the scale itself, at least 1.
    gradient_norm: |G|; noise_norm: the root of tr(Sigma). batch_size: the batch asked for, and share: the part of the square of its
    gradient that is noise. rows: that were looked at. text: all that in words.
    """

    scale: float
    error: float
    critical_batch: float
    gradient_norm: float
    noise_norm: float
    batch_size: int
    share: float
    rows: int
    text: str


@probe
def noise(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    batch_size: int = 32,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    most: int = 4096,
    train: bool = False,
    double: bool = False,
    seed: int = 0,
) -> Noise:
    """How much of a batch's gradient is noise, at the model's weights: without bias, the rows taken as drawn from a larger population.

    loss: a mean over rows. batch_size: the batch of which to tell the share. most: rows that are looked at, drawn by the seed. The rest is
    as in `spectrum`. Raises UserError as that does, and for fewer than two rows.

    Slopes 1 and 3 of two rows: their mean is 2 and their variance, without bias, 2, so the square of the mean is 4 less half of that.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> found = noise(model, lambda out, y: out.mean(), (torch.tensor([[1.0], [3.0]]), torch.zeros(2)), batch_size=2)
    >>> round(found.scale, 6), round(found.share, 6)
    (0.666667, 0.25)
    """
    problem = problem_of(model, loss, data, step)
    whole("batch_size", batch_size, 1)
    whole("most", most, 2)
    count, size = rows(problem.train), sum(p.numel() for p in trainable(model).values())
    if count < 2:
        raise UserError("the noise of a gradient shows among rows, and the data has only one; give two at least")
    groups = min(GROUPS, count, max(LEAST, ROOM // size))
    each = min(count, most) // groups
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: groups * each]
    device = leaves(problem.train)[0].device
    some = Problem(lambda: model, problem.loss, train=take(problem.train, chosen.to(device)), step=problem.step)
    with torch.inference_mode(False):
        slopes = Hessian(model, some, each, train, double, seed).gradients()  # (groups, n)
    mean = slopes.mean(0)
    apart = (slopes - mean).square().sum(1).double()  # (groups,)
    along = (slopes @ mean).double() - mean.square().sum().double()
    square, spread = float(mean.square().sum()), float(apart.sum()) / (groups - 1)
    trace, signal = each * spread, square - spread / groups
    scale = trace / signal if signal > 0 else math.inf if trace > 0 else math.nan
    error = _jackknife(apart, along, square, each)
    share = trace / batch_size / (max(signal, 0.0) + trace / batch_size) if trace > 0 else 0.0
    norm = math.sqrt(max(signal, 0.0))
    told = f"{scale:.3g} rows, give or take {error:.2g}" if math.isfinite(scale) else "not to be told: the gradient is lost in noise"
    text = f"the gradient noise scale is {told}; of a batch of {batch_size}, {100 * share:.0f} % of the gradient's square is noise"
    return Noise(scale, error, max(1.0, scale), norm, math.sqrt(trace), batch_size, share, groups * each, text)


def _jackknife(apart: Tensor, along: Tensor, square: float, each: int) -> float:
    """The standard error of the scale, from what it is without each batch. apart: |g_j - mean|^2; along: (g_j - mean) mean."""
    m = len(apart)
    if m < 3:
        return math.nan
    without = square - 2 * along / (m - 1) + apart / (m - 1) ** 2  # square of the mean of the others
    spread = (apart.sum() - apart * m / (m - 1)) / (m - 2)
    signal = without - spread / (m - 1)
    if not bool((signal > 0).all()):
        return math.inf
    scales = each * spread / signal
    return float(((m - 1) / m * (scales - scales.mean()).square().sum()).sqrt())
