"""The rig of a fleet: model, batches, noise, the memory of the lanes and their gradients, which the next fleet of its kind takes over."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.engine import noise
from thalweg.engine.bound import Bound
from thalweg.engine.fleet.apart import Apart
from thalweg.engine.fleet.feed import Feed
from thalweg.engine.fleet.glance import Glance
from thalweg.engine.fleet.gradient import Gradient, cut
from thalweg.engine.fleet.lanes import Lanes
from thalweg.engine.fleet.together import Together
from thalweg.engine.fleet.update import Update
from thalweg.engine.fleet.ways import pick
from thalweg.engine.work import Stepper, Work
from thalweg.errors import UserError


def claim(work: Work, bound: Bound, seen: Glance, modules: Mapping[int, nn.Module], way: str, taped: bool | None, ahead: int) -> Rig:
    """The rig that the last fleet left, where it fits, else a new one; at the first batch and the first weights in both cases."""
    kept, work.memo.rig = work.memo.rig, None
    if kept is not None and kept.fits(work, bound, modules, way, taped, ahead):
        kept.begin(work, modules)
        return kept
    del kept  # its memory is free before the new one takes its own
    return Rig(work, bound, seen, modules, way, taped, ahead)


class Rig:
    """What all lanes of a fleet train on.

    update: that of the last fleet, or None. whole: whether no lane has been taken out. dropout, smoothing: each lane's, or None where
    they are not set.
    """

    def __init__(
        self, work: Work, bound: Bound, seen: Glance, modules: Mapping[int, nn.Module], way: str, taped: bool | None, ahead: int
    ) -> None:
        self.asked, self.kind = (way, taped, ahead), _kind(work, bound, modules)
        self.problem, self.accumulate, self.device, self.whole = work.problem, work.accumulate, torch.device(work.device), True
        self.seeds = [lane.seed for lane in work.lanes]
        self.stepper = Stepper(modules[self.seeds[0]], work.problem, work.precision)
        self.lanes = Lanes(modules, self.seeds, seen.layout, bound.by_number)
        self.update: Update | None = None
        self.one_batch = Feed.shared(work, self.seeds)
        self.feed = Feed(work)
        self.feed.begin(work, self.seeds)
        self.count(work)
        first = self.feed.peek(self.seeds, self.one_batch)
        alone, one = weakref.WeakMethod(self._alone), self.feed.first(first, self.one_batch)
        self.noise = noise.Paired(alone, self.device, one, self.dropout is not None, seen.still)
        self.one_mask = len(set(self.seeds)) == 1 and self.dropout is None and self.smoothing is None
        if self.noise.other and self.dropout is not None:
            raise UserError("dropout cannot be varied in a model that draws other random numbers too")
        self.gradient = self._gradient(first, seen, bound.rule.gradient)

    def _alone(self, batch: Any) -> None:
        """The first lane's plain forward, part by part."""
        self.stepper.train()
        tensors = {f"module.{n}": tensor.clone() for n, tensor in self.lanes.one(0).items()}
        for _, rows, _ in cut(batch, [], self.accumulate):
            functional_call(self.stepper, tensors, (rows,))

    def _gradient(self, batch: Any, seen: Glance, slopes: bool) -> Gradient:
        """How gradients are taken, measured on a first batch where that pays."""
        way, taped, ahead = self.asked
        arguments = (self.stepper, self.lanes, slopes, self.one_batch, self.one_mask)
        together, apart = Together(*arguments), Apart(*arguments)
        for gradient in (together, apart):
            gradient.smoothed, gradient.accumulate = self.smoothing is not None, self.accumulate
            gradient.every = self.dropout is not None
            # a forward that draws numbers by itself draws them lane by lane, as its own loop would
            gradient.taped = not self.noise.other and taped is not False
        apart.patient = ahead * len(self.lanes) >= PATIENT
        if self.noise.other:
            return apart
        return pick(together, apart, batch, self.masks(batch, 0), way, ahead, seen.seconds, may=taped is None)

    def fits(self, work: Work, bound: Bound, modules: Mapping[int, nn.Module], way: str, taped: bool | None, ahead: int) -> bool:
        """Whether lanes of another work can train on this rig as they would on one of their own."""
        wanted = way in ("auto", self.gradient.way) if self.asked[0] == "auto" else way == self.asked[0]
        alike = self.whole and wanted and (taped, ahead) == self.asked[1:] and work.problem is self.problem
        # what a module carries beside parameters and buffers is on the tapes as the first one had it
        own = work.lanes[0].seed == self.seeds[0] or not self.gradient.outside
        return alike and own and _kind(work, bound, modules) == self.kind

    def begin(self, work: Work, modules: Mapping[int, nn.Module]) -> None:
        """Start anew with the lanes of another work."""
        self.seeds = [lane.seed for lane in work.lanes]
        self.lanes.load(modules, self.seeds)
        self.feed.begin(work, self.seeds)
        self.count(work)

    def count(self, work: Work) -> None:
        """Note what the lanes set beside the rule's own numbers."""
        self.dropout, self.smoothing = (
            [float(lane.config[name]) for lane in work.lanes] if name in work.lanes[0].config else None for name in MODEL
        )

    def masks(self, batch: Any, t: int) -> list[Tensor]:
        """What a forward takes from the lanes besides weights: noise, and shares of smoothing last."""
        one = self.feed.first(batch, self.one_batch)
        masks = [] if self.noise.other else self.noise.masks(one, self.seeds, t, self.one_mask, self.dropout)
        if self.smoothing is not None:
            masks.append(torch.tensor(self.smoothing, dtype=self.lanes.layout.dtype, device=self.device))
        return masks

    def next(self) -> Any:
        """The next step's batch."""
        return self.feed.next(self.seeds, self.one_batch)

    def slopes(self, batch: Any, t: int, live: Sequence[int], last: bool = False) -> Mapping[str, Tensor]:
        """Losses and gradients of the lanes that live into their memory; the buffers after the forward. last: losses are enough."""
        check = self.gradient.taped and t > 1 and math.log(t, 8).is_integer()
        draws: Callable[[int], None] | None = None
        if self.noise.other:
            draws = lambda k: noise.seed_step(self.seeds[k], t, self.device)  # noqa: E731
        before = self.gradient.slopes
        self.gradient.slopes = before and not (last and not self.gradient.taped)
        try:
            return self.gradient(batch, self.masks(batch, t), live, check, draws)
        finally:
            self.gradient.slopes = before

    def keep(self, index: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Take all lanes but these out."""
        self.whole = False
        buffers = {n: b.clone() for n, b in buffers.items()}
        ends = [part[index] for part in (self.lanes.loss, self.lanes.norm, *self.lanes.g)]
        self.lanes.buffers = buffers
        self.lanes.keep(index)
        for place, end in zip([self.lanes.loss, self.lanes.norm, *self.lanes.g], ends, strict=True):
            place.copy_(end)
        self.gradient.forget()
        self.seeds = [self.seeds[k] for k in index.tolist()]


PATIENT = 400
"""Steps of single lanes from which it pays to time whole tapes against each other."""

MODEL = ("dropout", "label_smoothing")
"""What lanes may set inside the model and the loss."""


def _kind(work: Work, bound: Bound, modules: Mapping[int, nn.Module]) -> tuple[Any, ...]:
    """What works must share to train on one rig after the other, beside the problem."""
    seeds = [lane.seed for lane in work.lanes]
    module = modules[seeds[0]]
    shapes = tuple((n, tuple(t.shape), t.requires_grad) for n, t in (*module.named_parameters(), *module.named_buffers()))
    options = (work.batch_size, work.device, work.precision, work.accumulate, bound.rule.gradient, bound.by_number)
    return len(seeds), len(set(seeds)) == 1, *options, *(name in work.lanes[0].config for name in MODEL), repr(module), shapes
