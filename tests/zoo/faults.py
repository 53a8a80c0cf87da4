"""The faults: each makes of healthy settings sick ones, and is known by the cause that a diagnosis should name.

A fault draws how grave it is from a generator of its own, so that no two seeds are alike. `repaired` applies a finding's change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.programs import ARCHITECTURES, RATES, Settings, model

Fault = Callable[[Settings, np.random.Generator], Settings | None]


def between(draw: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def rate_too_high(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, lr=RATES[s.architecture][s.rule] * between(draw, 30, 150))


def rate_too_low(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, lr=RATES[s.architecture][s.rule] / between(draw, 100, 1000))


def features_unscaled(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, scale="columns" if s.architecture in ("linear", "mlp", "tabular") else "raw")


def vanishing_gradients(s: Settings, draw: np.random.Generator) -> Settings | None:
    if s.architecture == "linear":
        return None
    if s.architecture == "rnn":
        return replace(s, init=f"{between(draw, 0.05, 0.2):.3f}", length=16)
    return replace(s, activation="sigmoid", depth=int(draw.integers(6, 9)))


def exploding_gradients(s: Settings, draw: np.random.Generator) -> Settings | None:
    if s.architecture == "linear":
        return None
    if s.architecture == "rnn":
        return replace(s, init=f"{between(draw, 6, 12):.2f}")
    return replace(s, init=f"{between(draw, 8, 14):.2f}", depth=3)


def dead_units(s: Settings, draw: np.random.Generator) -> Settings | None:
    if s.architecture in ("linear", "rnn"):
        return None
    return replace(s, bias=-between(draw, 10, 100))


def wrong_loss(s: Settings, draw: np.random.Generator) -> Settings:
    if s.architecture == "tabular":
        return replace(s, loss="broadcast")
    return replace(s, loss=("nll", "to_labels")[int(draw.integers(2))])


def softmax_twice(s: Settings, draw: np.random.Generator) -> Settings | None:
    return None if s.architecture == "tabular" else replace(s, outputs="softmax")


def labels_shuffled(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, labels="shuffled")


def labels_shifted(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, labels="shifted")


def frozen_layer(s: Settings, draw: np.random.Generator) -> Settings:
    names = list(dict.fromkeys(name.rpartition(".")[0] for name, p in model(s).named_parameters()))
    chosen = names[-1] if draw.integers(2) else names[0]
    if s.architecture == "linear":  # all that there is but the bias
        chosen = "0.weight"
    return replace(s, frozen=(chosen,)) if draw.integers(2) else replace(s, left_out=(chosen,))


def gradients_accumulate(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, zero_grad=False)


def norm_in_eval(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, norm=True, norm_mode="eval", scale="raw")


def decay_too_strong(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, weight_decay=between(draw, 10, 40) if s.rule == "adam" else between(draw, 0.3, 1.0))


def batch_too_small(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, batch_size=1)


def leak(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, split="leak")


def schedule_ended(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, gamma=between(draw, 0.5, 0.75))


def momentum_too_high(s: Settings, draw: np.random.Generator) -> Settings:
    return replace(s, rule="momentum", lr=RATES[s.architecture]["momentum"], momentum=1 - between(draw, 0.0005, 0.004))


FAULTS: Mapping[str, Fault] = {
    f.__name__: f
    for f in (
        rate_too_high, rate_too_low, features_unscaled, vanishing_gradients, exploding_gradients, dead_units, wrong_loss, softmax_twice,
        labels_shuffled, labels_shifted, frozen_layer, gradients_accumulate, norm_in_eval, decay_too_strong, batch_too_small, leak,
        schedule_ended, momentum_too_high,
    )
}  # fmt: skip
SEEDS = 3
MARGIN = 0.85
"""A remedy repairs when the run then goes at least this share of the healthy twin's way from chance."""


def case(fault: str, architecture: str, seed: int) -> tuple[Settings, Settings] | None:
    """The sick settings and the healthy twin's; None where the fault cannot exist in that architecture."""
    draw = np.random.default_rng([list(FAULTS).index(fault), ARCHITECTURES.index(architecture), seed])
    rule = ("sgd", "momentum", "adam")[int(draw.integers(3))]
    if fault == "batch_too_small" and rule == "adam":
        rule = "sgd"
    healthy = Settings(architecture, seed, rule).full()
    sick = FAULTS[fault](healthy, draw)
    if sick is None:
        return None
    twin = replace(
        sick, lr=RATES[architecture][sick.rule], momentum=0.9, weight_decay=0.0, batch_size=32, gamma=1.0, depth=2, activation="relu",
        length=8, init="default", bias=None, scale="right", outputs="scores", loss="right", labels="right", frozen=(), left_out=(),
        zero_grad=True, norm_mode="train", split="apart",
    )  # fmt: skip
    return sick, twin


def cases() -> list[tuple[str, str, int]]:
    """All programs with a fault."""
    every = [(f, a, s) for f in FAULTS for a in ARCHITECTURES for s in range(SEEDS)]
    return [one for one in every if case(*one) is not None]


def held_out(fault: str, architecture: str, seed: int) -> bool:
    """Whether a program is one of the half on which nothing was tuned: the parity of its three places."""
    return (list(FAULTS).index(fault) + ARCHITECTURES.index(architecture) + seed) % 2 == 1


def repaired(s: Settings, cause: str, change: Mapping[str, Any]) -> Settings:
    """The settings with a finding's remedy carried out, as far as they know it; by hand where only a person can."""
    by_hand: Mapping[str, Mapping[str, Any]] = {
        "labels_shuffled": {"labels": "right"}, "labels_shifted": {"labels": "right"}, "leak": {"split": "apart"},
    }  # fmt: skip
    todo = dict(by_hand.get(cause, change))
    new: dict[str, Any] = {}
    for key, value in todo.items():
        if key in ("lr", "momentum", "weight_decay", "batch_size", "zero_grad", "activation", "labels", "split", "norm"):
            new[key] = value
        elif key == "standardize":
            new["scale"] = "right"
        elif key == "init":
            new |= {"init": "default" if value == "default" else "fitting", "bias": None}
        elif key == "schedule":
            new["gamma"] = 1.0
        elif key == "loss":
            new["loss"] = "right"
        elif key == "outputs":
            new["outputs"] = "scores"
        elif key == "trainable":
            new |= {"frozen": (), "left_out": ()}
        elif key == "mode":
            new["norm_mode"] = "train"
        elif key == "optimizer":
            new["rule"] = value
        else:
            raise KeyError(f"{cause} asks for the change {key} = {value!r}, which no program knows")
    return replace(s, **new)
