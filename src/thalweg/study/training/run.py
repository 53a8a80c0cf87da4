"""What a run gives: its model, what was measured, its page and its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from thalweg.core.files import write_whole
from thalweg.core.problem import Problem
from thalweg.errors import UserError
from thalweg.study.training import home

if TYPE_CHECKING:
    from thalweg.core.finding import Findings


@dataclass(frozen=True, repr=False)
class Run:
    """A run, ended or interrupted.

    model: with the answer's weights: the last ones, or the best under early stopping; None where a folder was opened. status: "done",
    "stopped early", "diverged" or "interrupted". message: a sentence on it. history: a row a record or an evaluation (step, epoch, loss,
    lr, grad_norm, seconds, train_..., valid_...; nan where it has none). test: scores on the test rows, touched once, at the end.
    best: step and validation score of the answer, under early stopping. seconds: of training, evaluations aside.
    samples_per_second: rows trained on in one. coefficients: of a linear model, in the units of the data. notes: what a reader should know.
    """

    name: str
    spec: Mapping[str, Any]
    model: nn.Module | None
    status: str
    message: str
    history: pd.DataFrame
    steps: int
    seconds: float
    samples_per_second: float
    test: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    problem: Problem | None = field(default=None, compare=False)

    def state_dict(self) -> dict[str, Tensor]:
        """The answer's weights and buffers, on the processor."""
        if self.model is not None:
            return {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        assert self.folder is not None
        return home.torch.load(self.folder / "model.pt", map_location="cpu", weights_only=True)

    def final(self, name: str) -> float:
        """The last value of a column of the history, such as "valid_accuracy"."""
        if name not in self.history or not self.history[name].notna().any():
            raise UserError(f"the run has no {name}; it has {', '.join(map(str, self.history.columns))}")
        return float(self.history[name].dropna().iloc[-1])

    def summary(self) -> dict[str, Any]:
        """The run in plain values, under the names of its attributes."""
        last = {
            str(n): self.final(str(n)) for n in self.history if str(n).startswith(("train_", "valid_")) and self.history[n].notna().any()
        }
        return {
            "name": self.name, "status": self.status, "message": self.message, "steps": self.steps, "seconds": self.seconds,
            "samples_per_second": self.samples_per_second, **last, "test": dict(self.test), "best": dict(self.best),
            "coefficients": dict(self.coefficients), "notes": list(self.notes), "folder": None if self.folder is None else str(self.folder),
        }  # fmt: skip

    def picture(self, name: str, **options: Any) -> Any:
        """One of `tw.pictures` of this run, as a matplotlib Figure. Raises UserError where it does not apply."""
        from thalweg.study.training.pictures import draw

        return draw(self, name, **options)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page of the run, which needs no network, and return where it is: `report.html` in its folder by default."""
        from thalweg.study.training.page import render

        if path is None and self.folder is None:
            raise UserError("this run has no folder: give report() a path")
        target = Path(path) if path is not None else Path(self.folder or ".") / "report.html"
        write_whole(target, render(self))
        return target

    def diagnose(self, seconds: float = 10.0) -> Findings:
        """Why the run went as it did: causes, evidence and remedies. seconds: for the measurements. Raises UserError where a folder was
        opened that holds no checkpoint yet."""
        from thalweg.study.diagnosing import of_run

        return of_run(self, seconds)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in a folder, ended or not, as of its last checkpoint. Raises UserError where there is none."""
        where = Path(folder)
        if not (where / "run.toml").exists():
            raise UserError(f"there is no run in {where}; name a folder that `thalweg train` wrote")
        spec = home.read_toml(where / "run.toml")
        path = where / "result.json"
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{path} is damaged: {error}; run the same `thalweg train` again") from None
        else:
            state = home.read_checkpoint(where / home.CHECKPOINT) if (where / home.CHECKPOINT).exists() else {"t": 0, "seconds": 0.0}
            known = {"status": "interrupted", "message": f"{state['t']} steps are done", "steps": state["t"], "seconds": state["seconds"]}
        tables = [_table(where / f"{name}.csv") for name in home.TABLES]
        shown = ("status", "message", "steps", "seconds", "samples_per_second", "test", "best", "coefficients")
        given = {k: known[k] for k in shown if k in known}
        given.setdefault("samples_per_second", given["steps"] * spec["batch_size"] / max(given["seconds"], 1e-9))
        return cls(
            known.get("name", where.name), spec, None, history=merged(*tables), notes=tuple(known.get("notes", ())), folder=where, **given
        )

    def __repr__(self) -> str:
        scores = ", ".join(f"test {name} {value:.4g}" for name, value in self.test.items())
        return f"Run({self.name}: {self.status}, {self.steps} steps, {self.seconds:.1f} s{', ' + scores if scores else ''})"


def _table(path: Path) -> list[dict[str, float]]:
    if not path.exists() or not path.read_text().strip():
        return []
    return pd.read_csv(path).to_dict("records")  # type: ignore[return-value]


def merged(
    records: list[dict[str, float]], evaluations: list[dict[str, float]], measurements: Sequence[dict[str, float]] = ()
) -> pd.DataFrame:
    """Records, evaluations and measurements as one table, by step, which is the updates done: the loss at a common step comes last."""
    tables = (evaluations, measurements, records)
    rows = sorted(((row["step"], place, row) for place, table in enumerate(tables) for row in table), key=lambda row: row[:2])
    frame = pd.DataFrame([row for *_, row in rows])
    return frame if len(frame) else pd.DataFrame(columns=["step", "epoch", "loss", "lr"])
