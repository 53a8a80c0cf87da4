"""Diagnosis of what has a name: a problem that is trained first, a run in a folder, and the runs of a study."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from thalweg.core import catalogue
from thalweg.core.finding import Findings
from thalweg.core.probe import untouched
from thalweg.core.problem import Problem
from thalweg.core.stream import Stream
from thalweg.engine.loop.loop import Loop
from thalweg.errors import UserError
from thalweg.explain import case as cases
from thalweg.explain.findings import judged
from thalweg.study import folder as place
from thalweg.study.report.page import clean
from thalweg.study.spec import read_toml
from thalweg.study.training import home
from thalweg.study.training.optimizers import choose
from thalweg.study.training.prepare import Bench, prepare
from thalweg.study.training.run import Run, merged

if TYPE_CHECKING:
    from thalweg.study.outlets import Outlets

TRAINING = 60.0
"""Seconds after which a training that is done for a diagnosis is stopped."""

OPTIONS = ("all_rows", "standardize", "target", "model", "valid", "schedule", "batch_size", "full_batch", "epochs", "steps")
"""Options of the command line that a remedy repeats."""


@dataclass(frozen=True)
class Diagnosed:
    """A run and its findings. message: how it was trained, or where it comes from."""

    name: str
    findings: Findings
    message: str


def of_problem(
    problem: str | Problem, optimizer: Any = "adam", settings: Mapping[str, Any] | None = None, seconds: float = 10.0,
    training: float = TRAINING, **asked: Any,
) -> Diagnosed:  # fmt: skip
    """Train as `thalweg train` would, for so many seconds at most, and say what is wrong. asked: see `study.training.prepare`."""
    bench = prepare(problem, optimizer, dict(settings or {}), **asked)
    loop = bench.loop()
    began = time.monotonic()
    loop.train(lambda loop: time.monotonic() - began > training)
    message = f"trained with {bench.choice.label}: {loop.t} of {bench.spec.steps} steps"
    if loop.status == "interrupted":
        message += f", stopped after {training:g} s for the diagnosis"
    options = {name: asked[name] for name in OPTIONS if asked.get(name) not in (None, False)}
    return Diagnosed(bench.name, _of_loop(bench, loop, seconds, options, dict(settings or {})), message)


def of_run(run: Run, seconds: float = 10.0) -> Findings:
    """What is wrong with a run that has ended: from its folder with the optimizer's state, or as it is in memory.

    Raises UserError where its problem is the user's own object and the run was opened from a folder.
    """
    spec = run.spec
    if run.folder is None:
        assert run.model is not None
        assert run.problem is not None
        module = run.model
        try:
            optimizer = choose(spec["optimizer"], dict(spec.get("settings", {}))).make(module, int(spec.get("seed", 0)))
        except UserError:
            optimizer = None
        return _judged(module, run.problem, optimizer, run.history, int(spec["batch_size"]), seconds, {})
    given = {k: spec[k] for k in ("target", "model", "loss", "all_rows", "standardize", "valid") if k in spec}
    more = {
        "steps": spec["steps"], "batch_size": spec["batch_size"], "seed": spec.get("seed", 0), "precision": spec.get("precision"),
        "schedule": dict(spec.get("schedules", {})) or None, "layout": spec.get("layout", "auto"),
    }  # fmt: skip
    bench = prepare(spec["problem"], spec["optimizer"], _patterned(spec.get("settings", {})), **given, **more)
    loop = bench.loop()
    path = run.folder / home.CHECKPOINT
    if not path.exists():
        raise UserError(f"{run.folder} holds no checkpoint yet; let the run go on, or diagnose its problem")
    loop.load(home.read_checkpoint(path))
    return _of_loop(bench, loop, seconds, {k: v for k, v in given.items() if v}, dict(spec.get("settings", {})), run.history)


def _patterned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a run.toml holds them, as `choose` takes them."""
    given = dict(settings)
    if isinstance(given.get("no_decay"), str):
        given["no_decay"] = given["no_decay"].split()
    return given


