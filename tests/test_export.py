"""Exports: what another tool reads back is what the study holds, finished or not; what is missing is said in a sentence."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import math
import os
import re
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import thalweg as tw
from study_samples import finals, results, run, study
from thalweg import UserError
from thalweg.study.export import by_ending, export, find, formats, need
from thalweg.study.export.tensorboard import folders
from thalweg.study.tables import TABLE


def half():
    """A comparison cut off in the middle of tuning: the first optimizer's trials alone."""
    whole = study(["adam", "sgd"], trials=8, seeds=2)
    keep = (whole.runs["phase"] == "tune") & (whole.runs["optimizer"] == "adam")
    return dataclasses.replace(whole, runs=whole.runs[keep].reset_index(drop=True), planned={"tune": 16, "final": 4})


def nothing():
    """A comparison of which no run is done."""
    whole = half()
    return dataclasses.replace(whole, runs=whole.runs.iloc[:0])


SAMPLES = {
    "finished": lambda: study(["adam", "sgd", "momentum"], trials=8, seeds=3, final_diverged=["sgd"]),
    "half": half,
    "sweep": lambda: study(["adam", "sgd"], kind="sweep", trials=8, seeds=2),
    "all diverged": lambda: study(["adam", "sgd"], trials=4, all_diverged=True),
    "no curves": lambda: finals({"a & b_c": [0.9, 0.91], "100 % {x}": [0.8, 0.82]}),
    "nothing": nothing,
}
READERS = {
    "csv": lambda content: pd.read_csv(io.StringIO(content)),
    "json": lambda content: pd.DataFrame(json.loads(content)),
    "parquet": lambda content: pd.read_parquet(io.BytesIO(content)),
}
samples = pytest.mark.parametrize("name", SAMPLES)


# --- the registry


def test_a_format_is_found_by_its_file():
    here = Path(importlib.import_module("thalweg.study.export").__file__).parent
    assert set(formats()) == {path.stem for path in here.glob("*.py")} - {"__init__"}
    for name in formats():
        outlet = find(name)
        assert (outlet.content is None) != (outlet.write is None)
        assert bool(outlet.tables) == (outlet.content is not None)
        assert set(outlet.tables) <= set(TABLE)
        assert importlib.import_module(f"thalweg.study.export.{name}").__doc__


def test_no_two_formats_share_an_ending():
    endings = [ending for name in formats() for ending in find(name).endings]
    assert len(set(endings)) == len(endings)
    assert {by_ending(f"x{ending}") for ending in endings} == set(formats()) - {"tensorboard"}


@pytest.mark.parametrize(
    ("format", "table", "message"),
    [
        ("exel", None, "no export format is called 'exel'"),
        ("jsn", None, "did you mean 'json'?"),
        ("latex", "runs", "latex holds no table called 'runs'; it holds standings"),
        ("csv", "run", "csv holds no table called 'run'; it holds runs or curves or standings"),
        ("optuna", "runs", "optuna holds the study whole"),
        ("tensorboard", None, "event files need a folder"),
    ],
)
def test_what_cannot_be_exported_is_said(format, table, message):
    with pytest.raises(UserError, match=re.escape(message)):
        export(nothing(), format, table=table)


PACKAGES = {"optuna": "optuna", "tensorboard": "tensorboardX", "parquet": "pyarrow"}


def installed(format):
    """The package of a format; the test is skipped where it is absent, as it may be."""
    if format in PACKAGES:
        return pytest.importorskip(PACKAGES[format], reason=f"{PACKAGES[format]} is not installed: pip install {PACKAGES[format]}")


