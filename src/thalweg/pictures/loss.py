"""The loss over the steps of a run: each record's batch, a running mean, and the validation loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thalweg.core.canvas import COLOURS, curve, label, legend, sheet
from thalweg.core.picture import picture

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure

WINDOW = 25
"""Records are averaged over a twenty-fifth of them."""


@picture
def loss(history, *, log: bool | None = None) -> Figure:
    """The loss of each record's batch over the steps; with 50 records or more their running mean; and the validation loss, if there.

    history: needs the column loss. log: whether the loss is on a logarithmic axis; None: where it is positive and falls tenfold.
    Raises UserError where the history has no loss.

    >>> figure = loss({"step": [0, 1, 2], "loss": [4.0, 2.0, 1.0], "valid_loss": [5.0, None, 2.0]})
    >>> figure.axes[0].get_lines()[1].get_ydata().tolist()
    [5.0, 2.0]
    """
    steps, values = curve(history, "loss")
    figure, (axes,) = sheet(6.4, 3.8)
    width = len(values) // WINDOW
    if width < 2:
        axes.plot(steps, values, color=COLOURS[0], linewidth=1.6, label="batch")
    else:
        axes.plot(steps, values, color=COLOURS[5], linewidth=0.8, alpha=0.6, label="batch")
        middle = slice((width - 1) // 2, (width - 1) // 2 + len(values) - width + 1)
        axes.plot(steps[middle], np.convolve(values, np.ones(width) / width, "valid"), color=COLOURS[0], linewidth=1.8, label="batch, mean")
    held = curve(history, "valid_loss") if "valid_loss" in history else None
    if held is not None:
        axes.plot(*held, color=COLOURS[1], linewidth=1.8, marker="o", markersize=3.5, label="validation")
    shown = values if held is None else np.concatenate([values, held[1]])
    if log if log is not None else shown.min() > 0 and shown.max() > 10 * shown.min():
        axes.set_yscale("log")
    label(axes, "Loss", "step (updates done)", "loss", grid=True)
    legend(axes)
    return figure
