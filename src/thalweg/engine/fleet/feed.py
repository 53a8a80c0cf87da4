"""Where batches come from: rows gathered by index, or a loader's batches, in memory that stays where it is from step to step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from thalweg.core.problem import leaves, to
from thalweg.core.stream import Stream
from thalweg.engine.work import Work, stream


class Feed:
    """The batches of all lanes: one for all where they share a seed, else (K, rows, ...); none before `begin`."""

    def __init__(self, work: Work) -> None:
        self.device = torch.device(work.device)
        self.held: dict[Any, Any] = {}
        self.flow: Iterator[Any] | None = None
        self.data = None if isinstance(work.problem.train, Stream) else to(work.problem.train, self.device)
        self.leaves = leaves(self.data) if self.data is not None else []

    def begin(self, work: Work, seeds: Sequence[int]) -> None:
        """From here on the batches of these lanes, from their first."""
        if isinstance(work.problem.train, Stream):
            self.flow = work.problem.train.batches()
        else:
            self.streams = {seed: stream(work, seed) for seed in dict.fromkeys(seeds)}

    def peek(self, seeds: Sequence[int], one: bool) -> Any:
        """The batch that `next` gives next, without moving on."""
        if self.flow is not None:
            batch = next(self.flow)
            self.flow = itertools.chain([batch], self.flow)
            return self._keep(to(batch, self.device))
        drawn = {seed: next(s) for seed, s in self.streams.items()}
        self.streams = {seed: itertools.chain([drawn[seed]], s) for seed, s in self.streams.items()}
        return self._gather(drawn, seeds, one)

    @staticmethod
    def shared(work: Work, seeds: Sequence[int]) -> bool:
        """Whether all lanes see the same batches."""
        return isinstance(work.problem.train, Stream) or len(set(seeds)) == 1

    def next(self, seeds: Sequence[int], one: bool) -> Any:
        """The next step's batch; the tensors are the same objects whenever the shape is, and their numbers last until the next call."""
        if self.flow is not None:
            return self._keep(to(next(self.flow), self.device))
        # every seed's stream moves on, also those whose lanes are gone
        return self._gather({seed: next(s) for seed, s in self.streams.items()}, seeds, one)

    def _gather(self, drawn: Mapping[int, Tensor], seeds: Sequence[int], one: bool) -> Any:
        index = drawn[seeds[0]] if one else torch.stack([drawn[seed] for seed in seeds])
        index = index.to(self.device)
        if index.shape not in self.held:
            self.held[index.shape] = tree_map(lambda leaf: leaf[index], self.data)
            return self.held[index.shape]
        flat = index.reshape(-1)

        for leaf, place in zip(self.leaves, leaves(self.held[index.shape]), strict=True):
            torch.index_select(leaf, 0, flat, out=place.view(len(flat), *leaf.shape[1:]))
        return self.held[index.shape]

    def _keep(self, batch: Any) -> Any:
        key = tuple((leaf.shape, leaf.dtype) for leaf in leaves(batch))
        if key not in self.held:
            self.held[key] = batch
        else:
            tree_map(lambda place, leaf: place.copy_(leaf), self.held[key], batch)
        return self.held[key]

    def first(self, batch: Any, one: bool) -> Any:
        """The first lane's part of a batch."""
        return batch if one else tree_map(lambda leaf: leaf[0], batch)
