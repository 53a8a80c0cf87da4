"""What the terminal shows: progress while a study runs, tables and sentences after it."""

from __future__ import annotations

import contextlib
import json as jsonlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.engine.loop.loop import Loop
    from thalweg.study.judge import Verdict
    from thalweg.study.progress import Status
    from thalweg.study.training.run import Run


class Line:
    """Progress on standard error: one live line in a terminal, plain lines (one every few seconds) elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.live = sys.stderr.isatty()
        self.quiet = quiet
        self.began = self.shown = time.monotonic()
        self.status: Any = None

    def __enter__(self) -> Self:
        if self.live and not self.quiet:
            from rich.console import Console
            from rich.live import Live

            self.status = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.status.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.status is not None:
            self.status.__exit__(*error)

    def show(self, line: str, last: bool = False) -> None:
        now = time.monotonic()
        if self.status is not None:
            self.status.update(line)
        elif now - self.shown >= 5 or last:
            self.shown = now
            click.echo(line, err=True)


class Progress(Line):
    """How far a study is. tell: is given every line too, for the live page."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self.tell: Callable[[str], None] | None = None
        self.phase, self.start = "", 0

    def __call__(self, status: Status) -> None:
        if self.quiet and self.tell is None:
            return
        now = time.monotonic()
        if status.phase != self.phase:
            self.phase, self.start, self.began = status.phase, status.done, now
        line = self._line(status, now - self.began)
        if self.tell is not None:
            self.tell(line)
        if not self.quiet:
            self.show(line, status.done == status.total and status.alive == 0)

    def _line(self, s: Status, seconds: float) -> str:
        names = {"tune": "tuning", "final": "final runs", "sweep": "sweep"}
        inside = s.alive * s.step / max(s.steps, 1)
        share = (s.done - self.start + inside) / max(s.total - self.start, 1)
        left = f", about {_duration(seconds * (1 - share) / share)} left" if share > 0.05 and share < 1 else ""
        where = f"{s.optimizer} step {s.step}/{s.steps}, {s.alive} alive" if s.alive else s.optimizer
        best = f"; best so far {s.best}" if s.best else ""
        return f"{names.get(s.phase, s.phase)}: {s.done}/{s.total} runs done ({where}), {s.diverged} diverged{best}{left}"


class Training(Line):
    """How far a run is: step, epoch, loss, last score, rows a second, time left."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self.first: tuple[int, float] | None = None
        self.looked = 0.0

    def __call__(self, loop: Loop) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        over = loop.status != "running"
        if self.first is None:
            self.first = (loop.t, now)
        if now - self.looked < 0.2 and not over:
            return
        self.looked = now
        self.show(self._line(loop, now), over)

    def _line(self, loop: Loop, now: float) -> str:
        assert self.first is not None
        source, total = loop.source, loop.settings.steps
        done, took = loop.t - self.first[0], now - self.first[1]
        parts = [f"step {loop.t}/{total}, epoch {loop.t / source.per_epoch:.2f}"]
        if loop.records:
            parts.append(f"loss {loop.records[-1]['loss']:.4g}")
        score = f"valid_{loop.problem.score}"
        if loop.evaluations and score in loop.evaluations[-1]:
            parts.append(f"validation {loop.problem.score} {loop.evaluations[-1][score]:.4g}")
        if done and took > 0.5:
            parts.append(f"{done / took * source.rows / source.per_epoch:,.0f} rows/s")
            if loop.t < total and loop.status == "running":
                parts.append(f"about {_duration(took / done * (total - loop.t))} left")
        return ", ".join(parts)


@contextlib.contextmanager
def watched(folder: Path, quiet: bool, live: bool, port: int | None) -> Iterator[Progress]:
    """The progress of a study in a folder; live: also as a page, whose address is printed."""
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet))
        if live:
            from thalweg.study.live import Live

            page = stack.enter_context(Live(folder, port or 0))
            progress.tell = page.tell
            click.echo(f"live: {page.url}", err=True)
        yield progress


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
    """Rows as a table on standard output; in a pipe without colours and as wide as it needs."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in rows[0]:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell(value) for value in row.values()))
    console.print(drawn)


def cell(value: Any) -> str:
    """One value as it is read most easily."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={cell(v)}" for k, v in value.items())
    return str(value)


def standings(verdict: Verdict, score: str) -> list[dict[str, Any]]:
    """The judge's table in the words of the terminal."""
    rows = []
    for row in verdict.standings.to_dict("records"):
        half = f" ± {row['half']:.2g}" if row["half"] == row["half"] else ""
        rows.append(
            {
                "optimizer": row["optimizer"],
                "configuration": cell(row["config"]) if isinstance(row["config"], Mapping) else "",
                score: f"{row['mean']:.4g}{half}" if row["mean"] == row["mean"] else "",
                "seeds": row["seeds"],
                "best is better with p": row["probability"],
                "tuning diverged": f"{row['diverged_tuning']:.0%}" if row["diverged_tuning"] == row["diverged_tuning"] else "",
            }
        )
    return rows


