"""What the data's rows show: the features' scales, the targets, rows that occur twice, and whether near rows have like targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.core.problem import leaves
from thalweg.explain.case import Case

LOOKED = 4096
"""Rows looked at."""

HARM = 20.0
"""Features are uneven when the loss is so many times steeper than if they were standardised."""

SPREAD = 3.0
"""And the largest feature is so many times as large as a usual one, where they are not 0: rare features are not small ones."""

LARGE = 12.0
"""Features are large when a usual one is of this size."""

WIDE = 4096
"""Features beyond which only so many are looked at."""


@dataclass(frozen=True)
class Table:
    """names: of the features. means, deviations (d,): of them. labels: the targets are classes, of which there are `classes`. raw,
    scaled: how much the steepest direction of the features, a constant among them, is steeper than a usual one, as they are and if they
    were standardised. condition, condition_scaled: of the features' Gram matrix with a constant. largest: its largest eigenvalue.
    not_finite: rows with nan or inf. constant: names of features that never change. target_deviation: of numbers, or 0 where all targets
    are one. spread: the largest feature over a usual one, where they are not 0. normed: a norm comes first. repeated: share of the
    validation rows that are training rows too; repeated_within: of training rows that occur twice. balance: share of the most frequent
    class."""

    names: tuple[str, ...]
    means: np.ndarray
    deviations: np.ndarray
    labels: bool
    classes: int
    balance: float
    target_deviation: float
    target_largest: float
    not_finite: int
    constant: tuple[str, ...]
    raw: float
    scaled: float
    condition: float
    condition_scaled: float
    largest: float
    normed: bool
    spread: float
    repeated: float
    repeated_within: float
    alike: int

    @property
    def usual(self) -> float:
        """The size of a usual feature: the median of their root mean squares, as far as they are not 0."""
        sizes = np.hypot(self.means, self.deviations)
        live = sizes[sizes > 0]
        return float(np.median(live)) if len(live) else 0.0

    @property
    def harm(self) -> float:
        """How many times steeper the steepest direction is than if features were standardised, against a usual one."""
        return self.raw / max(self.scaled, 1e-12)

    @property
    def uneven(self) -> bool:
        """Whether some features are far larger than others."""
        return not self.normed and self.harm > HARM and self.spread > SPREAD

    @property
    def unscaled(self) -> bool:
        """Whether features want scaling: they are uneven, or large, and no norm comes first."""
        return not self.normed and math.isfinite(self.raw) and (self.uneven or self.usual > LARGE)


def pair(case: Case) -> tuple[Tensor, Tensor] | None:
    """Inputs and targets, where the data is such a pair."""
    data = case.data
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(one, Tensor) for one in data):
        return data[0], data[1]
    return None


def table(case: Case) -> Table | None:
    both = pair(case)
    if both is None:
        broken = sum(int((~leaf.isfinite()).any()) for leaf in leaves(case.data) if leaf.is_floating_point())
        return None if not broken else _empty(broken)
    x, y = both[0][:LOOKED].cpu(), both[1][:LOOKED].cpu()
    broken = int((~both[0].isfinite()).flatten(1).any(1).sum()) if both[0].is_floating_point() and both[0].dim() > 1 else 0
    if y.is_floating_point():
        broken += int((~both[1].isfinite()).flatten().sum())
    labels = not y.is_floating_point() and y.dim() <= 1
    classes = int(y.max()) + 1 if labels and len(y) else 0
    numbers = y.double().flatten(1) if y.dim() > 1 else y.double()
    deviation = float(numbers.std(0).max()) if len(y) > 1 else 0.0
    balance = float(torch.bincount(y.clamp_min(0)).max() / len(y)) if labels and int(y.min()) >= 0 else math.nan
    repeated, within, alike = twins(case)
    names: tuple[str, ...] = ()
    means = deviations = np.zeros(0)
    raw = scaled = condition = condition_scaled = largest = spread = math.nan
    constant: tuple[str, ...] = ()
    if x.is_floating_point() and x.dim() >= 2 and x[0].numel() <= WIDE:
        flat = x.flatten(1).double()
        flat = flat[flat.isfinite().all(1)]
        means, deviations = flat.mean(0).numpy(), flat.std(0, unbiased=False).numpy()
        names = case.names if len(case.names) == flat.shape[1] else tuple(f"feature {i}" for i in range(flat.shape[1]))
        size = np.abs(means) + deviations
        dull = deviations <= 1e-9 * np.maximum(size, 1e-300)
        constant = tuple(name for name, one in zip(names, dull, strict=True) if one)
        there = (flat.square().sum(0) / (flat != 0).sum(0).clamp_min(1)).sqrt()
        there = there[there > 0]
        spread = float(there.max() / there.median()) if len(there) else 1.0
        live = flat[:, torch.from_numpy(~dull)]
        if live.shape[1] and len(live) > 1:
            raw, condition, largest = _steep(live)
            scaled, condition_scaled, _ = _steep((live - live.mean(0)) / live.std(0, unbiased=False))
    first = next((type(m).__name__ for m in case.model.modules() if next(m.children(), None) is None and list(m.parameters())), "")
    return Table(
        names, means, deviations, labels, classes, balance, deviation, float(numbers.abs().max()) if len(y) else 0.0, broken, constant, raw,
        scaled, condition, condition_scaled, largest, "Norm" in first, spread, repeated, within, alike,
    )  # fmt: skip


def _empty(broken: int) -> Table:
    none = np.zeros(0)
    nan = math.nan
    return Table((), none, none, False, 0, nan, nan, nan, broken, (), nan, nan, nan, nan, nan, False, nan, 0.0, 0.0, 0)


def _steep(x: Tensor) -> tuple[float, float, float]:
    """Largest eigenvalue of the Gram matrix with a constant over its median second moment, condition number, largest eigenvalue."""
    whole = torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], 1)
    gram = whole.T @ whole / len(whole)
    values = torch.linalg.eigvalsh(gram)
    usual = float(gram.diagonal().median())
    top = float(values[-1])
    return top / max(usual, 1e-300), top / max(float(values[0]), 1e-16 * top), top


def twins(case: Case) -> tuple[float, float, int]:
    """Share of the validation rows that are training rows too, of training rows that occur twice, and the number of the former."""
    mine = _keys(case.data)
    if not mine:
        return 0.0, 0.0, 0
    within = 1 - len(set(mine)) / len(mine)
    if case.valid is None:
        return 0.0, within, 0
    known = set(mine)
    theirs = _keys(case.valid)
    alike = sum(key in known for key in theirs)
    return alike / max(len(theirs), 1), within, alike


def _keys(batch: object) -> list[bytes]:
    parts = leaves(batch)
    if not parts or not isinstance(parts[0], Tensor):
        return []
    array = parts[0].detach().cpu().contiguous()
    return (
        [row.tobytes() for row in array.numpy()] if array.dtype is not torch.bfloat16 else [row.tobytes() for row in array.float().numpy()]
    )


@dataclass(frozen=True)
class Neighbours:
    """agreement: share of rows whose nearest other row has their class, or the correlation with the mean of the nearest ones' numbers;
    chance, deviation: the same with targets permuted. score: how many deviations lie between. shift, shifted: by how many rows targets
    are off where that makes them agree, and the agreement then; 0 where none does."""

    agreement: float
    chance: float
    deviation: float
    score: float
    shift: int
    shifted: float
    shifted_score: float


def neighbours(case: Case) -> Neighbours | None:
    both = pair(case)
    if both is None or not both[0].is_floating_point() or both[0].dim() < 2 or len(both[0]) < 40 or both[0][0].numel() > WIDE:
        return None
    x, y = both[0][:1000].cpu().flatten(1).double(), both[1][:1000].cpu()
    if (y.dim() > 1 and y[0].numel() != 1) or not bool(x.isfinite().all()) or not bool(torch.isfinite(y.double()).all()):
        return None
    y = y.flatten()
    labels = not y.is_floating_point()
    deviation = x.std(0)
    z = (x - x.mean(0)) / deviation.clamp_min(0.1 * float(deviation.median()) + 1e-300)
    distance = torch.cdist(z, z)
    distance.fill_diagonal_(math.inf)
    near = distance.topk(1 if labels else 5, largest=False).indices  # (n, k)
    numbers = y if labels else y.double()

    def agreement(t: Tensor) -> float:
        if labels:
            return float((t[near[:, 0]] == t).double().mean())
        around = t[near].mean(1)
        return float(torch.corrcoef(torch.stack([around, t]))[0, 1]) if float(t.std()) > 0 else 0.0

    draw = torch.Generator().manual_seed(case.seed)
    chance = np.array([agreement(numbers[torch.randperm(len(numbers), generator=draw)]) for _ in range(30)])
    mean, sd = float(chance.mean()), max(float(chance.std()), 1e-9)
    found = agreement(numbers)
    best, where = 0.0, 0
    if len(both[0]) <= 1000:
        for shift in (-2, -1, 1, 2):
            value = agreement(numbers.roll(shift))
            if value > best:
                best, where = value, shift
    return Neighbours(found, mean, sd, (found - mean) / sd, where, best, (best - mean) / sd)
