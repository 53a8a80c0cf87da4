"""A Hessian's spectrum: its extreme eigenvalues with their residuals; its density if measured. Ghorbani et al. 2019, arXiv:1901.10159"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.canvas import COLOURS, INK, SOFT, beneath, label, sheet, tint
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.core.canvas import Figure


@picture
def spectrum(spectrum, *, log: bool | None = None) -> Figure:
    """The eigenvalues of largest size and the two ends, each with a bar as long as its residual; and the density, if there.

    log: whether values are on a symmetric logarithmic axis; None: where the largest is more than 100 times the least in size.

    >>> from types import SimpleNamespace
    >>> found = SimpleNamespace(values=np.array([8.0, 2.0]), residuals=np.array([0.1, 0.1]), largest=8.0, smallest=2.0)
    >>> figure = spectrum(found)
    >>> figure.axes[0].get_title(loc="left")
    'Curvature: from 2 to 8'
    """
    values, residuals = np.asarray(spectrum.values, float), np.asarray(spectrum.residuals, float)
    if not np.isfinite(values).any():
        raise UserError("no eigenvalue of this spectrum is finite; measure at weights where the loss is")
    density = getattr(spectrum, "density", None)
    figure, panels = sheet(6.6, 3.4 + 2.3 * (density is not None), down=1 + (density is not None))
    axes = panels[-1]
    ends = [(spectrum.largest, getattr(spectrum, "largest_residual", 0.0), "largest", "^", 1),
            (spectrum.smallest, getattr(spectrum, "smallest_residual", 0.0), "smallest", "v", 3)]  # fmt: skip
    ranks = np.arange(1, len(values) + 1)
    axes.axhline(0.0, color=SOFT, linewidth=0.9)
    axes.vlines(ranks, np.minimum(values, 0), np.maximum(values, 0), color=tint(COLOURS[0], 0.35), linewidth=2.2)
    axes.errorbar(
        ranks, values, yerr=np.abs(residuals), fmt="o", color=COLOURS[0], markersize=5.5, ecolor=INK, elinewidth=1.0, capsize=3.5,
        label="eigenvalues of largest size, and their residuals",
    )  # fmt: skip
    for k, (value, residual, name, marker, colour) in enumerate(ends):
        axes.errorbar(
            [len(values) + 1.4 + 0.8 * k], [value], yerr=[abs(residual)], fmt=marker, color=COLOURS[colour], markersize=7, ecolor=INK,
            elinewidth=1.0, capsize=3.5, label=f"{name}, {value:.4g}",
        )  # fmt: skip
    axes.set_xticks(ranks if len(ranks) <= 20 else ranks[:: len(ranks) // 10])
    axes.set_xlim(0.3, len(values) + 2.9)
    sizes = np.abs(values[values != 0])
    if log if log is not None else len(sizes) > 1 and sizes.max() > 100 * sizes.min():
        axes.set_yscale("symlog", linthresh=max(float(sizes.min()), 1e-9 * float(sizes.max())) if len(sizes) else 1.0)
    title = f"Curvature: from {spectrum.smallest:.4g} to {spectrum.largest:.4g}"
    label(axes, title if density is None else "", "rank", "eigenvalue", grid=True)
    if density is not None:
        _density(panels[0], density, title)
    beneath(figure, axes)
    return figure


def _density(axes: Axes, density: Any, title: str) -> None:
    at, height = (np.asarray(part) for part in density.curve())
    shown = height > 1e-6 * height.max()
    axes.fill_between(at, 1e-6 * height.max(), height, where=shown, color=tint(COLOURS[0], 0.25), linewidth=0)
    axes.plot(at, np.where(shown, height, np.nan), color=COLOURS[0], linewidth=1.4)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-6 * height.max())
    label(axes, title, "eigenvalue", "density", grid=True)
