"""Functions of C, compiled on this machine where it has a compiler, and kept in the user's cache folder from run to run.

A text defines one function `run`, is compiled by gcc or clang in a fraction of a second, and is called through ctypes, which lets go of
Python's lock. What calls it must have another way to its answer: there may be no compiler, or a text may not compile.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared", "-nostdlib", "-x", "c")

compilations: list[float] = []
"""Seconds of every text compiled in this process."""


# --- the compiler


@functools.cache
def compiler() -> str | None:
    """The C compiler to call: $CC, gcc, clang or cc; None where there is none, or where THALWEG_KERNELS=0 asks for none."""
    if os.environ.get("THALWEG_KERNELS") == "0" or platform.system() not in ("Linux", "Darwin"):
        return None
    found = next((path for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name and (path := shutil.which(name))), None)
    if found is None:
        logger.debug("no C compiler: work is done operation by operation, which is slower")
    return found


@functools.cache
def load(source: str) -> Any:
    """The compiled function, from the cache folder if it is there; None where compiling fails."""
    command = compiler()
    assert command is not None
    for threads in (("-fopenmp",), ()):  # the second where OpenMP is not that of torch
        path = folder("kernels") / f"{digest(source, command, *FLAGS, *threads, processor(), torch.__version__)}.so"
        if not path.exists():
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(dir=path.parent) as work:
                made = Path(work) / path.name
                arguments = [command, *FLAGS, *threads, "-o", str(made), "-"]
                done = subprocess.run(arguments, input=source.encode(), capture_output=True, check=False)
                if done.returncode:
                    logger.debug("a kernel did not compile: %s", done.stderr.decode(errors="replace")[:500])
                    continue
                made.replace(path)
            compilations.append(time.perf_counter() - began)
        try:
            call = ctypes.CDLL(str(path)).run
        except OSError as error:
            logger.debug("a kernel did not load: %s", error)
            continue
        call.restype = None
        return call
    return None


# --- where files are kept


@functools.cache
def processor() -> str:
    """What speed and machine code depend on: the processor's description."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    except OSError:
        return platform.processor() + platform.machine()


@functools.cache
def folder(name: str) -> Path:
    """A folder of the user's own under THALWEG_CACHE, XDG_CACHE_HOME or ~/.cache; one that nobody else may write to, or a temporary one."""
    try:
        base = Path(os.environ.get("THALWEG_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg")
        place = base / name
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = place.stat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(place, os.W_OK):
            return place
    except (OSError, RuntimeError, AttributeError):
        pass
    return Path(tempfile.mkdtemp(prefix=f"thalweg-{name}-"))


def digest(*parts: object) -> str:
    """A name for what determines an entry."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
