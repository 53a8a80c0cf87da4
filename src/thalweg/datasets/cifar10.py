"""CIFAR-10: colour pictures of ten things, 32x32 pixels. Krizhevsky 2009, Learning multiple layers of features from tiny images"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import pickletools
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.core.declare import dataset
from thalweg.core.files import Source, cache, read
from thalweg.core.table import Table
from thalweg.errors import UserError

_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32

# of the batches' records, a byte of label and 3,072 of pixels each: what the binary version's files hold, and the python version's too
_SHA256 = {
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py", "")
_ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-binary.tar", "cifar-10-python.tar.gz", "cifar-10-python.tar")
_LARGEST = 1 << 26  # bytes of a file that is read from an archive; the published ones have half of them


@dataset(task="classes", classes=10, shape=(3, 32, 32))
def cifar10(data) -> Table:
    """Colour pictures with pixels in [0, 1], not standardised, of ten classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ...

    X (50000, 3, 32, 32), the five training batches in order, and the official test rows X_test (10000, 3, 32, 32).
    data: the folder with cifar-10-binary.tar.gz or cifar-10-python.tar.gz, or with what they unpack to; None for the usual places. The
    python version's pickles are read without running anything that they name. Raises UserError when a batch is missing or damaged.

    >>> cifar10(data="/nowhere")
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: the data folder, /nowhere, is not a folder; name one that exists
    """
    place = _find(data)
    contents = _contents(place)
    *train, test = (_batch(contents.pop(name), f"{name} in {place}", sha256) for name, sha256 in _SHA256.items())
    X, y = (torch.cat(parts) for parts in zip(*train, strict=True))
    notes = (f"CIFAR-10, pixels in [0, 1], official test rows; classes {', '.join(_NAMES)}",)
    return Table(X, y, "classes", 10, X_test=test[0], y_test=test[1], epochs=3, notes=notes)


# --- where the batches are


def _find(data: str | Path | None) -> Path:
    """The folder or the archive with the batches, in the first place that has one."""
    named = os.environ.get("THALWEG_DATA") if data is None else data
    roots = [Path(root).expanduser() for root in (named, cache() if data is None else None) if root]
    for root in roots:
        for folder in _FOLDERS:
            if any((root / folder / name).is_file() for name in ("data_batch_1.bin", "data_batch_1")):
                return root / folder
        for name in _ARCHIVES:
            if (root / name).is_file():
                return root / name
    return read(Source("cifar-10-binary.tar", ""), data)  # it is nowhere, which this says


def _contents(place: Path) -> dict[str, bytes]:
    """The files of the batches, by name without `.bin`. Raises UserError where one is missing or cannot be read."""
    found: dict[str, bytes] = {}
    try:
        if place.is_dir():
            for name in _SHA256:
                path = next((p for p in (place / f"{name}.bin", place / name) if p.is_file()), None)
                found |= {} if path is None else {name: path.read_bytes()}
        else:
            with tarfile.open(place) as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name.removesuffix(".bin")
                    file = archive.extractfile(member) if name in _SHA256 and member.size <= _LARGEST else None
                    found |= {} if file is None else {name: file.read()}
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{place} is damaged: it is not a sound archive ({error}); replace it, or delete it") from None
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror or error}; check its permissions, or replace it") from None
    for name in _SHA256:
        if name not in found:
            raise UserError(f"{name} is missing in {place}; unpack or download the data set again")
    return found


# --- what a batch holds


def _batch(content: bytes, label: str, sha256: str) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 32, 32) and labels (n,) of a batch in either form, once its records are known to be the published ones."""
    try:
        records = _unpickled(content) if content[:1] == b"\x80" else content  # a pickle's first byte is no label
        if not records or len(records) % (1 + _PIXELS):
            raise ValueError(f"has {len(records)} bytes, not {1 + _PIXELS} for each picture")
    except ValueError as error:
        raise UserError(f"{label} is damaged: it {error}; replace it, or delete it") from None
    digest = hashlib.sha256(records).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{label} is not the published batch: its records have sha256 {digest[:12]}..., and {sha256[:12]}... is expected; "
            "replace it, or delete it"
        )
    rows = torch.frombuffer(bytearray(records), dtype=torch.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:].reshape(-1, 3, 32, 32) / 255, rows[:, 0].long()


class _Told:
    """Stands for NumPy's array, its type and what makes them: it keeps what the file tells of them, and does nothing."""

    def __init__(self, *told: Any) -> None:
        self.told = told

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads numbers, texts, lists, dicts and arrays; whatever else a file names is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")
        }:  # fmt: skip
            return _Told
        raise pickle.UnpicklingError(f"it names {module}.{name}, and nothing but arrays, lists, dicts, texts and numbers is read")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for something outside the file")


def _unpickled(content: bytes) -> bytes:
    """The records of a batch of the python version. Raises ValueError with what is wrong with it."""
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name.endswith("BINPUT") and int(argument or 0) > len(content):
                raise ValueError("a memo beyond its end")  # the reader would take memory for all below it
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        array, labels = batch[b"data"], batch[b"labels"]
        _, shape, kind, fortran, pixels = array.state
        if kind.told[0] not in (b"u1", "u1"):
            raise ValueError("pixels that are no bytes")
        rows = np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran else "C")
        return np.column_stack([np.array(labels, np.uint8), rows]).tobytes()
    except Exception as error:  # a file that is no such pickle can fail in any way
        raise ValueError(f"is no batch of CIFAR-10's python version ({' '.join(str(error).split())})") from None
