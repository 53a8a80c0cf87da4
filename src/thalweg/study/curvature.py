"""The curvature that the runs of a small sweep meet, measured where it is known what a rule bears, and as far as it costs little."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from thalweg.core import catalogue
from thalweg.core.problem import rows, take
from thalweg.core.rule import Rule
from thalweg.engine.work import Outcome
from thalweg.probes import spectrum
from thalweg.study import plan
from thalweg.study.prepare import Bench

logger = logging.getLogger(__name__)

PRODUCTS = 10
"""Hessian-vector products a measurement, enough for a largest eigenvalue to about 1 %."""

SHARE = 0.03
"""Of the training's time that all measurements may take, or MOMENT seconds where that is more."""

MOMENT = 0.5

COST = 3
"""Gradients that a product takes the time of."""

LEAST = 128
"""Rows below which the loss would be another one than that of the run."""


def stable(rule: Rule, config: Mapping[str, Any]) -> float | None:
    """The largest curvature at which a rule is stable on a quadratic, at a constant rate; None where none is known.

    Gradient descent: 2 / lr. With momentum b: 2 (1 + b) / lr, over 1 - dampening. In Nesterov's form 2 (1 + b) / ((1 + 2 b) lr). An L2
    weight decay adds to the curvature, and so is taken off. Known for sgd and its presets alone; with a wrapper or a schedule nothing is.
    config: all hyperparameters. Cohen et al. 2021, arXiv:2103.00065

    >>> from thalweg.optimizers import momentum, sgd
    >>> stable(sgd, sgd.check({"lr": 0.5})), stable(momentum, momentum.check({"lr": 0.5}))
    (4.0, 7.6)
    """
    known = catalogue.find("optimizers", "sgd").function.__code__  # in a worker process the function itself is another
    if rule.function.__code__ != known or set(config) - set(rule.hypers) or config["lr"] <= 0:
        return None
    b, dampening, decay = config["momentum"], config["dampening"], config["weight_decay"]
    if (b and dampening and (config["nesterov"] or dampening == 1)) or (decay and rule.decay != "l2"):
        return None
    limit = 2.0 if not b else 2 * (1 + b) / (1 + 2 * b) if config["nesterov"] else 2 * (1 + b) / (1 - dampening)
    return limit / config["lr"] - decay


def limit(bench: Bench, job: plan.Job) -> float | None:
    """The largest curvature at which a run is stable; None where that is not known."""
    rule = bench.rules[job.optimizer]
    lane = plan.lane(job, rule, bench.wrappers, bench.spec.steps)
    return None if lane.schedules else stable(rule, lane.config)


def begin(bench: Bench, jobs: Sequence[plan.Job], seconds: float | None) -> dict[str, Any]:
    """What is measured of these runs, by the first glance at the model: {"rows": of the training rows, "start": seed -> the largest
    curvature at its initial weights}; {} where nothing is. seconds: predicted for the training of all."""
    seen = bench.memo.glance
    bounded = [job for job in jobs if limit(bench, job) is not None]
    if not bench.closely or seen is None or not bounded:
        return {}
    count, seeds = rows(bench.problem.train), dict.fromkeys(job.seed for job in bounded)
    allowed = max(MOMENT, SHARE * (seconds or 0.0))
    products = PRODUCTS * (len(bounded) + len(seeds))
    within = allowed / (products * COST * seen.seconds) * bench.spec.batch_size
    if within < min(count, LEAST):
        return {}
    size = count if within >= count else 1 << int(math.log2(within))  # no timing decides the last row
    found = {seed: largest(bench, plan.fresh(bench.problem, seed), size) for seed in seeds}
    start = {str(seed): value for seed, value in found.items() if value is not None}
    return {"rows": size, "start": start} if start else {}


def of_runs(bench: Bench, jobs: Sequence[plan.Job], outcomes: Sequence[Outcome], planned: Mapping[str, Any]) -> list[dict[str, float]]:
    """The measured curvature of each run, by the names of `courses.CURVATURES`; {} where nothing is known. planned: see `begin`."""
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
            module.to(bench.device), bench.problem, train, k=1, tolerance=0.05, products=PRODUCTS, samples=0, chunk=chunk, train=True,
            seed=bench.spec.seed,
        )  # fmt: skip
    except Exception as error:  # what is measured beside a study must not end it
        logger.debug("no curvature: %s: %s", type(error).__name__, error)
        return None
    return found.largest
