"""What can be proved of a point, whoever found it: first- and second-order conditions, computed apart from any solver.

Conditions, signs and the critical cone as in Nocedal and Wright 2006, chapter 12: L = f + lambda.h + mu.c with mu >= 0, bounds as
c = low - x and c = x - high. Round-off is judged against the arithmetic of x's dtype, as `solve/curvature.py` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from thalweg.errors import UserError
from thalweg.solve.constraints import Constraints
from thalweg.solve.curvature import NOISE, judge
from thalweg.solve.kkt import Finding, examine, on_a_set
from thalweg.solve.objective import Objective, Vector
from thalweg.solve.result import CONVEX, NECESSARY, NOT_STATIONARY, SADDLE, STRICT, Evaluations
from thalweg.solve.variables import Variables

Array = np.ndarray
DENSE = 500
"""Variables up to which the whole Hessian is taken; above, Lanczos' method looks for negative curvature with a few products."""
PRODUCTS = 60
TOL = 1e-6


@dataclass(frozen=True)
class Certificate:
    """What holds at a point. Residuals are unscaled; None stands for what was not computed or does not apply.

    status, message: the verdict, a status of `Result`, and why. stationarity: the largest entry of the gradient of the Lagrangian (on a
    set, of x - Proj(x - gradient)). violation: the most by which a constraint is missed. complementarity: the largest |mu c|.
    active: names of the constraints that hold with equality ("equality[0]", "inequality[2]", "lower[1]", ...). rank: of their
    gradients; licq: whether they are independent, so that multipliers are unique. strict_complementarity: whether every active
    inequality has a positive multiplier. multipliers: flat tensors by constraint. critical_dimension: of the critical cone's span.
    curvature: the smallest of the Lagrangian on the critical cone. margin: that curvature in units of its own round-off. escape: a
    direction, in x's form, along which f falls. penalty_threshold: the c from which H + c A^T A is positive definite, A the active
    gradients. decrement: what a Newton step would still gain; floor: what rounding hides of it. evaluations: the certificate's own.
    """

    status: str
    message: str
    stationarity: float
    violation: float = 0.0
    complementarity: float = 0.0
    active: tuple[str, ...] = ()
    rank: int = 0
    licq: bool = True
    strict_complementarity: bool = True
    multipliers: dict[str, torch.Tensor] = field(default_factory=dict)
    critical_dimension: int | None = None
    curvature: float | None = None
    margin: float | None = None
    escape: Any = None
    penalty_threshold: float | None = None
    decrement: float | None = None
    floor: float | None = None
    evaluations: Evaluations = field(default_factory=Evaluations)

    @property
    def success(self) -> bool:
        """Whether the verdict is a minimum."""
        return self.status.startswith("minimum")


def certify(
    fun: Any, x: Any, *, equality: Any = None, inequality: Any = None, bounds: Any = None, within: Any = None, multipliers: Any = None,
    tol: float = TOL, gradient: Any = None, hessian: Any = None, convex: bool = False, products: int = PRODUCTS,
) -> Certificate:  # fmt: skip
    """First- and second-order conditions of min fun(x) under constraints, at any point by anyone.

    fun, x, equality (h = 0), inequality (c <= 0), bounds (low, high), within (a set with `project`), gradient, hessian: as
    `minimize` takes them; x may be in any structure. multipliers: a mapping with "equality", "inequality", "lower", "upper", as `Result`
    has it; without it they are estimated by least squares, not negative for inequalities. tol: the largest residual that counts as
    zero. convex: your word that the problem is convex; a minimum is then global. products: of the Hessian with a vector, above 500
    variables. Raises UserError for what `minimize` raises it for.

    >>> import torch
    >>> saddle = certify(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2, dtype=torch.float64))
    >>> saddle.status, saddle.curvature, saddle.escape.abs().tolist()
    ('saddle', -2.0, [0.0, 1.0])
    """
    with torch.enable_grad(), np.errstate(all="ignore"):
        variables = Variables(x, name="x")
        objective = Objective(fun, variables, gradient, hessian)
        objective.check(variables.start)
        objective.f = objective.g = 0
        constraints = constraints_of(variables, equality, inequality, bounds, within)
        return certificate(objective, variables.start, constraints, multipliers, tol, convex, products)


def constraints_of(variables: Variables, equality: Any, inequality: Any, bounds: Any, within: Any) -> Constraints:
    """The user's constraints as functions of a flat vector. Raises UserError naming the one that is wrong."""
    low, high = np.full(variables.n, -np.inf), np.full(variables.n, np.inf)
    if bounds is not None:
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise UserError("bounds must be a pair (low, high), each in x0's shape or one number; None stands for no bound")
        low = low if bounds[0] is None else variables.vector(bounds[0], "bounds[0]")
        high = high if bounds[1] is None else variables.vector(bounds[1], "bounds[1]")
        if not (low <= high).all():
            place = int(np.argmax(~(low <= high)))
            raise UserError(f"bounds exclude each other at place {place}: low {low[place]:g}, high {high[place]:g}; exchange or widen them")
    if within is not None and not callable(getattr(within, "project", None)):
        raise UserError(f"within must be a set with a method project(x), such as those of thalweg.sets; it is a {type(within).__name__}")
    h = None if equality is None else Vector(equality, variables, "equality")
    c = None if inequality is None else Vector(inequality, variables, "inequality")
    return Constraints(h, c, low, high, within)


