"""`tw.diagnose`: why a training does what it does. Measurements are taken on copies, causes looked for one by one, findings ranked."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import causes
from thalweg.core.finding import Finding, Findings
from thalweg.core.probe import untouched
from thalweg.core.problem import Batch, Problem
from thalweg.errors import UserCodeError, UserError
from thalweg.explain.case import Case, make
from thalweg.explain.evidence import Evidence
from thalweg.explain.measure import MEASUREMENTS, WORDS

LEAST = 0.4
"""Findings of less confidence are not told."""

SURE = 0.7
"""A finding of so much confidence explains others."""

CERTAIN = 0.9
"""What such a finding explains is not looked for any more."""

EXPLAINED = 0.5
"""What is left of the confidence in a finding that another explains."""


def diagnose(
    model: nn.Module | Problem,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    history: Any = None,
    *,
    valid: Any = None,
    step: Callable[[Any, Batch], Tensor] | None = None,
    batch_size: int | None = None,
    seconds: float = 10.0,
    seed: int = 0,
) -> Findings:
    """Why a training oscillates, stalls, diverges or does not generalise: what is wrong, the evidence, and what to do.

    model: the module as the training left it. loss: (output, targets) -> scalar, or step: (model, batch) -> scalar; a Problem brings its
    own. data: the training rows: tensors, pairs or dicts of tensors with a common first dimension, a Dataset or a DataLoader.
    optimizer: that of the training. history: its losses, a list of them, a dict of lists or a table with the columns step and loss and,
    where known, lr and train_..., valid_... valid: the validation rows. batch_size: rows a batch, where no DataLoader says so.
    seconds: when the budget is spent, what is left is not measured, and said to be skipped.
    Works on copies: parameters, buffers, `.grad`, modes, the optimizer's state and all random states are afterwards what they were, bit
    by bit. Without an optimizer and a history fewer causes can be seen. Raises UserError where there is no module, data or loss.

    >>> _ = torch.manual_seed(0)
    >>> net, X = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), torch.randn(60, 4)
    >>> found = diagnose(net, nn.CrossEntropyLoss(), (X, X[:, :3].argmax(1)))
    >>> found.first.cause, found.first.change
    ('softmax_twice', {'outputs': 'scores'})
    """
    module = model if isinstance(model, nn.Module) else None
    if not seconds > 0:
        raise UserError(f"seconds = {seconds!r} must be above 0")
    began = time.monotonic()
    with torch.inference_mode(False), untouched(module, optimizer if isinstance(optimizer, torch.optim.Optimizer) else None):
        case = make(model, loss, data, optimizer, history, valid, step, batch_size, seed)
        return replace(judged(case, seconds), seconds=time.monotonic() - began)


def judged(case: Case, seconds: float) -> Findings:
    """The findings of a case; random states are the caller's to keep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has seen those of the own code in training
        return _judged(case, seconds)


def _judged(case: Case, seconds: float) -> Findings:
    case = replace(case, deadline=time.monotonic() + seconds)
    evidence = Evidence(case, MEASUREMENTS, seconds)
    _tried(case)
    torch.default_generator.manual_seed(case.seed)
    found: list[Finding] = []
    for entry in sorted(entries().values(), key=_cost):
        if any(entry.name in entries()[one.cause].explains and one.confidence >= CERTAIN for one in found):
            continue  # its signs are explained; what is left shows when the cause is gone
        given = {}
        for name, needed in entry.requests.items():
            given[name] = evidence.get(name)
            if given[name] is None and needed:
                break
        else:
            made = entry(**given)
            if made is not None:
                found.append(made)
    return Findings(
        ranked(found), {k: v for k, v in evidence.known.items() if k != "case" and v is not None}, 0.0, evidence.skipped,
        tuple(WORDS[name] for name in MEASUREMENTS if evidence.known.get(name) is not None), _notes(evidence),
    )  # fmt: skip


def _tried(case: Case) -> None:
    """Raise UserError where the loss is not one number, and UserCodeError where the user's own code fails on the data."""
    model, _ = case.copy()
    try:
        with torch.no_grad():
            loss = case.problem.lose(model, case.some(2))
    except UserError:
        raise
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else ""
        raise UserCodeError(f"the model or the loss fails on the data: {type(error).__name__}: {said}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")


def _notes(evidence: Evidence) -> tuple[str, ...]:
    """Facts that call for nothing."""
    curve, course = evidence.known.get("curvature"), evidence.known.get("course")
    if curve is not None and getattr(curve, "edge", False) and course is not None and not course.diverged and course.end < course.start:
        said = f"The sharpness {curve.value:.3g} is {curve.ratio:.2f} of what the optimizer bears at its rate, and the loss "
        said += "falls: training is "
        return (f"{said}at the edge of stability, which is usual and no fault.",)
    return ()


def entries() -> Mapping[str, Any]:
    """The shelf of causes."""
    return {name: getattr(causes, name) for name in causes.__all__}


def _cost(entry: Any) -> tuple[int, str]:
    """Causes whose measurements are cheap come first."""
    places = {name: i for i, name in enumerate(MEASUREMENTS)}
    return max((places[name] for name in entry.requests), default=0), entry.name


def ranked(found: list[Finding]) -> tuple[Finding, ...]:
    """Findings by confidence; one that another, surer one explains counts for less, and is left out where little is left."""
    explained = {name for one in found if one.confidence >= SURE for name in entries()[one.cause].explains}
    if any(one.confidence >= SURE for one in found):
        found = [one for one in found if not entries()[one.cause].last]
    told = [replace(one, confidence=one.confidence * (EXPLAINED if one.cause in explained else 1.0)) for one in found]
    return tuple(sorted((one for one in told if one.confidence >= LEAST), key=lambda one: -one.confidence))
