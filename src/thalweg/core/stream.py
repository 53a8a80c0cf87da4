"""Data that comes through a `DataLoader`, batch by batch, instead of lying in memory."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from thalweg.core.batches import step_seed
from thalweg.errors import UserError


class Stream:
    """The batches of a DataLoader, the same for whoever asks: epoch e is drawn under `torch.manual_seed(step_seed(seed, e))`.

    All lanes of a sweep share one stream, whatever their seeds. Raises UserError where the loader gives no batches.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def batches(self, seed: int = 0, epoch: int = 0) -> Generator[Any, None, None]:
        """Batches without end, from that epoch on."""
        while True:
            yield from self.epoch(step_seed(seed, epoch))
            epoch += 1

    def epoch(self, seed: int) -> Iterator[Any]:
        """The batches of one epoch."""
        with torch.random.fork_rng(devices=[]):  # the sampler draws its seed when the first batch is asked for
            torch.manual_seed(seed)
            flow = iter(self.loader)
            first = next(flow, None)
        if first is None:
            raise UserError("the DataLoader gives no batches: is its data set empty, or smaller than a batch under drop_last?")
        try:
            for batch in itertools.chain([first], flow):
                yield tuple(batch) if isinstance(batch, list) else batch
        finally:
            end = getattr(flow, "_shutdown_workers", None)  # a traceback may hold them for long, and a dead one is told of again and again
            if end is not None:
                end()

    def __len__(self) -> int:
        """Batches of an epoch. Raises UserError where the loader cannot know."""
        try:
            return len(self.loader)
        except TypeError:
            raise UserError("the DataLoader does not know how many batches an epoch has: give its data set a __len__") from None
