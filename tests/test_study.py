"""A study from Python: what is planned, trained, stored, resumed and refused."""

import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import thalweg as tw
from thalweg import UserError
from thalweg.core import Rate
from thalweg.engine.work import Curve, Outcome
from thalweg.study import folder as place
from thalweg.study import study as studies
from thalweg.study.plan import Group, Job
from thalweg.study.prepare import prepare
from thalweg.study.spec import parse_optimizer, parse_schedule, parse_settings
from thalweg.study.store import Store


def tiny(optimizers: Any = ("sgd", "adam"), problem: Any = "diabetes-linear", **asked: Any) -> tw.Study:
    """A study of a second: 4 trials and 2 final runs an optimizer, 2 epochs each."""
    return tw.compare(problem, list(optimizers), **({"budget": 4, "seeds": 2, "epochs": 2, "engine": "fleet"} | asked))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def data(rows: int = 60, columns: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    return X, X.sum(1, keepdim=True)


def line(train: Any = None, **more: Any) -> tw.Problem:
    given = {"loss": nn.functional.mse_loss} if "step" not in more else {}
    return tw.Problem(lambda: nn.Linear(3, 1), train=data() if train is None else train, name="line", **given, **more)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tw.Study:
    """A finished study in a folder; tests leave it as it is."""
    return tiny(out=tmp_path_factory.mktemp("done") / "study")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The groups that are trained from here on, each as the ids of its runs."""
    seen: list[tuple[str, ...]] = []
    train = studies.train_group

    def counted(shared: Any, group: Group, *rest: Any, **more: Any) -> Any:
        seen.append(tuple(job.id for job in group.jobs))
        return train(shared, group, *rest, **more)

    monkeypatch.setattr(studies, "train_group", counted)
    return seen


# --- the two phases


def test_equal_budgets_then_equal_seeds(done: tw.Study) -> None:
    counts = done.table().groupby(["phase", "optimizer"]).size().to_dict()
    assert counts == {("tune", "sgd"): 4, ("tune", "adam"): 4, ("final", "sgd"): 2, ("final", "adam"): 2}


def test_tuning_uses_one_seed_and_final_runs_the_fresh_ones_after_it() -> None:
    table = tiny(seed=5).table()
    assert table.groupby("phase")["seed"].unique().map(sorted).to_dict() == {"tune": [5], "final": [6, 7]}


def test_the_first_trial_is_the_defaults(done: tw.Study) -> None:
    table = done.table()
    assert table[(table["phase"] == "tune") & (table["trial"] == 0)]["lr"].tolist() == [1e-3, 1e-3]


@pytest.mark.parametrize(("name", "low", "high"), [("sgd", 1e-4, 10.0), ("adam", 1e-5, 1.0), ("random_search", 1e-5, 1.0)])
def test_points_fill_the_declared_range_evenly_in_logarithm(name: str, low: float, high: float) -> None:
    bench = prepare("diabetes-linear", [name], budget=16)
    jobs = studies.plan.tuning(bench.spec, bench.rules, "")
    drawn = np.log([next(iter(job.config.values())) for job in jobs])
    places = (drawn - np.log(low)) / np.log(high / low)
    assert len(places) == 16
    assert (places >= 0).all()
    assert (places <= 1).all()
    assert len(set((places * 16).astype(int))) >= 14  # Sobol: one in each sixteenth, but for the defaults; of even draws 10 or so


def test_a_range_of_ones_own_is_kept() -> None:
    table = tiny(["adam[lr=1e-2..3e-2]"], budget=8).table()
    rates = table[table["phase"] == "tune"]["lr"]
    assert rates.between(1e-2, 3e-2).all()
    assert rates.nunique() == 8


def test_a_list_is_drawn_from() -> None:
    table = tiny(["sgd[momentum=0.5,0.9, lr=0.01]"], budget=8).table()
    assert set(table["momentum"]) == {0.5, 0.9}
    assert set(table["lr"]) == {0.01}


@pytest.mark.parametrize(
    ("text", "expected"), [("sgd[lr=0.1,0.001]", 0.001), ("sgd[lr=0.1,0.2]", 0.1), ("sgd[lr=1e-4..1]", 0.001), ("sgd[lr=0.01..1]", 0.1)]
)
def test_the_first_trial_is_the_default_where_the_search_allows_it(text: str, expected: float) -> None:
    table = tiny([text], budget=2).table()
    assert table["lr"][0] == pytest.approx(expected)


def test_schedules_are_searched() -> None:
    table = tiny(["sgd"], schedule=["constant", "cosine", "cosine(floor=0.5,warmup=3)"], budget=16).table()
    tuning = table[table["phase"] == "tune"]
    assert tuning["schedule"][0] == "constant"
    assert set(tuning["schedule"]) == {"constant", "cosine", "cosine(floor=0.5,warmup=3)"}


def test_a_schedule_drives_the_recorded_rate() -> None:
    study = tiny(["sgd[lr=0.1,schedule=cosine]"], budget=1, seeds=1, epochs=None, steps=10)
    curve = study.results().curves[study.table()["id"][0]]
    assert curve.lr.tolist() == pytest.approx([0.05 * (1 + np.cos(np.pi * t / 10)) for t in range(11)])


def test_own_configurations_come_right_after_the_defaults() -> None:
    table = tiny(first=["adam[lr=0.07]", "adam[lr=0.08]"]).table()
    tuning = table[table["phase"] == "tune"].set_index(["optimizer", "trial"])["lr"]
    assert tuning["adam"].tolist()[:3] == [1e-3, 0.07, 0.08]
    assert not set(tuning["sgd"]) & {0.07, 0.08}
    assert len(tuning["adam"]) == len(tuning["sgd"]) == 4


def test_more_own_configurations_than_the_budget_are_refused() -> None:
    with pytest.raises(UserError, match="exceed the budget of 2"):
        tiny(budget=2, first=["sgd[lr=0.1]", "sgd[lr=0.2]"])


@pytest.mark.parametrize("again", ["adam", "adam[lr=0.01]"])
def test_no_optimizer_is_compared_with_itself(again: str) -> None:
    with pytest.raises(UserError, match="'adam"):
        prepare("diabetes-linear", [again, again])


# --- the paired design


@pytest.fixture(scope="module")
def frozen() -> dict[tuple[str, int], np.ndarray]:
    """(optimizer, seed) -> loss on each batch, of final runs that do not move: what is seen are the weights and the batches alone."""
    study = tiny(["sgd[lr=0]", "adam[lr=0]", "rmsprop[lr=0]"], budget=1, seeds=3)
    table, curves = study.table(), study.results().curves
    runs = table[table["phase"] == "final"]
    return {(o, s): curves[i].loss for i, o, s in zip(runs["id"], runs["optimizer"], runs["seed"], strict=True)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_optimizers_of_a_seed_share_weights_and_batches(frozen: dict[tuple[str, int], np.ndarray], seed: int) -> None:
    np.testing.assert_array_equal(frozen["sgd", seed], frozen["adam", seed])
    np.testing.assert_array_equal(frozen["sgd", seed], frozen["rmsprop", seed])


def test_seeds_have_weights_and_batches_of_their_own(frozen: dict[tuple[str, int], np.ndarray]) -> None:
    assert len({frozen["sgd", seed][0] for seed in (1, 2, 3)}) == 3
    assert len(set(frozen["sgd", 1])) == len(frozen["sgd", 1])


# --- validation chooses, test is touched at the end


def test_test_rows_do_not_influence_the_choice() -> None:
    X, y = data(80)
    rows = {"train": (X[:40], y[:40]), "valid": (X[40:60], y[40:60])}
    honest, absurd = (tiny(problem=line(**rows, test=(X[60:], sign * y[60:]))).table() for sign in (1, -1000))
    seen = ["optimizer", "trial", "seed", "lr", "train_loss", "valid_loss"]
    pd.testing.assert_frame_equal(honest[seen], absurd[seen])
    assert (honest["test_loss"].dropna() != absurd["test_loss"].dropna()).all()


def test_planted_test_labels_do_not_move_the_choice() -> None:
    X, y = data(80)
    rows = {"train": (X[:40], y[:40]), "valid": (X[40:60], y[40:60])}
    start = studies.plan.fresh(line(), 0)
    with torch.no_grad():
        planted = X[60:], start(X[60:])  # the labels that the untrained model gives: not to train (lr 0) predicts them without error
    grid = ["sgd[lr=0,0.001,0.1]"]

    def chosen(**splits: Any) -> pd.DataFrame:
        table = tiny(grid, problem=line(**{**rows, **splits}), budget=6, epochs=10).table()
        return table[table["phase"] == "final"]

    honest, lured = chosen(test=(X[60:], y[60:])), chosen(test=planted)
    assert set(honest["lr"]) == set(lured["lr"]) == {0.1}
    pd.testing.assert_frame_equal(honest.drop(columns="test_loss"), lured.drop(columns=["test_loss"]).assign(id=honest["id"]))
    assert (lured["test_loss"] > 10 * honest["test_loss"]).all()  # the lure is felt where it is measured ...
    assert set(chosen(valid=planted, test=planted)["lr"]) == {0.0}  # ... and as validation labels it would have been followed


def test_seconds_to_a_goal_are_told_of_runs_trained_alone() -> None:
    timed = tiny(engine="solo")
    alone = timed.findings()
    assert all(one.seconds is not None and one.seconds > 0 for one in alone.reach if np.isfinite(one.median))
    assert {one.optimizer for one in alone.reach} == {"sgd", "adam"}
    assert any(np.isfinite(one.median) for one in alone.reach)
    plan = timed.store.get("plan")
    plan["phases"]["final"]["workers"] = 2  # side by side: no run had the machine to itself
    timed.store.put(plan=plan, pace={})
    assert [one.seconds for one in timed.findings().reach] == [None, None]


def test_finalists_of_a_fleet_are_rerun_alone_for_their_seconds() -> None:
    study = tiny()
    pace = study.results().pace
    assert set(pace) == {"sgd", "adam"}
    assert all(0 < seconds < 1 for seconds in pace.values())
    for one in study.findings().reach:
        assert one.seconds == pytest.approx(one.median * pace[one.optimizer])
    study.store.put(pace={})
    untimed = study.findings().reach
    assert [one.seconds for one in untimed] == [None, None]
    assert all("engine: fleet" in one.why_no_seconds for one in untimed)


def test_the_chosen_trial_has_the_best_validation_loss(done: tw.Study) -> None:
    table = done.table()
    tuning, final = table[table["phase"] == "tune"], table[table["phase"] == "final"]
    for optimizer, rows in tuning.groupby("optimizer"):
        best = rows.loc[rows["valid_loss"].idxmin()]
        assert set(final[final["optimizer"] == optimizer]["trial"]) == {best["trial"]}
        assert set(final[final["optimizer"] == optimizer]["lr"]) == {best["lr"]}


def test_only_final_runs_have_test_figures(done: tw.Study) -> None:
    table = done.table()
    assert (table["test_loss"].notna() == (table["phase"] == "final")).all()


def test_an_optimizer_whose_every_trial_diverges_is_not_rerun() -> None:
    study = tiny(["sgd[lr=1e6,1e7]", "adam"])
    table, verdict = study.table(), study.verdict
    assert set(table[table["optimizer"] == "sgd"]["status"]) == {"diverged"}
    assert table[table["phase"] == "final"]["optimizer"].unique().tolist() == ["adam"]
    assert study.results().planned == {"tune": 8, "final": 2}
    assert verdict.leader == "adam"
    assert not verdict.unfinished
    assert verdict.standings.set_index("optimizer")["diverged_tuning"].to_dict() == {"adam": 0.0, "sgd": 1.0}


def test_a_study_in_which_all_diverges_says_so() -> None:
    verdict = tiny(["sgd[lr=1e6,1e7]"]).verdict
    assert verdict.leader is None
    assert "diverged" in verdict.headline


# --- the folder


def test_a_folder_holds_spec_database_and_environment(done: tw.Study) -> None:
    assert done.folder is not None
    assert {"study.toml", "study.db", "environment.json"} <= set(contents(done.folder))
    assert not [name for name in contents(done.folder) if name.startswith((".study", ".write", ".environment"))]


def test_a_study_without_a_folder_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny()
    assert len(study.table()) == 12
    assert list(tmp_path.iterdir()) == []


def test_a_study_in_memory_has_the_same_table(done: tw.Study) -> None:
    pd.testing.assert_frame_equal(tiny().table(), done.table(), check_exact=True)


def test_an_open_study_has_the_same_table(done: tw.Study) -> None:
    assert done.folder is not None
    pd.testing.assert_frame_equal(tw.Study.open(done.folder).table(), done.table(), check_exact=True)


@pytest.mark.parametrize("name", ["with space", "50%", "a?mode=ro", "a#b", "ünï"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    tiny(["sgd"], budget=1, seeds=1, epochs=None, steps=2, out=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "study.db").is_file()


SPECS = [
    pytest.param(["sgd", "adam"], {}, id="names"),
    pytest.param(["sgd[momentum=0.9,0.99,lr=1e-3..1]", "adam[lr=0.1,beta1=0.5..0.9]"], {}, id="searches"),
    pytest.param(["sgd[schedule=constant,cosine]", "adam[schedule=cosine(floor=0.1,warmup=2)]"], {}, id="schedules"),
    pytest.param(["sgd[nesterov=true,momentum=0.9]", "sgd[clip_norm=0.1..10,l1=0.01,weight_decay=1e-4]"], {}, id="wrappers"),
    pytest.param(["sgd", "adam"], {"first": ["adam[lr=0.07]", "sgd[lr=1,momentum=0.5]"]}, id="first"),
    pytest.param({"adam": {"lr": {"linear": [0.1, 0.2]}}, "sgd": {"lr": [0.1, 0.2], "try": [{"lr": 0.3}]}}, {}, id="mapping"),
    pytest.param(["sgd"], {"seed": 3, "steps": 7, "full_batch": True, "schedule": "cosine", "all_rows": True}, id="options"),
    pytest.param(["sgd[lr=0.1,0.2]"], {"kind": "sweep", "seeds": 3}, id="sweep"),
]


@pytest.mark.parametrize(("optimizers", "asked"), SPECS)
def test_study_toml_is_read_back_as_the_same_spec(optimizers: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    bench = prepare("diabetes-linear", optimizers, **asked)
    path = tmp_path / "study.toml"
    path.write_text(place.toml(bench.spec, bench.name, None))
    again = prepare(str(path))
    assert again.spec == bench.spec
    assert again.name == bench.name


def test_the_written_study_toml_repeats_the_study(done: tw.Study, trained: list) -> None:
    assert done.folder is not None
    again = tw.compare(str(done.folder / "study.toml"), out=done.folder)
    assert trained == []
    pd.testing.assert_frame_equal(again.table(), done.table(), check_exact=True)


# --- resuming


def test_a_finished_study_trains_nothing_again(done: tw.Study, trained: list) -> None:
    again = tiny(out=done.folder)
    assert trained == []
    pd.testing.assert_frame_equal(again.table(), done.table(), check_exact=True)


def test_time_stops_and_the_next_call_goes_on(done: tw.Study, trained: list, tmp_path: Path) -> None:
    sizes = []
    for _ in range(10):
        study = tiny(out=tmp_path / "study", time=0)
        sizes.append(len(study.table()))
        assert study.verdict.unfinished == (sizes[-1] < 12)
        if sizes[-1] == 12:
            break
    assert sizes == [4, 8, 10, 12]
    assert len(trained) == len(set(trained)) == 4
    pd.testing.assert_frame_equal(study.table(), done.table(), check_exact=True)


class Killed(BaseException):
    """Stands for a kill -9: nothing after it runs."""


@contextmanager
def killed_at(write: int) -> Iterator[None]:
    """The process dies when it is about to write to a database for the time `write`, counted from 0."""
    count = 0

    def look(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal count
        if statement.split()[0] in ("CREATE", "INSERT", "DELETE", "UPDATE"):
            if count == write:
                raise Killed
            count += 1

    sa.event.listen(sa.Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", look)


@pytest.mark.parametrize("write", range(12))
def test_no_moment_of_death_spoils_the_folder(write: int, tmp_path: Path) -> None:
    """Table by table and key by key, from the empty folder to the first stored runs."""

    def run() -> tw.Study:
        return tiny(["sgd"], budget=2, seeds=1, epochs=None, steps=2, out=tmp_path / "study")

    with pytest.raises(Killed), killed_at(write):
        run()
    assert len(run().table()) == 3


def test_a_failed_call_frees_the_folder_even_while_its_traceback_lives(tmp_path: Path) -> None:
    """As in a notebook, which keeps the last traceback and with it every frame."""
    tiny(["sgd"], budget=1, seeds=1, out=tmp_path)
    with pytest.raises(UserError) as kept:
        tiny(["sgd"], budget=2, seeds=1, out=tmp_path)
    assert len(tiny(["sgd"], budget=1, seeds=1, out=tmp_path).table()) == 2
    assert kept.tb is not None


# --- what is refused in a folder


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"budget": 5}, "budget is 4 there and 5 here"),
        ({"seeds": 3}, "seeds is 2 there and 3 here"),
        ({"epochs": None, "steps": 7}, "steps is .* there and 7 here"),
        ({"batch_size": 16}, "batch_size is 32 there and 16 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"engine": "solo"}, "engine is fleet there and solo here"),
        ({"optimizers": ["sgd"]}, "optimizers is sgd, adam there and sgd here"),
        ({"optimizers": ["sgd[momentum=0.9]", "adam"]}, "optimizers have other settings"),
        ({"problem": "breast-cancer-logistic"}, "problem is diabetes-linear there and breast-cancer-logistic here"),
    ],
)
def test_another_spec_is_refused_by_naming_the_difference(done: tw.Study, changed: dict[str, Any], named: str) -> None:
    assert done.folder is not None
    before = contents(done.folder)
    with pytest.raises(UserError, match=named):
        tiny(out=done.folder, **changed)
    assert contents(done.folder) == before


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: line(data(61)), id="data"),
        pytest.param(lambda: tw.Problem(lambda: nn.Sequential(nn.Linear(3, 1)), nn.functional.mse_loss, data(), name="line"), id="model"),
        pytest.param(lambda: tw.Problem(lambda: nn.Linear(3, 1), nn.functional.l1_loss, data(), name="line"), id="loss"),
    ],
)
def test_another_problem_of_the_same_name_is_refused(other: Callable[[], tw.Problem], tmp_path: Path) -> None:
    quick = {"budget": 1, "seeds": 1, "out": tmp_path, "batch_size": 8, "epochs": None, "steps": 2}
    tiny(problem=line(), **quick)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="other data"):
        tiny(problem=other(), **quick)
    assert contents(tmp_path) == before


def test_an_edited_rule_is_not_mixed_with_its_former_self(tmp_path: Path) -> None:
    def first() -> tw.Rule:
        @tw.rule
        def mine(x, g, *, lr: Rate = 1e-2):
            return x - lr * g

        return mine

    def edited() -> tw.Rule:
        @tw.rule
        def mine(x, g, *, lr: Rate = 1e-2):
            return x - 2 * lr * g

        return mine

    tiny([first()], out=tmp_path)
    with pytest.raises(UserError, match="rule"):
        tiny([edited()], out=tmp_path)


def test_two_processes_on_one_folder_are_kept_apart(tmp_path: Path) -> None:
    claim = "import sys, pathlib, thalweg.study.folder as f; lock = f.claim(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"{claim}; print('held', flush=True); input()", str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another thalweg process is at work in"):
            tiny(out=tmp_path)
        holder.communicate("done\n")
    finally:
        holder.kill()
        holder.communicate()
    assert len(tiny(["sgd"], budget=1, seeds=1, epochs=None, steps=2, out=tmp_path).table()) == 2


# --- engines


@pytest.fixture(scope="module")
def by_engine() -> dict[str, pd.DataFrame]:
    return {engine: tiny(budget=3, seeds=1, engine=engine).table() for engine in ("fleet", "pool", "solo")}


@pytest.mark.parametrize("engine", ["pool", "solo"])
def test_engines_give_the_same_table_up_to_rounding(by_engine: dict[str, pd.DataFrame], engine: str) -> None:
    ours, fleet = by_engine[engine], by_engine["fleet"]
    assert set(ours["engine"]) == {engine}
    pd.testing.assert_frame_equal(ours.drop(columns="engine"), fleet.drop(columns="engine"), check_exact=False, rtol=1e-4)


@tw.rule
def stubborn(x, g, *, lr: Rate = 1e-2):
    """A rule that no vmap takes: it asks a tensor for its number."""
    return x - lr * g if g.norm().item() < 1e9 else x


@pytest.mark.parametrize("engine", ["auto", "fleet", "solo"])
def test_a_rule_that_vmap_cannot_take_trains_as_sgd_does(engine: str) -> None:
    table = tiny([stubborn, "sgd[lr=1e-2]"], engine=engine, budget=1, seeds=2, epochs=None, steps=12).table()
    assert set(table["status"]) == {"done"}
    theirs, ours = (table[table["optimizer"] == name]["train_loss"].to_numpy() for name in ("sgd", "stubborn"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


# --- problems of one's own


class Rows(Dataset):
    """Rows by number, as a user would write it."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(part[i] for part in data())


def dict_step(model: Callable, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return ((model(batch["X"]) - batch["y"]) ** 2).mean()


def test_tensors_datasets_and_dicts_are_one_problem() -> None:
    tables = [
        tiny(["adam"], problem=problem).table().drop(columns="id")
        for problem in (
            line(),
            line(TensorDataset(*data())),
            line(Rows()),
            line(dict(zip(("X", "y"), data(), strict=True)), step=dict_step),
        )
    ]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other, tables[0], check_exact=False, rtol=1e-5)


# --- text to settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sgd", ("sgd", {})),
        ("  sgd[ ] ", ("sgd", {})),
        ("sgd[lr=0.1]", ("sgd", {"lr": "0.1"})),
        ("sgd[lr=0.1,1, momentum=0.9]", ("sgd", {"lr": ["0.1", "1"], "momentum": "0.9"})),
        ("sgd[lr=1e-3..1]", ("sgd", {"lr": {"log": [1e-3, 1.0]}})),
        ("sgd[lr=1e-3..1*4]", ("sgd", {"lr": ["0.001", "0.01", "0.1", "1"]})),
        ("mine.py:rule[lr=.5]", ("mine.py:rule", {"lr": ".5"})),
        ("sgd[schedule=cosine(floor=0.1,warmup=5),lr=1]", ("sgd", {"schedule": "cosine(floor=0.1,warmup=5)", "lr": "1"})),
        ("sgd[schedule=constant,cosine(floor=0.1)]", ("sgd", {"schedule": ["constant", "cosine(floor=0.1)"]})),
    ],
)
def test_optimizers_are_read_from_text(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert parse_optimizer(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an optimizer"),
        ("sgd[lr=1", "is not an optimizer"),
        ("sgd]lr=1[", "is not an optimizer"),
        ("sgd[0.1]", "'0.1' in .* is not key=value"),
        ("sgd[lr=]", "lr in .* has an empty value"),
        ("sgd[lr=1,,2]", "lr in .* has an empty value"),
        ("sgd[lr=1,lr=2]", "'lr' is given twice"),
        ("sgd[lr=a..1]", "is not a range; write low..high"),
        ("sgd[lr=1..]", "is not a range; write low..high"),
        ("sgd[lr=..1]", "is not a range; write low..high"),
        ("sgd[lr=a..b*4]", "lr in .*a..b"),
        ("sgd[lr=0..1*4]", "0 < low < high"),
        ("sgd[lr=1..0.1*4]", "0 < low < high"),
        ("sgd[lr=0.1..1*1]", "at least 2 values"),
    ],
)
def test_text_that_is_no_optimizer_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_optimizer(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adm", "did you mean 'adam'"),
        ("adam[bta1=0.5]", "adam has no 'bta1'; did you mean 'beta1'"),
        ("sgd[momentun=0.5]", "did you mean 'momentum'"),
        ("adam[schedule=cosin]", "did you mean 'cosine'"),
        ("adam[schedule=cosine(flor=0.1)]", "did you mean 'floor'"),
        ("adam[schedule=constant,cosine(flor=0.1)]", "did you mean 'floor'"),
        ("adam[schedule=cosine(floor=low)]", "is not key=number"),
        ("adam[schedule=cosine(warmup=-1)]", "warmup = -1"),
        ("random_search[schedule=cosine]", "has no learning rate"),
        ("adam[lr=1..0.1]", "the range of adam: lr is empty: 1..0.1; give the smaller end first"),
        ("adam[lr=0.1..0.1]", "is empty"),
        ("adam[lr=-1..1]", r"lower end of its range, = -1 is outside \[0, inf\)"),
        ("adam[lr=0..1]", "must be positive and finite"),
        ("adam[lr=0.1..inf]", r"is outside \[0, inf\)"),
        ("adam[lr=nan]", r"is outside \[0, inf\)"),
        ("adam[beta1=1]", r"beta1 = 1 is outside \[0, 1\)"),
        ("adam[correct=maybe]", "must be true or false"),
        ("adam[correct=0..1]", "takes a list of values, not a range"),
        ("adam[lr=fast]", "lr = 'fast' must be a number"),
        ("adam[lr=0.1,-0.1]", r"lr = -0.1 is outside \[0, inf\)"),
    ],
)
def test_settings_that_no_rule_takes_are_refused_before_work(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        tiny([text], out=tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("steps", [20, 2000])
def test_a_warmup_is_held_against_the_steps_of_the_run(steps: int, tmp_path: Path) -> None:
    """Neither refused though it fits, nor found only once training has begun."""
    text = "sgd[lr=0.1,schedule=cosine(warmup=1500)]"
    if steps > 1500:
        assert prepare("diabetes-linear", [text], steps=steps).spec.steps == steps
        return
    with pytest.raises(UserError, match="warmup = 1500 is longer than total = 20"):
        prepare("diabetes-linear", [text], steps=steps)


SMALL = line()
numbers = st.floats(1e-9, 1e9, allow_nan=False)
keys = st.from_regex(r"[a-z][a-z_0-9]{0,9}", fullmatch=True)


@given(st.dictionaries(keys, st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=4))
def test_settings_survive_being_written(settings: dict[str, list[float]]) -> None:
    text = ", ".join(f"{key}={','.join(map(repr, values))}" for key, values in settings.items())
    parsed = parse_settings(text, text)
    assert {k: [float(v) for v in ([value] if isinstance(value, str) else value)] for k, value in parsed.items()} == settings


@given(numbers, numbers)
def test_ranges_survive_being_written(low: float, high: float) -> None:
    assert parse_settings(f"lr={low!r}..{high!r}", "") == {"lr": {"log": [low, high]}}


@given(st.floats(1e-6, 1.0), st.floats(1.01, 1e6), st.integers(2, 50))
def test_spaced_values_grow_evenly_from_end_to_end(low: float, factor: float, count: int) -> None:
    values = [float(v) for v in parse_settings(f"lr={low!r}..{low * factor!r}*{count}", "")["lr"]]
    assert len(values) == count
    assert np.diff(np.log(values)) == pytest.approx(np.full(count - 1, np.log(factor) / (count - 1)), rel=1e-3, abs=1e-5)
    assert values[0] == pytest.approx(low, rel=1e-5)


@given(st.dictionaries(keys, st.floats(-1e6, 1e6, allow_nan=False), max_size=3))
def test_schedules_survive_being_written(arguments: dict[str, float]) -> None:
    text = f"cosine({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
    assert parse_schedule(text) == ("cosine", arguments)


@given(st.lists(st.floats(1e-5, 1.0), min_size=2, max_size=4), st.floats(0, 0.99))
def test_any_numbers_survive_study_toml(rates: list[float], momentum: float) -> None:
    spec = prepare(SMALL, {"sgd": {"lr": rates, "momentum": momentum}}, steps=1).spec
    assert type(spec)(**tomllib.loads(tomli_w.dumps(place.plain(spec)))) == spec


# --- TOML by hand


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget = ", "not valid TOML"),
        ("budgt = 3", "did you mean 'budget'"),
        ('budget = "many"', "budget"),
        ("budget = 0", "budget"),
        ("seeds = 0", "seeds"),
        ('steps = "many"', "steps"),
        ('epochs = "two"', "epochs"),
        ("epochs = inf", "epochs"),
        ('batch_size = "all"', "batch_size"),
        ("batch_size = 100000", "batch_size"),
        ("seed = -1", "seed"),
        ('engine = "warp"', "engine"),
        ("problem = 3", "problem"),
        ('problem = "diabetes-liner"', "did you mean 'diabetes-linear'"),
        ("optimizers = 3", "optimizers"),
        ("optimizers = []", "no optimizer|at least one"),
        ("optimizer = { sgd = 3 }", "sgd"),
        ("optimizers = [{ lr = 0.1 }]", "which rule"),
        ("optimizer = { sgd = { lr = { log = [1e-3] } } }", "is not a range"),
        ('optimizer = { sgd = { lr = { log = ["a", 1] } } }', "lr"),
        ("optimizer = { sgd = { lr = [] } }", "nothing to choose from"),
        ("optimizer = { sgd = { try = 3 } }", "to try"),
        ("optimizer = { sgd = { schedule = 3 } }", "schedule"),
        ("schedule = 3", "schedule"),
        ("first = 3", "first"),
        ('optimizers = [{ label = "a", fixed = {}, rule = "sgd", search = { lr = { low = 1, high = 0.1 } } }]', "lr"),
        ('optimizers = [{ label = "a", fixed = { lr = -1 }, rule = "sgd" }]', "lr"),
        ('optimizers = [{ label = "a", fixed = {}, rule = "sgd", serch = {} }]', "serch|search"),
    ],
)
def test_toml_that_makes_no_study_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text + ("" if "problem" in text else '\nproblem = "diabetes-linear"\n'))
    with pytest.raises(UserError, match=message):
        prepare(str(path))


