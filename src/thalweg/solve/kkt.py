"""First- and second-order conditions under constraints: multipliers, independence, the critical cone, and the curvature on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.solve.constraints import Active, Constraints, by_kind, given_multipliers, lagrangian, linearised, natural_residual
from thalweg.solve.curvature import CHANGE, FLOOR, NOISE, SHRINK
from thalweg.solve.objective import Objective
from thalweg.solve.result import INFEASIBLE, NECESSARY, NOT_STATIONARY, SADDLE, STRICT, UNQUALIFIED

Array = np.ndarray
RANK = 1e-5
"""The singular value, of gradients of unit length, below which they are dependent."""
FACES = 10
"""Weakly active constraints whose faces of the critical cone are all looked at: 2^10 of them."""


@dataclass
class Finding:
    """A verdict on flat vectors, before it becomes a `Certificate`, whose fields these are."""

    status: str
    why: str
    stationarity: float
    violation: float = 0.0
    complementarity: float = 0.0
    active: tuple[str, ...] = ()
    rank: int = 0
    licq: bool = True
    strict_complementarity: bool = True
    multipliers: dict[str, Tensor] = field(default_factory=dict)
    critical_dimension: int | None = None
    curvature: float | None = None
    margin: float | None = None
    escape: Array | None = None
    penalty_threshold: float | None = None
    decrement: float | None = None
    floor: float | None = None

    def certificate_fields(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("why", "escape")}


def null_space(A: Array) -> Array:
    """An orthonormal basis (n, k) of {d: A d = 0}."""
    if len(A) == 0:
        return np.eye(A.shape[1])
    _, values, V = np.linalg.svd(_unit(A))
    return V[int((values > RANK).sum()) :].T


def rank_of(A: Array) -> int:
    return int((np.linalg.svd(_unit(A), compute_uv=False) > RANK).sum()) if len(A) else 0


def _unit(A: Array) -> Array:
    length = np.linalg.norm(A, axis=1, keepdims=True)
    return A / np.where(length > 0, length, 1.0)


def multipliers_of(g: Array, A: Array, signed: Array) -> Array:
    """y with least |g + A^T y|, not negative where signed: Lawson and Hanson 1974, with free variables always in the basis."""
    length = np.maximum(np.linalg.norm(A, axis=1), 1e-300)
    M, basis, y = (A / length[:, None]).T, ~signed, np.zeros(len(A))
    for _ in range(3 * len(A) + 3):
        z = np.zeros(len(A))
        z[basis] = np.linalg.lstsq(M[:, basis], -g, rcond=RANK)[0] if basis.any() else 0.0
        bad = basis & signed & (z <= 0)
        if bad.any():
            share = np.where(bad, y / np.where(bad, y - z, 1.0), 1.0)
            first = int(np.argmin(share))
            y = y + max(float(share[first]), 0.0) * (z - y)
            basis[first], y[first] = False, 0.0
            continue
        y = z
        pull = -M.T @ (g + M @ y)
        free = signed & ~basis & (pull > 1e-12 * max(1.0, float(np.abs(g).max())))
        if not free.any():
            break
        basis[int(np.argmax(np.where(free, pull, -np.inf)))] = True
    return y / length


def cone_minimum(H: Array, strong: Array, weak: Array) -> tuple[float, Array] | None:
    """The least curvature d.H d over unit d with strong d = 0 and weak d <= 0, and such a d; None where only d = 0 is left.

    It is attained inside a face of the cone, at an eigenvector of H on that face's span.
    """
    best: tuple[float, Array] | None = None
    sizes = range(len(weak) + 1) if len(weak) <= FACES else [0, len(weak)]
    for size in sizes:
        for face in itertools.combinations(range(len(weak)), size):
            rest = np.delete(weak, face, axis=0)
            Z = null_space(np.concatenate([strong, weak[list(face)]]))
            if Z.shape[1] == 0:
                continue
            values, vectors = np.linalg.eigh(Z.T @ H @ Z)
            for value, u in zip(values, vectors.T, strict=True):
                d = Z @ u
                side = next((s for s in (1.0, -1.0) if (rest @ (s * d) <= 1e-9 * np.linalg.norm(rest, axis=1)).all()), None)
                if side is not None and (best is None or value < best[0]):
                    best = (float(value), side * d)
    return best


def threshold(H: Array, A: Array) -> float | None:
    """The least c >= 0 from which H + c A^T A is positive definite; None where no c will do. Finsler 1937; Debreu 1952."""
    Z = null_space(A)
    _, s, V = np.linalg.svd(A)
    R = V[: int((s > RANK * s.max(initial=0.0)).sum())].T
    W = R.T @ H @ R
    if Z.shape[1]:
        core = Z.T @ H @ Z
        if np.linalg.eigvalsh(core)[0] <= 0:
            return None
        W = W - R.T @ H @ Z @ np.linalg.solve(core, Z.T @ H @ R)
    Q = np.linalg.cholesky(R.T @ A.T @ A @ R)
    inner = np.linalg.solve(Q, np.linalg.solve(Q, W).T)
    return max(0.0, float(-np.linalg.eigvalsh((inner + inner.T) / 2)[0]))


def examine(
    objective: Objective, x: Array, f: float, g: Array, constraints: Constraints, multipliers: Any, tol: float, free: Callable[[], Finding]
) -> Finding:
    """Judge x under equalities, inequalities and bounds (and, at first order, a set besides). free: the verdict where none is active."""
    n, eps = len(x), objective.variables.eps
    given = given_multipliers(multipliers, constraints, n)
    active, violation = linearised(constraints, x, given, tol)
    A, signed, count = active.A, active.signed, len(active.A)
    rank, size = rank_of(A), max(1.0, float(np.abs(g).max()))
    names = tuple(f"{kind}[{i}]" for kind, i in active.names)
    y = np.array([given[kind][i] for kind, i in active.names]) if given and all(k in given for k, _ in active.names) else None
    far = y is not None and (np.abs(y).max(initial=0.0) * RANK > size or (signed & (y < -tol * size)).any())
    if y is None or far:
        y = multipliers_of(g, A, signed) if count else np.zeros(0)
    r = g + A.T @ y
    full = by_kind(active, y, constraints, n)
    H = lagrangian(objective, constraints, full).hessian(x)
    base = Finding(
        NOT_STATIONARY, "", float(np.abs(r).max()), violation, float(np.abs(y * active.values)[signed].max(initial=0.0)), names, rank,
        rank == count, multipliers={k: torch.from_numpy(v) for k, v in full.items()},
    )  # fmt: skip
    size_x = max(1.0, float(np.abs(x).max()))
    if violation > max(tol * size_x, FLOOR * eps * float((np.abs(A) @ np.abs(x)).max(initial=0.0))):
        base.status, base.why = INFEASIBLE, f"a constraint is missed by {violation:.6g}{_least(active, size_x)}"
        return base
    if constraints.within is not None:
        base.stationarity = natural_residual(objective, x, r, constraints.within)
    elif count == 0:
        found = free()
        found.violation = violation
        found.multipliers = base.multipliers
        return found
    limit = tol * size + FLOOR * eps * float((np.abs(H) @ np.abs(x) + np.abs(g) + np.abs(A.T) @ np.abs(y)).max())
    if base.stationarity > limit:
        missing = f"no multipliers bring the Lagrangian's gradient below {base.stationarity:.2g}"
        base.status, base.why = NOT_STATIONARY, f"{missing}, above {limit:.2g}"
        if rank < count:
            base.status, base.why = UNQUALIFIED, f"{missing}, and the {count} active constraints' gradients have rank {rank} only"
        else:
            base.escape = -r / max(float(np.linalg.norm(r)), 1e-300)
        return base
    weak = signed & (y <= tol * size)
    base.strict_complementarity = not weak.any()
    base.penalty_threshold = threshold(H, A[~weak]) if (~weak).any() else None
    return _second_order(base, objective, x, constraints, active, y, r, weak, H)


def _second_order(
    base: Finding, objective: Objective, x: Array, constraints: Constraints, active: Active, y: Array, r: Array, weak: Array, H: Array
) -> Finding:
    n, eps, unique = len(x), objective.variables.eps, "" if base.licq else "; multipliers are not unique"
    strong = active.A[~weak]
    base.critical_dimension = null_space(strong).shape[1]
    found = cone_minimum(H, strong, active.A[weak])
    first = "the first-order conditions hold"
    if constraints.within is not None:
        base.status, base.why = NECESSARY, f"{first}; second order is not examined on a set with constraints besides"
        return base
    if found is None:
        base.status, base.why = STRICT, f"{first} and no direction is critical{unique}"
        return base
    curvature, d = found
    noise = NOISE * n * eps * max(float(np.abs(H).max()), 1e-300)
    base.curvature, base.margin = curvature, curvature / (noise / NOISE)
    if curvature < -noise:
        base.status, base.why, base.escape = (
            SADDLE,
            f"{first}, but the curvature is negative along the critical direction `escape`{unique}",
            d,
        )
    elif curvature <= noise:
        base.status, base.why = NECESSARY, f"{first}, but the curvature on the critical cone is zero: second order does not decide{unique}"
    else:
        kept, ratio = _step_on(objective, x, constraints, active, y, r, weak, H, curvature)
        if kept >= 1 - CHANGE:
            base.status, base.why = STRICT, f"{first} and the curvature on the critical cone is positive{unique}"
        elif ratio >= SHRINK:
            base.status, base.why = NOT_STATIONARY, f"{first} nearly, but Newton's steps do not shrink: no minimum is near by"
        else:
            base.status, base.why = (
                NECESSARY,
                f"{first}, but the curvature vanishes with the residual: second order does not decide{unique}",
            )
    return base


def _step_on(
    objective: Objective, x: Array, constraints: Constraints, active: Active, y: Array, r: Array, weak: Array, H: Array, curvature: float
) -> tuple[float, float]:
    """The share of the curvature left after a Newton step on the active constraints, and the next step's length beside this one's."""
    p, dy = _newton(H, active.A[~weak], r, active.values[~weak])
    if np.abs(p).max() <= objective.variables.eps * max(1.0, float(np.abs(x).max())):
        return 1.0, 0.0
    x1, y1 = x + p, y.copy()
    y1[~weak] += dy
    on = np.flatnonzero(~weak)
    full = by_kind(active, y1, constraints, len(x))
    L1 = lagrangian(objective, constraints, full)
    H1 = L1.hessian(x1)
    parts = {kind: part for kind, part in (("equality", constraints.equality), ("inequality", constraints.inequality)) if part}
    J = {kind: part.jacobian(x1) for kind, part in parts.items()}
    c = {kind: part.value(x1) for kind, part in parts.items()}
    A1 = np.array([J[kind][i] if kind in J else active.A[k] for k, (kind, i) in enumerate(active.names)]).reshape(active.A.shape)
    edge = {"lower": constraints.low - x1, "upper": x1 - constraints.high}
    values = np.array([c[kind][i] if kind in c else edge[kind][i] for kind, i in active.names])
    found = cone_minimum(H1, A1[on], A1[weak])
    slope = objective.gradient(x1) + A1.T @ y1
    p1, _ = _newton(H1, A1[on], slope, values[on])
    return (1.0 if found is None else found[0] / curvature), float(np.linalg.norm(p1) / max(float(np.linalg.norm(p)), 1e-300))


def _newton(H: Array, A: Array, r: Array, c: Array) -> tuple[Array, Array]:
    m, n = A.shape
    K = np.block([[H, A.T], [A, np.zeros((m, m))]])
    z = np.linalg.lstsq(K, -np.concatenate([r, c]), rcond=None)[0]
    return z[:n], z[n:]


def _least(active: Active, size_x: float) -> str:
    missed = np.where(active.signed, np.maximum(active.values, 0.0), active.values)
    pull, most = active.A.T @ missed, float(np.linalg.norm(missed))
    steep = max(float(np.linalg.norm(active.A, 2)), most / size_x) if len(active.A) else 0.0
    return ", and near by no point misses less" if steep and float(np.abs(pull).max()) <= 1e-4 * steep * most else ""


def on_a_set(objective: Objective, x: Array, g: Array, within: Any, tol: float, free: Callable[[], Finding]) -> Finding:
    """Judge x in a convex set: at first order, and at second where the gradient itself vanishes."""
    outside = natural_residual(objective, x, np.zeros_like(x), within)
    residual, limit = natural_residual(objective, x, g, within), tol * max(1.0, float(np.abs(g).max()))
    if outside > tol * max(1.0, float(np.abs(x).max())):
        return Finding(INFEASIBLE, f"the point is off the set by {outside:.6g}", residual, outside)
    if residual > limit:
        return Finding(NOT_STATIONARY, f"a projected gradient step still moves by {residual:.2g}, above {limit:.2g}", residual, outside)
    if float(np.abs(g).max()) <= tol:
        found = free()
        found.violation = outside
        if found.status == SADDLE and found.escape is not None:
            t = 1e-3 * max(1.0, float(np.abs(x).max()))
            if min(natural_residual(objective, x + s * t * found.escape, np.zeros_like(x), within) for s in (1.0, -1.0)) > tol:
                found.status, found.why, found.escape = (
                    NECESSARY,
                    "the curvature is negative only along a direction that leaves the set",
                    None,
                )
        return found
    return Finding(
        NECESSARY, "no projected gradient step moves the point; second order is not examined on a set's boundary", residual, outside
    )
