"""Where batches come from: rows gathered by index into memory that stays where it is from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from thalweg.core.problem import to
from thalweg.engine.work import Work, stream


class Feed:
    """The batches of all lanes: one for all where they share a seed, else (K, rows, ...)."""

    def __init__(self, work: Work, seeds: Sequence[int]) -> None:
        self.device = torch.device(work.device)
        self.data = to(work.problem.train, self.device)
        self.streams = {seed: stream(work, seed) for seed in dict.fromkeys(seeds)}
        self.held: dict[torch.Size, Any] = {}

    def next(self, seeds: Sequence[int], one: bool) -> Any:
        """The next step's batch; the tensors are the same objects whenever the shape is, and their numbers last until the next call."""
        # every seed's stream moves on, also those whose lanes are gone
        drawn: Mapping[int, Tensor] = {seed: next(s) for seed, s in self.streams.items()}
        index = drawn[seeds[0]] if one else torch.stack([drawn[seed] for seed in seeds])
        index = index.to(self.device)
        if index.shape not in self.held:
            self.held[index.shape] = tree_map(lambda leaf: leaf[index], self.data)
            return self.held[index.shape]
        flat = index.reshape(-1)

        def gather(leaf: Tensor, place: Tensor) -> None:
            torch.index_select(leaf, 0, flat, out=place.view(len(flat), *leaf.shape[1:]))

        tree_map(gather, self.data, self.held[index.shape])
        return self.held[index.shape]

    def first(self, batch: Any, one: bool) -> Any:
        """The first lane's part of a batch."""
        return batch if one else tree_map(lambda leaf: leaf[0], batch)
