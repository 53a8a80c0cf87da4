"""The walk-through: its blocks run as they are written, from the top to the bottom, in an empty folder, with fewer epochs."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thalweg as tw
from thalweg.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
BLOCKS = [(what.split(), block) for what, block in re.findall(r"^```(\S[^\n]*)\n(.*?)^```", TEXT, re.M | re.S)]
SHORTER = {"epochs=20": "epochs=1", "--epochs 20": "--epochs 1", "steps=200": "steps=20", "1e-3..1*9": "1e-3..1*3"}


def shorter(block: str) -> str:
    for long, short in SHORTER.items():
        block = block.replace(long, short)
    return block


def shell(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a line of shell says: a call of thalweg, perhaps with its output sent to a file. In this process: most of a call is imports."""
    words = shlex.split(line)
    assert words[0] == "thalweg", line
    assert not {"|", "&&", ";", "<", "&"} & set(words), line
    target = None
    if ">" in words:
        words, (target,) = words[: words.index(">")], words[words.index(">") + 1 :]
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(out):
        main()
    assert ended.value.code == 0, line
    said = out.buffer.getvalue()
    if target:
        Path(target).write_bytes(said)
    return said.decode()


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """The folder in which all blocks have been run, and what they said."""
    folder = tmp_path_factory.mktemp("walk")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        for what, block in BLOCKS:
            if len(what) > 1 and what[0] == "python":  # a file
                (folder / what[1]).write_text(shorter(block))
            elif len(what) > 1 and importlib.util.find_spec(what[1]) is None:
                pass  # it needs a package that is not here
            elif what[0] == "python":
                with contextlib.redirect_stdout(said):
                    exec(compile(shorter(block), "walkthrough.md", "exec"), {"__name__": "walkthrough"})
            else:
                for line in shorter(block).splitlines():
                    said.write(shell(line, monkeypatch))
        monkeypatch.delitem(sys.modules, "own_model", raising=False)
        yield folder, said.getvalue()


def test_every_block_is_of_a_kind_that_is_run():
    assert {what[0] for what, _ in BLOCKS} == {"sh", "python"}
    assert len(BLOCKS) >= 8
    assert TEXT.count("```") == 2 * len(BLOCKS)
    for long in SHORTER:  # else nothing would be shortened
        assert any(long in block for _, block in BLOCKS), long


def test_the_file_is_the_example():
    (shown,) = (block for what, block in BLOCKS if what == ["python", "own_model.py"])
    example = ast.parse((ROOT / "examples" / "own_model.py").read_text(encoding="utf-8"))
    assert ast.dump(ast.Module(example.body[1:], [])) == ast.dump(ast.parse(shown)), "own_model.py differs from the one in examples/"


def test_the_studies_are_finished(walked):
    folder, said = walked
    for name in ("spirals", "spirals-momentum", "spirals-adam"):
        study = tw.Study.open(folder / "outputs" / name)
        assert not study.verdict.unfinished
        assert (folder / "outputs" / name / "report.html").stat().st_size > 100_000
    assert said.count(tw.Study.open("outputs/spirals").verdict.headline) == 3  # compare, show, Python
    assert "4 configurations, 20 updates" in said


def test_the_exports_are_there(walked):
    folder, _ = walked
    study = tw.Study.open(folder / "outputs" / "spirals")
    assert (folder / "runs.csv").read_text() == study.export("csv")
    assert (folder / "standings.json").read_text() == study.export("json", table="standings")
    assert (folder / "standings.tex").read_text() == study.export("latex")
    assert (folder / "curves.parquet").read_bytes()[:4] == b"PAR1"
    assert (folder / "spirals.html").stat().st_size > 100_000


@pytest.mark.parametrize(("package", "name"), [("optuna", "trials.db"), ("tensorboardX", "events/final/adam")])
def test_the_exports_that_need_a_package_are_there(walked, package, name):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    folder, _ = walked
    assert (folder / name).exists()


def test_every_option_that_is_named_exists():
    from thalweg.cli import commands

    known = {option for command in commands.commands.values() for parameter in command.params for option in parameter.opts}
    named = {option for what, block in BLOCKS if what[0] == "sh" for option in re.findall(r"(?<!\S)--[a-z-]+", block)}
    assert named - {"--lr", "--momentum"} <= known  # those two are sgd's own
    assert set(re.findall(r"`(--[a-z]+)", TEXT)) <= known
