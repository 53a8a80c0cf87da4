"""The oracle: the training loop that a user of PyTorch would write, and the optimizers it is written with.

Every rule of the catalogue has an `Oracle`: an optimizer of torch.optim, or a slow twin of the formula where torch lacks the rule, and
the configurations (of differing hyperparameters) that are trained as the lanes of one fleet and compared with it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.engine.numbers import numbers_of
from twins import LAMB, LARS, SOAP, AdaBelief, Lion, Muon, Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD

# --- slow twins, as the formulas are printed


class Yogi(torch.optim.Optimizer):
    """s += (1 - beta2) sign(g^2 - s) g^2, else Adam. Zaheer et al. 2018"""

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad + group["weight_decay"] * p
                state = self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = beta1 * state.get("m", torch.zeros_like(p)) + (1 - beta1) * g
                s = state.get("s", torch.zeros_like(p))
                s = state["s"] = s + (1 - beta2) * torch.sign(g**2 - s) * g**2
                m_hat, s_hat = m / (1 - beta1**t), s / (1 - beta2**t)
                p -= group["lr"] * m_hat / (s_hat.sqrt() + group["eps"])


class Rprop(torch.optim.Rprop):
    """torch's, with the weight decay that every rule here takes: weight_decay * x joins the gradient."""

    def __init__(self, params, lr=1e-2, weight_decay=0.0):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["weight_decay"] = weight_decay

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad + group["weight_decay"] * p.detach()
        return super().step()


class RandomSearch(torch.optim.Optimizer):
    """Draw all weights from N(0, scale^2), keep the draw with the smallest loss seen. Rastrigin 1963

    `step(loss, noise)`: the loss at the present draw, and the standard normal numbers of the next, one a weight.
    """

    def __init__(self, params, scale=1e-4):
        super().__init__(params, {"scale": scale})
        self.best, self.least = None, math.inf

    @torch.no_grad()
    def step(self, loss, noise):
        (group,) = self.param_groups
        if float(loss) < self.least:
            self.best, self.least = [p.clone() for p in group["params"]], float(loss)
        for p, part in zip(group["params"], noise.split([p.numel() for p in group["params"]]), strict=True):
            p.copy_(group["scale"] * part.view_as(p))

    @torch.no_grad()
    def answer(self):
        (group,) = self.param_groups
        for p, best in zip(group["params"], self.best or group["params"], strict=True):
            p.copy_(best)


# --- which optimizer is the oracle of which rule


