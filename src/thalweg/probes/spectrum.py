"""Extreme eigenvalues of a loss's Hessian by Lanczos's method (1950, doi:10.6028/jres.045.026), reorthogonalised in full; its trace
by Hutchinson's estimate (1990, doi:10.1080/03610919008812866) of what Lanczos has not seen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from thalweg.core.problem import Batch, Problem, rows, tensors, to
from thalweg.errors import UserError


@dataclass(frozen=True)
class Spectrum:
    """What was found of a Hessian of n parameters.

    largest, smallest: its two ends; smallest is negative where a direction curves down, as at a saddle. values (k,): the k eigenvalues
    of largest size, from the largest to the smallest. residuals (k,): |H v - value v| of each with its unit vector v; an eigenvalue
    lies no further from the value than that. trace, trace_error: the estimate of the trace and its standard error; 0 where all n
    directions were seen, nan with fewer than two samples. products: Hessian-vector products over all rows that were taken. converged:
    whether the ends and all values met the tolerance. vector (n,): the unit vector of the largest, a start for a measurement nearby.
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


def spectrum(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    k: int = 5,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    tolerance: float = 0.01,
    products: int = 100,
    samples: int = 5,
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
    tolerance: the largest residual, as a share of the largest value's size, at which the ends and the values count as found; 0 goes on to
    `products` of them or to all n directions. An eigenvalue that occurs several times is found once, unless all are. samples: products
    for the trace, nan without. start (n,): where to begin, such as an earlier `vector`. chunk: rows at once, fewer take less memory.
    train: the loss in training mode, with batch statistics of each chunk and the same dropout in every product. double: in float64.
    Raises UserError where the loss is not finite or not one number, nothing can be trained, or second derivatives cannot be taken.

    >>> model = nn.Linear(2, 1, bias=False)   # mean((x w)^2) curves by 2 x^2: by 8 along the first weight, by 2 along the second
    >>> found = spectrum(model, lambda out, y: 2 * out.square().mean(), (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2)), k=2)
    >>> found.values.round(4).tolist(), round(found.trace, 4), found.products
    ([8.0, 2.0], 10.0, 2)
    """
    problem = _problem(model, loss, data, step)
    for name, value, least in (("k", k, 1), ("products", products, 1), ("samples", samples, 0), ("chunk", chunk, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{name} = {value!r} must be a whole number of at least {least}")
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance = {tolerance!r} must be a finite share of the largest eigenvalue, such as 0.01")
    with torch.inference_mode(False):
        hessian = Hessian(model, problem, chunk, train, double, seed)
        draw = torch.Generator().manual_seed(seed)
        krylov = _Krylov(hessian, min(products, hessian.size), draw)
        krylov.run(_start(start, hessian, draw), k, tolerance)
        return krylov.found(k, tolerance, samples)


def _problem(model: nn.Module, loss: Any, data: Any, step: Any) -> Problem:
    if not isinstance(model, nn.Module):
        raise UserError(f"spectrum takes a module at whose weights to measure, not {type(model).__name__}")
    given = next((one for one in (loss, data) if isinstance(one, Problem)), None)
    if given is not None:
        loss, step = given.loss, given.step
        data = given.train if data is None or data is given else data
    if data is None:
        raise UserError("data is missing: give a pair of tensors (X, y), a dict of tensors, a Dataset or a Problem")
    return Problem(lambda: model, loss, train=tensors(data), step=step)


def _start(start: Tensor | None, hessian: Hessian, draw: torch.Generator) -> Tensor:
    """A random direction, or the one given with a little of a random one, lest it lies beside the eigenvector that is looked for."""
    random = hessian.draw(draw)
    if start is None:
        return random
    if start.shape != random.shape or not bool(start.isfinite().all()) or not bool(start.any()):
        raise UserError(f"start must be {hessian.size} finite numbers, one a trainable parameter, not all 0")
    return start.to(random) / start.norm().to(random) + 0.1 * random / random.norm()


class Hessian:
    """The Hessian of a mean loss over all rows, as a function of a vector (n,); `products` counts its calls."""

    def __init__(self, model: nn.Module, problem: Problem, chunk: int, train: bool, double: bool, seed: int) -> None:
        self.model = copy.deepcopy(model).train(train)
        if double:
            self.model = self.model.double()
        self.points = [p for p in self.model.parameters() if p.requires_grad]
        if not self.points:
            raise UserError("the model has no parameter that needs a gradient: there is nothing to differentiate by")
        self.problem, self.seed, self.products = problem, seed, 0
        self.size = sum(p.numel() for p in self.points)
        self.device = self.points[0].device
        self.dtype = torch.float64 if any(p.dtype is torch.float64 for p in self.points) else torch.float32
        self.rows = rows(problem.train)
        if self.rows == 0:
            raise UserError("the data has no rows: there is no loss to differentiate")
        self.chunks = [tree_map(lambda leaf, i=i: self._cut(leaf, i, chunk, double), problem.train) for i in range(0, self.rows, chunk)]
        self.buffers = [b.clone() for b in self.model.buffers()]
        self.slopes: list[Tensor] | None = None  # of a single chunk: its graph serves every product

    def _cut(self, leaf: Tensor, begin: int, chunk: int, double: bool) -> Tensor:
        part = leaf[begin : begin + chunk]
        return part.double() if double and part.is_floating_point() else part

    def draw(self, generator: torch.Generator) -> Tensor:
        """A random direction, (n,), normal."""
        return torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def __call__(self, v: Tensor) -> Tensor:
        """H v, (n,)."""
        self.products += 1
        parts = [part.view_as(p).to(p) for part, p in zip(v.split([p.numel() for p in self.points]), self.points, strict=True)]
        total = torch.zeros_like(v)
        with self._measured():
            for i, chunk in enumerate(self.chunks):
                share = rows(chunk) / self.rows
                total += share * self._curve(self._slopes(i, chunk), parts).to(v)
        if not bool(total.isfinite().all()):
            raise UserError("the second derivative is not finite at the model's weights; look for a square root or a logarithm at 0")
        return total

    def _slopes(self, i: int, chunk: Batch) -> list[Tensor]:
        """The gradient over a chunk, a tensor a parameter, with its graph."""
        if self.slopes is not None:
            return self.slopes
        for buffer, was in zip(self.model.buffers(), self.buffers, strict=True):
            buffer.copy_(was)
        # noise is the same in every product, else there were no one Hessian; torch.manual_seed also walks the stack for devices not in use
        torch.default_generator.manual_seed(self.seed + i)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.seed + i)
        loss = self.problem.lose(self.model, to(chunk, self.device))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")
        if not bool(loss.isfinite()):
            raise UserError(f"the loss is {float(loss.detach()):g} at the model's weights: it has no curvature there; take other weights")
        if not loss.requires_grad:
            raise UserError("the loss does not depend on any trainable parameter: there is nothing to differentiate by")
        slopes = torch.autograd.grad(loss.reshape(()), self.points, create_graph=True, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for g, p in zip(slopes, self.points, strict=True)]
        if len(self.chunks) == 1:
            self.slopes = found
        return found

    def _curve(self, slopes: list[Tensor], v: list[Tensor]) -> Tensor:
        """The derivative of a gradient along v, (n,)."""
        # one number, g v, since gradients of several load a part of torch that takes a second; no graph: the loss is linear there
        along = [(g * part).sum() for g, part in zip(slopes, v, strict=True) if g.requires_grad]
        found: tuple[Tensor | None, ...] = (None,) * len(self.points)
        if along:
            found = torch.autograd.grad(sum(along[1:], along[0]), self.points, retain_graph=self.slopes is not None, allow_unused=True)
        return torch.cat([torch.zeros_like(p).flatten() if h is None else h.flatten() for h, p in zip(found, self.points, strict=True)])

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """A block in which second derivatives can be taken, and after which torch's random state is what it was."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the fused attention kernels have no second derivative
            if any(isinstance(m, nn.RNNBase) for m in self.model.modules()):
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # nor have cuDNN's recurrent nets
            try:
                yield
            except RuntimeError as error:
                if "derivative" in str(error) or "double backward" in str(error):
                    raise UserError(f"second derivatives of this model cannot be taken: {str(error).splitlines()[0]}") from error
                raise