def _of_loop(
    bench: Bench, loop: Loop, seconds: float, options: Mapping[str, Any], settings: Mapping[str, Any], history: Any = None
) -> Findings:
    table = merged(loop.records, loop.evaluations) if history is None else history
    if loop.status == "diverged":  # the loss that ended it is not in the records
        table = pd.concat([table, pd.DataFrame([{"step": loop.t, "loss": math.inf}])], ignore_index=True)
    typed = {k: v for k, v in settings.items() if v is not None}
    command: dict[str, Any] = {"problem": bench.spec.problem, "optimizer": bench.choice.label, "options": {**options, **_own(bench, typed)}}
    command |= _suggested(bench, loop.module)
    if ".py:" not in bench.spec.problem and bench.spec.problem == bench.problem.name and not _named(bench.spec.problem):
        command = {}
    return _judged(loop.module, bench.problem, loop.optimizer, table, bench.spec.batch_size, seconds, command)


def _named(problem: str) -> bool:
    from thalweg.study.problems import combinations

    return problem in combinations() or problem.endswith((".csv", ".tsv", ".txt", ".dat"))


def _own(bench: Bench, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are not the rule's defaults."""
    usual = {} if bench.choice.rule is None else {name: hyper.default for name, hyper in bench.choice.rule.hypers.items()}
    found = {}
    for name, value in settings.items():
        number = bench.choice.settings.get(name, value)
        if name not in usual or usual[name] != number:
            found[name] = number
    return found


def _judged(
    module: nn.Module, problem: Problem, optimizer: Any, history: Any, batch_size: int, seconds: float, command: Mapping[str, Any]
) -> Findings:
    train = problem.train.loader if isinstance(problem.train, Stream) else problem.train
    valid = None if problem.all_rows or problem.valid is None else problem.valid
    valid = valid.loader if isinstance(valid, Stream) else valid
    if any(p.dtype is torch.float64 for p in module.parameters()):  # a run in double precision
        train, valid = (tree_map(_double, part) for part in (train, valid))
    began = time.monotonic()
    with torch.inference_mode(False), untouched(module, optimizer):
        case = cases.make(
            module, problem, train, optimizer, history, valid, None, batch_size, 0, names=problem.columns, command=command
        )  # fmt: skip
        return replace(judged(case, seconds), seconds=time.monotonic() - began)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _suggested(bench: Bench, module: nn.Module) -> dict[str, Any]:
    """For a linear regression: the rate and the steps with which full batches of standardised features reach the least squares."""
    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    train = bench.problem.train
    single = len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].out_features == 1 and isinstance(train, tuple)
    if not single or bench.choice.rule is None or bench.choice.rule.name != "sgd" or not _square(bench.problem):
        return {}
    x = train[0].double()
    if x.dim() != 2 or len(x) <= 10 * x.shape[1]:
        return {}
    z = (x - x.mean(0)) / x.std(0, unbiased=False)
    values = torch.linalg.eigvalsh(torch.cat([torch.ones(len(z), 1), z], 1).T @ torch.cat([torch.ones(len(z), 1), z], 1) / len(z)) * 2
    if float(values[0]) < 1e-6:
        return {}
    rate = float(f"{2 / float(values[0] + values[-1]):.0e}")
    rate = min(rate, float(f"{1.9 / float(values[-1]):.1e}"))
    shrink = max(abs(1 - rate * float(values[0])), abs(1 - rate * float(values[-1])))
    epochs = 10 * math.ceil(math.log(1e-6) / math.log(shrink) / 10 + 1)
    suggested = {"standardize": True, "lr": rate, "full_batch": True, "epochs": epochs, "batch_size": None, "steps": None, "all_rows": True}
    other = f" (or, without a rate to choose: thalweg train {bench.spec.problem} -o lbfgs --all-rows; on all rows, as published fits are)"
    return {"suggested": suggested, "or": other}


def _square(problem: Problem) -> bool:
    """Whether the loss is the mean squared error."""
    out, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]])
    try:
        return problem.loss is not None and math.isclose(float(problem.loss(out, y)), 2.5, rel_tol=1e-6)
    except Exception:
        return False


# --- a study


