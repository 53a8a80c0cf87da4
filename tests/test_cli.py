"""The command line: every command end to end, and every mistake in one sentence."""

import io
import json
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
import torch
from click.testing import CliRunner

import thalweg as tw
from thalweg.cli import commands, main
from thalweg.core.catalogue import SHELVES

TINY = ("--steps", "20", "--budget", "2", "--seeds", "2", "-o", "sgd", "-o", "adam", "--engine", "fleet")
NAMES = ("compare", "sweep", "train", "diagnose", "minimize", "trace", "gradcheck", "list", "status", "show", "report", "export")


@dataclass(frozen=True)
class Ended:
    """How a call of the command ended."""

    code: int
    raw: bytes
    errors: str

    @property
    def output(self) -> str:
        return self.raw.decode()


Thalweg = Callable[..., Ended]


@pytest.fixture
def thalweg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Thalweg:
    """Calls the entry point in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["thalweg", *map(str, arguments)])
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = capsysbinary.readouterr()
        return Ended(int(ended.value.code or 0), output, errors.decode())

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    result = CliRunner().invoke(commands, ["compare", "diabetes-linear", *TINY, "--out", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, in the folder where commands are called."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sentence(ended: Ended) -> str:
    """The one sentence on standard error of a call that found a mistake; click writes how to call the command above it."""
    lines = ended.errors.strip().splitlines()
    if lines[0].startswith("Usage:"):
        lines = [line for line in lines if not line.startswith(("Usage:", "Try '")) and line]
    assert len(lines) == 1, ended.errors
    assert lines[0].startswith(("thalweg: ", "Error: "))
    assert "Traceback" not in ended.errors
    assert ended.raw == b""
    assert ended.code == 2
    return lines[0]


# --- help


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(commands, [name, "--help"])
    assert result.exit_code == 0
    assert f"\n  thalweg {name} " in result.output


def test_every_command_is_tested_here() -> None:
    assert set(commands.commands) == set(NAMES)


def test_help_names_the_main_job(thalweg: Thalweg) -> None:
    ended = thalweg("--help")
    assert (ended.code, ended.errors) == (0, "")
    assert "thalweg compare digits-mlp" in ended.output
    assert all(name in ended.output for name in NAMES)


def test_version_is_that_of_the_package(thalweg: Thalweg) -> None:
    assert thalweg("--version").output == f"thalweg, version {tw.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["sweep", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["thalweg", *{arguments!r}]
from thalweg.cli import main
try:
    main()
finally:
    heavy = {{"torch", "pandas", "numpy", "scipy", "sqlalchemy", "pydantic", "rich", "joblib"}} & set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == "[]\n"
    assert ended.stdout


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["compar"], 2)])
def test_the_process_ends_with_the_code(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-c", "from thalweg.cli import main; main()", *arguments]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


# --- compare


def test_compare_says_which_to_choose(thalweg: Thalweg, tmp_path: Path) -> None:
    ended = thalweg("compare", "diabetes-linear", *TINY)
    folder = tmp_path / "outputs" / "diabetes-linear"
    assert ended.code == 0
    assert "test loss" in ended.output
    assert f"report: {folder.relative_to(tmp_path)}/report.html" in ended.output
    assert {"study.db", "study.toml", "report.html", "environment.json"} <= set(contents(folder))
    assert "tuning: 4/4 runs done" in ended.errors
    assert "final runs: 4/4 runs done" in ended.errors


def test_the_same_command_again_says_the_same(thalweg: Thalweg) -> None:
    first, second = (thalweg("compare", "diabetes-linear", *TINY, "--quiet") for _ in range(2))
    assert second.output == first.output


def test_quiet_shows_no_progress(thalweg: Thalweg) -> None:
    assert thalweg("compare", "diabetes-linear", *TINY, "--quiet").errors == ""


def test_compare_prints_json_alone(thalweg: Thalweg, study: Path) -> None:
    ended = thalweg("compare", "diabetes-linear", *TINY, "--out", study, "--json")
    found = json.loads(ended.output)
    verdict = tw.Study.open(study).verdict
    assert ended.errors == ""
    assert found["leader"] == verdict.leader
    assert found["headline"] == verdict.headline
    assert found["mean"] == pytest.approx(verdict.mean)
    assert [row["optimizer"] for row in found["standings"]] == verdict.standings["optimizer"].tolist()
    assert found["findings"] == verdict.findings.plain()
    assert Path(found["report"]).is_file()


def test_a_study_in_which_all_diverges_is_still_json(thalweg: Thalweg) -> None:
    ended = thalweg("compare", "diabetes-linear", *TINY[:6], "--engine", "fleet", "-o", "sgd[lr=1e7,1e8]", "--json")
    found = json.loads(ended.output, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert found["leader"] is None
    assert found["mean"] is None


def test_own_configurations_are_tried(thalweg: Thalweg) -> None:
    assert thalweg("compare", "diabetes-linear", *TINY, "--try", "adam[lr=0.07]", "--out", "s", "--quiet").code == 0
    table = tw.Study.open("s").table()
    assert table[(table["optimizer"] == "adam") & (table["trial"] == 1)]["lr"].iloc[0] == 0.07


def test_time_leaves_the_rest_to_the_next_call(thalweg: Thalweg) -> None:
    ended = thalweg("compare", "diabetes-linear", *TINY, "--time", "0s", "--out", "s", "--json")
    assert json.loads(ended.output)["unfinished"] is True
    assert json.loads(thalweg("compare", "diabetes-linear", *TINY, "--out", "s", "--json").output)["unfinished"] is False


def test_dry_run_tells_and_writes_nothing(thalweg: Thalweg, tmp_path: Path) -> None:
    ended = thalweg("compare", "diabetes-linear", *TINY, "--dry-run")
    assert ended.code == 0
    assert "runs: 4 tune, 4 final; each 20 steps of 32 rows" in ended.output
    assert "engine: fleet (tune), fleet (final), on " in ended.output
    assert list(tmp_path.iterdir()) == []


def test_several_problems_are_compared_one_after_the_other_and_side_by_side(thalweg: Thalweg, tmp_path: Path) -> None:
    ended = thalweg("compare", "diabetes-linear", "breast-cancer-logistic", *TINY, "--quiet")
    assert ended.code == 0
    for name in ("diabetes-linear", "breast-cancer-logistic"):
        assert (tmp_path / "outputs" / name / "report.html").is_file()
        assert f"\n{name}\n" in ended.output
    assert "2 studies: " in ended.output
    assert "Area under the performance profile" in ended.output
    assert "side by side: outputs/side-by-side.html" in ended.output
    page = (tmp_path / "outputs" / "side-by-side.html").read_text(encoding="utf-8")
    assert "Performance profile" in page
    found = json.loads(thalweg("compare", "diabetes-linear", "breast-cancer-logistic", *TINY, "--json").output)
    assert list(found["studies"]) == ["diabetes-linear", "breast-cancer-logistic"]
    assert set(found["profile"]["area"]) == {"sgd", "adam"}


def test_several_problems_share_the_time_and_go_on(thalweg: Thalweg, tmp_path: Path) -> None:
    few = (*TINY[:6], "-o", "sgd", "--engine", "fleet")
    asked = ("compare", "diabetes-linear", "breast-cancer-logistic", *few, "--quiet", "--time", "0s")
    ended = thalweg(*asked)
    assert "time is over before breast-cancer-logistic" in ended.errors
    assert not (tmp_path / "outputs" / "breast-cancer-logistic").exists()
    for _ in range(20):
        ended = thalweg(*asked)
        if "side by side" in ended.output and "unfinished" not in ended.output:
            break
    assert all(len(tw.Study.open(tmp_path / "outputs" / name).table()) == 4 for name in ("diabetes-linear", "breast-cancer-logistic"))


def test_a_problem_named_twice_is_refused(thalweg: Thalweg) -> None:
    ended = thalweg("compare", "diabetes-linear", "diabetes-linear", *TINY)
    assert ended.code == 2
    assert "diabetes-linear is named twice" in ended.errors


def test_dry_run_prints_json(thalweg: Thalweg, tmp_path: Path) -> None:
    found = json.loads(thalweg("compare", "diabetes-linear", *TINY[:-1], "auto", "--dry-run", "--json").output)
    assert found["runs"] == {"tune": 4, "final": 4}
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_ones_own(thalweg: Thalweg, tmp_path: Path) -> None:
    X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    frame = pd.DataFrame(X.numpy(), columns=["a", "b"]).assign(kind=["left" if x < 0 else "right" for x in X[:, 0]])
    frame.to_csv(tmp_path / "mine.csv", index=False)
    ended = thalweg("compare", "mine.csv", "--target", "kind", *TINY, "--json")
    assert ended.code == 0
    assert Path(json.loads(ended.output)["report"]) == Path("outputs/mine-mlp/report.html")


RULE = """
from thalweg.core import Rate, rule


