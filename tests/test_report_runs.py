"""The runs of a small sweep: fluctuation by hand, stable rates by the rules themselves, curvature by dense Hessians, and the words."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thalweg as tw
from report_samples import SAMPLES, data_of
from study_samples import results, run
from thalweg.cli import main
from thalweg.engine.work import Curve
from thalweg.optimizers import adam, momentum, nesterov, sgd
from thalweg.study import curvature, plan, reasons
from thalweg.study.courses import CURVATURES, FEW, courses
from thalweg.study.judge import judge
from thalweg.study.prepare import prepare
from thalweg.study.report import render
from thalweg.study.study import choose_engines
from thalweg.study.study import run as run_bench
from thalweg.study.words import number

NAN = math.nan
COMMAND = ["thalweg", "sweep", "breast-cancer-logistic", "-o", "sgd", "--lr", "0.001,0.1,30", "--full-batch", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def unhurried():
    """All rows are measured, however few steps there are."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(curvature, "MOMENT", math.inf)
        yield


def swept(problem="breast-cancer-logistic", optimizers=("sgd",), lr=(0.001, 0.1, 30), **asked):
    """A sweep in memory."""
    rates = {"lr": [str(rate) for rate in lr]}
    return run_bench(prepare(problem, list(optimizers), kind="sweep", settings=rates, **{"engine": "fleet", "full_batch": True} | asked))


def sample(losses, lr=0.1, start=NAN, end=NAN, stable=NAN, batch=None, steps=None, **changes):
    """A stored sweep: a run a list of losses, with the curvatures it met."""
    rows, curves = [], {}
    for k, loss in enumerate(losses):
        measured = dict(zip(CURVATURES, (start, end, stable), strict=True))
        config = {"lr": lr * (k + 1)} | changes.get("config", {})
        row = run("sweep", changes.get("label", "sgd"), k, 0, config, valid_accuracy=0.9 - k / 100, test_accuracy=0.8, **measured)
        row |= changes.get("row", {})
        rows.append(row)
        at = np.arange(len(loss)) if steps is None else np.asarray(steps)
        y = np.asarray(loss, float)
        curves[row["id"]] = Curve(at, y, y, np.full(len(y), lr), at[:2], {"accuracy": y[:2], "loss": y[:2]})
    spec = {"batch_size": 1078 if batch is None else batch, "steps": 100, "optimizers": []}
    return results(rows, kind="sweep", spec=spec, curves=curves, planned={"sweep": len(rows)}, plan={"curvature": {"rows": 1078}})


def one(*args, **more):
    return courses(sample(*args, **more))[0]


def words(r):
    return list(reasons.reasons(r, courses(r)))


# --- the course of a run


def test_fluctuation_by_hand():
    # 1 3 2 1: up 2, down 1 and 1; of the way of 4 half went up, in one of three steps
    found = one([[1, 3, 2, 1]])
    assert (found.fluctuation, found.rose, found.of, found.rise) == (0.5, 1, 3, (1, 3))
    assert math.isnan(found.late)  # it has not fallen
    assert one([[4, 3, 2, 1]]).fluctuation == 0
    assert one([[1, 2, 3]]).fluctuation == 1
    assert one([[1, 1, 1]]).fluctuation == 0
    assert math.isnan(one([[1]]).fluctuation)
    assert one([[5, 1, 2, np.inf]]).fluctuation == pytest.approx(1 / 5)  # what is not finite is left out
    assert one([[2, 0.5, 0.5 + 1e-7, 0.5]]).rose == 0  # rounding
    assert one([[8, 4, 2, 1, 0]]).late == pytest.approx(2 / 8)  # from the middle record, 2, to 0


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ([4, 3, 2, 1, 0.5], "slow"),
        ([8, 2, 1, 0.9, 0.8], "steady"),
        ([1, 9, *np.linspace(5, 1, 20)], "overshoots"),
        ([1, 2] * 10, "oscillates"),
        ([2, 1, *([0.5, 0.5 + 1e-7] * 20)], "steady"),  # rounding where it has arrived
    ],
)
def test_a_run_in_a_word(loss, kind):
    assert one([loss]).kind == kind
    assert one([loss], batch=32).kind == "noisy"
    assert one([loss], row={"status": "diverged", "diverged_at": 7}).kind == "diverged"


