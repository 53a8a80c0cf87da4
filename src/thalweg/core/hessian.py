"""The Hessian of a loss, as a function of a vector (Pearlmutter 1994, doi:10.1162/neco.1994.6.1.147), over all rows of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from thalweg.core.probe import copied, one_number, trainable
from thalweg.core.problem import Batch, Problem, leaves, rows, take, to
from thalweg.errors import UserError

PARTS = 8
"""Of the rows, whose gradients make a direction of large curvature."""


class Hessian:
    """The Hessian of a mean loss over all rows, as a function of a vector (n,); `products` counts its calls.

    scale, shift (n,): where given, it is scale H scale + shift, both diagonal, in place of H.
    """

    def __init__(
        self, model: nn.Module, problem: Problem, chunk: int = 1024, train: bool = False, double: bool = False, seed: int = 0
    ) -> None:
        trainable(model)
        self.model = copied(model, train, double)
        self.points = list(trainable(self.model).values())
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
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None

    def _cut(self, leaf: Tensor, begin: int, chunk: int, double: bool) -> Tensor:
        part = leaf[begin : begin + chunk]
        return part.double() if double and part.is_floating_point() else part

    def __call__(self, v: Tensor) -> Tensor:
        """H v, (n,)."""
        self.products += 1
        along = v if self.scale is None else self.scale * v
        parts = [part.view_as(p).to(p) for part, p in zip(along.split([p.numel() for p in self.points]), self.points, strict=True)]
        total = torch.zeros_like(v)
        with self._measured():
            for i, chunk in enumerate(self.chunks):
                share = rows(chunk) / self.rows
                total += share * self._curve(self._slopes(i, chunk), parts).to(v)
        total = total if self.scale is None else self.scale * total
        total = total if self.shift is None else total + self.shift * v
        if not bool(total.isfinite().all()):
            raise UserError("the second derivative is not finite at the model's weights; look for a square root or a logarithm at 0")
        return total

    def dense(self) -> Tensor:
        """The whole matrix (n, n), by n products; made symmetric, since round-off is not."""
        found = torch.stack([self(row) for row in torch.eye(self.size, dtype=self.dtype, device=self.device)])
        return (found + found.T) / 2

    def gradient(self) -> Tensor:
        """The gradient of the loss over all rows, (n,)."""
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for chunk, slope in zip(self.chunks, self._each(), strict=True):
            total += rows(chunk) / self.rows * slope
        return total

    def gradients(self) -> Tensor:
        """The gradient over each chunk, (chunks, n)."""
        return torch.stack(list(self._each()))

    def lead(self, draw: torch.Generator) -> Tensor:
        """A direction that lies mostly among the eigenvectors of large curvature, (n,), for the price of one gradient.

        These are much like those of the gradients' second moment (Papyan 2019, arXiv:1901.08244). The rows are cut at random into a few
        parts, whose gradients g stand for all: it is a random mix of them, times the sum of g g^T twice. nan where none has a gradient.
        """
        slopes = torch.zeros(PARTS, self.size, dtype=self.dtype, device=self.device)
        with suppress(ValueError, RuntimeError):  # a part may be too few rows for a loss; what is wrong with the whole, a product tells
            for i, chunk in enumerate(self.chunks):
                cuts = min(max(PARTS // len(self.chunks), 1), rows(chunk))
                mixed = torch.randperm(rows(chunk), generator=draw).to(leaves(chunk)[0].device)
                for j, part in enumerate(mixed.tensor_split(cuts)):
                    with self._measured():
                        loss = one_number(self._lose(i, take(chunk, part)))
                        slope = torch.autograd.grad(loss, self.points, allow_unused=True)
                    slopes[(i * cuts + j) % PARTS] += len(part) * self._flat(slope)
        slopes = slopes if self.scale is None else self.scale * slopes
        slopes = slopes / slopes.norm()
        among = slopes @ slopes.T
        return slopes.T @ (among @ among @ torch.randn(PARTS, generator=draw, dtype=torch.float64).to(among))

    def terms(self, most: int) -> float:
        """The mean norm of the gradients of single rows, of so many spread over the first chunk; of whole chunks where a row has no
        loss."""
        sizes = []
        first = self.chunks[0]
        for k in torch.linspace(0, rows(first) - 1, min(most, rows(first))).long():
            with self._measured():
                try:
                    slopes = torch.autograd.grad(one_number(self._lose(0, take(first, k[None]))), self.points, allow_unused=True)
                except (ValueError, RuntimeError):  # batch statistics of one row, a loss that needs several
                    return float(torch.stack([g.norm() for g in self._each()]).mean())
            sizes.append(math.sqrt(sum(float(g.double().square().sum()) for g in slopes if g is not None)))
        return float(np.mean(sizes))

    def _each(self) -> Iterator[Tensor]:
        for i, chunk in enumerate(self.chunks):
            with self._measured():
                slopes = self._slopes(i, chunk, graph=len(self.chunks) == 1)
            yield self._flat(slopes)

    def weights(self) -> Tensor:
        """The parameters, (n,)."""
        return torch.cat([p.detach().flatten().to(self.dtype) for p in self.points])

    def _lose(self, i: int, chunk: Batch) -> Tensor:
        self.slopes = None  # its graph may hold the buffers
        for buffer, was in zip(self.model.buffers(), self.buffers, strict=True):
            buffer.copy_(was)
        # noise is the same in every product, else there were no one Hessian; torch.manual_seed also walks the stack for devices not in use
        torch.default_generator.manual_seed(self.seed + i)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.seed + i)
        return self.problem.lose(self.model, to(chunk, self.device))

    def _slopes(self, i: int, chunk: Batch, graph: bool = True) -> list[Tensor]:
        """The gradient over a chunk, a tensor a parameter, with its graph."""
        if self.slopes is not None:
            return self.slopes
        loss = one_number(self._lose(i, chunk))
        slopes = torch.autograd.grad(loss, self.points, create_graph=graph, allow_unused=True)
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
        return self._flat(found)

    def _flat(self, parts: Sequence[Tensor | None]) -> Tensor:
        """Tensors of the parameters' shapes as one vector (n,); None stands for zeros."""
        whole = [torch.zeros_like(p) if part is None else part.detach() for part, p in zip(parts, self.points, strict=True)]
        return torch.cat([part.flatten().to(self.dtype) for part in whole])

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """A block in which second derivatives can be taken, and after which torch's random state is what it was."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            if torch.is_grad_enabled() is False:
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