@rule
def myrule(x, g, *, lr: Rate = 1e-2):
    return x - lr * g
"""

PROBLEM = """
import torch
import thalweg as tw


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)


X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
problem = tw.Problem(Net, torch.nn.functional.mse_loss, train=(X, X.sum(1, keepdim=True)), name="mine")
number = 3


def make():
    return problem


def broken():
    return 1 / 0
"""


@pytest.mark.parametrize("engine", ["fleet", "solo", "pool"])
def test_a_rule_of_ones_own(thalweg: Thalweg, tmp_path: Path, engine: str) -> None:
    (tmp_path / "mine.py").write_text(RULE + PROBLEM)
    ended = thalweg(
        "compare", "mine.py:make", "-o", "mine.py:myrule", "-o", "sgd", "--steps", 5, "--budget", 2, "--seeds", 1,
        "--engine", engine, "--json", "--out", "study",
    )  # fmt: skip
    assert ended.code == 0, ended.errors
    table = tw.Study.open("study").table()
    assert table.groupby(["phase", "optimizer"]).size().to_dict() == {
        ("tune", "myrule"): 2, ("tune", "sgd"): 2, ("final", "myrule"): 1, ("final", "sgd"): 1,
    }  # fmt: skip
    defaults = table[(table["phase"] == "tune") & (table["trial"] == 0)].set_index("optimizer")
    assert defaults["lr"].to_dict() == {"myrule": 1e-2, "sgd": 1e-3}


def test_a_single_run_in_the_pool_ends_well(tmp_path: Path) -> None:
    """In a process of its own: what ends it might end the tests."""
    command = [sys.executable, "-c", "from thalweg.cli import main; main()", "compare", "diabetes-linear", "--steps", "200"]
    more = ["-o", "sgd", "--budget", "1", "--seeds", "1", "--engine", "pool", "--out", str(tmp_path), "--quiet"]
    ended = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(tw.Study.open(tmp_path).table()) == 2


# --- sweep


def test_sweep_trains_every_combination(thalweg: Thalweg) -> None:
    ended = thalweg(
        "sweep", "breast-cancer-logistic", "-o", "sgd", "--lr", "0.001,0.1,30", "--momentum=0,0.9", "--full-batch", "--steps", 10,
        "--engine", "fleet", "--json", "--out", "s",
    )  # fmt: skip
    assert ended.code == 0, ended.errors
    table = tw.Study.open("s").table()
    assert set(zip(table["lr"], table["momentum"], strict=True)) == {(lr, m) for lr in (0.001, 0.1, 30) for m in (0, 0.9)}
    assert len(table) == 6
    spec = tw.Study.open("s").results().spec
    assert spec["batch_size"] == tw.Study.open("s").results().counts["train"]


def test_sweep_spaces_values_evenly_in_logarithm(thalweg: Thalweg) -> None:
    assert thalweg("sweep", "diabetes-linear", "-o", "adam", "--lr", "1e-3..1*4", "--steps", 5, "--engine", "fleet", "--out", "s").code == 0
    assert tw.Study.open("s").table()["lr"].tolist() == pytest.approx([1e-3, 1e-2, 1e-1, 1])


def test_sweep_repeats_on_seeds(thalweg: Thalweg) -> None:
    call = ("sweep", "diabetes-linear", "-o", "sgd", "--lr", "0.1,1", "--seeds", 3, "--steps", 5, "--engine", "fleet", "--out", "s")
    assert thalweg(*call).code == 0
    assert tw.Study.open("s").table()["seed"].tolist() == [0, 1, 2] * 2


def test_a_sweep_is_repeated_from_its_toml(thalweg: Thalweg) -> None:
    call = ("diabetes-linear", "-o", "sgd", "--lr", "0.1,1", "--seeds", 3, "--steps", 5, "--engine", "fleet", "--out", "s", "--quiet")
    first = thalweg("sweep", *call)
    assert thalweg("sweep", "s/study.toml", "--out", "s", "--quiet").output == first.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "sgd", "--momentun", "0.9"], "sgd has no 'momentun'; did you mean 'momentum'?"),
        (["-o", "sgd", "--lr"], "--lr needs a value"),
        (["-o", "sgd", "0.1"], "name one problem, not diabetes-linear, 0.1"),
        (["-o", "sgd", "--lr", "-1"], "lr = -1 is outside [0, inf)"),
        (["-o", "sgd", "--lr", ""], "has an empty value"),
        (["-o", "sgd", "--lr", "fast"], "lr = 'fast' must be a number"),
        (["-o", "sgd", "--lr", "1..0.1*3"], "needs 0 < low < high"),
        (["-o", "sgd", "--lr", "a..b*3"], "lr"),
        (["-o", "sgd", "--lr", "0.1..1"], "a sweep needs values for sgd's lr"),
        (["-o", "sgd"], "a sweep needs values for sgd's lr"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(thalweg: Thalweg, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in sentence(thalweg("sweep", "diabetes-linear", "--steps", 5, *arguments))
    assert list(tmp_path.iterdir()) == []


# --- list, show, status, report, export


@pytest.mark.parametrize("what", [*SHELVES, "problems"])
def test_list_shows_a_shelf(thalweg: Thalweg, what: str) -> None:
    plain, rows = thalweg("list", what), json.loads(thalweg("list", what, "--json").output)
    assert plain.code == 0
    assert len(rows) > 1
    assert all(row["name"] in plain.output for row in rows)


def test_list_tells_what_an_optimizer_takes(thalweg: Thalweg) -> None:
    rows = {row["name"]: row for row in json.loads(thalweg("list", "optimizers", "--json").output)}
    assert "lr=0.001" in rows["adam"]["takes"]
    assert rows["adam"]["searched"] == "lr 1e-05..1"


def test_list_alone_counts(thalweg: Thalweg) -> None:
    counts = {row["shelf"]: row["entries"] for row in json.loads(thalweg("list", "--json").output)}
    assert counts["optimizers"] == len(tw.optimizers.__all__)
    assert counts["studies"] == 0


def test_list_finds_studies_even_beside_spoilt_ones(thalweg: Thalweg, study: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "spoilt").mkdir(parents=True)
    (tmp_path / "outputs" / "spoilt" / "study.db").write_text("no database at all, but long enough to be looked at")
    study.rename(tmp_path / "outputs" / "good")
    rows = json.loads(thalweg("list", "studies", "--json").output)
    assert rows[0] == {"folder": "outputs/good", "kind": "compare", "runs": "8/8"}
    assert rows[1]["folder"] == "outputs/spoilt"


def test_show_says_what_compare_said(thalweg: Thalweg, study: Path) -> None:
    said = thalweg("compare", "diabetes-linear", *TINY, "--out", study, "--quiet").output
    shown = thalweg("show", study).output
    assert shown.strip() == said.partition("\nreport: ")[0].strip()
    assert json.loads(thalweg("show", study, "--json").output)["headline"] in shown


def test_status_counts_what_is_done(thalweg: Thalweg, study: Path) -> None:
    found = json.loads(thalweg("status", study, "--json").output)
    assert found["name"] == "diabetes-linear"
    assert [(row["phase"], row["planned"], row["done"]) for row in found["phases"]] == [("tune", 4, 4), ("final", 4, 4)]
    runs = tw.Study.open(study).table()
    diverged = runs[runs["status"] == "diverged"]
    assert [row["diverged"] for row in found["phases"]] == [(diverged["phase"] == phase).sum() for phase in ("tune", "final")]
    assert "final" in thalweg("status", study).output


@pytest.mark.parametrize("where", [None, "page.html"])
def test_report_is_written(thalweg: Thalweg, study: Path, where: str | None) -> None:
    page = Path(where) if where else study / "report.html"
    page.unlink(missing_ok=True)
    ended = thalweg("report", study, *(["--to", where] if where else []))
    assert ended.output == f"{page}\n"
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


@pytest.mark.parametrize("where", [None, "deep/both.html"])
def test_several_studies_are_reported_side_by_side(thalweg: Thalweg, study: Path, where: str | None) -> None:
    other = Path(shutil.copytree(study, study.parent / "other"))
    ended = thalweg("report", study, other, *(["--to", where] if where else []))
    page = Path(where or "side-by-side.html")
    assert ended.output == f"{page}\n"
    text = page.read_text()
    for folder in (study, other):  # both have one name, so the folders tell them apart
        assert f"<h3>{folder}</h3>" in text
    assert text.count(tw.Study.open(study).verdict.headline.split(";")[0]) >= 2
    assert (study / "report.html").read_bytes() == (other / "report.html").read_bytes()  # neither was touched


def test_a_study_named_twice_is_refused(thalweg: Thalweg, study: Path) -> None:
    assert "named twice" in sentence(thalweg("report", study, Path("study")))
    assert not Path("side-by-side.html").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_folders_the_one_without_a_study_is_named(thalweg: Thalweg, study: Path, order: int) -> None:
    Path("empty").mkdir()
    said = sentence(thalweg("report", *[study, Path("empty")][::order]))
    assert "empty holds no study" in said
    assert not Path("side-by-side.html").exists()


READERS = {"csv": pd.read_csv, "json": partial(pd.read_json, precise_float=True), "parquet": pd.read_parquet}


@pytest.mark.parametrize("kind", READERS)
def test_export_gives_the_whole_table(thalweg: Thalweg, study: Path, kind: str) -> None:
    ended = thalweg("export", study, "--format", kind)
    table = READERS[kind](io.BytesIO(ended.raw))
    assert (ended.code, ended.errors) == (0, "")
    pd.testing.assert_frame_equal(table, tw.Study.open(study).table(), check_exact=True)


@pytest.mark.parametrize("kind", READERS)
def test_export_to_a_file_is_what_is_printed(thalweg: Thalweg, study: Path, kind: str) -> None:
    printed = thalweg("export", study, "--format", kind).raw
    written = thalweg("export", study, "--format", kind, "--to", "table")
    assert (written.code, written.raw) == (0, b"")
    assert Path("table").read_bytes() == printed


@pytest.mark.parametrize(("name", "kind"), [("t.csv", "csv"), ("t.json", "json"), ("t.parquet", "parquet"), ("t.tex", "latex")])
def test_an_ending_stands_for_its_format(thalweg: Thalweg, study: Path, name: str, kind: str) -> None:
    assert thalweg("export", study, "--to", name).code == 0
    assert Path(name).read_bytes() == thalweg("export", study, "--format", kind).raw


def test_export_of_another_table(thalweg: Thalweg, study: Path) -> None:
    curves = pd.read_csv(io.BytesIO(thalweg("export", study, "--table", "curves").raw))
    assert set(curves["id"]) == set(tw.Study.open(study).table()["id"])
    ranked = json.loads(thalweg("export", study, "--table", "standings", "--format", "json").output)
    assert [row["optimizer"] for row in ranked] == tw.Study.open(study).verdict.standings["optimizer"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "optuna"], "an Optuna study needs a place"),
        (["--format", "tensorboard"], "event files need a folder"),
        (["--format", "latex", "--table", "runs"], "latex holds no table called 'runs'; it holds standings"),
        (["--format", "xls"], "'xls' is not one of"),
    ],
)
def test_an_export_that_cannot_be_is_refused(thalweg: Thalweg, study: Path, arguments: list[str], message: str) -> None:
    before = contents(study)
    assert message in sentence(thalweg("export", study, *arguments))
    assert contents(study) == before


def test_export_into_a_closed_pipe_is_silent(finished: Path) -> None:
    code = f"from thalweg.cli import main; import sys; sys.argv = ['thalweg', 'export', {str(finished)!r}]; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


@pytest.mark.parametrize("command", [["report"], ["export"], ["export", "--format", "parquet"]])
def test_a_place_that_cannot_be_written_is_refused(thalweg: Thalweg, study: Path, command: list[str]) -> None:
    Path("file").write_text("")
    name, *more = command
    assert "cannot be written" in sentence(thalweg(name, study, *more, "--to", "file/below"))


@pytest.mark.parametrize("command", ["show", "status", "report", "export"])
@pytest.mark.parametrize("state", ["missing", "empty", "garbage", "unplanned"])
def test_a_folder_without_a_study_is_refused(thalweg: Thalweg, tmp_path: Path, command: str, state: str) -> None:
    folder = tmp_path / "nothing"
    if state != "missing":
        folder.mkdir()
    if state == "garbage":
        (folder / "study.db").write_bytes(bytes(range(256)) * 16)
    if state == "unplanned":
        from thalweg.study.store import open_folder

        open_folder(folder, create=True).close()
    assert str(folder) in sentence(thalweg(command, folder))


# --- mistakes, each in a sentence, none of which touches the study in the folder

WORKING = ("compare", "diabetes-linear", *TINY)

MISTAKES = [
    (["compare", "diabetes-liner"], "did you mean 'diabetes-linear'?"),
    (["compare", "diabetes"], "diabetes is a data set; say with which model"),
    (["compare", "digits-linear"], "digits-linear"),
    (["compare", "nothing.csv", "--target", "y"], "there is no file nothing.csv"),
    (["compare", "nothing.py:problem"], "there is no file nothing.py"),
    (["compare", "nothing.toml"], "nothing.toml cannot be read"),
    (["compare"], "Missing argument 'PROBLEM...'"),
    (["compar", "diabetes-linear"], "did you mean 'compare'?"),
    (["list", "optimizer"], "did you mean 'optimizers'?"),
    ([*WORKING, "-o", "adm"], "did you mean 'adam'?"),
    ([*WORKING, "-o", "rmsprop[gama=0.9]"], "rmsprop has no 'gama'; did you mean 'gamma'?"),
    ([*WORKING, "-o", "rmsprop[lr=]"], "has an empty value"),
    ([*WORKING, "-o", "rmsprop[lr=0.1..0.1]"], "the range of rmsprop: lr is empty: 0.1..0.1"),
    ([*WORKING, "-o", "rmsprop[lr=1..0.1]"], "the range of rmsprop: lr is empty: 1..0.1; give the smaller end first"),
    ([*WORKING, "-o", "rmsprop[lr=-1..1]"], "is outside [0, inf)"),
    ([*WORKING, "-o", "rmsprop[lr=a..b*4]"], "a..b"),
    ([*WORKING, "-o", ""], "is not an optimizer"),
    ([*WORKING, "-o", "nothing.py:rule"], "there is no file nothing.py"),
    ([*WORKING, "--try", "yogi[lr=0.1]"], "names none of the optimizers compared: sgd, adam"),
    ([*WORKING, "--try", "adam[lr=-1]"], "lr to try = -1 is outside [0, inf)"),
    ([*WORKING, "--schedule", "cosin"], "did you mean 'cosine'?"),
    ([*WORKING, "--schedule", "cosine(flor=0.1)"], "did you mean 'floor'?"),
    ([*WORKING, "--budget", "0"], "budget = 0 must be at least 1"),
    ([*WORKING, "--budget", "few"], "'few' is not a valid integer"),
    ([*WORKING, "--seeds", "0"], "seeds = 0"),
    ([*WORKING, "--seed", "-1"], "seed = -1"),
    ([*WORKING, "--steps", "0"], "steps = 0 must be at least 1"),
    ([*WORKING, "--epochs", "1"], "give steps or epochs, not both"),
    (["compare", "diabetes-linear", "--epochs", "-1"], "epochs = -1.0 must be at least"),
    (["compare", "diabetes-linear", "--epochs", "inf"], "epochs = inf"),
    (["compare", "diabetes-linear", "--epochs", "nan"], "epochs = nan"),
    ([*WORKING, "--batch-size", "100000"], "batch_size = 100000 must be between 1 and the"),
    ([*WORKING, "--batch-size", "0"], "batch_size = 0 must be between 1 and the"),
    ([*WORKING, "--time", "soon"], "--time soon is not a duration; write 90s, 10m or 1h"),
    ([*WORKING, "--device", "abacus"], "abacus"),
    ([*WORKING, "--engine", "warp"], "'warp' is not one of"),
    ([*WORKING, "--target", "bmi"], "diabetes-linear knows its own target"),
    ([*WORKING, "--lr", "0.1"], "--lr"),
    ([*WORKING[:2], "--budget", "3", *WORKING[4:]], "holds another study (steps is 20 there"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "")
def test_a_mistake_is_one_sentence_and_loses_nothing(thalweg: Thalweg, study: Path, arguments: list[str], message: str) -> None:
    before = contents(study)
    more = ["--out", str(study)] if arguments[0] == "compare" else []
    assert message in sentence(thalweg(*arguments, *more))
    assert contents(study) == before


def test_a_database_of_another_version_is_refused(thalweg: Thalweg, study: Path) -> None:
    with closing(sqlite3.connect(study / "study.db")) as connection:
        connection.execute("UPDATE meta SET value = '0' WHERE key = 'schema'")
        connection.commit()
    before = contents(study)
    assert "another version of thalweg (database version 0, " in sentence(thalweg(*WORKING, "--out", study))
    assert contents(study) == before


def test_a_database_that_is_none_is_refused(thalweg: Thalweg, study: Path) -> None:
    (study / "study.db").write_bytes(b"this is a diary, not a database\n" * 100)
    before = contents(study)
    assert "study.db" in sentence(thalweg(*WORKING, "--out", study))
    assert contents(study) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused(thalweg: Thalweg, place: str) -> None:
    Path("file").write_text("precious")
    assert f"the output folder {place} cannot be written" in sentence(thalweg(*WORKING, "--out", place))
    assert Path("file").read_text() == "precious"


def write_rows(*rows: str) -> None:
    Path("data.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")


GOOD = [f"{i},{i * i % 7},{i % 3}" for i in range(30)]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([*GOOD[:4], "5,,1", *GOOD[5:]], [], "column 'b' has no value in row 5"),
        ([*GOOD[:4], "5,nan,1", *GOOD[5:]], [], "column 'b' has no value in row 5"),
        ([*GOOD[:4], "much,5,1", *GOOD[5:]], [], "column 'a' holds 'much' in row 5, not a number"),
        ([*GOOD[:4], "1e60,5,1", *GOOD[5:]], [], "column 'a' holds 1e+60 in row 5"),
        ([*GOOD[:4], "5,5,", *GOOD[5:]], [], "target 'y' has no value in row 5"),
        ([row[:-1] + f"name{i}" for i, row in enumerate(GOOD)], [], "target 'y' is text with 30 different values"),
        ([row[:-1] + "ab"[i % 2] for i, row in enumerate(GOOD)], ["--model", "linear"], "does not fit"),
        (GOOD, ["--target", "z"], "no column of data.csv is called 'z'"),
        (GOOD, ["--model", "lineer"], "did you mean 'linear'?"),
        (GOOD[:3], [], "has 3 rows below its header"),
    ],
)
def test_a_table_that_cannot_be_learnt_is_refused(thalweg: Thalweg, rows: list[str], arguments: list[str], message: str) -> None:
    write_rows(*rows)
    assert message in sentence(thalweg("compare", "data.csv", *TINY, "--target", "y", *arguments))


def test_a_table_needs_a_target(thalweg: Thalweg) -> None:
    write_rows(*GOOD)
    assert "say which column of data.csv is to be predicted" in sentence(thalweg("compare", "data.csv", *TINY))


# --- data files


def test_missing_data_files_are_named(thalweg: Thalweg, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    message = sentence(thalweg("compare", "mnist-softmax", "--data", "data", *TINY))
    assert "mnist/train-images-idx3-ubyte is not in data; put it there" in message.replace("at data/mnist/train-images-idx3-ubyte", "there")


def test_a_data_folder_that_is_none_is_refused(thalweg: Thalweg) -> None:
    assert "the data folder, nowhere, is not a folder" in sentence(thalweg("compare", "mnist-softmax", "--data", "nowhere", *TINY))


def test_a_truncated_data_file_is_named(thalweg: Thalweg, tmp_path: Path) -> None:
    path = tmp_path / "data" / "mnist" / "train-images-idx3-ubyte"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 60000, 28, 28) + bytes(1000))
    message = sentence(thalweg("compare", "mnist-softmax", "--data", "data", *TINY))
    assert "train-images-idx3-ubyte is damaged: it has 1016 bytes where its IDX header announces 47040016" in message


# --- the user's own code


def failing(ended: Ended) -> tuple[str, str]:
    """The user's own traceback, and our sentence below it."""
    trace, _, said = ended.errors.rpartition("\nthalweg: ")
    assert ended.code == 2
    assert ended.raw == b""
    assert len(said.strip().splitlines()) == 1, said
    frames = [line for line in trace.splitlines() if line.startswith('  File "')]
    assert frames, ended.errors
    assert all("mine.py" in line for line in frames), trace
    return trace, said


