"""Sequential quadratic programming. Wilson 1963; Han 1977; Powell 1978; Nocedal and Wright 2006, chapter 18

A step solves the quadratic model under the linearised constraints, which may be missed at a price, as some must be where they exclude each
other. It is shortened until the l1 merit function f + w.|missed| falls; a curved constraint gets a second-order correction first. The
model's curvature is Powell's damped BFGS, which asks for gradients only, or the exact Hessian of the Lagrangian, made convex by c J^T J
where that suffices: this leaves the step on the constraints as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from thalweg.solve.constraints import Constraints
from thalweg.solve.kkt import multipliers_of, threshold
from thalweg.solve.objective import Objective
from thalweg.solve.path import Limits, Path
from thalweg.solve.quadratic import Answer, Rows, quadratic

Array = np.ndarray
PRICES = (1.0, 1e2, 1e4, 1e6)
"""By how much the price is raised, in turn, to see whether the linearised constraints can be met."""
ARMIJO = 1e-4
SHORTEST = 1e-10
STRAIGHT, GROW, FARTHEST = 0.95, 4.0, 1e30
DAMPED = 0.2
SOFT = 1e-8
"""The least curvature of the model, in units of the largest."""


@dataclass
class Run:
    """Where the method stands. a: values (m,) of equalities, then inequalities; J (m, n); y: their multipliers; z: the bounds' (n,),
    positive for upper ones; w: weights of the merit function."""

    objective: Objective
    constraints: Constraints
    limits: Limits
    path: Path
    g: Array
    a: Array
    J: Array
    y: Array
    z: Array
    w: Array
    active: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def at(cls, objective: Objective, constraints: Constraints, path: Path, limits: Limits) -> Run:
        """path: with f and its gradient at x, which lies within the bounds."""
        a, J = values(constraints, path.x), slopes(constraints, path.x)
        zero = np.zeros(len(a))
        return cls(objective, constraints, limits, path, path.g, a, J, zero, np.zeros(len(path.x)), zero)

    @property
    def violation(self) -> float:
        """Of the constraints; bounds are kept."""
        return float(self.missed(self.a).max(initial=0.0))

    @property
    def equal(self) -> Array:
        return np.arange(len(self.a)) < (self.constraints.equality.m if self.constraints.equality else 0)

    def missed(self, a: Array) -> Array:
        """By how much each constraint is missed (m,)."""
        return np.where(self.equal, np.abs(a), np.maximum(a, 0.0))

    def by_kind(self) -> dict[str, Array]:
        """The multipliers as `Result` has them, flat."""
        k, bounded = int(self.equal.sum()), self.constraints.bounded
        z = self.z if bounded else np.zeros(0)
        return {"equality": self.y[:k], "inequality": self.y[k:], "lower": np.maximum(-z, 0.0), "upper": np.maximum(z, 0.0)}


def values(constraints: Constraints, x: Array) -> Array:
    parts = [part.value(x) for part in (constraints.equality, constraints.inequality) if part]
    return np.concatenate([*parts, np.zeros(0)])


def slopes(constraints: Constraints, x: Array) -> Array:
    parts = [part.jacobian(x) for part in (constraints.equality, constraints.inequality) if part]
    return np.concatenate([*parts, np.zeros((0, len(x)))])


def descend(run: Run, exact: bool) -> Run:
    """Go on from where the run stands until its path ends; path.g is then the gradient of the Lagrangian."""
    path, eps = run.path, run.objective.variables.eps
    B, step = np.eye(len(path.x)), 0.0
    path.ended, path.seen = "", Path(path.x, path.f, path.g).seen
    while True:
        g = run.g
        if exact:
            B, g = _convex(run)
        answer, rows, price = _model(run, B, g)
        y = answer.y[: len(run.a)]
        missed = _multipliers(run, answer, rows)
        if path.over(run.objective, run.limits, step, missed, violation=run.violation, price=price):
            return run
        d = answer.d
        if not np.isfinite(d).all() or np.abs(d).max() <= 4 * eps * max(1.0, float(np.abs(path.x).max())):
            path.ended = "stalled"
            return run
        x, before = path.x, run.g + run.J.T @ y
        step = _search(run, B, g, answer, rows, price, exact)
        if not step:
            path.ended = path.ended or "stalled"
            return run
        run.g, run.J = run.objective.gradient(path.x), slopes(run.constraints, path.x)
        path.iterations += 1
        if not (np.isfinite(run.g).all() and np.isfinite(run.J).all()):
            path.ended = "non-finite"
            return run
        if not exact:
            B = _damped(B, path.x - x, run.g + run.J.T @ y - before)


def _model(run: Run, B: Array, g: Array) -> tuple[Answer, Rows, float]:
    """The quadratic program's answer; the price of a missed constraint is raised as long as less is missed for it."""
    x, low, high = run.path.x, run.constraints.low, run.constraints.high
    scale = max(1.0, float(np.abs(g).max()), float(np.abs(run.y).max(initial=0.0)))
    least = math.inf
    for factor in PRICES:
        price = 10 * scale * factor
        rows = Rows.of(run.J, run.a, np.where(run.equal, -price, 0.0), np.full(len(run.a), price), low - x, high - x)
        answer = quadratic(B, g, rows)
        left = float(run.missed(run.a + run.J @ answer.d).sum())
        if not least <= left / 0.9:
            best, least = (answer, rows, price), left
        if left <= 1e-9 * float(run.missed(run.a).sum()) + 1e-15 * float(np.abs(run.a).sum()):
            break
    return best


