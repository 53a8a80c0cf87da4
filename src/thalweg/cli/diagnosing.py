"""The command of findings: diagnose."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.options import json_option, length_options, machine_options, problem_options, settings_of
from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.study.diagnosing import Diagnosed


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("problem")
@click.option("-o", "--optimizer", metavar="NAME[KEY=VALUE,...]", help="The optimizer of the training [default: adam].")
@click.option("--schedule", metavar="NAME", help="A schedule of the learning rate, such as cosine.")
@length_options
@click.option("--valid", type=float, metavar="SHARE", help="Share of the rows for validation; 0 for none.")
@problem_options
@click.option("--seed", type=int, help="Of initial weights, batches and noise [default: 0].")
@machine_options
@click.option("--seconds", type=float, default=10.0, show_default=True, help="For the measurements; what is left then is left out.")
@json_option
@click.pass_context
def diagnose(ctx: click.Context, problem: str, optimizer: str | None, seconds: float, as_json: bool, **asked: Any) -> None:
    """Say why a training oscillates, stalls, diverges or does not generalise, with the evidence and what to do.

    PROBLEM is the folder of a run or of a study, or what `thalweg train` takes: a name, a CSV file with --target, or file.py:object;
    it is then trained first, with the same options. Nothing is written, but for a study's report, which shows the findings from then on.

    \b
    thalweg diagnose advertising-linear -o sgd --lr 1e-5
    thalweg diagnose outputs/digits-mlp
    """
    named, settings = settings_of([problem, *ctx.args])
    given = {name: value for name, value in asked.items() if value is not None}
    if not seconds > 0:
        raise UserError(f"--seconds {seconds:g} must be above 0")
    from thalweg.study import diagnosing

    if Path(named).is_dir():
        if optimizer is not None or settings or given:
            extra = ", ".join(f"--{name.replace('_', '-')}" for name in [*(["optimizer"] if optimizer else []), *settings, *given])
            raise UserError(f"{named} is a folder, whose settings are known; leave out {extra}")
        found, where = diagnosing.diagnose_folder(Path(named), seconds)
    else:
        where = ""
        found = [diagnosing.of_problem(named, optimizer or "adam", settings, seconds, **given)]
    if as_json:
        from thalweg.study.report.page import clean

        plain = [{"name": one.name, "message": one.message, **one.findings.plain()} for one in found]
        click.echo(jsonlib.dumps(clean(plain[0] if len(plain) == 1 else {"runs": plain})))
        return
    told(found)
    if where:
        click.echo(where, err=True)


def told(found: Iterable[Diagnosed]) -> None:
    """Findings on standard output."""
    for one in found:
        click.echo(f"{one.name}: {one.message}\n")
        click.echo(f"{one.findings.text}\n")


def add_to(group: click.Group) -> None:
    group.add_command(diagnose)
