"""The way of an iteration: where it stands, what it has cost, why it ended; the same for every method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thalweg.errors import UserError
from thalweg.solve.objective import Objective

Array = np.ndarray
DEEP = 1e20
"""A value this many times below the start (or below -1) is taken for a fall without end."""
PATIENCE = 12
"""Iterations without a lower value or a smaller gradient, beyond rounding, after which rounding is all that is left."""


@dataclass
class Limits:
    """Where an iteration ends at the latest. callback: is given a dict an iteration, stops it by returning True."""

    tol: float = 1e-8
    iterations: int = 10_000
    evaluations: float = math.inf
    callback: Callable[[dict[str, Any]], Any] | None = None


@dataclass
class Path:
    """x, its value and gradient, and how it went. ended: "stationary", "stalled", "limit", "stopped", "unbounded" or "non-finite"."""

    x: Array
    f: float
    g: Array
    iterations: int = 0
    ended: str = ""
    trace: list[dict[str, Any]] = field(default_factory=list)
    deepest: float = 0.0
    seen: tuple[float, float, int] = (math.inf, math.inf, 0)

    def __post_init__(self) -> None:
        self.deepest = -DEEP * max(1.0, abs(self.f))

    def note(self, objective: Objective, step: float, **more: Any) -> dict[str, Any]:
        """A row of the trace."""
        size, cost = largest(self.g), max(objective.f, objective.g)
        row = {"iteration": self.iterations, "value": self.f, "gradient_norm": size, "step": step, "evaluations": cost, **more}
        self.trace.append(row)
        return row

    def over(self, objective: Objective, limits: Limits, step: float = 0.0, missed: float = 0.0, **more: Any) -> bool:
        """Note where it stands; whether to end there, and then why. missed: by how much a constraint, or its complementarity, is."""
        row = self.note(objective, step, **more)
        size, cost = row["gradient_norm"], row["evaluations"]
        if limits.callback is not None and self._told(objective, limits, row):
            self.ended = "stopped"
        elif self.f < self.deepest and missed <= limits.tol * max(1.0, largest(self.x)):
            self.ended = "unbounded"
        elif max(size, missed) <= limits.tol:
            self.ended = "stationary"
        elif self.iterations >= limits.iterations or cost >= limits.evaluations:
            self.ended = "limit"
        elif self._tired(max(size, missed), objective.variables.eps):
            self.ended = "stalled"
        return bool(self.ended)

    def _told(self, objective: Objective, limits: Limits, row: dict[str, Any]) -> bool:
        assert limits.callback is not None
        answer = limits.callback({**row, "x": objective.variables.close(self.x)})
        if answer not in (None, True, False):
            raise UserError(f"callback returned {answer!r}; return True to stop, nothing or False to go on")
        return bool(answer)

    def _tired(self, size: float, eps: float) -> bool:
        f, g, count = self.seen
        better = self.f < f - 4 * eps * abs(f) or size < 0.9 * g or self.f > f + 1e4 * eps * abs(f)  # what rises has not settled
        self.seen = (min(f, self.f), min(g, size), 0 if better else count + 1)
        return self.seen[2] >= PATIENCE


def largest(g: Array) -> float:
    """The largest |entry|; nan where there is one."""
    if len(g) < 32:
        top = 0.0
        for v in g.tolist():
            v = abs(v)
            if not v <= top:
                top = v
        return top
    return float(np.abs(g).max())
