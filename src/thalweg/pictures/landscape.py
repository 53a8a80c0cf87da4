"""A loss landscape: a curve, contours, or a surface with its floor plan. Li et al. 2018, arXiv:1712.09913, figure 1"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.canvas import COLOURS, INK, MARKERS, SOFT, beneath, blend, label, levels, scale, sheet, tint
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure

AXES = {
    "random": "direction {k}, in weights' norms", "given": "along direction {k}", "between": "distance in weights",
    "trajectory": "component {k}: {share:.0%} of the variance",
}  # fmt: skip
SHADES = ("#0b2a4a", "#2f6ea5", "#9cc3df", "#f1f5f9")
"""From the valley to the heights: lightness rises all the way, also in grey."""


@picture
def landscape(landscape, *, surface: bool = False, log: bool | None = None) -> Figure:
    """The losses of a landscape, and where its path or its solutions lie.

    surface: a plane's losses as heights instead of contours. log: whether losses are shown by their logarithms; None: where they are
    positive and the largest is more than 30 times the middle one. Places where the loss is not finite stay white.
    Raises UserError where no loss is finite.

    >>> from types import SimpleNamespace
    >>> line = np.array([-1.0, 0.0, 1.0])
    >>> empty = np.zeros((0, 1))
    >>> given = SimpleNamespace(kind="random", alphas=line, betas=np.zeros(0), losses=line**2, path=empty, explained=np.array([np.nan]))
    >>> figure = landscape(given)
    >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
    [1.0, 0.0, 1.0]
    """
    values = np.asarray(landscape.losses, float)
    known = values[np.isfinite(values)]
    if not len(known):
        raise UserError("no loss of this landscape is finite; look nearer to the weights, with a smaller span")
    logged = log if log is not None else bool(known.min() > 0 and known.max() > 30 * np.median(known))
    if values.ndim == 1:
        return _line(landscape, values, logged)
    return _surface(landscape, values, logged) if surface else _plane(landscape, values, logged)


def _named(landscape: Any, k: int) -> str:
    explained = np.asarray(landscape.explained, float)
    if landscape.kind == "between" and np.ndim(landscape.losses) == 1:
        return "from the model (0) to the other solution (1)"
    return AXES[landscape.kind].format(k=k + 1, share=explained[k] if len(explained) > k else np.nan)


def _title(landscape: Any) -> str:
    explained = np.asarray(landscape.explained, float)
    if landscape.kind == "trajectory":
        return f"Loss along the trajectory: {np.nansum(explained):.1%} of its variance is shown"
    words = {"random": "along random directions", "given": "along given directions", "between": "between solutions"}
    return f"Loss {words[landscape.kind]}"


def _line(landscape: Any, values: np.ndarray, logged: bool) -> Figure:
    figure, (axes,) = sheet(6.4, 3.8)
    axes.plot(landscape.alphas, values, color=COLOURS[0], linewidth=1.8, label="loss on the line")
    path = np.asarray(landscape.path, float)
    if len(path):
        _points(axes, landscape, path[:, 0])
    elif landscape.kind in ("random", "given"):
        axes.axvline(0.0, color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)), label="the model")
    if logged:
        axes.set_yscale("log")
    label(axes, _title(landscape), _named(landscape, 0), "loss", grid=True)
    beneath(figure, axes)
    return figure


def _points(axes: Any, landscape: Any, x: np.ndarray) -> None:
    """The losses of a trajectory or of solutions beside those on the line."""
    true = np.asarray(landscape.path_true, float)
    axes.plot(
        x, true, color=COLOURS[1], linestyle=(0, (1.2, 1.6)) if len(x) > 2 else "none", marker="s", markersize=5, linewidth=1.3,
        markevery=max(1, len(x) // 30), label="true loss of its points" if landscape.kind == "trajectory" else "solutions",
    )  # fmt: skip


def _shown(values: np.ndarray, logged: bool) -> tuple[np.ndarray, str]:
    """What heights and colours stand for."""
    finite = np.where(np.isfinite(values), values, np.nan)
    if not logged:
        return finite, "loss"
    return np.log10(np.where(finite > 0, finite, np.nan)), "log10 of the loss"


def _plane(landscape: Any, values: np.ndarray, logged: bool) -> Figure:
    figure, (axes,) = sheet(6.6, 5.0)
    shown, name = _shown(values, logged)
    at = levels(shown, 18)
    x, y = np.asarray(landscape.alphas), np.asarray(landscape.betas)
    grid = np.ma.masked_invalid(shown.T)
    if len(at) > 1:
        shades = blend([tint(shade, 0.8) for shade in SHADES], len(at) + 1)
        drawn = axes.contourf(x, y, grid, levels=at, colors=shades(np.arange(len(at) + 1)), extend="both")
        axes.contour(x, y, grid, levels=at, colors=INK, linewidths=0.4, alpha=0.55)
        scale(figure, drawn, axes, name)
        figure.axes[-1].yaxis.set_major_formatter("{x:.3g}")
    path = np.asarray(landscape.path, float)
    if len(path) and landscape.kind == "trajectory":
        axes.plot(*path.T, color="white", linewidth=3.4, zorder=3)  # an edge, so that the path stands out from the deepest shade too
        axes.plot(
            *path.T, color=COLOURS[1], linewidth=1.7, marker="o", markersize=3.6, markevery=max(1, len(path) // 30), zorder=4,
            label="trajectory",
        )  # fmt: skip
        axes.plot(*path[0], color=INK, marker="o", markersize=9, fillstyle="none", linestyle="none", zorder=5, label="first point")
        axes.plot(*path[-1], color=INK, marker="X", markersize=8.5, markeredgecolor="white", linestyle="none", zorder=5, label="last point")
    elif len(path):
        for k, point in enumerate(path):
            name = "the model" if k == 0 else f"solution {k}"
            axes.plot(*point, color=COLOURS[1], marker=MARKERS[k], markersize=9, markeredgecolor="white", linestyle="none", label=name)
    else:
        axes.plot(0, 0, color=COLOURS[1], marker="X", markersize=9, markeredgecolor="white", linestyle="none", label="the model")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    label(axes, _title(landscape), _named(landscape, 0), _named(landscape, 1))
    beneath(figure, axes)
    return figure


def _surface(landscape: Any, values: np.ndarray, logged: bool) -> Figure:
    from matplotlib.figure import Figure

    shown, name = _shown(values, logged)
    figure = Figure(figsize=(7.0, 5.6), dpi=110, facecolor="white")
    axes: Any = figure.add_axes((0.02, 0.03, 0.9, 0.87), projection="3d")
    x, y = np.meshgrid(landscape.alphas, landscape.betas, indexing="ij")
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    drop = 0.35 * (high - low) or 1.0
    shades = blend([tint(shade, 0.9) for shade in SHADES])
    axes.plot_surface(x, y, shown, cmap=shades, rcount=60, ccount=60, linewidth=0.15, edgecolor="#24292f55", antialiased=True)
    at = levels(shown, 12)
    if len(at) > 1:
        axes.contour(x, y, np.ma.masked_invalid(shown), levels=at, offset=low - drop, cmap=shades.reversed(), linewidths=0.8)
    axes.set_zlim(low - drop, high)
    axes.set_zticks([tick for tick in axes.get_zticks() if low <= tick <= high])  # the floor lies lower, and has no height
    axes.view_init(elev=28, azim=-52)
    axes.set_title(_title(landscape), loc="left", fontsize=10.5, color=INK, x=0.04, y=1.0)
    for axis, text in ((axes.xaxis, _named(landscape, 0)), (axes.yaxis, _named(landscape, 1)), (axes.zaxis, name)):
        axis.set_label_text(text, fontsize=9, color=INK)
        axis.labelpad = 9
        axis.set_pane_color((1, 1, 1, 1))
        axis._axinfo["grid"].update(color="#dfe3e8", linewidth=0.6)
    axes.tick_params(labelsize=8, colors=INK, pad=2)
    axes.set_box_aspect((1, 1, 0.72), zoom=0.92)
    return figure
