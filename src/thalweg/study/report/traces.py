"""What figures are made of: traces, robust ranges, and text and numbers that are safe in Plotly's JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

DASHES = ("solid", "dash", "dot", "dashdot")
"""Colours repeat after eight series, the dash then changes."""

COLOURS = 8

POWERS = {"exponentformat": "power"}


def robust(arrays: Sequence[np.ndarray], log: bool) -> tuple[float, float] | None:
    """A range of y (of log10 y if `log`) that no outlier flattens, with a margin; None without a finite value.

    Within a series, what lies more than three spans beyond its 10 % and 90 % quantiles is cut off; a series that reaches
    more than ten times as far as the median one is left out.
    """
    spans = []
    for values in arrays:
        values = np.asarray(values, float)
        values = values[np.isfinite(values) & ((values > 0) | (not log))]
        if len(values):
            values = np.log10(values) if log else values
            a, b = np.quantile(values, [0.1, 0.9])
            near = values[(values >= a - 3 * (b - a)) & (values <= b + 3 * (b - a))]
            spans.append((near.min(), near.max()) if len(near) else (a, b))
    if not spans:
        return None
    low, high = np.array(spans).T
    middle, reach = np.median([low, high]), np.median(high - low) + np.median(np.abs(high - np.median(high)))
    near = (high <= middle + 10 * reach) & (low >= middle - 10 * reach) if reach > 0 else np.ones(len(low), bool)
    near = near if near.any() else np.ones(len(low), bool)
    low, high = float(low[near].min()), float(high[near].max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def figure(
    key: str, title: str, caption: str, data: list[dict[str, Any]], finite: Sequence[np.ndarray], axis: str, share: bool, log: bool
) -> dict[str, Any]:
    """A figure over updates with the y-ranges of both scales; `log` is how it opens."""
    found = {kind: robust(finite, kind == "log") for kind in ("linear", "log")}
    layout = {
        "xaxis": {"title": {"text": "Updates"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": safe(axis)}, **tickformat(share)},
        "hovermode": "closest",
    }
    ranges = {kind: plain(ends) if ends else None for kind, ends in found.items()}
    return {
        "key": key, "title": title, "caption": caption, "data": data, "layout": layout, "ranges": ranges,
        "log": log and ranges["log"] is not None,
    }  # fmt: skip


def line(k: int, label: str, x: np.ndarray, y: np.ndarray, name: str, thin: bool = False) -> dict[str, Any]:
    hover = f"{safe(name)}<br>%{{x:.6~g}}: %{{y:.4~g}}<extra></extra>"
    return trace(k, label, "broken" if thin else "line", x=plain(x), y=plain(y), mode="lines", hovertemplate=hover)


def band(k: int, label: str, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """A closed polygon: along the upper edge and back along the lower."""
    outline = {"x": plain([*x, *x[::-1]]), "y": plain([*high, *low[::-1]])}
    return trace(k, label, "band", **outline, mode="lines", fill="toself", hoverinfo="skip")


def trace(k: int, label: str, role: str, **rest: Any) -> dict[str, Any]:
    line = {"dash": DASHES[k // COLOURS % len(DASHES)]} if role == "line" else {}
    return {"type": "scatter", "name": safe(label), "meta": {"series": k, "role": role}, "line": line, **rest}


def tickformat(share: bool) -> dict[str, Any]:
    return {"tickformat": ".2~%"} if share else dict(POWERS)


def plain(values: Iterable[Any]) -> list[float | None]:
    """Numbers for JSON: five significant digits, None for what is not finite (JSON knows neither nan nor inf)."""
    return [float(f"{v:.5g}") if v is not None and math.isfinite(v) else None for v in values]


def safe(text: str) -> str:
    """Text for Plotly, which reads a little HTML in labels: a user's < stays a <, our line breaks stay line breaks."""
    return "<br>".join(part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for part in text.split("<br>"))
