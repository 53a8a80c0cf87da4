"""Memory while an engine runs: how much it takes at its peak, and how the C library treats what is freed.

It keeps what is freed, since the next step asks for the same again. Left alone, glibc returns large blocks to the system at once, and every
step pays for fresh pages: ten times the work of an update.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path

import torch

_TRIM, _MMAP = -1, -3  # glibc's names: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGEST = 32 << 20  # the largest that glibc takes for M_MMAP_THRESHOLD, and what it reaches by itself once such a block was freed
_depth = 0
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """glibc, where that is the C library."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version.restype = ctypes.c_char_p
        library.gnu_get_libc_version()
    except (OSError, AttributeError, TypeError):
        return None
    return library


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """A block in which freed memory is kept for reuse; after it, what is free goes back to the system."""
    global _depth
    library = _libc()
    if library is None or _depth:
        yield
        return
    _depth += 1
    library.mallopt(_MMAP, _LARGEST)
    library.mallopt(_TRIM, 2**31 - 1)
    try:
        yield
    finally:
        _depth -= 1
        library.mallopt(_TRIM, 2 * _LARGEST)
        library.malloc_trim(0)


@functools.cache
def settled() -> None:
    """Set glibc's thresholds, for good, to what it reaches by itself once a block of 32 MB was freed: smaller ones are used again."""
    library = _libc()
    if library is not None and not _depth:
        library.mallopt(_MMAP, _LARGEST)
        library.mallopt(_TRIM, 2 * _LARGEST)


class Peak:
    """The most memory in use during a block, in bytes beyond what was in use before; None where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before: int | None = torch.cuda.memory_allocated(self.device)
            return self
        try:
            if (library := _libc()) is not None:
                library.malloc_trim(0)
            _RESET.write_text("5")  # Linux: the peak starts anew
            self.before = _status("VmRSS")
        except OSError:
            self.before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            return
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")
        self.bytes = max(0, peak - self.before)


def _status(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
