"""Minimisation without constraints: a direction with a line search, or a step inside a trust region. Nocedal and Wright 2006, chapters 3, 4

Both work on flat float64 vectors in numpy, whose calls cost a fraction of torch's on short ones, and never take a point that is not
finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg.core.method import Point, bend
from thalweg.solve.curvature import spectrum
from thalweg.solve.objective import Objective
from thalweg.solve.path import Limits, Path

Array = np.ndarray


def solve(objective: Objective, path: Path, direction: Any, search: Callable[..., Any], limits: Limits) -> Path:
    """Go on from where the path stands until it ends."""
    return region(objective, path, direction, limits) if direction.region else descend(objective, path, direction, search, limits)


def descend(objective: Objective, path: Path, direction: Any, search: Callable[..., Any], limits: Limits) -> Path:
    """Steps along a direction, their lengths by a search."""
    memory, s, y = None, None, None
    last = (0.0, 0.0)  # length and slope of the last step
    snap, eps, slopes = objective.variables.snap, objective.variables.eps, search.slopes  # type: ignore[attr-defined]
    step, curve = 0.0, 1.0
    path.ended = ""
    while not path.over(objective, limits, step):
        x, f, g = path.x, path.f, path.g
        here = Point(x, g, s, y, curve) if direction.needs == "gradient" else _point(objective, x, g, s, y, curve)
        p, memory = direction(here, memory)
        slope = float(g @ p)
        if not (slope < 0 and math.isfinite(slope)):
            p, memory, s = -g, None, None
            slope = float(g @ p)
            if not slope < 0:
                path.ended = "stalled"
                break
        if direction.unit:
            first = 1.0
        else:
            first = last[0] * min(last[1] / slope, 10.0) if last[0] else 1 / max(1.0, math.sqrt(-slope))
        trials: dict[float, tuple[Array, float, Array | None]] = {}
        accepted, finite = _search(objective, search(f, slope, first, 4 * eps * abs(f)), x, p, slopes, snap, trials)
        if accepted is None:
            if not finite and memory is None:
                path.ended = "non-finite"
                break
            if s is None:
                path.ended = "stalled"
                break
            memory, s, y, last = None, None, None, (0.0, 0.0)  # once more, from the gradient alone
            path.trace.pop()
            continue
        new, value, slope_there = trials[accepted]
        if slope_there is None:
            slope_there = objective.gradient(new)
        if not math.isfinite(slope_there @ slope_there) and not np.isfinite(slope_there).all():
            path.ended = "non-finite"
            break
        s, y, last, step = new - x, slope_there - g, (accepted, slope), accepted
        ends = float(g @ s), float(slope_there @ s)
        clear = ends[1] > ends[0] and abs(f - value) > 1e3 * eps * abs(f)  # enough digits are left of the fall
        curve = min(max(bend(f, value, *ends), 0.5), 2.0) if clear else 1.0
        path.x, path.f, path.g, path.iterations = new, value, slope_there, path.iterations + 1
    return path


STEPS = 8


def polish(objective: Objective, path: Path, limits: Limits) -> bool:
    """Newton's steps judged by the gradient, where the value shows nothing but rounding any more; whether they led on."""
    eps, began = objective.variables.eps, path.iterations
    room = math.sqrt(eps) * abs(path.f)
    for _ in range(STEPS):
        if np.abs(path.g).max() <= limits.tol:
            path.ended = "stationary"
            break
        seen = spectrum(objective.hessian(path.x), eps)
        p = -seen.solve(path.g)
        if not seen.positive or not -(path.g @ p) / 2 <= room:  # there is a fall that a search would see
            break
        x = objective.variables.snap(path.x + p)
        f, g = objective.both(x)
        if not (f <= path.f + room and np.abs(g / seen.D).max() < 0.9 * np.abs(path.g / seen.D).max()):
            break
        path.x, path.f, path.g, path.iterations = x, f, g, path.iterations + 1
        path.note(objective, 1.0)
    return path.iterations > began


def _search(
    objective: Objective, trials: Any, x: Array, p: Array, slopes: bool, snap: Callable[[Array], Array],
    seen: dict[float, tuple[Array, float, Array | None]],
) -> tuple[float | None, bool]:  # fmt: skip
    """Run a search. seen: filled with the points tried. Returns the accepted length, and whether any point was finite."""
    alpha, finite = next(trials), False
    try:
        while True:
            new = snap(x + alpha * p)
            if new.tobytes() == x.tobytes():  # shorter than rounding
                return None, True
            value = objective.value(new)
            g, slope = None, math.nan
            good = math.isfinite(value)
            if good and slopes:
                g = objective.gradient(new)
                slope = float(g @ p)
            finite = finite or good
            seen[alpha] = new, value, g
            alpha = trials.send((value, slope))
    except StopIteration as end:
        return end.value, finite


def _point(objective: Objective, x: Array, g: Array, s: Array | None = None, y: Array | None = None, curve: float = 1.0) -> Point:
    kept: dict[bytes, Array] = {}

    def product(v: Array) -> Array:
        key = v.tobytes()  # a step that is tried again in a smaller region asks for the same products
        if key not in kept:
            kept[key] = objective.product(x, v)
        return kept[key]

    return Point(x, g, s, y, curve, lambda: objective.hessian(x), product)


WIDE = 1e20
SHRINK, GROW = 0.25, 2.0


def region(objective: Objective, path: Path, direction: Any, limits: Limits, radius: float | None = None) -> Path:
    """Steps inside a region in which the quadratic model is trusted; its radius follows how well the model foretold the value."""
    snap, eps = objective.variables.snap, objective.variables.eps
    path.ended = ""
    point, memory = None, None
    while True:
        if point is None:
            if path.over(objective, limits, radius or 0.0):
                return path
            point = _point(objective, path.x, path.g)
        p, foretold, length, memory = direction(point, radius, memory)
        radius = length if radius is None else radius
        new = snap(path.x + p)
        noise = 4 * eps * abs(path.f)
        value = objective.value(new)
        fall = path.f - value if math.isfinite(value) else -math.inf
        ratio = (fall + noise) / (foretold + noise) if foretold + noise > 0 else -1.0
        slope = objective.gradient(new) if ratio > 1e-4 and (new != path.x).any() else None
        if slope is not None and np.isfinite(slope).all():
            path.x, path.f, path.g, path.iterations = new, value, slope, path.iterations + 1
            point = None
        if ratio < 0.25 or point is not None:
            radius = SHRINK * min(length, radius)
        elif ratio > 0.75 and length > 0.9 * radius:
            radius = min(GROW * radius, WIDE)
        if point is not None and (
            radius <= 1e-3 * eps * eps or (new == path.x).all() or max(objective.f, objective.g) >= limits.evaluations
        ):
            path.ended = "limit" if max(objective.f, objective.g) >= limits.evaluations else "stalled"
            return path
