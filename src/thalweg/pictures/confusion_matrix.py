"""The confusion matrix: how many rows of each true class were given which class. Stehman 1997, doi:10.1016/S0034-4257(97)00083-7"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from thalweg.core.canvas import COLOURS, FAINT, INK, blend, decisions, inches, label, labels, named, scale, scores, sheet, tint
from thalweg.core.picture import picture

if TYPE_CHECKING:
    from thalweg.core.canvas import Axes, Figure

DARK = 0.7
"""Shares above which white letters stand out from their cell more than dark ones do."""

SMALLEST = 7.0
"""Points of letters below which the cells are left without text."""


@picture
def confusion_matrix(model, test, classes=None) -> Figure:
    """Counts of (true class, predicted class), with each cell's share of its true class's rows, which is its colour; empty cells are blank.

    test: inputs (n, ...) and labels (n,) or (n, 1). classes: names in the order of the labels. Raises UserError where the targets are no
    classes, or other classes than the model's.

    >>> import torch
    >>> model, X = torch.nn.Identity(), torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    >>> figure = confusion_matrix(model, (X, torch.tensor([0, 1, 1])))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1', '100 %', '1', '50 %', '1', '50 %']
    """
    inputs, targets = test
    outputs = scores(model, inputs)
    count = max(2, outputs.shape[1])
    truth, names = labels(targets, count), named(classes, count)
    counts = torch.bincount(count * truth + decisions(outputs), minlength=count * count).reshape(count, count)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(0.66 * count, 2.4), 9.0)
    cell = 72 * side / count  # in points, as letters are measured
    size, small = min(10.0, 0.27 * cell), min(8.5, 0.55 * cell)
    written = size >= SMALLEST
    room = inches(max(names, key=len), small)
    turned = 72 * room > cell
    figure, (axes,) = sheet(side + room + (1.2 if written else 1.9), side + (0.75 * room if turned else 0.15) + 1.2)
    mesh = axes.pcolormesh(shares.numpy(), vmin=0, vmax=1, cmap=blend([(1, 1, 1), tint(COLOURS[0], 1)]), edgecolors=FAINT, linewidth=0.6)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    right = f"{100 * counts.trace() / counts.sum():.1f} % of {counts.sum()} rows right"
    label(axes, f"Confusion matrix\n{right}", "predicted class", "true class")
    axes.tick_params(labelsize=small)
    axes.set_xticks(torch.arange(count) + 0.5, names)
    axes.set_yticks(torch.arange(count) + 0.5, names)
    if turned:
        for text in axes.get_xticklabels():
            text.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")
    if written:
        _write(axes, counts, shares, size, size / cell)
    else:
        scale(figure, mesh, axes, "share of the true class's rows")
    return figure


def _write(axes: Axes, counts: torch.Tensor, shares: torch.Tensor, size: float, height: float) -> None:
    """Counts, and shares below them, into the cells that are not empty. size, height: of the letters, in points and in cells."""
    for i, j in counts.nonzero().tolist():
        share = float(shares[i, j])
        look: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if share > DARK else INK}
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"
        axes.text(j + 0.5, i + 0.5 - 0.55 * height, f"{counts[i, j]}", fontsize=size, **look)
        axes.text(j + 0.5, i + 0.5 + 0.75 * height, percent, fontsize=0.7 * size, **look)
