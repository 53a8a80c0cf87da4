"""Projected gradient with the spectral step: x moves to Proj(x - t g), t from the last change of the gradient. Goldstein 1964;
Barzilai and Borwein 1988; Birgin, Martinez and Raydan 2000
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from thalweg.errors import UserError
from thalweg.solve.constraints import Constraints
from thalweg.solve.objective import Objective
from thalweg.solve.path import Limits, Path

Array = np.ndarray
Projection = Callable[[Array], Array]
MEMORY = 8
"""Values of which a step must lie below the largest."""
ARMIJO = 1e-4
LONGEST = 1e10


def projection(objective: Objective, constraints: Constraints) -> Projection:
    """The projection onto `within`, or onto the bounds without it, on flat vectors. Raises UserError where the set does not fit x0."""
    variables, within = objective.variables, constraints.within
    if within is None:
        return lambda x: variables.snap(np.minimum(np.maximum(x, constraints.low), constraints.high))

    def project(x: Array) -> Array:
        with torch.no_grad():
            back = within.project(variables.build(variables.tensors(np.ascontiguousarray(x))))
        leaves = [back] if isinstance(back, Tensor) else tree_flatten(back)[0]
        if sum(leaf.numel() for leaf in leaves) != len(x):
            raise UserError(
                f"within: {within} projects x0's {len(x)} numbers to {sum(leaf.numel() for leaf in leaves)}; take a set of x0's shape"
            )
        return variables.flat(leaves).double().cpu().numpy()

    return project


def descend(objective: Objective, path: Path, project: Projection, limits: Limits) -> Path:
    """Go on from path, whose x is in the set, until it ends. path.g ends as x - Proj(x - gradient), which vanishes at a solution."""
    eps = objective.variables.eps
    g, t, step = path.g, 1.0 / max(1.0, float(np.abs(path.g).max())), 0.0
    past = [path.f]
    path.ended = ""
    while True:
        path.g = path.x - project(path.x - g)
        if path.over(objective, limits, step):
            return path
        d = project(path.x - t * g) - path.x
        slope = float(g @ d)
        if not (slope < 0 and np.isfinite(d).all()):
            d, slope = -path.g, -float(g @ path.g)
        accepted = _shorten(objective, path, d, slope, max(past[-MEMORY:]), 8 * eps * abs(path.f))
        if accepted is None:
            path.ended = path.ended or "stalled"
            return path
        x, f, step = accepted
        new = objective.gradient(x)
        if not np.isfinite(new).all():
            path.ended = "non-finite"
            return path
        s, y = x - path.x, new - g
        bent = float(s @ y)
        t = min(max(float(s @ s) / bent, 1 / LONGEST), LONGEST) if bent > 0 else min(10 * t, LONGEST)
        path.x, path.f, path.iterations, g = x, f, path.iterations + 1, new
        past.append(f)


def _shorten(objective: Objective, path: Path, d: Array, slope: float, above: float, noise: float) -> tuple[Array, float, float] | None:
    """The first share of the step, which stays in the convex set, whose value falls enough; None where there is none."""
    share, finite = 1.0, False
    while share > 1e-12:
        x = objective.variables.snap(path.x + share * d)
        f = objective.value(x)
        finite = finite or math.isfinite(f)
        if math.isfinite(f) and f <= above + ARMIJO * share * min(slope, 0.0) + noise:
            return None if (x == path.x).all() else (x, f, share)
        bent = f - path.f - share * slope
        share *= min(max(-share * slope / (2 * bent), 0.1), 0.5) if math.isfinite(bent) and bent > 0 else 0.25
    path.ended = "" if finite else "non-finite"
    return None
