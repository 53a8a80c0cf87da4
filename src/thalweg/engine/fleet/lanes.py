"""The memory of a fleet: points, gradients and buffers of K lanes, which stay where they are from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.engine.bound import Layout


class Lanes:
    """K lanes side by side.

    blocks: the layout cut into blocks of parameters. x, g: a (K, n) matrix a block, the points and their gradients.
    buffers, constants: name -> (K, ...), the module's buffers and the parameters that are not trained. points: the trained ones, views of
    x. loss, norm: (K,), of the last gradient.
    """

    def __init__(self, modules: Mapping[int, nn.Module], seeds: Sequence[int], layout: Layout, apart: bool) -> None:
        self.layout = layout
        self.blocks = layout.blocks(len(seeds), apart)
        self.x, self.constants, self.buffers = self._stacked(modules, seeds)
        self._views()

    def _stacked(self, modules: Mapping[int, nn.Module], seeds: Sequence[int]) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Points, constants and buffers of fresh modules."""
        named = {seed: dict(m.named_parameters()) for seed, m in modules.items()}
        kept = {seed: dict(m.named_buffers()) for seed, m in modules.items()}
        frozen = [n for n in named[seeds[0]] if n not in set(self.layout.names)]
        return (
            [torch.stack([b.join([named[s][n].detach() for n in b.names]) for s in seeds]) for b in self.blocks],
            {n: torch.stack([named[s][n].detach() for s in seeds]) for n in frozen},
            {n: torch.stack([kept[s][n].detach() for s in seeds]) for n in kept[seeds[0]]},
        )

    def load(self, modules: Mapping[int, nn.Module], seeds: Sequence[int]) -> None:
        """Start anew from fresh modules of the same kind, in the same memory."""
        for mine, new in zip(self._all(), tree_leaves(self._stacked(modules, seeds)), strict=True):
            mine.copy_(new)

    def _all(self) -> list[Tensor]:
        return [*self.x, *self.constants.values(), *self.buffers.values()]

    def _views(self) -> None:
        self.g = [torch.zeros_like(x) for x in self.x]
        self.loss = self.x[0].new_zeros(len(self))
        self.norm = self.x[0].new_zeros(len(self))
        self.points: dict[str, Tensor] = {}
        for block, x in zip(self.blocks, self.x, strict=True):
            parts = x.split(block.sizes, dim=1)
            self.points.update({n: part.view(len(x), *shape) for n, part, shape in zip(block.names, parts, block.shapes, strict=True)})
        self.points = {n: self.points[n] for n in self.layout.names}

    def __len__(self) -> int:
        return len(self.x[0])

    @property
    def memory(self) -> int:
        """Bytes of all that is kept here."""
        return sum(tensor.nbytes for tensor in (*self._all(), *self.g, self.loss, self.norm))

    def one(self, k: int) -> dict[str, Tensor]:
        """Parameters and buffers of lane k, by name: views."""
        return {n: tensor[k] for part in (self.points, self.constants, self.buffers) for n, tensor in part.items()}

    def keep(self, index: Tensor) -> None:
        """Take all lanes but these out."""
        self.x = [x[index] for x in self.x]
        self.buffers = {n: b[index] for n, b in self.buffers.items()}
        self.constants = {n: c[index] for n, c in self.constants.items()}
        self._views()

    def cut(self, whole: Tensor) -> list[Tensor]:
        """(..., N) in the order of the layout -> a block each."""
        parts = dict(zip(self.layout.names, whole.split(self.layout.sizes, dim=-1), strict=True))
        return [torch.cat([parts[n] for n in block.names], dim=-1) for block in self.blocks]


def length(parts: Sequence[Tensor]) -> Tensor:
    """The norm of each lane's vector, (K,), whose blocks are (K, n); numbers whose squares overflow count."""
    norms = [torch.linalg.vector_norm(part, dim=1) for part in parts]
    whole = norms[0]
    for norm in norms[1:]:
        whole = torch.hypot(whole, norm)
    return whole