def of_study(study: Outlets, seconds: float = 10.0) -> list[Diagnosed]:
    """The chosen configuration of each optimizer, trained again and diagnosed, with what the store says of its trials.

    Raises UserError where nothing is trained yet.
    """
    from thalweg.study.standings import standings

    results = study.results()
    if not len(results.runs):
        raise UserError(f"{study.folder or 'this study'} holds no runs yet; let it go on first")
    rows = standings(results).to_dict("records")
    given = {k: results.spec[k] for k in ("target", "model", "loss", "all_rows", "standardize") if results.spec.get(k)}
    problem: str | Problem = results.spec["problem"]
    if study.bench is not None and study.bench.own:
        problem, given = study.bench.problem, {}
    elif (data := _data(study)) is not None:
        given["data"] = data
    found = []
    for row in rows:
        label, config = str(row["optimizer"]), row["config"]
        if config is None:
            runs = results.runs[results.runs["optimizer"] == label] if len(results.runs) else results.runs
            config = dict(runs.iloc[0]["config"]) if len(runs) else {}
        settings = {k: v for k, v in config.items() if k != "schedule"}
        schedule = config.get("schedule")
        one = of_problem(
            problem, _rule(study, results.spec, label), settings, seconds / max(len(rows), 1), seconds,
            steps=int(results.spec["steps"]), batch_size=int(results.spec["batch_size"]), seed=int(results.spec.get("seed", 0)),
            schedule=None if schedule in (None, "constant") else schedule, **given,
        )  # fmt: skip
        notes = (*_trials(results.runs, label, one.findings), *one.findings.notes)
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in config.items())
        found.append(Diagnosed(label, replace(one.findings, notes=notes), f"{label} with {shown or 'its defaults'}, {one.message}"))
    return found


def _data(study: Outlets) -> str | None:
    """The folder of the data files that a study was told, if any."""
    if study.bench is not None:
        return study.bench.data
    written = None if study.folder is None else study.folder / "study.toml"
    return read_toml(written).get("data") if written is not None and written.exists() else None


def _rule(study: Outlets, spec: Mapping[str, Any], label: str) -> Any:
    """The rule behind a label, or its name."""
    if study.bench is not None and label not in catalogue.shelf("optimizers"):
        return study.bench.rules[label]
    for one in spec["optimizers"]:
        if one.get("label") == label:
            return str(one.get("rule", label))
    return label


def _trials(runs: Any, label: str, findings: Findings) -> tuple[str, ...]:
    """What became of an optimizer's trials at other rates, against the rate that the curvature allows."""
    own = runs[(runs["optimizer"] == label) & (runs["phase"] != "final")] if len(runs) else runs
    rates = [(float(config["lr"]), status) for config, status in zip(own["config"], own["status"], strict=True) if "lr" in config]
    bad = sorted(lr for lr, status in rates if status == "diverged")
    good = [lr for lr, status in rates if status != "diverged"]
    if not bad or not good:
        return ()
    said = f"{len(bad)} of {len(rates)} trials diverged, at rates from {bad[0]:.2g}; the largest that did not is {max(good):.2g}"
    stable = getattr(findings.measurements.get("curvature"), "stable_rate", None)
    return (said + (f"; the curvature allows {stable:.2g}." if stable else "."),)


def diagnose_folder(folder: Path, seconds: float = 10.0) -> tuple[list[Diagnosed], str]:
    """The findings of the run or the study in a folder, and, of a study, whether its report shows them now.

    Raises UserError where there is neither.
    """
    if (folder / "run.toml").exists():
        run = Run.open(folder)
        return [Diagnosed(run.name, of_run(run, seconds), f"{folder}: {run.message}")], ""
    from thalweg.study.study import Study

    study = Study.open(folder)
    try:
        try:
            lock = place.claim(folder)
        except UserError as error:  # it can be read all the same
            return of_study(study, seconds), f"not in its report: {error}"
        try:
            found = of_study(study, seconds)
            attach(study, found)
            return found, f"in its report: {study.report()}"
        finally:
            lock.release()
    finally:
        study.close()


def attach(study: Outlets, found: Sequence[Diagnosed]) -> None:
    """Store findings with a study, for its report."""
    study.store.put(diagnosed=clean([{"name": one.name, "message": one.message, **one.findings.plain()} for one in found]))
