"""Synthetic studies: `Results` as a store would hold them, with known answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from thalweg.study.results import Curve, Results

SEARCH = {"lr": {"low": 1e-5, "high": 1.0, "scale": "log"}}

# label -> (best learning rate, best accuracy, decades of lr that cost half of it, rate from which it diverges, default
# rate)
SHAPES: dict[str, tuple[float, float, float, float, float]] = {
    "adam": (3.1e-3, 0.978, 1.6, 0.5, 1e-3),
    "momentum": (2e-2, 0.975, 1.2, 0.3, 1e-3),
    "rmsprop": (1e-3, 0.972, 1.3, 0.2, 1e-2),
    "adagrad": (2e-2, 0.968, 1.8, 0.9, 1e-2),
    "sgd": (0.3, 0.962, 1.3, 0.8, 1e-3),
    "random_search": (1e-3, 0.31, 2.5, 9.0, 1e-4),
}


def run(phase: str, optimizer: str, trial: int, seed: int, config: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """A row of `Results.runs`, its id made of what identifies it."""
    row = {
        "id": f"{phase}-{optimizer}-{trial}-{seed}", "phase": phase, "optimizer": optimizer, "trial": trial, "seed":
        seed, "config": dict(config), "status": "done", "diverged_at": -1, "steps": 100, "engine": "fleet",
        "train_loss": 0.1, "valid_loss": 0.2, "test_loss": math.nan,
    }  # fmt: skip
    return row | values


def results(rows: Sequence[Mapping[str, Any]], **changes: Any) -> Results:
    """A study of the given rows; every field may be replaced."""
    labels = tuple(dict.fromkeys(row["optimizer"] for row in rows)) or ("adam", "sgd")
    entries = [{"label": label, "rule": label, "fixed": {}, "search": SEARCH} for label in labels]
    frame = pd.DataFrame(rows)
    phases = frame["phase"].value_counts().to_dict() if len(frame) else {"tune": 8, "final": 4}
    fields: dict[str, Any] = {
        "kind": "compare",
        "name": "sample",
        "spec": {"problem": "digits-mlp", "budget": 16, "seeds": 5, "steps": 100, "batch_size": 32, "optimizers": entries},
        "plan": {"engine": "fleet", "lanes": 64, "threads": 2, "why": "fleet measured 5.1 times faster than solo"},
        "environment": {"python": "3.11", "torch": "2.6.0"},
        "command": "thalweg compare digits-mlp -o adam -o sgd",
        "score": "accuracy",
        "higher": True,
        "metrics": ("accuracy", "loss"),
        "optimizers": labels,
        "notes": ("1,797 images of 8 x 8 pixels in 10 classes.",),
        "counts": {"train": 1078, "valid": 359, "test": 360},
        "planned": {k: int(v) for k, v in phases.items()},
        "runs": frame,
        "curves": {},
        "seconds": {"tune": 12.3, "final": 4.5},
        "all_rows": False,
    }
    return Results(**(fields | changes))


def finals(scores: Mapping[str, Sequence[float]], score: str = "accuracy", **changes: Any) -> Results:
    """A finished comparison with these test scores, label -> a score a seed (nan: that final diverged); three tuning trials each."""
    rows = []
    for label, values in scores.items():
        for trial, rate in enumerate((1e-3, 3.1e-3, 1e-2)):
            valid = 0.9 + (0.05 if trial == 1 else 0.01 * trial)
            if score == "loss":
                valid = 1 - valid
            rows.append(run("tune", label, trial, 0, {"lr": rate}, **{"valid_loss": 0.2, f"valid_{score}": valid}))
        for seed, value in enumerate(values, 1):
            dead = math.isnan(value)
            extra: dict[str, Any] = {f"valid_{score}": value, f"test_{score}": value}
            extra |= {"status": "diverged", "diverged_at": 7} if dead else {}
            rows.append(run("final", label, 1, seed, {"lr": 3.1e-3}, **extra))
    return results(rows, score=score, higher=score != "loss", **changes)


def study(
    labels: Sequence[str] = tuple(SHAPES), trials: int = 16, seeds: int = 5, records: int = 100, kind: str = "compare",
    spread: float = 0.003, all_diverged: bool = False, final_diverged: Sequence[str] = (), **changes: Any,
) -> Results:  # fmt: skip
    """A whole study with curves: accuracy falls off a best learning rate as a bell, and large rates diverge."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    curves: dict[str, Curve] = {}

    def add(phase: str, label: str, trial: int, seed: int, rate: float, diverges: bool) -> None:
        peak, top, width, _, _ = SHAPES.get(label) or SHAPES[list(SHAPES)[sum(map(ord, label)) % 5]]
        fit = math.exp(-((math.log10(rate / peak) / width) ** 2))
        score = min(1.0, 0.1 + (top - 0.1) * fit + spread * rng.standard_normal())
        name = "scale" if label == "random_search" else "lr"
        at = int(records * 5 * rng.uniform(0.05, 0.6)) if diverges else -1
        curve = course(rng, records, score, rate, at)
        test = {"test_loss": 0.2, "test_accuracy": score} if phase == "final" and not diverges else {"test_accuracy": math.nan}
        values = {"train_loss": float(curve.loss[-5:].mean()), "valid_loss": float(curve.valid["loss"][-1]), "valid_accuracy": score}
        if diverges:
            values = dict.fromkeys(values, math.nan) | {"status": "diverged", "diverged_at": at}
        row = run(phase, label, trial, seed, {name: rate}, **(values | test), steps=records * 5)
        rows.append(row)
        curves[row["id"]] = curve

    for label in labels:
        peak, _, _, limit, default = SHAPES.get(label) or SHAPES[list(SHAPES)[sum(map(ord, label)) % 5]]
        rates = [default, *np.logspace(-5, 0, max(1, trials - 1))[rng.permutation(max(1, trials - 1))]][:trials]
        for trial, rate in enumerate(rates):
            for seed in range(seeds if kind == "sweep" else 1):
                add("sweep" if kind == "sweep" else "tune", label, trial, seed, float(rate), all_diverged or rate > limit)
        if kind == "compare" and not all_diverged:
            rate = float(min((r for r in rates if r <= limit), key=lambda r: abs(math.log(r / peak))))
            for seed in range(1, seeds + 1):
                add("final", label, 0, seed, rate, label in final_diverged and seed % 2 == 0)
    return results(rows, **({"curves": curves, "kind": kind, "optimizers": tuple(labels)} | changes))


