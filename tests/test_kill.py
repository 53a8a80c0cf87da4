"""A study outlives whatever ends its process: kill -9 at any moment, Ctrl-C, a parent that vanishes under its workers.

What kill -9 leaves is the folder as it lies there: nothing of the process runs afterwards, and the database is SQLite's to keep whole. So
one study is enough for all of its moments: its folder is copied wherever it may change, and each copy is gone on with. Processes that
are killed or interrupted hold still at a place that is known, and not for a time, lest a slow machine be late.
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

import thalweg as tw
from held import PATIENCE, Held, held, until
from held import kill as kill
from held import wait as wait
from thalweg.cli import commands

STEPS, TRIALS, SEEDS = 10, 3, 2
TUNED = 2 * TRIALS  # of two optimizers
RUNS = TUNED + 2 * SEEDS
ARGUMENTS = (
    "compare", "digits-mlp", "--steps", str(STEPS), "--budget", str(TRIALS), "--seeds", str(SEEDS), "-o", "sgd", "-o", "adam",
    "--quiet",
)  # fmt: skip

# Once something is stored: in the middle of the next group, or before the next result is taken from a worker.
PLACE = """
from thalweg.study.progress import View

genuine = View.{method}

def after(view, *given):
    genuine(view, *given)
    if view.done > 0:
        hold()

View.{method} = after
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups and SIGKILL are POSIX's")
several_cores = pytest.mark.skipif((psutil.cpu_count(logical=False) or 1) < 2, reason="the pool needs 2 cores to start workers")
engines = pytest.mark.parametrize("engine", ["fleet", pytest.param("pool", marks=several_cores)], scope="module")


def started(folder: Path, engine: str) -> contextlib.AbstractContextManager[Held]:
    """The command, which holds still as PLACE says."""
    place = PLACE.format(method="end" if engine == "pool" else "step")
    return held(place, [*ARGUMENTS, "--engine", engine, "--out", str(folder)], folder)


def stored(folder: Path) -> int:
    """How many runs are in the database; 0 before it has its tables."""
    path = folder / "study.db"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
        try:
            return connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def sound(folder: Path) -> bool:
    """Whether SQLite finds the database whole."""
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def go_on(folder: Path, engine: str) -> bytes:
    """What `thalweg export` writes after the command, the same one as before, has been called to its end; in this process."""
    for call in ([*ARGUMENTS, "--engine", engine, "--out", str(folder)], ["export", str(folder)]):
        result = CliRunner().invoke(commands, call, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert stored(folder) == RUNS
    assert sound(folder)
    assert (folder / "report.html").read_bytes().rstrip().endswith(b"</html>")
    return result.stdout_bytes


@pytest.fixture(scope="module")
def whole(engine: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a study that nothing interrupted."""
    return go_on(tmp_path_factory.mktemp(engine) / "whole", engine)


def contents(folder: Path) -> bytes:
    """What distinguishes a folder from another: all that lies in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in paths)).digest()


@contextmanager
def copied(folder: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[bytes, Path]]:
    """A block that leaves a copy of the folder as it lay before every statement and commit of the database and around every renaming; of
    states that are alike, one."""
    found: dict[bytes, Path] = {}

    def copy(*_: object) -> None:
        if folder.is_dir():
            state = contents(folder)
            if state not in found:
                found[state] = Path(shutil.copytree(folder, copies / str(len(found))))

    def replace(*names: object, genuine: Callable[..., None] = os.replace) -> None:
        copy()
        genuine(*names)
        copy()

    events = ("before_cursor_execute", "commit")
    with contextlib.ExitStack() as stack:
        for event in events:
            sa.event.listen(sa.Engine, event, copy)
            stack.callback(sa.event.remove, sa.Engine, event, copy)
        monkeypatch.setattr(os, "replace", replace)
        yield found
        monkeypatch.undo()


@pytest.mark.parametrize("engine", ["fleet"], scope="module")
def test_from_every_moment_a_study_goes_on_to_the_same_table(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "study"
    with copied(folder, tmp_path / "copies", monkeypatch) as found:
        go_on(folder, "fleet")
    counts = [stored(copy) for copy in found.values()]
    assert sorted(counts) == counts
    assert {0, TRIALS, TUNED, TUNED + SEEDS, RUNS} == set(counts)  # a fleet an optimizer, in tuning and at the end
    assert any((copy / "study.db").stat().st_size == 0 for copy in found.values())  # before its tables
    for file in ("study.toml", "environment.json", "report.html"):  # written, and not yet renamed
        assert any(list(copy.glob(f".{file}.*")) and not (copy / file).exists() for copy in found.values()), file
    for copy, count in zip(found.values(), counts, strict=True):
        if count == RUNS:  # its report is left
            assert go_on(copy, "fleet") == whole, copy.name
            continue
        study = tw.compare("digits-mlp", ["sgd", "adam"], steps=STEPS, budget=TRIALS, seeds=SEEDS, engine="fleet", out=copy)
        with closing(study):
            assert study.export("csv") == whole.decode(), f"from {copy.name}, {count} runs stored"
        assert sound(copy)


@pytest.mark.parametrize("engine", ["fleet"], scope="module")
def test_a_killed_study_goes_on_to_the_same_table(engine: str, whole: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with started(folder, engine) as command:
        command.holds()
        command.kill()
    assert stored(folder) == TRIALS
    assert sound(folder)
    assert go_on(folder, engine) == whole


@engines
def test_ctrl_c_keeps_what_is_finished(engine: str, whole: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with started(folder, engine) as command:
        command.holds()
        assert command.interrupt() == 130, command.said
    kept = stored(folder)
    assert kept == (1 if engine == "pool" else TRIALS)
    assert f"{kept} finished runs are kept" in command.said
    assert "Traceback" not in command.said
    assert (folder / "report.html").is_file()
    assert go_on(folder, engine) == whole


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended may wait for long until somebody asks how."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@several_cores
@pytest.mark.parametrize("engine", ["pool"], scope="module")
@pytest.mark.parametrize("moment", ["starting", "at work"])
def test_workers_end_with_their_parent(engine: str, moment: str, whole: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with started(folder, engine) as command:
        parent = psutil.Process(command.process.pid)

        def workers() -> list[psutil.Process]:
            """The children that are no resource trackers; a child that ends meanwhile does not count."""
            found = []
            for child in parent.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    found += [child] * ("resource_tracker" not in " ".join(child.cmdline()))
            return found

        if moment == "at work":
            command.holds()
        command.wait(lambda: len(workers()) >= 2)
        orphans = workers()
        parent.kill()
        command.process.wait()
        assert until(lambda: not any(map(alive, orphans))), "a worker outlives its parent"
    if moment == "at work":
        assert stored(folder) == 1
        assert go_on(folder, engine) == whole
