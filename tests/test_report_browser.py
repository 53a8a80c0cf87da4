"""The report in a browser: every control is used by pointer or key, and nothing leaves the page."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import chromium
from held import until
from report_samples import SAMPLES
from study_samples import finals, measured, study
from thalweg.study.report import write, write_beside

DRAWN = "document.documentElement.dataset.drawn === 'yes'"

pytestmark = pytest.mark.skipif(chromium.executable() is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def tab() -> Iterator[chromium.Page]:
    """One browser for this file; a test opens its own page in it."""
    with chromium.page() as page:
        yield page


@pytest.fixture
def show(tab, tmp_path):
    """Opens a page, figures drawn, and afterwards checks that nothing went wrong in it."""
    tab.errors.clear()
    tab.requests.clear()

    def call(path: Path, width: int = 1280, dark: bool = False) -> chromium.Page:
        tab.open(path, width, dark=dark)
        tab.wait(f"{DRAWN} || !document.querySelector('[data-figure]')")
        return tab

    yield call
    assert tab.errors == []
    assert all(url.startswith(("data:", "blob:", "file:")) for url in tab.requests)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A page with every figure and slot."""
    r = SAMPLES["finished"]()
    return write(r, tmp_path_factory.mktemp("finished") / "report.html", measured(r))


def choose(tab, figure, index):
    tab.run(f"(() => {{ const s = document.querySelector('[data-figure={figure}] .measure'); s.value = {index}; "
            "s.dispatchEvent(new Event('change')) })()")  # fmt: skip


def test_at_every_width_in_both_themes(show, finished):
    for width, dark in ((1280, False), (1000, True), (400, False), (400, True)):
        tab = show(finished, width, dark)
        assert tab.run("document.querySelectorAll('.plot svg.main-svg').length") >= 6
        assert tab.run("document.documentElement.scrollWidth") <= width  # nothing is cut off
        assert tab.run("getComputedStyle(document.body).backgroundColor") == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    font = "getComputedStyle(document.querySelector('#plot-curves .xtitle')).fill"
    assert tab.run(font) == "rgb(232, 235, 238)"
    tab.theme(False)
    tab.wait(f"{font} === 'rgb(27, 31, 36)'")  # the figures follow the theme


