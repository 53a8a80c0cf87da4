"""The docs: every entry of every shelf stands in them, and the README's Python runs as it is written."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from thalweg.cli import commands
from thalweg.core import catalogue

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from build import build
    finally:
        sys.path.pop(0)
    return {path.stem: path.read_text(encoding="utf-8") for path in build(tmp_path_factory.mktemp("docs"))}


@pytest.mark.parametrize("shelf", catalogue.SHELVES)
def test_every_entry_is_documented_with_its_code(site, shelf):
    for name, entry in catalogue.shelf(shelf).items():
        assert f"<h2>{name}</h2>" in site[shelf]
        assert (entry.doc or "").strip(), f"{shelf}/{name} says nothing of itself"
    assert site[shelf].count("<pre>") == len(catalogue.shelf(shelf))


def test_links_between_pages_lead_somewhere(site):
    for name, text in site.items():
        for target in re.findall(r'href="([^":]+)\.html"', text):
            assert target in site, f"{name} links to {target}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_the_readmes_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    if "report.html" in block:
        assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize("page", ["minimize", "probes", "trace", "train"])
def test_the_code_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    known = {"__name__": page}
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", text, re.M | re.S)
    assert blocks
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, f"{page}.md", "exec"), known)
            continue
        for line in block.splitlines():
            name, *arguments = shlex.split(line)
            assert name == "thalweg"
            done = CliRunner().invoke(commands, arguments, catch_exceptions=False)
            assert done.exit_code == 0, done.output


def test_the_readmes_rule_trains_from_a_file(tmp_path):
    import thalweg as tw

    block = next(block for block in BLOCKS if "@rule" in block)
    (tmp_path / "mine.py").write_text(block)
    study = tw.compare("diabetes-linear", [f"{tmp_path / 'mine.py'}:lion", "sgd"], budget=2, seeds=2, epochs=1, engine="fleet")
    assert study.verdict.leader in ("lion", "sgd")
