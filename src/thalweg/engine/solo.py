"""Solo: one lane at a time through the plain training loop, for what cannot share a fleet or would not gain from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from thalweg.core.problem import take, to
from thalweg.engine.bound import bind
from thalweg.engine.evaluate import evaluate
from thalweg.engine.noise import normal, seed_step
from thalweg.engine.work import LIMIT, Lane, Log, Outcome, Progress, Stepper, Work, cuda_devices, probe, rates, stream, user_code


def run(work: Work, progress: Progress | None = None) -> list[Outcome]:
    """Train the lanes of the work one after the other; one outcome a lane, in order."""
    with torch.random.fork_rng(devices=cuda_devices(work)):
        return [_train(work.with_lanes([lane]), lane, progress) for lane in work.lanes]


def _train(work: Work, lane: Lane, progress: Progress | None) -> Outcome:
    problem, device = work.problem, torch.device(work.device)
    data = to(problem.train, device)
    module = work.start(lane.seed).to(device)
    layout = probe(work, module)
    bound = bind(work.rule, [lane.config], work.wrappers, layout)
    stepper = Stepper(module, problem)
    named = dict(module.named_parameters())
    parameters = [named[n] for n in layout.names]
    # the parameters become views of one flat vector, so that the rule runs once a step
    x = layout.join([p.detach() for p in parameters])
    show(layout, parameters, x)
    x0, weights = x.clone(), layout.weights(device)
    hypers = {n: lane.config[n] for n in bound.data}
    states: Any = bound.start(x, hypers)
    log, diverged, limit, best = Log(1), -1, math.inf, math.nan

    def metrics(rows: Any) -> dict[str, np.ndarray]:
        show(layout, parameters, bound.readout(x, states))
        stepper.eval()
        with torch.no_grad(), user_code("the evaluation of the model failed"):
            values = evaluate(problem, to(rows, device), 1, lambda b, predict: tree_map(lambda y: y.unsqueeze(0), stepper(b, predict)))
        show(layout, parameters, x)
        return values

    for t, index in enumerate(stream(work, lane.seed)):
        last = t == work.steps
        if t in work.evaluations:
            values = metrics(problem.valid)
            log.evaluate(t, [0], values)
            best = float(values[problem.score][0])
        batch = take(data, index.to(device))
        # the forward after the last update only records the loss: it leaves no trace in the buffers
        kept = {n: b.clone() for n, b in module.named_buffers()} if last else {}
        stepper.train()
        seed_step(lane.seed, t, device)
        with torch.enable_grad(), user_code("the model's training step failed", batch):
            if bound.rule.gradient:
                loss = stepper(batch).reshape(())
                g = layout.join(list(torch.autograd.grad(loss, parameters, materialize_grads=True)))
                loss = loss.detach()
            else:
                with torch.no_grad():
                    loss = stepper(batch).reshape(())
                g = torch.zeros_like(x)
        for n, b in module.named_buffers():
            if n in kept:
                b.copy_(kept[n])
        value, norm = float(loss), float(torch.linalg.vector_norm(g))
        if t == 0:
            limit = LIMIT * max(1.0, abs(value))
        broken = not (math.isfinite(value) and math.isfinite(norm) and value <= limit)
        now = rates([lane], list(hypers), t)
        if broken or work.recorded(t):
            log.record(t, [0], value, norm if bound.rule.gradient and not last else np.nan, now.get("lr", [np.nan]))
        if broken:
            diverged = t
            break
        if progress is not None and work.recorded(t):
            progress(t, 1, best)
        if last:
            break
        given: dict[str, Any] = {"t": t + 1, "loss": loss, "weights": weights, "x0": x0}
        if "noise" in bound.requests:
            given["noise"] = normal(lane.seed, t, x)
        with torch.no_grad():
            x, states = bound.step(x, g, states, {n: column[0] for n, column in now.items()}, given)
        show(layout, parameters, x)
    test = {name: float(column[0]) for name, column in metrics(problem.test).items()} if work.test and diverged < 0 else {}
    state = None
    if work.keep_weights:
        final = layout.split(bound.readout(x, states).clone())
        others = {n: p.detach() for n, p in named.items() if n not in set(layout.names)} | dict(module.named_buffers())
        state = dict(zip(layout.names, final, strict=True)) | {n: tensor.clone() for n, tensor in others.items()}
    return Outcome(log.curve(0, diverged), diverged, state, test)


def show(layout: Any, parameters: list[Any], flat: Tensor) -> None:
    """Let the module's parameters look at a flat vector."""
    for parameter, part in zip(parameters, layout.split(flat), strict=True):
        parameter.data = part
