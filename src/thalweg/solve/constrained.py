"""Minimisation under constraints: chooses a method, ends it with Newton's steps on the first-order conditions, and says what was found.

Whatever the method, a point that the certificate refuses is not the end: from a saddle the search goes on along the escape direction, and
where constraints stay missed it looks for the least violation, and goes on from there if that is none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils._pytree import tree_flatten

from thalweg.solve import augmented, projected, sqp
from thalweg.solve.certificate import Certificate, certificate
from thalweg.solve.conclude import conclude
from thalweg.solve.constraints import Constraints
from thalweg.solve.inside import bounds_as_functions, choose, feasible_start, split
from thalweg.solve.objective import Objective
from thalweg.solve.path import Limits, Path
from thalweg.solve.result import INFEASIBLE, SADDLE, UNQUALIFIED, Result

Array = np.ndarray
ESCAPES = 5
FLOOR = 16.0
"""Round-offs of a constraint below which missing it cannot be seen."""
OVER = ("unbounded", "non-finite", "limit", "stopped")


def constrained(
    objective: Objective, constraints: Constraints, method: str, search: Any, limits: Limits, convex: bool, began: float
) -> Result:
    """Minimise under constraints. search is for methods without constraints.

    Raises UserError where the method does not apply to the constraints, or bounds and set have no common point.
    """
    name, within = choose(objective, constraints, method), constraints.within
    x = feasible_start(objective, constraints)
    path = Path(x, *objective.check(x))
    soft = bounds_as_functions(constraints, objective.variables) if within is not None and constraints.bounded else constraints
    y, found = None, None
    multipliers: dict[str, Array] | None = None
    if name in ("penalty", "augmented"):
        y = augmented.sequence(objective, soft, path, limits, name == "penalty", within is None)
        if within is not None:
            multipliers = split(y, constraints, objective.n)
    elif name == "projected":
        found = _project(objective, constraints, path, limits, convex)
    if within is None and path.ended not in OVER:
        if name != "sqp":
            path.g = objective.both(path.x)[1]
        found, multipliers = _newton(objective, constraints, path, limits, convex, name != "sqp", y)
    elif within is not None and path.ended not in OVER and constraints.violation(path.x) > _room(path.x, limits.tol):
        path.x = augmented.least_violation(objective, soft, path.x, limits)
        path.f = objective.value(path.x)
    count = sum(part.count for part in (constraints.equality, constraints.inequality) if part)
    result = conclude(
        objective, path, began, name, limits.tol, constraints=constraints, multipliers=multipliers, convex=convex, found=found,
        evaluations=replace(objective.evaluations, constraints=count),
    )  # fmt: skip
    if result.status == INFEASIBLE and within is not None:
        others = [kind for kind in ("equality", "inequality") if getattr(constraints, kind)] + ["bounds"] * constraints.bounded
        said = f"within and {' and '.join(others)} exclude each other near the point reached; widen the set {within} or change the others"
        return replace(result, message=f"{result.message[:-1]}: {said}.")
    return result


def _room(x: Array, tol: float) -> float:
    return tol * max(1.0, float(np.abs(x).max()))


def _newton(
    objective: Objective, constraints: Constraints, path: Path, limits: Limits, convex: bool, exact: bool, y: Array | None
) -> tuple[Certificate | None, dict[str, Array]]:
    """Sequential quadratic programming from where the path stands, until the certificate has nothing to say against its end."""
    run = sqp.Run.at(objective, constraints, path, limits)
    run.y = run.y if y is None else y
    lifted = False
    for _ in range(ESCAPES + 3):
        sqp.descend(run, exact)
        if path.ended in OVER:
            break
        if run.violation > _seen(run):
            if lifted:
                break
            lifted = exact = True
            path.x = augmented.least_violation(objective, constraints, path.x, limits)
            path.f, path.g = objective.both(path.x)
            run = sqp.Run.at(objective, constraints, path, limits)
            if run.violation > _seen(run):
                break
            continue
        found = _certified(objective, constraints, path.x, run.by_kind(), limits.tol, convex)
        if found.success:
            return found, run.by_kind()
        if found.status == SADDLE and _escape(run, _flat(objective, found.escape)):
            exact = True
            continue
        if exact or found.status in (SADDLE, UNQUALIFIED):
            return found, run.by_kind()
        exact = True
    return None, run.by_kind()


def _seen(run: sqp.Run) -> float:
    """The least violation that is not rounding."""
    size = float((np.abs(run.a) + np.abs(run.J) @ np.abs(run.path.x)).max(initial=0.0))
    return max(_room(run.path.x, run.limits.tol), FLOOR * run.objective.variables.eps * size)


def _certified(
    objective: Objective, constraints: Constraints, x: Array, multipliers: dict[str, Array] | None, tol: float, convex: bool
) -> Certificate:
    """The certificate, whose evaluations of constraints are not the solver's."""
    parts = [part for part in (constraints.equality, constraints.inequality) if part]
    before = [(part.values, part.jacobians) for part in parts]
    found = certificate(objective, x, constraints, multipliers, tol, convex)
    for part, counts in zip(parts, before, strict=True):
        part.values, part.jacobians = counts
    return found


