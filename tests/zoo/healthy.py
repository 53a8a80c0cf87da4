"""Healthy runs of the same architectures: rules, rates that work, with batch norm and without, early and late in training,
some under a schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.programs import ARCHITECTURES, RATES, STEPS, Settings

COUNT = 80


def healthy(number: int) -> Settings:
    """The healthy program of that number, below COUNT."""
    draw = np.random.default_rng([99, number])
    architecture, rule = ARCHITECTURES[number % len(ARCHITECTURES)], ("sgd", "momentum", "adam")[number // len(ARCHITECTURES) % 3]
    lr = RATES[architecture][rule] * float(np.exp(draw.uniform(np.log(0.4), np.log(1.5))))
    s = Settings(architecture, 100 + number, rule, lr, steps=int(STEPS[architecture] * draw.choice([0.25, 1.0, 2.0])))
    return replace(s, norm=bool(draw.integers(2)), batch_size=int(draw.choice([16, 32, 64])), cosine=bool(draw.random() < 0.25))


def held_out(number: int) -> bool:
    """Whether nothing was tuned on it."""
    return number // len(ARCHITECTURES) % 2 == 1
