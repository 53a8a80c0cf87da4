"""The generalisation gap: training and validation score on one axis. Goodfellow, Bengio and Courville 2016, Deep Learning, section 5.2"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thalweg.core.canvas import COLOURS, INK, curve, label, legend, sheet
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure


@picture
def gap(history, *, metric: str | None = None) -> Figure:
    """Training and validation values of one metric over the run, with what lies between them.

    history: needs the columns `train_<metric>` and `valid_<metric>`; rows where one of them is not finite are left out. metric: its name;
    None: the first that has both, the loss only where there is no other. The axis below is the epoch where the history has it, else the
    step. Raises UserError where a column is missing, or the two are never finite in one row.

    >>> figure = gap({"step": [0, 9], "train_accuracy": [0.5, 0.875], "valid_accuracy": [0.5, 0.75]})
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['training, 0.875 at the end', 'validation, 0.75 at the end']
    """
    chosen = metric or _first([str(column) for column in history.columns])
    both = history.replace([np.inf, -np.inf], np.nan)
    both = both.dropna(subset=[column for column in (f"train_{chosen}", f"valid_{chosen}") if column in both])
    against = "epoch" if "epoch" in both and both["epoch"].notna().all() else "step"
    x, training = curve(both, f"train_{chosen}", against)
    _, validation = curve(both, f"valid_{chosen}", against)
    figure, (axes,) = sheet(6.4, 3.8)
    distance = abs(training[-1] - validation[-1])
    axes.fill_between(x, training, validation, color=INK, alpha=0.09, linewidth=0, label=f"gap, {distance:.3g} at the end")
    for values, colour, marker, name in ((training, COLOURS[0], "o", "training"), (validation, COLOURS[1], "s", "validation")):
        axes.plot(x, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=f"{name}, {values[-1]:.3g} at the end")
    label(axes, "Generalisation gap", "epoch" if against == "epoch" else "step (updates done)", chosen, grid=True)
    legend(axes)
    return figure


def _first(columns: list[str]) -> str:
    found = [c.removeprefix("train_") for c in columns if c.startswith("train_") and f"valid_{c.removeprefix('train_')}" in columns]
    if not found:
        raise UserError(f"the gap needs train_<metric> and valid_<metric> of one metric; the history has {', '.join(columns)}")
    return next((name for name in found if name != "loss"), found[0])
