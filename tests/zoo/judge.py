"""What a diagnosis makes of the programs: which cause it names first, whether the first remedy repairs, false alarms."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from thalweg.core.finding import Findings
from thalweg.explain.findings import diagnose
from zoo import healthy
from zoo.faults import MARGIN, case, repaired
from zoo.programs import Handed, Settings, progress, train

BUDGET = 600.0
"""Seconds for a diagnosis: so many that no decision hangs on the clock."""


@dataclass(frozen=True)
class Verdict:
    """One program with a fault. first: the cause named first, "" where nothing was found; findings: all of them, by name. sick, after: how
    much of the healthy twin's way the program went, and went with the first remedy carried out; nan without one."""

    fault: str
    architecture: str
    seed: int
    first: str
    findings: tuple[str, ...]
    sick: float
    after: float
    seconds: float

    @property
    def right(self) -> bool:
        return self.first == self.fault

    @property
    def repaired(self) -> bool:
        return self.after >= MARGIN


def diagnosed(handed: Handed) -> Findings:
    return diagnose(
        handed.model, handed.loss, handed.data, handed.optimizer, handed.history, valid=handed.valid, batch_size=handed.batch_size,
        seconds=BUDGET,
    )  # fmt: skip


@functools.cache
def trained(s: Settings) -> Handed:
    """A program that is only scored; many remedies make of the sick settings the healthy twin's."""
    return train(s)


def judged(fault: str, architecture: str, seed: int) -> Verdict:
    made = case(fault, architecture, seed)
    assert made is not None
    sick, twin = made
    handed = train(sick)
    began = time.perf_counter()
    found = diagnosed(handed)
    seconds = time.perf_counter() - began
    after = math.nan
    if found.first is not None:
        healed = repaired(sick, found.first.cause, found.first.change)
        # a leak spoils the validation, not the training: it is repaired where the rows are apart
        mended = fault != "leak" or healed.split == "apart"
        after = progress(trained(healed.full()), trained(twin.full())) if mended else -math.inf
    names = tuple(one.cause for one in found)
    return Verdict(fault, architecture, seed, names[0] if names else "", names, progress(handed, trained(twin.full())), after, seconds)


def alarms(numbers: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Healthy program -> what was found wrong with it."""
    return {number: tuple(one.cause for one in diagnosed(train(healthy.healthy(number)))) for number in numbers}
