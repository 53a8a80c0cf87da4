"""From what was asked to a run ready to begin: names become objects, and what a user can get wrong is found before work starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from thalweg.core.problem import Problem, rows, take
from thalweg.core.schedule import Multiplier
from thalweg.core.stream import Stream
from thalweg.engine.fleet.choose import device as find_device
from thalweg.engine.loop.loop import Loop, Settings
from thalweg.engine.loop.source import Source, takes_channels_last
from thalweg.errors import UserError
from thalweg.study import plan
from thalweg.study.checks import check, complete
from thalweg.study.problems import problem as named_problem
from thalweg.study.spec import parse_schedule
from thalweg.study.sweep import make_schedules
from thalweg.study.training.optimizers import LBFGS, Choice, choose
from thalweg.study.training.spec import RunSpec, build

FROM_NAME = ("data", "target", "model", "loss", "all_rows", "standardize")


@dataclass(frozen=True)
class Bench:
    """A run ready to begin. loop(): a fresh one, at step 0."""

    name: str
    spec: RunSpec
    problem: Problem
    choice: Choice
    schedules: Mapping[str, Multiplier]
    every: int

    def loop(self) -> Loop:
        spec = self.spec
        module = plan.fresh(self.problem, spec.seed).to(spec.device)
        last = spec.layout == "channels last"
        if spec.precision == "double":
            module = module.double()
        if last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = torch.float64 if spec.precision == "double" else None
        source = Source(self.problem, spec.batch_size, spec.seed, spec.device, dtype, last)
        settings = Settings(
            spec.steps, self.every, spec.evaluate_every, spec.seed, spec.accumulate, "bf16" if spec.precision == "bf16" else "full",
            patience=spec.early_stopping, **self.choice.inside,
        )  # fmt: skip
        return Loop(self.problem, module, self.choice.make(module, spec.seed), self.schedules, source, settings)


def prepare(
    problem: str | Problem, optimizer: Any = "adam", settings: Mapping[str, Any] | None = None, *, schedule: Any = None,
    warmup: int | None = None, epochs: float | None = None, steps: int | None = None, batch_size: int | None = None,
    full_batch: bool = False, scale_with_batch: int | None = None, seed: int = 0, device: str = "auto", precision: str | None = None,
    accumulate: int = 1, layout: str = "auto", valid: float | None = None, evaluate_every: int | None = None,
    early_stopping: int | None = None, every: int | None = None, identify: bool = False, **named: Any,
) -> Bench:  # fmt: skip
    """Check a run and find what it names; see `thalweg.train`. identify: whether data and weights are hashed."""
    choice = choose(optimizer, dict(settings or {}))
    found, given = _problem(problem, valid, named)
    streams = isinstance(found.train, Stream)
    n = 0 if streams else rows(found.train)
    size = _batch_size(found, choice, batch_size, full_batch, n)
    per_epoch = len(found.train) if isinstance(found.train, Stream) else -(-n // size)
    total = _steps(found, epochs, steps, per_epoch)
    if scale_with_batch is not None:
        choice = _scaled(optimizer, choice, settings, size, scale_with_batch)
    schedules = _schedules(schedule, warmup, choice, total)
    if early_stopping is not None and found.valid is None:
        raise UserError("early stopping watches a validation score, and there are no validation rows; leave valid = 0 out")
    where = find_device(device)
    precise = precision or ("double" if choice.label == LBFGS and where == "cpu" else "full")
    spec = build(
        problem=problem if isinstance(problem, str) else found.name, valid=valid, optimizer=choice.label, settings=_plain(choice.settings),
        schedules={name: getattr(f, "label", getattr(f, "__name__", "a function")) for name, f in schedules.items()},
        steps=total, batch_size=size, evaluate_every=min(total, evaluate_every or per_epoch), early_stopping=early_stopping, seed=seed,
        device=where, precision=precise, accumulate=accumulate, layout=layout, **{k: v for k, v in given.items() if k != "data"},
    )  # fmt: skip
    if layout == "auto":
        spec = spec.model_copy(update={"layout": "channels last" if _channels_last(found, spec) else "as given"})
    if identify and not streams:
        spec = spec.model_copy(update={"fingerprint": plan.fingerprint(found, seed)})
    name = f"{found.name}-{choice.label.rpartition(':')[2]}"
    return Bench(name, spec, found, choice, schedules, every or max(1, total // 1000))


def _problem(problem: str | Problem, valid: float | None, named: Mapping[str, Any]) -> tuple[Problem, dict[str, Any]]:
    given: dict[str, Any] = {k: v for k, v in named.items() if v not in (None, False) or (k == "standardize" and v is False)}
    for key in given:
        if key not in FROM_NAME:
            raise UserError(f"train has no '{key}'; hyperparameters go into settings, such as lr=0.1")
    if isinstance(problem, Problem):
        if given:
            raise UserError(f"{', '.join(given)}: set these in the Problem itself, not beside it")
        found = problem
    else:
        found = named_problem(problem, valid=valid, **given)
    if any(isinstance(part, DataLoader | Stream) for part in (found.train, found.valid, found.test)):
        return _streamed(found), given
    if valid is not None and not found.all_rows and isinstance(problem, Problem) and valid != 0:
        raise UserError("valid: set validation rows in the Problem itself, or valid = 0 to have none")
    found = complete(found, validate=valid != 0)
    check(found)
    return found, given


def _streamed(problem: Problem) -> Problem:
    """A problem whose data come through DataLoaders; what it lacks it goes without."""
    splits: dict[str, Any] = {}
    for name in ("train", "valid", "test"):
        part = getattr(problem, name)
        if part is not None:
            splits[name] = Stream(part) if isinstance(part, DataLoader) else part
    if not isinstance(splits["train"], Stream):
        raise UserError("valid and test rows come through a DataLoader and training rows do not; give a DataLoader for train as well")
    return replace(problem, **splits)


def _batch_size(problem: Problem, choice: Choice, asked: int | None, full: bool, n: int) -> int:
    if isinstance(problem.train, Stream):
        if asked is not None or full:
            raise UserError("the batches are the DataLoader's; leave batch_size out")
        return problem.train.loader.batch_size or 1
    if full or (choice.full_batch and asked is None):
        return n
    size = asked if asked is not None else problem.batch_size or min(32, n)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= n:
        raise UserError(f"batch_size = {size!r} must be a whole number between 1 and the {n} training rows of {problem.name}")
    return size


def _steps(problem: Problem, epochs: float | None, steps: int | None, per_epoch: int) -> int:
    if epochs is not None and steps is not None:
        raise UserError("give steps or epochs, not both: an epoch is one pass over the training rows")
    for name, value, kind in (("epochs", epochs, (int, float)), ("steps", steps, int)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or value <= 0):
            raise UserError(f"{name} = {value!r} must be a positive {'whole ' if name == 'steps' else ''}number")
    return steps if steps is not None else max(1, round((problem.epochs if epochs is None else epochs) * per_epoch))


def _scaled(optimizer: Any, choice: Choice, settings: Mapping[str, Any] | None, size: int, base: int) -> Choice:
    """The choice with its rate times batch size / base: batch size x N, learning rate x N. Goyal et al. 2017, arXiv:1706.02677"""
    if "lr" not in choice.settings or not isinstance(base, int) or base < 1:
        raise UserError(f"scale_with_batch = {base!r} must be the batch size for which a learning rate was found, of a rule that has one")
    name = optimizer.partition("[")[0] if isinstance(optimizer, str) else optimizer
    return choose(name, {**choice.settings, "lr": choice.settings["lr"] * size / base})


def _schedules(schedule: Any, warmup: int | None, choice: Choice, total: int) -> dict[str, Multiplier]:
    if warmup is not None and (isinstance(warmup, bool) or not isinstance(warmup, int) or not 0 <= warmup <= total):
        raise UserError(f"warmup = {warmup!r} must be a whole number of steps, at most the {total} of the run")
    given = dict(schedule) if isinstance(schedule, Mapping) else {"lr": schedule} if schedule is not None else {}
    if warmup:
        text = given.get("lr", "warmup")
        if not isinstance(text, str):
            raise UserError("warmup goes with a schedule's name; a function of t has its own warm-up")
        name, arguments = parse_schedule(text)
        name = "warmup" if name == "constant" else name
        if "warmup" in arguments:
            raise UserError(f"the warm-up is given twice, in {text} and as warmup = {warmup}")
        inside = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={' '.join(map(str, v))}" for k, v in arguments.items())
        given["lr"] = f"{name}({', '.join(filter(None, [inside, f'warmup={warmup}']))})"
    made = {name: plan.make_schedule(f, total) if isinstance(f, str) else f for name, f in given.items()}
    return make_schedules(made, choice.rule) if choice.rule is not None and made else made


def _channels_last(problem: Problem, spec: RunSpec) -> bool:
    if isinstance(problem.train, Stream) or spec.precision == "double" or spec.device == "mps":
        return False
    few = take(problem.train, torch.arange(min(4, rows(problem.train))))
    return takes_channels_last(problem, plan.fresh(problem, spec.seed), few)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as TOML holds them: nothing where a value is None."""
    return {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in settings.items() if v is not None}


def home_of(name: str, out: str | Path | None) -> Path:
    """The folder of a run on the command line."""
    return Path(out) if out is not None else Path("outputs") / name
