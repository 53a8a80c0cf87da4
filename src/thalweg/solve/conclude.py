"""From where an iteration ended to what is answered: the certificate decides the verdict."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from thalweg.solve.certificate import Certificate, certificate
from thalweg.solve.constraints import Constraints
from thalweg.solve.objective import Objective
from thalweg.solve.path import Path
from thalweg.solve.result import INFEASIBLE, LIMIT, NON_FINITE, NOT_STATIONARY, UNBOUNDED, Evaluations, Result

ENDS = {
    "limit": "it ended at the limit of iterations or evaluations",
    "stopped": "the callback stopped it",
    "stalled": "no further decrease could be seen",
}


def conclude(
    objective: Objective, path: Path, began: float, method: str, tol: float, *, constraints: Constraints | None = None,
    multipliers: dict[str, np.ndarray] | None = None, convex: bool = False, found: Certificate | None = None,
    evaluations: Evaluations | None = None,
) -> Result:  # fmt: skip
    """A result whose status is the certificate's, taken here unless `found` is given.

    multipliers: flat arrays by constraint, the solver's own; None lets the certificate estimate them. evaluations: the solver's, where the
    objective's counts are not all of them.
    """
    spent = evaluations or objective.evaluations
    if path.ended in ("unbounded", "non-finite"):
        status = UNBOUNDED if path.ended == "unbounded" else NON_FINITE
        clause = (
            f"the value has fallen to {path.f:.3g}" if status == UNBOUNDED else "every step leads to a value or gradient that is not finite"
        )
        message = f"{status}: {clause}."
    else:
        found = found or certificate(objective, path.x, constraints, multipliers, tol, convex)
        status, message = found.status, found.message
        if path.ended in ("limit", "stopped") and status in (NOT_STATIONARY, INFEASIBLE):
            status = LIMIT
        if not status.startswith("minimum") and path.ended in ENDS:
            message = f"{status}: {ENDS[path.ended]}; {message.partition(': ')[2]}"
    size = float(np.abs(path.g).max()) if found is None else found.stationarity
    return Result(
        x=objective.variables.close(path.x), value=path.f, gradient_norm=size, status=status, message=message, iterations=path.iterations,
        evaluations=spent, seconds=perf_counter() - began, method=method, multipliers=dict(found.multipliers) if found else {},
        certificate=found, trace=tuple(path.trace),
    )  # fmt: skip
