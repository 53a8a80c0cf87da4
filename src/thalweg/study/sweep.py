"""`tw.sweep`: configurations of one model under one rule, trained together, from Python."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thalweg.core import catalogue
from thalweg.core.problem import Problem, rows, tensors
from thalweg.core.rule import Rule
from thalweg.core.schedule import Multiplier
from thalweg.core.stream import Stream
from thalweg.core.wrapper import Wrapper
from thalweg.engine.bound import resolve, structure_of
from thalweg.engine.fleet import choose, fleet, solo
from thalweg.engine.work import Curve, Lane, Outcome, Progress, Work, threads_of
from thalweg.errors import UserError, unknown
from thalweg.launch import local


@dataclass(frozen=True, repr=False)
class Runs:
    """What a sweep gives: one run a configuration. A notebook shows its table and curves by itself.

    configs: as given, in order. steps (records,): updates done at each record, 0 before the first. loss, grad_norm (configs, records):
    on that record's batch; nan after a run diverged. diverged_at (configs,): updates done when that was seen, or -1. engine: what
    trained them.
    """

    configs: tuple[dict[str, Any], ...]
    steps: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    diverged_at: np.ndarray
    engine: str
    _states: tuple[Mapping[str, Tensor], ...]

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """The final parameters and buffers of configuration k, ready for `model.load_state_dict`."""
        return {name: tensor.detach().cpu() for name, tensor in self._states[k].items()}

    def table(self) -> pd.DataFrame:
        """A row a configuration: its hyperparameters, first, last and least loss, and diverged_at (-1: it did not)."""
        frame = pd.DataFrame([{k: _plain(v) for k, v in config.items()} for config in self.configs])
        blank = np.isnan(self.loss).all(axis=1)
        safe = np.where(np.isnan(self.loss), np.inf, self.loss)
        last = [row[~np.isnan(row)][-1] if not gone else np.nan for row, gone in zip(self.loss, blank, strict=True)]
        frame["first_loss"], frame["last_loss"] = self.loss[:, 0], last
        frame["least_loss"] = np.where(blank, np.nan, safe.min(axis=1))
        frame["diverged_at"] = self.diverged_at
        return frame

    def __repr__(self) -> str:
        from thalweg.study.notebook import runs_text

        return runs_text(self)

    def _repr_markdown_(self) -> str:
        from thalweg.study.notebook import runs_markdown

        return runs_markdown(self)

    def _repr_html_(self) -> str:
        from thalweg.study.notebook import runs_html

        return runs_html(self)


def _plain(value: Any) -> Any:
    return getattr(value, "label", value)


def find_rule(optimizer: str | Rule) -> Rule:
    """A rule from its name, from `file.py:object`, or itself."""
    found = catalogue.find("optimizers", optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(found, Rule):
        raise UserError(f"{optimizer!r} is not a rule; decorate the function with @thalweg.rule")
    return found


def all_wrappers() -> tuple[Wrapper, ...]:
    """Every wrapper and regularizer that a configuration may name."""
    return (*catalogue.shelf("wrappers").values(), *catalogue.shelf("regularizers").values())


def known_config(rule: Rule, config: Mapping[str, Any], wrappers: Sequence[Wrapper]) -> dict[str, Any]:
    """A configuration without its schedule, checked and filled in; a name that nothing takes is an error with the nearest one."""
    names = {*rule.hypers, *(n for w in wrappers for n in w.hypers), "schedule"}
    for name in config:
        if name not in names:
            raise UserError(f"{rule.name} has no '{name}'; {str(unknown('hyperparameter', name, names)).partition('; ')[2]}")
    return resolve(rule, {n: v for n, v in config.items() if n != "schedule"}, wrappers)


def make_schedules(schedule: Any, rule: Rule) -> dict[str, Multiplier]:
    """A configuration's schedule as hyperparameter -> f(t): one f drives lr; a mapping drives what it names."""
    if schedule is None:
        return {}
    given = schedule if isinstance(schedule, Mapping) else {"lr": schedule}
    for name, f in given.items():
        if name not in rule.hypers or rule.hypers[name].domain.structural:
            raise UserError(f"a schedule cannot drive '{name}' of {rule.name}; it takes {', '.join(rule.hypers)}")
        if not callable(f):
            raise UserError(f"the schedule of {name} must be a function of t, such as tw.schedules.cosine(total=1000), not {f!r}")
    return dict(given)


