"""A trial: a fleet trained for a moment, to see what a step takes in time and memory; its rig is left for the run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from thalweg.engine import memory
from thalweg.engine.fleet.fleet import Fleet
from thalweg.engine.work import Work, cuda_devices


@dataclass(frozen=True)
class Trial:
    """What a few steps of a fleet showed. seconds: of one step. recording: bytes in use at once while a gradient was recorded.

    peak: the most bytes in use beside what was there before; what is known to be taken where the system does not tell.
    """

    way: str
    taped: bool
    seconds: float
    lanes: int
    recording: int
    peak: int


PACE = 0.5
"""Seconds for which a single run is timed."""


class _Enough(Exception):
    """A trial has seen enough."""


def trial(work: Work, way: str = "auto", taped: bool | None = None) -> Trial:
    """Train for a moment and look at what it takes: a dozen steps, fewer where they are slow or the run is short."""
    work.memo.rig = None  # so that all that is taken is seen
    with memory.Peak(torch.device(work.device)) as peak:
        fleet, times = _started(work, way, taped, max(3, min(12, work.steps // 50)), lambda t: len(t) > 1 and _spent(t) > _patience(t))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    seconds = min(gaps[1:] or gaps or [0.0])
    update, gradient = fleet.update, fleet.gradient
    known = fleet.lanes.memory + update.memory + max(gradient.peak, gradient.memory + update.peak)
    return Trial(gradient.way, gradient.taped, seconds, len(work.lanes), gradient.peak, known if peak.bytes is None else peak.bytes)


def pace(work: Work) -> float | None:
    """Seconds that one update of a single run takes, evaluations aside: the median over a moment in which nothing else runs.

    None where it diverges before there is anything to time.
    """
    _, times = _started(work, "auto", None, work.steps, lambda t: len(t) > 6 and _spent(t) > PACE)
    gaps = sorted(b - a for a, b in itertools.pairwise(times[max(0, min(3, len(times) - 2)) :]))
    return gaps[len(gaps) // 2] if gaps else None


def _spent(times: list[float]) -> float:
    return times[-1] - times[0]


def _patience(times: list[float]) -> float:
    return 0.2 if len(times) < 5 else 0.05


def _started(work: Work, way: str, taped: bool | None, steps: int, enough: Callable[[list[float]], bool]) -> tuple[Fleet, list[float]]:
    """A fleet after some steps, its rig left behind, and when each step was done."""
    times: list[float] = []

    def clock(done: int, alive: int, best: float) -> None:
        if work.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(perf_counter())
        if enough(times):
            raise _Enough

    few = replace(work, steps=min(steps, work.steps), every=1, evaluations=(), test=False)
    with torch.random.fork_rng(devices=cuda_devices(work.device)), memory.kept():
        fleet = Fleet(few, way, taped, ahead=work.steps)
        with contextlib.suppress(_Enough):
            fleet.train(clock)
    fleet.leave()
    return fleet, times
