"""The compiled way to step an optimizer: one loop of C over the parameters of a group, in place.

What a step costs beside the loop is looking whether anything moved since the last one: `Again` keeps what was found then.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import listed
from thalweg.engine.bound import Bound
from thalweg.engine.stepping import Member

logger = logging.getLogger(__name__)

_COMPLEX = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Tensors:
    """A list of tensors bound to a loop: their places, cut into tiles for the threads."""

    def __init__(self, loop: listed.Loop, held: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> None:
        """held: for every tensor its point, step count and states."""
        self.loop = loop
        self.count = len(held)
        self.places = (ctypes.c_void_p * (self.count * loop.slots))()
        self.fixed = [[t.data_ptr() for t in tensors] for tensors in held]
        for j, places in enumerate(self.fixed):
            point, *rest = places
            self.places[j * loop.slots] = point
            self.places[j * loop.slots + 2 : (j + 1) * loop.slots] = list(rest)
        tiles = []
        for j, row in enumerate(held):
            size = row[0].numel() * (2 if row[0].is_complex() else 1)
            tiles += [(j, a, min(a + listed.TILE, size)) for a in range(0, size, listed.TILE)]
        self.tiles = len(tiles)
        self.numbers = sum(b - a for _, a, b in tiles)
        self.columns = [(ctypes.c_long * max(1, self.tiles))(*column) for column in (zip(*tiles, strict=True) if tiles else ((), (), ()))]
        self.scratch = (ctypes.c_double * (self.count * loop.width))()
        self.weights = (ctypes.c_double * self.count)(*weights)
        self.hypers = (ctypes.c_double * max(1, len(loop.hypers)))()

    def __call__(self, gradients: list[Any], values: Mapping[str, float]) -> None:
        """Step once. gradients: the place of each gradient; values: the hyperparameters."""
        self.places[1 :: self.loop.slots] = gradients
        self.hypers[: len(self.loop.hypers)] = [values[n] for n in self.loop.hypers]
        columns = self.columns
        self.loop.call(
            ctypes.c_long(self.count), ctypes.c_long(self.tiles), ctypes.c_long(self.numbers), columns[0], columns[1], columns[2],
            self.places, self.scratch, self.weights, self.hypers,
        )  # fmt: skip


@dataclass
class Again:
    """A group that was stepped whole by one loop: what must be as it was for the same call to do it again."""

    tensors: Tensors
    params: list[Tensor]
    dicts: list[dict[str, Tensor]]  # the states of all parameters of the optimizer
    own: list[dict[str, Tensor]]  # those of the group's
    names: tuple[str, ...]
    held: list[Tensor]  # points, counts and states, parameter by parameter
    places: list[int]
    strides: list[tuple[int, ...]]
    dtype: torch.dtype
    token: Any
    values: Mapping[str, float]

    @classmethod
    def of(
        cls, tensors: Tensors, members: Sequence[Member], states: Mapping[Any, Any], names: Sequence[str], token: Any, values: Any
    ) -> Again:
        """What is seen now."""
        own = [m.state for m in members]
        held = [t for m in members for t in (m.p, *[m.state[n] for n in names])]
        params, strides = [m.p for m in members], [m.p.stride() for m in members]
        places = [t.data_ptr() for t in held]
        return cls(tensors, params, list(states.values()), own, tuple(names), held, places, strides, params[0].dtype, token, values)

    def gradients(self, params: Sequence[Tensor], states: Mapping[Any, Any]) -> list[int] | None:
        """The places of the gradients, if nothing has moved since: no tensor, no state, no gradient of another kind."""
        pairs = [(p, g) for p in params if (g := p.grad) is not None]
        if len(pairs) != len(self.params) or len(states) != len(self.dicts) or not all(map(is_, states.values(), self.dicts)):
            return None
        for (p, g), own, stride in zip(pairs, self.params, self.strides, strict=True):
            if p is not own or g.layout is not torch.strided or g.dtype is not self.dtype or g.stride() != stride:
                return None
        names = self.names
        fresh = chain.from_iterable((p, *[state[n] for n in names]) for p, state in zip(self.params, self.own, strict=True))
        if not all(map(is_, fresh, self.held)) or [t.data_ptr() for t in self.held] != self.places:
            return None
        return [g.data_ptr() for _, g in pairs]


class Loops:
    """The compiled loops of an optimizer, and the lists of tensors that they are bound to."""

    def __init__(self) -> None:
        self.loops: dict[Any, listed.Loop | None] = {}
        self.lists: dict[Any, tuple[list[list[int]], Tensors]] = {}
        self.again: dict[Any, Again] = {}

    def step(
        self, place: Any, kind: Any, bound: Bound, values: Mapping[str, float], members: Sequence[Member], singles: frozenset[str],
        maximize: bool, states_of: Mapping[Any, Any] | None = None,
    ) -> Sequence[Member]:  # fmt: skip
        """Step those members that a loop can step; the others are given back.

        place: of the list, to find its tensors again. kind: what tells this structure of the rule from others. states_of: of all
        parameters of the optimizer, where this call may be repeated as it is by `Again`.
        """
        lists: dict[Any, list[Member]] = {}
        left = []
        states = (*bound.states, *bound.outer)
        for m in members:
            p, g = m.p, m.g
            if g.dtype == p.dtype and p.device.type == "cpu" and (g.stride() == p.stride() or (g.is_contiguous() and p.is_contiguous())):
                lists.setdefault((p.dtype, m.state["step"].dtype, *[m.state[n].dtype for n in states]), []).append(m)
            else:
                left.append(m)
        for dtypes, chosen in lists.items():
            held = [[m.p, m.state["step"], *[m.state[n] for n in states]] for m in chosen]
            places = [[t.data_ptr() for t in row] for row in held]
            known = self.lists.get((place, kind, dtypes))
            if known is None or known[0] != places:
                point, step, *rest = (_COMPLEX.get(d, d) for d in dtypes)
                key = listed.Key(point, tuple((n, d, n in singles) for n, d in zip(states, rest, strict=True)), step, maximize)
                loop = self._loop(kind, bound, key)
                if loop is None or not all(_alike(row, states, singles) for row in held):
                    left += chosen
                    continue
                known = places, Tensors(loop, held, [float(m.p.dim() > 1) for m in chosen])
                self.lists[place, kind, dtypes] = known
            known[1]([m.g.data_ptr() for m in chosen], values)
            if states_of is not None and len(chosen) == len(members):
                self.again[place] = Again.of(known[1], chosen, states_of, ("step", *states), kind, values)
        return left

    def _loop(self, kind: Any, bound: Bound, key: listed.Key) -> listed.Loop | None:
        if (kind, key) not in self.loops:
            loop = self.loops[kind, key] = listed.compiled(bound, key)
            logger.debug("%s: %s", bound.rule.name, "stepped by a compiled loop" if loop else "no loop can be compiled for it here")
        return self.loops[kind, key]


def _alike(row: Sequence[Tensor], states: Sequence[str], singles: frozenset[str]) -> bool:
    """Whether a parameter and its states lie in memory alike, without holes, so that a loop may run over them."""
    p, step, *rest = row
    dense = p.is_contiguous() or torch.empty_like(p, device="meta").stride() == p.stride()
    alike = all(
        n in singles or s.stride() == p.stride() or (s.is_contiguous() and p.is_contiguous()) for n, s in zip(states, rest, strict=True)
    )
    return dense and alike and step.device.type == "cpu" and all(s.device.type == "cpu" for s in rest)
