"""The plan: jobs, each with an id that is the hash of all that determines it, cut into groups that train together."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

from thalweg.core import catalogue
from thalweg.core.domain import Domain
from thalweg.core.problem import Problem
from thalweg.core.rule import Rule
from thalweg.core.schedule import Multiplier
from thalweg.core.wrapper import Wrapper
from thalweg.engine.bound import resolve, structure_of
from thalweg.engine.work import Lane
from thalweg.errors import UserError
from thalweg.study.spec import OptimizerSpec, Range, Spec, parse_schedule


@dataclass(frozen=True)
class Job:
    """One run. config: what was set or drawn, and "schedule" where there is one; the rest are the rule's defaults."""

    id: str
    phase: str
    optimizer: str
    trial: int
    seed: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Jobs of one optimizer and one structure that train together, and are stored together."""

    id: str
    jobs: tuple[Job, ...]


# --- the points of a search


def points(spec: OptimizerSpec, rule: Rule, budget: int, seed: int) -> list[dict[str, Any]]:
    """The configurations of one optimizer's search: its defaults, then those to try first, then scrambled Sobol points.

    As many Sobol points as the budget are drawn (to the next power of two, then cut), and each configuration that comes before them takes
    the place of the point nearest to it, so that no part of the range is left out for it. All optimizers use the study's seed:
    equal searches see equal points.
    """
    default = {n: _default(n, r, rule) for n, r in spec.search.items()}
    chosen = [{**spec.fixed, **default}]
    chosen += [c for point in spec.first if (c := {**spec.fixed, **default, **point}) not in chosen]
    if not spec.search:
        return chosen[:budget]
    from scipy.stats import qmc

    sobol = qmc.Sobol(d=len(spec.search), scramble=True, rng=seed)
    left = list(sobol.random_base2(max(0, math.ceil(math.log2(budget))))[:budget])
    for config in chosen[:budget]:
        place = np.array([_place(r, config[n]) for n, r in spec.search.items()])
        left.pop(min(range(len(left)), key=lambda i: float(((left[i] - place) ** 2).sum())))
    drawn = [{**spec.fixed, **{n: _at(r, float(u)) for (n, r), u in zip(spec.search.items(), row, strict=True)}} for row in left]
    return (chosen + drawn)[:budget]


def _default(name: str, where: Range, rule: Rule) -> Any:
    """A rule's own default where the search allows it, else the middle or the first of what it allows."""
    value: Any = "constant" if name == "schedule" else rule.hypers[name].default if name in rule.hypers else None
    if where.values is not None:
        return value if value in where.values else where.values[0]
    assert where.low is not None
    assert where.high is not None
    return value if value is not None and where.low <= value <= where.high else _at(where, 0.5)


def _at(where: Range, u: float) -> Any:
    """The value at u in [0, 1) of what is searched."""
    if where.values is not None:
        return where.values[min(int(u * len(where.values)), len(where.values) - 1)]
    assert where.low is not None
    assert where.high is not None
    value = Domain("point", search=(where.low, where.high), scale=where.scale).point(u)
    return float(f"{value:.6g}")  # what is shown is what was run


def _place(where: Range, value: Any) -> float:
    """Where in [0, 1] a value lies in what is searched; the inverse of `_at`."""
    if where.values is not None:
        return (where.values.index(value) + 0.5) / len(where.values) if value in where.values else 0.5
    assert where.low is not None
    assert where.high is not None

    def bend(v: float) -> float:
        return math.log(v) if where.scale == "log" else -math.log1p(-v) if where.scale == "complement" else v

    low, high = bend(where.low), bend(where.high)
    return (bend(min(max(value, where.low), where.high)) - low) / (high - low)


def grid(spec: OptimizerSpec) -> list[dict[str, Any]]:
    """Every combination of the values of a sweep."""
    for name, where in spec.search.items():
        if where.values is None:
            raise UserError(f"a sweep needs values for {spec.label}'s {name}: name them, as in {name}=0.01,0.1,1")
    names = list(spec.search)
    columns = [where.values or () for where in spec.search.values()]
    return [{**spec.fixed, **dict(zip(names, values, strict=True))} for values in itertools.product(*columns)]


# --- jobs


def tuning(spec: Spec, rules: Mapping[str, Rule], print_of: str) -> list[Job]:
    """The jobs of the first phase: every optimizer's trials, all on the study's seed (a sweep: its grid, on every seed)."""
    if spec.kind == "sweep":
        return [
            _job(print_of, rules[o.label], "sweep", o, trial, spec.seed + s, config, spec)
            for o in spec.optimizers
            for trial, config in enumerate(grid(o))
            for s in range(spec.seeds)
        ]
    return [
        _job(print_of, rules[o.label], "tune", o, trial, spec.seed, config, spec)
        for o in spec.optimizers
        for trial, config in enumerate(points(o, rules[o.label], spec.budget, spec.seed))
    ]


