"""The fleet: K configurations of one model trained together, step by step.

Lanes share the model, the loss and the structure of the rule; they differ in hyperparameters, schedules and seeds. Gradients come from
`thalweg.engine.fleet.gradient`, all lanes together or one by one, whichever is faster; the rule steps all lanes at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from thalweg.core.problem import to
from thalweg.engine import memory
from thalweg.engine.bound import bind
from thalweg.engine.evaluate import best_of, evaluate
from thalweg.engine.fleet.glance import glance
from thalweg.engine.fleet.gradient import Drifted
from thalweg.engine.fleet.rig import claim
from thalweg.engine.fleet.together import Together
from thalweg.engine.fleet.update import Update
from thalweg.engine.work import LIMIT, Log, Outcome, Progress, Work, cuda_devices, out_of_memory, rates, user_code

PATIENCE = {"cpu": 1}
"""Every how many steps dead lanes are looked for. An accelerator is asked seldom, since asking waits; until then they are masked."""

TAPED: bool | None = None
"""Whether steps are recorded where a caller does not say; None: where that pays."""

SPARSE = 0.75
"""Dead lanes are carried along until no more than this share is alive; then they are taken out, and the step is recorded anew."""


def run(
    work: Work, progress: Progress | None = None, way: str = "auto", taped: bool | None = None, ahead: int | None = None
) -> list[Outcome]:
    """Train all lanes of the work; one outcome a lane, in order.

    way: how gradients are taken: "together" under vmap, "apart" lane by lane, "threads" lane by lane on a thread a core, or "auto".
    taped: whether steps are replayed from a recording where they can be; None: where that pays. ahead: steps for which a recording
    serves, where fleets of the same kind follow. Where memory runs out, the fleet is halved.
    """
    with torch.random.fork_rng(devices=cuda_devices(work.device)), memory.kept():
        try:
            return _train(work, progress, way, taped, ahead)
        except Drifted:
            return _train(work, progress, way, False, ahead)
        except (RuntimeError, MemoryError) as error:
            if len(work.lanes) == 1 or not out_of_memory(error):
                raise
    half = len(work.lanes) // 2
    parts = [work.with_lanes(part) for part in (work.lanes[:half], work.lanes[half:])]
    return [outcome for part in parts for outcome in run(part, progress, way, taped, ahead)]


def _train(work: Work, progress: Progress | None, way: str, taped: bool | None, ahead: int | None) -> list[Outcome]:
    fleet = Fleet(work, way, taped, ahead)
    outcomes = fleet.train(progress)
    fleet.leave()
    return outcomes


class Fleet:
    """The state of a run: its rig, its update, and the records of lanes that are gone.

    way, taped, ahead: as in `run`.
    """

    def __init__(self, work: Work, way: str = "auto", taped: bool | None = None, ahead: int | None = None) -> None:
        self.work, ahead = work, work.steps if ahead is None else ahead
        taped = TAPED if taped is None else taped
        self.device = torch.device(work.device)
        self.specs = list(work.lanes)
        self.places = list(range(len(self.specs)))  # which lane of the work each lane here is
        modules = {seed: work.start(seed).to(self.device) for seed in dict.fromkeys(lane.seed for lane in self.specs)}
        seen = glance(work, modules[self.specs[0].seed])
        bound = bind(work.rule, [lane.config for lane in self.specs], work.wrappers, seen.layout)
        self.rule = bound.rule
        self.patience = PATIENCE.get(self.device.type, 16)
        self.rig = claim(work, bound, seen, modules, way, taped, ahead)
        self.lanes, self.gradient = self.rig.lanes, self.rig.gradient
        if self.rig.update is not None and self.rig.update.fits(bound, work, taped, ahead):
            self.update = self.rig.update
            self.update.begin(work)
        else:
            self.rig.update = None  # its memory is free before the new one takes its own
            self.update = self.rig.update = Update(bound, self.lanes, work, taped, ahead, masked=self.patience > 1)
        self.ok = torch.ones(len(self.specs), dtype=torch.bool, device=self.device)
        self.gone: set[int] = set()  # lanes here that are dead or stopped, and known to be

    @property
    def live(self) -> list[int]:
        return [k for k in range(len(self.specs)) if k not in self.gone]

    # --- training

    def train(self, progress: Progress | None) -> list[Outcome]:
        work = self.work
        self.log = Log(len(work.lanes))
        self.diverged = np.full(len(work.lanes), -1)
        self.stopped = np.full(len(work.lanes), -1)
        self.ended: dict[int, dict[str, Tensor]] = {}
        self.limit = torch.full((len(self.specs),), math.inf, device=self.device, dtype=self.lanes.loss.dtype)
        self.died = torch.full((len(self.specs),), -1, device=self.device)
        best = math.nan
        try:
            for t in range(work.steps + 1):
                if t in work.evaluations:
                    values = self.evaluate(work.problem.valid)
                    self.log.evaluate(t, self._alive(), values)
                    best = best_of(values[work.problem.score], work.problem.higher_is_better, best)
                    if t in work.rungs:
                        self._halve(t, values[work.problem.score])
                batch = self.rig.next()
                last = t == work.steps
                with user_code("the model's training step failed", batch):
                    buffers = self.rig.slopes(batch, t, self.live, last)
                if self._look(t, buffers):
                    buffers = self.lanes.buffers
                if not self.live:
                    break
                if progress is not None and (last or work.recorded(t)):
                    progress(t, len(self.live), best)
                if last:
                    break
                for n, b in buffers.items():
                    self.lanes.buffers[n].copy_(b)
                if self.update.bound.climbs:
                    self._again(batch, t)
                self.update.step(t, self.rig.seeds, rates(self.specs, self.update.scheduled, t), self.ok)
            return self._outcomes()
        finally:
            self.gradient.close()

    def leave(self) -> None:
        """Hand the rig on to the next fleet of the same model and data; this one is done."""
        if self.rig.whole:
            self.work.memo.rig = self.rig

    def _look(self, t: int, buffers: Mapping[str, Tensor]) -> bool:
        """Record what is due, and take out lanes that have diverged; whether that moved the others."""
        loss, norm, last = self.lanes.loss, self.lanes.norm, t == self.work.steps
        if t == 0:
            self.limit = LIMIT * loss.abs().clamp(min=1.0)
        # nothing is done with the gradient of the last record
        fine = (loss <= self.limit).logical_and_((loss if last else loss + norm).isfinite())
        if self.device.type != "cpu" or not bool(fine.all()):
            self.died = torch.where(self.ok & ~fine, t, self.died)
            self.ok.logical_and_(fine)
        if last or self.work.recorded(t):
            now = rates(self.specs, ["lr"] if "lr" in self.update.bound.data else [], t).get("lr", [np.nan] * len(self.specs))
            shown = norm if self.rule.gradient and not last else torch.full_like(norm, torch.nan)
            self._record(t, (self.died < 0) | (self.died == t), shown, now)
        if not (last or t % self.patience == 0) or bool(self.ok.all()):
            return False
        self._bury(t)
        return not last and self._compact(buffers)

    def _again(self, batch: Any, t: int) -> None:
        """Take the gradients again where the rule's wrappers ask for it; points, losses and norms stay those of the first time."""
        kept = [*self.lanes.x, self.lanes.loss, self.lanes.norm]
        before = [tensor.clone() for tensor in kept]
        self.update.climb()
        with user_code("the model's training step failed", batch):
            buffers = self.rig.slopes(batch, t, self.live)
        for n, b in buffers.items():
            self.lanes.buffers[n].copy_(b)
        for tensor, was in zip(kept, before, strict=True):
            tensor.copy_(was)

    def _alive(self) -> list[int]:
        return [self.places[k] for k in self.live]

    def _record(self, t: int, which: Tensor, norm: Tensor, lr: Sequence[float]) -> None:
        """Record some of the lanes: those alive, and those that die now; not those that are dead and masked."""
        seen = [k for k in which.nonzero().flatten().tolist() if k not in self.gone]
        losses, norms = self.lanes.loss.cpu().numpy()[seen], norm.cpu().numpy()[seen]
        self.log.record(t, [self.places[k] for k in seen], losses, norms, np.asarray(lr)[seen])

    def _halve(self, t: int, scores: np.ndarray) -> None:
        """Stop the worse half of the lanes that are left; one that fails to give a score is worse than any."""
        live = self.live
        worst = -np.inf if self.work.problem.higher_is_better else np.inf
        ranked = np.where(np.isfinite(scores), scores, worst) * (-1 if self.work.problem.higher_is_better else 1)
        for i in np.argsort(ranked, kind="stable")[(len(live) + 1) // 2 :].tolist():
            self._leave(live[i], self.stopped, t)
        self._compact(self.lanes.buffers)

    def _leave(self, k: int, why: np.ndarray, t: int) -> None:
        """Lane k goes at step t; what it ends with is kept."""
        why[self.places[k]] = t
        self.ended[self.places[k]] = self._state(k)
        self.gone.add(k)
        for x in self.lanes.x:  # it is carried along for a while; numbers that are not finite would be slow
            x[k] = 0

    def _bury(self, t: int) -> None:
        """Note the lanes that have diverged since the last look, and what they end with."""
        dead = [k for k in (~self.ok).nonzero().flatten().tolist() if k not in self.gone]
        if dead and not self.work.recorded(t):
            self._record(t, self.died == t, self.lanes.norm, [np.nan] * len(self.specs))
        for k in dead:
            self._leave(k, self.diverged, int(self.died[k]))

    def _compact(self, buffers: Mapping[str, Tensor]) -> bool:
        """Take the lanes that are gone out of every matrix, once few enough are left that a new recording pays; whether it was done."""
        rest = self.live
        if not rest or len(rest) > SPARSE * len(self.specs):
            return False
        keep = torch.tensor(rest, device=self.device)
        self.rig.keep(keep, buffers)
        self.update.keep(keep)
        self.specs = [self.specs[k] for k in rest]
        self.places = [self.places[k] for k in rest]
        self.rig.count(self.work.with_lanes(self.specs))
        self.ok, self.limit, self.died, self.gone = self.ok[keep], self.limit[keep], self.died[keep], set()
        return True

    # --- what lanes end with

    def _outcomes(self) -> list[Outcome]:
        work, at = self.work, {self.places[k]: i for i, k in enumerate(self.live)}
        test = self.evaluate(work.problem.test) if work.test and at else {}

        def outcome(lane: int) -> Outcome:
            state = None
            if work.keep_weights:
                state = self.ended.get(lane) or self._state(self.live[at[lane]])
            scores = {name: float(column[at[lane]]) for name, column in test.items()} if lane in at else {}
            diverged, stopped = int(self.diverged[lane]), int(self.stopped[lane])
            return Outcome(self.log.curve(lane, max(diverged, stopped)), diverged, state, scores, stopped)

        return [outcome(lane) for lane in range(len(work.lanes))]

    def _state(self, k: int) -> dict[str, Tensor]:
        answers = self.update.answers()
        return {n: t[k].clone() for part in (answers, self.lanes.constants, self.lanes.buffers) for n, t in part.items()}

    def evaluate(self, data: Any) -> dict[str, np.ndarray]:
        """Metrics of all lanes alive, in evaluation mode."""
        self.rig.stepper.eval()
        live = self.live
        answers = {**self.update.answers(), **self.lanes.constants, **self.lanes.buffers}
        if len(live) < len(self.specs):
            answers = {n: t[live] for n, t in answers.items()}
        together = isinstance(self.gradient, Together)

        def forward(batch: Any, predict: bool) -> Any:
            def one(named: Mapping[str, Tensor]) -> Any:
                return functional_call(self.rig.stepper, {f"module.{n}": t for n, t in named.items()}, (batch, predict))

            if together:
                return vmap(one, randomness="same")(answers)
            ends = [one({n: t[k] for n, t in answers.items()}) for k in range(len(live))]
            return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *ends)

        with torch.no_grad(), user_code("the evaluation of the model failed"):
            size = max(2 * self.work.batch_size, 256 // len(live))  # rows at once: no more memory than training takes
            return evaluate(self.work.problem, to(data, self.device), len(live), forward, size)
