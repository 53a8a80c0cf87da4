"""A glance at a model: one plain forward and backward, before anything is chosen or trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.problem import take, to
from thalweg.core.stream import Stream
from thalweg.engine import memory, noise
from thalweg.engine.bound import Layout
from thalweg.engine.work import Stepper, Work, stream, user_code
from thalweg.errors import UserError

BRIEF = 0.02
"""Seconds below which a glance is taken again, since a first call is slower than those after it."""


@dataclass(frozen=True)
class Glance:
    """layout: the parameters that the loss reaches. seconds: of one lane's forward and backward, called as they are.

    kept: bytes of a lane's parameters and buffers. peak: bytes that forward and backward took beside them, gradients among them; an
    estimate where the system does not tell. still: whether no random numbers were drawn.
    """

    layout: Layout
    seconds: float
    kept: int
    peak: int
    still: bool


def glance(work: Work, module: nn.Module | None = None) -> Glance:
    """A first look at the model of a work, taken once; its numbers and torch's random state stay what they are.

    Parameters that the gradient does not reach, frozen ones among them, are constants of the run, as torch.optim skips them.
    Raises UserError where the loss cannot be trained on, UserCodeError where the user's code does not run.
    """
    if work.memo.glance is None:
        module = (work.start(work.lanes[0].seed) if module is None else module).to(work.device)
        work.memo.glance = _look(work, module)
    return work.memo.glance


def _look(work: Work, module: nn.Module) -> Glance:
    train = work.problem.train
    first = next(train.batches()) if isinstance(train, Stream) else take(train, next(stream(work, work.lanes[0].seed)))
    batch = to(first, work.device)
    candidates = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    stepper = Stepper(module, work.problem, work.precision).train()

    def once() -> tuple[float, Sequence[Tensor | None]]:
        torch.manual_seed(0)
        began = perf_counter()
        slopes = torch.autograd.grad(_checked(stepper(batch)), [p for _, p in candidates], allow_unused=True)
        if work.device.startswith("cuda"):
            torch.cuda.synchronize()
        return perf_counter() - began, slopes

    with memory.kept(), _untouched(module), torch.enable_grad(), user_code("the model's training step failed", batch):
        with memory.Peak(torch.device(work.device)) as peak:
            seconds, slopes = once()
        if seconds < BRIEF:  # a first call loads parts of torch
            del slopes
            seconds, slopes = once()
            del slopes
            with memory.Peak(torch.device(work.device)) as peak:
                _, slopes = once()
        after = noise.states(torch.device(work.device))
        torch.manual_seed(0)
        still = all(map(torch.equal, after, noise.states(torch.device(work.device))))
    reached = [(n, p) for (n, p), slope in zip(candidates, slopes, strict=True) if slope is not None]
    kinds = {p.dtype for _, p in reached}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise UserError(f"all trained parameters must be of one real dtype, not {', '.join(sorted(map(str, kinds)))}")
    layout = Layout(tuple(n for n, _ in reached), tuple(p.shape for _, p in reached), kinds.pop())
    kept = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    return Glance(layout, seconds, kept, 4 * kept if peak.bytes is None else peak.bytes, still)


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")
    if not loss.requires_grad:
        raise UserError("the loss does not depend on any trainable parameter: nothing can be trained")
    return loss


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """A block after which the module's buffers and torch's random state are what they were."""
    saved = {n: b.clone() for n, b in module.named_buffers()}
    with torch.random.fork_rng():
        yield
    with torch.no_grad():
        for n, b in module.named_buffers():
            b.copy_(saved[n])
