"""From what was asked to what will run: names become objects, and everything a user can get wrong is found before work starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from thalweg.core.problem import Problem, rows
from thalweg.core.rule import Rule
from thalweg.core.wrapper import Wrapper
from thalweg.engine.bound import resolve
from thalweg.engine.fleet import choose
from thalweg.engine.work import Memo, Work
from thalweg.errors import UserError
from thalweg.study import plan
from thalweg.study.checks import check, complete
from thalweg.study.courses import FEW
from thalweg.study.problems import problem as named_problem
from thalweg.study.spec import (
    DEFAULT_OPTIMIZERS,
    OptimizerSpec,
    Spec,
    build,
    check_keys,
    optimizer_spec,
    parse_optimizer,
    parse_settings,
    read_toml,
)
from thalweg.study.sweep import all_wrappers, find_rule


@dataclass(frozen=True)
class Bench:
    """A study ready to run: its spec, and the objects that the spec names. Picklable, so that workers get it whole.

    own: whether the problem was given as an object and not by a name.
    """

    name: str
    spec: Spec
    problem: Problem
    rules: Mapping[str, Rule]
    wrappers: tuple[Wrapper, ...]
    device: str
    fingerprint: str
    data: str | None = None
    own: bool = False
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)

    @property
    def closely(self) -> bool:
        """Whether this is a sweep of so few runs that each is looked at by itself (`thalweg.study.courses`)."""
        spec = self.spec
        return spec.kind == "sweep" and spec.seeds * sum(len(plan.grid(o)) for o in spec.optimizers) <= FEW

    def work(self, jobs: Sequence[plan.Job]) -> Work:
        """Jobs of one optimizer and structure as an engine takes them."""
        rule, spec = self.rules[jobs[0].optimizer], self.spec
        lanes = tuple(plan.lane(job, rule, self.wrappers, spec.steps) for job in jobs)
        marks = np.unique(np.linspace(0, spec.steps, spec.evaluations + 1).round().astype(int))
        problem = self.problem
        halves = [spec.steps // 4, spec.steps // 2] if spec.stop_early and jobs[0].phase == "tune" else []
        rungs = sorted({int(marks[np.abs(marks - half).argmin()]) for half in halves} - {0, spec.steps})
        every = max(1, spec.steps // 200)
        every += self.closely and every % 2 == 0  # steps that overshoot to and fro are seen on both sides
        return Work(
            problem, rule, lanes, lambda seed: plan.fresh(problem, seed), spec.steps, spec.batch_size, self.wrappers,
            every=every, evaluations=tuple(marks.tolist()), test=jobs[0].phase == "final" or self.closely,
            device=self.device, keep_weights=self.closely, rungs=tuple(rungs), precision=spec.precision, accumulate=spec.accumulate,
            varied=frozenset(next(o.search for o in spec.optimizers if o.label == jobs[0].optimizer)), memo=self.memo,
        )  # fmt: skip


def prepare(
    problem: str | Problem,
    optimizers: Sequence[str | Rule | Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    data: str | Path | None = None,
    kind: str = "compare",
    first: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    **asked: Any,
) -> Bench:
    """Check a study and find what it names.

    problem: a name, a CSV file, `file.py:object`, a study's .toml, or a Problem. optimizers: names, `name[key=value]`, rules, or a mapping
    of names to settings. first: configurations to try first, `name[key=value]`. settings: for every optimizer (a sweep's grid).
    asked: the fields of `Spec`, and epochs, full_batch, schedule. Raises UserError.
    """
    raw: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
    check_keys(raw)
    if isinstance(problem, str) and problem.endswith(".toml"):
        written = read_toml(Path(problem))
        check_keys(written)
        raw = {**written, **raw}
        if "problem" not in raw:
            raise UserError(f"{problem} does not say which problem to solve; add a line such as problem = \"digits-mlp\"")
        problem = raw.pop("problem")
        if not isinstance(problem, str):
            raise UserError(f"problem = {problem!r} must be a name, such as \"digits-mlp\"")
        _check_types(raw)
        listed_data = raw.pop("data", None)
        kind, data = raw.pop("kind", kind), data or listed_data
        first = [*first, *raw.pop("first", ())]
        optimizers = _from_toml(raw) if optimizers is None else optimizers
    _check_types(raw)
    if kind == "sweep":
        raw.setdefault("seeds", 1)
    wrappers = all_wrappers()
    listed = DEFAULT_OPTIMIZERS if optimizers is None else optimizers
    pairs = _competitors(listed, dict(settings or {}), raw.pop("schedule", None), wrappers)
    specs, rules = _with_first(pairs, first, wrappers)
    for one in specs:
        _check_points(one, rules[one.label], wrappers, raw.get("budget", 16), kind)
    options = {k: raw[k] for k in ("target", "model", "loss", "all_rows", "standardize") if k in raw}
    if isinstance(problem, Problem):
        if options:
            raise UserError(f"{', '.join(options)}: set these in the Problem itself, not beside it")
        found = problem
    else:
        found = named_problem(problem, data=data, **options)
    found = complete(found)
    n = rows(found.train)
    batch_size = n if raw.pop("full_batch", False) else int(raw.pop("batch_size", found.batch_size or min(32, n)))
    if not 1 <= batch_size <= n:
        raise UserError(f"batch_size = {batch_size} must be between 1 and the {n} training rows of {found.name}")
    if raw.get("stop_early") and (kind != "compare" or raw.get("engine", "auto") not in ("auto", "fleet")):
        raise UserError("stop_early ranks trials that train together: it is for compare, with engine auto or fleet")
    check(found)
    steps = _steps(raw, found, n, batch_size)
    for one in specs:
        _check_schedules(one, steps)
    # as often as 20 times, but validation should not cost more than about a quarter of the training (a step is three forwards)
    affordable = round(0.25 * 3 * steps * batch_size / rows(found.valid))
    spec = build(
        {"evaluations": max(3, min(20, affordable)), **raw}, specs, kind=kind,
        problem=problem if isinstance(problem, str) else found.name, steps=steps, batch_size=batch_size,
    )  # fmt: skip
    source = [plan.rule_source(rule) for rule in rules.values()]
    if spec.problem.partition(".py:")[1]:
        source.append([Path(spec.problem.rpartition(":")[0]).read_text(encoding="utf-8")])
    identity = plan.digest([plan.fingerprint(found, spec.seed), source])
    name = raw.get("name") or f"{found.name}{'-sweep' if kind == 'sweep' else ''}"
    home = None if data is None else str(Path(data).resolve())
    return Bench(name, spec, found, rules, wrappers, choose.device(spec.device), identity, home, own=isinstance(problem, Problem))


WHOLE = ("budget", "seeds", "steps", "batch_size", "evaluations", "seed", "accumulate")


def _check_types(raw: Mapping[str, Any]) -> None:
    """What TOML and Python may hold in the wrong type."""
    for key in WHOLE:
        if key in raw and (isinstance(raw[key], bool) or not isinstance(raw[key], int)):
            raise UserError(f"{key} = {raw[key]!r} must be a whole number")
    epochs = raw.get("epochs", 1)
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not math.isfinite(epochs):
        raise UserError(f"epochs = {epochs!r} must be a finite number")
    for key in ("schedule", "first"):
        items = raw.get(key, [])
        if not isinstance(items, str) and not (isinstance(items, list | tuple) and all(isinstance(item, str) for item in items)):
            raise UserError(f"{key} = {items!r} must be a text or a list of texts")


def _steps(raw: dict[str, Any], problem: Problem, n: int, batch_size: int) -> int:
    if "steps" in raw and "epochs" in raw:
        raise UserError("give steps or epochs, not both: an epoch is one pass over the training rows")
    for key in ("steps", "epochs"):
        if key in raw and not raw[key] > 0:
            raise UserError(f"{key} = {raw[key]} must be at least 1")
    if "steps" in raw:
        return int(raw.pop("steps"))
    return max(1, round(raw.pop("epochs", problem.epochs) * -(-n // batch_size)))


def _from_toml(raw: dict[str, Any]) -> Any:
    """The competitors of a TOML file: a list of texts and tables, or tables by name."""
    listed, tables = raw.pop("optimizers", None), raw.pop("optimizer", None)
    well = isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
    if not (listed is None or isinstance(listed, list)) or not (tables is None or well):
        raise UserError('optimizers must be a list such as ["sgd", "adam"], and [optimizer.NAME] a table')
    if listed is not None and tables is not None:
        return [*listed, *({"rule": name, **table} for name, table in tables.items())]
    return listed if listed is not None else tables


def _competitors(given: Any, settings: dict[str, Any], schedule: Any, wrappers: Sequence[Wrapper]) -> list[tuple[OptimizerSpec, Rule]]:
    items = [{"rule": n, **s} for n, s in given.items()] if isinstance(given, Mapping) else given
    if isinstance(items, str | Rule):
        items = [items]
    found: list[tuple[OptimizerSpec, Rule]] = []
    taken: set[str] = set()
    for item in items:
        if isinstance(item, Rule):
            name, own, rule = item.name, {}, item
        elif isinstance(item, Mapping):
            own = dict(item)
            if "fixed" in own or "search" in own:  # as `study.toml` writes it
                own = _unfold(own)
            name = own.pop("rule", None) or _missing_rule(own)
            rule = find_rule(name)
        else:
            name, own = parse_optimizer(str(item))
            rule = find_rule(name)
        label = own.pop("label", None) or _label(rule.name, own, taken)
        merged = {**({"schedule": schedule} if schedule is not None and "lr" in rule.hypers else {}), **settings, **own}
        if label in taken:
            raise UserError(f"two optimizers are called '{label}'; give one of them another label")
        taken.add(label)
        spec = optimizer_spec(name, merged, rule, wrappers, label)
        same = (spec.rule, spec.fixed, spec.search)
        twin = next((other.label for other, _ in found if (other.rule, other.fixed, other.search) == same), None)
        if twin is not None:
            raise UserError(f"'{label}' is the same as '{twin}'; name an optimizer once, or give it other settings")
        found.append((spec, rule))
    if not found:
        raise UserError("there is no optimizer to compare; name at least one, such as -o adam")
    return found


def _missing_rule(own: Mapping[str, Any]) -> str:
    raise UserError(f'the optimizer {dict(own)} does not say which rule it is; add rule = "adam"')


def _unfold(table: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer as study.toml holds it, as settings."""
    try:
        spec = OptimizerSpec(**{"label": table.get("rule"), **table})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"the optimizer {table.get('label')}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    search = {n: list(r.values) if r.values is not None else {r.scale: [r.low, r.high]} for n, r in spec.search.items()}
    return {"rule": spec.rule, "label": spec.label, **spec.fixed, **search, **({"try": list(spec.first)} if spec.first else {})}


def _label(name: str, own: Mapping[str, Any], taken: set[str]) -> str:
    """The rule's name; where that is taken, with its settings behind it."""
    if name not in taken or not own:
        return name
    inside = ", ".join(f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in own.items() if k != "try")
    return f"{name}[{inside}]"


def _with_first(
    pairs: Sequence[tuple[OptimizerSpec, Rule]], first: Sequence[str], wrappers: Sequence[Wrapper]
) -> tuple[list[OptimizerSpec], dict[str, Rule]]:
    """Add the configurations that are to be tried first to the competitors they name."""
    specs = {spec.label: spec for spec, _ in pairs}
    rules = {spec.label: rule for spec, rule in pairs}
    for text in first:
        name, _ = parse_optimizer(text)
        inside = text.partition("[")[2].rpartition("]")[0]
        homes = [label for label, spec in specs.items() if name in (label, spec.rule)]
        if not homes:
            raise UserError(f"the configuration to try, '{text}', names none of the optimizers compared: {', '.join(specs)}")
        home = homes[0]
        point = optimizer_spec(specs[home].rule, {"try": [parse_settings(inside, text)]}, rules[home], wrappers).first
        specs[home] = specs[home].model_copy(update={"first": (*specs[home].first, *point)})
    return list(specs.values()), rules


def _check_points(spec: OptimizerSpec, rule: Rule, wrappers: Sequence[Wrapper], budget: int, kind: str) -> None:
    """Every configuration that will run, checked now."""
    if budget < 1:
        raise UserError(f"budget = {budget} must be at least 1")
    if kind == "compare" and len(spec.first) >= budget:
        raise UserError(f"{spec.label}: {len(spec.first)} configurations to try first and the defaults exceed the budget of {budget}")
    for config in plan.grid(spec) if kind == "sweep" else plan.points(spec, rule, min(budget, 2 + len(spec.first)), 0):
        resolve(rule, {n: v for n, v in config.items() if n != "schedule"}, wrappers)


def _check_schedules(spec: OptimizerSpec, steps: int) -> None:
    """Every schedule that may be drawn, over the steps of a run."""
    listed = spec.search["schedule"].values or () if "schedule" in spec.search else ()
    for text in {*listed, *(c["schedule"] for c in (spec.fixed, *spec.first) if "schedule" in c)}:
        plan.make_schedule(text, steps)