def test_a_time_in_toml_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('problem = "diabetes-linear"\noptimizers = ["sgd", "adam"]\nbudget = 2\nseeds = 1\nsteps = 2\ntime = 0\n')
    with pytest.raises(UserError, match="time"):
        prepare(str(path))


def test_toml_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        prepare(str(tmp_path / "none.toml"))


# --- the store


def shatter(path: Path, how: str) -> None:
    """Make a study's database into something that is none."""
    if how == "garbage":
        path.write_bytes(bytes(range(256)) * 64)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "stranger":
        path.unlink()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE people (name TEXT)")
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
            connection.commit()


DAMAGES = [
    ("garbage", "cannot be opened as a study's database|is damaged"),
    ("truncated", "cannot be opened as a study's database|is damaged"),
    ("stranger", "is a database, but not of a thalweg study"),
    ("version", r"another version of thalweg \(database version 99, this one reads 2\)"),
]


@pytest.mark.parametrize(("how", "message"), DAMAGES)
@pytest.mark.parametrize("call", ["compare", "open"])
def test_a_database_that_is_no_study_of_ours_is_refused(call: str, how: str, message: str, done: tw.Study, tmp_path: Path) -> None:
    assert done.folder is not None
    path = tmp_path / "study.db"
    path.write_bytes((done.folder / "study.db").read_bytes())
    shatter(path, how)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        tiny(out=tmp_path) if call == "compare" else tw.Study.open(tmp_path).results()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no study")):
        tw.Study.open(tmp_path)


