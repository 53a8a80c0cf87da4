"""Lowers a hyperparameter when a metric no longer improves: the one schedule that has a state."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from thalweg.engine.optimizer.scheduler import Scheduler
from thalweg.errors import UserError, unknown


class Plateau:
    """Multiplies the base value by `factor` after more than `patience` metrics in a row without a new best.

    of: a torch.optim.Optimizer, or a Scheduler that drives `name`, whose base values are then lowered, so that the two multiply.
    metric of a step: a number or a tensor of one element, such as the validation loss, once an epoch. With mode "min" it is better than
    the best where metric < best (1 - threshold), or best - threshold with threshold_mode "abs"; "max" mirrors this. NaN is never better.
    cooldown: so many metrics after a reduction are not held against it. floor: the least that is left, as everywhere here a multiplier
    of the first base value (torch's min_lr is a rate). eps: a reduction by no more than this is left out. Counts and rates are those of
    torch.optim.lr_scheduler.ReduceLROnPlateau.

    Raises UserError for settings out of range, a metric that is no number, and, at a step, where another Scheduler or Plateau, made
    later, drives the same hyperparameter of the same optimizer.

    >>> import torch
    >>> from thalweg.schedules import linear
    >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=1.0)
    >>> sched = Scheduler(opt, lr=linear(total=100))
    >>> plateau = Plateau(sched, factor=0.5, patience=1)
    >>> [plateau.step(loss) for loss in (3.0, 2.0, 2.5, float("nan"), 1.9)]
    [False, False, False, True, False]
    >>> sched.step()
    >>> sched.base["lr"], sched.values()["lr"]
    ([0.5], [0.495])
    """

    def __init__(
        self, of: Optimizer | Scheduler, *, name: str = "lr", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, floor: float = 0.0, eps: float = 1e-8, mode: str = "min",
    ) -> None:  # fmt: skip
        for key, value in (("factor", factor), ("threshold", threshold), ("floor", floor), ("eps", eps)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < (1 if key == "factor" else math.inf):
                raise UserError(f"Plateau: {key} = {value!r} must be a number, at least 0{' and below 1' if key == 'factor' else ''}")
        for key, count in (("patience", patience), ("cooldown", cooldown)):
            if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 0:
                raise UserError(f"Plateau: {key} = {count!r} must be a whole number, at least 0")
        if mode not in ("min", "max"):
            raise unknown("mode of a Plateau", mode, ("min", "max"))
        if threshold_mode not in ("rel", "abs"):
            raise unknown("threshold_mode of a Plateau", threshold_mode, ("rel", "abs"))
        if not isinstance(of, Optimizer | Scheduler):
            raise UserError(f"a Plateau lowers what a torch.optim.Optimizer or a Scheduler holds, not {of!r}; pass one of these")
        # over an optimizer alone, the schedule is constant: base values, groups and tensors are then one matter
        alone: Any = {name: _constant}
        self.scheduler = of if isinstance(of, Scheduler) else Scheduler(of, **alone)
        if name not in self.scheduler.base:
            raise unknown("hyperparameter of this Scheduler", name, self.scheduler.base)
        self.name, self.mode, self.threshold_mode = name, mode, threshold_mode
        self.factor, self.threshold, self.floor, self.eps = factor, threshold, floor, eps
        self.patience, self.cooldown = patience, cooldown
        self.best = math.inf if mode == "min" else -math.inf
        self._bad = self._rest = 0
        self._first = self.scheduler.base[name]

    def __repr__(self) -> str:
        return f"Plateau({self.name}, factor={self.factor:g}, patience={self.patience}, best={self.best:g}, bad={self._bad})"

    def step(self, metric: float | Tensor) -> bool:
        """Take in a metric; whether the hyperparameter was due to be lowered for it."""
        value = _number(metric)
        better = self._is_better(value)
        bad = 0 if better or self._rest else self._bad + 1
        due = bad > self.patience
        base = self._seen()
        if due:
            base = [None if b is None else self._lowered(b, first) for b, first in zip(base, self._first, strict=True)]
        self.scheduler.rebase(self.name, base)
        self.best, self._bad = value if better else self.best, 0 if due else bad
        self._rest = self.cooldown if due else max(self._rest - 1, 0)
        return due

    def state_dict(self) -> dict[str, Any]:
        """The best metric, the counts and the base values, first and present, one a group: plain numbers and strings."""
        base = self._seen()
        counts = {"name": self.name, "mode": self.mode, "best": self.best, "bad": self._bad, "rest": self._rest}
        return counts | {"first": list(self._first), "base": base}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all from `state_dict()` and write the values at once. Raises UserError, and changes nothing, for a state not of its kind."""
        wanted = self.state_dict()
        if not isinstance(state, Mapping) or not wanted.keys() <= state.keys():
            raise UserError("this is not the state of a tw.Plateau; load what its state_dict() gave")
        for key in ("name", "mode"):
            if state[key] != wanted[key]:
                raise UserError(f"this state has {key} = {state[key]!r}, but this Plateau {wanted[key]!r}; make it alike")
        if not isinstance(state["first"], list) or len(state["first"]) != len(wanted["first"]):
            raise UserError(f"this state is not of {len(wanted['first'])} groups, which the optimizer has; add groups before")
        self.scheduler.rebase(self.name, state["base"])
        self.best, self._bad, self._rest, self._first = state["best"], state["bad"], state["rest"], list(state["first"])

    def _seen(self) -> list[float | None]:
        """The base values now; a group that is new begins with its own."""
        base = self.scheduler.base[self.name]
        self._first = self._first + base[len(self._first) :]
        return base

    def _lowered(self, base: float, first: float | None) -> float:
        lower = max(base * self.factor, self.floor * (first or 0.0))
        return lower if base - lower > self.eps else base

    def _is_better(self, value: float) -> bool:
        # a product, not best - threshold x best, which is no number where best is still infinite
        relative, sign = self.threshold_mode == "rel", -1 if self.mode == "min" else 1
        bound = self.best * (1 + sign * self.threshold) if relative else self.best + sign * self.threshold
        return value < bound if self.mode == "min" else value > bound


def _constant(t: int) -> float:
    return 1.0


_constant.label = "constant()"  # type: ignore[attr-defined]


def _number(metric: Any) -> float:
    if isinstance(metric, Tensor) and metric.numel() == 1 and not metric.is_complex():
        return float(metric)
    if isinstance(metric, bool) or not isinstance(metric, numbers.Real):
        raise UserError(f"the metric of a Plateau must be a number, not {metric!r}; pass such as the validation loss")
    return float(metric)
