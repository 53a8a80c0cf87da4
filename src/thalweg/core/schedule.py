"""Schedules: pure functions of t, the number of updates already done (0 at the first), that multiply a base value."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from thalweg.errors import UserError, unknown

Multiplier = Callable[[int], float]


def schedule(make: Callable[..., Multiplier]) -> Callable[..., Multiplier]:
    """Declare a maker of schedules: its arguments are checked, and what it makes knows its name and arguments.

    >>> from thalweg.schedules import cosine
    >>> f = cosine(total=100, warmup=10)
    >>> f(0), f(10), round(f(55), 6), f(100)
    (0.0, 1.0, 0.5, 0.0)
    """
    name = make.__name__
    module = inspect.getmodule(make)
    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*args: Any, **kwargs: Any) -> Multiplier:
        for key in kwargs:
            if key not in signature.parameters:
                raise unknown(f"argument of the schedule {name}", key, signature.parameters)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise UserError(f"{name}: {error}; it takes {', '.join(signature.parameters) or 'no argument'}") from None
        for key, value in given.items():
            _check(name, key, value)
        total, warm = given.get("total"), given.get("warmup")
        if total is not None and warm is not None and warm > total:
            raise UserError(f"{name}: warmup = {warm} is longer than total = {total}, which includes it")
        f = make(*args, **kwargs)
        f.label = f"{name}({', '.join(f'{k}={_text(v)}' for k, v in given.items())})"  # type: ignore[attr-defined]
        return f

    checked.shelf = "schedules"  # type: ignore[attr-defined]
    checked.name = name  # type: ignore[attr-defined]
    checked.doc = inspect.getdoc(make) or (module and inspect.getdoc(module)) or ""  # type: ignore[attr-defined]
    return checked


def _check(name: str, key: str, value: Any) -> None:
    """Raise UserError where an argument is not a finite number that is not negative, or, for milestones and values, several."""
    several = key in ("milestones", "values")
    if several and not isinstance(value, list | tuple):
        raise UserError(f"{name}: {key} = {value!r} must be several numbers, such as [30, 60]")
    for number in value if several else [value]:
        if number is None:
            continue
        if not (isinstance(number, int | float) and math.isfinite(number)):
            raise UserError(f"{name}: {key} = {value!r} must be {'finite numbers' if several else 'a finite number'}")
        if number < 0 or (key in ("total", "every") and number < 1):
            raise UserError(f"{name}: {key} = {value} must be {'at least 1' if key in ('total', 'every') else 'at least 0'}")
    if key == "milestones" and list(value) != sorted(set(value)):
        raise UserError(f"{name}: milestones = {value} must grow")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_text(part) for part in value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def ramped(f: Multiplier, warmup: int) -> Multiplier:
    """f behind a linear warm-up from 0: t / warmup of it while t < warmup."""
    return lambda t: f(t) * min(t / warmup, 1.0) if warmup > 0 else f(t)


def warmed(f: Multiplier, warmup: int) -> Multiplier:
    """f, counted from the end of a linear warm-up from 0 to f(0)."""
    return ramped(lambda t: f(max(t - warmup, 0)), warmup)
