"""Event files for TensorBoard: a folder a run with its curves, its hyperparameters and its scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thalweg.errors import UserError
from thalweg.study.export import Outlet, need
from thalweg.study.results import Curve, Results

MINE = "events.out.tfevents.*.thalweg"


def write(results: Results, where: str | None) -> Path:
    """Write `<where>/<phase>/<optimizer>/<trial or seed>/` for each run, in place of what an earlier export wrote there.

    Tags: train/loss, train/grad_norm, train/lr, valid/<metric> over updates; score/<column> once, at the last update; the
    hyperparameters as TensorBoard's HPARAMS tab reads them. Values that are not finite are left out.
    """
    if where is None:
        raise UserError("event files need a folder: name one, such as --to events (from Python: path='events')")
    files, summary = need("tensorboardX.writer", "tensorboardX"), need("tensorboardX.summary", "tensorboardX")
    target = Path(where)
    names = folders(results.optimizers)
    scored = [c for c in results.runs.columns if c.startswith(("train_", "valid_", "test_"))]
    try:
        for run in results.runs.to_dict("records"):
            place = target / run["phase"] / names[run["optimizer"]]
            place /= f"seed-{run['seed']}" if run["phase"] == "final" else f"trial-{run['trial']:03d}-seed-{run['seed']}"
            for old in place.glob(MINE):
                old.unlink()
            writer = files.FileWriter(str(place), filename_suffix=".thalweg")
            try:
                _run(writer, summary, run, results.curves.get(run["id"]), {c: run[c] for c in scored if math.isfinite(run[c])})
            finally:
                writer.close()
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; choose another folder, or make room") from None
    return target


def _run(writer: Any, summary: Any, run: Mapping[Any, Any], curve: Curve | None, scores: Mapping[str, float]) -> None:
    hypers = {"optimizer": run["optimizer"], **run["config"], "seed": run["seed"], "phase": run["phase"], "status": run["status"]}
    known = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in hypers.items()}
    tags = {f"score/{column}": value for column, value in scores.items()}
    for part in summary.hparams(known, tags):
        writer.add_summary(part)
    lines: list[tuple[str, Any, Any]] = [(tag, [run["steps"]], [value]) for tag, value in tags.items()]
    if curve is not None:
        lines += [(f"train/{name}", curve.steps, getattr(curve, name)) for name in ("loss", "grad_norm", "lr")]
        lines += [(f"valid/{name}", curve.eval_steps, values) for name, values in curve.valid.items()]
    for tag, steps, values in lines:
        for step, value in zip(steps, values, strict=False):
            if math.isfinite(value):
                writer.add_summary(summary.scalar(tag, float(value)), int(step))


def folders(labels: tuple[str, ...]) -> dict[str, str]:
    """Label -> a name that any file system takes, different for each.

    >>> folders(("adam", "mine.py:lion", "mine.py/lion", ".."))
    {'adam': 'adam', 'mine.py:lion': 'mine.py_lion', 'mine.py/lion': 'mine.py_lion-2', '..': '_'}
    """
    found: dict[str, str] = {}
    for place, label in enumerate(labels):
        name = re.sub(r"[^\w.,=+-]+", "_", label)
        name = name if name.strip(".") else "_"
        found[label] = f"{name}-{place}" if name.lower() in {other.lower() for other in found.values()} else name
    return found


outlet = Outlet(endings=(), write=write)
