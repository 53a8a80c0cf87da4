"""What pictures are made with: the classes that a model decides for, the curves of a history, and the style that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.errors import UserCodeError, UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

COLOURS = ("#0f53ae", "#ef6d07", "#1ca77b", "#9b156b", "#7a4900", "#7491c3", "#908d49", "#35352f")
"""The classes and curves, in order: 3:1 against white, and any two apart for colour-blind eyes too; after eight they repeat."""

MARKERS = ("o", "s", "^", "D", "P", "v", "*", "X", "p", "h")
"""The classes' points; with ten of them and eight colours, forty classes look different."""

INK, SOFT, FAINT = "#24292f", "#6b7280", "#dfe3e8"
"""Text and lines of weight; what stands back; grids."""

DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
"""The curves' strokes: what colours cannot tell on grey paper, these and the markers do."""

LONGEST = 24
"""Letters of a class's name."""

CHUNK = 4096
"""Rows that go through the model at once."""


# --- data


def scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's outputs (n, classes), or (n, 1) where it gives one logit a row; float64, on the processor.

    Raises UserError where the outputs have another shape or are not finite.
    """
    first = next(model.parameters(), None)
    if first is not None:
        inputs = inputs.to(device=first.device, dtype=first.dtype if inputs.is_floating_point() else None)
    try:
        outputs = [model(part) for part in inputs.split(CHUNK)]
    except UserError:
        raise
    except Exception as error:
        raise UserCodeError(f"the model failed on rows of shape {tuple(inputs.shape[1:])}: {type(error).__name__}: {error}") from error
    if not all(isinstance(part, Tensor) and part.dim() in (1, 2) for part in outputs):
        raise UserError("a picture of classes needs a model that gives a score for each class, (n, classes), or one logit a row")
    whole = torch.cat(outputs).cpu().double()
    if not whole.isfinite().all():
        raise UserError("the model's outputs are not all finite: it has diverged; draw an earlier state of it")
    return whole.reshape(len(whole), -1)


def decisions(outputs: Tensor) -> Tensor:
    """The class of each row (n,), from what `scores` gives: the largest score, or the sign of the logit.

    >>> decisions(torch.tensor([[0.1, 0.7, 0.2]])).tolist(), decisions(torch.tensor([[-0.5], [2.0]])).tolist()
    ([1], [0, 1])
    """
    return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()


def labels(targets: Tensor, count: int) -> Tensor:
    """Targets as labels (n,), whole numbers in 0..count-1. Raises UserError for targets that are no classes, or others."""
    flat = targets.detach().cpu()
    flat = flat.reshape(-1) if flat.numel() == len(flat) else flat
    if flat.dim() != 1 or (flat.is_floating_point() and (flat != flat.round()).any()):
        raise UserError("a picture of classes needs labels, whole numbers (n,); these targets are numbers to predict, or several a row")
    flat = flat.long()
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= count:
        raise UserError(f"the labels go from {low} to {high}, and the model tells {count} classes apart, 0 to {count - 1}")
    return flat


def named(classes: Sequence[str] | None, count: int) -> list[str]:
    """The classes' names, cut where they are long, or their numbers. Raises UserError where there are not as many names as classes."""
    if classes is not None and len(classes) != count:
        raise UserError(f"classes has {len(classes)} names, and the model tells {count} classes apart; give one name a class")
    names = range(count) if classes is None else classes
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in map(str, names)]


def curve(history: pd.DataFrame, column: str, against: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """The finite values of a column, and where they stand. Raises UserError where there are none."""
    if column not in history or against not in history:
        absent = column if column not in history else against
        raise UserError(f"the history has no column {absent}; it has {', '.join(map(str, history.columns))}")
    x, y = (history[name].to_numpy(dtype=float, na_value=np.nan) for name in (against, column))
    there = np.isfinite(x) & np.isfinite(y)
    if not there.any():
        raise UserError(f"the history's column {column} holds no finite number; there is nothing to draw")
    return x[there], y[there]


# --- style


def inches(text: str, size: float) -> float:
    """About how wide a text is in letters of that size in points; seldom less than it is."""
    return 0.62 * size * len(text) / 72


def sheet(width: float, height: float, across: int = 1, down: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of that size in inches, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure, list(figure.subplots(down, across, squeeze=False).flat)


def label(axes: Axes, title: str, x: str = "", y: str = "", grid: bool = False, size: float = 10.5) -> None:
    """Title (of that size in points) and axis labels, ticks and frame in the common style."""
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=size, color=INK, pad=8)
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, color=SOFT, labelcolor=INK, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(SOFT)
    if grid:
        axes.grid(True, color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)


def legend(axes: Axes, title: str | None = None) -> None:
    """The legend of what is labelled, in the common style, where it hides least."""
    drawn = axes.legend(
        title=title, title_fontsize=8.5, fontsize=8.5, labelcolor=INK, handlelength=1.6, handletextpad=0.6, framealpha=0.85,
        edgecolor="none", facecolor="white",
    )  # fmt: skip
    drawn.get_title().set_color(INK)


def beneath(figure: Figure, axes: Axes, size: float = 8.5) -> None:
    """The legend of what is labelled in these axes below them, in as many columns as its longest text lets the figure have."""
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    wide = max(inches(name, size) for name in names) + 0.65
    columns = max(1, min(len(names), int((figure.get_figwidth() - 0.3) / wide)))
    drawn = figure.legend(
        handles, names, loc="outside lower left", ncols=columns, fontsize=size, labelcolor=INK, handlelength=2.6, frameon=False,
    )  # fmt: skip
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    drawn.set_in_layout(True)


def levels(values: np.ndarray, count: int = 16) -> np.ndarray:
    """Where contours of these values go, rising: at round numbers, or where most lie close to the least, ever wider apart above it.

    >>> levels(np.array([0.0, 1.0, 2.0]), 4).tolist()
    [0.5, 1.0, 1.5]
    """
    from matplotlib.ticker import MaxNLocator

    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    if not high > low:
        return np.array([low])
    above = np.quantile(known - low, (0.02, 0.5, 1.0))
    if above[2] > 30 * above[1] or (above[0] > 0 and above[2] > 300 * above[0]):
        least = max(float(above[0]), 1e-4 * (high - low))
        return low + np.geomspace(least, 0.98 * (high - low), count)
    found = np.asarray(MaxNLocator(count).tick_values(low, high))
    return found[(found > low) & (found < high)]


def scale(figure: Figure, drawn: ScalarMappable, axes: Axes | Sequence[Axes], name: str) -> None:
    """The scale of a picture's colours, beside these axes."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=35)
    bar.set_label(name, fontsize=9.5, color=INK)
    bar.ax.tick_params(labelsize=8.5, color=SOFT, labelcolor=INK, length=3)
    bar.outline.set_visible(False)


def tint(colour: str, share: float) -> tuple[float, float, float]:
    """A colour, as 0 to 1 of red, green and blue, that is this one for that share and white for the rest.

    >>> tint("#0000ff", 0.25)
    (0.75, 0.75, 1.0)
    """
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return 1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue)


def blend(colours: Sequence[tuple[float, float, float]], steps: int = 256) -> Any:
    """A colormap that goes through two colours or more in equal parts; with as many steps as colours, those alone."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("thalweg", list(colours), N=steps)
