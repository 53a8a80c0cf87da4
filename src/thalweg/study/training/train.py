"""`tw.train`: one run, from names to an answer, with checkpoints from which it goes on bit by bit."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.core.files import write_whole
from thalweg.core.problem import Problem
from thalweg.engine.loop.loop import Loop
from thalweg.engine.recording import kernel
from thalweg.engine.work import threads_of
from thalweg.errors import UserError
from thalweg.explain.inside import Inside
from thalweg.study.export import need
from thalweg.study.training.home import Home, write_checkpoint
from thalweg.study.training.prepare import Bench, prepare
from thalweg.study.training.run import Run, merged

Watch = Callable[[Loop], None]
SAVE_SECONDS = 60.0
"""A checkpoint at least so often, besides those at evaluations."""


def train(
    problem: str | Problem, optimizer: Any = "adam", *, schedule: Any = None, warmup: int | None = None, epochs: float | None = None,
    steps: int | None = None, batch_size: int | None = None, full_batch: bool = False, scale_with_batch: int | None = None, seed: int = 0,
    device: str = "auto", precision: str | None = None, accumulate: int = 1, layout: str = "auto", valid: float | None = None,
    evaluate_every: int | None = None, early_stopping: int | None = None, every: int | None = None, out: str | Path | None = None,
    save_every: int | None = None, tensorboard: bool = False, watch: Watch | None = None, data: str | Path | None = None,
    target: str | None = None, model: str | None = None, loss: str | None = None, all_rows: bool = False,
    standardize: bool | None = None, probes: Sequence[str | Callable[..., Any]] = (), probe_every: int | None = None, **settings: Any,
) -> Run:  # fmt: skip
    """Train one model.

    problem: a name (`thalweg list problems`), a CSV file with `target`, `file.py:object`, or a Problem, whose data may be DataLoaders.
    optimizer: a name, `name[key=value]`, a rule, "lbfgs" (full batch), or a function of parameters that gives a torch optimizer.
    settings: hyperparameters of it and of what goes around it, such as lr, weight_decay, clip_norm, l1, dropout, label_smoothing.
    schedule: a name such as "cosine", `cosine(floor=0.1)`, a function of t, or a dict of them by hyperparameter; warmup: steps.
    epochs or steps; batch_size, or full_batch. scale_with_batch: the batch size for which lr was found: lr grows with the batch.
    precision: "full", "bf16" (autocast), or "double", which lbfgs takes on a processor. accumulate: parts of a batch, one after the other.
    layout: "auto", "as given" or "channels last", how images go to the model. valid: share of the rows for validation, 0 for none.
    early_stopping: end after so many evaluations (one an epoch, or every `evaluate_every` steps) without a better validation score, and
    answer with the best weights. out: a folder for checkpoints, tables and the page; the same run there goes on, bit by bit.
    save_every: a checkpoint each so many steps as well. tensorboard: event files there too. watch: called after every step.
    probes: of `tw.probes`, by name, "default" for some, or functions (model, loss, data, ...), measured on some of the training rows every
    probe_every steps, or as often as a twentieth of the time allows; their numbers are columns of the history, and change nothing.
    data, target, model, loss, all_rows, standardize: as in `tw.problem`.
    Ctrl-C ends the run after the step, with what there is. Raises UserError before work starts for what cannot be trained, and
    UserCodeError where the user's own code fails.

    >>> run = train("diabetes-linear", "sgd", lr=0.1, epochs=20)
    >>> run.status, run.steps, run.test["loss"] < 0.7
    ('done', 180, True)
    """
    named = {"data": data, "target": target, "model": model, "loss": loss, "all_rows": all_rows, "standardize": standardize}
    bench = prepare(
        problem, optimizer, settings, schedule=schedule, warmup=warmup, epochs=epochs, steps=steps, batch_size=batch_size,
        full_batch=full_batch, scale_with_batch=scale_with_batch, seed=seed, device=device, precision=precision, accumulate=accumulate,
        layout=layout, valid=valid, evaluate_every=evaluate_every, early_stopping=early_stopping, every=every, identify=out is not None,
        **named,
    )  # fmt: skip
    if tensorboard and out is None:
        raise UserError("event files for TensorBoard go into the run's folder: name one with out=")
    return run(bench, None if out is None else Path(out), save_every, watch, tensorboard, inside(probes, probe_every))


def inside(probes: Sequence[str | Callable[..., Any]], every: int | None) -> Inside | None:
    """What measures inside a run, or None. Raises UserError for what is no probe."""
    if isinstance(probes, str):
        probes = (probes,)
    if not probes:
        if every is not None:
            raise UserError("probe_every says how often to measure: say what as well, such as probes=['default']")
        return None
    return Inside(probes, every)


def run(
    bench: Bench, folder: Path | None = None, save_every: int | None = None, watch: Watch | None = None, tensorboard: bool = False,
    measure: Inside | None = None,
) -> Run:  # fmt: skip
    """Train, or go on with, what `prepare` found; a run that has ended is only opened."""
    if tensorboard:
        need("tensorboardX.writer", "tensorboardX")
    if save_every is not None and save_every < 1:
        raise UserError(f"save_every = {save_every} must be at least 1")
    home = None if folder is None else Home(folder, bench.spec)
    try:
        loop, pins = bench.loop(), _pins(bench)
        saved = None if home is None else home.saved()
        if saved is not None:
            pins = _same_pins(saved["pins"], pins)
            loop.load(saved)
        with threads_of(pins["threads"]):
            if loop.status == "running":
                _train(loop, home, pins, save_every, watch, measure)
            return _ended(bench, loop, home, tensorboard, () if measure is None else measure.notes())
    finally:
        if home is not None:
            home.close()


def _train(
    loop: Loop, home: Home | None, pins: Mapping[str, Any], save_every: int | None, watch: Watch | None, measure: Inside | None
) -> None:
    last = time.monotonic()

    def save() -> None:
        nonlocal last
        if home is not None:
            home.save({**loop.state(), "pins": dict(pins)})
        last = time.monotonic()

    with _interruptible() as asked:

        def after(loop: Loop) -> bool:
            if measure is not None:
                measure(loop)
            evaluated = bool(loop.evaluations) and loop.evaluations[-1]["step"] == loop.t
            due = evaluated or time.monotonic() - last > SAVE_SECONDS or (save_every is not None and loop.t % save_every == 0)
            if due and loop.status == "running":
                save()
            if watch is not None:
                watch(loop)
            return asked.is_set()

        try:
            loop.train(after)
        except Exception:
            if not asked.is_set():  # Ctrl-C ends workers of a DataLoader too
                raise
            loop.status = "interrupted"
    save()


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """A block in which the first Ctrl-C sets an event, and the second interrupts as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _pins(bench: Bench) -> dict[str, Any]:
    """What besides the spec the last bits of a run depend on."""
    return {"threads": torch.get_num_threads(), "compiled": kernel.available(), "torch": str(torch.__version__)}


