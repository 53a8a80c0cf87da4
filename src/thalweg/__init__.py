"""thalweg: choose an optimizer for your PyTorch model by measurement.

Names are imported when first used, so that `import thalweg` and `thalweg --help` answer at once.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Plateau": "thalweg.engine.optimizer.plateau",
    "Problem": "thalweg.core.problem",
    "Rule": "thalweg.core.rule",
    "Scheduler": "thalweg.engine.optimizer.scheduler",
    "ThalwegError": "thalweg.errors",
    "UserError": "thalweg.errors",
    "batches": "thalweg.core.batches",
    "certify": "thalweg.solve.certificate",
    "diagnose": "thalweg.explain.findings",
    "gradcheck": "thalweg.calculus",
    "is_convex": "thalweg.calculus",
    "least_squares": "thalweg.solve.squares",
    "minimize": "thalweg.solve.minimize",
    "range_test": "thalweg.explain.range_test",
    "root": "thalweg.solve.squares",
    "rule": "thalweg.core.rule",
    "step_seed": "thalweg.core.batches",
    "Run": "thalweg.study.training.run",
    "Runs": "thalweg.study.sweep",
    "Study": "thalweg.study.study",
    "compare": "thalweg.study.study",
    "optimizer": "thalweg.optim",
    "cost_table": "thalweg.study.profiles",
    "problem": "thalweg.study.problems",
    "profiles": "thalweg.study.profiles",
    "sweep": "thalweg.study.sweep",
    "trace": "thalweg.study.tracing",
    "train": "thalweg.study.training.train",
}
_PACKAGES = (
    "calculus", "causes", "core", "datasets", "directions", "functions", "losses", "models", "optim", "optimizers", "pictures", "probes",
    "regularizers", "schedules", "searches", "sets", "wrappers",
)  # fmt: skip

__all__ = ["__version__", *_HOMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"thalweg.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'thalweg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