@pytest.mark.parametrize("engine", ["fleet", "solo"])
def test_a_model_that_fails_shows_its_own_traceback(thalweg: Thalweg, study: Path, engine: str) -> None:
    Path("mine.py").write_text(PROBLEM.replace("return self.layer(x)", "return self.layer(x[:, :2])"))
    before = contents(study)
    trace, said = failing(thalweg("compare", "mine.py:problem", *TINY[:-1], engine, "--out", study))
    assert 'mine.py", line 12, in forward' in trace
    assert "self.layer(x[:, :2])" in trace
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in said
    assert contents(study) == before


LATE = PROBLEM.replace("        return self.layer(x)\n", """\
        self.calls = getattr(self, "calls", 0) + self.training
        if self.calls > 2:  # a step is recorded once and replayed: it is called for its loss, its noise and the recording
            raise ValueError("enough of it,\\nI have seen two batches")
        return self.layer(x)
""")  # fmt: skip


@pytest.mark.parametrize("engine", ["fleet", "solo", "pool"])
def test_a_model_that_fails_in_training_shows_its_own_traceback(thalweg: Thalweg, engine: str) -> None:
    Path("mine.py").write_text(LATE)
    trace, said = failing(thalweg("compare", "mine.py:problem", *TINY[:-1], engine, "--out", "study", "--quiet"))
    assert 'mine.py", line 14, in forward' in trace
    assert "enough of it" in said


