"""The front door: reads what the user gave, chooses a method, and answers with a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from thalweg.core import catalogue
from thalweg.errors import UserError, unknown
from thalweg.solve.batch import Batch
from thalweg.solve.certificate import DENSE, PRODUCTS, certificate, constraints_of
from thalweg.solve.conclude import conclude
from thalweg.solve.constraints import given_multipliers
from thalweg.solve.implicit import implicit
from thalweg.solve.lanes import together
from thalweg.solve.objective import Objective
from thalweg.solve.path import Limits, Path
from thalweg.solve.result import SADDLE, Result
from thalweg.solve.unconstrained import polish, solve
from thalweg.solve.variables import Variables

Array = np.ndarray
CONSTRAINED = ("projected", "penalty", "augmented", "sqp")
FEW = 500
"""Variables up to which `auto` keeps a whole matrix (bfgs)."""
ALWAYS = 50
"""Variables up to which the certificate looks at the whole Hessian, whatever it costs."""
ESCAPES = 5
"""How often a search that ended at a saddle goes on along the certificate's direction."""


def minimize(
    fun: Callable[..., Any], x0: Any, *, method: str = "auto", search: Any = "wolfe", equality: Any = None, inequality: Any = None,
    bounds: Any = None, within: Any = None, tol: float = 1e-8, max_iterations: int | None = None, max_evaluations: int | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None, batched: bool = False, data: Any = None, gradient: Any = None,
    hessian: Any = None, convex: bool = False, differentiable: bool = False,
) -> Result:  # fmt: skip
    """Minimise a function of a tensor, or of a structure of tensors, and say what was found.

    fun: maps what x0 holds to a scalar tensor; for an nn.Module as x0 also a closure without arguments.
    x0: a floating tensor of any shape, a dict or tuple of them, numbers (taken as float64), or an nn.Module, which ends at the solution.
    method: "gd", "diagonal-newton", "newton", "newton-cg", "bfgs", "lbfgs" (with a search), "trust-exact", "trust-cg"; under constraints
        "projected" (with `within` or bounds), "penalty", "augmented", "sqp". "auto": bfgs, lbfgs above 500 variables, sqp under
        constraints, projected on a set; where bfgs does not end at a minimum, trust-exact goes on.
    search: "wolfe", "armijo", "bisection", "fixed", one of `thalweg.searches` with options, or a number, the step of every iteration.
        Not used under constraints.
    equality, inequality: functions, or lists of them, to numbers or vectors, meaning h(x) = 0 and c(x) <= 0.
    bounds: (low, high), each a number, of x0's structure, or None. within: a set with `project`.
    tol: the largest entry of the gradient (of the Lagrangian) at which it ends; what rounding hides ends it earlier.
    max_iterations: 10,000 unless given. max_evaluations: of value and gradient.
    callback: is given a dict an iteration ("iteration", "x", "value", "gradient_norm", "step", "evaluations"); True stops.
    batched: x0 has a leading axis of lanes, each a problem of its own; fun is written for one. data: tensors with the same leading axis,
        handed to fun lane by lane as further arguments.
    gradient, hessian: your own, of the arguments of fun; the Hessian as an (n, n) matrix.
    convex: your word that the problem is convex: a minimum is then reported as global.
    differentiable: x carries gradients to the tensors inside fun and the constraints that require them, by the implicit function theorem;
        an inequality that holds without a multiplier counts as one that does not hold, and bounds are numbers.

    Raises UserError for what is wrong with an argument; never for a problem without a solution, which the status tells.

    >>> import torch
    >>> r = minimize(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    >>> r.status, [round(v, 6) for v in r.x.tolist()]
    ('minimum (strict local)', [1.0, 1.0])
    """
    began = perf_counter()
    limits = _limits(tol, max_iterations, max_evaluations, callback)
    direction, step = _method(method), search_of(search)
    with torch.enable_grad(), np.errstate(all="ignore"):  # what is not finite is looked at
        if batched:
            given = {"equality": equality, "inequality": inequality, "bounds": bounds, "within": within}
            given |= {"gradient": gradient, "hessian": hessian, "differentiable": differentiable or None}
            return _batched(fun, x0, data, method, direction, step, limits, convex, began, given)
        if data is not None:
            raise UserError("data is handed to fun lane by lane; add batched=True, or put it into fun itself")
        variables = Variables(x0)
        objective = Objective(fun, variables, gradient, hessian)
        constraints = constraints_of(variables, equality, inequality, bounds, within)
        if not constraints.none:
            from thalweg.solve.constrained import constrained

            result = constrained(objective, constraints, method, step, limits, convex, began)
            if not differentiable:
                return result
            x = variables.vector(result.x, "x")
            return replace(result, x=implicit(objective, x, constraints, given_multipliers(result.multipliers, constraints, variables.n)))
        if method in CONSTRAINED:
            raise UserError(f"method '{method}' is for constraints, and none is given; take auto, bfgs or newton, or give constraints")
        return free(objective, variables.start, method, direction, step, limits, convex, began, differentiable)