@pytest.mark.parametrize("ask", ["table", "results", "report"])
def test_a_study_that_died_before_its_plan_has_nothing_to_show(ask: str, tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 'study.db'}").close()
    with pytest.raises(UserError, match="stopped before it was planned"):
        getattr(tw.Study.open(tmp_path), ask)()


def test_curves_come_back_as_they_were(tmp_path: Path) -> None:
    def curve(records: int) -> Curve:
        steps = np.arange(records)
        loss = np.linspace(1, 0.1, records) if records < 5 else np.array([1.0, 2.0, 3.0, np.inf, np.nan])
        return Curve(steps, loss, loss * 2, loss * 3, steps[:2], {"loss": loss[:2], "accuracy": loss[:2] / 7})

    jobs = tuple(Job(f"run{k}", "tune", "sgd", k, 0, {"lr": 0.1 * k}) for k in range(2))
    curves = [curve(3), curve(5)]
    store = Store(f"sqlite:///{tmp_path / 'study.db'}")
    store.write(Group("group", jobs), [Outcome(curves[0], -1, None), Outcome(curves[1], 4, None)], "fleet", 1.5, 2)
    store.close()
    back = Store(f"sqlite:///{tmp_path / 'study.db'}", create=False).curves()
    assert list(back) == ["run0", "run1"]
    for ours, theirs in zip(back.values(), curves, strict=True):
        for name in ("steps", "loss", "grad_norm", "lr", "eval_steps"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert list(ours.valid) == list(theirs.valid)
        for name, values in theirs.valid.items():
            np.testing.assert_array_equal(ours.valid[name], values)


def test_a_diverged_run_keeps_its_step_and_no_validation_score(tmp_path: Path) -> None:
    table = tiny(["sgd[lr=1e6]"], budget=1).table()
    assert table["status"].tolist() == ["diverged"]
    assert 0 < table["diverged_at"][0] < table["steps"][0]
    assert table[["valid_loss", "test_loss"]].isna().all(axis=None)
