"""The command of one run: train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from thalweg.cli import terminal
from thalweg.cli.options import json_option, length_options, machine_options, problem_options, settings_of
from thalweg.errors import UserError


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("problem")
@click.option(
    "-o",
    "--optimizer",
    default="adam",
    show_default=True,
    metavar="NAME[KEY=VALUE,...]",
    help="An optimizer (thalweg list optimizers), lbfgs, or file.py:rule.",
)
@click.option("--schedule", metavar="NAME", help="A schedule of the learning rate, such as cosine or 'cosine(floor=0.1)'.")
@click.option("--warmup", type=int, metavar="STEPS", help="Steps over which the rate grows from 0.")
@length_options
@click.option("--scale-with-batch", type=int, metavar="N", help="--lr was found for batches of N rows: scale it with the batch.")
@click.option("--early-stopping", type=int, metavar="N", help="End after N evaluations without a better validation score; keep the best.")
@click.option("--evaluate-every", type=int, metavar="STEPS", help="Steps between evaluations [default: an epoch].")
@click.option("--valid", type=float, metavar="SHARE", help="Share of the rows for validation; 0 for none.")
@problem_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of initial weights, batches and noise.")
@machine_options
@click.option("--precision", type=click.Choice(["full", "bf16", "double"]), help="bf16: autocast; double: what lbfgs takes by itself.")
@click.option("--layout", type=click.Choice(["auto", "as given", "channels last"]), default="auto", help="How images go to the model.")
@click.option("--out", metavar="DIR", help="The run's folder [default: outputs/<problem>-<optimizer>]. The same run there goes on.")
@click.option("--save-every", type=int, metavar="STEPS", help="A checkpoint each so many steps, besides those at evaluations.")
@click.option("--fresh", is_flag=True, help="Delete the run in the folder first.")
@click.option("--pictures", type=click.Choice(["svg", "png"]), help="Write the pictures of the run as files too.")
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="NAME",
    help="Measure inside the run: sharpness, gradients, noise ... or default (thalweg list probes); repeat it.",
)
@click.option("--probe-every", type=int, metavar="STEPS", help="Steps between measurements [default: as a 20th of the time allows].")
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard too.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_context
def train(
    ctx: click.Context, problem: str, optimizer: str, out: str | None, save_every: int | None, fresh: bool, pictures: str | None,
    tensorboard: bool, quiet: bool, as_json: bool, probes: tuple[str, ...], probe_every: int | None, **asked: Any,
) -> None:  # fmt: skip
    """Train one model on PROBLEM, with checkpoints; the same command goes on where it was interrupted, bit by bit.

    PROBLEM is a name (thalweg list problems), a CSV file with --target, or file.py:object. Any hyperparameter is an option.

    \b
    thalweg train digits-mlp -o adamw --lr 0.003 --schedule cosine --warmup 50 --epochs 10
    thalweg train fashion-mnist-cnn --epochs 3 --early-stopping 2 --label-smoothing 0.1
    thalweg train advertising-linear --all-rows -o lbfgs
    """
    named, settings = settings_of([problem, *ctx.args])
    from thalweg.study.training import pictures as drawn
    from thalweg.study.training import train as training
    from thalweg.study.training.prepare import home_of, prepare

    given = {name: value for name, value in asked.items() if value is not None}
    bench = prepare(named, optimizer, settings, identify=True, **given)
    measure = training.inside(probes, probe_every)
    folder = home_of(bench.name, out)
    if fresh:
        _delete(folder)
    with terminal.Training(quiet or as_json) as progress:
        run = training.run(bench, folder, save_every, progress, tensorboard, measure)
    if pictures is not None:
        drawn.save_all(run, folder / "pictures", pictures)
    terminal.ended(run, as_json)
    if run.status == "interrupted":
        raise KeyboardInterrupt


def _delete(folder: Path) -> None:
    if folder.exists() and not (folder / "run.toml").exists():
        raise UserError(f"{folder} holds no run; --fresh deletes nothing else")
    shutil.rmtree(folder, ignore_errors=True)


def add_to(group: click.Group) -> None:
    group.add_command(train)
