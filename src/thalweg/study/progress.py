"""How far a study is, for whoever watches it run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from thalweg.core.problem import Problem
from thalweg.engine.work import Outcome
from thalweg.study.plan import Group


@dataclass(frozen=True)
class Status:
    """How far a study is: for whoever watches it."""

    phase: str
    done: int
    total: int
    optimizer: str
    step: int
    steps: int
    alive: int
    diverged: int
    best: str


Watch = Callable[[Status], None]


class View:
    """Keeps count for whoever watches."""

    def __init__(self, problem: Problem, steps: int, phase: str, total: int, table: pd.DataFrame, watch: Watch | None) -> None:
        self.problem, self.steps, self.phase, self.total, self.watch = problem, steps, phase, total, watch
        own = table[table["phase"] == phase]
        self.done, self.diverged = len(own), int((own["status"] == "diverged").sum())
        self.best: Any = None  # (score, label) once there is one
        self.optimizer, self.lanes = "", 0
        score = own[f"valid_{problem.score}"]
        for label, value in zip(own["optimizer"], score, strict=True):
            self._better(value, label)

    def _better(self, value: float, label: str) -> None:
        sign = 1 if self.problem.higher_is_better else -1
        if value == value and (self.best is None or sign * value > sign * self.best[0]):
            self.best = (value, label)

    def begin(self, group: Group) -> None:
        self.optimizer, self.lanes = group.jobs[0].optimizer, len(group.jobs)
        self._show(0, self.lanes)

    def step(self, t: int, alive: int, best: float) -> None:
        self._better(best, self.optimizer)
        self._show(t, alive)

    def end(self, group: Group, outcomes: Sequence[Outcome]) -> None:
        self.optimizer, self.lanes = group.jobs[0].optimizer, 0
        self.done += len(group.jobs)
        self.diverged += sum(outcome.diverged_at >= 0 for outcome in outcomes)
        for outcome in outcomes:
            values = outcome.curve.valid.get(self.problem.score)
            if values is not None and len(values) and outcome.diverged_at < 0:
                self._better(float(values[-1]), self.optimizer)
        self._show(self.steps, 0)

    def _show(self, step: int, alive: int) -> None:
        if self.watch is not None:
            gone = self.diverged + max(0, self.lanes - alive if self.lanes else 0)
            name = self.problem.score
            best = "" if self.best is None else f"{self.best[1]} {name} {self.best[0]:.4g}"
            self.watch(Status(self.phase, self.done, self.total, self.optimizer, step, self.steps, alive, gone, best))
