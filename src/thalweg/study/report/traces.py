"""What figures are made of: traces, thinning, robust ranges, and text and numbers that are safe in Plotly's JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from thalweg.study.report.palette import look

POWERS = {"exponentformat": "power"}


def thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` of the points (n,) each, in order: the ends, and the smallest and the largest y of each of equal stretches.

    So a spike of a single record stays where it is and as high as it is.

    >>> y = np.zeros(1000); y[617] = 9.0
    >>> a, b = thin(np.arange(1000), y, 100)
    >>> len(a) <= 100, a[b == 9.0].tolist()
    (True, [617])
    """
    n = len(y)
    if n <= points:
        return x, y
    cuts = np.linspace(0, n, max(1, (points - 2) // 2) + 1).astype(int)
    picked = {0, n - 1}
    for a, b in pairwise(cuts):
        picked |= {int(a + np.argmin(y[a:b])), int(a + np.argmax(y[a:b]))}
    keep = np.array(sorted(picked))
    return x[keep], y[keep]


def calm(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and y, (n,) each, over `points` equal stretches.

    >>> calm(np.arange(6.0), np.array([0.0, 2.0, 0.0, 2.0, 0.0, 2.0]), 3)
    (array([0.5, 2.5, 4.5]), array([1., 1., 1.]))
    """
    cuts = np.linspace(0, len(y), points + 1).astype(int)
    sizes = np.diff(cuts)
    return np.add.reduceat(np.asarray(x, float), cuts[:-1]) / sizes, np.add.reduceat(y, cuts[:-1]) / sizes


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


def worth_showing(scores: np.ndarray, higher: bool, share: bool) -> tuple[float, float]:
    """The range of scores, (trials,), shown: shares are bounded and shown whole; others reach from the best to four times as far
    as the best two fifths do, because a bad rate that just did not diverge may be off by powers of ten.
    """
    if not len(scores):
        return 0.0, 1.0
    gaps = np.sort(scores.max() - scores if higher else scores - scores.min())  # how far behind the best, rising
    usual = gaps[int(0.4 * (len(gaps) - 1))] or np.median(gaps) or gaps[-1]
    reach = float(gaps[-1] if share else gaps[gaps <= 4 * usual].max())
    margin = 0.06 * reach or 0.05 * abs(float(scores[0])) or 0.5
    best = float(scores.max() if higher else scores.min())
    return (best - reach - margin, best + margin) if higher else (best - margin, best + reach + margin)


def figure(
    key: str, title: str, caption: str, data: list[dict[str, Any]], finite: Sequence[np.ndarray], axis: str, share: bool, log: bool,
    across: str = "Updates",
) -> dict[str, Any]:  # fmt: skip
    """A figure over updates (or what `across` names) with the y-ranges of both scales; `log` is how it opens."""
    found = {kind: robust(finite, kind == "log") for kind in ("linear", "log")}
    layout = {
        "xaxis": {"title": {"text": across}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": safe(axis)}, **tickformat(share)},
        "hovermode": "closest",
    }
    ranges = {kind: plain(ends) if ends else None for kind, ends in found.items()}
    return {
        "key": key, "title": title, "caption": caption, "data": data, "layout": layout, "ranges": ranges,
        "log": log and ranges["log"] is not None,
    }  # fmt: skip


def line(k: int, label: str, x: np.ndarray, y: np.ndarray, name: str, role: str = "line") -> dict[str, Any]:
    """A line of a series; a bold one ("line") carries a few of the series' symbols."""
    hover = f"{safe(name)}<br>%{{x:.6~g}}: %{{y:.4~g}}<extra></extra>"
    marks = {"mode": "lines+markers", "marker": {"symbol": look(k)["symbol"], "size": 8, "maxdisplayed": 8}}
    return trace(k, label, role, x=plain(x), y=plain(y), **(marks if role == "line" else {"mode": "lines"}), hovertemplate=hover)


def band(k: int, label: str, low: tuple[np.ndarray, np.ndarray], high: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """A closed polygon: along the upper edge, (x, y), and back along the lower."""
    outline = {"x": plain([*high[0], *low[0][::-1]]), "y": plain([*high[1], *low[1][::-1]])}
    return trace(k, label, "band", **outline, mode="lines", fill="toself", hoverinfo="skip")


def trace(k: int, label: str, role: str, **rest: Any) -> dict[str, Any]:
    line = {"dash": look(k)["dash"]} if role in ("line", "raw", "guide") else {}
    return {"type": "scatter", "name": safe(label), "meta": {"series": k, "role": role}, "line": line, **rest}


def tickformat(share: bool) -> dict[str, Any]:
    return {"tickformat": ".2~%"} if share else dict(POWERS)


def plain(values: Iterable[Any]) -> list[float | None]:
    """Numbers for JSON: five significant digits, None for what is not finite (JSON knows neither nan nor inf)."""
    return [float(f"{v:.5g}") if v is not None and math.isfinite(v) else None for v in values]


def safe(text: str) -> str:
    """Text for Plotly, which reads a little HTML in labels: a user's < stays a <, our line breaks stay line breaks."""
    return "<br>".join(part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for part in text.split("<br>"))
