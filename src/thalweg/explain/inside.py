"""Probes inside a run: measured every so often, their numbers a row of the run's history; the run goes as it would without them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from thalweg.core import catalogue
from thalweg.engine.loop.loop import Loop
from thalweg.errors import UserError, unknown

DEFAULT = ("sharpness", "gradients", "noise")
SHARE = 0.04
"""Of the training's time that probes take where nothing is said about how often, each an equal part of it."""

EARLY = 0.25
"""Of that time what may be spent at the beginning, where most happens; the rest grows with the steps."""

ROWS = 128
"""Of the training data that a probe looks at, the same every time."""

GUESS, CHEAP = 25.0, {"gradients": 5.0, "noise": 6.0}
"""Gradients over those rows that a probe's first measurement is taken to cost, before it is known."""

SEEN = 5
"""Steps after which it is known how long one takes."""

NEEDED = ("model", "loss", "data")


class Inside:
    """What is called after every step of a loop, and measures where it is due.

    probes: names of `thalweg.probes` or functions (model, loss, data, ...) -> a dataclass, a mapping or a number; what they take of
    optimizer, history, batch_size, batches and start they are given. every: steps between measurements, the first after step 1; None for
    as often as `SHARE` of the time allows, which depends on the machine; the training does not. rows: that are looked at. Raises UserError
    for what is no probe of a model.
    """

    def __init__(self, probes: Sequence[str | Callable[..., Any]], every: int | None = None, rows: int = ROWS) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise UserError(f"probe_every = {every!r} must be a whole number of steps of at least 1")
        names = [name for one in probes for name in (DEFAULT if one == "default" else (one,))]
        self.probes = dict(map(_found, dict.fromkeys(names)))
        self.every, self.rows = every, rows
        self.cost = dict.fromkeys(self.probes, 0.0)
        self.spent = dict.fromkeys(self.probes, 0.0)
        self.refused: dict[str, str] = {}
        self.starts: dict[str, Any] = {}
        self.begun: tuple[int, float] | None = None

    def __call__(self, loop: Loop) -> None:
        """Measure what is due after this step."""
        if self.begun is None:
            self.begun = loop.t, loop.seconds
        due = list(self.probes) if self.every is not None and (loop.t == 1 or loop.t % self.every == 0) else []
        if self.every is None:
            due = [name for name in self.probes if self._affordable(name, loop)]
        if not due:
            return
        row: dict[str, float] = {"step": loop.t, "epoch": loop.t / loop.source.per_epoch}
        for name in due:
            began = perf_counter()
            row |= self._measure(name, loop)
            self.cost[name] = perf_counter() - began
            self.spent[name] += self.cost[name]
        if len(row) > 2:
            loop.measurements.append(row)

    def notes(self) -> list[str]:
        """What a reader should know: which probes did not apply, and why."""
        return [f"the probe {name} did not apply: {why}" for name, why in self.refused.items()]

    @property
    def seconds(self) -> float:
        """What all measurements took."""
        return sum(self.spent.values())

    def _affordable(self, name: str, loop: Loop) -> bool:
        """Whether a probe's part of the time so far, and a little of what is to come, has room for it."""
        assert self.begun is not None
        done, elapsed = loop.t - self.begun[0], loop.seconds - self.begun[1]
        if done < SEEN:
            return False
        pace, to_come = elapsed / done, loop.settings.steps - loop.t
        cost = self.cost[name] or CHEAP.get(name, GUESS) * pace * max(1.0, self.rows / loop.source.batch_size)
        return self.spent[name] + cost <= SHARE / len(self.probes) * pace * (done + EARLY * to_come)

    def _measure(self, name: str, loop: Loop) -> dict[str, float]:
        function, takes = self.probes[name]
        if loop.source.streams:
            self.refused.setdefault(name, "the rows come through a DataLoader, and it needs the same ones every time")
            return {}
        data = loop.source.probe(self.rows)
        there: dict[str, Any] = {
            "optimizer": loop.optimizer, "history": loop.records, "batch_size": loop.source.batch_size, "start": self.starts.get(name),
            "batches": 1,
        }  # fmt: skip
        given = {key: value for key, value in there.items() if key in takes and (key != "history" or len(value) > 1)}
        try:
            found = function(loop.module, loop.problem, data, **given)
        except UserError as error:  # it does not apply here, or here and now
            self.refused.setdefault(name, str(error))
            return {}
        if getattr(found, "vector", None) is not None:
            self.starts[name] = found.vector
        return {f"{name}_{key}" if key else name: value for key, value in numbers(found).items()}


def numbers(found: Any) -> dict[str, float]:
    """The numbers of a probe's answer by the names of its fields; of a list of things their count; of texts nothing.

    >>> sorted(numbers({"value": 2.0, "dead": ("fc1",), "text": "words"}).items())
    [('dead', 1.0), ('value', 2.0)]
    """
    if isinstance(found, int | float):
        return {"": float(found)}
    if dataclasses.is_dataclass(found):
        found = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    if not isinstance(found, Mapping):
        raise UserError(f"a probe answers with a dataclass, a mapping or a number, not with {type(found).__name__}")
    plain = {key: value for key, value in found.items() if isinstance(value, int | float)}
    counts = {key: len(value) for key, value in found.items() if isinstance(value, tuple) and all(isinstance(one, str) for one in value)}
    return {str(key): float(value) for key, value in (plain | counts).items()}


def _found(named: str | Callable[..., Any]) -> tuple[str, tuple[Callable[..., Any], frozenset[str]]]:
    """A probe's name, the function, and what it takes."""
    known = {name: one for name, one in catalogue.shelf("probes").items() if _of_models(one)}
    if isinstance(named, str):
        if ".py:" in named:
            function = catalogue.load(named)
        elif named in known:
            function = known[named]
        else:
            raise unknown("probe of a model in training", named, known)
    else:
        function = named
    if not callable(function):
        raise UserError(f"a probe is a function (model, loss, data, ...), not {type(function).__name__}")
    if not _of_models(function):
        raise UserError(f"{_name(function)} is not a probe of a model in training: it must take {', '.join(NEEDED)}")
    return _name(function), (function, frozenset(inspect.signature(function).parameters))


def _of_models(function: Callable[..., Any]) -> bool:
    return tuple(inspect.signature(function).parameters)[:3] == NEEDED


def _name(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    return str(getattr(inner, "name", None) or getattr(inner, "__name__", type(inner).__name__))
