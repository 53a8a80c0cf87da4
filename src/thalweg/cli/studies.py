"""The commands of studies: compare, sweep, and what is done with what they leave."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from thalweg.cli import terminal
from thalweg.cli.diagnosing import told
from thalweg.cli.options import json_option, settings_of, study_options
from thalweg.errors import ThalwegError, UserError
from thalweg.study.export import TABLES, formats


@click.command()
@click.argument("problems", nargs=-1, required=True, metavar="PROBLEM...")
@click.option("--budget", type=int, help="Tuning trials of each optimizer, its defaults among them [default: 16].")
@click.option("--stop-early", is_flag=True, default=None, help="Stop the worse half of the trials after 1/4 and 1/2 of their steps.")
@click.option("--try", "first", multiple=True, metavar="NAME[KEY=VALUE,...]", help="A configuration to try right after the defaults.")
@study_options
def compare(problems: tuple[str, ...], **given: Any) -> None:
    """Tune several optimizers alike on PROBLEM, rerun each with fresh seeds, and say which to choose.

    PROBLEM is a name (thalweg list problems), a CSV file with --target, file.py:object, or a study's .toml. Several problems are
    compared one after the other, in folders of their own under --out, and then side by side on one page.

    \b
    thalweg compare digits-mlp
    thalweg compare digits-mlp breast-cancer-logistic diabetes-linear
    thalweg compare fashion-mnist-cnn -o sgd -o adam --epochs 1 --budget 4
    thalweg compare mine.py:problem -o mine.py:myrule -o adam
    """
    _studies("compare", problems, {}, **given)


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("problem")
@study_options
@click.pass_context
def sweep(ctx: click.Context, problem: str, **given: Any) -> None:
    """Train every combination of the values you name on PROBLEM, together.

    Any hyperparameter is an option: one value, several, or low..high*count.

    \b
    thalweg sweep breast-cancer-logistic -o sgd --lr 0.001,0.1,30 --full-batch
    thalweg sweep digits-mlp -o adam --lr 1e-5..1*32 --beta1 0.9,0.99
    """
    named, settings = settings_of([problem, *ctx.args])
    _studies("sweep", (named,), settings, **given)


def _studies(
    kind: str, problems: tuple[str, ...], settings: dict[str, Any], *, optimizers: tuple[str, ...], schedule: tuple[str, ...],
    out: str | None, time_text: str | None, memory: str | None, dry_run: bool, diagnose: bool, live: bool, port: int | None, quiet: bool,
    as_json: bool, first: tuple[str, ...] = (), **asked: Any,
) -> None:  # fmt: skip
    limit = terminal.seconds(time_text)
    if port is not None and not live:
        raise UserError("--port is the live page's; add --live")
    from thalweg.study import study as studies
    from thalweg.study.prepare import prepare
    from thalweg.study.report import open_beside

    chosen: Any = list(schedule) if len(schedule) > 1 else (schedule[0] if schedule else None)
    benches = [prepare(p, list(optimizers) or None, kind=kind, first=first, settings=settings, schedule=chosen, **asked) for p in problems]
    several = len(benches) > 1
    folders = [Path(out or "outputs") / b.name if several else Path(out or f"outputs/{b.name}") for b in benches]
    twice = next((b.name for b, folder in zip(benches, folders, strict=True) if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; name each problem once")
    if dry_run:
        terminal.estimates({b.name: studies.estimate(b, memory) for b in benches}, as_json)
        return
    command = "thalweg " + shlex.join(sys.argv[1:])
    end = None if limit is None else time.monotonic() + limit
    done: list[studies.Study] = []
    trained = False
    for bench, folder in zip(benches, folders, strict=True):
        left = None if end is None else max(0.0, end - time.monotonic())
        if left == 0.0 and trained:  # every call makes headway, and begins nothing once its time is over
            click.echo(f"time is over before {bench.name}; the same command goes on", err=True)
            break
        before = _stored(folder)
        try:
            with terminal.watched(folder, quiet or as_json, live, port) as progress:
                done.append(studies.run(bench, folder, time=left, memory=memory, watch=progress, command=command))
            said = done[-1].diagnose() if diagnose else []
        except KeyboardInterrupt:
            _interrupted(folder)
            raise
        trained = trained or _stored(folder) > before
        if several and not as_json:
            click.echo(f"\n{bench.name}")
        if not (several and as_json):
            terminal.present(done[-1], as_json)
        if said and not as_json:
            click.echo()
            told(said)
    if several:
        page = open_beside(folders[: len(done)], Path(out or "outputs") / "side-by-side.html") if len(done) > 1 else None
        terminal.beside({bench.name: study for bench, study in zip(benches, done, strict=False)}, page, as_json)


def _stored(folder: Path) -> int:
    """How many runs a folder's study holds."""
    from thalweg.study.study import Study

    try:
        study = Study.open(folder)
    except ThalwegError:
        return 0
    try:
        return len(study.table())
    except ThalwegError:
        return 0
    finally:
        study.close()