def finals(spec: Spec, rules: Mapping[str, Rule], chosen: Mapping[str, tuple[int, Mapping[str, Any]]], print_of: str) -> list[Job]:
    """The jobs of the second phase: each chosen configuration on the same fresh seeds."""
    return [
        _job(print_of, rules[o.label], "final", o, chosen[o.label][0], spec.seed + s, chosen[o.label][1], spec)
        for o in spec.optimizers
        if o.label in chosen
        for s in range(1, spec.seeds + 1)
    ]


def _job(
    print_of: str, rule: Rule, phase: str, optimizer: OptimizerSpec, trial: int, seed: int, config: Mapping[str, Any], spec: Spec
) -> Job:
    identity: list[Any] = [
        print_of, rule_source(rule), phase, optimizer.label, trial, seed, dict(config), spec.steps, spec.batch_size, spec.evaluations
    ]  # fmt: skip
    # what is as usual is left out, so that studies from before these were settings keep their runs
    identity += [[n, v] for n, v, usual in (("precision", spec.precision, "full"), ("accumulate", spec.accumulate, 1)) if v != usual]
    identity += [["stop_early"]] if spec.stop_early and phase == "tune" else []
    return Job(digest(identity), phase, optimizer.label, trial, seed, dict(config))


def groups(jobs: Sequence[Job], rules: Mapping[str, Rule], wrappers: Sequence[Wrapper], engine: str, lanes: int) -> list[Group]:
    """Cut jobs into groups: under `fleet`, jobs of one optimizer and structure, at most `lanes`; else one job a group."""
    together: dict[Any, list[Job]] = {}
    for job in jobs:
        config = resolve(rules[job.optimizer], _numbers(job), wrappers)
        together.setdefault((job.optimizer, structure_of(rules[job.optimizer], config, wrappers)), []).append(job)
    size = lanes if engine == "fleet" else 1
    pieces = [tuple(members[i : i + size]) for members in together.values() for i in range(0, len(members), size)]
    return [Group(digest([engine, [job.id for job in piece]]), piece) for piece in pieces]


def lane(job: Job, rule: Rule, wrappers: Sequence[Wrapper], steps: int) -> Lane:
    """A job as an engine takes it."""
    schedule = job.config.get("schedule")
    schedules = {"lr": make_schedule(schedule, steps)} if schedule and schedule != "constant" else {}
    return Lane(resolve(rule, _numbers(job), wrappers), job.seed, schedules)


def _numbers(job: Job) -> dict[str, Any]:
    return {n: v for n, v in job.config.items() if n != "schedule"}


def make_schedule(text: str, steps: int) -> Multiplier:
    """The schedule a spec names, over the steps of the run.

    >>> make_schedule("cosine", 100)(50)
    0.5
    """
    name, arguments = parse_schedule(text)
    maker = catalogue.find("schedules", name)
    known = inspect.signature(maker).parameters
    given = {k: int(v) if isinstance(v, float) and v.is_integer() and k != "floor" else v for k, v in arguments.items()}
    if "total" in known:
        given.setdefault("total", steps)
    return maker(**given)


# --- identity


def digest(value: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:20]


def rule_source(rule: Rule) -> list[str]:
    """A rule's identity: its name, its defaults and the text of its function."""
    try:
        text = inspect.getsource(rule.function)
    except (OSError, TypeError):
        text = rule.function.__code__.co_code.hex()
    return [rule.name, rule.decay, json.dumps({n: h.default for n, h in rule.hypers.items()}), text]


def fingerprint(problem: Problem, seed: int) -> str:
    """The hash of a problem: all data, the initial weights of a seed, the model's structure, the loss's text."""
    total = hashlib.sha256()
    for split in (problem.train, problem.valid, problem.test):
        for leaf in () if split is None else tree_flatten(split)[0]:
            total.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            total.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data if leaf.numel() else b"")
    module = fresh(problem, seed)
    total.update(str(module).encode())
    for name, tensor in module.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    judge = problem.loss or problem.step
    try:
        total.update(inspect.getsource(judge).encode())  # type: ignore[arg-type]
    except (OSError, TypeError):
        total.update(getattr(judge, "__name__", type(judge).__name__).encode())
    total.update(json.dumps([m.name for m in problem.metrics]).encode())
    return total.hexdigest()[:20]


def fresh(problem: Problem, seed: int) -> torch.nn.Module:
    """A fresh module with the initial weights of a seed; torch's own random state is left as it was."""
    from thalweg.engine.work import user_code

    with torch.random.fork_rng(devices=[]), user_code("making the model failed"):
        torch.manual_seed(seed)
        return problem.model()
