"""The pictures of a lecture: which function, rules, start and length. Zhang, Lipton, Li and Smola, Dive into Deep Learning, chapter 12"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def square(x: Tensor) -> Tensor:
    """x^2."""
    return (x * x).sum()


def saddle(x: Tensor) -> Tensor:
    """x1^2 - x2^2, without a floor."""
    return x[0] * x[0] - x[1] * x[1]


def valley(x: Tensor) -> Tensor:
    """0.1 x1^2 + 2 x2^2: twenty times as steep across as along."""
    return 0.1 * x[0] * x[0] + 2 * x[1] * x[1]


@dataclass(frozen=True)
class Lecture:
    """function: one of the shelf by name, or a function of a tensor. runs: label -> (optimizer, schedule or None, steps)."""

    title: str
    function: Any
    start: tuple[float, ...]
    runs: Mapping[str, tuple[str, str | None, int]]
    more: Mapping[str, Any] = field(default_factory=dict)


LECTURES: Mapping[str, Lecture] = {
    "gd-rates": Lecture(
        "x^2: one rate crawls, one arrives, one diverges", square, (10.0,),
        {f"GD, lr {rate}": (f"sgd[lr={rate}]", None, 10) for rate in (0.05, 0.2, 1.1)}, {"minimisers": [(0.0,)]},
    ),
    "x-cos": Lecture(
        "x cos(0.15 pi x): which minimum is found depends on the rate", "x-cos", (10.0,),
        {f"GD, lr {rate}": (f"sgd[lr={rate}]", None, 10) for rate in (0.2, 0.5, 2.0)},
    ),
    "saddle": Lecture(
        "x1^2 - x2^2: the gradient leads to the saddle, and a little beside it past it", saddle, (2.0, 0.001),
        {"GD": ("sgd[lr=0.1]", None, 40), "momentum": ("momentum[lr=0.02]", None, 40), "adam": ("adam[lr=0.1]", None, 40)},
    ),
    "noisy-sgd": Lecture(
        "x1^2 + 2 x2^2 with noisy gradients: a constant rate never settles, one that falls too fast stalls", "bowl", (-5.0, -2.0),
        {
            "constant, 50 steps": ("sgd[lr=0.1]", None, 50),
            "exponential, 1000 steps": ("sgd[lr=0.1]", "exponential(rate=0.1)", 1000),
            "polynomial, 50 steps": ("sgd[lr=0.1]", "polynomial(beta=0.1, alpha=0.5)", 50),
        },
        {"noise": 1.0},
    ),
    "valley": Lecture(
        "0.1 x1^2 + 2 x2^2: what is stable across is slow along, and momentum helps", valley, (-5.0, -2.0),
        {"GD, lr 0.4": ("sgd[lr=0.4]", None, 20), "momentum 0.5, lr 0.4": ("sgd[lr=0.4, momentum=0.5]", None, 20)},
        {"minimisers": [(0.0, 0.0)]},
    ),
}  # fmt: skip
