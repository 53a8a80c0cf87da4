"""Many problems or many starts at once: every round evaluates all lanes still under way in one call.

Lanes are never in step with each other. A lane whose first trial the search accepts goes on with the others in arrays; one that is
searching longer has a search of its own. A lane that has ended is evaluated no more, and its numbers stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from thalweg.core.method import Point, bend
from thalweg.solve.batch import Batch
from thalweg.solve.certificate import DENSE, Certificate
from thalweg.solve.conclude import ENDS
from thalweg.solve.curvature import judge
from thalweg.solve.path import DEEP, PATIENCE, Limits
from thalweg.solve.result import CONVEX, LIMIT, NECESSARY, NON_FINITE, NOT_STATIONARY, STRICT, UNBOUNDED, Result

Array = np.ndarray


@dataclass
class Lanes:
    """Where all lanes stand. x, g, p, s, y: (lanes, n), the others (lanes,). stage: 0 before a first step, 1 after it, 2 with memory."""

    x: Array
    f: Array
    g: Array
    p: Array
    s: Array
    y: Array
    curve: Array
    slope: Array
    first: Array
    alpha: Array
    stage: Array
    iterations: Array
    evaluations: Array
    least: Array
    flattest: Array
    tired: Array
    memory: Any = None


def together(batch: Batch, direction: Any, search: Any, limits: Limits, convex: bool, began: float, method: str) -> Result:
    """Minimise every lane; the certificate is taken of all at once."""
    f, g = batch.check()
    K, n = g.shape
    zero, none = np.zeros((K, n)), np.zeros(K)
    here = Lanes(
        batch.variables.start, f, g, zero.copy(), zero.copy(), zero.copy(), np.ones(K), none.copy(), none.copy(), none.copy(),
        np.zeros(K, int), np.zeros(K, int), np.ones(K, int), np.full(K, np.inf), np.full(K, np.inf), np.zeros(K, int),
    )  # fmt: skip
    ended = np.full(K, "", dtype=object)
    trials: dict[int, tuple[Any, dict[float, tuple[Array, float, Array]]]] = {}
    deepest, rounds = -DEEP * np.maximum(1.0, np.abs(f)), 0
    trace: list[dict[str, Any]] = []
    moved = np.arange(K)
    while True:
        _end(here, moved, limits, deepest, batch.variables.eps, ended)
        trace.append({"round": rounds, "lanes": int((ended == "").sum()), "value": float(np.median(here.f)), "evaluations": batch.f})
        if limits.callback is not None and limits.callback({**trace[-1], "x": batch.variables.close(here.x)}):
            ended[ended == ""] = "stopped"
        _aim(batch, here, moved[ended[moved] == ""], direction, search.constant)
        active = np.flatnonzero(ended == "")
        if active.size == 0:
            break
        moved, rounds = _round(batch, here, active, search, trials, ended), rounds + 1
    return _conclude(batch, here, ended, limits, convex, began, method, tuple(trace))


def _end(here: Lanes, moved: Array, limits: Limits, deepest: Array, eps: float, ended: Array) -> None:
    """End the lanes among those that moved which have arrived, fallen too deep, reached a limit or made no progress for long."""
    f, size = here.f[moved], np.abs(here.g[moved]).max(-1)
    least = here.least[moved]
    better = (f < least - 4 * eps * np.abs(f)) | (size < 0.9 * here.flattest[moved]) | (f > least + 1e4 * eps * np.abs(f))
    here.least[moved], here.flattest[moved] = np.minimum(f, least), np.minimum(size, here.flattest[moved])
    here.tired[moved] = np.where(better, 0, here.tired[moved] + 1)
    over = (here.iterations[moved] >= limits.iterations) | (here.evaluations[moved] >= limits.evaluations)
    for mask, why in (
        (here.tired[moved] >= PATIENCE, "stalled"), (over, "limit"), (size <= limits.tol, "stationary"), (f < deepest[moved], "unbounded"),
    ):  # fmt: skip
        ended[moved[mask]] = why


def _aim(batch: Batch, here: Lanes, lanes: Array, direction: Any, constant: float | None) -> None:
    """New directions and first trials for some lanes."""
    stages = here.stage[lanes] if direction.needs == "gradient" else np.zeros(len(lanes), int)
    for stage in np.unique(stages):
        part = lanes[stages == stage]
        x, g = here.x[part], here.g[part]
        pair = (None, None) if stage == 0 else (here.s[part], here.y[part])
        point = Point(x, g, *pair, bend=here.curve[part, None], hessian=lambda x=x, part=part: batch.all(x, part)[2])  # type: ignore[misc]
        here.p[part], memory = direction(point, _take(here.memory, part) if stage == 2 else None)
        if memory is not None:
            here.memory = _put(here.memory, part, memory, len(here.f))
    p, g = here.p[lanes], here.g[lanes]
    slope = np.einsum("ki,ki->k", p, g)
    climbs = ~(slope < 0) | ~np.isfinite(slope)
    here.p[lanes[climbs]], here.stage[lanes[climbs]] = -g[climbs], 0
    slope = np.where(climbs, -np.einsum("ki,ki->k", g, g), slope)
    last, before = here.alpha[lanes], here.slope[lanes]
    again = np.where(last > 0, last * np.minimum(before / slope, 10.0), 1 / np.maximum(1.0, np.sqrt(-slope)))
    here.first[lanes] = constant if constant is not None else 1.0 if direction.unit else again
    here.slope[lanes], here.alpha[lanes] = slope, here.first[lanes]


def _round(batch: Batch, here: Lanes, lanes: Array, search: Any, trials: dict, ended: Array) -> Array:
    """Evaluate one trial of every lane; returns the lanes that moved or must aim anew."""
    eps = batch.variables.eps
    x = batch.variables.snap(here.x[lanes] + here.alpha[lanes, None] * here.p[lanes])
    f, g = batch.both(x, lanes)
    here.evaluations[lanes] += 1
    bad = ~(np.isfinite(f) & np.isfinite(g).all(-1))
    f, g = np.where(bad, np.inf, f), np.where(bad[:, None], 0.0, g)
    d = np.where(bad, np.nan, np.einsum("ki,ki->k", g, here.p[lanes]))
    noise = 4 * eps * np.abs(here.f[lanes])
    will_do = search.accept(here.f[lanes], here.slope[lanes], here.alpha[lanes], f, d, noise) & ~bad
    taken = np.flatnonzero(will_do)
    for i in taken:
        trials.pop(int(lanes[i]), None)
    new_x, new_f, new_g = x[taken], f[taken], g[taken]
    moved, late = lanes[taken], []
    for i in np.flatnonzero(~will_do):
        k = int(lanes[i])
        if k not in trials:
            under_way = search(float(here.f[k]), float(here.slope[k]), float(here.first[k]), float(noise[i]))
            next(under_way)
            trials[k] = under_way, {}
        under_way, seen = trials[k]
        seen[float(here.alpha[k])] = x[i], float(f[i]), g[i]
        try:
            here.alpha[k] = under_way.send((float(f[i]), float(d[i])))
        except StopIteration as end:
            del trials[k]
            if end.value in seen and np.isfinite(seen[end.value][1]) and (seen[end.value][0] != here.x[k]).any():
                here.alpha[k] = end.value
                late.append((k, *seen[end.value]))
            else:
                finite = any(np.isfinite(value) for _, value, _ in seen.values())
                ended[k] = ("stalled" if finite else "non-finite") if here.stage[k] == 0 else ""
                here.stage[k], here.alpha[k] = 0, 0.0
                late.append((k, here.x[k].copy(), float(here.f[k]), here.g[k].copy()))
    if late:
        moved = np.concatenate([moved, [k for k, *_ in late]])
        new_x, new_f, new_g = (np.concatenate([a, np.array([row[j] for row in late])]) for j, a in ((1, new_x), (2, new_f), (3, new_g)))
    stood = (new_x == here.x[moved]).all(-1)
    _move(here, moved[~stood], new_x[~stood], new_f[~stood], new_g[~stood], eps)
    return moved[ended[moved] == ""]


def _move(here: Lanes, k: Array, x: Array, f: Array, g: Array, eps: float) -> None:
    s = x - here.x[k]
    d0, d = np.einsum("ki,ki->k", here.g[k], s), np.einsum("ki,ki->k", g, s)
    clear = (d > d0) & (np.abs(here.f[k] - f) > 1e3 * eps * np.abs(f))  # enough digits are left of the fall
    here.curve[k] = np.clip(bend(here.f[k], f, d0, np.where(clear, d, d0 + 1)), 0.5, 2.0) * clear + ~clear
    here.s[k], here.y[k], here.x[k], here.f[k], here.g[k] = s, g - here.g[k], x, f, g
    here.stage[k] = np.minimum(here.stage[k] + 1, 2)
    here.iterations[k] += 1


def _take(memory: Any, lanes: Array) -> Any:
    """The memory of some lanes; None for a direction without."""
    if memory is None:
        return None
    return tuple(part[lanes] for part in memory) if isinstance(memory, tuple) else memory[lanes]


def _put(whole: Any, lanes: Array, part: Any, count: int) -> Any:
    """The lanes' memory written into that of all, which is made at the first time."""
    if isinstance(part, tuple):
        whole = whole or (None,) * len(part)
        return tuple(_put(w, lanes, p, count) for w, p in zip(whole, part, strict=True))
    if whole is None:
        whole = np.zeros((count, *part.shape[1:]))
    whole[lanes] = part
    return whole


