"""Where the batches of a run come from: rows gathered by index from memory, or a DataLoader's."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from thalweg.core.batches import batches
from thalweg.core.problem import Problem, rows, take, to
from thalweg.core.stream import Stream


class Source:
    """The batches of a seed, from any step on.

    dtype: the type of floating-point data, or None to leave it. images_last: whether images go to the model with the channels last.
    per_epoch: batches of an epoch. batch_size: rows of a batch; of a DataLoader, what it says.
    """

    def __init__(
        self, problem: Problem, batch_size: int, seed: int, device: str = "cpu", dtype: torch.dtype | None = None, images_last: bool = False
    ) -> None:
        self.device, self.dtype, self.images_last, self.seed = torch.device(device), dtype, images_last, seed
        self.stream = problem.train if isinstance(problem.train, Stream) else None
        if self.stream is None:
            self.data = tree_map(self._typed, to(problem.train, self.device))
            self.rows = rows(self.data)
            self.batch_size, self.per_epoch = batch_size, -(-self.rows // batch_size)
        else:
            self.batch_size, self.per_epoch = self.stream.loader.batch_size or batch_size, len(self.stream)
            self.rows = self.per_epoch * self.batch_size

    @property
    def streams(self) -> bool:
        """Whether a DataLoader gives the batches."""
        return self.stream is not None

    @property
    def precise(self) -> torch.dtype:
        """The type of single numbers: double where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def batches(self, start: int) -> Generator[Any, None, None]:
        """Batches without end, from that of update `start` on. A DataLoader's earlier ones of that epoch are loaded now and passed over."""
        if self.stream is None:
            return (self._rows(index.to(self.device)) for index in batches(self.rows, self.batch_size, self.seed, start=start))
        epoch, begun = divmod(start, self.per_epoch)
        flow = self.stream.batches(self.seed, epoch)
        for _ in range(begun):
            next(flow)
        return flow

    def _rows(self, index: Tensor) -> Any:
        return tree_map(lambda leaf: leaf.index_select(0, index), self.data)  # twice as fast as indexing

    def place(self, batch: Any) -> Any:
        """A batch as the model takes it: on the device, in its type and layout."""
        return tree_map(self._placed, batch)

    def probe(self, most: int) -> Any:
        """Training rows, at most so many, the same at every call: evenly spaced."""
        if self.rows <= most:
            return self.data
        return take(self.data, torch.linspace(0, self.rows - 1, most, dtype=torch.float64, device=self.device).long())

    def _typed(self, leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(self.dtype) if floating and self.dtype is not None else leaf

    def _placed(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = self._typed(leaf.to(self.device, non_blocking=True))
        return leaf.contiguous(memory_format=torch.channels_last) if self.images_last and leaf.dim() == 4 else leaf


def takes_channels_last(problem: Problem, module: nn.Module, batch: Any) -> bool:
    """Whether a model has convolutions of images, and a step of a copy of it runs with the channels last and gives the same loss.

    Convolutions are faster so; a model that calls `view` on what they give is not.
    """
    if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return False
    with torch.random.fork_rng(devices=[]):
        try:
            losses: list[Tensor] = []
            for form in (torch.contiguous_format, torch.channels_last):
                torch.manual_seed(0)
                one = copy.deepcopy(module).to(memory_format=form).train()  # type: ignore[call-overload]
                given = tree_map(lambda leaf, f=form: leaf.contiguous(memory_format=f) if leaf.dim() == 4 else leaf, batch)
                loss = problem.lose(one, given)
                loss.backward()
                losses.append(loss.detach())
        except Exception:  # the user's own mistakes come up again in the first step
            return False
    return bool(torch.isclose(losses[0], losses[1], rtol=1e-3, atol=1e-5))


@contextlib.contextmanager
def others_random(streams: bool) -> Iterator[None]:
    """A block after which Python's and NumPy's random states are as they were: what a data set may draw from."""
    if not streams:
        yield
        return
    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
