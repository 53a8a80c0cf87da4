"""A report's figure as a small SVG that stands in a page by itself: no script, no style sheet, no ids, readable on white and on black."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PALETTE = ("#1f83c8", "#d9640f", "#12936b", "#c2619d", "#ad7a00", "#6f6fd8", "#8a8100", "#7a828b")
"""Colours that differ from white and from black by a contrast of 3 or more."""

DASHES = {"dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3"}

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 26, 34
HEAD, GAP = 52, 16
"""Of a sheet: the height of its title, and the space between figures."""

Scale = tuple[float, float, bool]
"""Two ends (of the logarithm to base 10 if the third is true)."""


def svg(figure: Mapping[str, Any], colours: Sequence[str] = PALETTE) -> str:
    """A figure of `thalweg.study.report.curves` as SVG text; a series has the colour of its number, `meta.series`, in turn."""
    return _opened(WIDTH, HEIGHT, figure["title"], "background:none") + _drawn(figure, colours) + "</svg>"


def sheet(figures: Sequence[Mapping[str, Any]], title: str, colours: Sequence[str] = PALETTE, columns: int = 3) -> str:
    """Several figures and a title over them as one SVG, row by row, on white: a file that is looked at by itself."""
    rows = math.ceil(len(figures) / columns)
    parts = [
        _opened((WIDTH + GAP) * columns + GAP, (HEIGHT + GAP) * rows + HEAD, title, "background:#fff;color:#222"),
        f'<text x="{GAP}" y="30" font-size="17" font-weight="600">{html.escape(title)}</text>',
    ]
    for k, figure in enumerate(figures):
        at = GAP + (WIDTH + GAP) * (k % columns), HEAD + (HEIGHT + GAP) * (k // columns)
        parts.append(f'<g transform="translate({at[0]} {at[1]})">{_drawn(figure, colours)}</g>')
    return "".join([*parts, "</svg>"])


def _opened(wide: int, high: int, title: str, style: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" '
        f'aria-label="{html.escape(title)}" style="max-width:100%;height:auto;{style}" '
        'font-family="system-ui,sans-serif" font-size="11" fill="currentColor">'
    )


def _drawn(figure: Mapping[str, Any], colours: Sequence[str]) -> str:
    """A figure's title, axes and lines, from (0, 0) to (WIDTH, HEIGHT)."""
    x, y = scales(figure)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [f'<text x="{LEFT}" y="15" font-size="12" font-weight="600">{html.escape(figure["title"])}</text>']
    for value, text in ticks(*y):
        at = TOP + high * (1 - value)
        parts.append(f'<path d="M{LEFT} {at:.1f}h{wide}" stroke="currentColor" stroke-opacity="0.15"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in ticks(*x):
        parts.append(f'<text x="{LEFT + wide * value:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>')
    title = str(figure["layout"]["xaxis"]["title"]["text"])
    parts.append(f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(html.unescape(title))}</text>')
    # an inner svg cuts off what is outside of it, and needs no id to do so
    parts.append(f'<svg x="{LEFT}" y="{TOP}" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" overflow="hidden">')
    for trace in figure["data"]:
        drawn = "".join(path(trace["x"], trace["y"], x, y, wide, high))
        if drawn:
            parts.append(f'<path d="{drawn}" {_looks(trace, colours)}/>')
    parts.append(f'</svg><path d="M{LEFT} {TOP}v{high}h{wide}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>')
    return "".join(parts)


def scales(figure: Mapping[str, Any]) -> tuple[Scale, Scale]:
    """What the axes reach over: all updates, and the figure's own range of values."""
    ends = [v for trace in figure["data"] for v in trace["x"] if v is not None]
    log = bool(figure["log"])
    low, high = figure["ranges"]["log" if log else "linear"] or (0.0, 1.0)
    return (0.0, float(max(ends, default=1.0)) or 1.0, False), (float(low), float(high), log)


def _looks(trace: Mapping[str, Any], colours: Sequence[str]) -> str:
    colour = colours[trace["meta"]["series"] % len(colours)]
    role = trace["meta"]["role"]
    if role == "band":
        return f'fill="{colour}" fill-opacity="0.18" stroke="none"'
    dash = "5 3" if role == "broken" else DASHES.get(trace["line"].get("dash", ""), "")
    width = 1.8 if role == "line" else 1
    more = (f' stroke-dasharray="{dash}"' if dash else "") + (' stroke-opacity="0.35"' if role == "raw" else "")
    return f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"{more}'


def path(xs: Sequence[Any], ys: Sequence[Any], x: Scale, y: Scale, wide: float, high: float) -> Iterator[str]:
    """Moves and lines through the points; a gap where there is none. Far outside, points stay near the edge: huge numbers are no SVG."""
    pen = "M"
    for a, b in zip(xs, ys, strict=True):
        u, v = place(a, x), place(b, y)
        if u is None or v is None:
            pen = "M"
            continue
        yield f"{pen}{wide * u:.1f} {high * (1 - min(max(v, -9.0), 9.0)):.1f}"
        pen = "L"


def place(value: Any, scale: Scale) -> float | None:
    """Where between the ends a value lies, 0 to 1 if it is between them; None for what has no place."""
    low, high, log = scale
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return None
    return ((math.log10(value) if log else float(value)) - low) / ((high - low) or 1.0)


def ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    """About four round numbers between two ends: where each lies, 0 to 1, and its text.

    >>> ticks(0, 10, False)
    [(0.0, '0'), (0.5, '5'), (1.0, '10')]
    >>> [text for _, text in ticks(-3.2, 1.1, True)]
    ['1e-3', '0.01', '0.1', '1', '10']
    """
    if log and high - low >= 1.5:
        step = math.ceil((high - low) / 5)
        found = [float(p) for p in range(math.ceil(low), math.floor(high) + 1) if p % step == 0]
        return [((p - low) / (high - low), _text(10.0**p)) for p in found]
    ends = (10**low, 10**high) if log else (low, high)
    rough = (ends[1] - ends[0]) / 4 or 1.0
    size = 10 ** math.floor(math.log10(rough))
    step = size * min((m for m in (1, 2, 5, 10) if m * size >= rough * 0.99), default=10)
    values = [k * step for k in range(math.ceil(ends[0] / step - 1e-9), math.floor(ends[1] / step + 1e-9) + 1)]
    places = [(place(v, (low, high, log)), _text(v)) for v in values]
    return [(p, text) for p, text in places if p is not None]


def _text(value: float) -> str:
    value = 0.0 if abs(value) < 1e-15 else value
    text = f"{value:.6g}"
    if 1e-2 <= abs(value) < 1e5 or value == 0:
        return text
    mantissa, _, power = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(power)}" if power else _exponent(value)


def _exponent(value: float) -> str:
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
