"""Short trainings on copies: what the loss would do from fresh weights, or from these, at other settings; on the same batches each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from thalweg.core.problem import Batch
from thalweg.errors import UserError
from thalweg.explain.case import Case
from thalweg.explain.measure.rows import Table, pair
from thalweg.explain.measure.state import Course, Settings

STEPS = 30
"""Updates of a quick trial."""

LONG = 120
"""Updates of a trial that stands for the training, at most."""

FEW = 3
"""Updates of a trial where each is a minimisation of its own."""

SMALL = 8
"""Batches of fewer rows are seen four times as often."""

ROWS = 512
"""Rows on which the loss is taken at its end."""

FAR = 16
"""Factors up to which rates are tried, and half as far down."""

WORSE = 0.05
"""A rate is worse than another where its loss is larger by this share."""

FACTOR = 10**0.5
"""Between the rates that are tried."""


@dataclass(frozen=True)
class Trials:
    """Trainings from fresh weights. run(steps, batch_size, **settings): the loss at the end, inf where it diverged. start: the loss before.
    steps: of a quick one; long: of one as long as the user's training, or LONG."""

    run: Callable[..., float]
    start: float
    steps: int
    long: int


def trials(case: Case, settings: Settings, course: Course | None = None) -> Trials | None:
    fresh = case.restarted()
    if fresh is None:
        return None
    known: dict[Any, float] = {}
    seen = case.some(ROWS)

    def run(steps: int, batch_size: int | None = None, **changes: float) -> float:
        if settings.lr < settings.begun:  # a schedule has lowered it
            changes = {"lr": settings.begun, **changes}
        key = (steps, batch_size, *sorted(changes.items()))
        if key not in known:
            known[key] = trained(fresh, seen, fresh.batches(steps, batch_size), changes)
        return known[key]

    with torch.no_grad():
        start = float(case.problem.lose(fresh.model, seen))
    quick = STEPS * 4 if case.batch_size < SMALL else STEPS
    long = max(quick, min(LONG, course.steps if course is not None else LONG))
    if isinstance(case.optimizer, torch.optim.LBFGS):  # a step of which is many
        quick = long = FEW
    return Trials(run, start, quick, long)


def trained(case: Case, seen: Batch, batches: list[Batch], changes: dict[str, float]) -> float:
    """The loss on some rows after training on these batches; inf where it is not finite."""
    model, optimizer = case.copy()
    assert optimizer is not None
    top = max((float(group.get("lr") or 0.0) for group in optimizer.param_groups), default=0.0)
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)
        for key, value in changes.items():
            if key == "momentum" and "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            elif key == "lr" and group.get("lr") is not None:
                rate = value * (float(group["lr"]) / top if top > 0 else 1.0)  # groups keep their proportions
                group["lr"] = torch.as_tensor(rate) if isinstance(group["lr"], torch.Tensor) else rate
            elif key in group:
                group[key] = value
    torch.manual_seed(case.seed)
    for batch in batches:
        if time.monotonic() > case.deadline:
            raise UserError("the time was over")
        lost = case.update(model, optimizer, batch)
        if lost is not None and not math.isfinite(lost):
            return math.inf
    with torch.no_grad():
        end = float(case.problem.lose(model, seen))
    return end if math.isfinite(end) else math.inf


@dataclass(frozen=True)
class Rates:
    """Trials from fresh weights, a rate each: lrs and losses (k,), rising; start: the loss before; own: the loss at the user's rate.
    tried: the rate that ended lowest; best: the same, or half of it where the next larger one learnt nothing; largest: the largest that
    ended below the start."""

    lrs: np.ndarray
    losses: np.ndarray
    start: float
    user: float
    own: float
    best: float
    tried: float
    lowest: float
    largest: float
    steps: int

    @property
    def gained(self) -> float:
        """By how much the loss fell at the best rate."""
        return self.start - self.lowest

    @property
    def learns(self) -> bool:
        """Whether the loss fell at all, at some rate."""
        return self.gained > 0.05 * abs(self.start)

    @property
    def works(self) -> bool:
        """Whether it fell by half as much at the user's rate."""
        return self.learns and self.start - self.own > 0.5 * self.gained


def rates(settings: Settings, trials: Trials) -> Rates | None:
    user, start = settings.begun, trials.start
    if not user > 0:
        return None
    known: dict[int, float] = {}

    def at(k: int) -> float:
        if k not in known:
            known[k] = trials.run(trials.steps, lr=user * FACTOR**k)
        return known[k]

    # in tens up to where it gets worse; down as well, and on while nothing was learnt; then halfway between
    lowest, k = at(0), 0
    for direction in (2, -2):
        worse, j = 0, 0
        while worse < 1 and (j < FAR if direction > 0 else j > -FAR // 2):
            j += direction
            value = at(j)
            worse += value > (lowest + WORSE * abs(lowest)) and (direction > 0 or lowest < start)
            if value < lowest:
                lowest, k = value, j
    for j in (k - 1, k + 1):
        if at(j) < lowest:
            lowest, k = at(j), j
    places = sorted(known)
    losses = np.array([known[j] for j in places])
    lrs = np.array([user * FACTOR**j for j in places])
    above = known.get(k + 1, math.inf)
    best = user * FACTOR**k / (2.0 if above > start else 1.0)  # a little away from where it would no longer learn
    under = lrs[losses < start] if (losses < start).any() else lrs[:1]
    return Rates(lrs, losses, start, user, known[0], best, user * FACTOR**k, lowest, float(under.max()), trials.steps)


def rates_scaled(case: Case, settings: Settings, table: Table) -> Rates | None:
    """The same with standardised features, where they are not."""
    both = pair(case)
    if not table.unscaled or both is None:
        return None
    x, y = both
    deviation = x.std(0, unbiased=False)
    scaled = ((x - x.mean(0)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation)), y)
    where = replace(case, problem=replace(case.problem, train=scaled))
    tried = trials(where, settings)
    return None if tried is None else rates(settings, tried)