def _same_pins(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's pins. Raises UserError where its steps were compiled and cannot be here."""
    if there["compiled"] and not here["compiled"]:
        raise UserError("the checkpoint's steps were compiled, and here is no C compiler; install gcc or clang to go on bit by bit")
    return dict(there)


# --- the end


def _ended(bench: Bench, loop: Loop, home: Home | None, tensorboard: bool, said: Sequence[str]) -> Run:
    over = loop.status != "interrupted"
    if loop.best and over and bench.spec.early_stopping is not None:
        loop.module.load_state_dict(loop.best["state"])
    elif over and hasattr(loop.optimizer, "eval"):
        loop.optimizer.eval()
    loop.module.eval()
    test: dict[str, float] = {}
    if over and bench.problem.test is not None and loop.status != "diverged":
        test = loop.scores(bench.problem.test)
    best = {k: float(loop.best[k]) for k in ("step", "score")} if loop.best else {}
    rows = loop.t * loop.source.rows / loop.source.per_epoch
    notes = [*bench.problem.notes, *said]
    if bench.spec.layout == "channels last":
        notes.append("images go to the model with the channels last")
    if bench.spec.precision != "full":
        notes.append({"bf16": "forwards under bfloat16 autocast", "double": "in double precision"}[bench.spec.precision])
    made = Run(
        bench.name, bench.spec.model_dump(exclude_none=True), loop.module, loop.status, _message(loop, home),
        merged(loop.records, loop.evaluations, loop.measurements), loop.t, loop.seconds, rows / max(loop.seconds, 1e-9), test, best,
        coefficients(loop.module, bench.problem), tuple(notes), None if home is None else home.folder, bench.problem,
    )  # fmt: skip
    if home is not None and over:
        write_checkpoint(home.folder / "model.pt", made.state_dict())
        write_whole(home.folder / "result.json", json.dumps(_finite(made.summary()), indent=2) + "\n")
        if tensorboard:
            from thalweg.study.training.events import write

            write(made)
    return made


def _message(loop: Loop, home: Home | None) -> str:
    if loop.status == "diverged":
        return loop.message
    if loop.status == "interrupted":
        resume = f"; the same command goes on from {home.folder}" if home is not None else "; with out=... the same call would go on later"
        return f"interrupted after step {loop.t} of {loop.settings.steps}{resume}"
    if loop.status == "stopped early":
        best = f"{loop.best['score']:.4g} at step {loop.best['step']}"
        return f"{loop.t} steps: stopped early, {loop.settings.patience} evaluations without a better validation score than {best}"
    return f"{loop.t} steps"


def _finite(value: Any) -> Any:
    """The value with null for what JSON cannot hold."""
    from thalweg.study.report.page import clean

    return clean(value)


def coefficients(module: nn.Module, problem: Problem) -> dict[str, float]:
    """Intercept and slopes of a linear regression, in the units of the data; {} where the model is none or columns are not known."""
    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or layers[0].out_features != 1 or problem.metrics:
        return {}
    weight, bias = layers[0].weight.detach().cpu().double()[0], layers[0].bias
    if len(problem.columns) != len(weight):
        return {}
    at_zero = 0.0 if bias is None else float(bias.detach().double())
    slopes, intercept = (weight, at_zero) if problem.scale is None else problem.scale.original(weight, at_zero)
    return {"intercept": intercept, **{name: float(slope) for name, slope in zip(problem.columns, slopes, strict=True)}}
