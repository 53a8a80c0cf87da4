"""The update of all lanes: the rule and its wrappers around every block of parameters, from a tape where that is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.engine import noise
from thalweg.engine.bound import Bound
from thalweg.engine.fleet.lanes import Lanes
from thalweg.engine.numbers import numbers_of
from thalweg.engine.recording.kernel import joined
from thalweg.engine.recording.program import Program
from thalweg.engine.recording.tape import fuse, record
from thalweg.engine.work import Work, user_code

SAMPLE = 1 << 16
"""Numbers of a tensor that are compared between a tape and what it was recorded from."""


class Update:
    """The states of the rule in K lanes, and its step. masked: lanes that are not ok keep their point.

    taped: whether the step is replayed from a recording, or None where that depends on the steps ahead.

    A rule that does not run under vmap is stepped lane by lane, with its hyperparameters as plain numbers.
    """

    def __init__(self, bound: Bound, lanes: Lanes, work: Work, taped: bool | None, ahead: int, masked: bool) -> None:
        self.bound, self.lanes, self.masked = bound, lanes, masked
        self.bounds = [bound.on(block) for block in lanes.blocks]
        self.device = lanes.x[0].device
        self.numbers = torch.float32 if self.device.type == "mps" else torch.float64
        self.kind = self._kind(bound, work, taped, ahead)
        self.taped = _recording_pays(ahead, lanes) if taped is None else taped
        _, self.shared, names, self.scheduled, *_ = self.kind
        self.varied = {n: self._column([0.0] * len(work.lanes)) for n in names}
        self.x0 = [x.clone() for x in lanes.x] if "x0" in bound.requests else None
        self.weights = lanes.cut(lanes.layout.weights(self.device)) if "weights" in bound.requests else None
        self.vmapped = bound.rule.batched
        self.program: Program | None = None
        self.programs = 0
        self.peak = 0
        self._take(work)
        self.states = self._start()

    @staticmethod
    def _kind(bound: Bound, work: Work, taped: bool | None, ahead: int) -> tuple[Any, ...]:
        """What works must share to be stepped by one update after the other."""
        scheduled = sorted({n for lane in work.lanes for n in lane.schedules})
        columns = {n: [lane.config[n] for lane in work.lanes] for n in bound.data}
        # numbers that all lanes share stay Python floats: the same arithmetic, fewer operations
        apart = {n for n, c in columns.items() if len(set(c)) > 1} | {*scheduled} | (work.varied & columns.keys())
        shared = {n: c[0] for n, c in columns.items() if n not in apart}
        names = [n for n in columns if n in apart]
        return replace(bound, layout=None), shared, names, scheduled, taped, ahead  # type: ignore[arg-type]

    def fits(self, bound: Bound, work: Work, taped: bool | None, ahead: int) -> bool:
        """Whether lanes of another work are stepped as they would be by an update of their own."""
        return self._kind(bound, work, taped, ahead) == self.kind

    def begin(self, work: Work) -> None:
        """Start anew with the lanes of another work, in the same memory."""
        self._take(work)
        for now, first in zip(self.x0 or [], self.lanes.x, strict=False):
            now.copy_(first)
        states = self._start()
        if self.program is None:
            self.states = states
        else:
            tree_map(lambda now, first: now.copy_(first), self.states, states)

    def _take(self, work: Work) -> None:
        for n, column in self.varied.items():
            first = [lane.schedules[n](0) if n in lane.schedules else 1.0 for lane in work.lanes]  # a state may start from a rate
            column.copy_(self._column([lane.config[n] * f for lane, f in zip(work.lanes, first, strict=True)]))

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.numbers, device=self.device)

    def _start(self) -> list[Any]:
        if not self.bound.states:
            return [{} for _ in self.bounds]

        def begin(bound: Bound, x: Tensor) -> Any:
            try:
                started = vmap(lambda x, h: bound.start(x, {**self.shared, **h}))(x, self.varied)
            except Exception:
                self.vmapped = False
                each = [bound.start(x[k], self._config(k)) for k in range(len(x))]
                return tree_map(lambda *parts: torch.stack(parts), *each)
            return tree_map(torch.clone, started)  # a start may be one tensor seen by all lanes

        return [begin(bound, x) for bound, x in zip(self.bounds, self.lanes.x, strict=True)]

    def _config(self, k: int) -> dict[str, Any]:
        return {**self.shared, **{n: float(c[k]) for n, c in self.varied.items()}}

    # --- one step

    def step(self, t: int, seeds: Sequence[int], rates: Mapping[str, Sequence[float]], ok: Tensor) -> None:
        """Update every point in place from its gradient. rates: the scheduled hyperparameters at t updates done."""
        for n, column in rates.items():
            self.varied[n].copy_(self._column(column))
        drawn = self._draw(seeds, t) if "noise" in self.bound.requests else []
        if self.program is not None:
            tree_map(lambda mine, new: mine.copy_(new), self.noise, drawn)
            self.count.fill_(t + 1)
            self.program()
            return
        what = f"stepping {self.bound.rule.name} failed"
        with torch.no_grad(), user_code(what):
            if self.vmapped and self.taped and self._record(t, drawn, ok):
                return
            self._apply(*self._all(t + 1, drawn, ok))

    def _record(self, t: int, drawn: list[Tensor], ok: Tensor) -> bool:
        """Take the first step from a tape; False where this rule cannot be taped."""
        self.count = torch.tensor(float(t + 1), dtype=self.numbers, device=self.device)
        self.noise = [draw.clone() for draw in drawn]
        leaves = tree_flatten(self.states)[0]
        given = [*self.varied.values(), *self.noise, *(self.x0 or []), *(self.weights or [])]
        fixed = [self.count, *self.lanes.g, self.lanes.loss, ok, *given]

        inputs = [*self.lanes.x, *leaves, *fixed]
        try:
            tape = joined(fuse(record(lambda *_: self._all(self.count, self.noise, ok), inputs)))
            after = tree_flatten(tape.answer)[0]
            same = len(after) == len(self.lanes.x) + len(leaves) and all(
                (a.shape, a.dtype) == (b.shape, b.dtype) for a, b in zip(after, inputs, strict=False)
            )
            if not same:
                return False
            program = Program(tape, inputs, donate={i: i for i in range(len(after))})
        except Exception:  # the rule's own mistakes come up again in the plain step that follows
            self.taped = False
            return False
        places = {t.untyped_storage().data_ptr() for t in inputs}
        expected = [a.clone() if a.untyped_storage().data_ptr() in places else a for a in after]
        tape.answer = None
        self.peak = max(self.peak, tape.peak)
        program()
        if not all(_close(now, then) for now, then in zip(inputs, expected, strict=False)):
            for now, then in zip(inputs, expected, strict=False):
                now.copy_(then)
            self.taped = False
            return True
        self.program = program
        self.programs += 1
        return True

    def _all(self, t: Any, drawn: Sequence[Tensor], ok: Tensor) -> tuple[list[Tensor], Any]:
        """New points and states of every block."""
        with numbers_of(self.numbers):
            return self._blocks(t, drawn, ok)

    def _blocks(self, t: Any, drawn: Sequence[Tensor], ok: Tensor) -> tuple[list[Tensor], Any]:
        ends = []
        for i, (bound, x, g, states) in enumerate(zip(self.bounds, self.lanes.x, self.lanes.g, self.states, strict=True)):
            given: dict[str, tuple[Any, int | None]] = {"t": (t, None), "loss": (self.lanes.loss, 0)}
            given["weights"] = (self.weights[i] if self.weights else None, None)
            given["x0"] = (self.x0[i] if self.x0 else None, 0)
            given["noise"] = (drawn[i] if drawn else None, 0 if drawn and drawn[i].dim() > 1 else None)
            asked = {n: given[n] for n in sorted(bound.requests)}
            new, after = self._vmapped(bound, x, g, states, asked) if self.vmapped else self._looped(bound, x, g, states, asked)
            ends.append((torch.where(ok[:, None], new, x) if self.masked else new, after))
        return [new for new, _ in ends], [after for _, after in ends]

    def _vmapped(self, bound: Bound, x: Tensor, g: Tensor, states: Any, asked: Mapping[str, tuple[Any, int | None]]) -> Any:
        constant = {n: v for n, (v, _) in asked.items() if not isinstance(v, Tensor)}
        tensors = {n: v for n, (v, _) in asked.items() if n not in constant}

        def one(x: Tensor, g: Tensor, states: Any, hypers: Any, tensors: Any) -> Any:
            return bound.step(x, g, states, {**self.shared, **hypers}, {**constant, **tensors})

        try:
            return vmap(one, in_dims=(0, 0, 0, 0, {n: asked[n][1] for n in tensors}))(x, g, states, self.varied, tensors)
        except Exception:
            if isinstance(asked.get("t", (0, None))[0], Tensor):
                raise  # it may still run with a plain count
            self.vmapped = False
            return self._looped(bound, x, g, states, asked)

    def _looped(self, bound: Bound, x: Tensor, g: Tensor, states: Any, asked: Mapping[str, tuple[Any, int | None]]) -> Any:
        ends = []
        for k in range(len(x)):
            given = {n: v[k] if dim == 0 else v for n, (v, dim) in asked.items()}
            ends.append(bound.step(x[k], g[k], tree_map(lambda s, k=k: s[k], states), self._config(k), given))
        return torch.stack([new for new, _ in ends]), tree_map(lambda *parts: torch.stack(parts), *[after for _, after in ends])

    def _apply(self, points: Sequence[Tensor], states: Any) -> None:
        for x, new in zip(self.lanes.x, points, strict=True):
            x.copy_(new)
        self.states = tree_map(torch.detach, states)

    def climb(self) -> None:
        """Move every point to where its gradient is taken again."""
        for bound, x, g in zip(self.bounds, self.lanes.x, self.lanes.g, strict=True):
            with torch.no_grad():
                x.copy_(vmap(lambda x, g, h, bound=bound: bound.ascent(x, g, {**self.shared, **h}))(x, g, self.varied))

    def _draw(self, seeds: Sequence[int], t: int) -> list[Tensor]:
        """The rule's noise: (n,) a block where all lanes share a seed, else (K, n)."""
        like = self.lanes.x[0].new_empty(sum(self.lanes.layout.sizes))
        draws = {seed: noise.normal(seed, t, like) for seed in dict.fromkeys(seeds)}
        return self.lanes.cut(draws[seeds[0]] if len(draws) == 1 else torch.stack([draws[s] for s in seeds]))

    # --- lanes that go, and what they leave

    def keep(self, index: Tensor) -> None:
        """Take all lanes but these out; the lanes' own memory was cut before."""
        self.states = tree_map(lambda s: s[index].clone(), self.states)
        self.varied = {n: v[index] for n, v in self.varied.items()}
        self.x0 = None if self.x0 is None else [x[index] for x in self.x0]
        self.program = None

    @property
    def memory(self) -> int:
        """Bytes of the states and of what a step needs besides."""
        held = [*tree_flatten(self.states)[0], *self.varied.values(), *(self.x0 or []), *(self.weights or [])]
        return sum(t.nbytes for t in held) + (self.program.pool.taken if self.program is not None else 0)

    def answers(self) -> dict[str, Tensor]:
        """What the rule answers, by name: (K, *shape) each; the points unless it declares a readout."""
        if not self.bound.reads:
            return self.lanes.points
        named = {}
        for bound, x, states in zip(self.bounds, self.lanes.x, self.states, strict=True):
            read = torch.stack([bound.readout(x[k], tree_map(lambda s, k=k: s[k], states)) for k in range(len(x))])
            parts = read.split(bound.layout.sizes, dim=1)
            named.update({n: p.reshape(len(x), *s) for n, p, s in zip(bound.layout.names, parts, bound.layout.shapes, strict=True)})
        return {n: named[n] for n in self.lanes.layout.names}


def _recording_pays(steps: int, lanes: Lanes) -> bool:
    """Whether a tape of the update pays: each step saves the calling of operations and most of the passes over memory."""
    numbers = sum(x.numel() for x in lanes.x)
    return steps * (1.5e-3 * len(lanes.x) + 8e-9 * numbers) > 0.3 + 25e-9 * numbers


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether a replay answers as the recorded call did, but for round-off; of large tensors every so many numbers are looked at."""
    if a.numel() > SAMPLE:
        a, b = (t.reshape(-1)[:: a.numel() // SAMPLE] for t in (a, b))
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    tolerance = 1e3 * torch.finfo(a.dtype).eps
    size = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=True)