def test_many_runs_and_comparisons_have_no_courses():
    losses = [[2, 1]] * FEW
    assert len(courses(sample(losses))) == FEW
    assert courses(sample([*losses, [2, 1]])) == ()
    assert courses(dataclasses.replace(sample(losses), kind="compare")) == ()
    assert all(courses(make()) == () for name, make in SAMPLES.items() if name != "all rows")


# --- up to where rules are stable


RULES = [
    (sgd, {"lr": 0.3}), (sgd, {"lr": 2.0, "weight_decay": 0.2}), (sgd, {"lr": 0.1, "dampening": 0.5}),
    (momentum, {"lr": 0.1}), (sgd, {"lr": 0.1, "momentum": 0.5, "dampening": 0.4}),
    (nesterov, {"lr": 0.05}), (sgd, {"lr": 0.05, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "config"), RULES, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.parametrize("part", [0.97, 1.03])
def test_the_stable_curvature_is_where_the_rule_turns(rule, config, part):
    limit = curvature.stable(rule, rule.check(config))
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    # mean(c (w x)^2 / 2) at x = 1 has curvature c
    runs = tw.sweep(
        model, lambda out, _: 0.5 * part * limit * out.square().mean(), (torch.ones(1, 1, dtype=torch.float64), torch.ones(1)),
        optimizer=rule, configs=[config], steps=600, batch_size=1, every=600, engine="solo",
    )  # fmt: skip
    assert (runs.diverged_at[0] == -1 and runs.loss[0, -1] < runs.loss[0, 0]) == (part < 1)


@pytest.mark.parametrize(
    ("rule", "config"),
    [(adam, {"lr": 0.1}), (sgd, {"lr": 0.0}), (sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0.1})],
)
def test_where_no_bound_is_known_none_is_said(rule, config):
    assert curvature.stable(rule, rule.check(config)) is None
    assert curvature.stable(sgd, sgd.check({"lr": 0.1}) | {"clip_norm": 1.0}) is None


def test_a_comparison_says_where_it_diverged_and_what_the_curvature_predicts():
    rates = "0.05,0.2,0.24,0.25,0.3,1"
    study = tw.compare(
        "diabetes-linear", [f"sgd[lr={rates}]", "adam", "sgd[momentum=0.5,0.9]"], budget=6, seeds=2, steps=600, full_batch=True, seed=1,
        all_rows=False,
    )  # fmt: skip
    looked = study.results().plan["curvature"]
    assert set(looked["stable"]) == {"sgd"}  # no bound is known for adam, and none where the momentum differs
    train = tw.problem("diabetes-linear").train
    ((value,),) = [tuple(looked["start"].values())]
    x = torch.cat([train[0].double(), torch.ones(len(train[0]), 1, dtype=torch.float64)], 1)
    top = 2 * torch.linalg.eigvalsh(x.T @ x / len(x))[-1].item()  # of the mean square
    assert value == pytest.approx(top, rel=0.2)  # of other rows, drawn by the seed
    assert looked["stable"]["sgd"] == pytest.approx(2 / value)
    (said,) = [one for one in study.verdict.sentences if "predicts" in one]
    low, high, predicted = map(float, re.search(r"sgd between ([\d.]+) and ([\d.]+) \(predicted ([\d.]+)\)", said).groups())
    assert low < predicted < high <= 1.3 * predicted


def test_the_bound_is_known_in_other_processes():
    there = cloudpickle.loads(cloudpickle.dumps(momentum))
    assert there.function is not momentum.function
    assert curvature.stable(there, there.check({"lr": 0.1})) == pytest.approx(38)


# --- the lecture's experiment


@pytest.fixture(scope="module")
def lecture():
    return swept()


def dense(weights, bias, X):
    """The largest eigenvalue of the Hessian of the mean logistic loss: X' diag(p (1 - p)) X / n, in double precision."""
    A = torch.cat([X, torch.ones(len(X), 1)], 1).double()
    p = torch.sigmoid(A @ torch.cat([weights.flatten(), bias]).double())
    return float(torch.linalg.eigvalsh(A.T @ ((p * (1 - p)).unsqueeze(1) * A) / len(A))[-1])


def test_small_moderate_and_large_against_a_plain_loop(lecture):
    problem = prepare("breast-cancer-logistic", ["sgd"]).problem
    (X, y), (held, labels) = problem.train, problem.test
    found = lecture.findings().runs
    assert [one.config["lr"] for one in found] == [0.001, 0.1, 30]
    for one in found:
        model = plan.fresh(problem, 0)
        first, losses = dense(*(p.detach().clone() for p in model.parameters()), X), []
        optimizer = torch.optim.SGD(model.parameters(), one.config["lr"])
        for _ in range(31):
            loss = problem.loss(model(X), y)
            losses.append(loss.item())
            if len(losses) == 31:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        change = np.diff(losses)
        assert one.fluctuation == pytest.approx(change[change > 0].sum() / np.abs(change).sum(), abs=1e-4)
        assert one.rose == (change > 0).sum()
        assert one.test == pytest.approx(float(((model(held) > 0) == (labels > 0.5)).double().mean()))
        assert one.curvature_start == pytest.approx(first, rel=0.01)
        assert one.curvature_end == pytest.approx(dense(*(p.detach() for p in model.parameters()), X), rel=0.02)
        assert one.curvature_stable == pytest.approx(2 / one.config["lr"])
    assert [one.kind for one in found] == ["slow", "steady", "overshoots"]


def test_the_command_prints_the_runs_and_why_the_large_rate_oscillates(lecture, tmp_path, monkeypatch, capsys):
    def said(*more):
        monkeypatch.setattr(sys, "argv", [*COMMAND, "--engine", "fleet", "--out", str(tmp_path / "s"), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    text, found = " ".join(said().split()), lecture.findings().runs
    for one in found:
        assert f"{100 * one.test:.1f} % with lr {number(one.config['lr'])}" in text
        assert f"{100 * one.fluctuation:.0f} % with lr {number(one.config['lr'])}" in text
    L = found[2].curvature_start
    assert f"lr 30 overshoots: its loss rose in {found[2].rose} of 30 steps" in text
    assert f"gradient descent is stable only below 2/{number(L)} = {number(2 / L)}" in text
    assert f"(at its final ones {number(found[2].curvature_end)}: below" in text
    assert "above that rate it oscillates" in text
    assert "lr 1e-3 is slow" in text
    listed = json.loads(said("--json"))["findings"]["runs"]
    assert [one["config"] for one in listed] == [{"lr": 0.001}, {"lr": 0.1}, {"lr": 30.0}]
    assert [one["test"] for one in listed] == [one.test for one in found]
    assert (tmp_path / "s" / "report.html").is_file()


def test_its_page_has_a_row_and_a_named_line_a_run(lecture):
    page = render(lecture.results())
    assert 'id="courses"' in page
    assert "test data were touched once, at the end of each run, and rank nothing" in page
    first = data_of(page)["curves"][0]
    assert first["key"] == "trials:loss"
    lines = [t for t in first["data"] if t["meta"]["role"] == "line"]
    labels = [t for t in first["data"] if t["meta"]["role"] == "label"]
    assert [t["text"] for t in labels] == [["lr 1e-3"], ["lr 0.1"], ["lr 30"]]
    assert [t["meta"]["colour"] for t in lines] == [t["meta"]["colour"] for t in labels] == [0, 1, 2]
    assert {t["meta"]["series"] for t in first["data"]} == {0}  # one optimizer, one button in the legend
    rows = reasons.table(lecture.results(), lecture.findings().runs)
    assert all(text in page for row in rows for text in row.values())
    assert 'id="courses"' not in render(SAMPLES["sweep"]())


def test_test_scores_rank_nothing(lecture):
    verdict, table = lecture.verdict, lecture.table()
    turned = dataclasses.replace(lecture.results(), runs=lecture.results().runs.assign(test_accuracy=[1.0, 0.5, 0.0]))
    assert judge(turned).config == verdict.config
    assert judge(turned).mean == verdict.mean == table["valid_accuracy"].max()


# --- measured beside the runs


def test_a_sweep_cut_off_and_resumed_measures_the_same(tmp_path):
    asked = {"lr": (0.01, 1, 2, 60), "steps": 40, "engine": "solo"}
    whole = swept(**asked)
    bench = prepare(
        "breast-cancer-logistic", ["sgd"], kind="sweep", settings={"lr": ["0.01", "1", "2", "60"]}, full_batch=True, steps=40, engine="solo"
    )
    sizes = [len(run_bench(bench, tmp_path / "s", time=0).table()) for _ in range(4)]
    assert sizes == [1, 2, 3, 4]
    again = tw.Study.open(tmp_path / "s")
    pd.testing.assert_frame_equal(again.table(), whole.table(), check_exact=True)
    assert again.table()[[*CURVATURES, "test_accuracy"]].notna().all(axis=None)
    assert again.verdict.sentences == whole.verdict.sentences


@pytest.mark.parametrize(
    ("optimizers", "asked"),
    [
        (["adam"], {}),
        (["sgd[clip_norm=1.0]"], {}),
        (["sgd"], {"schedule": "cosine"}),
        (["sgd[momentum=0.9,nesterov=true,dampening=0.1]"], {}),
    ],
)
def test_nothing_is_measured_where_nothing_is_known(optimizers, asked):
    study = swept("diabetes-linear", optimizers, lr=(0.01, 0.1), steps=5, **asked)
    assert not set(CURVATURES) & set(study.table())
    assert study.table()["test_loss"].notna().all()
    assert "curvature" not in study.results().plan
    assert not any("curvature" in said for said in study.verdict.sentences)


def test_sweeps_of_many_runs_touch_no_test_rows():
    study = swept("diabetes-linear", lr=np.linspace(0.01, 0.1, FEW + 1), steps=3)
    assert study.table()["test_loss"].isna().all()
    assert not set(CURVATURES) & set(study.table())
    assert study.findings().runs == ()


def test_records_lie_an_odd_number_of_steps_apart():
    # a run that swings to and fro every step would look calm at every second one
    asked = {"kind": "sweep", "steps": 400}
    strides = [prepare("diabetes-linear", ["sgd"], settings={"lr": ["0.1"] * n}, **asked) for n in (1, FEW + 1)]
    jobs = [plan.tuning(bench.spec, bench.rules, bench.fingerprint) for bench in strides]
    assert [bench.work(own).every for bench, own in zip(strides, jobs, strict=True)] == [3, 2]


def test_only_some_of_several_optimizers_have_a_bound():
    study = swept("diabetes-linear", ["adam", "momentum"], lr=(0.01, 0.3), steps=40)
    table = study.table().set_index("optimizer")
    assert table.loc["adam", "curvature_end"].isna().all()
    assert table.loc["momentum", "curvature_end"].notna().all()
    assert table.loc["momentum", "curvature_stable"].tolist() == pytest.approx([380, 3.8 / 0.3])
    said = [s for s in study.verdict.sentences if s.startswith("momentum (")]
    assert len(said) == 2
    assert not any(s.startswith("adam (") for s in study.verdict.sentences)
    assert any(" with adam (lr 0.01)" in s for s in study.verdict.sentences)


def test_a_model_without_second_derivative_is_swept_all_the_same():
    ends = {"targets": torch.tensor([[1]]), "input_lengths": (4,), "target_lengths": (1,)}
    loss = lambda out, _: nn.functional.ctc_loss(out.mean(0).view(4, 1, 2).log_softmax(-1), **ends)  # noqa: E731
    problem = tw.Problem(lambda: nn.Linear(3, 8), loss, train=(torch.randn(30, 3), torch.randn(30)), name="ctc")
    study = swept(problem, lr=(0.01, 0.1), steps=4)
    assert (study.table()["status"] == "done").all()
    assert not set(CURVATURES) & set(study.table())


def test_batch_statistics_and_dropout_do_not_stop_it():
    X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    make = lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))  # noqa: E731
    problem = tw.Problem(make, nn.functional.mse_loss, train=(X, X.sum(1, keepdim=True)), name="normed")
    state = torch.get_rng_state()
    study = swept(problem, lr=(0.01, 0.1), steps=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert (study.table()[list(CURVATURES)] > 0).all(axis=None)


def test_rows_are_as_many_as_is_cheap(monkeypatch):
    monkeypatch.setattr(curvature, "MOMENT", 5e9)
    asked = {"kind": "sweep", "settings": {"lr": ["0.1", "0.2"]}, "steps": 3, "engine": "fleet"}
    bench = prepare("digits-softmax", ["sgd"], **asked)
    jobs = plan.tuning(bench.spec, bench.rules, bench.fingerprint)
    row = curvature.operations(bench, 0)
    assert 2 * 64 * 10 <= row < 1.2 * 2 * 64 * 10
    assert curvature.begin(bench, jobs)["rows"] == 1078
    each = 3 * row * 30 * 3  # operations a row: of ten products, at one start and two ends
    monkeypatch.setattr(curvature, "MOMENT", 200 * each)
    assert curvature.begin(bench, jobs)["rows"] == 128
    monkeypatch.setattr(curvature, "MOMENT", 100 * each)
    assert curvature.begin(bench, jobs) == {}
    longer = prepare("digits-softmax", ["sgd"], **asked | {"steps": 90_000})  # a hundredth of whose gradients pays for 640 rows
    assert curvature.begin(longer, jobs)["rows"] == 512


def test_what_is_measured_hangs_on_no_clock(monkeypatch):
    monkeypatch.setattr(curvature, "MOMENT", 5e9)
    texts = []
    for slower in (1.0, 1e6):
        bench = prepare("digits-softmax", ["sgd"], kind="compare", steps=5, budget=2, seeds=2, engine="fleet")
        choose_engines(bench)
        if (seen := bench.memo.glance) is not None:
            bench.memo.glance = dataclasses.replace(seen, seconds=slower * seen.seconds)
        texts.append(curvature.begin(bench, plan.tuning(bench.spec, bench.rules, bench.fingerprint)))
    assert texts[0] == texts[1] != {}



# --- the words


def test_why_a_run_oscillates_by_hand():
    # curvature 4 at the start, 25 at the end; 2 / lr = 20: it ends beyond the edge
    (_, _, said) = words(sample([[1, 2] * 10], lr=0.1, start=4.0, end=25.0, stable=20.0))
    assert said.startswith("sgd oscillates: its loss rose in 10 of 19 steps, at the most from 1.000 to 2.000. ")
    assert (
        "is 25, at its final weights, where gradient descent is stable only below 2/25 = 0.08 (at its initial ones 4: below 2/4 = 0.5)"
        in said
    )
    assert said.endswith("it is still at the edge of what is stable, where a step crosses the valley and lands as high on the other side.")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"start": 25.0, "end": 4.0}, "until it is thrown to where the loss is flatter"),
        ({"start": 4.0, "end": 5.0}, "by these it is stable; on its way it may have met a larger one, which was not measured"),
        ({"start": 25.0, "row": {"status": "diverged", "diverged_at": 1234}}, "sgd diverged at step 1,234. The largest curvature"),
        ({"start": 25.0, "end": 4.0, "batch": 32}, "batches of 32 rows differ as well, so a part of its fluctuation is noise"),
        ({"start": 4.0, "end": 18.5}, "it is still at the edge"),
        ({"start": 25.0, "end": -1.0}, "(at its final ones -1: below any rate)"),
        ({"start": 25.0, "end": 4.0, "steps": range(0, 60, 3)}, "rose in 10 of 19 records, 3 steps apart"),
        ({"start": 25.0, "end": 4.0, "config": {"weight_decay": 5.0}, "stable": 15.0}, "stable only below 2/(25 + 5) = 0.0667"),
        ({"start": 45.0, "end": 4.0, "stable": 38.0}, "with this momentum it is stable only below 3.8/45 = 0.0844"),
        ({"start": 4.0, "end": 4.0, "stable": 38.0}, "momentum swings past a minimum and back also where it is stable"),
    ],
)
def test_what_is_said_of_a_large_rate(more, said):
    found = words(sample([[1, 2] * 10], **({"stable": 20.0} | more)))
    assert any(said in sentence for sentence in found), found