def test_a_file_that_fails_on_import_shows_its_own_traceback(thalweg: Thalweg) -> None:
    Path("mine.py").write_text("import thalweg\n\nnumber = 1 / 0\n")
    trace, said = failing(thalweg("compare", "mine.py:problem", *TINY))
    assert 'mine.py", line 3' in trace
    assert "mine.py could not be imported: ZeroDivisionError: division by zero" in said


def test_a_file_that_is_not_python_is_told(thalweg: Thalweg) -> None:
    Path("mine.py").write_text("def f(:\n")
    ended = thalweg("compare", "mine.py:problem", *TINY)
    assert ended.code == 2
    assert "mine.py could not be imported: SyntaxError" in ended.errors
    assert "importlib" not in ended.errors


def test_a_function_that_fails_shows_its_own_traceback(thalweg: Thalweg) -> None:
    Path("mine.py").write_text(PROBLEM)
    trace, said = failing(thalweg("compare", "mine.py:broken", *TINY))
    assert "in broken" in trace
    assert "mine.py:broken failed when called: ZeroDivisionError" in said


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (PROBLEM, ["mine.py:problm"], "no object in mine.py is called 'problm'; did you mean 'problem'?"),
        (PROBLEM, ["mine.py:number"], "mine.py:number is a int; it should be a Problem"),
        (PROBLEM, ["mine.py:Net"], "mine.py:Net is a class; it should be a Problem"),
        (PROBLEM, ["mine.py"], "mine.py is a file; name the problem in it as well, mine.py:object"),
        (PROBLEM, ["mine.py:problem", "-o", "mine.py:number"], "is not a rule; decorate the function with @thalweg.rule"),
        (PROBLEM, ["mine.py:problem", "--target", "y"], "takes no target"),
        (PROBLEM.replace("X.sum(1, keepdim=True)", "X.sum(1, keepdim=True) / 0"), ["mine.py:problem"], "train targets[0, 0] is"),
        (PROBLEM.replace("X.sum(1, keepdim=True)", "['a'] * 60"), ["mine.py:problem"], "the train data cannot become tensors"),
        (PROBLEM.replace("X.sum(1, keepdim=True)", "X[:50]"), ["mine.py:problem"], "different numbers of rows"),
        (
            PROBLEM.replace("mse_loss", "cross_entropy").replace("3, 1", "3, 4").replace("X.sum(1, keepdim=True)", "torch.arange(60) % 5"),
            ["mine.py:problem"],
            "train targets[4] is 4, and the model has 4 outputs: labels must be 0 to 3",
        ),
    ],
)  # fmt: skip
def test_a_problem_of_ones_own_that_cannot_be_is_refused(thalweg: Thalweg, text: str, arguments: list[str], message: str) -> None:
    Path("mine.py").write_text(text)
    assert message in sentence(thalweg("compare", *arguments, *TINY))
    assert not Path("outputs").exists()


