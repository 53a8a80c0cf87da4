"""Gradient flow: what reaches each layer, how far a step moves it, and how many of its units are dead. Glorot and Bengio 2010, figure 7"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thalweg.core.canvas import COLOURS, INK, LONGEST, MARKERS, SOFT, beneath, label, sheet, tint
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure

MOST = 60
"""Layers of a picture."""


@picture
def gradient_flow(flow) -> Figure:
    """Each layer's norms of weight, gradient and signal on one logarithmic axis, and beside them the shares of dead and saturated units.

    flow: what `thalweg.probes.gradients` gives. Raises UserError where there is no layer, or more than can be told apart.

    >>> from types import SimpleNamespace
    >>> layer = SimpleNamespace(name="0", kind="Linear", weight=2.0, gradient=0.1, update_ratio=float("nan"), signal=0.3, dead=0.5,
    ...     saturated=float("nan"), frozen="")
    >>> [axes.get_title(loc="left") for axes in gradient_flow(SimpleNamespace(layers=(layer,))).axes]
    ['Gradient flow', 'Units']
    """
    layers = flow.layers
    if not 0 < len(layers) <= MOST:
        raise UserError(f"gradient flow shows 1 to {MOST} layers, and there are {len(layers)}; take a part of the model")
    names = [f"{one.name if len(one.name) <= LONGEST else '…' + one.name[1 - LONGEST :]} {one.kind}{' (frozen)' * bool(one.frozen)}"
             for one in layers]  # fmt: skip
    figure, (left, right) = sheet(8.6, 1.5 + 0.27 * max(len(layers), 4), across=2)
    grid = left.get_gridspec()
    assert grid is not None
    grid.set_width_ratios([3, 1.5])
    rows = np.arange(len(layers))
    series = (("weight", "norm of the weights"), ("gradient", "norm of the gradient"), ("signal", "norm of the signal, dL / d output"),
              ("update_ratio", "a step, as a share of the weights"))  # fmt: skip
    for k, (key, text) in enumerate(series):
        values = np.array([getattr(one, key) for one in layers], float)
        there = np.isfinite(values) & (values > 0)
        if there.any():
            left.plot(
                values[there], rows[there], color=COLOURS[k], marker=MARKERS[k], markersize=5.5, linewidth=1.1,
                linestyle=("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))[k], label=text,
            )  # fmt: skip
    left.set_xscale("log")
    for k, (key, text) in enumerate((("dead", "dead"), ("saturated", "saturated"))):
        values = np.array([getattr(one, key) for one in layers], float)
        if np.isfinite(values).any():
            colour, hatch = ((COLOURS[0], ""), (tint(COLOURS[1], 0.6), "////"))[k]
            right.barh(
                rows + (k - 0.5) * 0.36, np.nan_to_num(values), height=0.34, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            left.plot([], [], color=colour, linewidth=5, linestyle=("-", (0, (0.5, 0.25)))[k], label=f"{text} units")
        for row in rows[np.isfinite(values)]:
            right.text(values[row] + 0.02, row + (k - 0.5) * 0.36, f"{values[row]:.0%}", fontsize=7.5, color=INK, va="center")
    for axes in (left, right):
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_yticks(rows, names if axes is left else [])
    right.set_xlim(0, 1.18)
    right.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    label(left, "Gradient flow", "norm, or share", "", grid=True)
    label(right, "Units", "share of the units", "", grid=True)
    left.set_ylabel("layers, from the input")
    beneath(figure, left)
    right.tick_params(axis="y", length=0)
    left.axvline(1.0, color=SOFT, linewidth=0.8)
    return figure
