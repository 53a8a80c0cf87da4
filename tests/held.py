"""Commands in processes of their own that hold still at a known place, there to be killed or interrupted.

A process is not waited for by the clock: a machine may be slow, and may stand still for minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE, PAUSE = 240, 0.02
"""Seconds of waiting after which a process counts as hung, in looks so far apart: while the machine stands still there are none."""

PROGRAM = """
import signal, sys, time
from pathlib import Path
from thalweg.cli import main

sign = Path(sys.argv.pop())

def hold():
    '''Until Ctrl-C is answered, by an exception or by another answer for the next one.'''
    sign.touch()
    answer = signal.getsignal(signal.SIGINT)
    while signal.getsignal(signal.SIGINT) is answer:
        time.sleep(0.02)

{place}
main()
"""


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; whether it came to hold."""
    for _ in range(round(PATIENCE / PAUSE)):
        if condition():
            return True
        time.sleep(PAUSE)
    return condition()


def wait(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until the condition holds, while the process lives."""
    assert until(lambda: condition() or process.poll() is not None), "the process hangs"
    assert condition(), "the process ended too early"


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the process and all its children at once."""
    if process.poll() is None:  # else its number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Held:
    """A command in a session of its own that calls `hold()` where `place`, a text of Python, has it called.

    folder: beside which it says what it says, and leaves a sign once it holds.
    """

    def __init__(self, place: str, arguments: Sequence[str], folder: Path, **more: str) -> None:
        self.output, self.sign = folder.with_suffix(".said"), folder.with_suffix(".holds")
        command = [sys.executable, "-c", PROGRAM.format(place=place), *arguments, str(self.sign)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, start_new_session=True, cwd=folder.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | more,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds, while the process lives."""
        try:
            wait(condition, self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.said}") from None

    def holds(self) -> None:
        """Wait until it does."""
        self.wait(self.sign.exists)

    def interrupt(self) -> int:
        """Ctrl-C as a terminal sends it, to the whole group; the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.wait(lambda: self.process.poll() is not None)
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL to the process and all its children at once."""
        kill(self.process)


@contextmanager
def held(place: str, arguments: Sequence[str], folder: Path, **more: str) -> Iterator[Held]:
    """A process of which nothing is left behind."""
    command = Held(place, arguments, folder, **more)
    try:
        yield command
    finally:
        command.kill()