def _flat(objective: Objective, given: Any) -> Array:
    return objective.variables.flat(tree_flatten(given)[0]).double().cpu().numpy()


def _escape(run: sqp.Run, d: Array) -> bool:
    """Move along a direction of negative curvature and back to the constraints; whether the merit fell."""
    path, constraints, objective = run.path, run.constraints, run.objective
    if path.iterations >= run.limits.iterations or max(objective.f, objective.g) >= run.limits.evaluations:
        return False
    on = run.equal | (run.y > 0)
    w = np.maximum(2 * np.abs(run.y), run.w)
    before = path.f + float(w @ run.missed(run.a))
    t = 0.5 * max(1.0, float(np.abs(path.x).max()))
    for _ in range(16):
        x = path.x + t * d
        for _ in range(3):
            a, J = sqp.values(constraints, x), sqp.slopes(constraints, x)
            pulled = on | (a > 0)
            if not (np.isfinite(a).all() and np.isfinite(J).all()):
                break
            x = x - np.linalg.lstsq(J[pulled], a[pulled], rcond=1e-8)[0] if pulled.any() else x
            x = objective.variables.snap(np.minimum(np.maximum(x, constraints.low), constraints.high))
        f, a = objective.value(x), sqp.values(constraints, x)
        merit = f + float(w @ run.missed(a))
        if np.isfinite(merit) and merit < before - 1e-3 * t * t * objective.variables.eps**0.5:
            path.x, path.f, path.iterations = x, f, path.iterations + 1
            run.g, run.a, run.J = objective.gradient(x), a, sqp.slopes(constraints, x)
            return bool(np.isfinite(run.g).all())
        t /= 3
    return False


def _project(objective: Objective, constraints: Constraints, path: Path, limits: Limits, convex: bool) -> Certificate | None:
    """Projected gradient; a saddle inside the set is left along the escape direction."""
    project = projected.projection(objective, constraints)
    for _ in range(ESCAPES + 1):
        projected.descend(objective, path, project, limits)
        if constraints.within is None or path.ended in OVER:
            return None
        found = certificate(objective, path.x, constraints, None, limits.tol, convex)
        if found.status != SADDLE:
            return found
        d, t = _flat(objective, found.escape), max(1.0, float(np.abs(path.x).max()))
        trials = [project(path.x + sign * t / 4**k * d) for k in range(8) for sign in (1.0, -1.0)]
        best = min(trials, key=objective.value)
        if not objective.value(best) < path.f - 8 * objective.variables.eps * abs(path.f):
            return found
        path.x = best
        path.f, path.g = objective.both(best)
    return found
