"""Extreme eigenvalues of a loss's Hessian by Lanczos's method (1950, doi:10.6028/jres.045.026), reorthogonalised in full; its trace
by Hutchinson's estimate (1990, doi:10.1080/03610919008812866) of what Lanczos has not seen; how all eigenvalues lie by stochastic Lanczos
quadrature (Ghorbani, Krishnan and Xiao 2019, arXiv:1901.10159)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.hessian import Hessian
from thalweg.core.lanczos import Lanczos
from thalweg.core.probe import probe, problem_of, whole
from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserError, unknown

Which = Literal["both", "largest", "smallest"]

LOOK = 80
"""Products a start of the density: as many moments of how the eigenvalues lie, twice over."""


FEW = 40
"""Parameters up to which the lower end is looked for in all directions."""


@dataclass(frozen=True)
class Density:
    """How the n eigenvalues lie. nodes (m,): where; weights (m,): the share of the eigenvalues that each stands for, together 1."""

    nodes: np.ndarray
    weights: np.ndarray

    def curve(self, points: int = 1000, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The density over an even grid, both (points,), with each node spread as a normal distribution of that deviation.

        width: a hundredth of the range without one. The area below the curve is 1.
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        width = width or 0.01 * (high - low) or 0.01 * abs(high) or 1.0
        grid = np.linspace(low - 5 * width, high + 5 * width, points)
        height = np.exp(-0.5 * ((grid[:, None] - self.nodes) / width) ** 2) @ self.weights
        return grid, height / (width * math.sqrt(2 * math.pi))

    def share(self, low: float, high: float) -> float:
        """The share of the eigenvalues in [low, high]."""
        return float(self.weights[(self.nodes >= low) & (self.nodes <= high)].sum())


@dataclass(frozen=True)
class Spectrum:
    """What was found of a Hessian of n parameters.

    largest, smallest: its two ends; smallest is negative where a direction curves down, as at a saddle. values (k,): the k eigenvalues of
    largest size (or at the end that was asked for), from the largest to the smallest. residuals (k,): |H v - value v| of each with its unit
    vector v; an eigenvalue lies no further from the value than that. An end that was not reached is put where it is likely to lie, a little
    beyond what was seen of it. trace, trace_error: the estimate of the trace and its standard error; 0 where all n directions were seen,
    nan with fewer than two samples. products: Hessian-vector products over all rows that were taken. converged: whether what was asked for
    met the tolerance. vector, bottom (n,): the unit vectors of the largest and of the smallest, starts for a measurement nearby.
    largest_residual, smallest_residual: of the ends. density: where it was asked for.
    """

    largest: float
    smallest: float
    values: np.ndarray
    residuals: np.ndarray
    trace: float
    trace_error: float
    products: int
    converged: bool
    vector: Tensor = field(repr=False, compare=False)
    bottom: Tensor = field(repr=False, compare=False)
    largest_residual: float
    smallest_residual: float
    density: Density | None = field(default=None, repr=False, compare=False)


@probe
def spectrum(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    k: int = 5,
    *,
    which: Which = "both",
    step: Callable[[Any, Batch], Tensor] | None = None,
    tolerance: float = 0.01,
    products: int | None = None,
    samples: int = 5,
    density: int = 0,
    start: Tensor | None = None,
    chunk: int = 1024,
    train: bool = False,
    double: bool = False,
    seed: int = 0,
) -> Spectrum:
    """Extreme eigenvalues and trace of the Hessian of a loss over all rows of the data, at the weights that the model has.

    Works on a copy: the model's mode, gradients, buffers and torch's random state stay what they are. Parameters that need no gradient
    are constants.
    loss: (output, targets) -> scalar, or step: (model, batch) -> scalar, a mean over rows; a Problem brings its own, and its training
    rows. data: tensors, pairs or dicts of tensors with a common first dimension, or a Dataset. k: how many values.
    which: "both" for the two ends and the k values of largest size, "largest" for the k at the upper end alone, in fewer products, or
    "smallest"; the other end is then no more than what was seen of it.
    tolerance: the error, as a share of a value's size or of a hundredth of the largest's, at which it counts as found, by the residuals or
    by what can be told from the other values; 0 goes on to `products` of them or to all n directions. products: at most, 60, or 15 for the
    one largest. An eigenvalue that occurs several
    times is found once, unless all are. samples: products for the trace, nan without. density: starts of 80 products each for how all
    eigenvalues lie, none without. start (n,): where to begin, such as an earlier `vector`. chunk: rows at once, fewer take less memory.
    train: the loss in training mode, with batch statistics of each chunk and the same dropout in every product. double: in float64.
    Raises UserError where the loss is not finite or not one number, nothing can be trained, or second derivatives cannot be taken.

    >>> model = nn.Linear(2, 1, bias=False)   # mean((x w)^2) curves by 2 x^2: by 8 along the first weight, by 2 along the second
    >>> found = spectrum(model, lambda out, y: 2 * out.square().mean(), (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2)), k=2)
    >>> found.values.round(4).tolist(), round(found.trace, 4), found.products
    ([8.0, 2.0], 10.0, 2)
    """
    problem = problem_of(model, loss, data, step)
    most = (15 if which == "largest" and k == 1 else 60) if products is None else products
    for name, value, least in (
        ("k", k, 1),
        ("products", most, 1),
        ("samples", samples, 0),
        ("density", density, 0),
        ("chunk", chunk, 1),
    ):
        whole(name, value, least)
    if which not in ("both", "largest", "smallest"):
        raise unknown("end", str(which), ("both", "largest", "smallest"))
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance = {tolerance!r} must be a finite share of an eigenvalue, such as 0.01")
    with torch.inference_mode(False):
        hessian = Hessian(model, problem, chunk, train, double, seed)
        draw = torch.Generator().manual_seed(seed)
        krylov = Lanczos(hessian, most, draw)

        # of few directions all are seen: that costs little, and the lower end of few is easily missed
        least = min(k, 3) + 2 if which == "largest" or hessian.size > FEW else hessian.size

        def found() -> bool:
            ends = {"both": [0, -1], "largest": [-1], "smallest": [0]}[which]
            return krylov.met([*ends, *_wanted(krylov.theta, k, which)], tolerance)

        krylov.run(
            krylov.start(start, hessian.lead(draw) if start is None else None),
            lambda seen: tolerance > 0 and len(seen.theta) >= least and found(),
        )
        places = _wanted(krylov.theta, k, which)
        values, residuals = krylov.outward()
        trace, error = krylov.trace(samples)
        return Spectrum(
            float(values[-1]), float(values[0]), values[places], residuals[places], trace, error, hessian.products,
            krylov.whole or found(), krylov.vector(-1), krylov.vector(0), float(residuals[-1]), float(residuals[0]),
            _density(hessian, density, draw) if density else None,
        )  # fmt: skip


def _wanted(theta: np.ndarray, k: int, which: Which) -> np.ndarray:
    """The places of the values that are asked for, the largest value first."""
    if which == "both":
        return np.sort(np.argsort(-np.abs(theta), kind="stable")[:k])[::-1]
    places = np.arange(len(theta))
    return (places[-k:] if which == "largest" else places[:k])[::-1]


def _density(hessian: Hessian, starts: int, draw: torch.Generator) -> Density:
    nodes, weights = [], []
    for _ in range(starts):
        krylov = Lanczos(hessian, LOOK, draw)
        krylov.run(krylov.random(), lambda _: False)
        nodes.append(krylov.theta)
        weights.append(krylov.vectors[0] ** 2 / starts)
    return Density(np.concatenate(nodes), np.concatenate(weights))
