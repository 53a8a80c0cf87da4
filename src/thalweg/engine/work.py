"""What engines take and give: lanes of one structure in, an outcome a lane out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.core.batches import batches
from thalweg.core.problem import Problem, rows
from thalweg.core.rule import Rule
from thalweg.core.schedule import Multiplier
from thalweg.core.wrapper import Wrapper
from thalweg.errors import ThalwegError, UserCodeError

LIMIT = 1e4
"""A run has diverged at the first step whose loss or gradient is not finite, or whose loss exceeds LIMIT x max(1, first loss)."""


@dataclass(frozen=True)
class Lane:
    """One run: a full configuration (every hyperparameter), its seed, and multipliers by hyperparameter."""

    config: Mapping[str, Any]
    seed: int = 0
    schedules: Mapping[str, Multiplier] = field(default_factory=dict)


class Memo:
    """What engines keep from one work to the next of the same model, data and batch size; only the glance goes along to other processes.

    glance: a first look at the model (`thalweg.engine.fleet.glance`). rig: what the last fleet trained on (`thalweg.engine.fleet.rig`).
    """

    def __init__(self, glance: Any = None) -> None:
        self.glance = glance
        self.rig: Any = None

    def __reduce__(self) -> Any:
        return Memo, (self.glance,)


@dataclass(frozen=True)
class Work:
    """Lanes of one structure, to be trained alike.

    start: seed -> a fresh module with that seed's initial weights. every: a record each so many steps.
    evaluations: the steps (updates done) at which validation metrics are taken, `steps` among them if any.
    test: whether the test rows are touched, once, at the end. rungs: evaluations at which the worse half of the lanes is stopped.
    precision: "full", or "bf16" for a forward under bfloat16 autocast. accumulate: parts into which a batch is cut, one after the other.
    varied: hyperparameters that are stepped as data although all lanes here share them, since the next lanes have others.
    memo: what engines keep for works of the same model, data and batch size.
    """

    problem: Problem
    rule: Rule
    lanes: tuple[Lane, ...]
    start: Callable[[int], nn.Module]
    steps: int
    batch_size: int
    wrappers: tuple[Wrapper, ...] = ()
    every: int = 10
    evaluations: tuple[int, ...] = ()
    test: bool = False
    device: str = "cpu"
    keep_weights: bool = True
    rungs: tuple[int, ...] = ()
    precision: str = "full"
    accumulate: int = 1
    varied: frozenset[str] = frozenset()
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)

    def with_lanes(self, lanes: Sequence[Lane]) -> Work:
        """The same for other lanes, or some of these; what differs between these counts as varied from now on."""
        first = self.lanes[0].config if self.lanes else {}
        differ = {name for lane in self.lanes for name, value in lane.config.items() if value != first.get(name)}
        return replace(self, lanes=tuple(lanes), varied=self.varied | differ)

    def recorded(self, t: int) -> bool:
        return t % self.every == 0 or t == self.steps

    @property
    def records(self) -> list[int]:
        """The steps at which every lane alive is recorded."""
        return [t for t in range(self.steps + 1) if self.recorded(t)]


@dataclass(frozen=True)
class Curve:
    """The course of one run. A run that diverged has shorter arrays: they end with the record at which it was seen.

    steps (records,): updates done at each record, 0 before the first. loss: on that record's batch. grad_norm: of that batch's gradient
    (before clipping; nan where a rule takes no gradient, and at the last record). lr: the scheduled rate.
    eval_steps (evaluations,) and valid: metric name -> (evaluations,) on the validation rows ("loss" always among them).
    """

    steps: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    lr: np.ndarray
    eval_steps: np.ndarray
    valid: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One lane's end. diverged_at, stopped_at: updates done when it diverged, or was stopped early; -1 where it was not.

    state: the final parameters and buffers by name.
    """

    curve: Curve
    diverged_at: int
    state: Mapping[str, Tensor] | None
    test: Mapping[str, float] = field(default_factory=dict)
    stopped_at: int = -1