# --- interrupted


def test_interruption_keeps_what_is_finished(thalweg: Thalweg, monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.study import study as studies

    train, calls = studies.train_group, []

    def interrupted(*arguments: object, **more: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*arguments, **more)

    monkeypatch.setattr(studies, "train_group", interrupted)
    ended = thalweg(*WORKING, "--out", "s", "--quiet")
    assert ended.code == 130
    assert "stopped; 4 finished runs are kept in s: the same command goes on" in ended.errors
    assert Path("s/report.html").is_file()
    assert json.loads(thalweg(*WORKING, "--out", "s", "--json").output)["unfinished"] is False


def test_an_interruption_in_the_middle_of_writing_is_as_quiet(thalweg: Thalweg, caplog: pytest.LogCaptureFixture) -> None:
    """A signal may come while the database is at work, whose own handling of it is not ours to see."""
    resets = []

    def interrupt(*rest: object) -> None:
        if holds_runs():
            resets.append(rest)
            if len(resets) == 1:
                signal.raise_signal(signal.SIGINT)

    def holds_runs() -> bool:
        """Whether the first runs lie in the database."""
        if not Path("s/study.db").is_file():
            return False
        with closing(sqlite3.connect("s/study.db")) as connection:
            try:
                return connection.execute("SELECT count(*) FROM runs").fetchone()[0] > 0
            except sqlite3.OperationalError:
                return False

    sa.event.listen(sa.pool.Pool, "reset", interrupt)
    try:
        ended = thalweg(*WORKING, "--out", "s", "--quiet")
    finally:
        sa.event.remove(sa.pool.Pool, "reset", interrupt)
    assert resets
    assert ended.code == 130
    assert caplog.records == []
    assert "Traceback" not in ended.errors
