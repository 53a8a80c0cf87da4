"""A trial: a fleet trained for a moment, to see what a step takes in time and memory."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from thalweg.engine import memory
from thalweg.engine.fleet import Fleet
from thalweg.engine.work import Work, cuda_devices


@dataclass(frozen=True)
class Trial:
    """What a few steps of a fleet showed. seconds: of one step.

    kept: bytes that a lane holds. recording, replaying: bytes of a gradient at its first call and later. update: of a lane's first update.
    peak: the most bytes in use, where the system tells.
    """

    way: str
    taped: bool
    seconds: float
    lanes: int
    kept: int
    recording: int
    replaying: int
    update: int
    peak: int | None = None

    def memory(self, lanes: int, cores: int = 0) -> int:
        """Predicted bytes at the peak for so many lanes: together (cores 0), or apart on so many threads."""
        at_once = min(cores, lanes) if cores else lanes
        return lanes * self.kept + max(at_once * self.recording, at_once * self.replaying + lanes * self.update)


class _Enough(Exception):
    """A trial has seen enough."""


def trial(work: Work, way: str = "auto") -> Trial:
    """Train for a moment and look at what it takes: twelve steps, fewer where they are slow."""
    times: list[float] = []

    def clock(done: int, alive: int, best: float) -> None:
        if work.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(perf_counter())
        if len(times) > 1 and times[-1] - times[0] > (0.2 if len(times) < 5 else 0.05):
            raise _Enough

    few = replace(work, steps=min(12, work.steps), every=1, evaluations=(), test=False)
    with torch.random.fork_rng(devices=cuda_devices(work)), memory.kept(), memory.Peak(torch.device(work.device)) as peak:
        fleet = Fleet(few, way, True, work.steps)
        with contextlib.suppress(_Enough):
            fleet.train(clock)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    seconds = min(gaps[1:] or gaps or [0.0])
    lanes, update, gradient = len(work.lanes), fleet.update, fleet.gradient
    kept = fleet.lanes.memory + update.memory
    del fleet
    sizes = (kept // lanes, gradient.peak, gradient.memory, update.peak // lanes, peak.bytes)
    return Trial(gradient.way, gradient.taped, seconds, lanes, *sizes)