def _conclude(
    batch: Batch, here: Lanes, ended: Array, limits: Limits, convex: bool, began: float, method: str, trace: tuple[dict[str, Any], ...]
) -> Result:
    K, spent, close = len(ended), batch.evaluations, np.flatnonzero((ended != "unbounded") & (ended != "non-finite"))
    status: list[str] = [UNBOUNDED if e == "unbounded" else NON_FINITE for e in ended]
    message = [f"{s}." for s in status]
    certificates: list[Certificate | None] = [None] * K
    if close.size and batch.n <= DENSE:
        x = here.x[close]
        _, g, H = batch.all(x, close)
        found = judge(
            x, here.f[close], g, H, lambda points, at: batch.all(points, close[at]), lambda points, at: batch.both(points, close[at]),
            lambda points, at: batch.value(points, close[at]), limits.tol, batch.variables.eps,
        )  # fmt: skip
        for i, k in enumerate(close):
            verdict, why = found.status[i], found.why[i]
            if convex and verdict in (STRICT, NECESSARY):
                verdict, why = CONVEX, "the problem is convex, so that first-order conditions suffice"
            escape = None if np.isnan(found.escape[i]).any() else torch.from_numpy(found.escape[i])
            certificates[k] = Certificate(
                verdict, f"{verdict}: {why}.", float(np.abs(g[i]).max()), critical_dimension=batch.n, curvature=float(found.curvature[i]),
                margin=float(found.margin[i]), escape=escape, decrement=float(found.decrement[i]), floor=float(found.floor[i]),
            )  # fmt: skip
            status[k] = LIMIT if ended[k] in ("limit", "stopped") and verdict == NOT_STATIONARY else verdict
            cut = ended[k] in ENDS and not verdict.startswith("minimum")
            message[k] = f"{status[k]}: {ENDS[ended[k]]}; {why}." if cut else f"{status[k]}: {why}."
    elif close.size:
        for k in close:
            status[k] = NECESSARY if ended[k] == "stationary" else LIMIT if ended[k] == "limit" else NOT_STATIONARY
            message[k] = f"{status[k]}: curvature is not looked at in lanes of more than {DENSE} variables."
    return Result(
        x=batch.variables.close(here.x), value=torch.from_numpy(here.f), gradient_norm=torch.from_numpy(np.abs(here.g).max(-1)),
        status=tuple(status), message=tuple(message), iterations=torch.from_numpy(here.iterations), evaluations=spent,
        seconds=perf_counter() - began, method=method, certificate=tuple(certificates), trace=trace,
    )  # fmt: skip
