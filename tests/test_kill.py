"""A study outlives whatever ends its process: kill -9 at any moment, Ctrl-C, a parent that vanishes under its workers.

`THALWEG_KILLS` is the number of moments at which the process group is killed (1 by default).
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from thalweg.cli import commands

KILLS = int(os.environ.get("THALWEG_KILLS", "1"))
RUNS = 2 * 3 + 2 * 2  # two optimizers: a budget of 3 trials, 2 seeds
ARGUMENTS = ("compare", "digits-mlp", "--steps", "60", "--budget", "3", "--seeds", "2", "-o", "sgd", "-o", "adam", "--quiet")
PATIENCE = 240  # seconds after which a process counts as hung

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups and SIGKILL are POSIX's")
several_cores = pytest.mark.skipif((psutil.cpu_count(logical=False) or 1) < 2, reason="the pool needs 2 cores to start workers")
engines = pytest.mark.parametrize("engine", ["fleet", pytest.param("pool", marks=several_cores)], scope="module")


@contextmanager
def started(folder: Path, engine: str, *more: str) -> Iterator[subprocess.Popen]:
    """The command in a session of its own; nothing of it is left behind."""
    command = [sys.executable, "-c", "from thalweg.cli import main; main()", *ARGUMENTS, "--engine", engine, "--out", str(folder), *more]
    process = subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process and all its children at once."""
    if process.returncode is None:  # else its number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def finish(process: subprocess.Popen) -> None:
    """Wait for a good end."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def wait(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until the condition holds, while the process lives."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the process ended too early: " + process.communicate()[1]
        assert time.monotonic() < end, "the process hangs"
        time.sleep(0.02)


def stored(folder: Path) -> int:
    """How many runs are in the database; 0 before it has its tables."""
    path = folder / "study.db"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def sound(folder: Path) -> bool:
    """Whether SQLite finds the database whole."""
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def exported(folder: Path) -> bytes:
    """What `thalweg export` writes."""
    result = CliRunner().invoke(commands, ["export", str(folder)], catch_exceptions=False)
    return result.stdout_bytes


def go_on(folder: Path, engine: str) -> None:
    """The same command again, to its end."""
    with started(folder, engine) as process:
        finish(process)


@dataclass(frozen=True)
class Whole:
    """An uninterrupted study: its table, and its course as (seconds since the database appeared, runs stored by then)."""

    table: bytes
    course: tuple[tuple[float, int], ...]

    def moment(self, share: float) -> tuple[int, float]:
        """A share of the way from the empty database to the last run: how many runs are stored, and the seconds since then.

        Told so, because a process is now faster and now slower. The gaps between two writes count alike: most of the time of a pool
        passes before its first run.
        """
        place = share * (len(self.course) - 1)
        (begin, runs), (end, _) = self.course[int(place) : int(place) + 2]
        return runs, (place % 1) * (end - begin)


@pytest.fixture(scope="module")
def whole(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp(engine) / "whole"
    course: list[tuple[float, int]] = []
    with started(folder, engine) as process:
        wait((folder / "study.db").is_file, process)
        began = time.monotonic()
        while process.poll() is None:
            runs = stored(folder)
            if not course or runs > course[-1][1]:
                course.append((time.monotonic() - began, runs))
            time.sleep(0.02)
        finish(process)
    assert stored(folder) == RUNS
    return Whole(exported(folder), tuple(course))


@engines
def test_a_killed_study_goes_on_to_the_same_table(engine: str, whole: Whole, tmp_path: Path) -> None:
    done = []
    for k in range(KILLS):
        folder = tmp_path / str(k)
        runs, delay = whole.moment((k + 0.5) / KILLS)
        with started(folder, engine) as process:
            wait((folder / "study.db").is_file, process)
            wait(lambda: stored(folder) >= runs, process)  # noqa: B023
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=delay)
            kill(process)
        assert sound(folder)
        done.append(stored(folder))
        go_on(folder, engine)
        assert sound(folder)
        assert exported(folder) == whole.table
    print(f"{engine}: runs stored when killed: {done} of {RUNS}")
    assert any(0 < count < RUNS for count in done), f"no kill fell between the first run and the last: {done}"


@engines
def test_ctrl_c_keeps_what_is_finished(engine: str, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with started(folder, engine) as process:
        wait(lambda: stored(folder) > 0, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the whole group
        _, errors = process.communicate(timeout=PATIENCE)
    kept = stored(folder)
    assert process.returncode == 130
    assert 0 < kept < RUNS
    assert f"{kept} finished runs are kept" in errors
    assert "Traceback" not in errors
    assert (folder / "report.html").is_file()
    go_on(folder, engine)
    assert exported(folder) == whole.table


@several_cores
@pytest.mark.parametrize("moment", ["starting", "at work"])
def test_workers_end_with_their_parent(moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with started(folder, "pool", "--budget", "64") as process:
        parent = psutil.Process(process.pid)

        def workers() -> list[psutil.Process]:
            """The children that are no resource trackers; a child that ends meanwhile does not count."""
            found = []
            for child in parent.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    found += [child] * ("resource_tracker" not in " ".join(child.cmdline()))
            return found

        wait(lambda: len(workers()) >= 2 and (moment == "starting" or stored(folder) > 0), process)
        orphans = workers()
        parent.kill()
        _, alive = psutil.wait_procs(orphans, timeout=30)
        assert alive == []
