"""The learning rate over the steps of a run, as its schedule set it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalweg.core.canvas import COLOURS, curve, label, sheet
from thalweg.core.picture import picture

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure


@picture
def learning_rate(history, *, log: bool = False) -> Figure:
    """The learning rate of each recorded step.

    history: needs the column lr. log: whether the rate is on a logarithmic axis, which does not show a rate of 0. Raises UserError where
    the history has no rates.

    >>> figure = learning_rate({"step": [0, 1, 2], "lr": [0.1, 0.05, 0.01]})
    >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
    [0.1, 0.05, 0.01]
    """
    steps, rates = curve(history, "lr")
    figure, (axes,) = sheet(6.4, 3.4)
    axes.plot(steps, rates, color=COLOURS[0], linewidth=1.8)
    if log and rates.max() > 0:
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.set_ylim(0, 1.06 * rates.max() or 1)
    label(axes, "Learning rate", "step (updates done)", "learning rate", grid=True)
    return figure
