"""The judge against numbers worked by hand and against scipy's tests; the verdict's words in every state of a study."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study_samples import finals, results, run, study
from thalweg.study.judge import choose, judge, missing
from thalweg.study.sentences import edge
from thalweg.study.statistics import binomial, half_width, holm, paired

NAN = math.nan
ADAM = [0.978, 0.979, 0.977, 0.980, 0.976]
SGD = [0.970, 0.973, 0.968, 0.975, 0.969]


# --- the numbers


def test_half_width_by_hand():
    # mean 0.978; deviations 0, 1, -1, 2, -2 thousandths: sum of squares 10e-6, sd = sqrt(10e-6 / 4) = 0.00158114
    # standard error 0.00158114 / sqrt 5 = 0.000707107; t_{4, 0.975} = 2.776445: half-width 0.00196324
    assert half_width(np.array(ADAM)) == pytest.approx(0.00196324, abs=1e-8)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(ADAM), scale=stats.sem(ADAM))
    assert half_width(np.array(ADAM)) == pytest.approx((high - low) / 2, rel=1e-12)


def test_paired_by_hand():
    # sgd - adam: -8, -6, -9, -5, -7 thousandths: mean -7; deviations -1, 1, -2, 2, 0: sd sqrt(10 / 4) = 1.58114,
    # standard error 0.707107, t = 9.8995 with 4 degrees of freedom; half-width 2.776445 * 0.707107 = 1.96324
    mean, half, probability, p = paired(np.array(ADAM), np.array(SGD), higher=True)
    assert mean == pytest.approx(-0.007)
    assert half == pytest.approx(0.00196324, abs=1e-8)
    # the CDF of t with 4 degrees of freedom is 1/2 + (3/4) (s - s^3 / 3) with s = t / sqrt(4 + t^2):
    # s = 9.8995 / sqrt 102 = 0.980196, s^3 / 3 = 0.313919: 0.5 + 0.75 * 0.666277 = 0.999707
    assert probability == pytest.approx(0.999707, abs=1e-6)
    assert p == pytest.approx(2 * (1 - 0.999707), abs=2e-6)
    assert p == pytest.approx(stats.ttest_rel(ADAM, SGD).pvalue, rel=1e-9)


def test_paired_turns_with_the_direction_of_the_score():
    assert paired(np.array(SGD), np.array(ADAM), higher=False)[2] == pytest.approx(0.999707, abs=1e-6)


@pytest.mark.parametrize(("other", "expected"), [([0.98] * 4, (0.0, 0.0, 0.5, 1.0)), ([0.97] * 4, (-0.01, 0.0, 1.0, 0.0))])
def test_paired_without_variance(other, expected):
    assert paired(np.array([0.98] * 4), np.array(other), higher=True) == pytest.approx(expected)


def test_paired_rounding_is_no_variance():
    # 0.3 - 0.1 and 0.2 differ by 3e-17 only: equal differences, whatever the last bit says
    assert paired(np.array([0.3, 0.2]), np.array([0.1, 0.0]), higher=True) == pytest.approx((-0.2, 0.0, 1.0, 0.0))


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.6
    np.testing.assert_allclose(holm(np.array([0.6, 0.02, NAN, 0.01, 0.03])), [0.6, 0.06, NAN, 0.04, 0.06])
    assert holm(np.array([])).size == 0
    assert holm(np.array([0.7, 0.8])).tolist() == [1.0, 1.0]


def test_binomial_by_hand():
    assert binomial(0.978, 360) == pytest.approx(1.959964 * math.sqrt(0.978 * 0.022 / 360))  # 0.01515
    assert binomial(1.0, 360) == pytest.approx(3 / 360)


def test_standings():
    r = finals({"sgd": SGD, "adam": ADAM, "lion": [0.5, 0.6, 0.4, 0.55, 0.45]})
    table = judge(r).standings
    assert table["optimizer"].tolist() == ["adam", "sgd", "lion"]
    assert table["mean"].tolist() == pytest.approx([0.978, 0.971, 0.5])
    p = [stats.ttest_rel(ADAM, other).pvalue for other in (SGD, [0.5, 0.6, 0.4, 0.55, 0.45])]
    assert table["p_value"].tolist()[1:] == pytest.approx([max(p[0], 2 * p[1]), 2 * p[1]])  # p[1] is the smaller
    assert table["difference"].tolist()[1:] == pytest.approx([-0.007, -0.478])
    assert table.loc[0, ["probability", "p_value", "difference"]].isna().all()
    assert table["best_valid"].tolist() == pytest.approx([0.95] * 3)
    assert table["default_valid"].tolist() == [0.9] * 3
    assert len(table.loc[0, "runs"]) == 5


def test_the_level_is_held_when_all_optimizers_are_alike():
    rng = np.random.default_rng(1)
    wins = sum(judge(finals({k: rng.normal(0.9, 0.01, 4) for k in ("a", "b")})).winner is not None for _ in range(200))
    assert wins <= 18  # 5 % of 200 is 10, and 18 is 2.6 standard deviations above


# --- the choice


def rows(*triples, **more):
    return [
        run("tune", "adam", trial, 0, {"lr": 10.0**-trial}, valid_accuracy=score, valid_loss=loss, **more)
        for trial, (score, loss) in enumerate(triples)
    ]


def chosen(rows, score="accuracy", higher=True):
    row = choose(pd.DataFrame(rows), "adam", score, higher)
    return None if row is None else row["trial"]


def test_choose_takes_the_best_then_the_lower_loss_then_the_earlier():
    assert chosen(rows((0.8, 1), (0.9, 2), (0.7, 0.1))) == 1
    assert chosen(rows((0.9, 2), (0.9, 1), (0.8, 0.1))) == 1
    assert chosen(rows((0.9, 1), (0.9, 1))) == 0
    assert chosen(list(reversed(rows((0.9, 1), (0.9, 1))))) == 0
    assert chosen(rows((0.9, 2), (0.1, 1)), "loss", False) == 1


def test_choose_skips_what_did_not_finish():
    trials = rows((0.8, 1), (0.99, 1), (NAN, 1))
    trials[1]["status"] = "diverged"
    assert chosen(trials) == 0
    assert chosen([t | {"status": "diverged"} for t in trials]) is None
    assert choose(pd.DataFrame(), "adam", "accuracy", True) is None


def test_choose_never_looks_at_test_columns():
    trials = rows((0.8, 1), (0.9, 2), (0.7, 0.1))
    planted = [t | {"test_accuracy": a, "test_loss": 1 - a} for t, a in zip(trials, (1.0, 0.0, 1.0), strict=True)]
    other = [run("final", "adam", 0, 1, {"lr": 1}, valid_accuracy=1.0, test_accuracy=1.0)]
    assert chosen(trials) == chosen(planted) == chosen(planted + other) == 1


# --- the words


def text(r):
    verdict = judge(r)
    return " ".join([verdict.headline, *verdict.sentences])


def test_a_winner():
    v = judge(finals({"adam": ADAM, "momentum": SGD}))
    assert v.winner == v.leader == "adam"
    assert v.headline == ("adam, lr 3.1e-3: test accuracy 97.8 ± 0.2 % over 5 seeds; better than momentum with probability above 0.99.")
    assert (v.mean, v.half, v.seeds) == (pytest.approx(0.978), pytest.approx(0.00196324, abs=1e-8), 5)
    assert v.config == {"lr": 3.1e-3}
    assert any("±1.5 points for 360 rows by itself" in s and "3 trials" in s for s in v.sentences)
    assert any("covers initial weights and batch order" in s for s in v.sentences)


def test_no_clear_winner():
    v = judge(finals({"adam": ADAM, "momentum": [0.979, 0.974, 0.978, 0.976, 0.979], "sgd": [0.5, 0.51, 0.5, 0.5, 0.5]}))
    assert v.winner is None
    assert v.leader == "adam"
    assert v.headline.startswith("No clear winner: adam and momentum cannot be told apart with 5 seeds; adam (lr 3.1e-3)")


def test_losses_rank_the_other_way():
    v = judge(finals({"adam": [0.1234, 0.1244, 0.1239], "sgd": [0.2, 0.21, 0.19]}, score="loss"))
    assert v.winner == "adam"
    assert "test loss 0.1239 ± 0.0012" in v.headline


def test_equal_scores_everywhere():
    v = judge(finals({"adam": [0.978] * 5, "sgd": [0.978] * 5}))
    assert v.winner is None
    assert "with probability 0.50" in v.headline
    assert "nan" not in text(finals({"adam": [0.978] * 5, "sgd": [0.978] * 5}))


def test_a_constant_difference_is_named():
    v = judge(finals({"adam": [0.98] * 5, "sgd": [0.97] * 5}))
    assert v.winner == "adam"
    assert any("behind by 1.0 points with every seed" in s for s in v.sentences)


def test_one_seed_gives_no_interval():
    v = judge(finals({"adam": [0.98], "sgd": [0.97]}))
    assert v.winner is None
    assert "one seed gives no interval" in v.headline
    assert math.isnan(v.half)


def test_one_optimizer():
    v = judge(finals({"adam": ADAM}))
    assert v.winner is None
    assert "nothing to compare" in v.headline


def test_an_optimizer_with_a_diverged_final_never_wins():
    v = judge(finals({"adam": [0.99, NAN, 0.99], "sgd": [0.91, 0.9, 0.92], "lion": [0.5, 0.51, 0.5]}))
    assert v.winner == "sgd"
    assert v.standings["optimizer"].tolist() == ["sgd", "lion", "adam"]
    assert any(s.startswith("adam diverged in 1 of 3 final runs") for s in v.sentences)
    v = judge(finals({"adam": [0.99, NAN, 0.99], "sgd": [0.91, NAN, 0.92]}))
    assert v.winner is None
    assert v.headline.startswith("No winner: every optimizer diverged in some final run")
    assert judge(finals({"adam": [0.99, NAN, 0.99], "sgd": [0.91, 0.92, 0.9]})).winner == "sgd"


def test_an_optimizer_without_finals_does_not_make_a_study_unfinished():
    r = finals({"adam": ADAM, "sgd": SGD})
    dead = r.runs[(r.runs["optimizer"] == "sgd") & (r.runs["phase"] == "tune")].assign(status="diverged")
    r = dataclasses.replace(r, runs=pd.concat([r.runs[r.runs["optimizer"] == "adam"], dead], ignore_index=True))
    assert r.planned["final"] == 10
    assert missing(r) == {}
    v = judge(r)
    assert v.winner == "adam"
    assert "only optimizer whose final runs all finished" in v.headline
    assert "Every tuning trial of sgd diverged, so it has no final runs." in v.sentences


def test_everything_diverged():
    v = judge(study(all_diverged=True, planned={"tune": 96, "final": 30}))
    assert (v.winner, v.leader, v.unfinished) == (None, None, False)
    assert v.headline == "No winner: every run diverged."


def test_unfinished_studies():
    r = study(planned={"tune": 96, "final": 30})
    tune = r.runs[r.runs["phase"] == "tune"]
    v = judge(dataclasses.replace(r, runs=tune))
    assert (v.winner, v.basis, v.unfinished) == (None, "tuning", True)
    assert "judged by tuning alone, adam (lr 3.2e-3)" in v.headline
    partial = dataclasses.replace(r, runs=r.runs[~((r.runs["phase"] == "final") & (r.runs["seed"] > 3))])
    v = judge(partial)
    assert (v.winner, v.basis, v.seeds) == (None, "final", 3)
    assert v.headline.startswith("Unfinished: 18 of 30 final runs are done.")
    v = judge(results([], planned={"tune": 8, "final": 4}))
    assert v.headline == "Nothing has been measured yet: 0 of 12 planned runs are done."
    assert v.sentences == ()


def test_sweeps_claim_no_significance():
    v = judge(study(kind="sweep", seeds=3))
    assert (v.winner, v.leader, v.seeds) == (None, "adam", 3)
    assert v.headline.startswith("Best of 96 settings: adam (lr 3.2e-3), validation accuracy")
    assert "no claim of significance" in v.headline
    v = judge(study(kind="sweep", seeds=1, all_rows=True))
    assert "training loss" in v.headline
    best = study(kind="sweep", seeds=1, all_rows=True).runs["train_loss"].min()
    assert v.mean == pytest.approx(best)


def test_training_scores_are_called_so():
    r = finals({"adam": ADAM, "sgd": SGD}, all_rows=True)
    assert "test accuracy" not in text(r)
    assert "training score" in text(r)


def test_the_baseline_is_named():
    r = finals({"adam": ADAM, "random_search": [0.3, 0.31, 0.29, 0.3, 0.3]})
    assert "random_search ignores the gradient: it is the gradient-free baseline" in text(r)
    assert "chance" not in text(r)
    known = dataclasses.replace(r, classes=10)
    assert "chance level is about 10 %" in text(known)


def test_a_rate_at_the_edge_is_named():
    r = finals({"adam": ADAM, "sgd": SGD})
    assert "optimum may lie outside" not in text(r)
    spec = {**r.spec, "optimizers": [{"label": "adam", "rule": "adam", "search": {"lr": {"low": 1e-6, "high": 4e-3, "scale": "log"}}}]}
    edged = text(dataclasses.replace(r, spec=spec))
    assert "Chosen at the upper edge of the learning rates searched: adam (lr 3.1e-3)" in edged


def test_edges():
    search = {"low": 1e-4, "high": 1.0, "scale": "log"}
    assert edge(0.1, search, np.array([1e-3, 1e-2, 0.1])) == "upper"
    assert edge(1e-2, search, np.array([1e-3, 1e-2, 0.1])) is None
    assert edge(0.1, {"values": [0.1, 1, 10]}, np.array([0.1, 1, 10])) == "lower"
    assert edge(0.1, {"values": [0.1]}, np.array([0.1])) is None
    assert edge(0.1, None, np.array([0.1, 1, 2])) is None
    assert edge(1.2e-4, search, np.array([1.2e-4])) == "lower"
