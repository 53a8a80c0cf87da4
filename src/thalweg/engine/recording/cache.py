"""What engines keep from run to run, in the user's cache folder: compiled kernels, and which form of an operation was fastest here."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


@functools.cache
def processor() -> str:
    """What speed and machine code depend on: the processor's description."""
    import platform

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


_known: dict[str, str] = {}
found: list[str] = []
"""The keys for which something had to be measured in this process."""


def remembered(key: object, options: tuple[str, ...], find: Callable[[], str]) -> str:
    """What `find` answered the first time on this machine, one of the options.

    The same for every process and after every restart, so that a study that is cut off and taken up again repeats itself bit for bit.
    """
    name = digest(key, processor())
    if name not in _known:
        path = folder("forms") / name
        try:
            said = path.read_text(encoding="utf-8") if path.exists() else ""
            if said not in options:
                said = find()
                found.append(name)
                with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as draft:
                    draft.write(said)
                try:
                    os.link(draft.name, path)  # only the first of several processes succeeds
                except FileExistsError:
                    first = path.read_text(encoding="utf-8")
                    said = first if first in options else said
                finally:
                    os.unlink(draft.name)
        except OSError:
            said = find()
        _known[name] = said
    return _known[name]
