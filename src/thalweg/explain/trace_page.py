"""A trace as one HTML document with a slider over the steps; it needs no network, and no library."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from typing import Any

import numpy as np

from thalweg.core.canvas import COLOURS
from thalweg.explain.trace import Trace

SHOWN = 2000
"""Steps of the slider, evenly taken from all."""

STROKES = ("", "7 3", "2 2.5", "8 3 2 3")
FAR = 5000.0
"""Points outside the picture stay within so many units of it: huge numbers are no SVG."""


def page(trace: Trace) -> str:
    """The document: contours or curve behind, paths that grow with the slider, and a table of where each rule is."""
    behind, wide, high, place = _behind(trace)
    steps = max(len(path) for path in trace.paths.values()) - 1
    shown = np.unique(np.linspace(0, steps, min(SHOWN, steps + 1)).round().astype(int))
    runs = []
    for label, path in trace.paths.items():
        at = shown[shown < len(path)]
        heights = trace.losses[label] if path.shape[1] == 1 else path[:, 1]
        spots = [place(x, y) for x, y in zip(path[at, 0], np.asarray(heights)[at], strict=True)]
        runs.append({
            "spots": spots, "x": [[_number(v) for v in path[t]] for t in at], "loss": [_number(trace.losses[label][t]) for t in at],
        })  # fmt: skip
    marks = "".join(_group(k) for k in range(len(runs)))
    rows = "".join(
        f"<tr>{_swatch(k)}<th scope='row'>{html.escape(label)}</th><td id='x{k}'></td><td id='f{k}'></td></tr>"
        for k, label in enumerate(trace.paths)
    )
    data = json.dumps({"steps": shown.tolist(), "runs": runs}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = html.escape(trace.name)
    return (
        f"<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<title>{title}</title>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f"<link rel='icon' href='data:,'>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<svg id='picture' viewBox='0 0 {wide:.1f} {high:.1f}' role='img' aria-label='the paths of {len(runs)} rules'>"
        f"<image width='{wide:.1f}' height='{high:.1f}' href='data:image/svg+xml;base64,{behind}'/>{_clip(place)}{marks}</g></svg>\n"
        "<div class='controls'><button id='play' type='button'>Play</button>"
        f"<label>Step <input id='step' type='range' min='0' max='{len(shown) - 1}' value='{len(shown) - 1}'></label>"
        "<output id='now' for='step'></output></div>\n"
        "<div class='wide'><table><thead><tr><th></th><th>rule</th><th class='n'>at</th><th class='n'>value</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>\n"
        f"<p class='note'>{_NOTE[bool(trace.minimisers)]}</p>\n"
        "<noscript><p>The slider needs JavaScript.</p></noscript>\n"
        f"<script type='application/json' id='data'>{data}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


class _Place:
    """From the function's coordinates to the picture's. box: the axes' left, top, width and height in it."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], box: tuple[float, float, float, float]) -> None:
        self.x, self.y, self.box = x, y, box

    def __call__(self, x: float, y: float) -> list[float] | None:
        if not (math.isfinite(x) and math.isfinite(y)):
            return None
        left, top, wide, high = self.box
        across = left + wide * (x - self.x[0]) / (self.x[1] - self.x[0])
        down = top + high * (self.y[1] - y) / (self.y[1] - self.y[0])
        return [round(min(max(value, -FAR), FAR), 2) for value in (across, down)]