def _multipliers(run: Run, answer: Answer, rows: Rows) -> float:
    """Set the multipliers and the Lagrangian's gradient: least squares on the rows held, or the program's. Returns what is missed, a
    constraint or its complementarity."""
    k, g, held = len(run.a), run.g, answer.held.copy()
    run.active = rows.dense()[held]
    y = np.zeros(len(answer.y))
    y[held] = multipliers_of(g, run.active, np.concatenate([~run.equal, np.ones(len(held) - k, bool)])[held])
    fixed = run.constraints.low == run.constraints.high
    choices = []
    for y_ in (y, answer.y):
        z = rows.pull(np.concatenate([np.zeros(k), y_[k:]]))
        r = g + run.J.T @ y_[:k] + z
        z, r = np.where(fixed, z - r, z), np.where(fixed, 0.0, r)
        slack = np.maximum(-rows.a, 0.0) * np.abs(y_)
        slack[:k][run.equal] = 0.0
        choices.append((max(float(np.abs(r).max()), float(slack.max(initial=0.0))), y_[:k], z, r, float(slack.max(initial=0.0))))
    _, run.y, run.z, run.path.g, gap = min(choices, key=lambda choice: choice[0])
    return max(gap, run.violation)


def _search(run: Run, B: Array, g: Array, answer: Answer, rows: Rows, price: float, exact: bool) -> float:
    """Move the path along the step until the merit falls; the share of the step taken, 0 where none did."""
    path, d, k = run.path, answer.d, len(run.a)
    y = np.abs(answer.y[:k])
    run.w = np.maximum(y, (run.w + y) / 2)
    fallen = run.missed(run.a) - run.missed(run.a + run.J @ d)
    slope = float(run.g @ d - run.w @ fallen)
    if slope > -1e-3 * float(d @ B @ d):
        run.w = np.maximum(run.w, price)
        slope = float(run.g @ d - run.w @ fallen)
    eps = run.objective.variables.eps
    start = path.f + float(run.w @ run.missed(run.a))
    noise = 8 * eps * (abs(path.f) + float(run.w @ (np.abs(run.a) + np.abs(run.J) @ np.abs(path.x))))
    if slope >= 0 and slope > noise:
        return 0.0
    slope, t, finite, x0 = min(slope, 0.0), 1.0, False, path.x
    corrected = len(run.a) == 0
    while t >= SHORTEST:
        move = t * d
        x, f, a, merit = _trial(run, x0 + move)
        if merit <= start + ARMIJO * t * slope + noise:
            far = exact and np.abs(d).max() > 10 * max(1.0, float(np.abs(x0).max()))
            while far and merit <= start + STRAIGHT * t * slope and t < FARTHEST:  # straight: the model's curvature was made up
                farther = _trial(run, x0 + GROW * t * d)
                if not (farther[3] < merit and run.missed(farther[2]).sum() <= run.missed(a).sum()):
                    break
                t, (x, f, a, merit) = GROW * t, farther
            break
        finite = finite or math.isfinite(merit)
        if not corrected and t == 1.0 and math.isfinite(merit):
            corrected = True
            again = quadratic(B, g, Rows(rows.J, np.concatenate([a - run.J @ d, rows.a[k:]]), rows.low, rows.high, rows.lower, rows.upper))
            x, f, a, better = _trial(run, x0 + again.d)
            if better <= start + ARMIJO * slope + noise:
                break
        bent = 2 * (merit - start - t * slope)
        t *= min(max(-t * slope / bent, 0.1), 0.5) if math.isfinite(merit) and bent > 0 else 0.25
    else:
        path.ended = "stalled" if finite else "non-finite"
        return 0.0
    if (x == x0).all():
        return 0.0
    path.x, path.f, run.a = x, f, a
    return t