class _Krylov:
    """Lanczos's method: an orthonormal basis, and the Hessian in it, which is tridiagonal."""

    def __init__(self, hessian: Hessian, most: int, draw: torch.Generator) -> None:
        self.hessian, self.most, self.generator = hessian, most, draw
        self.basis = torch.empty(min(16, most), hessian.size, device=hessian.device, dtype=hessian.dtype)
        self.diagonal: list[float] = []
        self.beside: list[float] = []
        self.theta = self.residual = np.zeros(0)  # (m,), rising
        self.vectors = np.zeros((0, 0))  # (m, m), in the basis, a column a value

    def run(self, start: Tensor, k: int, tolerance: float) -> None:
        """Take products until the ends and the k values of largest size are found, or there are no more to take."""
        q, epsilon = start / start.norm(), torch.finfo(self.hessian.dtype).eps
        while True:
            m = len(self.diagonal)
            if m == len(self.basis):
                self.basis = torch.cat([self.basis, torch.empty_like(self.basis)])
            self.basis[m] = q
            w = self.hessian(q)
            self.diagonal.append(float(q.double() @ w.double()))
            w, beta = self._apart(w)
            self.theta, self.vectors = np.linalg.eigh(np.diag(self.diagonal) + np.diag(self.beside, 1) + np.diag(self.beside, -1))
            scale = float(np.abs(self.theta).max())
            self.residual = np.hypot(beta * np.abs(self.vectors[-1]), 16 * epsilon * scale)
            if m + 1 == self.most or (m + 1 >= k + 2 and tolerance > 0 and self._met(k, tolerance)):
                return
            if beta <= 616 * epsilon * scale:  # nothing new this way: what is left is seen from elsewhere
                beta = 0.0
                w, _ = self._apart(self.hessian.draw(self.generator))
            self.beside.append(beta)
            q = w / w.norm()

    def _apart(self, w: Tensor) -> tuple[Tensor, float]:
        """A vector without its parts along the basis, and its length; twice, since once leaves round-off."""
        seen = self.basis[: len(self.diagonal)]
        for _ in range(2):
            w = w - seen.T @ (seen @ w)
        return w, float(w.norm())

    def _largest(self, k: int) -> np.ndarray:
        """The places of the k values of largest size, the largest value first."""
        return np.sort(np.argsort(-np.abs(self.theta), kind="stable")[:k])[::-1]

    def _met(self, k: int, tolerance: float) -> bool:
        wanted = [0, -1, *self._largest(k)]
        return bool((self.residual[wanted] <= tolerance * np.abs(self.theta).max()).all())

    def found(self, k: int, tolerance: float, samples: int) -> Spectrum:
        """All that is reported, with the trace's further products."""
        whole = len(self.diagonal) == self.hessian.size
        trace, error = sum(self.diagonal), 0.0
        if not whole:
            rest = [self._rest() for _ in range(samples)]
            trace += float(np.mean(rest)) if rest else math.nan
            error = float(np.std(rest, ddof=1) / math.sqrt(samples)) if samples > 1 else math.nan
        places = self._largest(k)
        top = torch.from_numpy(self.vectors[:, -1]).to(self.basis)
        return Spectrum(
            float(self.theta[-1]), float(self.theta[0]), self.theta[places], self.residual[places], trace, error,
            self.hessian.products, whole or self._met(k, tolerance), top @ self.basis[: len(top)],
        )  # fmt: skip

    def _rest(self) -> float:
        """z H z for random signs z without their parts in the basis: on average the trace of what the basis leaves out."""
        z, _ = self._apart(self.hessian.draw(self.generator).sign())
        return float(z.double() @ self.hessian(z).double())
