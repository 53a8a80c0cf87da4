"""Global search by many starts in one batch: Sobol points in a box, minimised together, the lowest taken further alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.solve.minimize import minimize
from thalweg.solve.result import Result


def multistart(
    fun: Callable[[Tensor], Tensor], low: Any, high: Any, *, starts: int = 256, seed: int = 0, method: str = "auto", tol: float = 1e-8,
    max_iterations: int = 1000,
) -> Result:  # fmt: skip
    """The lowest minimum that starts all over a box lead to.

    fun: maps a float64 tensor to a scalar, and runs under torch.vmap. low, high: corners of the box that starts are drawn from, numbers
    or tensors of one shape; minima may lie outside. starts: how many. The result is that of `minimize` from the end of the best
    lane; its trace has a row a distinct minimum ("value", "x", "starts"), lowest first. A lower one may exist all the same.
    Raises UserError where the box is not one.

    >>> import torch
    >>> r = multistart(lambda x: x**2 - 10 * torch.cos(2 * torch.pi * x), -5.0, 5.0, starts=32)
    >>> abs(round(r.x.item(), 6)), len(r.trace) > 5
    (0.0, True)
    """
    if isinstance(starts, bool) or not isinstance(starts, int) or starts < 1:
        raise UserError(f"starts = {starts!r} must be a whole number of at least 1")
    a, b = (torch.as_tensor(side, dtype=torch.float64) for side in (low, high))
    if a.shape != b.shape or not bool((torch.isfinite(a) & torch.isfinite(b) & (a < b)).all()):
        raise UserError("low and high must be finite corners of a box, of one shape, with low below high everywhere")
    sobol = torch.quasirandom.SobolEngine(max(a.numel(), 1), scramble=True, seed=seed)
    x0 = a + (b - a) * sobol.draw(starts, dtype=torch.float64).reshape((starts, *a.shape))
    finite = torch.vmap(fun)(x0).isfinite()
    if not finite.any():
        raise UserError(f"fun is finite at none of {starts} starts between low and high; move the box")
    lanes = minimize(fun, x0[finite], method=method, tol=tol, max_iterations=max_iterations, batched=True)
    good = np.array([k for k, ok in enumerate(lanes.success) if ok], int)
    order = (good if good.size else np.arange(len(lanes.status)))[np.argsort(lanes.value.numpy()[good if good.size else slice(None)])]
    rows: list[dict[str, Any]] = []
    for k in order:
        value, x = float(lanes.value[k]), lanes.x[k]
        twin = next((row for row in rows if torch.allclose(row["x"], x, rtol=1e-4, atol=1e-5)), None)
        if twin is None:
            rows.append({"value": value, "x": x, "starts": 1})
        else:
            twin["starts"] += 1
    best = minimize(fun, lanes.x[int(order[0])], method=method, tol=tol, max_iterations=max_iterations)
    return replace(best, evaluations=lanes.evaluations + best.evaluations, seconds=lanes.seconds + best.seconds, trace=tuple(rows))
