"""The report: what is in the page, that it needs no network, and that it works in a browser."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import chromium
from study_samples import finals, results, run, study
from thalweg import UserError
from thalweg.study.judge import judge
from thalweg.study.report import render, write
from thalweg.study.report.figures import course, figures
from thalweg.study.report.page import embed, plotly
from thalweg.study.report.traces import robust
from thalweg.study.results import Curve

DRAWN = "document.documentElement.dataset.drawn === 'yes'"
MEGABYTE = 1_000_000


def unfinished():
    whole = study(planned={"tune": 96, "final": 30})
    return dataclasses.replace(whole, runs=whole.runs[whole.runs["phase"] == "tune"])


SAMPLES = {
    "finished": lambda: study(final_diverged=["sgd"]),
    "unfinished": unfinished,
    "sweep": lambda: study(kind="sweep", seeds=2),
    "all rows": lambda: study(kind="sweep", seeds=1, all_rows=True),
    "one optimizer": lambda: study(["adam"]),
    "all diverged": lambda: study(all_diverged=True),
    "no curves": lambda: finals({"adam": [0.9, 0.91], "sgd": [0.8, 0.82]}),
    "a loss": lambda: finals({"adam": [0.1, 0.2], "sgd": [0.3, math.nan]}, score="loss", metrics=("loss",)),
    "nothing": lambda: results([]),
}


class Reader(HTMLParser):
    """Collects what a page would load, its ids and the tags left open."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loads += [attrs[name] for name in ("src", "href", "srcset", "action", "data") if attrs.get(name)]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_of_every_state_of_a_study(name):
    r = SAMPLES[name]()
    page = render(r)
    reader = Reader(page)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert all(load.startswith(("#", "data:")) for load in reader.loads)
    assert "@import" not in page
    assert "url(" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert len(page.encode()) < 5 * MEGABYTE
    assert judge(r).headline.split(":")[0] in page
    assert not re.search(r"\bnan\b", page[: page.index('<script type="text/plain"')])
    assert {"curves", "sensitivity"} == set(data_of(page))


def test_a_large_study_stays_below_five_megabytes():
    r = study([f"optimizer_{i}" for i in range(20)], trials=64, records=500)
    assert len(r.runs) == 20 * 69
    page = render(r)
    assert len(page.encode()) < 5 * MEGABYTE
    assert page.count("<tr>") > len(r.runs)


def test_users_text_is_text():
    r = finals({"<b>a</b>": [0.9, 0.91], "</script><script>alert(1)//": [0.8, 0.82]}, name="<i>&", command="x </script>")
    r = dataclasses.replace(r, notes=("<img src=x>",), spec={**r.spec, "note": "</pre><script>"})
    page = render(r)
    assert "<b>a" not in page
    assert "<img" not in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert page.count("<script") == page.count("</script>") == 3
    assert Reader(page).open == []


def test_embedded_json_is_strict():
    text = embed({"a": [math.nan, math.inf, 1.5], "b": np.array([1.0, math.nan]), "c": "</script>", "d": np.float64(2)})
    assert "<" not in text
    assert json.loads(text) == {"a": [None, None, 1.5], "b": [1.0, None], "c": "</script>", "d": 2.0}


