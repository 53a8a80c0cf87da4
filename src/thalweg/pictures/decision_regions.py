"""The decision regions of a model of two inputs: which class it gives every point of the plane. Duda, Hart and Stork 2001, section 2.4"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thalweg.core.canvas import COLOURS, MARKERS, SOFT, blend, decisions, label, labels, legend, named, scores, sheet, tint
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure

SIDE = 240
"""Points of the grid along each axis."""

MOST = 1500
"""Rows that are drawn, evenly taken from all."""


@picture
def decision_regions(model, train, classes=None) -> Figure:
    """The plane in the colours of the classes that the model gives its points, and the rows in those of their own classes.

    model: any that takes two numbers a row and tells classes apart. train: inputs (n, 2) and labels (n,) or (n, 1). classes: names in the
    order of the labels. Raises UserError where rows have not two inputs, and where the targets are no classes, or others than the model's.

    >>> import torch
    >>> X = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    >>> figure = decision_regions(torch.nn.Identity(), (X, torch.tensor([1, 0, 0])))
    >>> plane = figure.axes[0].images[0].get_array()  # (rows from below, columns)
    >>> int(plane[0, -1]), int(plane[-1, 0])
    (0, 1)
    """
    inputs, targets = train
    if inputs.dim() != 2 or inputs.shape[1] != 2:
        raise UserError(f"decision regions are for rows of two numbers, (n, 2), and these inputs have shape {tuple(inputs.shape)}")
    points = inputs.detach().cpu().double()
    low, high = points.amin(0), points.amax(0)
    margin = 0.08 * torch.where(high > low, high - low, 1.0)
    low, high = low - margin, high + margin
    horizontal, vertical = (torch.linspace(float(low[k]), float(high[k]), SIDE, dtype=torch.float64) for k in (0, 1))
    grid = torch.cartesian_prod(vertical, horizontal).flip(1).to(inputs.dtype)  # (SIDE * SIDE, 2), row by row from below
    outputs = scores(model, grid)
    count = max(2, outputs.shape[1])
    truth, names = labels(targets, count), named(classes, count)
    figure, (axes,) = sheet(6.2, 5.0)
    (left, right), (below, above) = (_edges(float(low[k]), float(high[k])) for k in (0, 1))
    axes.imshow(
        decisions(outputs).reshape(SIDE, SIDE).numpy(), origin="lower", extent=(left, right, below, above), aspect="auto",
        cmap=blend([tint(_colour(k), 0.28) for k in range(count)], count), vmin=-0.5, vmax=count - 0.5, interpolation="nearest",
    )  # fmt: skip
    for margin in _margins(outputs):  # (SIDE * SIDE,): 0 on the border of a class
        if margin.min() < 0 < margin.max():
            axes.contour(horizontal, vertical, margin.reshape(SIDE, SIDE), levels=[0.0], colors=SOFT, linewidths=1.0)
    shown = torch.linspace(0, len(points) - 1, min(MOST, len(points)), dtype=torch.float64).long()
    for k in range(count):
        of = shown[truth[shown] == k]
        if len(of):
            x, y = points[of].T.numpy()
            axes.scatter(
                x, y, s=22, color=_colour(k), marker=MARKERS[k % len(MARKERS)], edgecolor="white", linewidth=0.5,
                label=names[k], zorder=3,
            )  # fmt: skip
    wrong = int((decisions(scores(model, inputs)) != truth).sum())
    label(axes, f"Decision regions: {wrong} of {len(points)} rows on the wrong side", "first input", "second input")
    legend(axes, "class")
    return figure


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _margins(outputs: Tensor) -> list[Tensor]:
    """By how much a class is ahead of the next, (n,) for each class; of two classes one is enough."""
    if outputs.shape[1] == 1:
        return [outputs[:, 0]]
    best, second = outputs.topk(2, dim=1).values.T
    ahead = [torch.where(column == best, best - second, column - best) for column in outputs.T]
    return ahead[:1] if len(ahead) == 2 else ahead


def _edges(low: float, high: float) -> tuple[float, float]:
    """Where the pixels end whose middles are the grid's points."""
    half = (high - low) / (SIDE - 1) / 2
    return low - half, high + half
