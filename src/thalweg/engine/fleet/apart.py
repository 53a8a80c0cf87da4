"""Gradients lane by lane: the loop a user would write without its overhead, on several threads at once where it is taped.

It is what convolutions and large models need, and what every model can have: vmap takes no step that depends on its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from thalweg.core.problem import leaves
from thalweg.engine.fleet.gradient import Gradient, compare, measure
from thalweg.engine.fleet.lanes import Lanes, length
from thalweg.engine.recording.cache import remembered
from thalweg.engine.recording.program import Program
from thalweg.engine.recording.strategies import VARIANTS, clearly, forced
from thalweg.engine.work import Stepper, threads_of


class Apart(Gradient):
    """Lane by lane; with a tape, on several threads at once. seeds: where the forward draws numbers by itself, each lane's."""

    def __init__(self, stepper: Stepper, lanes: Lanes, slopes: bool, one_batch: bool, one_mask: bool, taped: bool = True) -> None:
        super().__init__(stepper, lanes, slopes, taped)
        self.one_batch, self.one_mask = one_batch, one_mask
        self.threads = 1
        self.pool: ThreadPoolExecutor | None = None

    def __call__(
        self, batch: Any, masks: Sequence[Tensor], live: Sequence[int], check: bool = False, seed: Callable[[int], None] | None = None
    ) -> dict[str, Tensor]:
        self.ready()
        after = {n: b.clone() for n, b in self.lanes.buffers.items()}
        slices = [(k, self.slice(batch, masks, k)) for k in live]
        if not slices:
            return after
        key = self.key(*slices[0][1])
        if self.taped and seed is None and key not in self.tapes:
            self._bind(key, *slices[0])
        if self.taped and seed is None:
            self._spread(key, slices, after)
            if check:
                self._compare(*slices[0])
        else:
            for k, (rows, cut) in slices:
                if seed is not None:
                    seed(k)
                self._write(k, self._answer(self.lanes.one(k), rows, cut), after)
        if self.slopes:
            self.lanes.norm.copy_(length(self.lanes.g))
        return after

    def slice(self, batch: Any, masks: Sequence[Tensor], k: int) -> tuple[Any, list[Tensor]]:
        """Lane k's part of a batch and of the masks."""
        rows = batch if self.one_batch else tree_map(lambda leaf: leaf[k], batch)
        return rows, list(masks) if self.one_mask else [mask[k] for mask in masks]

    def _bind(self, key: Any, k: int, given: tuple[Any, list[Tensor]]) -> None:
        named = {n: t.detach().clone() for n, t in self.lanes.one(k).items()}
        leaves, structure = tree_flatten(given)
        held = [leaf.clone() for leaf in leaves]
        inputs = [*named.values(), *held]
        with threads_of(1 if self.threads > 1 else torch.get_num_threads()):  # forms are chosen for the threads they will have
            tape = self._record(lambda *_: self._answer(named, *tree_unflatten(held, structure)), inputs)
            if tape is None:
                return
            tapes = [tape]
            for form in sorted({form for op, form in VARIANTS.items() if self.patient and any(node.op is op for node in tape.nodes)}):
                with forced(form):
                    other = self._record(lambda *_: self._answer(named, *tree_unflatten(held, structure)), inputs)
                tapes += [other] if other is not None else []
            if len(tapes) > 1:

                def fastest() -> str:
                    times = [measure(Program(tape, inputs), self.lanes.loss.device) for tape in tapes]
                    return clearly({str(i): seconds for i, seconds in enumerate(times)}, "0")

                what = [(str(node.op), [v.shape for v in map(tapes[0].values.__getitem__, node.reads())]) for node in tapes[0].nodes]
                tape = tapes[int(remembered(("variant", what, torch.get_num_threads()), tuple(map(str, range(len(tapes)))), fastest))]
        self.tapes[key] = [Program(tape, [None] * len(inputs)) for _ in range(max(1, self.threads))]

    def _answer(self, named: Mapping[str, Tensor], batch: Any, masks: Sequence[Tensor]) -> list[Tensor]:
        """One lane: loss, gradients in the order of the layout, buffers after the forward."""
        named, loss = dict(named), torch.zeros(())
        slopes: list[Tensor] = []
        for share, rows, own in self.parts(batch, masks):
            if self.slopes:
                with torch.enable_grad():
                    leaves = {n: named[n].detach().requires_grad_() for n in self.lanes.layout.names}
                    part, after = self.lose({**named, **leaves}, rows, own)
                    found = torch.autograd.grad(part, list(leaves.values()), materialize_grads=True)
                slopes = (
                    [was + share * g for was, g in zip(slopes, found, strict=True)]
                    if slopes
                    else [g if share == 1.0 else share * g for g in found]
                )
            else:
                with torch.no_grad():
                    part, after = self.lose(named, rows, own)
            loss = part.detach() if share == 1.0 else loss + share * part.detach()
            named.update({n: tensor.detach() for n, tensor in after.items()})
        return [loss, *slopes, *(named[n] for n in self.lanes.buffers)]

    def _run(self, program: Program, k: int, given: tuple[Any, list[Tensor]], after: Mapping[str, Tensor]) -> None:
        ends = program(*self.lanes.one(k).values(), *leaves(given))
        with torch.no_grad():
            self._write(k, ends, after)

    def _write(self, k: int, ends: Sequence[Tensor], after: Mapping[str, Tensor]) -> None:
        self.lanes.loss[k] = ends[0]
        slopes = dict(zip(self.lanes.layout.names, ends[1:], strict=False)) if self.slopes else {}
        for block, g in zip(self.lanes.blocks, self.lanes.g if self.slopes else [], strict=False):
            for part, name, shape in zip(g[k].split(block.sizes), block.names, block.shapes, strict=True):
                part.view(shape).copy_(slopes[name])
        for place, end in zip(after.values(), ends[1 + len(slopes) :], strict=True):
            place[k] = end

    def _spread(self, key: Any, slices: Sequence[tuple[int, Any]], after: Mapping[str, Tensor]) -> None:
        programs = self.tapes[key]
        if len(programs) == 1 or len(slices) == 1:
            for k, given in slices:
                self._run(programs[0], k, given, after)
            return
        if self.pool is None:
            self.pool = ThreadPoolExecutor(len(programs), initializer=torch.set_num_threads, initargs=(1,))
        left = iter(slices)  # a generator's next is one step under the interpreter's lock

        def work(program: Program) -> None:
            for k, given in left:
                self._run(program, k, given, after)

        for ended in [self.pool.submit(work, program) for program in programs]:
            ended.result()

    def _compare(self, k: int, given: tuple[Any, list[Tensor]]) -> None:
        again = self._answer({n: t.detach().clone() for n, t in self.lanes.one(k).items()}, *given)
        compare(self.lanes.loss[k], again[0], self.stepper.precision)
        if self.slopes:
            points = dict(zip(self.lanes.layout.names, again[1:], strict=False))
            for block, g in zip(self.lanes.blocks, self.lanes.g, strict=True):
                compare(g[k], block.join([points[n] for n in block.names]), self.stepper.precision)

    @property
    def way(self) -> str:
        return "threads" if self.threads > 1 else "apart"

    def spread_over(self, threads: int) -> Apart:
        """Use so many threads, each with a lane of its own."""
        if threads != self.threads:
            self.close()
            self.threads = threads
            self.forget()
        return self

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None
