"""From what was asked to what will run: names become objects, and everything a user can get wrong is found before work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.core.problem import Problem, rows
from thalweg.core.rule import Rule
from thalweg.core.wrapper import Wrapper
from thalweg.engine import choose
from thalweg.engine.bound import resolve
from thalweg.engine.work import Work
from thalweg.errors import UserError
from thalweg.study import plan
from thalweg.study.checks import check, complete
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
    """A study ready to run: its spec, and the objects that the spec names. Picklable, so that workers get it whole."""

    name: str
    spec: Spec
    problem: Problem
    rules: Mapping[str, Rule]
    wrappers: tuple[Wrapper, ...]
    device: str
    fingerprint: str

    def work(self, jobs: Sequence[plan.Job]) -> Work:
        """Jobs of one optimizer and structure as an engine takes them."""
        rule, spec = self.rules[jobs[0].optimizer], self.spec
        lanes = tuple(plan.lane(job, rule, self.wrappers, spec.steps) for job in jobs)
        marks = np.unique(np.linspace(0, spec.steps, spec.evaluations + 1).round().astype(int))
        problem = self.problem
        return Work(
            problem, rule, lanes, lambda seed: plan.fresh(problem, seed), spec.steps, spec.batch_size, self.wrappers,
            every=max(1, spec.steps // 200), evaluations=tuple(marks.tolist()), test=jobs[0].phase == "final",
            device=self.device, keep_weights=False,
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
        listed = read_toml(Path(problem))
        check_keys(listed)
        raw = {**listed, **raw}
        if "problem" not in raw:
            raise UserError(f"{problem} does not say which problem to solve; add a line such as problem = \"digits-mlp\"")
        problem = raw.pop("problem")
        kind, data = raw.pop("kind", kind), data or raw.pop("data", None)
        first = [*first, *raw.pop("first", ())]
        optimizers = optimizers or _from_toml(raw)
    wrappers = all_wrappers()
    pairs = _competitors(optimizers or DEFAULT_OPTIMIZERS, dict(settings or {}), raw.pop("schedule", None), wrappers)
    specs, rules = _with_first(pairs, first, wrappers)
    for one in specs:
        _check_points(one, rules[one.label], wrappers, int(raw.get("budget", 16)), kind)
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
    check(found)
    steps = _steps(raw, found, n, batch_size)
    # as often as 20 times, but validation should not cost more than about a quarter of the training (a step is three forwards)
    affordable = round(0.25 * 3 * steps * batch_size / rows(found.valid))
    spec = build(
        {"evaluations": max(3, min(20, affordable)), **raw}, specs, kind=kind,
        problem=problem if isinstance(problem, str) else found.name, steps=steps, batch_size=batch_size,
    )  # fmt: skip
    name = raw.get("name") or f"{found.name}{'-sweep' if kind == 'sweep' else ''}"
    return Bench(name, spec, found, rules, wrappers, choose.device(spec.device), plan.fingerprint(found, spec.seed))


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
    if listed is not None and tables is not None:
        if not isinstance(listed, list) or not isinstance(tables, dict):
            raise UserError('optimizers must be a list such as ["sgd", "adam"], and [optimizer.NAME] a table')
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
            if {"label", "fixed"} <= set(own):  # as `study.toml` writes it
                spec = OptimizerSpec(**own)
                rule = find_rule(spec.rule)
                taken.add(spec.label)
                found.append((spec, rule))
                continue
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
        found.append((optimizer_spec(name, merged, rule, wrappers, label), rule))
    if not found:
        raise UserError("there is no optimizer to compare; name at least one, such as -o adam")
    return found


def _missing_rule(own: Mapping[str, Any]) -> str:
    raise UserError(f'the optimizer {dict(own)} does not say which rule it is; add rule = "adam"')


def _label(name: str, own: Mapping[str, Any], taken: set[str]) -> str:
    """The rule's name; where that is taken, with its settings behind it."""
    if name not in taken:
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
        if "schedule" in config:
            plan.make_schedule(config["schedule"], 1000)