def _interrupted(folder: Path) -> None:
    """Write the report of what there is, as far as there is anything."""
    from thalweg.study.study import Study

    try:
        study = Study.open(folder)
        study.report()
        click.echo(f"stopped; {len(study.table())} finished runs are kept in {folder}: the same command goes on", err=True)
    except ThalwegError:
        pass


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show the verdict of the study in FOLDER, or the end of the run there, finished or not.

    \b
    thalweg show outputs/digits-mlp
    """
    if (folder / "run.toml").exists():
        from thalweg.study.training.run import Run

        terminal.ended(Run.open(folder), as_json, report=False)
        return
    from thalweg.study.study import Study

    terminal.present(Study.open(folder), as_json, report=False)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def status(folder: Path, as_json: bool) -> None:
    """Say how far the study in FOLDER is.

    \b
    thalweg status outputs/digits-mlp
    """
    from thalweg.study.study import Study

    results = Study.open(folder).results()
    done = results.runs["phase"].value_counts().to_dict()
    rows = [
        {
            "phase": phase, "planned": planned, "done": int(done.get(phase, 0)),
            "diverged": int(((results.runs["phase"] == phase) & (results.runs["status"] == "diverged")).sum()),
            "engine": results.plan["phases"].get(phase, {}).get("engine"), "seconds": results.seconds.get(phase, 0.0),
        }
        for phase, planned in results.planned.items()
    ]  # fmt: skip
    if as_json:
        click.echo(jsonlib.dumps({"name": results.name, "phases": rows}))
    else:
        terminal.table(rows, results.name)


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Where to write it [default: FOLDER/report.html, or side-by-side.html].")
def report(folders: tuple[Path, ...], to: Path | None) -> None:
    """Write the report of the study or the run in FOLDER, finished or not; of several studies, one page with all side by side.

    \b
    thalweg report outputs/digits-mlp
    thalweg report outputs/digits-mlp outputs/airfoil --to both.html
    """
    from thalweg.study.report import open_beside
    from thalweg.study.study import Study
    from thalweg.study.training.run import Run

    if len(folders) == 1 and (folders[0] / "run.toml").exists():
        click.echo(Run.open(folders[0]).report(to))
        return
    click.echo(Study.open(folders[0]).report(to) if len(folders) == 1 else open_beside(folders, to))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(formats()), help="[default: what the ending of --to says, else csv]")
@click.option("--table", type=click.Choice(TABLES), help="Which table, where the format holds several [default: runs].")
@click.option("--to", metavar="PATH", help="A file, tensorboard's folder or optuna's storage, instead of standard output.")
def export(folder: Path, kind: str | None, table: str | None, to: str | None) -> None:
    """Export the study in FOLDER, finished or not: runs, curves or standings, for other tools.

    \b
    thalweg export outputs/digits-mlp --format csv > runs.csv
    thalweg export outputs/digits-mlp --table curves --to curves.parquet
    thalweg export outputs/digits-mlp --format latex
    """
    from thalweg.study.study import Study

    if kind == "optuna" and to is None:
        raise UserError("an Optuna study needs a place: name a file or a storage with --to, such as --to sqlite:///trials.db")
    content = Study.open(folder).export(kind, to, table=table)
    if to is None:
        click.echo(content, nl=False)


@click.command(name="list")
@click.argument("what", required=False)
@click.option("--plot", is_flag=True, help="Draw the schedules, each over 100 updates; with --json, print the numbers.")
@click.option("--to", type=click.Path(path_type=Path), help="Where --plot writes an SVG, instead of drawing in the terminal.")
@json_option
def list_(what: str | None, plot: bool, to: Path | None, as_json: bool) -> None:
    """List what there is: optimizers, wrappers, schedules, losses, regularizers, models, datasets, pictures, problems or studies.

    \b
    thalweg list optimizers
    thalweg list problems
    thalweg list schedules --plot --to schedules.svg
    """
    from thalweg.cli.listing import show

    show(what, as_json, plot, to)


def add_to(group: click.Group) -> None:
    for command in (compare, sweep, show, status, report, export, list_):
        group.add_command(command)