def _batched(
    fun: Any,
    x0: Any,
    data: Any,
    method: str,
    direction: Any,
    search: Any,
    limits: Limits,
    convex: bool,
    began: float,
    given: dict[str, Any],
) -> Result:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name} is not for batched=True; leave it out, or minimise lane by lane")
    name = "bfgs" if method == "auto" else method
    kind = catalogue.find("directions", name, "method") if direction is None else direction
    if not kind.lanes:
        able = [key for key, entry in catalogue.shelf("directions").items() if entry.lanes]
        raise UserError(f"method '{method}' does not take lanes; with batched=True take one of {', '.join(able)}")
    return together(Batch(fun, Variables(x0, lanes=True), data), kind, search, limits, convex, began, name)


def free(
    objective: Objective, x: Array, method: str, direction: Any, search: Any, limits: Limits, convex: bool = False,
    began: float | None = None, differentiable: bool = False,
) -> Result:  # fmt: skip
    """Minimise without constraints, from a vector; leaves saddles along the certificate's direction."""
    began = perf_counter() if began is None else began
    f, g = objective.check(x)
    path = Path(x, f, g)
    auto = direction is None
    name = ("bfgs" if objective.n <= FEW else "lbfgs") if auto else method
    kind = catalogue.find("directions", name, "method") if auto else direction
    found = None
    for _ in range(ESCAPES + 1):
        path = solve(objective, path, kind, search, limits)
        if path.ended in ("unbounded", "non-finite"):
            break
        if path.ended == "stalled" and objective.n <= DENSE:
            polish(objective, path, limits)
        found = certificate(objective, path.x, None, None, limits.tol, convex, *_within_means(objective, convex))
        if auto and name == "bfgs" and not found.success and found.status != SADDLE and path.ended == "stalled" and objective.n <= DENSE:
            name, kind = "bfgs, trust-exact", catalogue.find("directions", "trust-exact")
            continue
        if found.status != SADDLE or path.ended == "stopped" or not _escape(objective, path, found.escape, limits):
            break
        found = None
    result = conclude(objective, path, began, name, limits.tol, convex=convex, found=found)
    return replace(result, x=implicit(objective, path.x)) if differentiable else result


def _within_means(objective: Objective, convex: bool) -> tuple[int, int]:
    """Products, and the most variables whose Hessian is taken: so that a certificate costs a fraction of what was solved.

    Of a problem that is convex by the user's word curvature proves nothing more, but may still refute it: a few products look.
    """
    spent = objective.evaluations.cost(objective.n)
    dense = objective.n <= ALWAYS or (2 * objective.n <= spent and not convex)
    return min(PRODUCTS, 10 if convex else max(10, spent // 5)), DENSE if dense else 0


def _escape(objective: Objective, path: Path, escape: Any, limits: Limits) -> bool:
    """Move the path down along a direction of negative curvature; whether that led lower."""
    if max(objective.f, objective.g) >= limits.evaluations or path.iterations >= limits.iterations:
        return False
    variables = objective.variables
    leaves = torch.utils._pytree.tree_flatten(escape)[0]
    d = variables.flat(leaves).double().cpu().numpy()
    best, t = (path.f, path.x), 1e-3 * max(1.0, float(np.abs(path.x).max()))
    for _ in range(60):
        x = variables.snap(path.x + t * d)
        f = objective.value(x)
        if not (math.isfinite(f) and f < best[0] and f > path.deepest):
            break
        best, t = (f, x), 2 * t
    if best[1] is path.x:
        return False
    path.f, path.x = best
    path.g = objective.gradient(path.x)
    path.iterations += 1
    return bool(np.isfinite(path.g).all())


def _method(method: str) -> Any:
    """The entry of the shelf `directions`; None for auto and the constrained methods."""
    if method == "auto" or method in CONSTRAINED:
        return None
    known = catalogue.shelf("directions")
    if method not in known:
        raise unknown("method", str(method), (*known, *CONSTRAINED, "auto"))
    return known[method]


def search_of(search: Any) -> Any:
    """A search with its options set: from a name, a step's length, or one that is set already."""
    if isinstance(search, int | float) and not isinstance(search, bool):
        if not search > 0 or not math.isfinite(search):
            raise UserError(f"search = {search:g} is the length of every step and must be positive")
        return catalogue.find("searches", "fixed")(lr=float(search))
    if isinstance(search, str):
        return catalogue.find("searches", search, "search")()
    if getattr(search, "shelf", None) == "searches":
        return search()
    if not hasattr(search, "slopes"):
        raise UserError(f"search must be a name ({', '.join(catalogue.shelf('searches'))}), one of thalweg.searches, or a number")
    return search


def _limits(tol: float, iterations: int | None, evaluations: int | None, callback: Any) -> Limits:
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not tol >= 0:
        raise UserError(f"tol = {tol!r} must be a number, zero or above")
    for name, value in (("max_iterations", iterations), ("max_evaluations", evaluations)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UserError(f"{name} = {value!r} must be a whole number, zero or above")
    if callback is not None and not callable(callback):
        raise UserError(f"callback must be a function of a dict; it is a {type(callback).__name__}")
    return Limits(float(tol), 10_000 if iterations is None else iterations, math.inf if evaluations is None else evaluations, callback)
