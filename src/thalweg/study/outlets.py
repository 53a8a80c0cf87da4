"""What leaves a study, finished or not: its report, its exports, and what a notebook shows of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import UserError
from thalweg.study.folder import claim
from thalweg.study.results import Results

if TYPE_CHECKING:
    from thalweg.study.diagnosing import Diagnosed
    from thalweg.study.prepare import Bench
    from thalweg.study.store import Store


class Outlets:
    """The ways out of a study; `Study` gives the results."""

    folder: Path | None
    store: Store
    bench: Bench | None

    def results(self) -> Results:
        raise NotImplementedError

    def report(self, path: str | Path | None = None) -> Path:
        """Write the offline HTML page and return where it is; by default `report.html` in the study's folder."""
        from thalweg.study.report import write

        if path is None and self.folder is None:
            raise UserError("this study has no folder: give report() a path")
        target = Path(path) if path is not None else Path(self.folder or ".") / "report.html"
        write(self.results(), target)
        return target

    def export(self, format: str | None = None, path: str | Path | None = None, *, table: str | None = None) -> Any:
        """Write the study in another tool's format and return the path; without a path return what would stand in the file.

        format: "csv", "json", "parquet" (tables), "latex" (the standings, booktabs), "tensorboard" (a folder of event files) or "optuna"
        (path: a file, which becomes SQLite, or a storage's URL; without one the optuna.Study is in memory; it is what is returned).
        Where it is left out, the path's ending decides. table: "runs" (a row a run, the default), "curves" (a row a run and a
        recorded step) or "standings" (a row an optimizer), for CSV, JSON and Parquet. An unfinished study gives what there is.
        Raises UserError for a format that is not known, a package that is not installed, or a place that cannot be written.

        >>> from thalweg import compare
        >>> study = compare("diabetes-linear", ["sgd", "adam"], budget=2, seeds=2, epochs=1)
        >>> study.export("csv").splitlines()[0][:36], len(study.export("json", table="standings").splitlines())
        ('id,phase,optimizer,trial,seed,lr,sta', 2)
        """
        from thalweg.study.export import export

        return export(self.results(), format, None if path is None else str(path), table)

    def diagnose(self, seconds: float = 10.0) -> list[Diagnosed]:
        """Say what is wrong with the chosen configuration of each optimizer, each trained once more; the report shows it from then on.

        seconds: for all measurements together, and for each of the trainings. The findings are stored with the study, until it is gone on
        with. Raises UserError where a study that was opened from a folder is of objects which that does not name.
        """
        from thalweg.study.diagnosing import attach, of_study

        lock = None if self.folder is None else claim(self.folder)
        try:
            found = of_study(self, seconds)
            attach(self, found)
        finally:
            if lock is not None:
                lock.release()
        return found

    # --- notebooks

    def __repr__(self) -> str:
        from thalweg.study.notebook import study_text

        return study_text(self)

    def _repr_markdown_(self) -> str:
        from thalweg.study.notebook import study_markdown

        return study_markdown(self)

    def _repr_html_(self) -> str:
        from thalweg.study.notebook import study_html

        return study_html(self)