def certificate(
    objective: Objective, x: Array, constraints: Constraints | None, multipliers: Any = None, tol: float = TOL, convex: bool = False,
    products: int = PRODUCTS, dense: int = DENSE,
) -> Certificate:  # fmt: skip
    """The same on flat vectors; `minimize` ends with it. The evaluations it makes are not added to the objective's.

    dense: the most variables of a free problem whose whole Hessian is taken.
    """
    variables, before = objective.variables, objective.evaluations
    constraints = constraints or Constraints(None, None, np.full(x.shape, -np.inf), np.full(x.shape, np.inf), None)

    def free() -> Finding:
        return _free(objective, x, tol) if objective.n <= dense else _large(objective, x, tol, products)

    if constraints.none:
        found = free()
    elif constraints.within is not None and constraints.general == 0:
        found = on_a_set(objective, x, objective.both(x)[1], constraints.within, tol, free)
    else:
        found = examine(objective, x, *objective.both(x), constraints, multipliers, tol, free)
    if convex and found.status in (STRICT, NECESSARY):
        found.status, found.why = CONVEX, "the problem is convex, so that first-order conditions suffice"
    escape = None if found.escape is None else variables.build([t.clone() for t in variables.tensors(found.escape)])
    spent = Evaluations(*(getattr(objective.evaluations, k) - getattr(before, k) for k in Evaluations.__dataclass_fields__))
    objective.f, objective.g, objective.H, objective.products = before.f, before.g, before.H, before.products
    answer = found.certificate_fields()
    return Certificate(message=f"{found.status}: {found.why}.", escape=escape, evaluations=spent, **answer)


def _free(objective: Objective, x: Array, tol: float) -> Finding:
    """Without constraints, or with none active."""
    f, g, H = objective.all(x)

    def at(points: Array, lanes: Array) -> tuple[Array, Array, Array]:
        value, slope, H = objective.all(np.ascontiguousarray(points[0]))
        return np.array([value]), slope[None], H[None]

    def slopes(points: Array, lanes: Array) -> tuple[Array, Array]:
        value, slope = objective.both(np.ascontiguousarray(points[0]))
        return np.array([value]), slope[None]

    def values(points: Array, lanes: Array) -> Array:
        return np.array([objective.value(np.ascontiguousarray(points[0]))])

    found = judge(x[None], np.array([f]), g[None], H[None], at, slopes, values, tol, objective.variables.eps)
    escape = None if np.isnan(found.escape[0]).any() else found.escape[0]
    return Finding(
        found.status[0], found.why[0], float(np.abs(g).max()), critical_dimension=objective.n, curvature=float(found.curvature[0]),
        margin=float(found.margin[0]), escape=escape, decrement=float(found.decrement[0]), floor=float(found.floor[0]),
    )  # fmt: skip


def _large(objective: Objective, x: Array, tol: float, products: int) -> Finding:
    """Lanczos' method from a random start: a negative value it finds is proof, positive ones are none."""
    f, g = objective.both(x)
    size = float(np.abs(g).max())
    if not size <= tol:
        return Finding(NOT_STATIONARY, f"the gradient's largest entry is {size:.2g}, above {tol:.2g}", size, critical_dimension=objective.n)
    value, v, top, count = lanczos(lambda u: objective.product(x, u), objective.n, products)
    limit = NOISE * count * objective.variables.eps * top
    base = Finding(NECESSARY, "", size, critical_dimension=objective.n, curvature=value, margin=value / max(limit / NOISE, 1e-300))
    if value < -limit:
        escape = -v if g @ v > 0 else v
        return replace(base, status=SADDLE, why="the gradient vanishes and the curvature is negative along `escape`", escape=escape)
    d = -g / max(float(np.linalg.norm(g)), 1e-300) * max(1.0, float(np.linalg.norm(x)))
    noise = 4 * objective.variables.eps * abs(f)
    half, whole = objective.value(x + d / 2), objective.value(x + d)
    if half < f - noise and whole < half - noise:
        why = "the gradient vanishes only nearly: the function falls on down it, at half the length of x and at the whole"
        return replace(base, status=NOT_STATIONARY, why=why)
    said = f"the gradient vanishes, and {count} products of the Hessian found no negative curvature"
    return replace(base, why=f"{said}, which does not exclude it among {objective.n} variables")


def lanczos(product: Any, n: int, steps: int, seed: int = 0) -> tuple[float, Array, float, int]:
    """The smallest Ritz value and its vector (n,), the largest |value|, and the products used. Lanczos 1950, reorthogonalised."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal(n)
    Q = [q / np.linalg.norm(q)]
    alpha: list[float] = []
    beta: list[float] = []
    for _ in range(min(steps, n)):
        w = product(Q[-1])
        alpha.append(float(w @ Q[-1]))
        basis = np.array(Q)
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        length = float(np.linalg.norm(w))
        if length <= 1e-10 * max(map(abs, alpha)) or len(alpha) == min(steps, n):
            break
        beta.append(length)
        Q.append(w / length)
    values, vectors = np.linalg.eigh(
        np.diag(alpha) + np.diag(beta, 1)[: len(alpha), : len(alpha)] + np.diag(beta, -1)[: len(alpha), : len(alpha)]
    )
    v = np.array(Q[: len(alpha)]).T @ vectors[:, 0]
    return float(values[0]), v / np.linalg.norm(v), float(np.abs(values).max()), len(alpha)
