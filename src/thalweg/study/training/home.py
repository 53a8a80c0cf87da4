"""A run's folder: its checkpoint, written whole or not at all; its tables; and what is read back, of which no code is run.

run.toml  the run as resolved                 checkpoint.pt  all that the run needs to go on, for torch.load(..., weights_only=True)
model.pt  the state_dict of the answer        records.csv, evaluations.csv, measurements.csv  what was measured, as of the checkpoint
result.json, environment.json, report.html, pictures/
"""

from __future__ import annotations

import io
import json
import pickle
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
import torch

from thalweg.core.files import whole, write_whole
from thalweg.errors import UserError
from thalweg.study import folder as place
from thalweg.study.training.spec import RunSpec, plain

CHECKPOINT = "checkpoint.pt"
TABLES = ("records", "evaluations", "measurements")
"""Of a run: a row a record, an evaluation (before the step's update) and what was measured by probes (after it); the last may be absent."""


class Home:
    """The folder of a run, held by this process until `close`.

    Raises UserError where another process is at work in it, or another run or a study lives there.
    """

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder = folder
        if (folder / "study.toml").exists():
            raise UserError(f"{folder} holds a study; choose another folder with --out")
        self.lock = place.claim(folder)
        try:
            path = folder / "run.toml"
            if path.exists():
                _same(path, plain(spec))
            else:
                text = f"# The run as resolved. `thalweg train` with the same arguments goes on.\n{tomli_w.dumps(plain(spec))}"
                write_whole(path, text)
                write_whole(folder / "environment.json", json.dumps(place.environment(spec.device), indent=2) + "\n")
        except BaseException:
            self.lock.release()
            raise

    def close(self) -> None:
        self.lock.release()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint and the tables that belong to it; the last good one stays where that fails."""
        write_checkpoint(self.folder / CHECKPOINT, state)
        for name in TABLES:
            if name in ("records", "evaluations") or state[name]:
                write_whole(self.folder / f"{name}.csv", pd.DataFrame(state[name]).to_csv(index=False))

    def saved(self) -> dict[str, Any] | None:
        """The checkpoint, or None where there is none yet."""
        path = self.folder / CHECKPOINT
        return read_checkpoint(path) if path.exists() else None


def _same(path: Path, spec: Mapping[str, Any]) -> None:
    """Raise UserError, saying what differs, unless a folder's run is this one."""
    there = read_toml(path)
    differ = place.differences(there, spec)
    if differ:
        raise UserError(f"{path.parent} holds another run ({'; '.join(differ)}); choose another folder with --out, or the same settings")


def read_toml(path: Path) -> dict[str, Any]:
    """A run.toml as plain values."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}; restore it, or choose another folder with --out") from None


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, in torch's format, so that the file is the old one or the new one, never half.

    Raises UserError where the disk or the system refuses.
    """
    with whole(path, durable=True) as file:
        buffer = io.BytesIO()  # torch hides in an error of its own what a full disk says
        torch.save(dict(state), buffer)
        file.write(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote; nothing in the file is run. Raises UserError where it is damaged or of another kind."""
    remedy = "delete it to begin anew, or restore a copy"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise UserError(f"{path} is damaged: the checksum of {broken} in it is wrong; {remedy}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or truncated ({' '.join(str(error).split())[:120]}); {remedy}") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path} is not a checkpoint of thalweg: it holds more than tensors and plain values; {remedy}") from None
    if not isinstance(state, dict) or not {"t", "model", "optimizer", "pins"} <= state.keys():
        raise UserError(f"{path} is not the checkpoint of a run; {remedy}")
    return state