def measured(r: Results) -> dict[str, Any]:
    """The judge's further numbers for a study, one of each kind the page has a place for."""
    rng = np.random.default_rng(1)
    labels, trials = list(r.optimizers), np.arange(1, 17)
    top = {label: 0.97 - 0.01 * k for k, label in enumerate(labels)}
    rise = {label: 1 - 0.7 * np.exp(-trials / (1 + k)) for k, label in enumerate(labels)}
    ratios = np.geomspace(1, 32, 40)
    rows = [
        {
            "optimizer": label, "reached": 5 - k % 3, "of": 5, "steps": (100 + 40 * k, 90 + 35 * k, 120 + 60 * k),
            "samples": 3200 + 1280 * k, "seconds": (0.4 + k, 0.3 + k, 0.7 + k),
        } for k, label in enumerate(labels[:-1])
    ]  # fmt: skip
    rows.append({"optimizer": labels[-1], "reached": 0, "of": 5, "steps": None, "samples": None, "seconds": None})
    basins = [
        {"optimizer": label, "width": 2.1 - 0.2 * k, "largest_stable": 0.3 / (k + 1), "diverged": k / 16, "trials": 16}
        for k, label in enumerate(labels)
    ]
    ends = [
        {"optimizer": label, "defaults": top[label] - 0.05 * (k + 1), "tuned": top[label], "defaults_half": 0.01, "tuned_half": 0.004}
        for k, label in enumerate(labels)
    ]
    ends[-1]["defaults"] = math.nan
    return {
        "tuning_cost": {
            label: {"trials": trials, "expected": top[label] * y, "low": top[label] * y**1.5, "high": top[label] * np.sqrt(y)}
            for label, y in rise.items()
        },
        "profile": {
            "ratios": ratios, "problems": ["digits-mlp", "airfoil", "mnist-cnn", "breast-cancer"], "measure": "updates to the target",
            "shares": {label: np.sort(rng.integers(0, 5, 40)) / 4 for label in labels},
        },
        "targets": {"target": 0.95, "score": r.score, "rows": rows},
        "sensitivity": {"rows": basins},
        "defaults": {"rows": ends},
    }  # fmt: skip


def course(rng: np.random.Generator, records: int, score: float, rate: float, diverged_at: int) -> Curve:
    """A plausible curve that ends at `score`, or explodes at `diverged_at`."""
    steps = np.arange(records + 1) * 5
    if diverged_at >= 0:
        steps = steps[steps <= diverged_at]
    fall = np.exp(-steps / (records * 0.8))
    loss = (2.3 * fall + 0.02 + (1 - score)) * np.exp(0.15 * rng.standard_normal(len(steps)))
    norm = (1.5 * fall + 0.1) * np.exp(0.25 * rng.standard_normal(len(steps)))
    norm[-1] = math.nan
    if diverged_at >= 0:
        loss = loss + np.exp(np.linspace(-20, 30, len(steps)))
        loss[-1] = math.inf
    evaluations = steps[:: max(1, records // 20)]
    valid = 0.1 + (score - 0.1) * (1 - np.exp(-evaluations / (records * 0.6)))
    valid_loss = 2.3 * np.exp(-evaluations / (records * 0.8)) + 0.05 + (1 - score)
    half = np.where(np.arange(len(steps)) < len(steps) / 2, rate, rate / 2)
    return Curve(steps, loss, norm, half, evaluations, {"accuracy": valid, "loss": valid_loss})
