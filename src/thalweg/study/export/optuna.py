"""An Optuna study: a trial for each tuning run, which Optuna's samplers, plots and dashboard then read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from thalweg.errors import UserError
from thalweg.study.export import Outlet, need
from thalweg.study.judge import judge
from thalweg.study.results import Results


def write(results: Results, where: str | None) -> Any:
    """The optuna.Study, in memory or in a storage: where is a file, which becomes SQLite, or a storage's URL.

    Parameters: "optimizer", and "<optimizer>.<hyperparameter>" as searched. Value: the validation score by which trials are
    chosen. States: COMPLETE, PRUNED for a trial that was stopped early, FAIL for a run that diverged. Intermediate values: the
    validation score over updates. A run already in the storage is not added again, so a study that goes on can be exported again.
    Final runs are in the study's user attribute "finals".
    """
    optuna = need("optuna", "optuna")
    storage = where if where is None or "://" in where else f"sqlite:///{where}"
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return _fill(optuna, results, storage)
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ImportError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"Optuna cannot write to {where}: {said}; name a file or a storage such as sqlite:///trials.db") from None
    finally:
        optuna.logging.set_verbosity(before)


def _fill(optuna: Any, results: Results, storage: str | None) -> Any:
    attrs = judge(results).standings.attrs
    ranked = attrs["basis"] == "sweep" and results.all_rows
    score = "train_loss" if ranked else f"valid_{results.score}"
    direction = "maximize" if results.higher and not ranked else "minimize"
    study = optuna.create_study(study_name=results.name, storage=storage, direction=direction, load_if_exists=True)
    known = {trial.user_attrs.get("id") for trial in study.trials}
    mine = dict(results.spec) == study.user_attrs.get("spec", dict(results.spec) if not known else None)
    if not mine or study.direction.name.lower() != direction:
        raise UserError(f"{storage} already holds another Optuna study called {results.name}; name another file or storage")
    runs = results.runs
    tuning, finals = (runs[keep].to_dict("records") if len(runs) else [] for keep in (runs["phase"] != "final", runs["phase"] == "final"))
    for name, value in (("spec", dict(results.spec)), ("kind", results.kind), ("command", results.command), ("score", score)):
        study.set_user_attr(name, value)
    study.set_user_attr("planned", dict(results.planned))
    study.set_user_attr("finals", [_facts(run) | {"optimizer": run["optimizer"]} for run in finals])
    spaces = {spec["label"]: _space(optuna, spec) for spec in results.spec["optimizers"]}
    labels = optuna.distributions.CategoricalDistribution(results.optimizers)
    for run in tuning:
        if run["id"] in known:
            continue
        label, space = run["optimizer"], spaces.get(run["optimizer"], {})
        searched = {name: value for name, value in run["config"].items() if name in space}
        params = {"optimizer": label} | {f"{label}.{name}": _choice(value) for name, value in searched.items()}
        distributions = {"optimizer": labels} | {f"{label}.{name}": _around(space[name], value) for name, value in searched.items()}
        value, curve = run[score], results.curves.get(run["id"])
        good = run["status"] == "done" and math.isfinite(value)
        state = "COMPLETE" if good else "PRUNED" if run["status"] == "stopped" else "FAIL"
        seen = {} if curve is None else dict(zip(curve.eval_steps, curve.valid.get(results.score, ()), strict=False))
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state], value=value if good else None,
                params=params, distributions=distributions, user_attrs=_facts(run),
                intermediate_values={int(step): float(v) for step, v in seen.items()},
            )
        )  # fmt: skip
    return study


def _facts(run: Mapping[Any, Any]) -> dict[str, Any]:
    """What is known of a run beside its parameters and its value, as JSON holds it."""
    scores = {k: v for k, v in run.items() if str(k).startswith(("train_", "valid_", "test_")) and math.isfinite(v)}
    return {k: run[k] for k in ("id", "config", "trial", "seed", "status", "diverged_at", "steps", "engine")} | scores


def _space(optuna: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameter -> its distribution, from the spec alone, so that a later export of the study has the same."""
    kinds = optuna.distributions
    tried: dict[str, list[Any]] = {}
    for config in spec.get("first", ()):
        for name, value in config.items():
            tried.setdefault(name, []).append(value)
    space: dict[str, Any] = {}
    for name in {**spec.get("search", {}), **tried}:
        where = spec.get("search", {}).get(name, {})
        if where.get("low") is not None:
            ends = [where["low"], where["high"], *(v for v in tried.get(name, ()) if isinstance(v, int | float))]
            low, high = float(min(ends)), float(max(ends))
            space[name] = kinds.FloatDistribution(low, high, log=where.get("scale", "log") == "log" and low > 0)
        else:
            values = [*(where.get("values") or ()), *([spec["fixed"][name]] if name in spec.get("fixed", {}) else ()), *tried.get(name, ())]
            space[name] = kinds.CategoricalDistribution(tuple(dict.fromkeys(_choice(value) for value in values)))
    return space


def _around(distribution: Any, value: Any) -> Any:
    """The distribution, wide enough for a value that was drawn or named outside of it."""
    if not hasattr(distribution, "low") or distribution.low <= value <= distribution.high:
        return distribution
    return type(distribution)(min(distribution.low, value), max(distribution.high, value), log=distribution.log)


def _choice(value: Any) -> Any:
    """A value that Optuna takes as one of several."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


outlet = Outlet(endings=(".db", ".sqlite", ".sqlite3"), write=write)
