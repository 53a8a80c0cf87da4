"""The report: what is in the page, and that it needs no network."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from report_samples import SAMPLES, data_of
from study_samples import finals, measured, study
from thalweg import UserError
from thalweg.study import report
from thalweg.study.judge import judge
from thalweg.study.remarks import METHOD
from thalweg.study.report import render, render_beside, write
from thalweg.study.report.measured import measured as made
from thalweg.study.report.measured import profile_of
from thalweg.study.report.page import plotly, text_of
from thalweg.study.report.slots import slots

MEGABYTE = 1_000_000


# which figures there are, where not all are
TRIALS = {"sensitivity", "parallel"}
TUNED = TRIALS | {"cost", "defaults"}
CURVED = TRIALS | {"curves"}
EXPECTED = {
    "no curves": TUNED, "a loss": TUNED, "mixed": TUNED, "nothing": set(), "sweep": CURVED, "all rows": CURVED, "one trial": CURVED,
    "all diverged": CURVED,
}  # fmt: skip


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
    assert len(page.encode()) < MEGABYTE
    assert judge(r).headline.split(":")[0] in page
    assert not re.search(r"\bnan\b", page[: page.index('<script type="text/plain"')])
    assert set(data_of(page)) == EXPECTED.get(name, {"curves", *TUNED})
    assert all(f'<a href="#{figure}">' in page for figure in data_of(page))


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
    text = text_of({"a": [math.nan, math.inf, 1.5], "b": np.array([1.0, math.nan]), "d": np.float64(2)})
    assert json.loads(text) == {"a": [None, None, 1.5], "b": [1.0, None], "d": 2.0}
    assert "NaN" not in text


def test_plotly_travels_whole():
    source = gzip.decompress(base64.b64decode(plotly()))
    assert b"plotly.js (basic" in source[:200]
    assert len(source) > 1_000_000
    assert b"MIT License" in (files(report) / "plotly-LICENSE.txt").read_bytes()


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


# --- further numbers and several studies


def test_slots_have_their_places_on_the_page():
    r = study()
    page = render(r, measured(r))
    assert set(data_of(page)) == {"curves", "sensitivity", "parallel", "cost", "profile", "defaults"}
    reader = Reader(page)
    assert reader.open == []
    assert {"targets", "profile", "cost", "defaults", "plot-cost"} <= set(reader.ids)
    assert "100 (90 to 120)" in page
    assert "Basin, decades" in page
    bare = Reader(render(r, {}))
    assert not {"targets", "profile", "cost", "defaults"} & set(bare.ids)


def beside():
    return {
        "digits-mlp": study(["adam", "sgd", "momentum"], name="digits-mlp"),
        "airfoil": study(["lion", "sgd", "adam"], name="airfoil", spread=0.02),
        "diabetes": finals({"adam": [0.1, 0.2], "sgd": [0.3, math.nan]}, score="loss", metrics=("loss",), name="diabetes"),
    }


def test_several_studies_on_one_page():
    studies = beside()
    page = render_beside(studies)
    assert Reader(page).open == []
    assert len(set(Reader(page).ids)) == len(Reader(page).ids)
    assert all(load.startswith(("#", "data:")) for load in Reader(page).loads)
    for name, r in studies.items():
        assert f"<h3>{name}</h3>" in page
        assert judge(r).headline.split(";")[0] in page
        assert r.command in page
    data = data_of(page)
    views = {view["key"]: view for view in data["curves"]}
    assert [panel["name"] for panel in views["loss"]["panels"]] == ["digits-mlp", "airfoil"]  # the third has no curves
    colours = [{t["name"]: t["meta"]["series"] for t in panel["data"]} for panel in views["loss"]["panels"]]
    assert colours[0]["adam"] == colours[1]["adam"] == 0
    assert colours[0]["sgd"] == colours[1]["sgd"] == 1
    assert colours[1]["lion"] == 3
    low, high = views["loss"]["ranges"]["log"]
    for panel in views["loss"]["panels"]:  # one range holds both
        assert low <= panel["ranges"]["log"][0] < panel["ranges"]["log"][1] <= high
    panels = {panel["name"]: panel for panel in data["sensitivity"][0]["panels"]}
    assert list(panels) == list(studies)
    assert panels["diabetes"]["layout"]["yaxis"]["title"]["text"] == "Validation loss"  # a scale of its own
    assert "not compared" in page
    assert "★ winner" in page


def test_a_profile_of_several_problems_on_their_page():
    studies = beside()
    page = render_beside(studies, {"profile": measured(studies["digits-mlp"])["profile"]})
    assert len(data_of(page)["profile"][0]["data"]) == 3
    assert 'id="profile"' in page


def test_what_the_judge_found_is_on_the_page():
    r = study(final_diverged=["sgd"])
    found = judge(r).findings
    page = render(r)
    assert {"targets", "cost", "defaults"} <= set(Reader(page).ids)
    assert "at least as good. The median over all seeds" in page
    assert found.goal.rule in page.replace("&#39;", "'")
    lines = {t["meta"]["series"]: t for t in data_of(page)["cost"][0]["data"] if t["meta"]["role"] == "line"}
    for k, one in enumerate(found.searches):
        assert lines[k]["y"] == pytest.approx(list(one.median), rel=1e-3)
    said = page.replace("&#39;", "'")
    assert all(sentence in said for sentence in METHOD)
    assert "Holm" not in page


def test_the_judges_numbers_of_one_study():
    r = study(final_diverged=["sgd"])
    given, found = made(r, judge(r)), judge(r).findings
    assert list(given) == ["tuning_cost", "targets", "sensitivity", "defaults"]
    rows = {row["optimizer"]: row for row in given["targets"]["rows"]}
    for one in found.reach:
        assert rows[one.optimizer]["reached"] == one.reached
        assert rows[one.optimizer]["of"] == 5
    drawn = {row["cells"][0][0]: [text for text, _ in row["cells"]] for row in slots(given, series(r), "accuracy", True)["targets"]["rows"]}
    assert drawn["random_search"][1:4] == ["0 of 5", "never", "never"]
    assert drawn["sgd"][2].endswith("to never)") or drawn["sgd"][2] == "never"  # some of its finals diverged
    widths = {row["cells"][0][0]: row["cells"][1] for row in slots(given, series(r), "accuracy", True)["numbers"]["rows"]}
    for basin in found.basins:
        text, value = widths[basin.optimizer]
        assert text.startswith("≥") == (basin.open_low or basin.open_high)
        assert value is None or value == pytest.approx(basin.width)
    assert made(study(["adam"], trials=1), judge(study(["adam"], trials=1))).keys() == {"targets"}
    empty = SAMPLES["nothing"]()
    assert made(empty, judge(empty)) == {}


def test_defaults_without_a_score_say_why():
    r = SAMPLES["stopped"]()
    first = (r.runs["phase"] == "tune") & (r.runs["trial"] == 0)
    runs = r.runs.copy()
    runs.loc[first & (runs["optimizer"] == "adam"), "status"] = "stopped"
    r = dataclasses.replace(r, runs=runs)
    drawn = slots(made(r, judge(r)), series(r), "accuracy", True)["defaults"]
    texts = {t["meta"]["series"]: t["text"][0] for t in drawn["data"]}
    assert texts[0] == "defaults: were stopped early"
    assert "×: the defaults" in drawn["caption"]
    assert "stopped early" in drawn["caption"]
    assert "stopped early</td>" in render(r)  # of the trials


def test_the_profile_of_finished_studies_is_drawn_by_itself():
    studies = beside()
    data = data_of(render_beside(studies))
    lines = data["profile"][0]["data"]
    assert len(lines) == 2  # those that all have
    assert all(0 <= share <= 1 for line in lines for share in line["y"])
    assert "error of the final runs" in data["profile"][0]["caption"]  # one study has no curves, hence no target
    with_goals = profile_of({name: studies[name] for name in ("digits-mlp", "airfoil")})
    assert with_goals["measure"].startswith("updates")
    assert max(with_goals["ratios"]) >= 4
    assert profile_of({"one": studies["airfoil"]}) is None
    assert profile_of({"one": studies["airfoil"], "two": SAMPLES["unfinished"]()}) is None
    assert profile_of({"one": finals({"adam": [0.9, 0.91]}), "two": finals({"sgd": [0.9, 0.91]})}) is None


def series(r):
    return {label: k for k, label in enumerate(r.optimizers)}
