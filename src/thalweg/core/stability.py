"""How much curvature an optimizer bears: the bounds within which its step shrinks a quadratic, and the diagonal by which it divides.

On a quadratic of curvature h the update is a linear map whose eigenvalue reaches -1 as h grows: there the iterates begin to swing and grow.
With D the diagonal that multiplies the gradient, h is an eigenvalue of D^1/2 H D^1/2. Cohen et al. 2021, arXiv:2103.00065, for gradient
descent and momentum; Cohen et al. 2022, arXiv:2207.14484, for Adam and its kin, whose D is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Config = Mapping[str, Any]
States = Mapping[str, Tensor]


@dataclass(frozen=True)
class Kin:
    """What is known of a rule, by its name and in its own letters (those of `thalweg.optimizers`).

    bears: the curvature that it bears times its rate, from its hyperparameters and the count of its updates. divisor: the diagonal by which
    it divides the gradient, from its states and hyperparameters; None where it does not. needs: the state for that.
    """

    bears: Callable[[Config, float], float]
    divisor: Callable[[States, Config], Tensor] | None = None
    needs: str = ""


# --- what is borne, times the rate


def _descent(config: Config, _: float) -> float:
    b, dampening = config.get("momentum", 0.0), config.get("dampening", 0.0)
    if not b:
        return 2.0
    return 2 * (1 + b) / (1 + 2 * b) if config.get("nesterov") else 2 * (1 + b) / (1 - dampening)


def _averaged(config: Config, t: float) -> float:
    """A leaky average of gradients in place of the gradient, corrected for its start where the rule does so."""
    b = config["beta1"]
    early = 1 - b**t if config.get("correct", True) else 1.0
    return 2 * (1 + b) / (1 - b) * early


def _ahead(config: Config, t: float) -> float:
    b, growth = config["beta1"], config.get("momentum_decay", 4e-3)
    now, then = (b * (1 - 0.5 * 0.96 ** (k * growth)) for k in (t, t + 1))
    return 2 / (then * (1 - b) / (1 + b) + 1 - now)


# --- what is divided by


def _adam(name: str) -> Callable[[States, Config], Tensor]:
    def divisor(states: States, config: Config) -> Tensor:
        t = float(states["step"])
        size = states.get("max_" + name, states[name])
        return (size / (1 - config["beta2"] ** t if config.get("correct", True) else 1.0)).sqrt() + config["eps"]

    return divisor


def _rmsprop(states: States, config: Config) -> Tensor:
    variance = states["square_avg"] - (states["grad_avg"].square() if "grad_avg" in states else 0.0)
    return (variance.clamp(min=0) + config.get("eps_root", 0.0)).sqrt() + config["eps"]


def _adagrad(states: States, config: Config) -> Tensor:
    later = 1 + (float(states["step"]) - 1) * config.get("lr_decay", 0.0)
    return ((states["sum"] + config.get("eps_root", 0.0)).sqrt() + config["eps"]) * later


def _adadelta(states: States, config: Config) -> Tensor:
    return ((states["square_avg"] + config["eps"]) / (states["acc_delta"] + config["eps"])).sqrt()


KNOWN: Mapping[str, Kin] = {
    "sgd": Kin(_descent),
    "adam": Kin(_averaged, _adam("exp_avg_sq"), "exp_avg_sq"),
    "nadam": Kin(_ahead, _adam("exp_avg_sq"), "exp_avg_sq"),
    "yogi": Kin(_averaged, _adam("exp_avg_sq"), "exp_avg_sq"),
    "adabelief": Kin(_averaged, _adam("exp_avg_var"), "exp_avg_var"),
    "adamax": Kin(_averaged, lambda states, _: states["exp_inf"], "exp_inf"),
    "rmsprop": Kin(_descent, _rmsprop, "square_avg"),
    "adagrad": Kin(_descent, _adagrad, "sum"),
    "adadelta": Kin(_descent, _adadelta, "acc_delta"),
}

PRESETS: Mapping[str, tuple[str, Config]] = {
    "gd": ("sgd", {}), "momentum": ("sgd", {"momentum": 0.9}), "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adamw": ("adam", {"decoupled": True, "weight_decay": 0.01}), "amsgrad": ("adam", {}),
}  # fmt: skip
"""Names that stand for another rule at other defaults."""

DEFAULTS: Config = {"beta1": 0.9, "beta2": 0.999}


def bears(name: str, config: Config, t: float = float("inf")) -> float | None:
    """The largest curvature, of D H with the rate left out of D, at which a rule is stable at that rate; None where none is known.

    Gradient descent: 2 / lr. With momentum b: 2 (1 + b) / lr, over 1 - dampening. In Nesterov's form 2 (1 + b) / ((1 + 2 b) lr). With a
    leaky average of gradients: 2 (1 + b) / ((1 - b) lr). An L2 weight decay adds to the curvature, and so is taken off where it is not
    divided; a decoupled one (`decoupled`) takes its part of the update. name: a rule's, or one of PRESETS. config: its hyperparameters. t:
    updates done.

    >>> bears("sgd", {"lr": 0.5}), bears("momentum", {"lr": 0.5}), round(bears("adam", {"lr": 0.1, "beta1": 0.9}), 9)
    (4.0, 7.6, 380.0)
    >>> bears("lion", {"lr": 0.5})
    """
    name, preset = PRESETS.get(name, (name, {}))
    config = {**DEFAULTS, **preset, **config}
    if name not in KNOWN or not config.get("lr", 0) > 0:
        return None
    b, dampening, decay = config.get("momentum", 0.0), config.get("dampening", 0.0), config.get("weight_decay", 0.0)
    if b and dampening and (config.get("nesterov") or dampening == 1):
        return None
    limit = KNOWN[name].bears(config, t)
    if config.get("decoupled"):
        return limit * (1 - config["lr"] * decay / 2) / config["lr"]
    return limit / config["lr"] - (decay if KNOWN[name].divisor is None else 0.0)


# --- an optimizer at its weights


@dataclass(frozen=True)
class Setting:
    """A group of an optimizer: its rule's name, or of its class where nothing is known of that, its hyperparameters, and its parameters."""

    name: str
    config: Config
    params: tuple[Tensor, ...]

    @property
    def kin(self) -> Kin | None:
        return KNOWN.get(PRESETS.get(self.name, (self.name, {}))[0])


