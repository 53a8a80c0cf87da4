"""How an optimizer's parameters are stepped: one by one, or gathered in one flat vector; the compiled way is in `loops`.

All run the same rule. `Member` is what they are given of a parameter; states are in the caller's memory and updated there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import memory
from thalweg.engine.bound import Bound, Layout

LARGE = 1 << 17
"""A parameter of so many numbers is not gathered with others."""
CHUNK = 1 << 16
"""Numbers that are stepped at a time on a processor, so that what lies between two operations stays in its cache."""
SMALL = (torch.bfloat16, torch.float16)
"""Types in which updates would be lost: they are computed in single precision and rounded once."""


@dataclass
class Member:
    """A parameter with a gradient. state: its dict of tensors, by the rule's own names; `step` is its count of updates."""

    p: Tensor
    g: Tensor
    state: dict[str, Tensor]


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers; others as they are."""
    return torch.view_as_real(x) if x.is_complex() else x


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which a parameter of this (real) type is computed with."""
    return torch.float32 if dtype in SMALL else dtype


# --- many tensors as one vector


def joined(tensors: Sequence[Tensor], kind: torch.dtype) -> Tensor:
    """All numbers of some tensors, in this type, on the first one's device."""
    return torch.cat([_flat(t, kind).to(tensors[0].device) for t in tensors])


