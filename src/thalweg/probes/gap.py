"""The gap between training and validation: overfitting, where the one falls and the other does not, and underfitting, where neither
does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from thalweg.core.history import columns
from thalweg.core.probe import probe
from thalweg.errors import UserError

HIGHER = ("accuracy", "acc", "r2")
"""Metrics that are better when higher; they are looked at as 1 minus themselves."""


@dataclass(frozen=True)
class Gap:
    """kind: what is the case. train, valid: the last figures; gap: the second less the first. best_valid, best: the lowest validation
    figure, and the record that has it, from 0. rise: how far validation rose from there, and open: the gap, and fallen: how far training
    fell, each a share of what a guess loses. baseline: that loss. metric: which figure; of accuracy and R^2 all figures are 1 minus them.
    text: in words.
    """

    kind: Literal["overfitting", "underfitting", "fine", "unknown"]
    train: float
    valid: float
    gap: float
    best_valid: float
    best: int
    rise: float
    open: float
    fallen: float
    baseline: float
    metric: str
    text: str


@probe
def gap(
    history: Any, *, metric: str | None = None, baseline: float | None = None, rise: float = 0.05, open: float = 0.25, fallen: float = 0.3
) -> Gap:
    """Whether a run overfits or underfits, by its history.

    history: a dict of lists or a table with train_<metric> and valid_<metric>, or val_<metric>; the column loss stands for a train_loss
    that is missing. metric: which; the loss where there is one. baseline: what a guess loses, without it the first figure of training.
    Overfitting: validation rose from its best by the share `rise` of the baseline while training fell, or the gap is the share `open` of
    it. Underfitting: not that, and training fell by less than the share `fallen` of it. Raises UserError where the history has no such
    columns.

    >>> gap({"train_loss": [2.0, 1.0, 0.5, 0.1], "valid_loss": [2.0, 1.2, 1.0, 1.4]}).text.split(":")[0]
    'overfitting'
    """
    table = columns(history)
    name, train, valid = _pair(table, metric)
    if len(train) < 2:
        none = math.nan
        said = "unknown: fewer than two records have figures of both sides"
        return Gap("unknown", none, none, none, none, -1, none, none, none, none, name, said)
    base = float(baseline if baseline is not None else train[0])
    size = abs(base) or 1.0
    finite = np.where(np.isfinite(valid), valid, np.inf)
    best = int(finite.argmin())
    last, end = float(train[-1]), float(valid[-1])
    rose, wide, fell = (end - float(finite[best])) / size, (end - last) / size, (base - last) / size
    figures = (last, end, end - last, float(finite[best]), best, rose, wide, fell, base, name)
    told = f"training {name} {last:.4g}, validation {end:.4g}, at its best {finite[best]:.4g} in record {best} of {len(valid) - 1}"
    if not (math.isfinite(last) and math.isfinite(end)):
        return Gap("unknown", *figures, f"unknown: the last figures are not finite ({told})")
    if (rose > rise and last < float(train[best])) or wide > open:
        return Gap("overfitting", *figures, f"overfitting: {told}; stop there, regularise, or get more data")
    if fell < fallen:
        return Gap(
            "underfitting", *figures, f"underfitting: {told}; training fell by only {100 * fell:.0f} % of a guess's {name}, {base:.4g}"
        )
    return Gap("fine", *figures, f"fine: {told}")


def _pair(table: dict[str, np.ndarray], metric: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    """The figures of both sides at the records that have both."""
    table = {("valid_" + k[4:] if k.startswith("val_") else k): v for k, v in table.items()}
    if "train_loss" not in table and "loss" in table:
        table["train_loss"] = table["loss"]
    both = [k[6:] for k in table if k.startswith("valid_") and "train_" + k[6:] in table]
    name = metric or next((k for k in ("loss", *both) if k in both), None)
    if name is None or name not in both:
        raise UserError(f"the history needs train_{name or 'loss'} and valid_{name or 'loss'}; it has {', '.join(table)}")
    train, valid = table["train_" + name], table["valid_" + name]
    if len(train) != len(valid):
        raise UserError(f"train_{name} has {len(train)} records and valid_{name} has {len(valid)}; give both for the same ones")
    seen = ~np.isnan(train) & ~np.isnan(valid)
    if seen.any() and (np.isnan(train[-1]) or np.isnan(valid[-1])) and ("loss" not in table or np.isnan(table["loss"][-1])):
        seen[-1] = True  # the end was not finite
    train, valid = train[seen], valid[seen]
    return (name, 1 - train, 1 - valid) if name in HIGHER else (name, train, valid)