TITLES = {"sgd", "adam", "adamw", "nadam", "rmsprop", "adagrad", "adadelta", "adamax"}
"""Classes of torch.optim, in small letters, whose rules are known."""


def settings(optimizer: torch.optim.Optimizer) -> tuple[Setting, ...]:
    """The groups of an optimizer of torch's or thalweg's."""
    naming = getattr(optimizer, "naming", None)
    if naming is not None:
        origin = naming.rule.function.__module__.rpartition(".")
        ours = origin[0] == "thalweg.optimizers" and origin[2] in KNOWN
        name = origin[2] if ours else naming.rule.name
    else:
        title = type(optimizer).__name__.lower()
        ours = title in TITLES and type(optimizer).__module__.startswith("torch.optim")
        name = title if ours else type(optimizer).__name__
    found = []
    for group in optimizer.param_groups:
        wrapped = naming is not None and bool(naming.used(group))
        known = _letters(group, naming)
        label = name if ours and not wrapped and not group.get("maximize") else f"{name}, wrapped" if wrapped else f"{name} of another kind"
        found.append(Setting(label if ours else name, known, tuple(group["params"])))
    return tuple(found)


def _letters(group: Config, naming: Any) -> dict[str, Any]:
    """A group's hyperparameters in a rule's letters, as plain numbers."""
    plain: dict[str, Any] = {k: float(v) if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in group.items() if k != "params"}
    if "betas" in plain:
        plain["beta1"], plain["beta2"] = (float(b) for b in plain["betas"])
    decay = naming.variant(group).decay == "decoupled" if naming is not None else plain.get("decoupled_weight_decay", False)
    return {**plain, "decoupled": bool(decay)}
