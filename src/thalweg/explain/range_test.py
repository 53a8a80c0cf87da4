"""A learning-rate range test: the rate grows step by step, and the loss is watched. Smith 2017, arXiv:1506.01186"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.probe import untouched
from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserError
from thalweg.explain.case import Case, make
from thalweg.explain.measure.trials import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR = 4.0
"""The ramp ends where the smoothed loss is so many times the least."""

SMOOTH = 0.8
"""What is kept of the average at each step."""

PROVED = 20
"""Steps at one rate that show whether it is stable."""

HALVINGS = 8


@dataclass(frozen=True)
class RangeTest:
    """rates, losses (k,): of the ramp, as far as it went, the loss of each step's batch before the step; smoothed (k,): its average.
    best: the rate at which the smoothed loss fell fastest, at most half of the largest stable one; nan where it never fell.
    largest_stable: the largest rate at which PROVED steps from the weights given do not raise the loss, to about a tenth; `high`
    where there is none below. diverged_at: the rate at which the ramp was ended, nan where it was not."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    best: float
    largest_stable: float
    diverged_at: float

    def picture(self) -> Figure:
        """The loss against the rate."""
        from thalweg.core.canvas import COLOURS, label, legend, sheet

        figure, (axes,) = sheet(6.4, 3.8)
        axes.semilogx(self.rates, self.losses, color=COLOURS[0], alpha=0.35, linewidth=1)
        axes.semilogx(self.rates, self.smoothed, color=COLOURS[0], linewidth=1.8, label="loss, smoothed")
        for rate, style, name in ((self.best, "--", "best"), (self.largest_stable, ":", "largest stable")):
            if math.isfinite(rate):
                axes.axvline(rate, color=COLOURS[1], linestyle=style, linewidth=1.5, label=f"{name}, {rate:.2g}")
        label(axes, "Learning-rate range test", "learning rate", "loss", grid=True)
        legend(axes)
        return figure


def range_test(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int | None = None,
    step: Callable[[Any, Batch], Tensor] | None = None,
    seed: int = 0,
) -> RangeTest:
    """Which learning rates train a model from the weights that it has.

    The rate grows from `low` to `high` over so many steps, evenly in its logarithm, and the ramp ends where the loss is not finite or far
    above its least. Then the largest stable rate is looked for by halving, from the same weights. optimizer: whose class and settings are
    taken, with its state as it is; SGD where there is none. batch_size: rows a batch; None: the DataLoader's, or 32.
    Works on copies: model, optimizer and random states are afterwards what they were. Raises UserError for a range that is none.

    >>> net = nn.Linear(1, 1, bias=False)   # mean((w x)^2) at x = 1 curves by 2, so that gradient descent bears rates below 1
    >>> found = range_test(net, lambda out, y: out.square().mean(), (torch.ones(8, 1), torch.zeros(8)), low=1e-3, batch_size=8)
    >>> 0.85 < found.largest_stable < 1.15
    True
    """
    if not (0 < low < high < math.inf):
        raise UserError(f"low = {low:g} and high = {high:g} must be rates with 0 < low < high")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise UserError(f"steps = {steps!r} must be a whole number of at least 10")
    module = model if isinstance(model, nn.Module) else None
    with torch.inference_mode(False), untouched(module, optimizer):
        if optimizer is None and module is not None:
            trainable = [p for p in module.parameters() if p.requires_grad]
            if not trainable:
                raise UserError("the model has no parameter that needs a gradient: there is nothing to train")
            optimizer = torch.optim.SGD(trainable, lr=low)
        case = make(model, loss, data, optimizer, None, None, step, batch_size, seed)
        if not any("lr" in group for group in case.optimizer.param_groups):  # type: ignore[union-attr]
            raise UserError(f"{type(optimizer).__name__} has no learning rate to test")
        rates = np.geomspace(low, high, steps)
        losses = _ramp(case, rates)
        smoothed = _smoothed(losses)
        ended = float(rates[len(losses) - 1]) if len(losses) < steps or not np.isfinite(losses[-1]) else math.nan
        kept = np.isfinite(losses)
        rates, losses, smoothed = rates[: len(losses)][kept], losses[kept], smoothed[kept]
        largest = _stable(case, low, high, ended)
        return RangeTest(rates, losses, smoothed, _best(rates, smoothed, largest), largest, ended)


def _ramp(case: Case, rates: np.ndarray) -> np.ndarray:
    """The loss of each step's batch before the step, up to where it is not finite or far above the least."""
    model, optimizer = case.copy()
    assert optimizer is not None
    torch.default_generator.manual_seed(case.seed)
    found: list[float] = []
    for rate, batch in zip(rates, case.batches(len(rates)), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(rate) if isinstance(group.get("lr"), Tensor) else float(rate)
        lost = case.update(model, optimizer, batch)
        found.append(math.nan if lost is None else lost)
        smooth = _smoothed(np.array(found))
        if not math.isfinite(found[-1]) or (len(found) > 5 and smooth[-1] > smooth.min() + FAR * (abs(smooth.min()) + 1e-12)):
            break
    return np.array(found)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """The exponential average, without the bias of its start."""
    found, mean = np.empty(len(losses)), 0.0
    for i, value in enumerate(losses):
        mean = SMOOTH * mean + (1 - SMOOTH) * value
        found[i] = mean / (1 - SMOOTH ** (i + 1))
    return found


def _stable(case: Case, low: float, high: float, ended: float) -> float:
    """The largest rate between the two at which the loss does not rise, by halving their logarithms' distance."""
    few = isinstance(case.optimizer, torch.optim.LBFGS)  # each step of which is many
    seen, batches = case.some(1024), case.batches(2 if few else PROVED)
    with torch.no_grad():
        start = float(case.problem.lose(case.model, seen))

    def holds(rate: float) -> bool:
        return trained(case, seen, batches, {"lr": rate}) <= start + 1e-6 * abs(start)

    under, above = math.log(low), math.log(ended if math.isfinite(ended) else high)
    if holds(math.exp(above)):
        return math.exp(above)
    for _ in range(HALVINGS + 2):
        middle = (under + above) / 2
        under, above = (middle, above) if holds(math.exp(middle)) else (under, middle)
    return math.exp(under)


def _best(rates: np.ndarray, smoothed: np.ndarray, largest: float) -> float:
    if len(rates) < 5:
        return math.nan
    slope = np.gradient(smoothed, np.log(rates))
    slope[rates > largest] = math.inf
    place = int(np.argmin(slope))
    return min(float(rates[place]), largest / 2) if slope[place] < 0 else math.nan
