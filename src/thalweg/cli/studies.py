"""The command line. Everything heavy is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from thalweg import __version__, terminal
from thalweg.errors import ThalwegError, UserCodeError, UserError, unknown
from thalweg.options import json_option, study_options
from thalweg.study.export import TABLES, formats


class Commands(click.Group):
    """A group that offers the nearest command for a misspelt one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(str(unknown("command", args[0], self.list_commands(ctx))))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="thalweg")
def commands() -> None:
    """Choose an optimizer for your PyTorch model by measurement.

    \b
    thalweg compare digits-mlp                  tune five optimizers alike, and say which to choose
    thalweg compare data.csv --target price     the same for a table of yours
    thalweg list optimizers                     what there is
    """


def main() -> None:
    """The entry point: 0 done, 2 the user's mistake, 1 anything else, 130 interrupted."""
    try:
        code = commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing that was finished is lost", err=True)
        code = 130
    except UserError as error:
        if isinstance(error, UserCodeError):
            click.echo(error.frames, err=True)
        click.echo(f"thalweg: {error}", err=True)
        code = 2
    except ThalwegError as error:
        click.echo(f"thalweg: {error}", err=True)
        code = 1
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


@commands.command()
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


@commands.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
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
    named, settings = _settings([problem, *ctx.args])
    _studies("sweep", (named,), settings, **given)


def _settings(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """`digits-mlp --lr 0.1,1 --momentum=0.9` as the problem and settings of the optimizers."""
    from thalweg.study.spec import parse_settings

    pairs, rest, problems = [], list(arguments), []
    while rest:
        head = rest.pop(0)
        if not head.startswith("--"):
            problems.append(head)
            continue
        name, equals, value = head[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"--{name} needs a value, such as --{name} 0.1,1")
            value = rest.pop(0)
        pairs.append(f"{name.replace('-', '_')}={value}")
    if len(problems) != 1:
        raise UserError(f"name one problem, not {', '.join(problems) or 'none'}; hyperparameters are written --name value")
    return problems[0], parse_settings(";".join(pairs), " ".join(arguments))


def _studies(
    kind: str, problems: tuple[str, ...], settings: dict[str, Any], *, optimizers: tuple[str, ...], schedule: tuple[str, ...],
    out: str | None, time_text: str | None, memory: str | None, dry_run: bool, live: bool, port: int | None, quiet: bool, as_json: bool,
    first: tuple[str, ...] = (), **asked: Any,
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
        except KeyboardInterrupt:
            _interrupted(folder)
            raise
        trained = trained or _stored(folder) > before
        if several and not as_json:
            click.echo(f"\n{bench.name}")
        if not (several and as_json):
            terminal.present(done[-1], as_json)
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


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show the verdict of the study in FOLDER, finished or not.

    \b
    thalweg show outputs/digits-mlp
    """
    from thalweg.study.study import Study

    terminal.present(Study.open(folder), as_json, report=False)


@commands.command()
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


@commands.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Where to write it [default: FOLDER/report.html, or side-by-side.html].")
def report(folders: tuple[Path, ...], to: Path | None) -> None:
    """Write the report of the study in FOLDER, finished or not; of several studies, one page with all side by side.

    \b
    thalweg report outputs/digits-mlp
    thalweg report outputs/digits-mlp outputs/airfoil --to both.html
    """
    from thalweg.study.report import open_beside
    from thalweg.study.study import Study

    click.echo(Study.open(folders[0]).report(to) if len(folders) == 1 else open_beside(folders, to))


@commands.command()
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


@commands.command(name="list")
@click.argument("what", required=False)
@click.option("--plot", is_flag=True, help="Draw the schedules, each over 100 updates; with --json, print the numbers.")
@click.option("--to", type=click.Path(path_type=Path), help="Where --plot writes an SVG, instead of drawing in the terminal.")
@json_option
def list_(what: str | None, plot: bool, to: Path | None, as_json: bool) -> None:
    """List what there is: optimizers, wrappers, schedules, losses, regularizers, models, datasets, problems or studies.

    \b
    thalweg list optimizers
    thalweg list problems
    thalweg list schedules --plot --to schedules.svg
    """
    from thalweg.listing import show

    show(what, as_json, plot, to)
