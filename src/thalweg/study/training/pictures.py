"""The pictures of a run: those of `thalweg.pictures` that apply to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thalweg.core import picture
from thalweg.study.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def available(run: Run) -> dict[str, Any]:
    """What pictures of this run can be drawn from, by the names that they ask for."""
    given: dict[str, Any] = {"history": run.history}
    if run.model is not None and run.problem is not None:
        parts = {name: getattr(run.problem, name) for name in ("train", "valid", "test")}
        given |= {"model": run.model, **{name: part for name, part in parts.items() if _is_pair(part)}}
    return given


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def draw(run: Run, name: str, **options: Any) -> Figure:
    """One picture of a run. Raises UserError where it does not apply, and where the run was opened from its folder without a model."""
    return picture.draw(name, **available(run), **options)


def draw_all(run: Run) -> dict[str, Figure]:
    """Every picture that applies to a run, by name."""
    return picture.draw_all(**available(run))


def save_all(run: Run, folder: Path, form: str = "svg") -> dict[str, Path]:
    """Write every picture that applies into a folder; name -> file."""
    return {name: picture.save(figure, folder / f"{name}.{form}") for name, figure in draw_all(run).items()}


TITLES: Mapping[str, str] = {
    "gap": "Training and validation", "learning_rate": "Learning rate", "loss": "Training loss", "confusion_matrix": "Confusion matrix",
    "decision_regions": "Decision regions", "weight_templates": "Weight templates",
}  # fmt: skip
"""How the page calls pictures; others are called by their name."""
