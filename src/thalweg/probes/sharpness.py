"""Sharpness: the largest curvature that the optimizer in use feels, against what it bears. Cohen et al. 2021, arXiv:2103.00065

For Adam and its kin it is that of the preconditioned Hessian. Cohen et al. 2022, arXiv:2207.14484
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.hessian import Hessian
from thalweg.core.history import losses, rises, trend
from thalweg.core.lanczos import Lanczos
from thalweg.core.probe import probe, problem_of, trainable, whole
from thalweg.core.problem import Batch, Problem
from thalweg.core.stability import Setting, bears, settings
from thalweg.errors import UserError

EDGE = (0.9, 1.1, 2.0)
"""Shares of the bound from which to which the sharpness lies at it; up to the third where the loss is known to fall."""


@dataclass(frozen=True)
class Sharpness:
    """value: the largest eigenvalue of the Hessian, or, where the optimizer divides by a diagonal, of that seen through it. bound: what the
    optimizer bears of it on a quadratic at its rate; None where that is not known. ratio: value over bound, nan without. stable_rate: the
    rate up to which it bears the value, of the first group where rates differ, all changed alike; nan without a bound. edge: whether the
    run is at the edge of stability. preconditioned: whether a diagonal was used. rises: share of the recorded steps at which the loss rose,
    trend: whether it "falls", "stays" or "grows" in the long run; both None without a history. residual: an eigenvalue is no further from
    the value than that. vector (n,): a start for the next measurement. products: Hessian-vector products. optimizer: its name. text: all
    that in words.
    """

    value: float
    bound: float | None
    ratio: float
    stable_rate: float
    edge: bool
    preconditioned: bool
    rises: float | None
    trend: str | None
    residual: float
    products: int
    optimizer: str
    text: str
    vector: Tensor = field(repr=False, compare=False)


@probe
def sharpness(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    optimizer: torch.optim.Optimizer | tuple[str, Mapping[str, Any]] | None = None,
    *,
    history: Any = None,
    step: Callable[[Any, Batch], Tensor] | None = None,
    tolerance: float = 0.01,
    products: int = 15,
    start: Tensor | None = None,
    chunk: int = 1024,
    train: bool = False,
    double: bool = False,
    seed: int = 0,
) -> Sharpness:
    """The largest curvature of the loss over all rows as the optimizer feels it, against the largest that it bears at its rate.

    optimizer: of torch.optim or thalweg.optim, with its states; or a rule's name and hyperparameters, such as ("sgd", {"lr": 0.1}).
    Known are sgd with momentum of every kind, Adam, AdamW, AMSGrad, NAdam, Adamax, Yogi, AdaBelief, RMSProp, Adagrad and Adadelta; those
    that divide by a state once they have taken a step. Groups with different rates are seen through them, and the bound is that of rate 1.
    history: the losses so far, as a list, dict of lists or table, by which an edge of stability is told from a failure.
    The rest is as in `spectrum`. Raises UserError as that does, and for an optimizer of another kind.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> half = lambda out, y: 0.5 * (out - y).square().mean()     # curves by 4 at the input 2
    >>> found = sharpness(model, half, (torch.full((3, 1), 2.0), torch.ones(3, 1)), torch.optim.SGD(model.parameters(), lr=0.1))
    >>> found.value, found.bound, found.ratio, found.stable_rate, found.edge
    (4.0, 20.0, 0.2, 0.5, False)
    """
    problem = problem_of(model, loss, data, step)
    whole("products", products, 1)
    groups = _groups(optimizer, model)
    with torch.inference_mode(False):
        hessian = Hessian(model, problem, chunk, train, double, seed)
        bound, kin = _seen_through(hessian, model, groups, optimizer)
        draw = torch.Generator().manual_seed(seed)
        krylov = Lanczos(hessian, products, draw)
        krylov.run(
            krylov.start(start, hessian.lead(draw) if start is None else None),
            lambda seen: len(seen.theta) >= 3 and seen.met([-1], tolerance),
        )
        vector = krylov.vector(-1)
    value = float(krylov.theta[-1])
    known = losses(history) if history is not None else None
    rose, course = (rises(known), trend(known)) if known is not None and len(known) else (None, None)
    ratio = math.nan if bound is None else value / bound if bound > 0 else math.inf
    edge = EDGE[0] <= ratio <= (EDGE[2] if course == "falls" else EDGE[1]) and course != "grows"
    name = groups[0].name if groups else "no optimizer"
    rate = _rate(groups, value, bound, kin)
    said = _said(name, value, bound, ratio, rate, edge, kin, rose, course)
    return Sharpness(
        value, bound, ratio, rate, edge, kin, rose, course, float(krylov.residual[-1]), hessian.products, name, said, vector
    )  # fmt: skip


def _groups(optimizer: Any, model: nn.Module) -> tuple[Setting, ...]:
    if optimizer is None:
        return ()
    if isinstance(optimizer, torch.optim.Optimizer):
        return settings(optimizer)
    if isinstance(optimizer, tuple) and len(optimizer) == 2 and isinstance(optimizer[1], Mapping):
        return (Setting(str(optimizer[0]), dict(optimizer[1]), tuple(model.parameters())),)
    raise UserError(
        f"optimizer must be one of torch.optim or thalweg.optim, or a name and hyperparameters, such as ('sgd', {{'lr': 0.1}}), "
        f"not {type(optimizer).__name__}"
    )


def _seen_through(hessian: Hessian, model: nn.Module, groups: tuple[Setting, ...], optimizer: Any) -> tuple[float | None, bool]:
    """Give the Hessian the optimizer's scale; the bound, and whether a diagonal beside the rates was used."""
    states = optimizer.state if isinstance(optimizer, torch.optim.Optimizer) else {}
    points = list(trainable(model).values())
    used = [group for group in groups if any(p is q for p in points for q in group.params)]
    if not used or any(group.kin is None or not group.config.get("lr", 0) > 0 for group in used):
        return None, False
    kin = used[0].kin
    divided = kin is not None and kin.divisor is not None
    stepped = [p for group in used for p in group.params if any(p is q for q in points)]
    if any(group.kin is not kin for group in used) or (divided and not all(kin.needs in states.get(p, {}) for p in stepped)):  # type: ignore[union-attr]
        return None, False
    t = max((float(states[p]["step"]) for p in stepped if "step" in states.get(p, {})), default=math.inf)
    alone = {(group.config["lr"], group.config.get("weight_decay", 0.0)) for group in used}
    borne = {bears(group.name, {**group.config, "lr": 1.0, "weight_decay": 0.0}, t) for group in used}
    if len(borne) > 1 or None in borne:
        return None, False
    if len(alone) == 1 and not divided and len(stepped) == len(points):
        return bears(used[0].name, used[0].config, t), False
    rate = used[0].config["lr"] if len({lr for lr, _ in alone}) == 1 else 1.0
    scales, shifts = [], []
    for p in points:
        group = next((group for group in used if any(p is q for q in group.params)), None)
        if group is None or kin is None:
            scales.append(torch.zeros_like(p).flatten())
            shifts.append(torch.zeros_like(p).flatten())
            continue
        d = torch.full_like(p, group.config["lr"] / rate)
        if kin.divisor is not None:
            d = d / kin.divisor(states[p], group.config)
        scales.append(d.detach().flatten())
        decay = 0.0 if group.config.get("decoupled") else group.config.get("weight_decay", 0.0)
        shifts.append(d.detach().flatten() * decay)
    scale = torch.cat([s.to(hessian.device, hessian.dtype) for s in scales])
    if not bool(scale.isfinite().all()):
        return None, False
    hessian.scale = scale.sqrt()
    hessian.shift = torch.cat([s.to(hessian.device, hessian.dtype) for s in shifts])
    decays = {group.config.get("weight_decay", 0.0) for group in used if group.config.get("decoupled")}
    decay = decays.pop() if len(decays) == 1 else 0.0
    return bears(used[0].name, {**used[0].config, "lr": rate, "weight_decay": decay}, t), divided


