"""What a notebook shows by itself: read back as XML, it says what the study says, needs nothing from outside, and is seen on any page."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

import thalweg as tw
from study_samples import finals, results, study
from thalweg.study.judge import judge
from thalweg.study.notebook import ROWS, shades
from thalweg.study.outlets import Outlets
from thalweg.study.report.curves import curves as drawn_curves
from thalweg.study.store import Store
from thalweg.study.svg import PALETTE, scales, svg, ticks


def curves(r, verdict):
    return drawn_curves(r, verdict, {label: k for k, label in enumerate(r.optimizers)})


class Shown(Outlets):
    """A study of the given results."""

    def __init__(self, found):
        self.found, self.folder = found, None

    def results(self):
        return self.found


def unfinished():
    whole = study(["adam", "sgd"], trials=8, planned={"tune": 16, "final": 10})
    return dataclasses.replace(whole, runs=whole.runs[whole.runs["phase"] == "tune"].iloc[:9])


SAMPLES = {
    "finished": lambda: study(final_diverged=["sgd"]),
    "unfinished": unfinished,
    "sweep": lambda: study(["adam", "sgd"], kind="sweep", seeds=2),
    "a loss": lambda: finals({"adam": [0.1, 0.2], "sgd": [0.3, math.nan]}, score="loss", metrics=("loss",)),
    "all diverged": lambda: study(["adam"], all_diverged=True),
    "users' text": lambda: finals({"<b>&|": [0.9, 0.91], "a_b`*": [0.8, 0.82]}, name="<i>*x*"),
    "nothing": lambda: results([]),
}
NAME = "{http://www.w3.org/2000/svg}"


def parsed(text):
    """The HTML as a tree: it is well formed, and holds nothing that loads, runs, styles other things or is named."""
    tree = ET.fromstring(text)
    for element in tree.iter():
        tag = element.tag.removeprefix(NAME)
        assert tag in {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "span", "svg", "path", "text"}
        assert not {"id", "class", "href", "src"} & set(element.attrib)
        assert not any(name.startswith("on") for name in element.attrib)
        assert "url(" not in element.get("style", "")
    assert re.sub(r'xmlns="http://www.w3.org/2000/svg"', "", text).count("http") == 0
    return tree


def rows(tree):
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]


def sweep(count=3, steps=60):
    X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    configs = [{"lr": float(lr)} for lr in np.logspace(-3, 1, count)]
    data = (X, X.sum(1, keepdim=True))
    return tw.sweep(
        torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data, optimizer="sgd", configs=configs, steps=steps, engine="fleet"
    )


# --- studies


@pytest.mark.parametrize("name", SAMPLES)
def test_a_study_shows_what_it_says(name):
    r = SAMPLES[name]()
    tree, verdict = parsed(Shown(r)._repr_html_()), judge(r)
    assert verdict.headline in "".join(tree.find("p").itertext())
    assert f"{len(r.runs)} of " in "".join(tree.find("p").itertext())
    shown = rows(tree)
    assert [row[0] for row in shown[1:]] == verdict.standings["optimizer"].tolist()
    assert {len(row) for row in shown} == {len(shown[0])}
    keys = {made["key"] for made in curves(r, verdict)} & {f"valid:{r.score}", "loss"}
    assert len(tree.findall(f".//div/{NAME}svg")) == len(keys)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_study_is_a_line_of_text_and_a_table_in_markdown(name):
    r = SAMPLES[name]()
    verdict = judge(r)
    assert "\n" not in repr(Shown(r))
    assert verdict.headline in repr(Shown(r))
    head, _, table = Shown(r)._repr_markdown_().partition("\n\n")
    assert "\n" not in head
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert [re.sub(r"\\(.)", r"\1", line[0]).strip() for line in lines[2:]] == verdict.standings["optimizer"].tolist()


def test_users_text_stays_text():
    shown = Shown(SAMPLES["users' text"]())
    assert "<b>" not in shown._repr_html_()
    assert "<i>" not in shown._repr_html_()
    assert r"\<b\>&\|" in shown._repr_markdown_()


def test_each_row_has_the_colour_of_its_curve():
    tree = parsed(Shown(study(["adam", "sgd", "momentum"]))._repr_html_())
    marks = {"".join(row[0].itertext()): re.search(r"#\w{6}", row.find(".//span").get("style"))[0] for row in tree.findall(".//tbody/tr")}
    assert len(set(marks.values())) == 3
    drawn = tree.findall(f".//{NAME}svg/{NAME}svg/{NAME}path")
    assert {p.get("stroke") for p in drawn} - {"none"} == set(marks.values())


def test_showing_never_fails(tmp_path):
    unplanned = tw.Study(Store("sqlite://"))
    assert "stopped before it was planned" in repr(unplanned)
    assert "stopped before it was planned" in parsed(unplanned._repr_html_()).text
    gone = tw.compare("diabetes-linear", ["sgd"], budget=1, seeds=1, steps=2, engine="solo", out=tmp_path / "study")
    gone.close()
    assert repr(gone).startswith("<Study diabetes-linear, 2 of 2 runs done: ")
    (tmp_path / "study" / "study.db").unlink()
    assert repr(gone).startswith("<Study: ")
    parsed(gone._repr_html_())


# --- sweeps


def test_a_sweep_shows_its_table_and_its_curves():
    runs = sweep(3)
    tree = parsed(runs._repr_html_())
    assert rows(tree)[0] == list(runs.table().columns)
    assert [row[0] for row in rows(tree)[1:]] == ["1e-3", "0.1", "10"]
    assert [row[-1] for row in rows(tree)[1:]] == ["–", "–", str(runs.diverged_at[2])]
    drawn = tree.findall(f".//{NAME}svg/{NAME}svg/{NAME}path")
    assert [p.get("stroke") for p in drawn] == list(PALETTE[:3])
    assert [p.get("stroke-dasharray") is not None for p in drawn] == [False, False, True]  # dashed: it diverged
    assert "3 configurations, 60 updates, engine fleet, 1 diverged" in "".join(tree.find("p").itertext())


def test_a_large_sweep_is_short_and_has_a_colour_a_configuration():
    runs = sweep(64, 20)
    tree = parsed(runs._repr_html_())
    assert len(rows(tree)) == ROWS + 1
    assert "64 configurations (below: the first and the last 10)" in "".join(tree.find("p").itertext())
    assert len({p.get("stroke") for p in tree.findall(f".//{NAME}svg/{NAME}svg/{NAME}path")}) == 64
    assert len(repr(runs).splitlines()) == ROWS + 2
    assert len(runs._repr_markdown_().splitlines()) == ROWS + 4
    assert len(runs._repr_html_()) < 100_000


def test_a_sweep_of_no_steps_and_one_of_which_all_diverge_are_shown():
    assert "0 updates" in parsed(sweep(2, 0)._repr_html_()).find("p").text
    runs = sweep(3)
    dead = dataclasses.replace(runs, diverged_at=np.array([1, 1, 1]))
    assert len(parsed(dead._repr_html_()).findall(f".//{NAME}svg/{NAME}svg/{NAME}path")) == 3


# --- colours and curves


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("colour", [*PALETTE, *shades(64)])
@pytest.mark.parametrize("page", ["#ffffff", "#111111", "#1e1e1e"])
def test_lines_are_seen_on_light_and_on_dark_pages(colour, page):
    high, low = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3


def test_text_takes_the_colour_of_the_page():
    tree = ET.fromstring(svg(curves(*(lambda r: (r, judge(r)))(study(["adam"])))[0]))
    assert tree.get("fill") == "currentColor"
    assert all(text.get("fill") is None for text in tree.iter(f"{NAME}text"))


def drawing(x, y, ranges, log=False):
    trace = {"x": x, "y": y, "meta": {"series": 0, "role": "line"}, "line": {}}
    found = {"title": "t", "data": [trace], "ranges": ranges, "log": log, "layout": {"xaxis": {"title": {"text": "Updates"}}}}
    tree = ET.fromstring(svg(found))
    inner = tree.find(f"{NAME}svg")
    drawn = inner.find(f"{NAME}path")
    points = [] if drawn is None else [(pen, float(a), float(b)) for pen, a, b in re.findall(r"([ML])(\S+?) ([-\d.]+)", drawn.get("d"))]
    return points, float(inner.get("width")), float(inner.get("height"))


def test_points_stand_where_their_numbers_say():
    points, wide, high = drawing([0, 5, 10], [0.0, 1.0, 0.25], {"linear": [0, 1], "log": None})
    assert points == [("M", 0, high), ("L", wide / 2, 0), ("L", wide, 0.75 * high)]
    points, wide, high = drawing([0, 10], [1e-3, 10.0], {"linear": [0, 1], "log": [-3, 1]}, log=True)
    assert points == [("M", 0, high), ("L", wide, 0)]


def test_what_is_no_number_is_a_gap_and_what_is_huge_stays_near():
    points, _, high = drawing([0, 1, 2, 3, 4], [0.5, None, 0.5, math.inf, 1e300], {"linear": [0, 1], "log": None})
    assert [pen for pen, *_ in points] == ["M", "M", "M"]
    assert abs(points[2][2]) < 20 * high
    assert drawing([0, 1], [0.0, -1.0], {"linear": [0, 1], "log": [0, 1]}, log=True)[0] == []


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (0.955, 0.985, False), (-3e6, 4e6, False), (-12.3, 2, True), (-0.2, 0.3, True)]
)
def test_ticks_are_few_round_and_inside(low, high, log):
    found = ticks(low, high, log)
    assert 2 <= len(found) <= 6
    assert all(-1e-6 <= at <= 1 + 1e-6 for at, _ in found)
    assert len({text for _, text in found}) == len(found)
    for at, text in found:
        value = low + at * (high - low)
        assert float(text) == pytest.approx(10**value if log else value, rel=1e-5, abs=1e-6 * (high - low))


def test_a_figure_of_nothing_has_scales():
    assert scales({"data": [], "log": False, "ranges": {"linear": None, "log": None}}) == ((0.0, 1.0, False), (0.0, 1.0, False))