def say(sentences: Iterable[str]) -> None:
    """Sentences on standard output, a line each, wrapped in a terminal."""
    width = click.formatting.wrap_text
    for sentence in sentences:
        click.echo(width(sentence, 100) if sys.stdout.isatty() else sentence)


def estimate(found: dict[str, Any], as_json: bool) -> None:
    """What a dry run found."""
    if as_json:
        click.echo(jsonlib.dumps(found))
        return
    runs = ", ".join(f"{count} {phase}" for phase, count in found["runs"].items())
    engines = ", ".join(f"{engine} ({phase})" for phase, engine in found["engine"].items())
    click.echo(f"runs: {runs}; each {found['steps']} steps of {found['batch_size']} rows")
    click.echo(f"engine: {engines}, on {found['device']}")
    click.echo(f"memory: about {found['memory_bytes'] / 2**20:.0f} MiB beside the data")
    took = "not measured, since the engine was named" if found["seconds"] is None else f"about {found['seconds']:.0f} s"
    click.echo(f"time: {took}")


def estimates(found: Mapping[str, dict[str, Any]], as_json: bool) -> None:
    """What a dry run of each study found."""
    if as_json and len(found) > 1:
        click.echo(jsonlib.dumps(found))
        return
    for name, one in found.items():
        if len(found) > 1:
            click.echo(f"{name}:")
        estimate(one, as_json)


def beside(studies: Mapping[str, Any], page: Path | None, as_json: bool) -> None:
    """What several studies come to: who won how often, how near the best each was over all, and where they are side by side."""
    from thalweg.study.profiles import overall
    from thalweg.study.report.side import summary

    verdicts = {name: study.verdict for name, study in studies.items()}
    found = overall(studies)
    area = {} if found is None else {str(label): float(height) for label, height in found[1].area.items()}
    measure = "" if found is None else found[0]
    if as_json:
        each = {name: _plain(verdict, studies[name].report()) for name, verdict in verdicts.items()}
        profile = {"measure": measure, "area": area} if area else None
        click.echo(jsonlib.dumps({"studies": each, "profile": profile, "report": None if page is None else str(page)}))
        return
    click.echo()
    say([summary(verdicts)])
    if area:
        say([f"Area under the performance profile ({measure}; 1: always the best): {', '.join(f'{k} {v:.2f}' for k, v in area.items())}."])
    if page is not None:
        click.echo(f"side by side: {page}")


def present(study: Any, as_json: bool, report: bool = True) -> None:
    """The verdict on standard output, and where the report is."""
    from thalweg.study.reasons import table as each_run

    results = study.results()
    page = study.report() if report else None
    verdict = study.verdict
    if as_json:
        click.echo(jsonlib.dumps(_plain(verdict, page) | ({"diagnosed": list(results.diagnosed)} if results.diagnosed else {})))
        return
    table(standings(verdict, ("training " if results.all_rows else "") + results.score))
    table(each_run(results, verdict.findings.runs), "each run")
    say([verdict.headline, *verdict.sentences])
    if page is not None:
        click.echo(f"\nreport: {page}")


def ended(run: Run, as_json: bool, report: bool = True) -> None:
    """What a run came to, on standard output, and where its page is."""
    from thalweg.study.training.page import clean, facts, headline

    page = run.report() if report else None
    if as_json:
        click.echo(jsonlib.dumps(clean({**run.summary(), "report": None if page is None else str(page)})))
        return
    table([{"": name, run.name: value} for name, value in facts(run)])
    if run.coefficients:
        table([{"coefficient": name, "in the units of the data": f"{value:.6g}"} for name, value in run.coefficients.items()])
    say([headline(run)])
    if page is not None:
        click.echo(f"\nreport: {page}")


def _plain(verdict: Any, page: Path | None) -> dict[str, Any]:
    standings = jsonlib.loads(verdict.standings.drop(columns=["runs"], errors="ignore").to_json(orient="records"))
    names = ("winner", "leader", "config", "mean", "half", "seeds", "headline", "sentences", "unfinished")
    found = {name: getattr(verdict, name) for name in names}
    found = {k: None if isinstance(v, float) and v != v else v for k, v in found.items()}
    return {**found, "standings": standings, "findings": verdict.findings.plain(), "report": None if page is None else str(page)}


def seconds(text: str | None) -> float | None:
    """A duration: 90, 90s, 10m, 1.5h.

    >>> seconds("10m"), seconds("1.5h"), seconds(None)
    (600.0, 5400.0, None)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match:
        raise UserError(f"--time {text} is not a duration; write 90s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
