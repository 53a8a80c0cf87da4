"""The compiled way to step an optimizer: one loop of C over the parameters of a group, in place.

What a step costs beside the loop is looking whether anything moved since the last one: `Again` keeps what was found then.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.bound import Bound
from thalweg.engine.optimizer import listed
from thalweg.engine.optimizer.stepping import Member
from thalweg.engine.optimizer.written import Key

logger = logging.getLogger(__name__)

_COMPLEX = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Tensors:
    """A list of tensors bound to a loop: their places, cut into tiles for the threads."""

    def __init__(self, loop: listed.Loop, held: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> None:
        """held: for every tensor its point, step count and states."""
        self.loop = loop
        self.count = len(held)
        self.points = [row[0] for row in held]
        self.places = (ctypes.c_void_p * (self.count * loop.slots))()
        for j, row in enumerate(held):
            point, *rest = [t.data_ptr() for t in row]
            self.places[j * loop.slots] = point
            self.places[j * loop.slots + 2 : (j + 1) * loop.slots] = list(rest)
        tiles, self.numbers = [], 0  # a tile: of which tensor, from and to which number, and how many numbers lie in those before
        for j, row in enumerate(held):
            size = row[0].numel() * (2 if row[0].is_complex() else 1)
            tiles += [(j, a, min(a + listed.TILE, size), self.numbers + a) for a in range(0, size, listed.TILE)]
            self.numbers += size
        self.columns = [(ctypes.c_long * max(1, len(tiles)))(*column) for column in (zip(*tiles, strict=True) if tiles else ((),) * 4)]
        self.scratch = (ctypes.c_double * (self.count * loop.width))()
        self.weights = (ctypes.c_double * self.count)(*weights)
        self.hypers = (ctypes.c_double * max(1, len(loop.hypers)))()
        self.values: Mapping[str, float] | None = None  # those in hypers
        sizes = map(ctypes.c_long, (self.count, len(tiles), self.numbers))
        self.arguments = (*sizes, *self.columns, self.places, self.scratch, self.weights, self.hypers)

    def __call__(self, gradients: list[Any], values: Mapping[str, float]) -> None:
        """Step once. gradients: the place of each gradient; values: the hyperparameters."""
        self.places[1 :: self.loop.slots] = gradients
        if values is not self.values:
            self.hypers[: len(self.loop.hypers)] = [values[n] for n in self.loop.hypers]
            self.values = values
        torch.autograd.graph.increment_version(self.points)  # else autograd would take their old numbers for the present ones
        self.loop.call(*self.arguments)


class Again:
    """A group that was stepped whole by one loop: what must be as it was for the same call to do it again.

    Asked at every step of every parameter: hence lists compared whole, which costs less than a tenth of a microsecond each.
    """

    def __init__(self, tensors: Tensors, members: Sequence[Member], states: Mapping[Any, Any], names: Sequence[str], token: Any) -> None:
        """states: of all parameters of the optimizer, by parameter. names: of the states that the loop holds."""
        self.tensors, self.token = tensors, token
        self.params = [m.p for m in members]
        self.dicts = list(states.values())
        self.own = [m.state for m in members]
        self.all = len(self.dicts) == len(self.own) and all(map(is_, self.dicts, self.own))  # no other group has states
        self.columns = [(itemgetter(n), [m.state[n] for m in members]) for n in names]
        self.held = [*self.params, *chain.from_iterable(column for _, column in self.columns)]
        self.places = [t.data_ptr() for t in self.held]
        self.alike = _alike_to([m.g for m in members])

    def gradients(self, params: Sequence[Tensor], states: Mapping[Any, Any]) -> list[int] | None:
        """The places of the gradients, if nothing has moved since: no tensor, no state, no gradient of another kind."""
        grads: list[Any] = list(map(_GRAD, params))
        try:
            places = list(map(_PLACE, grads))
        except (TypeError, RuntimeError):  # some have none, or one that is sparse
            params = [p for p, g in zip(params, grads, strict=True) if g is not None]
            grads = [g for g in grads if g is not None]
            if len(grads) != len(self.params) or not all(g.layout is torch.strided for g in grads):
                return None
            places = list(map(_PLACE, grads))
        if len(grads) != len(self.params) or not all(map(is_, params, self.params)):
            return None
        if len(states) != len(self.dicts) or not (self.all or all(map(is_, states.values(), self.dicts))):
            return None
        if not self.alike(*grads):
            return None
        own: Iterable[Any] = list(states.values()) if self.all else self.own
        try:
            if not all(all(map(is_, map(get, own), column)) for get, column in self.columns):
                return None
        except KeyError:  # a state was taken away
            return None
        return places if list(map(_PLACE, self.held)) == self.places else None


def _alike_to(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """A test whether others are of the same types, layouts, shapes and strides."""
    try:  # torch's own, of all at once
        from torch._C._dynamo.guards import TensorGuards

        return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    except (ImportError, TypeError, ValueError, RuntimeError):  # it is not part of torch's public interface, and may be another
        kinds = [_kind(t) for t in tensors]
        return lambda *given: list(map(_kind, given)) == kinds


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.dtype, x.layout, x.device, x.shape, x.stride()


_GRAD, _PLACE = attrgetter("grad"), Tensor.data_ptr


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
                key = Key(point, tuple((n, d, n in singles) for n, d in zip(states, rest, strict=True)), step, maximize)
                loop = self._loop(kind, bound, key)
                if loop is None or not all(_alike(row, states, singles) for row in held):
                    left += chosen
                    continue
                known = places, Tensors(loop, held, [float(m.p.dim() > 1) for m in chosen])
                self.lists[place, kind, dtypes] = known
            known[1]([m.g.data_ptr() for m in chosen], values)
            if states_of is not None and len(chosen) == len(members):
                self.again[place] = Again(known[1], chosen, states_of, ("step", *states), kind)
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