def _rate(groups: tuple[Setting, ...], value: float, bound: float | None, scaled: bool) -> float:
    """The largest stable rate of the first group."""
    if bound is None:
        return math.nan
    config = groups[0].config
    decay = 0.0 if scaled or config.get("decoupled") else config.get("weight_decay", 0.0)
    return math.inf if value + decay <= 0 else config["lr"] * (bound + decay) / (value + decay)


def _said(
    name: str, value: float, bound: float | None, ratio: float, rate: float, edge: bool, scaled: bool, rose: float | None, course: str |
None ) -> str:  # fmt: skip
    text = f"the sharpness {'of the preconditioned Hessian ' if scaled else ''}is {value:.4g}"
    if bound is None:
        return f"{text}; how much of it {name} bears is not known"
    text += f", {ratio:.2f} times what {name} bears on a quadratic at this rate, {bound:.4g}"
    if rose is not None:
        words = {"falls": "falls", "stays": "stays about where it is", "grows": "grows", None: ""}[course]
        text += f"; the loss rose in {100 * rose:.0f} % of the recorded steps and {words} in the long run"
    if edge:
        return f"{text}: training is at the edge of stability, where single steps may raise the loss while it falls over many; no failure"
    if ratio > 1:
        return f"{text}: steps along the sharpest direction overshoot and grow; a rate below {rate:.3g} is stable here"
    return f"{text}: stable, as rates up to {rate:.3g} would be"
