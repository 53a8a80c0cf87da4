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
from thalweg.study.report import render, render_beside, write
from thalweg.study.report.page import plotly, text_of

MEGABYTE = 1_000_000


# which figures there are, where not all are
EXPECTED = {
    "no curves": {"sensitivity", "parallel"}, "a loss": {"sensitivity", "parallel"}, "mixed": {"sensitivity", "parallel"}, "nothing": set(),
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
    assert set(data_of(page)) == EXPECTED.get(name, {"curves", "sensitivity", "parallel"})
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
    bare = Reader(render(r))
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