Progress = Callable[[int, int, float], None]
"""Called at each record with (updates done, lanes alive, best validation score so far or nan)."""


class Log:
    """Records of K lanes while they train; rows are appended, nan where a lane is gone."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.steps: list[int] = []
        self.rows: list[np.ndarray] = []  # (4, lanes): loss, gradient norm, rate, and 1 where the lane was recorded
        self.eval_steps: list[int] = []
        self.evals: list[dict[str, np.ndarray]] = []

    def record(self, t: int, alive: Sequence[int], loss: Any, norm: Any, lr: Any) -> None:
        row = np.full((4, self.lanes), np.nan)
        for i, values in enumerate((loss, norm, lr, 1.0)):
            row[i, list(alive)] = values
        self.steps.append(t)
        self.rows.append(row)

    def evaluate(self, t: int, alive: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
        full = {}
        for name, column in values.items():
            full[name] = np.full(self.lanes, np.nan)
            full[name][list(alive)] = column
        self.eval_steps.append(t)
        self.evals.append(full)

    def curve(self, lane: int, end: int) -> Curve:
        """The records of one lane, up to the step at which it ended early; -1 where it did not."""
        steps = np.asarray(self.steps, dtype=np.int64)
        table = np.stack(self.rows)[:, :, lane] if self.rows else np.empty((0, 4))
        kept = table[:, 3] == 1
        eval_steps = np.asarray(self.eval_steps, dtype=np.int64)
        seen = eval_steps <= end if end >= 0 else np.ones(len(eval_steps), dtype=bool)
        names = self.evals[0] if self.evals else {}
        valid = {name: np.array([values[name][lane] for values in self.evals])[seen] for name in names}
        return Curve(steps[kept], table[kept, 0], table[kept, 1], table[kept, 2], eval_steps[seen], valid)


def stream(work: Work, seed: int) -> Iterator[Tensor]:
    """The batches of a seed: one a step, and one more for the record after the last update."""
    return batches(rows(work.problem.train), work.batch_size, seed=seed, steps=work.steps + 1)


def rates(lanes: Sequence[Lane], names: Sequence[str], t: int) -> dict[str, list[float]]:
    """name -> the scheduled value in each lane at t updates done."""
    return {n: [lane.config[n] * (lane.schedules[n](t) if n in lane.schedules else 1.0) for lane in lanes] for n in names}


class Stepper(nn.Module):
    """A module and the problem's step in one, so that `functional_call` reaches the module however the step uses it."""

    def __init__(self, module: nn.Module, problem: Problem, precision: str = "full") -> None:
        super().__init__()
        self.module = module
        self.problem = problem
        self.precision = precision

    def forward(self, batch: Any, predict: bool = False) -> Any:
        if self.precision == "full":
            return self.module(batch[0]) if predict else self.problem.lose(self.module, batch)
        kind = next(leaf.device.type for leaf in tree_flatten(batch)[0])
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
            answer = self.module(batch[0]) if predict else self.problem.lose(self.module, batch)
        return tree_map(lambda leaf: leaf.float() if leaf.dtype is torch.bfloat16 else leaf, answer)


def cuda_devices(device: str) -> list[int]:
    """The devices, besides the processor, whose random state a run on that device uses."""
    return [torch.device(device).index or 0] if device.startswith("cuda") else []


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """A block that runs with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class user_code:
    """A block in which the user's own code runs: what it raises becomes a UserCodeError with their traceback."""

    def __init__(self, what: str, batch: Any = None) -> None:
        self.what, self.batch = what, batch

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, ThalwegError) and not out_of_memory(error):
            shapes = ""
            if self.batch is not None:
                leaves = tree_flatten(self.batch)[0]
                shapes = " on a batch of shapes " + ", ".join(str(tuple(leaf.shape)) for leaf in leaves if isinstance(leaf, Tensor))
            said = " ".join(str(error).split())
            raise UserCodeError(f"{self.what}{shapes}: {type(error).__name__}: {said}") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text or "not enough memory" in text)
    )
