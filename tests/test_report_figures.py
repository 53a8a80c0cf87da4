"""The report's figures and slots, as plain data: what is in them, that nothing visible is lost, that nothing flattens them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from report_samples import SAMPLES
from study_samples import measured, results, run, study
from thalweg.study.judge import judge
from thalweg.study.report import palette
from thalweg.study.report.curves import POINTS, TRIAL_POINTS, course
from thalweg.study.report.figures import drawable, figures
from thalweg.study.report.method import method, searched
from thalweg.study.report.parallel import ticks
from thalweg.study.report.slots import slots
from thalweg.study.report.traces import calm, robust, thin
from thalweg.study.results import Curve

CURVES = ["loss", "valid:accuracy", "valid:loss", "grad_norm", "lr", "trials:valid:accuracy", "trials:loss"]


def drawn_of(name):
    r = SAMPLES[name]()
    return figures(r, judge(r))


def roles_of(view):
    return {t["meta"]["role"] for t in view["data"]}


def view_of(drawn, key):
    return next(view for view in drawn["curves"] if view["key"] == key)


def values_of(view, role):
    return [v for t in view["data"] if t["meta"]["role"] == role for v in t["y"] if v is not None]


# --- what diverged


def test_what_diverged_never_flattens_a_figure():
    drawn = drawn_of("finished")
    loss = view_of(drawn, "loss")
    assert max(values_of(loss, "broken")) > 100  # the exploding run is there
    assert loss["ranges"]["linear"][1] < 5
    assert loss["ranges"]["log"][1] < math.log10(5)
    assert max(values_of(view_of(drawn, "trials:loss"), "trial")) > 100
    assert view_of(drawn, "trials:loss")["ranges"]["linear"][1] < 5
    sensitivity = drawn["sensitivity"]
    low, high = sensitivity["layout"]["yaxis"]["range"]
    assert -0.25 < low < high < 1.1
    for trace in sensitivity["data"]:
        assert all(low <= y <= high for y in trace["y"]), trace["meta"]
    assert {"done", "chosen", "default", "diverged"} <= roles_of(sensitivity)


def test_where_everything_diverged_the_beginnings_set_the_axes():
    loss = view_of(drawn_of("all diverged"), "trials:loss")
    assert max(values_of(loss, "trial")) > 1e6
    assert loss["ranges"]["log"][1] < 6


@pytest.mark.parametrize(("score", "bad"), [("r2", -5000.0), ("loss", 1e30)])
def test_finished_outliers_stand_on_the_rail(score, bad):
    values = [*np.linspace(0.5, 0.9, 9), bad, bad, bad]
    rows = [
        run("tune", "adam", k, 0, {"lr": 10.0 ** (k / 3 - 4)}, **{"valid_loss": 0.1, f"valid_{score}": v}) for k, v in enumerate(values)
    ]
    r = results(rows, score=score, higher=score == "r2", metrics=(score, "loss")[: 1 + (score != "loss")])
    figure = figures(r, judge(r))["sensitivity"]
    low, high = figure["layout"]["yaxis"]["range"]
    if figure["layout"]["yaxis"]["type"] == "log":
        low, high = 10**low, 10**high
    assert -1 < low < 0.5
    assert 0.9 < high < 10
    far = next(t for t in figure["data"] if t["meta"]["role"] == "far")
    assert len(far["x"]) == 3
    assert far["marker"]["symbol"] == ("arrow-down" if score == "r2" else "arrow-up")  # where it went
    assert all(low <= y <= high for t in figure["data"] for y in t["y"])
    assert f"{score} " in far["text"][0]  # its true value is in the hover


def test_stopped_and_failed_runs_are_called_so():
    drawn = drawn_of("stopped")
    sensitivity = drawn["sensitivity"]
    hollow = [t for t in sensitivity["data"] if t["meta"]["role"] == "stopped"]
    assert hollow
    assert all(t["marker"]["symbol"].endswith("-open") for t in hollow)
    assert all(text.endswith("stopped early") for t in hollow for text in t["text"])
    assert "stopped early" in sensitivity["caption"]
    assert [text for t in sensitivity["data"] if t["meta"]["role"] == "diverged" for text in t["text"] if "failed" in text]
    assert "was stopped" in view_of(drawn, "trials:valid:accuracy")["caption"]
    said = " ".join(method(SAMPLES["stopped"]()))
    assert "Successive halving" in said
    assert "failed when its code" in said
    assert "Successive halving" not in " ".join(method(SAMPLES["finished"]()))


# --- ranges and thinning


def test_robust_ranges():
    low, high = robust([np.linspace(0, 1, 101)], False)
    assert (low, high) == (pytest.approx(-0.05), pytest.approx(1.05))
    spiked = np.linspace(0, 1, 101)
    spiked[50] = 1e9
    assert robust([spiked], False)[1] < 2
    assert robust([np.linspace(0, 1, 101)] * 3 + [np.full(101, 1e9)], False)[1] < 2
    assert robust([np.array([math.nan])], False) is None
    assert robust([np.array([-1.0, 0.0])], True) is None
    low, high = robust([np.ones(5)], False)
    assert low < 1 < high


def test_thinning_keeps_every_extreme_and_the_ends():
    rng = np.random.default_rng(0)
    x, y = np.arange(4950), rng.standard_normal(4950)
    a, b = thin(x, y, 200)
    assert len(a) <= 200
    assert (np.diff(a) > 0).all()
    assert (b == y[a]).all()  # points of the curve, not near it
    assert (a[0], a[-1]) == (0, 4949)
    for stretch in np.arange(4950).reshape(99, 50):
        inside = b[(a >= stretch[0]) & (a <= stretch[-1])]
        assert y[stretch].max() in inside
        assert y[stretch].min() in inside
    assert len(thin(x[:200], y[:200], 200)[0]) == 200
    means = calm(x, y, 99)
    assert means[0][0] == pytest.approx(24.5)
    assert means[1][0] == pytest.approx(y[:50].mean())


def test_a_spike_of_one_seed_is_seen():
    r = study(["adam", "sgd"], records=3000, seeds=3)
    id_ = next(run for run in r.runs["id"] if run.startswith("final-adam"))
    r.curves[id_].loss[1234] = 77.0
    loss = view_of(figures(r, judge(r)), "loss")
    assert roles_of(loss) == {"band", "raw", "line"}
    assert max(values_of(loss, "band")) == 77.0
    assert max(values_of(loss, "raw")) > 77 / 3
    assert "shows every one" in loss["caption"]
    assert any("no spike is lost" in sentence for sentence in method(r))
    for trace in loss["data"]:
        assert len(trace["x"]) <= 2 * POINTS
    assert all(len(t["x"]) <= (TRIAL_POINTS + 1) * 16 for t in view_of(figures(r, judge(r)), "trials:loss")["data"])


def test_a_course_is_what_was_recorded():
    steps = np.arange(1000)
    curve = Curve(steps, np.ones(1000), np.full(1000, math.nan), np.ones(1000), steps[:3], {"loss": np.array([1.0, math.nan, 3.0])})
    assert course(curve, "loss")[0].shape == (1000,)
    assert course(curve, "grad_norm") is None
    assert course(curve, "valid:accuracy") is None
    assert course(curve, "valid:loss")[0].tolist() == [0, 2]


# --- colours and symbols


def linear(colour):
    """The light of a colour, (3,) in linear sRGB."""
    v = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIE Lab of linear sRGB under D65."""
    matrix = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    f = matrix @ np.clip(light, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(f > 216 / 24389, np.cbrt(f), (24389 / 27 * f + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# what the eye without one kind of cones sees. Machado, Oliveira and Fernandes 2009
EYES = {
    "all cones": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize(("colours", "page"), [(palette.LIGHT, palette.PAGES[0]), (palette.DARK, palette.PAGES[1])])
def test_colours_are_told_apart_by_every_eye(colours, page, eye):
    seen = [lab(EYES[eye] @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 18
    luminance = [float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (page, *colours)]
    assert all(max(luminance[0], y) / min(luminance[0], y) >= 3 for y in luminance[1:])


def test_series_differ_without_colour():
    looks = [palette.look(k) for k in range(32)]
    assert len({tuple(look.values()) for look in looks}) == 32
    assert len({(look["symbol"], look["dash"]) for look in looks}) == 32  # in grey
    assert len({look["symbol"] for look in looks[:8]}) == 8
    assert set(palette.GLYPHS) == set(palette.SYMBOLS)
    r = study([f"o{i}" for i in range(10)], trials=4)
    drawn = figures(r, judge(r))
    assert [f["key"] for f in drawn["curves"]] == CURVES
    lines = {t["meta"]["series"]: t for t in drawn["curves"][0]["data"] if t["meta"]["role"] == "line"}
    assert lines[7]["line"]["dash"] == "solid"
    assert lines[8]["line"]["dash"] == "dash"
    assert lines[1]["marker"]["symbol"] == "square"
    done = {t["meta"]["series"]: t["marker"]["symbol"] for t in drawn["sensitivity"]["data"] if t["meta"]["role"] == "done"}
    assert done[2] == lines[2]["marker"]["symbol"]


# --- parallel coordinates


def test_every_trial_is_a_line_across_the_axes():
    r = SAMPLES["mixed"]()
    view = figures(r, judge(r))["parallel"]
    names = [axis["name"] for axis in view["axes"]]
    assert names == ["learning rate", "beta1", "weight_decay", "schedule", "nesterov", "training loss", "validation accuracy"]
    trials = {t for trace in view["data"] for t in trace["customdata"]}
    assert trials == set(range(len(r.runs)))
    kinds = {text for _, text in view["axes"][3]["ticks"]}
    assert kinds == {"constant", "cosine"}
    stray = [trace for trace in view["data"] if trace["meta"]["role"] == "stray"]
    assert stray
    for trace in stray:  # what diverged: on the rail of both results, at its own learning rate
        unused = names.index(["nesterov", "beta1"][trace["meta"]["series"]])
        for x, y in zip(trace["x"], trace["y"], strict=True):
            assert x is None or (y < 0) == (x >= 5 or x == unused)
    for trace in view["data"]:
        if trace["meta"]["role"] != "stray":
            assert all(0 <= y <= 1 for x, y in zip(trace["x"], trace["y"], strict=True) if x in (0, 2, 3, 6))
    ends = [[y for x, y in zip(t["x"], t["y"], strict=True) if x == 6] for t in view["data"] if t["meta"]["role"] == "pick"]
    others = [y for t in view["data"] if t["meta"]["role"] == "path" for x, y in zip(t["x"], t["y"], strict=True) if x == 6]
    assert max(itertools.chain(*ends)) > max(others)  # the best is at the top
    first = [y for t in view["data"] for x, y in zip(t["x"], t["y"], strict=True) if x == 0]
    assert np.ptp(first) > 0.9
    assert [text for _, text in view["axes"][0]["ticks"]] == ["1e-4", "1e-3", "0.01", "0.1"]  # a decade each


def test_users_words_are_words_in_parallel_coordinates():
    rows = [run("tune", "<a href='x'>y</a>", k, 0, {"scale": 0.1 + k, "kind": f"<b>{k}"}, valid_accuracy=0.5) for k in range(3)]
    r = results(rows)
    axes = figures(r, judge(r))["parallel"]["axes"]
    assert "<" not in axes[0]["name"]
    assert axes[1]["ticks"][0][1] == "&lt;b&gt;0"


def test_outliers_do_not_flatten_parallel_coordinates():
    losses = [*np.linspace(0.1, 0.3, 10), 1e6, 1e8]
    rows = [
        run("tune", "sgd", k, 0, {"lr": 10.0 ** (k / 2 - 5)}, valid_loss=v, train_loss=v, valid_accuracy=math.nan)
        for k, v in enumerate(losses)
    ]
    r = results(rows, score="loss", higher=False, metrics=("loss",))
    view = figures(r, judge(r))["parallel"]
    last = [(t, y) for trace in view["data"] for x, y, t in zip(trace["x"], trace["y"], trace["customdata"], strict=True) if x == 2]
    heights = [y for _, y in sorted(last)]
    assert heights[0] > 0.9  # the least loss on top
    assert np.ptp(heights[:10]) > 0.5
    assert max(heights[10:]) < 0


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.93, 0.98, False, [0.93, 0.94, 0.95, 0.96, 0.97, 0.98]),
        (-5.0, 0.0, True, [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0]),
        (-30.0, 5.0, True, [-30.0, -24.0, -18.0, -12.0, -6.0, 0.0]),
        (0.0, 1.0, True, [0.0, math.log10(2), math.log10(5), 1.0]),
        (2.0, 2.0, False, [2.0]),
    ],
)
def test_ticks_are_round_and_few(low, high, log, expected):
    assert ticks(low, high, log) == pytest.approx(expected)


# --- slots for the judge's further numbers


def test_slots_are_absent_without_numbers():
    r = SAMPLES["finished"]()
    drawn = figures(r, judge(r))
    assert all(drawn[name] is None for name in ("cost", "profile", "targets", "numbers", "defaults"))
    assert set(drawable(drawn)) == {"curves", "sensitivity", "parallel"}


def test_slots_draw_what_they_are_given():
    r = SAMPLES["finished"]()
    given = measured(r)
    drawn = figures(r, judge(r), given)
    assert set(drawable(drawn)) == {"curves", "sensitivity", "parallel", "cost", "profile", "defaults"}
    cost = {t["meta"]["series"]: t for t in drawn["cost"]["data"] if t["meta"]["role"] == "line"}
    assert len(cost) == len(r.optimizers)
    assert cost[1]["x"] == list(range(1, 17))
    assert cost[1]["y"] == pytest.approx(given["tuning_cost"]["momentum"]["expected"], rel=1e-4)
    shares = {t["meta"]["series"]: t["y"] for t in drawn["profile"]["data"]}
    assert shares[0] == given["profile"]["shares"]["adam"].tolist()
    assert "4 problems (digits-mlp, airfoil" in drawn["profile"]["caption"]
    texts = [[text for text, _ in row["cells"]] for row in drawn["targets"]["rows"]]
    assert texts[0] == ["adam", "5 of 5", "100 (90 to 120)", "3,200", "0.4 s (0.3 s to 0.7 s)"]
    assert texts[-1] == ["random_search", "0 of 5", "–", "–", "–"]
    assert [text for text, _ in drawn["numbers"]["rows"][1]["cells"]] == ["momentum", "1.9", "0.15", "1 of 16"]
    table = [[text for text, _ in row["cells"]] for row in drawn["defaults"]["table"]["rows"]]
    assert table[0] == ["adam", "92.0 %", "97.0 %", "+5.0 points"]
    assert table[-1] == ["random_search", "–", "92.0 %", "–"]
    lost = drawn["defaults"]["data"][-1]
    assert lost["marker"]["symbol"][0] == "x-thin-open"
    assert lost["x"][0] < min(x for t in drawn["defaults"]["data"][:-1] for x in t["x"])  # beyond the worst
    assert lost["text"][0] == "defaults: diverged"


def test_slots_of_losses_and_of_parts():
    series = {"adam": 0, "sgd": 1}
    given = {
        "tuning_cost": {"adam": {"trials": [1, 2, 4], "expected": [1e9, 0.2, 0.1]}, "lion": {"trials": [1], "expected": [0.3]}},
        "defaults": {"split": "test", "rows": [
            {"optimizer": "sgd", "defaults": 0.5, "tuned": 0.6}, {"optimizer": "adam", "defaults": math.nan, "tuned": 0.1},
        ]},
        "sensitivity": {"rows": [{"optimizer": "adam", "width": math.nan, "largest_stable": None, "diverged": 0.25}]},
        "profile": {"ratios": [1], "shares": {}, "problems": []},
        "targets": {"target": 0.1, "score": "loss", "rows": []},
    }  # fmt: skip
    drawn = slots(given, series, "loss", False)
    assert [t["meta"] for t in drawn["cost"]["data"]] == [{"series": 0, "role": "line"}]  # no band, no stranger
    assert drawn["cost"]["ranges"]["linear"][1] < 1  # a first guess that is far off sets no axis
    rows = drawn["defaults"]["table"]["rows"]
    assert [[text for text, _ in row["cells"]] for row in rows] == [["adam", "–", "0.1000", "–"], ["sgd", "0.5000", "0.6000", "−0.1000"]]
    assert drawn["defaults"]["data"][0]["x"][0] > 0.6  # a loss: worse is larger
    assert "Test loss" in drawn["defaults"]["layout"]["xaxis"]["title"]["text"]
    assert [text for text, _ in drawn["numbers"]["rows"][0]["cells"]] == ["adam", "–", "–", "25 %"]
    assert drawn["profile"] is None
    assert drawn["targets"] is None


# --- method


def test_the_method_states_every_rule():
    said = " ".join(method(SAMPLES["finished"](), measured(SAMPLES["finished"]())))
    for word in (
        "budget", "defaults", "Sobol", "one seed", "ties", "fresh seed", "Test data play no part", "Student-t", "paired t-tests",
        "10,000", "short last batch", "wall time", "repeats every run exactly", "leave out what lies far", "Dolan", "Tuning cost",
        "Reaching the target",
    ):  # fmt: skip
        assert word in said, word
    assert "Dolan" not in " ".join(method(SAMPLES["finished"]()))
    entries = [
        {"label": "sgd[nesterov]", "rule": "sgd", "fixed": {"nesterov": True},
         "search": {"lr": {"low": 1e-4, "high": 1.0, "scale": "log"}, "momentum": {"values": [0.9, 0.99]}}},
        {"label": "adam", "rule": "adam", "fixed": {}, "search": {}},
    ]  # fmt: skip
    r = results([], spec={"optimizers": entries})
    assert searched(r) == [
        ("sgd[nesterov]", "rule sgd; fixed: nesterov true; searched: lr 1e-4 to 1 (log), momentum 0.9 or 0.99"),
        ("adam", "nothing searched"),
    ]
