"""A history of losses, however it was kept: a list, a dict of lists, or a table with a column for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from thalweg.errors import UserError


def columns(history: Any) -> dict[str, np.ndarray]:
    """The numbers of a history by name, each (records,), nan where a record has none; a plain list is the column `loss`.

    history: a list of losses, a dict of lists, a list of dicts, or a DataFrame. Raises UserError for anything else.

    >>> columns([2.0, 1.0])
    {'loss': array([2., 1.])}
    """
    if isinstance(history, Mapping):
        table: Any = {str(k): v for k, v in history.items()}
    elif hasattr(history, "columns") and hasattr(history, "to_dict"):
        table = history.to_dict("list")
    else:
        try:
            records = list(history)
        except TypeError:
            records = []
        if records and all(isinstance(record, Mapping) for record in records):
            names = dict.fromkeys(str(name) for record in records for name in record)
            table = {name: [record.get(name) for record in records] for name in names}
        else:
            table = {"loss": records}
    found = {}
    for name, values in table.items():
        try:
            numbers = np.array([np.nan if v is None else float(v) for v in values])
        except (TypeError, ValueError):
            continue
        if numbers.size:
            found[name] = numbers
    if not found:
        raise UserError("the history must be a list of losses, a dict of lists or a table with a column loss; it has no numbers")
    return found


def present(values: np.ndarray | None) -> np.ndarray:
    """What is recorded, without the gaps; infinities and nan behind the last number stand for what diverged and stay."""
    if values is None:
        return np.zeros(0)
    known = np.flatnonzero(~np.isnan(values))
    return values[~np.isnan(values)] if len(known) else np.zeros(0)


def losses(history: Any) -> np.ndarray:
    """The training loss, step by step as far as it was recorded: the column loss, or train_loss."""
    table = columns(history)
    name = next((name for name in ("loss", "train_loss", "train") if name in table), None)
    if name is None:
        raise UserError(f"the history has no column loss; it has {', '.join(table)}")
    return present(table[name])


def rises(values: np.ndarray) -> float:
    """The share of steps at which a loss rose; 0 with fewer than two records."""
    return float((np.diff(values) > 0).mean()) if len(values) > 1 else 0.0


def trend(values: np.ndarray) -> Literal["falls", "stays", "grows"]:
    """What a loss does in the long run, by its upper envelope (the 90 % quantile) over the last third beside that over the first.

    It falls where the envelope and the mean are lower, and grows where the envelope is ten times higher or a value is not finite: at the
    edge of stability the loss rises in bursts, and falls again.

    >>> trend(np.array([4.0, 5, 3, 4, 2, 3, 1, 2, 0, 1])), trend(np.array([1.0, 3, 9, 27, 81, 243])), trend(np.ones(6))
    ('falls', 'grows', 'stays')
    """
    if not np.isfinite(values).all():
        return "grows"
    if len(values) < 3:
        return "stays"
    first, last = values[: len(values) // 3], values[-(len(values) // 3) :]
    before, after = np.quantile(first, 0.9), np.quantile(last, 0.9)
    if after < before and last.mean() < first.mean():
        return "falls"
    return "grows" if after > 10 * before else "stays"