def test_every_curve_on_every_scale(show, finished):
    tab = show(finished)
    options = tab.run("[...document.querySelectorAll('[data-figure=curves] .measure option')].map(o => o.textContent)")
    assert options == [
        "Training loss (of the batch)", "Validation accuracy", "Validation loss", "Gradient norm (of the batch)", "Learning rate",
        "Every tuning trial: validation accuracy", "Every tuning trial: training loss",
    ]  # fmt: skip
    axis = "document.querySelector('#plot-curves')._fullLayout"
    for index, title in enumerate(options):
        choose(tab, "curves", index)
        before = tab.run(f"{axis}.yaxis.type")
        if not tab.run("document.querySelector('[data-figure=curves] .log').disabled"):
            tab.click("[data-figure=curves] .log")
            assert {before, tab.run(f"{axis}.yaxis.type")} == {"linear", "log"}, title
        assert tab.run("document.querySelectorAll('#plot-curves .scatterlayer path.js-line').length") > 0
    tab.click("[data-figure=curves] .log-x")
    assert tab.run(f"{axis}.xaxis.type") == "log"
    titles = tab.run("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert not [t for t in titles if re.search("share|cloud|edit|logo", t, re.IGNORECASE)]


def test_hover_and_zoom_by_pointer_and_key(show, finished):
    tab = show(finished)
    inside = "#plot-curves .nsewdrag"
    tab.mouse("Moved", tab.point(inside, 0.3, 0.3))
    tab.mouse("Moved", tab.point(inside, 0.6, 0.8))
    tab.wait("document.querySelector('#plot-curves .hoverlayer .hovertext')")
    assert re.search(r"mean of 5|diverged", tab.run("document.querySelector('#plot-curves .hovertext').textContent"))
    ends = "document.querySelector('#plot-curves')._fullLayout.xaxis.range"
    whole = tab.run(ends)
    tab.drag(tab.point(inside, 0.25, 0.3), tab.point(inside, 0.5, 0.7))
    tab.wait(f"{ends}[1] < {whole[1] * 0.6}")
    tab.run("document.querySelector('#plot-curves').focus()")
    tab.key("0")
    tab.wait(f"{ends}[1] > {whole[1] * 0.9}")
    tab.key("+")
    tab.wait(f"{ends}[1] < {whole[1] * 0.95}")


def test_the_legend_by_pointer_and_key(show, finished):
    tab = show(finished)
    lines = "document.querySelectorAll('#plot-curves .scatterlayer .trace').length"
    every = tab.run(lines)
    chip = '.legend [data-series="1"]'
    pressed = "[...document.querySelectorAll('.legend [aria-pressed=true]')].map(c => Number(c.dataset.series))"
    tab.click(chip)
    assert tab.run(pressed) == [0, 2, 3, 4, 5]
    tab.wait(f"{lines} < {every}")
    tab.click(chip, count=2)  # alone
    assert tab.run(pressed) == [1]
    assert tab.run("document.querySelector('#plot-sensitivity').data.filter(t => t.visible).map(t => t.meta.series)") == [1] * 5
    tab.click(".legend .all")
    tab.wait(f"{lines} === {every}")
    tab.run("document.querySelector('.legend [data-series=\"2\"]').focus()")
    tab.key("Enter", shift=True)
    assert tab.run(pressed) == [2]
    tab.key("Tab")  # from a name to the next one
    tab.key("Enter")
    assert tab.run(pressed) == [2, 3]


def test_every_control_is_reached_by_tab_and_seen(show, finished):
    tab = show(finished)
    tab.run("document.querySelector('nav a').focus()")
    reached = []
    while len(reached) < 200:
        tab.key("Tab")
        if tab.run("document.activeElement === document.body"):  # past the last one
            break
        name = tab.run("(e => e.closest('[data-figure]')?.dataset.figure + ':' + (e.dataset.save || e.id || e.className || e.tagName))"
                       "(document.activeElement)")  # fmt: skip
        outline = tab.run("getComputedStyle(document.activeElement).outlineStyle + ' ' + document.activeElement.matches(':focus-visible')")
        assert outline in ("solid true", "auto true"), name
        reached.append(name)
    for figure in ("curves", "sensitivity", "parallel", "cost", "defaults", "profile"):
        assert {f"{figure}:svg", f"{figure}:png", f"{figure}:plot-{figure}"} <= set(reached)
    assert {"curves:measure", "curves:log", "curves:log-x", "undefined:filter"} <= set(reached)


def test_sort_and_filter(show, finished):
    tab = show(finished)
    names = tab.run("[...document.querySelectorAll('#all-runs th')].map(h => h.textContent)")
    column = names.index("valid accuracy")
    values = f"[...document.querySelectorAll('#all-runs tbody tr')].map(r => r.cells[{column}].dataset.v)"
    head = f"document.querySelectorAll('#all-runs th button')[{column}]"
    tab.run(f"{head}.focus()")
    for direction in ("ascending", "descending"):
        tab.key("Enter")
        assert tab.run(f"{head}.parentElement.getAttribute('aria-sort')") == direction
        shown = tab.run(values)
        known = [float(v) for v in shown if v is not None]
        assert known == sorted(known, reverse=direction == "descending")
        assert all(v is None for v in shown[len(known) :])  # without a value: last
    tab.click("#filter")
    for letter in "ADAM tune":
        tab.key(letter)
    assert tab.run("document.querySelectorAll('#all-runs tbody tr:not([hidden])').length") == 16
    assert tab.run("document.querySelector('#count').textContent") == "16 of 126 runs"
    tab.click("#all-runs th:nth-child(2) button")
    assert tab.run("document.querySelector('#all-runs th:nth-child(2)').getAttribute('aria-sort')") == "ascending"


def test_parallel_coordinates_narrow_and_turn(show, tmp_path):
    path = write(SAMPLES["mixed"](), tmp_path / "report.html")
    tab = show(path)
    plot = "document.querySelector('#plot-parallel')"
    count = f"new Set({plot}.data.filter(t => t.hovertemplate).flatMap(t => t.customdata)).size"
    assert tab.run(count) == 48
    layout = f"{plot}._fullLayout"
    place = f"((b, s) => [b.x + s.l, b.y + s.t, s.w, s.h])({plot}.getBoundingClientRect(), {layout}._size)"
    tab.point("#plot-parallel")
    x, y, width, height = tab.run(place)
    last = x + width * (6 + 0.12) / 6.24  # the axis of the score
    tab.drag((last - 12, y + 2), (last + 8, y + height * 0.4))
    tab.wait(f"{count} < 40")
    kept = tab.run(count)
    assert kept > 0
    tab.click("[data-figure=parallel] .keep")
    tab.wait(f"{count} === 48")
    tab = show(path, 400)
    heads = tab.run(f"{layout}.annotations.filter(a => a.text.startsWith('<b>')).map(a => a.y)")
    assert heads == [0, 1, 2, 3, 4, 5, 6]  # one below the other
    assert tab.run("document.documentElement.scrollWidth") <= 400
    assert tab.run(f"{plot}.clientHeight") > 500


def saved(folder: Path, name: str) -> bytes:
    """The file that the browser saved, once it is whole."""
    assert until((folder / name).is_file), list(folder.iterdir())
    return (folder / name).read_bytes()


def test_every_figure_is_saved_as_svg_and_png(show, finished, tmp_path):
    tab = show(finished, dark=True)
    tab.downloads(tmp_path)
    names = {"curves": "curves-loss", **{n: n for n in ("sensitivity", "parallel", "cost", "defaults", "profile")}}
    for figure, name in names.items():
        tab.click(f"[data-figure={figure}] [data-save=svg]")
        picture = ElementTree.fromstring(saved(tmp_path, f"{name}.svg"))
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        words = "".join(picture.itertext())
        for label in ("adam", "sgd"):  # on its own it needs its legend
            assert label in words, figure
        assert "fill: rgb(255, 255, 255)" in (tmp_path / f"{name}.svg").read_text()  # on white, in the dark theme too
        tab.click(f"[data-figure={figure}] [data-save=png]")
        pixels = saved(tmp_path, f"{name}.png")
        assert pixels.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", pixels[16:24])
        assert width == 2000
        assert height >= 400
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"


def test_print_is_light_without_controls_and_cuts_nothing(show, finished):
    tab = show(finished, dark=True)
    tab.theme(True, "print")
    try:
        tab.run("dispatchEvent(new Event('beforeprint'))")
        assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        seen = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"
        for gone in (".controls", ".modebar-container", "nav", "#runs", ".hint"):
            assert tab.run(seen.format(gone)) == 0, gone
        assert tab.run(seen.format(".plot")) == 6
        width = tab.run("document.body.clientWidth")
        assert 640 < width < 700  # of A4 and Letter
        ends = tab.run("[...document.querySelectorAll('.plot svg.main-svg, table.cards')].map(e => e.getBoundingClientRect().right)")
        assert max(ends) <= width + 1
        assert tab.run("getComputedStyle(document.querySelector('#plot-curves .xtitle')).fill") == "rgb(27, 31, 36)"
        tab.run("dispatchEvent(new Event('afterprint'))")
    finally:
        tab.theme(False)
    assert tab.pdf().startswith(b"%PDF")


def test_a_zoom_stays_until_all_is_asked_for(show, finished):
    tab = show(finished)
    plot = "document.querySelector('#plot-sensitivity')"
    axes = f"[{plot}._fullLayout.xaxis.range, {plot}._fullLayout.yaxis.range]"
    whole = tab.run(axes)
    tab.run(f"{plot}.focus()")
    tab.key("+")
    tab.wait(f"{plot}._fullLayout.xaxis.range[0] > {whole[0][0]} + 0.1")
    near = tab.run(axes)
    tab.click('.legend [data-series="1"]')
    tab.wait(f"{plot}.data.some(t => t.visible === false)")
    assert tab.run(axes) == near
    tab.click(".legend .all")
    tab.run(f"{plot}.focus()")
    tab.key("0")
    tab.wait(f"Math.abs({plot}._fullLayout.xaxis.range[0] - {whole[0][0]}) < 1e-6")
    assert tab.run(axes) == whole


def test_several_studies_move_together(show, tmp_path):
    studies = {name: study(["adam", label], name=name, trials=4) for name, label in (("one", "sgd"), ("two", "lion"))}
    studies["three"] = finals({"adam": [0.9, 0.91], "sgd": [0.8, 0.82]}, name="three")
    path = write_beside(studies, tmp_path / "both.html")
    tab = show(path)
    axis = "document.querySelector('#plot-curves{}')._fullLayout.xaxis.range"
    first, second = axis.format(""), axis.format("-2")
    whole = tab.run(second)
    tab.drag(tab.point("#plot-curves .nsewdrag", 0.25, 0.3), tab.point("#plot-curves .nsewdrag", 0.5, 0.7))
    tab.wait(f"{first}[1] < {whole[1] * 0.7} && {second}[1] < {whole[1] * 0.7}")
    tab.downloads(tmp_path)
    tab.click("[data-figure=curves] [data-save=svg]")
    words = "".join(ElementTree.fromstring(saved(tmp_path, "curves-loss.svg")).itertext())
    assert "one" in words
    assert "two" in words
    assert tab.run("[...document.querySelectorAll('[data-figure=sensitivity] h3')].map(h => h.textContent)") == ["one", "two", "three"]
    tab = show(path, 400)
    assert tab.run("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"finished"}))
def test_other_states_in_a_browser(show, tmp_path, name):
    tab = show(write(SAMPLES[name](), tmp_path / "report.html"), 400)
    assert tab.run("document.documentElement.scrollWidth") <= 400
    figures = tab.run("[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.scatterlayer .trace').length)")
    assert all(figures)  # every figure holds something
    assert bool(figures) == (name != "nothing")


def test_screenshots(tmp_path):
    path = write(finals({"adam": [0.9, 0.91]}), tmp_path / "report.html")
    chromium.screenshot(path, tmp_path / "shot.png", width=400, dark=True, ready=DRAWN)
    assert (tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
