"""The curvature that the runs of a small sweep meet, measured where it is known what a rule bears, and as far as it costs little."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from thalweg.core import catalogue
from thalweg.core.operations import Operations
from thalweg.core.problem import rows, take, to
from thalweg.core.rule import Rule
from thalweg.core.stability import bears
from thalweg.core.stream import Stream
from thalweg.engine.work import Outcome, Stepper, cuda_devices
from thalweg.probes.spectrum import spectrum
from thalweg.study import plan
from thalweg.study.prepare import Bench

logger = logging.getLogger(__name__)

PRODUCTS = 10
"""Hessian-vector products a measurement, enough for a largest eigenvalue to about 1 %."""

SHARE = 0.01
"""Of the training's gradients of rows that all measurements may take, or MOMENT operations where that is more: no clock decides what is
measured, lest the same study be another on a machine that is busy."""

MOMENT, BRIEF = 5e9, 1e9
"""Floating-point operations, half a second or so of one core: of a sweep that is looked at run by run, and of a comparison."""

COST, PASSES = 3, 3
"""Gradients that a product takes the time of, and forward passes that a gradient does."""

LEAST, ENOUGH = 128, 1024
"""Rows below which the loss would be another one than that of the run, and above which one sentence about a comparison gains nothing."""


def stable(rule: Rule, config: Mapping[str, Any]) -> float | None:
    """The largest curvature at which a rule is stable on a quadratic, at a constant rate; None where none is known.

    For sgd and its presets alone, by `thalweg.core.stability.bears`; with a wrapper or a schedule nothing is known. config: all
    hyperparameters.

    >>> from thalweg.optimizers import momentum, sgd
    >>> stable(sgd, sgd.check({"lr": 0.5})), stable(momentum, momentum.check({"lr": 0.5}))
    (4.0, 7.6)
    """
    known = catalogue.find("optimizers", "sgd").function.__code__  # in a worker process the function itself is another
    if rule.function.__code__ != known or set(config) - set(rule.hypers) or config["lr"] <= 0:
        return None
    if config["weight_decay"] and rule.decay != "l2":
        return None
    return bears("sgd", config)


def limit(bench: Bench, job: plan.Job) -> float | None:
    """The largest curvature at which a run is stable; None where that is not known."""
    rule = bench.rules[job.optimizer]
    lane = plan.lane(job, rule, bench.wrappers, bench.spec.steps)
    return None if lane.schedules else stable(rule, lane.config)


def begin(bench: Bench, jobs: Sequence[plan.Job]) -> dict[str, Any]:
    """What is measured of these runs: {"rows": of the training rows, "start": seed -> the largest curvature at its initial weights}; {}
    where nothing is.

    Of runs that are not looked at one by one also "stable": label -> the rate below which a rule is stable there.
    """
    bounded = [job for job in jobs if limit(bench, job) is not None]
    if not (bench.closely or bench.spec.kind == "compare") or isinstance(bench.problem.train, Stream) or not bounded:
        return {}
    count, seeds = rows(bench.problem.train), dict.fromkeys(job.seed for job in bounded)
    gradients = PRODUCTS * COST * (len(seeds) + bench.closely * len(bounded))
    brief = (MOMENT if bench.closely else BRIEF) / (PASSES * operations(bench, bounded[0].seed))
    within = max(brief, SHARE * len(jobs) * bench.spec.steps * bench.spec.batch_size) / gradients
    if within < min(count, LEAST):
        return {}
    within = within if bench.closely else min(within, ENOUGH)
    size = count if within >= count else 1 << int(math.log2(within))
    found = {seed: largest(bench, plan.fresh(bench.problem, seed), size) for seed in seeds}
    start = {str(seed): value for seed, value in found.items() if value is not None}
    if not start or bench.closely:
        return {"rows": size, "start": start} if start else {}
    stable = {label: rate for label, rate in _rates(bench, bounded, start) if rate is not None}
    return {"rows": size, "start": start, "stable": stable} if stable else {}


def operations(bench: Bench, seed: int) -> float:
    """Floating-point operations of a row's forward pass; infinity where it fails."""
    few = min(bench.spec.batch_size, rows(bench.problem.train))
    try:
        batch = to(take(bench.problem.train, torch.arange(few)), bench.device)
        stepper = Stepper(plan.fresh(bench.problem, seed).to(bench.device), bench.problem).train()
        with torch.random.fork_rng(cuda_devices(bench.device)), torch.no_grad(), Operations() as counted:
            stepper(batch)
    except Exception as error:  # what is measured beside a study must not end it
        logger.debug("no curvature: %s: %s", type(error).__name__, error)
        return math.inf
    return counted.total / few


def _rates(bench: Bench, jobs: Sequence[plan.Job], start: Mapping[str, float]) -> Iterator[tuple[str, float | None]]:
    """Of each optimizer the rate below which it is stable at these curvatures; None where its trials differ in more than the rate."""
    top = max(start.values())
    for label in dict.fromkeys(job.optimizer for job in jobs):
        own = [job for job in jobs if job.optimizer == label]
        decays = {float(job.config.get("weight_decay", 0.0)) for job in own}
        factors = {round(((limit(bench, job) or 0.0) + decay) * job.config["lr"], 9) for job in own for decay in decays}
        decay = decays.pop()
        yield label, factors.pop() / (top + decay) if len(factors) == 1 and not decays and top + decay > 0 else None


def of_runs(bench: Bench, jobs: Sequence[plan.Job], outcomes: Sequence[Outcome], planned: Mapping[str, Any]) -> list[dict[str, float]]:
    """The measured curvature of each run, by the names of `courses.CURVATURES`; {} where nothing is known. planned: see `begin`."""
    if not bench.closely:
        return []
    measured: list[dict[str, float]] = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        bound, found = limit(bench, job), {}
        start = planned.get("start", {}).get(str(job.seed))
        if bound is not None and start is not None:
            alive = outcome.diverged_at < 0 and outcome.state is not None
            end = largest(bench, _ended(bench, job, outcome), planned["rows"]) if alive else None
            found = {"curvature_start": start, "curvature_stable": bound} | ({} if end is None else {"curvature_end": end})
        measured.append(found)
    return measured


def _ended(bench: Bench, job: plan.Job, outcome: Outcome) -> nn.Module:
    """A module with a run's final weights."""
    module, state = plan.fresh(bench.problem, job.seed), outcome.state or {}
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.copy_(state[name])
    return module


def largest(bench: Bench, module: nn.Module, size: int) -> float | None:
    """The largest eigenvalue of the loss as it is trained, over so many of the training rows; None where it cannot be taken."""
    train, count = bench.problem.train, rows(bench.problem.train)
    if size < count:
        train = take(train, torch.randperm(count, generator=torch.Generator().manual_seed(bench.spec.seed))[:size])
    # batch statistics are those of batches as they are trained on, or nearly; without buffers there are none
    chunk = min(max(bench.spec.batch_size, 64), 1024) if any(True for _ in module.buffers()) else 1024
    try:
        found = spectrum(
            module.to(bench.device), bench.problem, train, k=1, which="largest", tolerance=0.05, products=PRODUCTS, samples=0, chunk=chunk,
            train=True, seed=bench.spec.seed,
        )  # fmt: skip
    except Exception as error:  # what is measured beside a study must not end it
        logger.debug("no curvature: %s: %s", type(error).__name__, error)
        return None
    return found.largest
