"""Data that comes through a `DataLoader`, batch by batch, instead of lying in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from thalweg.core.batches import step_seed
from thalweg.errors import UserError


class Stream:
    """The batches of a DataLoader, the same for whoever asks: epoch e is drawn under `torch.manual_seed(step_seed(0, e))`.

    All lanes of a sweep share one stream, whatever their seeds. Raises UserError where the loader gives no batches.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def batches(self) -> Iterator[Any]:
        """Batches without end, epoch after epoch."""
        epoch = 0
        while True:
            with torch.random.fork_rng(devices=[]):  # the sampler draws its seed when the first batch is asked for
                torch.manual_seed(step_seed(0, epoch))
                flow = iter(self.loader)
                first = next(flow, None)
            if first is None:
                raise UserError("the DataLoader gives no batches: is its data set empty, or smaller than a batch under drop_last?")
            for batch in itertools.chain([first], flow):
                yield tuple(batch) if isinstance(batch, list) else batch
            epoch += 1
