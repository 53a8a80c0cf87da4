"""Least squares and systems of equations: Gauss-Newton and Levenberg-Marquardt on the residuals' Jacobian.

Levenberg 1944; Marquardt 1963, with variables scaled by the largest columns seen so far (More 1978) and the damping of Nielsen 1999.
Steps solve a least-squares problem of their own, so that the Jacobian is never squared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UserError, unknown
from thalweg.solve.conclude import conclude
from thalweg.solve.objective import Objective, Vector
from thalweg.solve.path import Limits, Path
from thalweg.solve.result import INFEASIBLE, NECESSARY, STRICT, Evaluations, Result
from thalweg.solve.variables import Variables

Array = np.ndarray
METHODS = ("levenberg-marquardt", "gauss-newton")
START = 1e-3
"""The first damping, in units of the scaled squares; 1e-12 of it and less is none."""


def least_squares(
    residuals: Any, x0: Any, *, method: str = "levenberg-marquardt", tol: float = 1e-8, max_iterations: int = 1000,
    callback: Callable[[dict[str, Any]], Any] | None = None,
) -> Result:  # fmt: skip
    """Minimise half the sum of squares of residuals(x).

    residuals: maps what x0 holds to a vector (m,), or a list of functions that do. x0: as in `minimize`. method:
    "levenberg-marquardt", or "gauss-newton", which is the same without damping and with backtracking. tol: the largest entry of
    J^T r at which it ends. Result.value is half the sum of squares; evaluations.f counts residuals and g Jacobians.
    Raises UserError as `minimize` does.

    >>> import torch
    >>> r = least_squares(lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), torch.tensor([-1.2, 1.0], dtype=torch.float64))
    >>> r.status, [round(v, 8) for v in r.x.tolist()]
    ('minimum (strict local)', [1.0, 1.0])
    """
    began = perf_counter()
    if method not in METHODS:
        raise unknown("method of least squares", str(method), METHODS)
    with torch.enable_grad(), np.errstate(all="ignore"):
        vector, objective = _read(residuals, x0, "residuals")
        path, counts = _solve(vector, objective, method, Limits(tol, max_iterations, math.inf, callback))
        return conclude(objective, path, began, method, tol, evaluations=counts)


def root(
    fun: Any, x0: Any, *, tol: float = 1e-10, max_iterations: int = 1000, callback: Callable[[dict[str, Any]], Any] | None = None
) -> Result:
    """Solve fun(x) = 0, by Levenberg-Marquardt steps that end as Newton's.

    fun: maps what x0 holds to a vector, usually with as many numbers as x0. tol: the largest |entry| of fun that counts as zero.
    Result.value is the largest |entry| left. The status is "minimum (strict local)" at a root with a Jacobian of full rank, so
    that no other root is near by, "minimum (necessary conditions only)" at one without, and "infeasible" where the squares have a
    minimum above zero. Raises UserError as `minimize` does.

    >>> import torch
    >>> r = root(lambda x: torch.cos(x) - x, torch.tensor(0.5, dtype=torch.float64))
    >>> r.status, round(r.x.item(), 12)
    ('minimum (strict local)', 0.739085133215)
    """
    began = perf_counter()
    with torch.enable_grad(), np.errstate(all="ignore"):
        vector, objective = _read(fun, x0, "fun")
        limits = Limits(0.0, max_iterations, math.inf, callback)
        path, counts = _solve(vector, objective, METHODS[0], limits, tol)
        r, J = vector.value(path.x), vector.jacobian(path.x)
        left = float(np.abs(r).max())
        found = conclude(objective, path, began, "root", 1e-8, evaluations=counts)
    if left <= tol:
        values = np.linalg.svd(J, compute_uv=False)
        full = found.status == STRICT and len(r) >= vector.variables.n and values[-1] > 100 * len(values) * vector.variables.eps * values[0]
        status, why = (STRICT, "the Jacobian has full rank") if full else (NECESSARY, "the Jacobian is singular")
        return replace(found, value=left, status=status, message=f"{status}: a root, to {left:.2g}, where {why}.")
    if found.success:
        return replace(found, value=left, status=INFEASIBLE, message=f"{INFEASIBLE}: near by fun comes no nearer to zero than {left:.3g}.")
    return replace(found, value=left)


def _read(fun: Any, x0: Any, name: str) -> tuple[Vector, Objective]:
    variables = Variables(x0)
    vector = Vector(fun, variables, name)
    if vector.m == 0:
        raise UserError(f"{name} returned no numbers; return a vector")

    def squares(argument: Any) -> Tensor:
        return vector(argument).square().sum() / 2

    objective = Objective(squares, variables, name=name)
    objective.check(variables.start)
    objective.f = objective.g = 0
    return vector, objective


def _solve(vector: Vector, objective: Objective, method: str, limits: Limits, small: float = 0.0) -> tuple[Path, Evaluations]:
    """small: the largest |residual| at which it ends as well."""
    x = vector.variables.start
    r, J = vector.value(x), vector.jacobian(x)
    path = Path(x, float(r @ r) / 2, J.T @ r)
    D = np.linalg.norm(J, axis=0)
    damping, grow = (START, 2.0) if method == METHODS[0] else (0.0, 2.0)
    fresh = True
    while True:
        if fresh:
            objective.f, objective.g = vector.values, vector.jacobians  # what limits and the trace go by
            if path.over(objective, limits, damping):
                break
            if float(np.abs(r).max()) <= small:
                path.ended = "stationary"
                break
        D = np.maximum(D, np.linalg.norm(J, axis=0))
        p = _step(J, r, np.where(D > 0, D, 1.0), damping)
        new, value, after = _trial(vector, path, p, r, J, damping == 0 and method != METHODS[0])
        foretold = (float(r @ r) - float(np.sum((r + J @ p) ** 2))) / 2
        fall = path.f - value if math.isfinite(value) else -math.inf
        fresh = fall > 0 and foretold > 0
        if fresh:
            damping = damping * max(1 / 3, 1 - (2 * min(fall / foretold, 1.0) - 1) ** 3)
            damping, grow = damping if damping > START * 1e-12 else START * 1e-12 * (damping > 0), 2.0
            r, J = after, vector.jacobian(new)
            path.x, path.f, path.g, path.iterations = new, value, J.T @ r, path.iterations + 1
            continue
        damping, grow = damping * grow, 2 * grow
        if damping == 0 or not damping < 1e20 or (new == path.x).all():
            path.ended = "stalled"
            break
    objective.f = objective.g = 0
    return path, Evaluations(vector.values, vector.jacobians)


def _step(J: Array, r: Array, D: Array, damping: float) -> Array:
    """p with the least |J p + r|^2 + damping |D p|^2."""
    if damping == 0:
        return np.linalg.lstsq(J / D, -r, rcond=None)[0] / D
    n = J.shape[1]
    return np.linalg.lstsq(np.concatenate([J / D, math.sqrt(damping) * np.eye(n)]), np.concatenate([-r, np.zeros(n)]), rcond=None)[0] / D


def _trial(vector: Vector, path: Path, p: Array, r: Array, J: Array, backtrack: bool) -> tuple[Array, float, Array]:
    slope, t = float(path.g @ p), 1.0
    while True:
        new = vector.variables.snap(path.x + t * p)
        after = vector.value(new)
        value = float(after @ after) / 2
        if not backtrack or value <= path.f + 1e-4 * t * slope or t < 1e-12:
            return new, value, after
        t /= 2