def test_plotly_travels_whole():
    assert b"plotly.js" in gzip.decompress(base64.b64decode(plotly()))[:200]


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(finals({"adam": [0.9, 0.91]}), tmp_path / "deep" / "report.html")
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!doctype html>")
    assert before.rstrip().endswith("</html>")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(UserError, match="cannot be written"):
        write(finals({"adam": [0.5, 0.51]}), path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


# --- figures


def test_what_diverged_never_flattens_a_figure():
    r = study(final_diverged=["sgd"])
    drawn = figures(r, judge(r))
    loss = next(f for f in drawn["curves"] if f["key"] == "loss")
    assert max(v for t in loss["data"] for v in t["y"] if v is not None) > 100  # the exploding run is there
    assert loss["ranges"]["linear"][1] < 5
    assert loss["ranges"]["log"][1] < math.log10(5)
    sensitivity = drawn["sensitivity"]
    low, high = sensitivity["layout"]["yaxis"]["range"]
    assert -0.25 < low < high < 1.1
    for trace in sensitivity["data"]:
        assert all(low <= y <= high for y in trace["y"]), trace["meta"]
    roles = {t["meta"]["role"] for t in sensitivity["data"]}
    assert {"done", "chosen", "default", "diverged"} <= roles


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
    assert all(low <= y <= high for t in figure["data"] for y in t["y"])
    assert f"{score} " in far["text"][0]  # its true value is in the hover


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


def test_curves_are_thinned_by_averages():
    steps = np.arange(1000)
    curve = Curve(steps, np.ones(1000), np.full(1000, math.nan), np.ones(1000), steps[:3], {"loss": np.ones(3)})
    x, y = course(curve, "loss")
    assert x.shape == y.shape == (125,)
    assert x[0] == pytest.approx(3.5)  # the mean of steps 0..7
    assert (y == 1).all()
    assert course(curve, "grad_norm") is None
    assert course(curve, "valid:accuracy") is None
    assert course(curve, "valid:loss")[0].tolist() == [0, 1, 2]


def test_after_eight_colours_the_dash_changes():
    r = study([f"o{i}" for i in range(10)], trials=4)
    drawn = figures(r, judge(r))["curves"]
    assert [f["key"] for f in drawn] == ["loss", "valid:accuracy", "valid:loss", "grad_norm", "lr", "trials"]
    dashes = {t["meta"]["series"]: t["line"]["dash"] for t in drawn[0]["data"] if t["meta"]["role"] == "line"}
    assert dashes[7] == "solid"
    assert dashes[8] == "dash"


# --- in a browser

browser = pytest.mark.skipif(chromium.executable() is None, reason="no chromium on the PATH")


@browser
def test_in_a_browser(tmp_path):
    path = write(SAMPLES["finished"](), tmp_path / "report.html")
    with chromium.page() as tab:
        for width, dark in ((1280, False), (1000, True), (400, False), (400, True)):
            tab.open(path, width, dark=dark)
            tab.wait(DRAWN)
            assert tab.run("document.querySelectorAll('.plot svg.main-svg').length") >= 2
            assert tab.run("document.documentElement.scrollWidth") <= width  # nothing is cut off
            assert tab.run("getComputedStyle(document.body).backgroundColor") == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
        font = "getComputedStyle(document.querySelector('#plot-curves .xtitle')).fill"
        light = (tab.theme(False), tab.run(font))[1]
        tab.wait(f"{font} === 'rgb(27, 31, 36)'")  # the figures follow the theme
        assert light
        for index in range(6):
            choose = "const s = document.querySelector('#measure'); s.value = %d; s.dispatchEvent(new Event('change'))"
            tab.run(f"(() => {{ {choose % index} }})()")
            tab.run("document.querySelector('#log').click()")
            assert tab.run("document.querySelectorAll('#plot-curves .scatterlayer path.js-line').length") > 0
        titles = tab.run("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
        assert not [t for t in titles if re.search("share|cloud|edit|logo", t, re.IGNORECASE)]
        assert tab.errors == []
        assert [u for u in tab.requests if not u.startswith(("data:", "blob:"))] == [path.as_uri()] * 4


@browser
def test_legend_sort_and_filter(tmp_path):
    path = write(SAMPLES["finished"](), tmp_path / "report.html")
    with chromium.page() as tab:
        tab.open(path)
        tab.wait(DRAWN)
        lines = "document.querySelectorAll('#plot-curves .scatterlayer .trace').length"
        every = tab.run(lines)
        chip = "document.querySelector('.legend [data-series=\"1\"]')"
        tab.run(f"{chip}.click()")
        assert tab.run(f"{chip}.getAttribute('aria-pressed')") == "false"
        tab.wait(f"{lines} < {every}")
        tab.run(f"{chip}.dispatchEvent(new MouseEvent('dblclick'))")  # alone
        assert tab.run("document.querySelectorAll('.legend [aria-pressed=true]').length") == 1
        tab.run("document.querySelector('.legend .all').click()")
        tab.wait(f"{lines} === {every}")

        names = tab.run("[...document.querySelectorAll('#all-runs th')].map(h => h.textContent)")
        column = names.index("valid accuracy")
        values = f"[...document.querySelectorAll('#all-runs tbody tr')].map(r => r.cells[{column}].dataset.v)"
        head = f"document.querySelectorAll('#all-runs th button')[{column}]"
        for direction in ("ascending", "descending"):
            tab.run(f"{head}.click()")
            assert tab.run(f"{head}.parentElement.getAttribute('aria-sort')") == direction
            shown = tab.run(values)
            known = [float(v) for v in shown if v is not None]
            assert known == sorted(known, reverse=direction == "descending")
            assert all(v is None for v in shown[len(known) :])  # without a value: last
        assert tab.run(f"{head}.focus(), document.activeElement === {head}")  # reached by the keyboard

        tab.run("(() => { const f = document.querySelector('#filter'); f.value = 'ADAM tune'; f.dispatchEvent(new Event('input')) })()")
        assert tab.run("document.querySelectorAll('#all-runs tbody tr:not([hidden])').length") == 16
        assert tab.run("document.querySelector('#count').textContent") == "16 of 126 runs"
        assert tab.errors == []


@browser
@pytest.mark.parametrize("name", ["unfinished", "sweep", "all diverged", "no curves", "nothing"])
def test_other_states_in_a_browser(tmp_path, name):
    path = write(SAMPLES[name](), tmp_path / "report.html")
    with chromium.page() as tab:
        tab.open(path, 400)
        if name != "nothing":
            tab.wait(DRAWN)
        assert tab.run("document.documentElement.scrollWidth") <= 400
        assert tab.errors == []


@browser
def test_screenshots(tmp_path):
    path = write(finals({"adam": [0.9, 0.91]}), tmp_path / "report.html")
    chromium.screenshot(path, tmp_path / "shot.png", width=400, dark=True, ready=DRAWN)
    assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