def _trial(run: Run, x: Array) -> tuple[Array, float, Array, float]:
    """A point inside the bounds, its value, its constraints, and its merit: infinite where any of it is not finite."""
    x = run.objective.variables.snap(np.minimum(np.maximum(x, run.constraints.low), run.constraints.high))
    f = run.objective.value(x)
    if not math.isfinite(f):
        return x, f, run.a, math.inf
    a = values(run.constraints, x)
    merit = f + float(run.w @ run.missed(a)) if np.isfinite(a).all() else math.inf
    return x, f, a, merit


def _damped(B: Array, s: Array, y: Array) -> Array:
    """BFGS whose y is drawn towards B s until the matrix stays positive definite. Powell 1978"""
    Bs = B @ s
    bent, old = float(s @ y), float(s @ Bs)
    if not old > 0 or not math.isfinite(bent):
        return np.eye(len(s))
    theta = 1.0 if bent >= DAMPED * old else (1 - DAMPED) * old / (old - bent)
    r = theta * y + (1 - theta) * Bs
    new = B - np.outer(Bs, Bs) / old + np.outer(r, r) / float(s @ r)
    return (new + new.T) / 2


def hessian(run: Run) -> Array:
    """Of the Lagrangian (n, n) at the run's point and multipliers."""
    H, k = run.objective.hessian(run.path.x), int(run.equal.sum())
    for part, y in ((run.constraints.equality, run.y[:k]), (run.constraints.inequality, run.y[k:])):
        if part is not None and y.any():
            weights = torch.as_tensor(y, dtype=part.variables.dtype, device=part.variables.device)
            H = H + Objective(lambda argument, part=part, weights=weights: weights @ part(argument), part.variables).hessian(run.path.x)
    return H


def _convex(run: Run) -> tuple[Array, Array]:
    """The Lagrangian's Hessian and the gradient, plus c |J d + a|^2 / 2 over equalities and held rows where that makes it convex; otherwise
    with its eigenvalues' absolute values."""
    H = hessian(run)
    values, V = np.linalg.eigh(H)
    top = max(float(np.abs(values).max()), 1e-12)
    if values[0] >= SOFT * top:
        return H, run.g
    A = run.J[run.equal | (run.y > 0)]
    c = threshold(H, A) if len(A) else None
    if c is not None and c * float(np.linalg.norm(A)) ** 2 <= 1e3 * top:
        c = 2 * c + 1e-3 * top / max(float(np.linalg.norm(A)) ** 2, 1e-12)
        B = H + c * A.T @ A
        if np.linalg.eigvalsh(B)[0] >= SOFT * top:
            return B, run.g + c * A.T @ run.a[run.equal | (run.y > 0)]
    return (V * np.maximum(np.abs(values), SOFT * top)) @ V.T, run.g
