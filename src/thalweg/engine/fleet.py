"""The fleet: K configurations of one model trained together, parameters and states as (K, N) matrices.

Lanes share the model, the loss and the structure of the rule; they differ in hyperparameters, schedules and seeds. Gradients come from
`torch.func` under `vmap`; the rule is the same function that every other engine calls, under `vmap` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from thalweg.core.problem import take, to
from thalweg.engine import noise
from thalweg.engine.bound import Bound, bind
from thalweg.engine.evaluate import best_of, evaluate
from thalweg.engine.work import (
    LIMIT,
    CannotFuse,
    Log,
    Outcome,
    Progress,
    Stepper,
    Work,
    cuda_devices,
    out_of_memory,
    probe,
    rates,
    stream,
    user_code,
)

PATIENCE = {"cpu": 1}
"""Every how many steps dead lanes are taken out. An accelerator is asked seldom, since asking waits; until then they are masked."""


def run(work: Work, progress: Progress | None = None) -> list[Outcome]:
    """Train all lanes of the work; one outcome a lane, in order.

    Where memory runs out, the fleet is halved and each half trained whole. Where lanes have several seeds and the model draws
    random numbers other than dropout's, each seed's lanes are a fleet of their own, so that they draw what their own loop would.
    """
    with torch.random.fork_rng(devices=cuda_devices(work)):
        try:
            outcomes = _whole(work, progress)
            return _by_seed(work, progress) if outcomes is None else outcomes
        except (RuntimeError, MemoryError) as error:
            if len(work.lanes) == 1 or not out_of_memory(error):
                raise
    half = len(work.lanes) // 2
    return run(work.with_lanes(work.lanes[:half]), progress) + run(work.with_lanes(work.lanes[half:]), progress)


def _whole(work: Work, progress: Progress | None) -> list[Outcome] | None:
    """All lanes as one fleet; None where each seed needs a fleet of its own. Nothing of the fleet outlives this call."""
    fleet = _Fleet(work)
    return None if fleet.noise.other and not fleet.one_batch else fleet.train(progress)


def _by_seed(work: Work, progress: Progress | None) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    for seed in dict.fromkeys(lane.seed for lane in work.lanes):
        own = [k for k, lane in enumerate(work.lanes) if lane.seed == seed]
        outcomes.update(zip(own, run(work.with_lanes([work.lanes[k] for k in own]), progress), strict=True))
    return [outcomes[k] for k in range(len(work.lanes))]


class _Fleet:
    """The state of a run: matrices of all lanes that are alive, and the records of those that were."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.device = torch.device(work.device)
        self.data = to(work.problem.train, self.device)
        self.lanes = list(work.lanes)
        self.alive = list(range(len(self.lanes)))
        self.seeds = [lane.seed for lane in self.lanes]
        modules = {seed: work.start(seed).to(self.device) for seed in dict.fromkeys(self.seeds)}
        module = modules[self.seeds[0]]
        self.layout = probe(work, module)
        self.bound: Bound = bind(work.rule, [lane.config for lane in self.lanes], work.wrappers, self.layout)
        self.stepper = Stepper(module, work.problem)

        parameters = {seed: dict(m.named_parameters()) for seed, m in modules.items()}
        trained = set(self.layout.names)
        flats = {seed: self.layout.join([p[n].detach() for n in self.layout.names]) for seed, p in parameters.items()}
        self.x = torch.stack([flats[seed] for seed in self.seeds])  # (K, N)
        constants = {
            seed: {n: p.detach() for n, p in parameters[seed].items() if n not in trained} | dict(m.named_buffers())
            for seed, m in modules.items()
        }
        self.buffers = {n: torch.stack([constants[s][n] for s in self.seeds]) for n in constants[self.seeds[0]]}
        self.weights = self.layout.weights(self.device)
        self.x0 = self.x.clone() if "x0" in self.bound.requests else None
        self.numbers = torch.float32 if self.device.type == "mps" else torch.float64
        self.scheduled = sorted({n for lane in self.lanes for n in lane.schedules})
        columns = {n: [lane.config[n] for lane in self.lanes] for n in self.bound.data}
        # numbers that all lanes share stay Python floats: the same arithmetic, fewer operations
        self.shared = {n: c[0] for n, c in columns.items() if len(set(c)) == 1 and n not in self.scheduled}
        self.varied = {n: self._column(c) for n, c in columns.items() if n not in self.shared}
        self.states = vmap(lambda x, h: self.bound.start(x, {**self.shared, **h}))(self.x, self.varied) if self.bound.states else {}
        self.states = tree_map(torch.clone, self.states)  # a start may be one tensor seen by all lanes
        self.noise = noise.Paired(self._alone, self.device, take(self.data, next(stream(work, self.seeds[0])).to(self.device)))

    def _alone(self, batch: Any) -> Tensor:
        """The first lane's plain forward."""
        self.stepper.train()
        tensors = self._named(self.x[0], {n: b[0].clone() for n, b in self.buffers.items()})
        return functional_call(self.stepper, tensors, (batch,))

    # --- one lane's functions, vmapped

    def _named(self, flat: Tensor, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {**dict(zip(self.layout.names, self.layout.split(flat), strict=True)), **buffers}
        return {f"module.{n}": tensor for n, tensor in named.items()}

    def _lose(self, flat: Tensor, buffers: Mapping[str, Tensor], batch: Any, masks: Sequence[Tensor]) -> Any:
        """One lane's loss and its buffers after the forward."""
        tensors = self._named(flat, {n: b.clone() for n, b in buffers.items()})
        if masks:
            with noise.Replay(masks):
                loss = functional_call(self.stepper, tensors, (batch,))
        else:
            loss = functional_call(self.stepper, tensors, (batch,))
        return loss.reshape(()), {n: tensors[f"module.{n}"] for n in buffers}

    def _gradients(self, batch: Any, masks: Sequence[Tensor]) -> Any:
        """All lanes: gradients (K, N) or None, losses (K,), buffers after the forward."""
        self.stepper.train()
        dims = (0, 0, None if self.one_batch else 0, 0 if len(set(self.seeds)) > 1 else None)
        arguments = (self.x, self.buffers, batch, masks)
        if not self.bound.rule.gradient:
            with torch.no_grad():
                loss, buffers = vmap(self._lose, in_dims=dims, randomness="same")(*arguments)
            return None, loss, buffers
        slopes, (loss, buffers) = vmap(grad_and_value(self._lose, has_aux=True), in_dims=dims, randomness="same")(*arguments)
        return slopes, loss.detach(), tree_map(torch.detach, buffers)

    def _update(self, g: Tensor, loss: Tensor, t: int, hypers: dict[str, Tensor]) -> tuple[Tensor, Any]:
        given: dict[str, Any] = {}
        dims: dict[str, Any] = {}
        for name in self.bound.requests:
            value, dim = self._give(name, loss, t)
            given[name], dims[name] = value, dim
        constant = {n: v for n, v in given.items() if not isinstance(v, Tensor)}
        tensors = {n: v for n, v in given.items() if n not in constant}

        def one(x: Tensor, g: Tensor, states: Any, hypers: Any, tensors: Any) -> Any:
            return self.bound.step(x, g, states, {**self.shared, **hypers}, {**constant, **tensors})

        in_dims = (0, 0, 0, 0, {n: dims[n] for n in tensors})
        what = f"stepping {self.bound.rule.name} as a fleet failed (engine solo or pool takes any rule)"
        with torch.no_grad(), user_code(what, None, CannotFuse):
            return vmap(one, in_dims=in_dims)(self.x, g, self.states, hypers, tensors)

    def _give(self, name: str, loss: Tensor, t: int) -> tuple[Any, int | None]:
        """A request of the rule: its value, and the dimension of the lanes in it (None where all share it)."""
        if name == "t":
            return t + 1, None
        if name == "loss":
            return loss, 0
        if name == "weights":
            return self.weights, None
        if name == "x0":
            return self.x0, 0
        draws = {seed: noise.normal(seed, t, self.x[0]) for seed in dict.fromkeys(self.seeds)}
        return (draws[self.seeds[0]], None) if len(draws) == 1 else (torch.stack([draws[s] for s in self.seeds]), 0)

    # --- training

    def train(self, progress: Progress | None) -> list[Outcome]:
        work = self.work
        log = Log(len(work.lanes))
        diverged = np.full(len(work.lanes), -1)
        ended: dict[int, dict[str, Tensor]] = {}
        streams = {seed: stream(work, seed) for seed in dict.fromkeys(self.seeds)}
        limit = torch.full((len(self.lanes),), float("nan"), device=self.device)
        patience = PATIENCE.get(self.device.type, 16)
        ok = torch.ones(len(self.lanes), dtype=torch.bool, device=self.device)
        died = torch.full((len(self.lanes),), -1, device=self.device)
        best = float("nan")
        for t in range(work.steps + 1):
            if t in work.evaluations:
                values = self.evaluate(work.problem.valid)
                log.evaluate(t, self.alive, values)
                best = best_of(values[work.problem.score], work.problem.higher_is_better, best)
            batch = self._batch(streams)
            last = t == work.steps
            with user_code("training this model as a fleet failed (engine solo or pool takes any model)", batch, CannotFuse):
                g, loss, buffers = self._gradients(batch, self.noise.masks(self._first(batch), self.seeds, t))
            if t == 0 and self.noise.other and not self.noise.check(self._first(batch), self.seeds[0], loss[0]):
                raise CannotFuse("this model's random numbers differ in a fleet; engine solo or pool draws them as a loop would")
            g = torch.zeros_like(self.x) if g is None else g
            norm = torch.linalg.vector_norm(g, dim=1)
            if t == 0:
                limit = LIMIT * loss.abs().clamp(min=1.0)
            fine = loss.isfinite() & norm.isfinite() & (loss <= limit)
            died = torch.where(ok & ~fine, t, died)
            ok = ok & fine
            if last or work.recorded(t):
                now = rates(self.lanes, ["lr"] if "lr" in self.bound.data else [], t).get("lr", [np.nan] * len(self.lanes))
                shown = norm if self.bound.rule.gradient and not last else torch.full_like(norm, torch.nan)
                self._record(log, t, (died < 0) | (died == t), loss, shown, now)
            if (last or t % patience == 0) and not bool(ok.all()):
                keep = ok.nonzero().flatten()
                dead = (~ok).nonzero().flatten()
                if not work.recorded(t):
                    self._record(log, t, died == t, loss, norm, [np.nan] * len(self.lanes))
                for k in dead.tolist():
                    diverged[self.alive[k]] = int(died[k])
                    ended[self.alive[k]] = self._state(k)
                ok, died, limit, loss, g = ok[keep], died[keep], limit[keep], loss[keep], g[keep]
                buffers = {n: b[keep] for n, b in buffers.items()}
                self._compact(keep)
            if not self.alive:
                break
            if progress is not None and (last or work.recorded(t)):
                progress(t, len(self.alive), best)
            if last:
                break
            hypers = {**self.varied, **{n: self._column(column) for n, column in rates(self.lanes, self.scheduled, t).items()}}
            new_x, new_states = self._update(g, loss, t, hypers)
            if patience > 1:
                new_x = torch.where(ok[:, None], new_x, self.x)
            self.x, self.states, self.buffers = new_x, new_states, buffers
        return self._outcomes(log, diverged, ended)

    def _record(self, log: Log, t: int, which: Tensor, loss: Tensor, norm: Tensor, lr: Sequence[float]) -> None:
        """Record some of the lanes: those alive, and those that die now; not those that are dead and masked."""
        seen = which.nonzero().flatten().tolist()
        losses, norms = loss.cpu().numpy()[seen], norm.cpu().numpy()[seen]
        log.record(t, [self.alive[k] for k in seen], losses, norms, np.asarray(lr)[seen])

    def _outcomes(self, log: Log, diverged: np.ndarray, ended: dict[int, dict[str, Tensor]]) -> list[Outcome]:
        work = self.work
        test = self.evaluate(work.problem.test) if work.test and self.alive else {}
        at = {lane: k for k, lane in enumerate(self.alive)}

        def outcome(lane: int) -> Outcome:
            state = (ended.get(lane) or self._state(at[lane])) if work.keep_weights else None
            scores = {name: float(column[at[lane]]) for name, column in test.items()} if lane in at else {}
            return Outcome(log.curve(lane, int(diverged[lane])), int(diverged[lane]), state, scores)

        return [outcome(lane) for lane in range(len(work.lanes))]

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.numbers, device=self.device)

    @property
    def one_batch(self) -> bool:
        """Whether all lanes see the same batches, because they share a seed."""
        return len(set(self.seeds)) == 1

    def _batch(self, streams: Mapping[int, Any]) -> Any:
        # every seed's stream moves on, also those whose lanes are gone
        drawn = {seed: next(s) for seed, s in streams.items()}
        if self.one_batch:
            return take(self.data, drawn[self.seeds[0]].to(self.device))
        return take(self.data, torch.stack([drawn[seed] for seed in self.seeds]).to(self.device))  # (K, batch, ...)

    def _first(self, batch: Any) -> Any:
        """The first lane's part of a batch."""
        return batch if self.one_batch else tree_map(lambda leaf: leaf[0], batch)

    def _compact(self, keep: Tensor) -> None:
        """Take the dead lanes out of every matrix."""
        rest = keep.tolist()
        self.lanes, self.alive, self.seeds = ([column[k] for k in rest] for column in (self.lanes, self.alive, self.seeds))
        self.x = self.x[keep]
        self.x0 = None if self.x0 is None else self.x0[keep]
        self.buffers = {n: b[keep] for n, b in self.buffers.items()}
        self.states = tree_map(lambda s: s[keep], self.states)
        self.varied = {n: v[keep] for n, v in self.varied.items()}

    def _state(self, k: int) -> dict[str, Tensor]:
        states = tree_map(lambda s: s[k], self.states)
        parts = self.layout.split(self.bound.readout(self.x[k], states).clone())
        return dict(zip(self.layout.names, parts, strict=True)) | {n: b[k].clone() for n, b in self.buffers.items()}

    def evaluate(self, data: Any) -> dict[str, np.ndarray]:
        """Metrics of all lanes alive, in evaluation mode."""
        self.stepper.eval()

        def forward(batch: Any, predict: bool) -> Any:
            def one(flat: Tensor, buffers: Mapping[str, Tensor]) -> Any:
                return functional_call(self.stepper, self._named(flat, buffers), (batch, predict))

            return vmap(one, randomness="same")(answers, self.buffers)

        with torch.no_grad(), user_code("evaluating this model as a fleet failed (engine solo or pool takes any model)", None, CannotFuse):
            answers = self.x if self.bound.rule.reader is None else vmap(self.bound.readout)(self.x, self.states)
            return evaluate(self.work.problem, to(data, self.device), len(self.lanes), forward)