def test_what_is_said_of_small_and_moderate_rates():
    found = words(sample([[4, 3, 2, 1, 0], [8, 2, 1, 0.9, 0.8]], start=0.01, end=0.01, stable=20.0))
    slow = "lr 0.1 is slow: 50 % of its fall came in the second half of its steps"
    assert f"{slow}; its rate is 1/2000 of what is stable at its initial weights." in found
    assert any(s.startswith("lr 0.2 fell steadily; its rate is 1/2000 of") for s in found)
    over = words(sample([[8, 2, 1, 0.9, 0.8]], start=30.0, end=0.01, stable=20.0))
    assert "sgd fell steadily; its rate is 1.5 times what is stable at its initial weights." in over
    still = words(sample([[1, 1, 1, 1]], start=30.0, end=0.01, stable=20.0))
    assert len(still) == 2  # it did not move, and nothing is said of it


def test_runs_without_measurements_show_dashes_and_say_little():
    r = sample([[2, 1], [3, 1]], row={"test_accuracy": NAN})
    rows = reasons.table(r, courses(r))
    assert [row["test accuracy"] for row in rows] == ["–", "–"]
    assert not any("curvature" in name for name in rows[0])
    assert len(words(r)) == 1
    assert "test data were not used" in render(r)


def test_a_part_of_the_rows_is_named():
    r = dataclasses.replace(sample([[1, 2] * 10], start=4.0, end=25.0, stable=20.0), plan={"curvature": {"rows": 128}})
    assert words(r)[-1] == "Curvature was measured on 128 of the 1,078 training rows."


