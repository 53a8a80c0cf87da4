"""Event files for TensorBoard of one run."""

from __future__ import annotations

import math

from thalweg.errors import UserError
from thalweg.study.export import need
from thalweg.study.training.run import Run


def write(run: Run) -> None:
    """Write `tensorboard/` in the run's folder, in place of what was there: train/ and valid/ curves over updates, test/ scores at the end.

    Raises UserError where tensorboardX is not installed or the folder cannot be written.
    """
    files, summary = need("tensorboardX.writer", "tensorboardX"), need("tensorboardX.summary", "tensorboardX")
    assert run.folder is not None
    target = run.folder / "tensorboard"
    try:
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        writer = files.FileWriter(str(target), filename_suffix=".thalweg")
        try:
            for row in run.history.to_dict("records"):
                for name, value in row.items():
                    if name not in ("step", "epoch", "seconds") and math.isfinite(value):
                        tag = str(name).replace("_", "/", 1) if str(name).startswith(("train_", "valid_")) else f"train/{name}"
                        writer.add_summary(summary.scalar(tag, float(value)), int(row["step"]))
            for name, value in run.test.items():
                writer.add_summary(summary.scalar(f"test/{name}", value), run.steps)
        finally:
            writer.close()
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}; choose another folder, or make room") from None