def parted(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write a vector back into the tensors that it was joined from."""
    parts = flat.split([real(t).numel() for t in tensors])
    torch._foreach_copy_([real(t) for t in tensors], [part.view(real(t).shape) for part, t in zip(parts, tensors, strict=True)])


def spread(values: Sequence[Any], sizes: Sequence[int], like: Tensor) -> Any:
    """What several parts are given: one number where they share it, else a vector with each one's over its numbers."""
    if all(not isinstance(v, Tensor) for v in values) and len(set(values)) == 1:
        return values[0]
    kind = wide(real(like).dtype)

    def whole(v: Any, size: int) -> Tensor:
        alone = not isinstance(v, Tensor) or real(v).numel() != size
        return torch.as_tensor(v, dtype=kind, device=like.device).expand(size) if alone else _flat(v, kind).to(like.device)

    return torch.cat([whole(v, size) for v, size in zip(values, sizes, strict=True)])


# --- one by one


def one(
    bound: Bound, values: Mapping[str, Any], m: Member, given: Mapping[str, Any], singles: frozenset[str], keep: bool = False
) -> None:  # fmt: skip
    """Step a parameter by itself. singles: the states of one number. keep: leave the new states in autograd's graph."""
    memory.settled()  # what lies between two operations is as large as the tensor
    x = real(m.p)
    kind = wide(x.dtype)
    placed = bound.rule.scope == "tensor"
    states: dict[str, Any] = {n: {} for n in bound.states if placed}
    for n in names_of(bound, m):
        held = m.state[n]
        states[n] = {0: held.to(kind)} if placed and n not in bound.outer else _alone(held) if n in singles else _flat(held, kind)
    asked = {"t": int(m.state["step"]) + 1, **{n: _flat(v, kind) if isinstance(v, Tensor) else v for n, v in given.items()}}
    point = _flat(m.p, kind).clone() if keep else _flat(m.p, kind)  # which a graph may need as it was
    new, after = bound.on(Layout(("x",), (x.shape,), kind)).step(point, _flat(m.g, kind), states, values, asked)
    x.copy_(new.view(x.shape))
    for n, found in after.items():
        s = found.get(0) if isinstance(found, dict) else found
        if s is not None and keep:
            old = m.state[n]
            s = s.to(old.dtype) if n in singles else s.view(real(old).shape)
            m.state[n] = torch.view_as_complex(s) if old.is_complex() else s
        elif s is not None:
            old = real(m.state[n])
            old.copy_(s.view(old.shape))
    m.state["step"] += 1


def names_of(bound: Bound, m: Member) -> list[str]:
    """The states that a step needs and the parameter has."""
    return [n for n in (*bound.states, *bound.outer) if n in m.state]


def _flat(x: Tensor, kind: torch.dtype) -> Tensor:
    return real(x).reshape(-1).to(kind)


def _alone(x: Tensor) -> Tensor:
    """A state of one number, in double precision, which no tensor that it meets takes on."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


# --- gathered


def gathered(
    bound: Bound, values: Mapping[str, Any], members: Sequence[Member], given: Mapping[str, Sequence[Any]], singles: frozenset[str],
    step: Callable | None = None,
) -> None:  # fmt: skip
    """Step members of one type and count as one flat vector, the large ones each by itself and in pieces.

    given: what the rule asks for beside its count, one a member. singles: the states of one number. step: in place of `bound.step`.
    """
    small = [i for i, m in enumerate(members) if m.p.numel() < LARGE or not _plain(m)]
    rest = [[i] for i in range(len(members)) if i not in set(small)]
    for chosen in ([small] if small else []) + rest:
        part = [members[i] for i in chosen]
        asked = {n: [v[i] for i in chosen] for n, v in given.items()}
        large = len(part) == 1 and part[0].p.numel() >= LARGE and _plain(part[0])
        if large and part[0].p.device.type == "cpu" and all(not isinstance(v[0], Tensor) for v in asked.values()):
            _in_pieces(bound, values, part[0], {n: v[0] for n, v in asked.items()}, singles)
        else:
            _as_one(bound, values, part, asked, singles, step or bound.step)
    torch._foreach_add_([m.state["step"] for m in members], 1)


def _plain(m: Member) -> bool:
    return all(t.is_contiguous() for t in (m.p, m.g, *(s for n, s in m.state.items() if n != "step")))


def _as_one(
    bound: Bound, values: Mapping[str, Any], members: Sequence[Member], given: Mapping[str, Sequence[Any]], singles: frozenset[str],
    step: Callable,
) -> None:  # fmt: skip
    kind = wide(real(members[0].p).dtype)
    sizes = [real(m.p).numel() for m in members]
    if not sum(sizes):
        return

    points, names = [m.p for m in members], names_of(bound, members[0])
    held = {n: [m.state[n] for m in members] for n in names}
    states = {n: spread(v, sizes, points[0]) if n in singles else joined(v, kind) for n, v in held.items()}
    asked = {"t": int(members[0].state["step"]) + 1, **{n: spread(v, sizes, points[0]) for n, v in given.items()}}
    new, after = step(joined(points, kind), joined([m.g for m in members], kind), states, values, asked)
    parted(new, points)
    for n, s in after.items():
        if n not in singles:
            parted(s, held[n])
            continue
        for old, part in zip(held[n], s.split(sizes), strict=True):
            if part.numel():
                old.copy_(part[0])


def _in_pieces(bound: Bound, values: Mapping[str, Any], m: Member, given: Mapping[str, Any], singles: frozenset[str]) -> None:
    x, g = real(m.p).view(-1), real(m.g).view(-1)
    kind = wide(x.dtype)
    names = names_of(bound, m)
    held = {n: m.state[n] if n in singles else real(m.state[n]).view(-1) for n in names}
    alone = {n: _alone(held[n]) for n in names if n in singles}
    asked = {"t": int(m.state["step"]) + 1, **given}
    after: Mapping[str, Tensor] = {}
    for a in range(0, x.numel(), CHUNK):
        cut = slice(a, a + CHUNK)
        states = {n: s[cut].to(kind) for n, s in held.items() if n not in singles} | alone
        new, after = bound.step(x[cut].to(kind), g[cut].to(kind), states, values, asked)
        x[cut].copy_(new)
        for n, s in after.items():
            if n not in singles:
                held[n][cut].copy_(s)
    for n in alone:
        held[n].copy_(after[n])


def together(
    bound: Bound, values: Mapping[str, Any], members: Sequence[Member], given: Mapping[str, Sequence[Any]], singles: frozenset[str]
) -> None:  # fmt: skip
    """Step a rule that sees all members as one vector; its states of one number are those of the first, and of all."""
    kind = wide(real(members[0].p).dtype)
    sizes = [real(m.p).numel() for m in members]
    first = members[0]
    layout = Layout(tuple(map(str, range(len(members)))), tuple(real(m.p).shape for m in members), kind)
    points = [m.p for m in members]
    held = {n: [m.state[n] for m in members] for n in names_of(bound, first)}
    states = {n: _alone(v[0]) if n in singles else joined(v, kind) for n, v in held.items()}
    asked: dict[str, Any] = {"t": int(first.state["step"]) + 1}
    for n, parts in given.items():
        whole = isinstance(parts[0], Tensor) and real(parts[0]).numel() == sizes[0]
        asked[n] = joined(parts, kind) if whole else torch.as_tensor(parts[0], dtype=kind)
    if "weights" in given:
        asked["weights"] = layout.weights(first.p.device)
    new, after = bound.on(layout).step(joined(points, kind), joined([m.g for m in members], kind), states, values, asked)
    parted(new, points)
    for n, s in after.items():
        if n not in singles:
            parted(s, held[n])
            continue
        for old in held[n]:
            old.copy_(s)
    torch._foreach_add_([m.state["step"] for m in members], 1)


def cohorts(members: Sequence[Member]) -> list[list[Member]]:
    """Members of one type, device and count of updates each, which may be stepped as one vector."""
    found: dict[Any, list[Member]] = {}
    for m in members:
        key = (m.p.dtype, m.p.device, float(m.state["step"]), *((n, s.dtype) for n, s in m.state.items()))
        found.setdefault(key, []).append(m)
    return list(found.values())


# --- on other devices


def graphed(bound: Bound) -> Callable:
    """`bound.step` compiled by torch, for other devices than the processor: sizes and numbers are its arguments, so it compiles once."""
    inner = torch.compile(bound.step, dynamic=True)

    def number(value: Any) -> Any:
        return torch.tensor(float(value), dtype=torch.float64) if isinstance(value, int | float) else value

    def step(x: Tensor, g: Tensor, states: Any, values: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
        return inner(x, g, states, {n: number(v) for n, v in values.items()}, {n: number(v) for n, v in asked.items()})

    return step
