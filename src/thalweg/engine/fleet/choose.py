"""Which engine: time and memory of the whole are predicted from a glance at the model and a few steps; the fastest that fits is taken."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import joblib
import psutil
import torch

from thalweg.core.problem import rows
from thalweg.engine.fleet.glance import glance
from thalweg.engine.fleet.trial import Trial, trial
from thalweg.engine.fleet.ways import LONG
from thalweg.engine.recording import cache
from thalweg.engine.work import Work, out_of_memory
from thalweg.errors import UserError, unknown

ENGINES = ("auto", "fleet", "pool", "solo")
STARTUP = 4.0
"""Seconds until worker processes have imported torch."""

BRIEF = 2.0
"""Seconds for all runs, one after the other, below which no fleet is tried before it is taken."""

FEW = 60
"""Gradients of single lanes up to which no fleet is tried where one of them takes long: the trial would be a good part of the whole."""

SMALL = 64 << 20
"""Bytes below which measuring forms is not seen in a fleet's peak."""

ROOM = 0.75
"""How much of a limit is planned for: what is predicted may be a quarter off."""

SLOWER = 1.2
"""By how much a step on one thread of several is slower than its share: memory is shared with its neighbours."""


@dataclass(frozen=True)
class Choice:
    """An engine, why, and what was predicted.

    lanes: the most that share a fleet. workers: processes at work side by side (1: this one). threads: of each of them.
    seconds: engine -> predicted for all runs. memory: predicted bytes at the peak, beside the data. way: how a fleet takes gradients.
    """

    engine: str
    lanes: int
    workers: int
    threads: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0
    why: str = ""
    way: str = "auto"

    @property
    def predicted(self) -> float | None:
        """Seconds for all runs on this engine, where that was measured."""
        return self.seconds.get(self.engine)


