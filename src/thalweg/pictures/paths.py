"""The paths of several rules on a function of one or two variables: on its curve, or over its contours."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.canvas import COLOURS, DASHES, INK, MARKERS, SOFT, beneath, blend, label, levels, sheet, tint
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.core.canvas import Figure

SIDE = 161
"""Points of the grid along each axis."""

AWAY = 1.3
"""A path that goes away may widen the picture by this share of what the others take, to each side; the rest of it is cut off."""

TITLE = 76
"""Letters of a line of the title."""

NAME = 40
"""Letters of a rule's name."""

MARKED = 30
"""Steps of a path that have a marker, at most."""


@picture
def paths(trace, *, step: int | None = None) -> Figure:
    """Where each rule went, up to a step or whole; each step a marker, the last one larger.

    A path that leaves the picture is cut off at its edge. The legend says when, and the function's value at the end.

    >>> from types import SimpleNamespace
    >>> walked = {"gd": np.array([[2.0], [1.0], [0.5]])}
    >>> losses = {"gd": np.array([4.0, 1.0, 0.25])}
    >>> figure = paths(SimpleNamespace(name="x^2", paths=walked, losses=losses, minimisers=(), function=lambda x: x[:, 0] ** 2))
    >>> figure.axes[0].get_lines()[0].get_ydata().tolist(), figure.legends[0].get_texts()[0].get_text()
    ([4.0, 1.0, 0.25], 'gd: 0.25')
    """
    walked = {name: np.asarray(points, float) for name, points in trace.paths.items()}
    if not walked:
        raise UserError("the trace has no path; there is nothing to draw")
    whole = np.concatenate(list(walked.values()))
    if whole.shape[1] not in (1, 2):
        raise UserError(f"these paths have {whole.shape[1]} variables; a picture shows one or two")
    box = _window(walked, trace.losses, trace.minimisers)
    figure, (axes,) = sheet(6.6, 4.6)
    heights: dict[str, np.ndarray] = {}
    if whole.shape[1] == 1:
        x = np.linspace(*box[0], 801)
        curve = trace.function(x[:, None])
        heights = {name: np.asarray(trace.losses[name], float) for name in walked}
        low, high = np.nanmin(np.where(np.isfinite(curve), curve, np.nan)), np.nanmax(np.where(np.isfinite(curve), curve, np.nan))
        box.append((float(low - 0.06 * (high - low)), float(high + 0.06 * (high - low))))
    for k, (name, points) in enumerate(walked.items()):
        line = points[: None if step is None else step + 1]
        y = line[:, 1] if not heights else heights[name][: len(line)]
        _path(axes, k, f"{_short(name)}: {_ends(points, trace.losses[name], box, whole.shape[1])}", line[:, 0], y)
    if heights:
        axes.plot(x, curve, color=SOFT, linewidth=1.2, zorder=1)
    else:
        _contours(axes, trace, box)
    axes.set_xlim(*box[0])
    axes.set_ylim(*box[1])
    first = next(iter(walked.values()))[0]
    y0 = first[1] if not heights else next(iter(heights.values()))[0]
    axes.scatter([first[0]], [y0], s=90, facecolor="none", edgecolor=INK, linewidth=1.3, zorder=6, label="start")
    least = [(m[0], m[1] if not heights else float(trace.function(np.array([m]))[0])) for m in trace.minimisers]
    if least:
        x, y = np.array(least).T
        axes.scatter(x, y, s=110, marker="*", facecolor="white", edgecolor=INK, linewidth=1.1, zorder=6, label="minimum")
    title = "\n".join(textwrap.wrap(getattr(trace, "name", ""), TITLE))
    label(axes, title, "x" if heights else "x1", "value" if heights else "x2", grid=bool(heights))
    beneath(figure, axes)
    return figure


def _path(axes: Axes, k: int, name: str, x: np.ndarray, y: np.ndarray) -> None:
    colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
    axes.plot(
        x, y, color=colour, linestyle=DASHES[k % len(DASHES)], linewidth=1.5, marker=marker, markersize=5.2, markeredgecolor="white",
        markeredgewidth=0.4, markevery=max(1, -(-len(x) // MARKED)), zorder=3, label=name,
    )  # fmt: skip
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    at = there[-1:] if len(there) else slice(0)
    axes.plot(x[at], y[at], color=colour, marker=marker, markersize=8.5, markeredgecolor="white", linestyle="none", zorder=5)


def _contours(axes: Axes, trace: Any, box: list[tuple[float, float]]) -> None:
    x, y = (np.linspace(*ends, SIDE) for ends in box)
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    values = trace.function(grid).reshape(SIDE, SIDE)
    at = levels(values)
    shown = np.ma.masked_invalid(values)
    if len(at) > 1:
        shades = blend([tint("#0f3d66", share) for share in (0.34, 0.16, 0.04)], len(at) + 1)  # pale: every path stands out from it
        axes.contourf(x, y, shown, levels=at, colors=shades(np.arange(len(at) + 1)), extend="both")
        axes.contour(x, y, shown, levels=at, colors="#5a6f86", linewidths=0.55, alpha=0.8)


def _window(walked: dict[str, np.ndarray], losses: Any, minimisers: Any) -> list[tuple[float, float]]:
    """What the picture shows, (low, high) for each variable: the paths that stay, and of the others what is near."""
    starts = np.array([points[0] for points in walked.values()])
    kept = [starts, *(np.array([m], float) for m in minimisers)]
    gone: list[np.ndarray] = []
    for name, points in walked.items():
        loss = np.asarray(losses[name], float)
        stays = bool(np.isfinite(points).all() and np.isfinite(loss).all() and loss[-1] <= loss[0])
        (kept if stays else gone).append(points)
    known = np.concatenate(kept)
    low, high = known.min(0), known.max(0)
    size = np.where(high > low, high - low, max(float((high - low).max()), float(np.abs(known[0]).max()), 1.0))
    for points in gone:
        near = points[(np.isfinite(points) & (points >= low - AWAY * size) & (points <= high + AWAY * size)).all(1)]
        if len(near):
            known = np.concatenate([known, near])
    low, high = known.min(0), known.max(0)
    wide = high - low
    wide = np.maximum(wide, 0.3 * wide.max() if wide.max() > 0 else np.maximum(1.0, np.abs(known[0])))
    middle = (high + low) / 2
    return [(float(m - 0.6 * w), float(m + 0.6 * w)) for m, w in zip(middle, wide, strict=True)]


def _ends(points: np.ndarray, losses: Any, box: list[tuple[float, float]], variables: int) -> str:
    """How a path ended, in the legend's words."""
    inside = np.isfinite(points).all(1)
    for k in range(variables):
        inside &= (points[:, k] >= box[k][0]) & (points[:, k] <= box[k][1])
    if not inside[-1]:
        last = int(np.flatnonzero(inside)[-1]) if inside.any() else 0
        return f"leaves the picture at step {last + 1}"
    return f"{float(np.asarray(losses, float)[-1]):.3g}"


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"
