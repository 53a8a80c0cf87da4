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
from thalweg.study.statistics import adjust, at_most, binomial, contest, half_width, paired, power, seeds_needed

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


def test_adjust_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.6 times 10, 6, 3, 1, never falling: 0.1, 0.12, 0.12, 0.6
    np.testing.assert_allclose(adjust(np.array([0.6, 0.02, NAN, 0.01, 0.03])), [0.6, 0.12, NAN, 0.1, 0.12])
    assert adjust(np.array([])).size == 0
    # times 3 and 1, but none above the largest unadjusted one
    np.testing.assert_allclose(adjust(np.array([0.7, 0.8])), [0.8, 0.8])
    np.testing.assert_allclose(adjust(np.array([[0.04, 0.049], [0.01, 0.3]])), [[0.049, 0.049], [0.03, 0.3]])


def test_the_winner_is_held_to_every_interval_and_no_more():
    # two-sided p of the four others 0.04 each: each 95 % interval leaves out 0, so the best beats all; were one 0.06, it would
    # beat none of them: 10 * 0.04 > 0.05
    assert (adjust(np.array([0.04] * 4)) <= 0.05).all()
    assert not (adjust(np.array([0.04, 0.04, 0.04, 0.06])) <= 0.05).any()


def test_contest_agrees_with_paired_and_with_scipy():
    scores = np.array([ADAM, SGD, [0.5, 0.6, 0.4, 0.55, 0.45]])
    found = contest(scores)
    assert found.best == 0
    assert found.won
    assert found.p_value[1] == pytest.approx(stats.ttest_rel(ADAM, SGD).pvalue, rel=1e-9)
    np.testing.assert_allclose([found.difference[1], found.half[1], found.probability[1], found.p_value[1]], paired(ADAM, SGD, True))
    assert np.isnan([found.difference[0], found.p_value[0], found.adjusted[0]]).all()
    low = contest(-scores, higher=False)
    np.testing.assert_allclose(low.adjusted, found.adjusted)
    np.testing.assert_allclose(low.difference, -found.difference)
    stacked = contest(np.stack([scores, scores[::-1]]))  # any leading axes
    assert stacked.best.tolist() == [0, 2]
    np.testing.assert_allclose(stacked.adjusted, [found.adjusted, found.adjusted[::-1]])


def test_contest_takes_the_seeds_that_both_have():
    scores = np.array([[*ADAM, 0.9], [*SGD, NAN]])
    found = contest(scores, best=0)
    assert found.seeds.tolist() == [6, 5]
    assert found.p_value[1] == pytest.approx(stats.ttest_rel(ADAM, SGD).pvalue, rel=1e-9)
    assert not contest(scores[:, :1]).won  # one seed decides nothing
    assert not contest(scores[:1]).won  # nor does one optimizer win against nobody


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_as_in_the_tables(effect, seeds):
    # two-sided 5 % paired t-test, 80 % power: the sample sizes that G*Power prints
    assert seeds_needed(np.array([effect])) == seeds
    assert power(np.array(effect), seeds) >= 0.8 > power(np.array(effect), seeds - 1)


def test_power_by_simulation():
    draws = np.random.default_rng(3).normal(0.9, 1.0, (20_000, 6))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(6))
    assert power(np.array(-0.9), 6) == pytest.approx(np.mean(t > stats.t.ppf(0.975, 5)), abs=0.01)  # 3 standard errors
    assert power(np.array([0.0, math.inf]), 5) == pytest.approx([0.025, 1.0])  # no difference: half of 5 %, in either direction
    assert power(np.array(9.0), 1) == 0.0


def test_seeds_needed_for_several_and_for_none():
    both = seeds_needed(np.array([1.0, 1.0]))
    assert both > 10  # the chance that neither is missed
    assert 2 * (1 - power(np.array(1.0), both)) <= 0.2 < 2 * (1 - power(np.array(1.0), both - 1))
    assert seeds_needed(np.array([1.0, 50.0])) == 10
    assert seeds_needed(np.array([0.01])) is None  # 78,000
    assert seeds_needed(np.array([math.inf])) == 2


def test_at_most_by_hand():
    # differences 1, -5, 1, -4, 3 thousandths: mean -0.8, sum of squares about it 48.8, sd sqrt(12.2) = 3.49285, standard error
    # 1.56205; t_{4, 0.95} = 2.131847: 0.8 + 3.33005
    assert at_most(np.array(-0.8), np.array(3.49285), np.array(5)) == pytest.approx(4.13005, abs=1e-4)
    # it is where the larger p-value of the two one-sided tests is 5 %
    other = np.array([1.0, -5.0, 1.0, -4.0, 3.0])
    margin = float(at_most(other.mean(), other.std(ddof=1), np.array(5)))
    tost = [stats.ttest_1samp(other, -margin, alternative="greater").pvalue, stats.ttest_1samp(other, margin, alternative="less").pvalue]
    assert max(tost) == pytest.approx(0.05)


def test_binomial_by_hand():
    assert binomial(0.978, 360) == pytest.approx(1.959964 * math.sqrt(0.978 * 0.022 / 360))  # 0.01515
    assert binomial(1.0, 360) == pytest.approx(3 / 360)


def test_standings():
    r = finals({"sgd": SGD, "adam": ADAM, "lion": [0.5, 0.6, 0.4, 0.55, 0.45]})
    table = judge(r).standings
    assert table["optimizer"].tolist() == ["adam", "sgd", "lion"]
    assert table["mean"].tolist() == pytest.approx([0.978, 0.971, 0.5])
    p = [stats.ttest_rel(ADAM, other).pvalue for other in (SGD, [0.5, 0.6, 0.4, 0.55, 0.45])]
    assert table["p_value"].tolist()[1:] == pytest.approx([max(p[0], 3 * p[1]), min(3 * p[1], p[0])])  # p[1] is the smaller
    assert table["difference"].tolist()[1:] == pytest.approx([-0.007, -0.478])
    assert table.loc[0, ["probability", "p_value", "difference"]].isna().all()
    assert table["best_valid"].tolist() == pytest.approx([0.95] * 3)
    assert table["default_valid"].tolist() == [0.9] * 3
    assert len(table.loc[0, "runs"]) == 5


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
    assert v.findings.tied == ("adam", "momentum")
    # mean -0.8, sd 3.49285 thousandths: 0.229 standard deviations; the margin as in test_at_most_by_hand
    assert (v.findings.seeds_needed, v.findings.pairs[0].seeds_needed, v.findings.pairs[1].seeds_needed) == (152, 152, 2)
    assert v.findings.pairs[0].at_most == pytest.approx(0.00413, abs=1e-5)
    assert (
        "The true difference of adam to momentum is at most 0.4 points (95 %); about 150 seeds would find a winner (80 % chance, were "
        "the differences seen the true ones)."
    ) in v.sentences


def test_a_winner_must_beat_every_other_optimizer():
    # the second is clearly worse; the third, further behind, was level in one seed of three: mean -0.2, sd 0.173, t = 2 with 2
    # degrees of freedom, p = 0.184
    v = judge(finals({"adam": [0.9, 0.91, 0.92], "momentum": [0.85, 0.861, 0.869], "sgd": [0.6, 0.61, 0.92]}))
    table = v.standings.set_index("optimizer")
    assert table.loc["momentum", "p_value"] <= 0.05
    assert table.loc["sgd", "p_value"] == pytest.approx(0.183503, abs=1e-6)
    assert v.winner is None
    assert v.headline.startswith("No clear winner: adam and sgd cannot be told apart with 3 seeds")


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
