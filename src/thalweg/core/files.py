"""Finds data files, verified by sha256: in `--data` alone, or in `$THALWEG_DATA`, the user's cache, and on the network."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import struct
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from thalweg.errors import UserError

TIMEOUT = 10.0  # seconds without an answer
LARGEST = 1 << 28  # bytes that a download may have


@dataclass(frozen=True)
class Source:
    """A file of a data set.

    name: without `.gz`. sha256: of its uncompressed content, of text with lines that end in a bare newline. folders:
    where below the data folder it may lie, the first being where it is put; it may also lie in the data folder itself.
    urls: where it is published.
    text: whether line ends may differ between copies.
    """

    name: str
    sha256: str
    folders: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    text: bool = False

    @property
    def place(self) -> str:
        """Where the file belongs, below the data folder."""
        return "/".join((*self.folders[:1], self.name))


def cache() -> Path:
    """The user's cache: `$XDG_CACHE_HOME/thalweg`, or `~/.cache/thalweg`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg"


def read(source: Source, data: str | Path | None = None, parse: Callable[[bytes], Any] = bytes) -> Any:
    """The parsed content of a file, found and verified; `parse` raises ValueError with what is wrong with the content.

    data: the only folder to look in, and nothing is downloaded; None looks in `$THALWEG_DATA`, the cache, and the
    network. Raises UserError, naming the file, when it is damaged, and saying which file to put where when it is
    nowhere.

    >>> read(Source("weather.csv", "0" * 64), data=".")
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: weather.csv is not in .; put it there, plain or as weather.csv.gz
    """
    roots = _roots(data)
    stranger = None
    for root in roots:
        for folder in (*source.folders, ""):
            for name in (source.name, source.name + ".gz"):
                path = root / folder / name
                if not path.is_file():
                    continue
                content = _content(path, source.text)
                try:
                    value = parse(content)
                except ValueError as error:
                    raise UserError(f"{path} is damaged: it {error}; replace it, or delete it") from None
                if _sha256(content) == source.sha256:
                    return value
                if folder or not source.folders:
                    raise UserError(
                        f"{path} is not the published file: its content has sha256 {_sha256(content)[:12]}... and "
                        f"{len(content)} bytes, and {source.sha256[:12]}... is expected; replace it, or delete it"
                    )
                stranger = path  # MNIST and Fashion-MNIST share their files' names: this may be the other one
    if data is None:
        fetched = _download(source)
        if fetched is not None:
            return parse(fetched)
    where = f"not in {roots[0]}" if data is not None else f"neither in {' nor in '.join(str(root) for root in roots)}"
    network = "" if data is not None or not source.urls else ", and it could not be downloaded"
    other = f" ({stranger} is another data set's file of that name, or damaged)" if stranger else ""
    target = "there" if source.place == source.name and len(roots) == 1 else f"at {roots[0] / source.place}"
    raise UserError(f"{source.place} is {where}{network}; put it {target}, plain or as {source.name}.gz{other}")


def _roots(data: str | Path | None) -> list[Path]:
    if data is not None:
        named = [(Path(data).expanduser(), "the data folder")]
    else:
        text = os.environ.get("THALWEG_DATA")
        named = [(Path(text).expanduser(), "$THALWEG_DATA")] if text else []
    for root, label in named:
        if not root.is_dir():
            raise UserError(f"{label}, {root}, is not a folder; name one that exists")
    return [root for root, _ in named] + ([cache()] if data is None else [])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _content(path: Path, text: bool) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    try:
        return _plain(raw, text, zipped=path.suffix == ".gz")
    except ValueError as error:
        raise UserError(f"{path} is damaged: it {error}; replace it, or delete it") from None


def _plain(raw: bytes, text: bool, zipped: bool = False) -> bytes:
    if zipped or raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except EOFError:
            raise ValueError("is a truncated gzip file") from None
        except (gzip.BadGzipFile, zlib.error, struct.error) as error:
            raise ValueError(f"is not a sound gzip file ({error})") from None
    return raw.replace(b"\r\n", b"\n") if text else raw


def _download(source: Source) -> bytes | None:
    """The verified content from the first address that has it, kept in the cache; None when none answers with it."""
    for url in source.urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                raw = answer.read(LARGEST)
            content = _plain(raw, source.text)
        except (OSError, ValueError, EOFError):
            continue  # no network, no such page, or a page that is no gzip file: try the next address
        if _sha256(content) == source.sha256:
            _keep(source, raw)
            return content
    return None


def _keep(source: Source, raw: bytes) -> None:
    target = cache() / (source.place + (".gz" if raw[:2] == b"\x1f\x8b" else ""))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # written under another name and renamed, so that a reader never meets half a file
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, suffix=".part", delete=False) as part:
            part.write(raw)
        os.replace(part.name, target)
    except OSError:
        pass  # a cache that cannot be written costs the next download, nothing else


def idx(content: bytes, dims: int) -> np.ndarray:
    """An array (uint8, `dims` dimensions) from the bytes of an IDX file, MNIST's format. ValueError says what is wrong.

    >>> idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7]), dims=1).tolist()
    [5, 6, 7]
    """
    magic = bytes([0, 0, 8, dims])
    if content[:4] != magic:
        raise ValueError(f"begins with 0x{content[:4].hex()}, not with 0x{magic.hex()}, the magic number of its IDX kind")
    start = 4 + 4 * dims
    if len(content) < start:
        raise ValueError(f"ends inside its IDX header, after {len(content)} of {start} bytes")
    shape = struct.unpack(f">{dims}I", content[4:start])
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise ValueError(f"has {len(content)} bytes where its IDX header announces {expected}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx(source: Source, data: str | Path | None, dims: int) -> np.ndarray:
    """The array in an IDX file that is found as `read` finds it."""
    return read(source, data, partial(idx, dims=dims))


# --- writing


@contextlib.contextmanager
def whole(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write into that takes its name only when the block ends well: `path` is the old file or the new one, never half.

    What is no file, a device or a pipe, is written to as it is. durable: wait until the disk has it. Raises UserError where the disk or
    the system refuses.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:
                yield file
            return
        with part.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another place, or make room") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is either the old one or the new one; see `whole`."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