def device(name: str = "auto") -> str:
    """The device to train on: cuda, mps or cpu, chosen by itself unless named.

    >>> device("cpu")
    'cpu'
    """
    if name != "auto":
        kind = name.split(":")[0]
        if kind not in ("cpu", "cuda", "mps"):
            raise unknown("device", name, ("auto", "cpu", "cuda", "mps"))
        if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
            raise UserError(f"this machine's PyTorch has no {kind} device; use --device cpu, or install a build of torch with {kind}")
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose(work: Work, engine: str = "auto", runs: int | None = None, limit: int | None = None, quick: bool = False) -> Choice:
    """Choose an engine for `runs` runs like the lanes of this work (all its lanes by default), within `limit` bytes.

    A named engine is taken as it is. "auto" predicts seconds and bytes of each engine from a glance at one lane and from the fleet itself,
    trained for a moment where there are steps enough, and takes the fastest that fits. Fleets that do not fit are split; what a trial
    has recorded the run goes on with. quick: predict nothing for a named engine where memory is plenty. Raises UserError where not even
    one run fits, UserCodeError when the user's model cannot run at all.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    runs = runs or len(work.lanes)
    threads = torch.get_num_threads()
    workers = max(1, joblib.cpu_count(only_physical_cores=True)) if work.device == "cpu" else 1
    free = free_memory(work.device)
    if quick and engine != "auto" and limit is None and _least(work) * len(work.lanes) < 0.1 * free:
        apart = workers if engine == "pool" else 1
        return Choice(engine, len(work.lanes) if engine == "fleet" else 1, apart, 1 if apart > 1 else threads, why="as asked")
    seen = glance(work)
    usable = min(limit or math.inf, 0.8 * free)
    alone = _counted(work, 1)
    if limit is not None and alone > ROOM * limit:
        alone = trial(work.with_lanes(work.lanes[:1]), "apart").peak
        _within(alone, limit)
    # a step is about three forwards of a batch; validation is forwards alone
    amount = work.steps + len(work.evaluations) * (rows(work.problem.valid) / work.batch_size / 3 if work.evaluations else 0)
    seconds = {"solo": seen.seconds * runs * amount}
    if workers > 1:
        one_thread = threads if seen.seconds > LONG else SLOWER  # operations that take long are spread over the threads here
        seconds["pool"] = seen.seconds * one_thread * amount * math.ceil(runs / workers) + STARTUP
    plan = _Plan("auto", 1, alone, seen.seconds)
    if len(work.lanes) > 1 and engine in ("auto", "fleet"):
        plan = _plan(work, usable, limit is not None)
        _within(plan.memory, limit)
        seconds["fleet"] = plan.seconds / plan.lanes * runs * amount
    why = "as asked" if engine != "auto" else "the fastest of those predicted"
    if engine == "auto":
        engine = min(seconds, key=lambda name: (float(f"{seconds[name]:.3g}"), name))  # where they are equal, a fleet
        if runs == 1:
            engine, why = "solo", "a single run"
        elif plan.lanes == 1 and engine != "pool":
            engine, why = "solo", "no two runs fit into memory together"
    if engine == "fleet":
        return Choice(engine, plan.lanes, 1, threads, seconds, plan.memory, why, plan.way)
    work.memo.rig = None
    apart = workers if engine == "pool" else 1
    return Choice(engine, 1, apart, 1 if apart > 1 else threads, seconds, alone * apart, why)


def _within(memory: int, limit: int | None) -> None:
    """Raise UserError where what is left after splitting is still too much."""
    if limit is not None and memory > limit:
        raise UserError(
            f"one run needs about {_size(memory)}, more than the {_size(limit)} of --memory: "
            "raise the limit, or take a smaller batch or model"
        )


def _counted(work: Work, lanes: int) -> int:
    """Bytes that so many lanes take at the most: points, gradients, states, what an update needs besides, and their forwards at once."""
    seen = glance(work)
    return lanes * (seen.kept * (4 + 2 * len(work.rule.states)) + seen.peak)


@dataclass(frozen=True)
class _Plan:
    """A fleet: the way its gradients are taken, how many lanes, bytes at the peak, seconds of a step."""

    way: str
    lanes: int
    memory: int
    seconds: float


def _plan(work: Work, usable: float, limited: bool) -> _Plan:
    """The largest fleet that fits; trained for a moment where that pays, else counted.

    Where the whole may not fit, two small ones are trained for a moment, and what more lanes take is predicted from them.
    """
    count, seen = len(work.lanes), glance(work)
    fits = _counted(work, count) <= usable / 2
    brief = seen.seconds * count * work.steps < BRIEF or (seen.seconds > LONG and count * work.steps <= FEW)
    if brief and not limited:
        lanes = count if fits else max(1, min(count, int(usable // _counted(work, 1))))
        return _Plan("auto", lanes, _counted(work, lanes), seen.seconds * lanes)
    if fits and not limited:
        whole, lanes = _largest(work, count, "auto")
        return _Plan(whole.way, lanes, whole.peak, whole.seconds)
    few = last = trial(work.with_lanes(work.lanes[:2]))
    slope = last.peak / 2
    if count > 2:
        last = trial(work.with_lanes(work.lanes[: min(6, count)]), few.way)
        slope = (last.peak - few.peak) / (last.lanes - few.lanes)
    slope = max(slope, float(seen.kept * (2 + len(work.rule.states))))
    room = ROOM * usable
    lanes = max(1, min(count, last.lanes + math.floor((room - last.peak) / slope)))
    whole, lanes = _largest(work, lanes, few.way)
    while whole.peak > room and lanes > 1:  # what is left of a surprise
        lanes = max(1, min(lanes - 1, math.floor(lanes * room / whole.peak)))
        whole, lanes = _largest(work, lanes, few.way)
    return _Plan(few.way, lanes, whole.peak, whole.seconds)


def _largest(work: Work, lanes: int, way: str) -> tuple[Trial, int]:
    """A trial of so many lanes, or of the most that memory takes."""
    try:
        before = len(cache.found)
        first = trial(work.with_lanes(work.lanes[:lanes]), way)
        if len(cache.found) == before or first.peak < SMALL:
            return first, lanes
        return trial(work.with_lanes(work.lanes[:lanes]), way), lanes  # measuring forms takes memory that training does not
    except (RuntimeError, MemoryError) as error:
        if lanes == 1 or not out_of_memory(error):
            raise
    return _largest(work, lanes // 2, way)


def _least(work: Work) -> int:
    """Bytes that a lane takes at the very least: its point, gradient and states."""
    numbers = sum(p.nbytes for p in work.start(work.lanes[0].seed).parameters())
    return numbers * (4 + 2 * len(work.rule.states))


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def parse_memory(text: str | float) -> int:
    """A size in bytes: a number of bytes, or one with kB, MB or GB.

    >>> parse_memory("1.5GB")
    1610612736
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?)(?:i?[bB])?\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise UserError(f"'{text}' is not an amount of memory; write 4GB, 500MB or a number of bytes")
    return int(float(match[1]) * 1024 ** " kmg".index(match[2].lower() or " "))


def free_memory(device: str) -> int:
    """Bytes that can still be had on a device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return int(psutil.virtual_memory().available)