def _behind(trace: Trace) -> tuple[str, float, float, _Place]:
    """The picture without its paths as SVG in base64, its width and height in points, and where things lie on it."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = trace.picture(step=0)
    for legend in figure.legends:
        legend.remove()
    figure.set_figheight(4.6)
    axes = figure.axes[0]
    axes.set_title("", loc="left")
    for line in axes.get_lines()[: 2 * len(trace.paths)]:
        line.set_visible(False)
    FigureCanvasAgg(figure).draw()
    box, wide, high = axes.get_position(), figure.get_figwidth() * 72, figure.get_figheight() * 72
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "thalweg"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    inside = (box.x0 * wide, (1 - box.y1) * high, box.width * wide, box.height * high)
    return base64.b64encode(content.getvalue()).decode("ascii"), wide, high, _Place(axes.get_xlim(), axes.get_ylim(), inside)


def _clip(place: _Place) -> str:
    x, y, wide, high = place.box
    rect = f"<rect x='{x:.1f}' y='{y:.1f}' width='{wide:.1f}' height='{high:.1f}'/>"
    return f"<clipPath id='inside'>{rect}</clipPath><g clip-path='url(#inside)'>"


def _group(k: int) -> str:
    """A rule's path and its end, which has the rule's number: told apart without colours."""
    colour, dash = COLOURS[k % len(COLOURS)], STROKES[k % len(STROKES)]
    return (
        f"<g><path id='p{k}' fill='none' stroke='{colour}' stroke-width='1.6' stroke-linejoin='round' stroke-dasharray='{dash}'/>"
        f"<path id='d{k}' fill='none' stroke='{colour}' stroke-width='4.2' stroke-linecap='round'/>"
        f"<g id='e{k}'><circle r='7' fill='{colour}' stroke='#fff'/><text y='3.4' text-anchor='middle' fill='#fff'>{k + 1}</text></g></g>"
    )


def _swatch(k: int) -> str:
    colour, dash = COLOURS[k % len(COLOURS)], STROKES[k % len(STROKES)]
    return (
        "<td><svg class='swatch' viewBox='0 0 46 16' aria-hidden='true'>"
        f"<path d='M0 8h46' stroke='{colour}' stroke-width='1.8' stroke-dasharray='{dash}'/>"
        f"<circle cx='23' cy='8' r='7' fill='{colour}'/><text x='23' y='11.4' text-anchor='middle' fill='#fff'>{k + 1}</text></svg></td>"
    )


def _number(value: Any) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


_NOTE = ("The ring is the start.", "The ring is the start, the star a known minimum.")

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #fff; --line: #d5dae0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --page: #14181d; --line: #3a424c; } }
body { max-width: 56rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.25rem; font-weight: 650; overflow-wrap: anywhere; }
#picture { display: block; width: 100%; height: auto; background: #fff; border-radius: 0.4rem; }
svg text { font: 600 10px system-ui, sans-serif; }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: 0.7rem 1.2rem; margin: 0.9rem 0; }
.controls label { display: flex; flex: 1 1 14rem; align-items: center; gap: 0.7rem; }
input { flex: 1; min-width: 6rem; }
button { min-width: 5rem; min-height: 2.2rem; border: 1px solid var(--line); border-radius: 0.4rem; background: none; color: inherit;
  font: inherit; cursor: pointer; }
output { min-width: 4ch; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 0.94rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; text-align: left; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { font-weight: 600; }
td:nth-child(n + 3), .n { text-align: right; white-space: nowrap; }
.note { font-size: 0.92rem; }
.swatch { width: 46px; height: 16px; display: block; }
"""

_SCRIPT = """
const { steps, runs } = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id);
const slider = at('step'), play = at('play');
const text = v => v === null ? '\\u2013' : String(Number(v.toPrecision(5)));
function show() {
  const t = Number(slider.value);
  at('now').textContent = steps[t];
  runs.forEach((run, k) => {
    let line = '', dots = '', pen = 'M', last = null;
    const end = Math.min(t, run.spots.length - 1);
    for (let i = 0; i <= end; i++) {
      const spot = run.spots[i];
      if (!spot) { pen = 'M'; continue; }
      line += pen + spot[0] + ' ' + spot[1];
      if (run.spots.length <= 200) dots += 'M' + spot[0] + ' ' + spot[1] + 'h0';
      pen = 'L';
      last = spot;
    }
    at('p' + k).setAttribute('d', line);
    at('d' + k).setAttribute('d', dots);
    at('e' + k).setAttribute('transform', last ? 'translate(' + last[0] + ' ' + last[1] + ')' : 'translate(-99 -99)');
    at('x' + k).textContent = run.x[end].map(text).join(', ');
    at('f' + k).textContent = text(run.loss[end]);
  });
}
let timer = null;
function stop() { clearInterval(timer); timer = null; play.textContent = 'Play'; }
play.addEventListener('click', () => {
  if (timer !== null) { stop(); return; }
  if (Number(slider.value) >= steps.length - 1) slider.value = 0;
  play.textContent = 'Pause';
  timer = setInterval(() => {
    slider.value = Number(slider.value) + Math.max(1, Math.round(steps.length / 200));
    show();
    if (Number(slider.value) >= steps.length - 1) stop();
  }, Math.max(30, Math.min(250, 8000 / steps.length)));
  show();
});
slider.addEventListener('input', () => { if (timer !== null) stop(); show(); });
show();
"""
