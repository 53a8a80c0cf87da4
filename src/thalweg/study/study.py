"""The study: plan, store, launch, judge, report, in that order and with nothing lost in between."""

from __future__ import annotations

import contextlib
import json
import time as clock
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from thalweg.core.files import write_whole
from thalweg.core.problem import Problem, rows
from thalweg.core.rule import Rule
from thalweg.engine.fleet import choose, fleet, solo
from thalweg.engine.work import Outcome, Progress, threads_of
from thalweg.errors import UserError
from thalweg.launch import local
from thalweg.study import curvature, plan
from thalweg.study import folder as place
from thalweg.study.judge import Findings, Verdict, judge
from thalweg.study.judge import choose as choose_config
from thalweg.study.outlets import Outlets
from thalweg.study.prepare import Bench, prepare
from thalweg.study.progress import View, Watch
from thalweg.study.results import Results
from thalweg.study.store import Store, address, flat, open_folder
from thalweg.study.timing import solo_seconds, time_finalists


class Study(Outlets):
    """A study, finished or not: what is stored of it, what the judge says, its report, its exports; a notebook shows it by itself.

    folder: where it lives, or None for one kept in memory only. bench: what it was run with, where that was in this process.
    """

    def __init__(self, store: Store, folder: Path | None = None) -> None:
        self.store = store
        self.folder = folder
        self.bench: Bench | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """A study that was run before. Raises UserError where the folder holds none."""
        return cls(open_folder(Path(folder)), Path(folder))

    def results(self) -> Results:
        """All that is stored, as plain values."""
        facts, table = self._facts(), self._runs()
        return Results(
            kind=facts["kind"], name=facts["name"], spec=self.store.get("spec"), plan=self.store.get("plan", {}),
            environment=self.store.get("environment", {}), command=facts["command"], score=facts["score"], higher=facts["higher"],
            metrics=tuple(facts["metrics"]), optimizers=tuple(facts["optimizers"]), notes=tuple(facts["notes"]), counts=facts["counts"],
            planned=facts["planned"], runs=table, curves=self.store.curves(), seconds=self.store.seconds(), all_rows=facts["all_rows"],
            classes=facts["classes"], solo_seconds=solo_seconds(self.store), pace=self.store.get("pace", {}),
            diagnosed=tuple(self.store.get("diagnosed", [])),
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict:
        """What the runs say; `print(study.verdict)` shows it in words."""
        return judge(self.results())

    def findings(self, goal: float | None = None) -> Findings:
        """What the runs say besides the ranking. goal: a validation score to be reached, instead of the one a rule sets."""
        return judge(self.results(), goal).findings

    def table(self) -> pd.DataFrame:
        """A row a run, a column a hyperparameter; what `thalweg export` writes."""
        return flat(self._runs())

    def _facts(self) -> dict[str, Any]:
        facts = self.store.get("facts")
        if facts is None:
            raise UserError(f"{self.folder or 'this study'} was stopped before it was planned; run its command again")
        return facts

    def _runs(self) -> pd.DataFrame:
        return self.store.table(self._facts()["metrics"])

    def close(self) -> None:
        """Close the database."""
        self.store.close()


def compare(
    problem: str | Problem,
    optimizers: Sequence[str | Rule | Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    budget: int | None = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    time: float | None = None,
    memory: str | int | None = None,
    watch: Watch | None = None,
    command: str = "",
    **asked: Any,
) -> Study:
    """Train a problem under several optimizers, tune each alike, and judge which is better.

    problem: a name ("digits-mlp"), a CSV file (with target=), `file.py:object`, a study's .toml, or a Problem.
    optimizers: names, `name[key=value]`, rules of your own, or a mapping name -> settings. budget: trials each, the defaults first.
    seeds: fresh seeds on which each chosen configuration is rerun. out: the study's folder; the same study there goes on where
    it stopped; without it nothing is written to disk. time: seconds after which no new group is begun. memory: how much a fleet may
    take beside the data, such as "4GB"; larger ones are split.
    asked: steps or epochs, batch_size, schedule, seed, engine, device, data, first (configurations to try first), and the
    rest of `thalweg.study.spec.Spec`. Raises UserError before any training where something is wrong.

    >>> study = compare("diabetes-linear", ["sgd", "adam"], budget=4, seeds=2, epochs=2)
    >>> len(study.table()), study.verdict.leader in ("sgd", "adam")
    (12, True)
    """
    bench = prepare(problem, optimizers, budget=budget, seeds=seeds, **asked)
    return run(bench, out, time=time, memory=memory, watch=watch, command=command)


def run(
    bench: Bench,
    out: str | Path | None = None,
    *,
    time: float | None = None,
    memory: str | int | None = None,
    watch: Watch | None = None,
    command: str = "",
) -> Study:
    """Run a prepared study, or what is left of it; see `compare`."""
    limit = None if memory is None else choose.parse_memory(memory)
    folder = None if out is None else Path(out)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.callback(place.claim(folder).release)
        store = Store(address(folder / "study.db") if folder else "sqlite://")
        try:
            study = Study(store, folder)
            study.bench = bench
            _begin(study, bench, command, limit)
            _train(study, bench, time, watch)
        except BaseException:
            store.close()
            raise
    return study


def estimate(bench: Bench, memory: str | int | None = None) -> dict[str, Any]:
    """What a study will take, without running it: runs, engine, seconds and bytes by phase, from a few measured steps."""
    choices = choose_engines(bench, None if memory is None else choose.parse_memory(memory))
    counts = planned(bench)
    seconds = {phase: choice.predicted for phase, choice in choices.items()}
    known = [s for s in seconds.values() if s is not None]
    return {
        "runs": counts,
        "steps": bench.spec.steps,
        "batch_size": bench.spec.batch_size,
        "device": bench.device,
        "engine": {phase: choice.engine for phase, choice in choices.items()},
        "seconds": sum(known) if len(known) == len(seconds) else None,
        "memory_bytes": max(choice.memory for choice in choices.values()),
    }


def planned(bench: Bench) -> dict[str, int]:
    """Phase -> number of runs."""
    jobs = plan.tuning(bench.spec, bench.rules, bench.fingerprint)
    if bench.spec.kind == "sweep":
        return {"sweep": len(jobs)}
    return {"tune": len(jobs), "final": len(bench.spec.optimizers) * bench.spec.seeds}


def choose_engines(bench: Bench, memory: int | None = None) -> dict[str, choose.Choice]:
    """Phase -> the engine, from a few steps of one optimizer that takes gradients, within so many bytes."""
    asked = "fleet" if bench.spec.stop_early else bench.spec.engine
    jobs = plan.tuning(bench.spec, bench.rules, bench.fingerprint)
    label = next((o.label for o in bench.spec.optimizers if bench.rules[o.label].gradient), bench.spec.optimizers[0].label)
    own = [job for job in jobs if job.optimizer == label]
    first = plan.groups(own, bench.rules, bench.wrappers, "fleet", len(own))[0].jobs
    choices = {jobs[0].phase: choose.choose(bench.work(first), asked, len(jobs), memory)}
    if bench.spec.kind == "compare":
        lanes = plan.finals(bench.spec, bench.rules, {label: (0, own[0].config)}, bench.fingerprint)
        choices["final"] = choose.choose(bench.work(lanes), bench.spec.engine, len(bench.spec.optimizers) * bench.spec.seeds, memory)
    return choices


def _begin(study: Study, bench: Bench, command: str, memory: int | None = None) -> None:
    """Lay down what determines the study, or check that what lies there is the same."""
    store, spec = study.store, place.plain(bench.spec)
    old = store.get("spec")
    if old is not None and old != spec:
        raise UserError(
            f"{study.folder} holds another study ({'; '.join(place.differences(old, spec)[:3])}); "
            "choose another folder with --out, or repeat its command to go on with it"
        )
    if old is not None and store.get("fingerprint") != bench.fingerprint:
        raise UserError(f"{study.folder} holds a study of other data, or of another model or rule of that name; choose another with --out")
    if store.get("plan") is None:
        # the plan is fixed before the first step and kept, so that what is cut off is repeated bit for bit
        choices = choose_engines(bench, memory)
        settings = {phase: asdict(choice) for phase, choice in choices.items()}
        problem = bench.problem
        facts = {
            "kind": bench.spec.kind, "name": bench.name, "command": command, "score": problem.score, "higher": problem.higher_is_better,
            "metrics": [*(m.name for m in problem.metrics), "loss"], "optimizers": [o.label for o in bench.spec.optimizers],
            "notes": list(problem.notes), "counts": {s: rows(getattr(problem, s)) for s in ("train", "valid", "test")},
            "planned": planned(bench), "all_rows": problem.all_rows, "classes": _classes(problem),
        }  # fmt: skip
        environment = place.environment(bench.device)
        looked = curvature.begin(bench, plan.tuning(bench.spec, bench.rules, bench.fingerprint))
        whole = {"device": bench.device, "phases": settings, **({"curvature": looked} if looked else {})}
        store.put(spec=spec, fingerprint=bench.fingerprint, facts=facts, environment=environment, plan=whole)
    if study.folder is not None:
        write_whole(study.folder / "study.toml", place.toml(bench.spec, bench.name, bench.data))
        write_whole(study.folder / "environment.json", json.dumps(store.get("environment"), indent=2) + "\n")


def _classes(problem: Problem) -> int | None:
    """How many classes there are, where accuracy is the score and labels are counted from 0."""
    if problem.score != "accuracy" or problem.step is not None:
        return None
    return int(problem.train[1].max()) + 1


def _train(study: Study, bench: Bench, limit: float | None, watch: Watch | None) -> None:
    """Both phases, as far as the time goes."""
    end = clock.monotonic() + limit if limit is not None else None
    first = plan.tuning(bench.spec, bench.rules, bench.fingerprint)
    before = len(study.store.finished())
    if not _phase(study, bench, first, end, watch) or bench.spec.kind == "sweep":
        return
    if end is not None and clock.monotonic() > end and len(study.store.finished()) > before:
        return  # every call makes headway, none begins a phase late
    table = study._runs()
    chosen: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for spec in bench.spec.optimizers:
        row = choose_config(table, spec.label, bench.problem.score, bench.problem.higher_is_better)
        if row is not None:  # None: every trial diverged
            chosen[spec.label] = (int(row["trial"]), row["config"])
    jobs = plan.finals(bench.spec, bench.rules, chosen, bench.fingerprint)
    study.store.put(facts={**study.store.get("facts"), "planned": {"tune": len(first), "final": len(jobs)}})
    if jobs and _phase(study, bench, jobs, end, watch) and (end is None or clock.monotonic() < end):
        time_finalists(bench, jobs, study.store)


def _phase(study: Study, bench: Bench, jobs: Sequence[plan.Job], end: float | None, watch: Watch | None) -> bool:
    """Train the groups that are not stored yet; False when time ran out first."""
    phase, planned = jobs[0].phase, study.store.get("plan")
    choice = choose.Choice(**planned["phases"][phase])
    groups = plan.groups(jobs, bench.rules, bench.wrappers, choice.engine, choice.lanes)
    done = study.store.finished()
    left = [group for group in groups if not {job.id for job in group.jobs} <= done]
    if left:
        study.store.put(diagnosed=[])  # it was one of fewer runs
    workers = choice.workers
    table = study.store.table([bench.problem.score])
    view = View(bench.problem, bench.spec.steps, phase, len(jobs), table, watch)
    train: Any = partial(train_group, progress=view.step, begin=view.begin) if workers == 1 else train_group
    trained = local.map(train, left, shared=(bench, choice, planned.get("curvature", {})), workers=workers)
    with threads_of(choice.threads), contextlib.closing(_timed(trained, end)) as ends:
        for position, (outcomes, engine, seconds, measured) in ends:
            study.store.write(left[position], outcomes, engine, seconds, bench.spec.steps, measured)
            view.end(left[position], outcomes)
    return {job.id for job in jobs} <= study.store.finished()


def _timed(results: Iterator[Any], end: float | None) -> Generator[Any, None, None]:
    """Pass results on until the time is over; at least one, so that every call makes headway."""
    for result in results:
        yield result
        if end is not None and clock.monotonic() > end:
            return


def train_group(
    shared: tuple[Bench, choose.Choice, Mapping[str, Any]],
    group: plan.Group,
    progress: Progress | None = None,
    begin: Callable[[plan.Group], None] | None = None,
) -> tuple[list[Outcome], str, float, list[dict[str, float]]]:
    """Train one group: outcomes, without weights, the engine that trained it, seconds, and the curvature that each run met."""
    bench, choice, looked = shared
    if begin is not None:
        begin(group)
    began = clock.perf_counter()
    work = bench.work(group.jobs)
    if choice.engine == "fleet":
        outcomes = fleet.run(work, progress, choice.way)
    else:
        outcomes = solo.run(work, progress, ahead=bench.spec.steps * bench.spec.budget)
    seconds = clock.perf_counter() - began
    measured = curvature.of_runs(bench, group.jobs, outcomes, looked) if looked else []
    return [replace(outcome, state=None) for outcome in outcomes], choice.engine, seconds, measured