@pytest.mark.parametrize(("format", "package"), PACKAGES.items())
def test_a_missing_package_is_named_with_its_command(format, package, tmp_path, monkeypatch):
    find(format), half()
    real = importlib.import_module

    def absent(name, *rest):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    sentence = f"needs the package {package}, which is not installed; install it with: pip install {package}"
    with pytest.raises(UserError, match=sentence):
        export(half(), format, str(tmp_path / "place"))
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_broken_says_why(tmp_path, monkeypatch):
    (tmp_path / "splintered.py").write_text("import missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"needs the package splintered, which does not start \(No module named 'missing_part'\)"):
        need("splintered", "splintered")


@pytest.mark.parametrize("format", formats())
def test_a_place_that_cannot_be_written_is_said(format, tmp_path):
    installed(format)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"cannot (be written|write to)"):
        export(SAMPLES["half"](), format, str(tmp_path / "file" / "below"))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.name != "posix", reason="named pipes are POSIX's")
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    import stat
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    export(nothing(), "json", str(pipe))
    reader.join(30)
    assert got == ["[]\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# --- tables


@samples
@pytest.mark.parametrize("table", TABLE)
@pytest.mark.parametrize("format", READERS)
def test_a_table_comes_back_to_the_last_digit(name, table, format):
    r = SAMPLES[name]()
    expected, back = TABLE[table](r), READERS[format](export(r, format, table=table))
    if len(expected) or format != "json":  # a list of no records names no columns
        assert list(back.columns) == list(expected.columns)
    assert len(back) == len(expected)
    for column in expected if len(expected) else ():
        for ours, theirs in zip(expected[column], back[column], strict=True):
            if isinstance(ours, float) and not math.isfinite(ours) and format == "json":
                assert theirs is None or math.isnan(theirs)
            elif ours is None or ours != ours:
                assert theirs is None or theirs != theirs
            else:
                assert theirs == ours, (column, ours, theirs)


def test_curves_hold_every_record():
    r = SAMPLES["finished"]()
    table = TABLE["curves"](r)
    for key, curve in r.curves.items():
        own = table[table["id"] == key]
        assert np.array_equal(own["step"], curve.steps)
        assert np.array_equal(own["loss"], curve.loss, equal_nan=True)
        seen = own[own["valid_accuracy"].notna()]
        assert np.array_equal(seen["step"], curve.eval_steps)
        assert np.array_equal(seen["valid_accuracy"], curve.valid["accuracy"])


# --- LaTeX


@samples
def test_latex_is_a_whole_tabular(name):
    text = export(SAMPLES[name](), "latex")
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert lines[0].startswith(r"\begin{tabular}{ll")
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[-1] == r"\end{tabular}"
    count = len(re.search(r"\{(l+r*)\}", lines[0])[1])
    rows = [line for line in lines if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {count}
    assert "\n".join(lines).isascii()
    body = re.sub(r"\$[^$]*\$", "", "\n".join(rows))
    assert not re.search(r"(?<!\\)[_%#^~$]", body)


def test_latex_says_what_the_standings_say():
    r = finals({"adam": [0.90, 0.91, 0.92], "sgd_m": [0.80, 0.80, 0.81]})
    text = export(r, "latex")
    assert r"\textbf{adam} & lr $3.1 \times 10^{-3}$ & 91.0 $\pm$ 2.5 \% & the best & -- & 0 of 3 \\" in text
    assert re.search(r"\nsgd\\_m & lr \$3.1 \\times 10\^\{-3\}\$ & 80.3 \$\\pm\$ 1.4 \\% & \$-\$10.7 \$\\pm\$ 1.4 & ", text)
    assert "Difference, points & Adjusted p" in text


# --- TensorBoard


def events(folder: Path):
    """The summaries of all event files of a folder; the framing is TensorFlow's: length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        raw = path.read_bytes()
        place = 0
        while place < len(raw):
            (length,) = struct.unpack("<Q", raw[place : place + 8])
            yield from ((e.step, v) for e in [Event.FromString(raw[place + 12 : place + 12 + length])] for v in e.summary.value)
            place += length + 16


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for step, value in events(folder):
        if value.HasField("simple_value"):
            assert step not in found.setdefault(value.tag, {}), "written twice"
            found[value.tag][step] = value.simple_value
    return found


def hypers(folder: Path) -> dict:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    (value,) = (v for _, v in events(folder) if v.tag == "_hparams_/session_start_info")
    stored = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info.hparams
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in stored.items()}


@samples
def test_event_files_hold_every_run(name, tmp_path):
    installed("tensorboard")
    r = SAMPLES[name]()
    for _ in range(2):  # the second export takes the place of the first
        assert export(r, "tensorboard", str(tmp_path / "events")) == tmp_path / "events"
    places = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")}
    assert len(places) == len(r.runs)
    names = folders(r.optimizers)
    for row in r.runs.to_dict("records"):
        last = f"seed-{row['seed']}" if row["phase"] == "final" else f"trial-{row['trial']:03d}-seed-{row['seed']}"
        place = tmp_path / "events" / row["phase"] / names[row["optimizer"]] / last
        back, curve = scalars(place), r.curves.get(row["id"])
        if curve is not None:
            for tag, steps, values in (
                ("train/loss", curve.steps, curve.loss), ("train/lr", curve.steps, curve.lr),
                ("valid/accuracy", curve.eval_steps, curve.valid["accuracy"]),
            ):  # fmt: skip
                kept = {int(s): v for s, v in zip(steps, values, strict=True) if math.isfinite(v)}
                assert back[tag] == pytest.approx(kept, rel=1e-6)
        if math.isfinite(row["valid_accuracy"]):
            assert back["score/valid_accuracy"] == pytest.approx({row["steps"]: row["valid_accuracy"]}, rel=1e-6)
        known = hypers(place)
        assert known | row["config"] == known
        assert (known["optimizer"], known["status"]) == (row["optimizer"], row["status"])


def test_a_runs_other_event_files_are_left_alone(tmp_path):
    installed("tensorboard")
    r = results([run("tune", "adam", 0, 0, {"lr": 0.1})], metrics=("loss",), score="loss", higher=False)
    export(r, "tensorboard", str(tmp_path))
    (mine,) = tmp_path.rglob("events.out.tfevents.*")
    other = mine.with_name("events.out.tfevents.1.elsewhere")
    other.write_text("precious")
    export(r, "tensorboard", str(tmp_path))
    assert other.read_text() == "precious"


# --- Optuna


@pytest.fixture
def optuna():
    return installed("optuna")


@samples
def test_an_optuna_study_has_a_trial_for_each_tuning_run(name, optuna):
    r = SAMPLES[name]()
    made = export(r, "optuna")
    tuning = [row for row in r.runs.to_dict("records") if row["phase"] != "final"]
    assert len(made.trials) == len(tuning)
    assert made.direction.name == "MAXIMIZE"
    for trial, row in zip(made.trials, tuning, strict=True):
        diverged = row["status"] == "diverged"
        assert trial.state.name == ("FAIL" if diverged else "COMPLETE")
        assert trial.value == (None if diverged else row["valid_accuracy"])
        label = row["optimizer"]
        kept = {n: v for n, v in row["config"].items() if n == "lr"}  # what the samples search
        assert trial.params == {"optimizer": label, **{f"{label}.{n}": v for n, v in kept.items()}}
        for param, value in trial.params.items():
            assert trial.distributions[param]._contains(trial.distributions[param].to_internal_repr(value))
        assert trial.user_attrs["id"] == row["id"]
        assert trial.user_attrs["config"] == row["config"]
        curve = r.curves.get(row["id"])
        assert trial.intermediate_values == ({} if curve is None else dict(zip(curve.eval_steps, curve.valid["accuracy"], strict=True)))
    assert len(made.user_attrs["finals"]) == (r.runs["phase"] == "final").sum()
    best = [row["valid_accuracy"] for row in tuning if row["status"] == "done"]
    if best:
        assert made.best_value == max(best)


def test_a_trial_that_was_stopped_early_is_pruned(optuna):
    rows = [run("tune", "adam", k, 0, {"lr": 0.1}, valid_accuracy=0.5, status=s) for k, s in enumerate(("done", "stopped", "failed"))]
    assert [trial.state.name for trial in export(results(rows), "optuna").trials] == ["COMPLETE", "PRUNED", "FAIL"]


def test_a_study_that_goes_on_is_added_to_its_storage(optuna, tmp_path):
    where = str(tmp_path / "trials.db")
    whole = study(["adam", "sgd"], trials=8, seeds=2)
    export(half(), "optuna", where)
    export(whole, "optuna", where)
    export(whole, "optuna", f"sqlite:///{where}")
    back = optuna.load_study(study_name="sample", storage=f"sqlite:///{where}")
    assert [trial.user_attrs["id"] for trial in back.trials] == whole.runs.loc[whole.runs["phase"] == "tune", "id"].tolist()
    assert len(back.user_attrs["finals"]) == 4


@pytest.mark.parametrize("other", ["another spec", "another tool's"])
def test_another_study_in_the_storage_is_left_alone(optuna, tmp_path, other):
    where = f"sqlite:///{tmp_path / 'trials.db'}"
    if other == "another spec":
        export(results([run("tune", "adam", 0, 0, {"lr": 0.1}, valid_accuracy=0.5)], spec={"optimizers": []}), "optuna", where)
    else:
        optuna.create_study(study_name="sample", storage=where, direction="maximize").add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UserError, match="already holds another Optuna study called sample"):
        export(half(), "optuna", where)
    assert len(optuna.load_study(study_name="sample", storage=where).trials) == 1


@pytest.mark.parametrize("where", ["abacus://x", "postgresql://nobody@127.0.0.1:1/x"])
def test_a_storage_that_is_none_is_said(optuna, where):
    with pytest.raises(UserError, match=f"Optuna cannot write to {where}: .*; name a file or a storage such as sqlite:///trials.db"):
        export(half(), "optuna", where)


def test_what_was_named_outside_the_search_is_a_trial_too(optuna):
    spec = {
        "optimizers": [
            {
                "label": "adam", "rule": "adam", "fixed": {"eps": 1e-8},
                "search": {"lr": {"low": 1e-4, "high": 1e-1, "scale": "log"}, "beta1": {"values": [0.9, 0.95], "scale": "log"}},
                "first": [{"lr": 5.0, "beta1": 0.5}, {"eps": 1e-6}],
            }
        ]
    }  # fmt: skip
    configs = [{"lr": 1e-3, "beta1": 0.9, "eps": 1e-8}, {"lr": 5.0, "beta1": 0.5}, {"lr": 1e-6, "eps": 1e-6}]
    rows = [run("tune", "adam", k, 0, config, valid_accuracy=0.5 + k / 10) for k, config in enumerate(configs)]
    made = export(results(rows, spec=spec), "optuna")
    assert [trial.params for trial in made.trials] == [{"optimizer": "adam"} | {f"adam.{n}": v for n, v in c.items()} for c in configs]
    assert made.best_params == made.trials[2].params


# --- a study that is trained


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tw.Study:
    """A study cut off by its time after the first group."""
    folder = tmp_path_factory.mktemp("stopped") / "study"
    made = tw.compare("diabetes-linear", ["sgd", "adam"], budget=4, seeds=2, steps=20, engine="fleet", time=0, out=folder)
    assert 0 < len(made.table()) < 8
    return made


@pytest.mark.parametrize("format", formats())
def test_an_unfinished_study_is_exported(stopped, format, tmp_path):
    installed(format)
    stopped.export(format, tmp_path / "place")
    assert (tmp_path / "place").exists()
    assert "Unfinished" in stopped.report(tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_study_is_read_while_it_is_written(tmp_path, monkeypatch):
    """Report and exports at every moment between two groups; the study ends as it does alone."""
    from thalweg.study.store import Store

    asked = {"budget": 3, "seeds": 2, "steps": 20, "engine": "fleet"}
    alone = tw.compare("diabetes-linear", ["sgd", "adam"], **asked)
    write, seen = Store.write, []

    def watched(self, *arguments):
        other = tw.Study.open(tmp_path / "study")  # as another process would
        seen.append(len(other.export("csv").splitlines()) - 1)
        assert other.export("latex").count("\\\\\n") == 3
        other.report(tmp_path / "early.html")
        other.close()
        write(self, *arguments)

    monkeypatch.setattr(Store, "write", watched)
    made = tw.compare("diabetes-linear", ["sgd", "adam"], **asked, out=tmp_path / "study")
    assert seen[0] == 0
    assert len(seen) > 2
    assert seen == sorted(set(seen))
    assert made.export("csv") == alone.export("csv")
    assert made.export("csv", table="curves") == alone.export("csv", table="curves")