def test_names_tell_runs_apart():
    def names(*rows):
        made = [run("sweep", label, k, seed, config, valid_accuracy=0.9) for k, (label, seed, config) in enumerate(rows)]
        return list(reasons.named(courses(results(made, kind="sweep", planned={"sweep": len(made)}))).values())

    assert names(("sgd", 0, {"lr": 0.1})) == ["sgd"]
    assert names(("sgd", 0, {"lr": 0.1, "l1": 1.0}), ("sgd", 0, {"lr": 0.2, "l1": 1.0})) == ["lr 0.1", "lr 0.2"]
    assert names(("sgd", 0, {"lr": 0.1}), ("sgd", 1, {"lr": 0.1})) == ["seed 0", "seed 1"]
    assert names(("sgd", 0, {"lr": 0.1}), ("sgd", 1, {"lr": 0.2})) == ["sgd (lr 0.1, seed 0)", "sgd (lr 0.2, seed 1)"]
    assert names(("sgd", 0, {"lr": 0.1}), ("adam", 0, {"lr": 0.2})) == ["sgd (lr 0.1)", "adam (lr 0.2)"]


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40))
def test_fluctuation_is_a_share(loss):
    found = one([loss])
    assert 0 <= found.fluctuation <= 1
    assert 0 <= found.rose <= found.of == len(loss) - 1
    if found.rose:
        assert found.rise[1] > found.rise[0]
