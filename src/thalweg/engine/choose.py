"""Which engine: a few steps are timed, the whole is predicted, the fastest that fits in memory is taken."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import joblib
import psutil
import torch

from thalweg.core.problem import rows, take, to
from thalweg.engine import fleet, solo
from thalweg.engine.bound import bind
from thalweg.engine.work import CannotFuse, Stepper, Work, probe, stream, untouched
from thalweg.errors import UserError, unknown

ENGINES = ("auto", "fleet", "pool", "solo")
STARTUP = 4.0
"""Seconds until worker processes have imported torch."""


@dataclass(frozen=True)
class Choice:
    """An engine, why, and what was predicted.

    lanes: the most that share a fleet. workers: processes at work side by side (1: this one). threads: of each of them.
    seconds: way -> predicted for all runs. memory: predicted bytes at the peak, beside the data.
    """

    engine: str
    lanes: int
    workers: int
    threads: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0
    why: str = ""

    @property
    def predicted(self) -> float | None:
        """Seconds for all runs on this engine, where that was measured."""
        return min(self.seconds.values(), default=None)


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


def choose(work: Work, engine: str = "auto", runs: int | None = None) -> Choice:
    """Choose an engine for `runs` runs like the lanes of this work (all its lanes by default).

    A named engine is taken as it is. `auto` times a few steps of one lane alone and of the lanes together, with all threads and with
    one, and also weighs worker processes. Raises UserCodeError when the user's model cannot run at all.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    runs = runs or len(work.lanes)
    threads = torch.get_num_threads()
    workers = max(1, joblib.cpu_count(only_physical_cores=True)) if work.device == "cpu" else 1
    per_lane = memory_per_lane(work)
    lanes = max(1, min(len(work.lanes), int(0.6 * free_memory(work.device) / max(per_lane, 1))))
    if engine != "auto" or len(work.lanes) == runs == 1:
        named = "solo" if engine == "auto" else engine
        apart = workers if named == "pool" else 1
        memory = per_lane * (lanes if named == "fleet" else apart)
        return Choice(named, lanes, apart, 1 if apart > 1 else threads, {}, memory, "as asked" if engine != "auto" else "a single run")
    ways: dict[str, tuple[float, Choice]] = {}
    # a step is about three forwards of a batch; validation is forwards alone
    amount = work.steps + len(work.evaluations) * (rows(work.problem.valid) / work.batch_size / 3 if work.evaluations else 0)

    def weigh(name: str, lanes: int, workers: int, threads: int, step: float) -> None:
        rounds = math.ceil(math.ceil(runs / lanes) / workers)
        seconds = step * amount * rounds + (STARTUP if workers > 1 else 0.0)
        label = name + (f" in {workers} processes" if workers > 1 and name == "fleet" else "") + (", 1 thread" if threads == 1 else "")
        memory = per_lane * lanes * workers
        ways[label] = (seconds, Choice(name, lanes, workers, threads, {}, memory, why))

    why = "the fastest of those timed"
    for count in dict.fromkeys((threads, 1)):
        with threads_of(count):
            alone = _step_seconds(work.with_lanes(work.lanes[:1]), solo)
            weigh("solo", 1, 1, count, alone)
            if workers > 1 and count == 1:
                weigh("pool", 1, workers, 1, alone)
            try:
                together = _step_seconds(work.with_lanes(work.lanes[:lanes]), fleet)
            except CannotFuse as error:
                why = f"this model does not run under vmap ({str(error.__cause__)[:120]})"
                continue
            weigh("fleet", lanes, 1, count, together)
            if workers > 1 and count == 1 and runs > lanes:
                weigh("fleet", lanes, workers, 1, together)
    best = min(ways.values(), key=lambda way: way[0])[1]
    return replace(best, seconds={label: seconds for label, (seconds, _) in ways.items()}, why=why)


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """A block that runs with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step_seconds(work: Work, engine: object) -> float:
    """The least seconds of a step after two steps of warm-up; fewer steps are timed where they are slow."""
    times: list[float] = []

    class Enough(Exception):
        pass

    def clock(done: int, alive: int, best: float) -> None:
        if work.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(perf_counter())
        if len(times) >= 5 and times[-1] - times[0] > 1.0:
            raise Enough

    with contextlib.suppress(Enough):
        engine.run(replace(work, steps=min(12, work.steps), every=1, evaluations=(), test=False), clock)  # type: ignore[attr-defined]
    # the least: whatever else the machine does can only add
    gaps = [b - a for a, b in itertools.pairwise(times)][2:]
    return min(gaps) if gaps else (times[-1] - times[0]) / max(1, len(times) - 1) if len(times) > 1 else 0.0


def memory_per_lane(work: Work) -> int:
    """Predicted bytes that one lane of a fleet takes at its peak: vectors, states and what the backward pass keeps."""
    module = work.start(work.lanes[0].seed).to(work.device)
    layout = probe(work, module)
    bound = bind(work.rule, [work.lanes[0].config], work.wrappers, layout)
    numbers = sum(layout.sizes)
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    batch = to(take(work.problem.train, next(stream(work, work.lanes[0].seed))), work.device)
    stepper = Stepper(module, work.problem)
    with untouched(module), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stepper.train()(batch)
    vectors = 6 + 3 * len(bound.states)  # point, gradient, their successors and temporaries; each state before, after, between
    return vectors * numbers * layout.dtype.itemsize + 3 * kept


def free_memory(device: str) -> int:
    """Bytes that can still be had on a device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return int(psutil.virtual_memory().available)


__all__ = ["ENGINES", "Choice", "choose", "device", "free_memory", "memory_per_lane", "threads_of"]