def sweep(
    model: nn.Module,
    loss: Any = None,
    data: Any = None,
    *,
    optimizer: str | Rule = "adam",
    configs: Sequence[Mapping[str, Any]],
    steps: int = 500,
    batch_size: int = 64,
    seed: int | Sequence[int] = 0,
    engine: str = "auto",
    every: int = 10,
    step: Any = None,
    device: str = "auto",
    precision: str = "full",
    accumulate: int = 1,
    memory: str | int | None = None,
    progress: Progress | None = None,
) -> Runs:
    """Train configurations of one model together; all start from the given model's weights, which are left as they are.

    loss: (output, targets) -> scalar; or step: (model, batch) -> scalar. data: a pair of tensors, a dict of tensors, a Dataset, a
    Problem (whose loss then counts), or a DataLoader, whose batches all configurations share (batch_size is then the loader's).
    configs: each a dict of the rule's hyperparameters, of wrappers' (`clip_norm`, `l1`, ...) and
    `schedule` (a function of t, or a dict of them). seed: of the batches and noise; a sequence gives each configuration its own.
    engine: "auto", "fleet", "pool" or "solo". device: "auto" (cuda, mps or cpu) or its name. every: a record each so many steps.
    precision: "full", or "bf16" for forwards under bfloat16 autocast. accumulate: parts of a batch, one after the other, whose gradients
    are summed. memory: how much a fleet may take beside the data, such as "4GB".
    Raises UserError for configurations that are not valid, UserCodeError when the model itself fails.

    >>> import torch
    >>> X = torch.randn(200, 3); y = X @ torch.tensor([[1.0], [2.0], [3.0]])
    >>> runs = sweep(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (X, y), optimizer="sgd",
    ...              configs=[{"lr": 0.1}, {"lr": 1e6}], steps=50)
    >>> runs.loss.shape, bool(runs.loss[0, -1] < 1e-3), runs.diverged_at[0].item(), bool(runs.diverged_at[1] > 0)
    ((2, 6), True, -1, True)
    """
    if isinstance(loss, Problem) or isinstance(data, Problem):
        given = data if isinstance(data, Problem) else loss
        loss, step, data = given.loss, given.step, given.train
    rule, wrappers = find_rule(optimizer), all_wrappers()
    if not isinstance(model, nn.Module):
        raise UserError("sweep takes a module whose weights every run starts from; `tw.compare` takes functions that make modules")
    if isinstance(configs, Mapping | str) or not all(isinstance(config, Mapping) for config in configs):
        raise UserError(f"configs must be a list of configurations, such as [{{'lr': 1e-3}}, {{'lr': 1e-2}}], not {configs!r}")
    if not configs:
        raise UserError("configs is empty: give at least one, such as [{'lr': 1e-3}]")
    for name, value in (("steps", steps), ("every", every), ("batch_size", batch_size)):
        if not isinstance(value, numbers.Integral):
            raise UserError(f"{name} = {value!r} must be a whole number")
    if steps < 0 or every < 1:
        raise UserError(f"steps = {steps} must be at least 0 and every = {every} at least 1")
    if not isinstance(accumulate, numbers.Integral) or accumulate < 1:
        raise UserError(f"accumulate = {accumulate!r} must be a whole number of at least 1")
    if precision not in ("full", "bf16"):
        raise unknown("precision", precision, ("full", "bf16"))
    if data is None:
        raise UserError("data is missing: give a pair of tensors (X, y), a dict of tensors or a Dataset")
    data = Stream(data) if isinstance(data, DataLoader) else tensors(data)
    problem = Problem(lambda: copy.deepcopy(model), loss, train=data, step=step)
    if not isinstance(data, Stream) and not 1 <= batch_size <= rows(problem.train):
        raise UserError(f"batch_size = {batch_size} must be between 1 and the {rows(problem.train)} rows of the data")
    seeds = [int(seed)] * len(configs) if isinstance(seed, int | np.integer) else [int(s) for s in seed]
    if len(seeds) != len(configs):
        raise UserError(f"{len(seeds)} seeds for {len(configs)} configurations: give one seed, or one for each")
    lanes: list[Lane] = []
    groups: dict[Any, list[int]] = {}
    for k, config in enumerate(configs):
        full = known_config(rule, config, wrappers)
        lanes.append(Lane(full, seeds[k], make_schedules(config.get("schedule"), rule)))
        groups.setdefault(structure_of(rule, full, wrappers), []).append(k)
    base = Work(
        problem, rule, tuple(lanes), lambda _: copy.deepcopy(model), steps, batch_size, wrappers, every, device=choose.device(device),
        precision=precision, accumulate=int(accumulate),
    )  # fmt: skip
    largest = max(groups.values(), key=len)
    limit = None if memory is None else choose.parse_memory(memory)
    choice = choose.choose(base.with_lanes([lanes[k] for k in largest]), engine, len(lanes), limit, quick=True)
    outcomes: dict[int, Outcome] = {}
    for members in groups.values():
        ends = run(base.with_lanes([lanes[k] for k in members]), choice, progress)
        outcomes.update(zip(members, ends, strict=True))
    ends = [outcomes[k] for k in range(len(lanes))]
    homes = _homes(model)
    states = tuple({key: o.state[home] for key, home in homes.items() if home in o.state} for o in ends if o.state is not None)
    return _runs(configs, ends, states, np.array(base.records), choice.engine)


