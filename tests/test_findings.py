"""What a study found besides its ranking, against numbers worked by hand: searches, basins, goals, defaults, profiles, edge cases."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study_samples import finals, results, run, study
from thalweg import UserError
from thalweg.study.effort import RULE, goal_of, median, reaches
from thalweg.study.judge import choose, judge
from thalweg.study.pool import Pool, basin, pool, search, step_size
from thalweg.study.profiles import cost_table, profiles
from thalweg.study.results import Curve
from thalweg.study.statistics import contest

NAN, INF = math.nan, math.inf


def trials(scores, rates=None, status=None, higher=True, varied=()):
    scores = np.array(scores, float)
    rates = np.full(len(scores), 0.1) if rates is None else np.array(rates, float)
    fates = tuple("diverged" if math.isnan(s) else "done" for s in scores) if status is None else tuple(status)
    return Pool("adam", scores, rates, "lr", fates, tuple(varied), higher)


# --- the best of n trials


def test_search_by_hand():
    # of .3 .5 .7 .9 there are 6 pairs; .9 is the best of 3, .7 of 2, .5 of 1: (2.7 + 1.4 + 0.5) / 6 = 0.766667
    found = search(trials([0.5, 0.9, 0.3, 0.7]))
    np.testing.assert_allclose(found.expected, [0.6, 4.6 / 6, 0.85, 0.9])
    # the best of two is .9 with chance 1/2, at least .7 with 5/6: median .9, 90 % quantile .5
    np.testing.assert_allclose(found.median, [0.7, 0.9, 0.9, 0.9])
    np.testing.assert_allclose(found.low, [0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(found.high, [0.9, 0.9, 0.9, 0.9])
    # four draws with replacement hold .9 with chance 1 - (3/4)^4 = 0.684, .9 or .7 with 1 - (1/2)^4 = 0.9375
    assert found.luck == pytest.approx(0.2)
    assert found.trials.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("higher", [True, False])
def test_search_against_every_draw(higher):
    scores = np.array([0.31, NAN, 0.87, 0.55, NAN, 0.12])
    filled = np.where(np.isnan(scores), 0.12 if higher else 0.87, scores)  # a failed trial counts as the worst
    found = search(trials(scores, higher=higher))
    assert found.failed == 2
    for n in range(1, 7):
        bests = [(max if higher else min)(draw) for draw in itertools.combinations(filled, n)]
        assert found.expected[n - 1] == pytest.approx(np.mean(bests))


def test_search_is_unbiased():
    # the expected largest of n even draws from [0, 1] is n / (n + 1)
    pools = np.random.default_rng(0).random((2000, 8))
    estimates = np.array([search(trials(row)).expected for row in pools])
    n = np.arange(1, 9)
    error = estimates.std(0, ddof=1) / math.sqrt(len(pools))
    assert (np.abs(estimates.mean(0) - n / (n + 1)) <= 4 * error).all()


def test_search_of_few_or_no_scores():
    assert np.isnan(search(trials([NAN, NAN])).expected).all()
    one = search(trials([0.5]))
    assert one.expected.tolist() == one.low.tolist() == one.high.tolist() == [0.5]
    assert math.isnan(one.luck)


def test_an_outlier_leaves_median_and_luck_alone():
    losses = [0.1, 0.11, 0.12, 0.13, 1e30]
    found = search(trials(losses, higher=False))
    assert found.median[1] < 0.2
    assert found.luck < 0.03


# --- step sizes

RATES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


def test_basin_by_hand():
    # the best is .9, the level .891. To the left .895 holds and .5 does not: the end lies (.895 - .891) / (.895 - .5) = 0.010127
    # decades beyond 1e-3; to the right (.9 - .891) / (.9 - .8) = 0.09 beyond 1e-2
    found = basin(trials([0.5, 0.895, 0.9, 0.8, NAN], RATES))
    assert (math.log10(found.low), math.log10(found.high)) == pytest.approx((-3.010127, -1.91), abs=1e-6)
    assert found.width == pytest.approx(1.100127, abs=1e-6)
    assert (found.open_low, found.open_high, found.why) == (False, False, "")
    assert (found.best, found.largest_stable, found.smallest_diverged, found.diverged) == (1e-2, 1e-1, 1.0, 0.2)
    mixed = basin(trials([0.8, 0.9, NAN, 0.895, 0.5], [1e-1, 1e-2, 1.0, 1e-3, 1e-4]))  # the order of trials does not matter
    assert mixed.width == pytest.approx(found.width)


def test_basin_of_losses():
    # 1 % above 2.0 is 2.02: reached (2.02 - 2) / (3 - 2) = 0.02 decades to the right, (2.02 - 2) / (2.1 - 2) = 0.2 to the left
    found = basin(trials([9.0, 2.1, 2.0, 3.0, NAN], RATES, higher=False))
    assert found.width == pytest.approx(0.22)


def test_a_basin_that_reaches_the_last_rate_is_open():
    found = basin(trials([0.1, 0.5, 0.9, NAN, NAN], RATES))
    assert (found.open_low, found.open_high) == (False, True)
    assert found.high == pytest.approx(1e-2)
    assert (found.largest_stable, found.smallest_diverged) == (1e-2, 1e-1)
    found = basin(trials([0.9, 0.9, 0.9, 0.9, 0.9], RATES))
    assert (found.width, found.open_low, found.open_high) == (pytest.approx(4.0), True, True)
    assert math.isnan(found.smallest_diverged)
    assert found.largest_stable == 1.0


def test_a_good_rate_behind_a_bad_one_is_not_in_the_basin():
    found = basin(trials([0.9, 0.1, 0.9, 0.1, 0.9], RATES))
    assert found.high < 1e-3


def test_largest_stable_lies_below_everything_that_diverged():
    found = basin(trials([0.5, NAN, 0.9, 0.8, 0.7], RATES))
    assert (found.largest_stable, found.smallest_diverged) == (1e-4, 1e-3)


@pytest.mark.parametrize(
    ("pool_", "why"),
    [
        (trials([NAN] * 5, RATES), "no trial finished"),
        (trials([0.5, 0.6, NAN, NAN, NAN], RATES), "fewer than three rates finished"),
        (trials([0.5, 0.6, 0.7, 0.6, 0.5], RATES, varied=["beta1"]), "beta1 varied too"),
        (trials([0.5, 0.6], [NAN, NAN]), "no trial finished"),
    ],
)
def test_a_basin_without_width_says_why(pool_, why):
    found = basin(pool_)
    assert math.isnan(found.width)
    assert found.why == why


def test_pool_of_a_comparison_and_of_a_sweep():
    rows = [run("tune", "adam", k, 0, {"lr": rate, "beta1": 0.9}, valid_accuracy=0.5 + k / 10) for k, rate in enumerate((0.1, 0.2))]
    rows += [run("tune", "adam", 2, 0, {"lr": 0.3, "beta1": 0.8}, valid_accuracy=0.9, status="stopped", steps=20)]
    rows += [run("tune", "adam", 3, 0, {"lr": 0.4, "beta1": 0.9}, valid_accuracy=NAN, status="diverged")]
    rows += [run("final", "adam", 1, 1, {"lr": 0.2, "beta1": 0.9}, valid_accuracy=1.0, test_accuracy=1.0)]
    found = pool(results(rows), "adam")
    np.testing.assert_array_equal(found.score, [0.5, 0.6, NAN, NAN])
    assert found.rate.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert (found.status, found.varied) == (("done", "done", "stopped", "diverged"), ("beta1",))
    cells = [run("sweep", "adam", k, s, {"lr": 10.0**-k}, valid_accuracy=0.5 + k / 10 + s / 100) for k in range(2) for s in range(2)]
    cells[3]["status"] = "diverged"
    found = pool(results(cells, kind="sweep"), "adam")
    np.testing.assert_allclose(found.score, [0.505, NAN])
    assert found.status == ("done", "diverged")


def test_a_rate_that_is_not_in_the_configuration_is_read_off_the_curve():
    curve = Curve(np.arange(3), np.ones(3), np.ones(3), np.array([0.0, 0.5, NAN]), np.arange(1), {})
    assert step_size({"beta1": 0.9}, curve) == ("lr", 0.5)
    assert step_size({"scale": 2.0}, curve) == ("scale", 2.0)


# --- the goal


def raced(courses, **changes):
    """A finished comparison of these validation courses, label -> a list of scores a seed, evaluated every 10 steps; None: diverged."""
    r = finals({label: [0.5 if v is None else v[-1] for v in seeds] for label, seeds in courses.items()}, **changes)
    runs, curves = r.runs.copy(), {}
    for label, seeds in courses.items():
        for seed, values in enumerate(seeds, 1):
            name = f"final-{label}-1-{seed}"
            if values is None:
                runs.loc[runs["id"] == name, ["status", "diverged_at", f"test_{r.score}"]] = ["diverged", 7, NAN]
                values = [0.99, 0.99]
            steps = 10 * np.arange(len(values))
            curves[name] = Curve(steps, np.ones(len(steps)), np.ones(len(steps)), np.ones(len(steps)), steps, {r.score: np.array(values)})
    return dataclasses.replace(r, runs=runs, curves=curves)


RACE = {
    "adam": [[0.1, 0.8, 0.9], [0.1, 0.9, 0.8], [0.1, 0.2, 0.7]],  # bests .9 .9 .7: median .9
    "sgd": [[0.1, 0.5, 0.8], [0.1, 0.2, 0.6], [0.1, 0.85, 0.2]],  # bests .8 .6 .85: median .8
    "lion": [[0.1, 0.1, 0.3], None, [0.1, 0.2, 0.4]],  # bests .3, none, .4: median .3
}


def test_the_goal_is_the_middle_finalists_median():
    goal = goal_of(raced(RACE))
    assert (goal.value, goal.rule, goal.every) == (0.8, RULE, 10)
    assert goal_of(raced({k: RACE[k] for k in ("adam", "sgd")})).value == 0.8  # the worse of two
    assert goal_of(raced({"adam": RACE["adam"]})).value == 0.9
    assert goal_of(raced({"lion": [None, [0.1, 0.4]]})) is None  # its worse median is a diverged run
    assert goal_of(finals({"adam": [0.9, 0.8]})) is None  # no curves


def test_steps_to_the_goal():
    adam, sgd, lion = reaches(raced(RACE), goal_of(raced(RACE)))
    assert adam.steps == (10, 10, INF)
    assert (adam.median, adam.reached, adam.fastest, adam.slowest) == (10, 2, 10, INF)
    assert adam.samples == 10 * 32
    assert sgd.steps == (20, INF, 10)
    assert sgd.median == 20
    assert lion.steps == (INF, INF, INF)  # the diverged run was beyond the goal before, and counts as never
    assert (lion.median, lion.reached, lion.samples) == (INF, 0, INF)


def test_a_goal_of_ones_own():
    found = judge(raced(RACE), goal=0.3).findings
    assert (found.goal.value, found.goal.rule) == (0.3, "given")
    assert [one.steps for one in found.reach] == [(10, 10, 20), (10, 20, 10), (20, INF, 20)]
    assert [one.median for one in found.reach] == [10, 10, 20]
    with pytest.raises(UserError, match="must be a finite validation accuracy"):
        judge(raced(RACE), goal=NAN)


def test_a_goal_of_losses_lies_the_other_way():
    r = raced({"adam": [[3.0, 1.0, 0.5]] * 3, "sgd": [[3.0, 2.0, 1.0]] * 3}, score="loss")
    assert goal_of(r).value == 1.0
    assert [one.median for one in reaches(r, goal_of(r))] == [10, 20]


def test_medians_of_what_may_be_infinite():
    assert median(np.array([INF, 2.0, 4.0, INF])) == INF  # half never arrived
    assert median(np.array([INF, 2.0, 4.0, 6.0])) == 5.0


def test_seconds_only_where_every_run_was_alone():
    r = raced(RACE)
    adam, *_ = reaches(r, goal_of(r))
    assert adam.seconds is None
    assert adam.why_no_seconds == "not every run was timed alone (engine: fleet)"
    # 100 steps took 5, 6 and 7 s; the goal was reached after 10, 10 and no steps: 0.5, 0.6 and never
    timed = dataclasses.replace(r, solo_seconds={f"final-adam-1-{s}": 4.0 + s for s in (1, 2, 3)})
    adam, sgd, _ = reaches(timed, goal_of(timed))
    assert adam.seconds == pytest.approx(0.6)
    assert sgd.seconds is None
    some = dataclasses.replace(r, solo_seconds={"final-adam-1-1": 5.0})
    assert reaches(some, goal_of(some))[0].seconds is None
    # rerun alone for a moment an update took 20 ms: 0.2 s for the 10 updates to the goal; what diverged at once has no pace
    rerun = dataclasses.replace(r, pace={"adam": 0.02, "sgd": None})
    adam, sgd, _ = reaches(rerun, goal_of(rerun))
    assert adam.seconds == pytest.approx(0.2)
    assert sgd.seconds is None


# --- sampling, luck, defaults


def test_sampling_is_known_of_shares_alone():
    found = judge(finals({"adam": [0.9, 0.9, 0.9], "sgd": [0.5, 0.6, 0.5]})).findings
    assert found.sampling == pytest.approx(1.959964 * math.sqrt(0.9 * 0.1 / 360))  # 3.1 points
    r = finals({"adam": [0.1, 0.2], "sgd": [0.3, 0.4]}, score="loss")
    v = judge(r)
    assert math.isnan(v.findings.sampling)
    assert "not stored" in v.findings.why_no_sampling
    assert any("the sampling error of the 360 test rows (not known for loss)" in s for s in v.sentences)
    v = judge(finals({"adam": [0.9, 0.8], "sgd": [0.5, 0.6]}, all_rows=True))
    assert math.isnan(v.findings.sampling)
    assert "used for training" in v.findings.why_no_sampling


def test_luck_stands_beside_the_variance_of_seeds():
    # trials .90 .95 .92: 1 - (2/3)^3 = 0.70, 1 - (1/3)^3 = 0.96: |.95 - .92|
    v = judge(finals({"adam": [0.97, 0.98, 0.96], "sgd": [0.5, 0.6, 0.5]}))
    assert v.findings.luck == pytest.approx(0.03)
    assert any("one in ten such searches would have ended 3.0 points worse or more" in s for s in v.sentences)


def test_fewer_than_the_noise_of_the_test_rows():
    v = judge(finals({"adam": [0.978, 0.979, 0.977, 0.980, 0.976], "sgd": [0.979, 0.974, 0.978, 0.976, 0.979]}))
    assert "That is less than the test rows' own ±1.5 points: more test rows would tell more than more seeds." in v.sentences


def tuned(scores, **changes):
    """Tuning trials alone, label -> validation scores in the order of the trials; "s" behind: stopped after 20 of 100 steps."""
    rows = []
    for label, values in scores.items():
        for trial, value in enumerate(values):
            stopped = isinstance(value, str)
            score = float(value.rstrip("s")) if stopped else value
            fate = {"status": "stopped", "steps": 20} if stopped else {"status": "diverged", "diverged_at": 3} if math.isnan(score) else {}
            rows.append(run("tune", label, trial, 0, {"lr": 10.0 ** (trial - 4)}, valid_accuracy=score, **fate))
    return results(rows, planned={"tune": len(rows), "final": 2 * len(scores)}, **changes)


def test_defaults_against_tuned():
    found = judge(tuned({"adam": [0.9, 0.95, 0.8], "sgd": [0.5, 0.97, 0.6], "lion": [0.92, 0.9, 0.8], "rms": [NAN, 0.3, 0.2]})).findings
    rows = {one.optimizer: one for one in found.defaults}
    assert (rows["sgd"].default, rows["sgd"].tuned, rows["sgd"].gain) == (0.5, 0.97, pytest.approx(0.47))
    assert (rows["lion"].gain, rows["lion"].chosen, rows["sgd"].chosen) == (0.0, True, False)
    assert (rows["rms"].fate, rows["rms"].config) == ("diverged", {"lr": 1e-4})
    assert math.isnan(rows["rms"].gain)
    assert (found.best_at_defaults, found.best_tuned) == ("lion", "sgd")
    losses = finals({"adam": [0.1, 0.2]}, score="loss")  # trials .1, .05, .08
    assert judge(losses).findings.defaults[0].gain == pytest.approx(0.05)
    v = judge(finals({"adam": [0.9, 0.91], "sgd": [0.5, 0.52]}))
    assert v.findings.best_at_defaults == v.findings.best_tuned == "adam"
    assert not any("Without tuning" in s for s in v.sentences)


# --- runs that were stopped early


def test_a_stopped_run_is_never_chosen_over_a_whole_one():
    r = tuned({"adam": [0.5, "0.99s", 0.6, NAN]})
    assert choose(r.runs, "adam", "accuracy", True)["trial"] == 2
    assert judge(r).findings.searches[0].failed == 2
    assert judge(r).findings.basins[0].diverged == 0.25  # stopped is not diverged


def test_where_no_run_is_whole_those_stopped_latest_are_compared():
    r = tuned({"adam": ["0.8s", "0.9s", NAN]})
    assert choose(r.runs, "adam", "accuracy", True)["trial"] == 1
    runs = r.runs.copy()
    runs.loc[0, "steps"] = 40
    assert choose(runs, "adam", "accuracy", True)["trial"] == 0


def test_a_stopped_score_ranks_no_optimizer():
    v = judge(tuned({"adam": ["0.99s", "0.98s"], "sgd": [0.4, 0.5]}))
    assert v.leader == "sgd"
    assert v.standings["optimizer"].tolist() == ["sgd", "adam"]
    assert v.standings["best_valid"].isna().tolist() == [False, True]
    assert v.findings.best_tuned == v.findings.best_at_defaults == "sgd"
    v = judge(tuned({"adam": ["0.99s", 0.98], "sgd": [0.4, 0.5]}))
    assert any(s == "With its default settings adam was stopped early in tuning." for s in v.sentences)
    v = judge(tuned({"adam": ["0.99s", "0.98s"]}))
    assert v.leader is None
    assert v.headline == "No winner yet: no run so far was trained to its end with a score."


# --- studies that cannot say much


def test_findings_of_every_state_of_a_study():
    for r in (
        study(), study(["adam"]), study(kind="sweep", seeds=2), study(kind="sweep", seeds=1, all_rows=True), study(all_diverged=True),
        study(final_diverged=["sgd"]), results([]), finals({"adam": [0.9], "sgd": [0.8]}), finals({"adam": [NAN, NAN], "sgd": [NAN, 0.9]}),
        study(planned={"tune": 200, "final": 60}), finals({"adam": [0.9] * 3, "sgd": [0.9] * 3}), raced(RACE),
    ):  # fmt: skip
        v = judge(r)
        text = json.dumps(v.findings.plain(), allow_nan=False)
        assert not any("nan" in s.split() for s in [v.headline, *v.sentences])
        assert isinstance(json.loads(text), dict)


def test_one_seed_and_one_optimizer_have_no_pairs_to_decide():
    v = judge(finals({"adam": [0.98], "sgd": [0.97]}))
    assert (v.winner, v.findings.tied, v.findings.seeds_needed) == (None, (), None)
    assert v.findings.pairs[0].seeds_needed is None
    assert math.isnan(v.findings.pairs[0].adjusted)
    v = judge(finals({"adam": [0.98, 0.97]}))
    assert (v.findings.pairs, v.findings.tied, v.findings.seeds_needed) == ((), (), None)


def test_equal_scores_are_decided_by_no_number_of_seeds():
    v = judge(finals({"adam": [0.9] * 3, "sgd": [0.9] * 3}))
    assert v.findings.seeds_needed is None
    assert v.findings.pairs[0].at_most == 0.0


def test_an_unfinished_study_advises_nothing():
    r = finals({"adam": [0.9, 0.8, 0.91], "sgd": [0.85, 0.86, 0.8]}, planned={"tune": 6, "final": 10})
    assert not any("seeds would" in s for s in judge(r).sentences)


def test_a_final_without_a_score_is_not_called_diverged():
    r = finals({"adam": [0.9, 0.8, 0.91], "sgd": [0.85, 0.86, 0.8]})
    runs = r.runs.copy()
    runs.loc[runs["id"] == "final-adam-1-2", "test_accuracy"] = NAN
    v = judge(dataclasses.replace(r, runs=runs))
    assert v.winner == "sgd"  # the only one whose mean stands on all seeds
    assert "adam has a score from 2 of 3 final runs only, so it cannot win, whatever its mean." in v.sentences
    runs.loc[runs["id"] == "final-adam-1-2", ["status", "test_accuracy"]] = ["stopped", 0.99]  # no plan does this to a final run
    v = judge(dataclasses.replace(r, runs=runs))
    assert (v.winner, v.standings["diverged_finals"].tolist()) == ("sgd", [0, 0])
    assert v.standings.set_index("optimizer").loc["adam", "mean"] == pytest.approx((0.9 + 0.91) / 2)


def test_candidates_for_the_best():
    # four others, so p is doubled: .013 is out, .047 and .23 stay in; none is told apart (10 x .013 > .05)
    v = judge(finals(study_of_five()))
    by_name = {pair.optimizer: pair for pair in v.findings.pairs}
    for pair in v.findings.pairs:
        assert pair.candidate == (2 * pair.p_value > 0.05)
        assert not pair.apart
    assert 0.025 < by_name["c"].p_value < 0.05
    assert v.findings.candidates == ("a", "b", "c")
    assert "The best of all is among a, b and c (95 %)." in v.sentences
    two = judge(finals({"adam": [0.9, 0.8, 0.91], "sgd": [0.85, 0.86, 0.8]})).findings
    assert two.candidates == two.tied == ("adam", "sgd")
    won = judge(finals({"adam": [0.97, 0.98, 0.96], "sgd": [0.5, 0.51, 0.49]})).findings
    assert won.candidates == won.tied == ("adam",)


def study_of_five():
    """Label -> five scores whose differences to the first have the mean -d and the deviations (-2, -1, 0, 1, 2) hundredths, so that
    t = d sqrt(5) / 1.5811 with 4 degrees of freedom: 1.414 (b), 2.828 (c, p = .047), 4.243 (d, p = .013), 4.243 (e).
    """
    deviations = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    return {name: 0.9 - d + deviations * (d > 0) for name, d in (("a", 0.0), ("b", 0.01), ("c", 0.02), ("d", 0.03), ("e", 0.0301))}


# --- several problems


def test_profiles_by_hand():
    costs = pd.DataFrame({"a": [10.0, 40.0, 5.0], "b": [20.0, 10.0, INF], "c": [60.0, 30.0, 5.0]}, index=["p", "q", "r"])
    found = profiles(costs)
    assert found.ratios.to_numpy().tolist() == [[1, 2, 6], [4, 1, 3], [1, INF, 1]]
    assert found.curves.index.tolist() == [1, 2, 3, 4, 6]
    np.testing.assert_allclose(found.curves["a"], [2 / 3, 2 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(found.curves["b"], [1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(found.curves["c"], [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    # heights between the steps 1..4: a 2/3 throughout; b 1/3 to 2, then 2/3: 5/9; c 1/3 to 3, then 2/3: 4/9
    np.testing.assert_allclose(found.area[["a", "b", "c"]], [2 / 3, 5 / 9, 4 / 9])
    assert found.area.index.tolist() == ["a", "b", "c"]


def test_profiles_of_zeros_and_failures():
    found = profiles(pd.DataFrame({"a": [0.0, INF], "b": [0.1, INF]}))
    assert found.ratios.to_numpy().tolist() == [[1, INF], [INF, INF]]
    assert found.area.to_dict() == {"a": 0.5, "b": 0.0}


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (pd.DataFrame({"a": [1.0, NAN]}, index=["p", "q"]), "a has no cost on q"),
        (pd.DataFrame({"a": [-1.0]}), "at least 0"),
        (pd.DataFrame(), "at least one problem"),
    ],
)
def test_profiles_refuse_what_is_no_cost(costs, message):
    with pytest.raises(UserError, match=message):
        profiles(costs)


class Kept:
    def __init__(self, r):
        self.r = r

    def results(self):
        return self.r


def test_a_table_of_costs_from_studies():
    one = Kept(finals({"adam": [0.9, 0.8], "sgd": [0.7, 0.7], "lion": [0.5, NAN]}))
    two = Kept(finals({"sgd": [0.2, 0.4], "adam": [0.6, 0.6]}, score="loss", name="other"))
    table = cost_table([one, two])
    assert table.index.tolist() == ["sample", "other"]
    assert table.columns.tolist() == ["adam", "sgd"]  # what both have
    np.testing.assert_allclose(table.to_numpy(), [[0.15, 0.3], [0.6, 0.3]])
    assert profiles(table).ratios.loc["other"].tolist() == pytest.approx([2.0, 1.0])
    assert cost_table({"mine": one}).loc["mine", "lion"] == INF  # a diverged final run
    steps = cost_table({"race": Kept(raced(RACE))}, "steps")
    assert steps.loc["race"].tolist() == [10, 20, INF]
    assert cost_table({"race": Kept(raced(RACE))}, "samples").loc["race", "sgd"] == 640
    with pytest.raises(UserError, match="no seconds for adam: not every run was timed alone"):
        cost_table({"race": Kept(raced(RACE))}, "seconds")
    with pytest.raises(UserError, match="two studies are called 'sample'"):
        cost_table([one, one])
    with pytest.raises(UserError, match="not a finished comparison"):
        cost_table({"half": Kept(study(planned={"tune": 96, "final": 60}))})
    with pytest.raises(UserError, match="no optimizer in common"):
        cost_table({"a": one, "b": Kept(finals({"rms": [0.1, 0.2]}))})


# --- how often it is right


def test_the_promises_of_the_simulation():
    """A quick run of bench/judge.py: 1,000 studies, bounds widened by their binomial error."""
    spec = importlib.util.spec_from_file_location("bench_judge", Path(__file__).parents[1] / "bench" / "judge.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    missed = [row for row in bench.promises(bench.measure(1000, bench.KEPT), 1000) if not row[-1]]
    assert missed == []


def test_the_judge_is_the_rule_that_is_simulated():
    rng, said = np.random.default_rng(7), []
    for shift in (0.0, 0.02):
        for _ in range(6):
            scores = 0.9 + rng.normal(0, 0.01, (4, 5)) + np.array([shift, 0, 0, -0.05])[:, None]
            found, v = contest(scores), judge(finals({f"o{k}": row for k, row in enumerate(scores)}))
            assert v.leader == f"o{found.best}"
            assert v.winner == (v.leader if found.won else None)
            rows = v.standings.set_index("optimizer")["p_value"]
            np.testing.assert_allclose([rows[f"o{k}"] for k in range(4)], found.adjusted)
            said.append(v.winner)
    assert None in said
    assert any(said)