@dataclass(frozen=True)
class Oracle:
    """make: a torch.optim class, or one like it. lanes: configurations to compare. names: ours -> theirs. fixed: arguments besides."""

    make: Callable[..., torch.optim.Optimizer]
    lanes: Sequence[Mapping[str, Any]]
    names: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def optimizer(self, parameters: Any, config: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The optimizer of a configuration; what it does not name is left to the optimizer's own defaults."""
        arguments = dict(self.fixed)
        arguments |= {self.names.get(name, name): value for name, value in config.items()}
        if "beta1" in arguments or "beta2" in arguments:
            first, second = inspect.signature(self.make).parameters["betas"].default
            arguments["betas"] = (arguments.pop("beta1", first), arguments.pop("beta2", second))
        return self.make(parameters, **arguments)


ADAM = ({}, {"lr": 1e-2, "beta1": 0.5}, {"lr": 3e-3, "beta2": 0.9, "eps": 1e-4})
MOMENTUM = ({}, {"lr": 0.02, "momentum": 0.5}, {"lr": 5e-3, "momentum": 0.99})

ORACLES: dict[str, Oracle] = {
    "sgd": Oracle(torch.optim.SGD, ({}, {"lr": 0.1, "momentum": 0.7, "dampening": 0.3}, {"lr": 0.05, "momentum": 0.9})),
    "momentum": Oracle(torch.optim.SGD, MOMENTUM, fixed={"momentum": 0.9}),
    "nesterov": Oracle(torch.optim.SGD, MOMENTUM, fixed={"momentum": 0.9, "nesterov": True}),
    "adagrad": Oracle(
        torch.optim.Adagrad, ({}, {"lr": 0.1, "lr_decay": 0.01}, {"lr": 0.03, "initial": 0.5, "eps": 1e-3}),
        {"initial": "initial_accumulator_value"},
    ),
    "rmsprop": Oracle(
        torch.optim.RMSprop,
        ({"lr": 1e-3}, {"lr": 1e-3, "gamma": 0.9, "momentum": 0.5}, {"lr": 1e-3, "eps": 1e-2, "centered": True, "momentum": 0.9}),
        {"gamma": "alpha"},
    ),
    "adadelta": Oracle(torch.optim.Adadelta, ({}, {"lr": 0.3, "rho": 0.5}, {"lr": 2.0, "eps": 1e-5})),
    "adam": Oracle(torch.optim.Adam, ADAM),
    "adamw": Oracle(torch.optim.AdamW, ADAM),
    "amsgrad": Oracle(torch.optim.Adam, ADAM, fixed={"amsgrad": True}),
    "adamax": Oracle(torch.optim.Adamax, ({}, {"lr": 1e-2, "beta1": 0.5}, {"lr": 3e-3, "beta2": 0.9})),
    "nadam": Oracle(torch.optim.NAdam, (*ADAM, {"momentum_decay": 0.1})),
    "radam": Oracle(torch.optim.RAdam, ADAM),
    "rprop": Oracle(Rprop, ({"lr": 1e-3}, {"lr": 1e-4})),
    "asgd": Oracle(torch.optim.ASGD, ({}, {"lr": 0.1, "lambd": 1e-2}, {"lr": 0.05, "alpha": 0.5})),
    "adafactor": Oracle(torch.optim.Adafactor, ({}, {"lr": 1e-3, "d": 2.0}, {"beta2_decay": -0.5}), fixed={"eps": (2.0**-23, 1e-3)}),
    "muon": Oracle(Muon, ({}, {"lr": 1e-2}, {"momentum": 0.5})),
    "yogi": Oracle(Yogi, ADAM),
    "lion": Oracle(Lion, ({}, {"lr": 1e-3, "beta1": 0.5}, {"beta2": 0.9})),
    "adabelief": Oracle(AdaBelief, ({"eps": 1e-8}, {"lr": 1e-2, "beta1": 0.5, "eps": 1e-8}, {"lr": 3e-3, "beta2": 0.9, "eps": 1e-4})),
    "lars": Oracle(LARS, ({}, {"lr": 1.0, "momentum": 0.5}, {"trust": 0.01, "weight_decay": 1e-3})),
    "lamb": Oracle(LAMB, ADAM),
    "prodigy": Oracle(Prodigy, ({"d0": 1e-3}, {"d0": 1e-2, "lr": 0.5}, {"d0": 1e-3, "beta2": 0.9})),
    "soap": Oracle(SOAP, ({"largest": 1}, {"largest": 1, "lr": 1e-2}, {"largest": 1, "eps": 1e-4})),
    "schedule_free_sgd": Oracle(ScheduleFreeSGD, ({"lr": 0.1}, {"lr": 0.3, "beta": 0.5}, {"lr": 0.05, "weight_decay": 1e-2})),
    "schedule_free_adamw": Oracle(ScheduleFreeAdamW, ({}, {"lr": 1e-2, "beta1": 0.5}, {"beta2": 0.9, "eps": 1e-4})),
    "random_search": Oracle(RandomSearch, ({}, {"scale": 0.1}, {"scale": 0.5})),
}  # fmt: skip


def oracle(rule: str) -> Oracle:
    """The oracle of a rule; every rule must have one."""
    if rule not in ORACLES:
        raise LookupError(
            f"the rule {rule} has no oracle: add its torch.optim class, or a slow twin of its formula, to ORACLES in tests/loops.py"
        )
    return ORACLES[rule]


# --- the loop

# torch.manual_seed on a processor; that one also notes the whole stack for every kind of device that is not there
seeded = torch.default_generator.manual_seed


@dataclass(frozen=True)
class HandRun:
    """A run of the loop: the trained model, and the loss of every batch before its update."""

    model: nn.Module
    losses: list[float]

    def diverged_at(self, limit: float = 1e4) -> int:
        """The first step whose loss is not finite or above limit x max(1, first loss), or -1."""
        bound = limit * max(1.0, abs(self.losses[0]))
        return next((t for t, loss in enumerate(self.losses) if not (math.isfinite(loss) and loss <= bound)), -1)


def train(
    model: nn.Module,
    loss: Callable,
    data: Sequence[Tensor],
    rule: str,
    config: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
    penalty: Callable[[nn.Module], Tensor] = lambda model: torch.zeros(()),
    accumulate: int = 1,
) -> HandRun:
    """The loop. config: hyperparameters of the rule, `clip_norm`, `clip_value`, `schedule` (lr's, or name -> f), `dropout`,
    `label_smoothing`, `sam` (its radius). accumulate: parts of a batch whose gradients are summed."""
    inputs, targets = data
    config = dict(config)
    radius, probability, smoothing = (config.pop(key, None) for key in ("sam", "dropout", "label_smoothing"))
    clip_norm, clip_value, schedule = (config.pop(key, None) for key in ("clip_norm", "clip_value", "schedule"))
    schedules = schedule if isinstance(schedule, Mapping) else {"lr": schedule} if schedule else {}
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if probability is not None and isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = probability
    if smoothing is not None:
        loss = functools.partial(nn.functional.cross_entropy, label_smoothing=smoothing)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = oracle(rule).optimizer(parameters, config)
    (group,) = optimizer.param_groups
    base = {name: group[name] for name in schedules}
    losses = []
    with torch.random.fork_rng(), numbers_of(parameters[0].dtype):  # in which NAdam and ASGD keep numbers of their own
        for t, index in enumerate(tw.batches(len(inputs), batch_size, seed=seed, steps=steps)):
            for name, f in schedules.items():
                group[name] = base[name] * f(t)
            optimizer.zero_grad()
            seeded(tw.step_seed(seed, t))
            value = torch.zeros(())
            for rows in index.tensor_split(min(accumulate, len(index))):
                part = (loss(model(inputs[rows]), targets[rows]) + penalty(model)) * (len(rows) / len(index))
                if not isinstance(optimizer, RandomSearch):
                    part.backward()
                value = value + part.detach()
            losses.append(value.item())
            if radius is not None:
                before = [p.detach().clone() for p in parameters]
                length = torch.cat([p.grad.reshape(-1) for p in parameters]).norm()
                with torch.no_grad():
                    for p in parameters:
                        p += radius * p.grad / (length + 1e-12)
                optimizer.zero_grad()
                seeded(tw.step_seed(seed, t))
                loss(model(inputs[index]), targets[index]).backward()
                with torch.no_grad():
                    for p, was in zip(parameters, before, strict=True):
                        p.copy_(was)
            if isinstance(optimizer, RandomSearch):
                generator = torch.Generator().manual_seed(tw.step_seed(seed, t))
                count = sum(p.numel() for p in parameters)
                optimizer.step(value, torch.randn(count, generator=generator, dtype=parameters[0].dtype))
                continue
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            if clip_value is not None:
                nn.utils.clip_grad_value_(parameters, clip_value)
            optimizer.step()
    if hasattr(optimizer, "answer"):
        optimizer.answer()
    return HandRun(model, losses)


def flat(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> Tensor:
    """All parameters as one float64 vector, of the model or of a state dict of its shape."""
    values = dict(model.named_parameters()) if state is None else state
    return torch.cat([values[name].detach().double().reshape(-1) for name, _ in model.named_parameters()])


def distance(ours: Mapping[str, Tensor], theirs: nn.Module) -> float:
    """|a - b| / |b| over all parameters, of a state dict against a model that was trained by hand."""
    a, b = flat(theirs, ours), flat(theirs)
    return float((a - b).norm() / b.norm())


cached = functools.lru_cache(maxsize=None)