def run(work: Work, choice: choose.Choice, progress: Progress | None = None) -> list[Outcome]:
    """Train the lanes of a work on the chosen engine."""
    if choice.engine != "pool":
        size = choice.lanes if choice.engine == "fleet" else len(work.lanes)
        pieces = [work.lanes[i : i + size] for i in range(0, len(work.lanes), size)]
        with threads_of(choice.threads):
            return [outcome for piece in pieces for outcome in _piece(work.with_lanes(piece), choice, progress)]
    ends: dict[int, Outcome] = {}
    ahead = work.steps * math.ceil(len(work.lanes) / choice.workers)
    for k, (outcome,) in local.map(_alone, list(work.lanes), shared=(work.with_lanes([]), ahead), workers=choice.workers):
        ends[k] = outcome
        if progress is not None:
            progress(work.steps, len(work.lanes) - len(ends), float("nan"))
    return [ends[k] for k in range(len(work.lanes))]


def _piece(work: Work, choice: choose.Choice, progress: Progress | None) -> list[Outcome]:
    return fleet.run(work, progress, choice.way) if choice.engine == "fleet" else solo.run(work, progress)


def _alone(shared: tuple[Work, int], lane: Lane) -> list[Outcome]:
    work, ahead = shared
    return solo.run(work.with_lanes([lane]), ahead=ahead)


def _homes(model: nn.Module) -> dict[str, str]:
    """Each key of a model's state_dict -> the name under which its tensor was trained; tied weights share one."""
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    return {key: names[id(tensor)] for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in names}


def _runs(
    configs: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], states: tuple[Any, ...], steps: np.ndarray, engine: str
) -> Runs:

    def spread(curve: Curve, values: np.ndarray) -> np.ndarray:
        """A run's records on the common steps; the record at which a run died may lie between them and is left out."""
        row = np.full(len(steps), np.nan)
        _, ours, theirs = np.intersect1d(steps, curve.steps, return_indices=True)
        row[ours] = values[theirs]
        return row

    return Runs(
        tuple(dict(config) for config in configs),
        steps,
        np.stack([spread(o.curve, o.curve.loss) for o in outcomes]),
        np.stack([spread(o.curve, o.curve.grad_norm) for o in outcomes]),
        np.array([o.diverged_at for o in outcomes]),
        engine,
        states,
    )


__all__ = ["Runs", "sweep"]
