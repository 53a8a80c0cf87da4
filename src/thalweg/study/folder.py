"""A study's folder: one process at a time, files written whole, another spec refused."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import psutil
import tomli_w

from thalweg.errors import UserError
from thalweg.study.spec import Spec

PACKAGES = ("thalweg", "torch", "numpy", "scipy", "scikit-learn", "pandas")


def claim(folder: Path) -> filelock.BaseFileLock:
    """Make the folder and hold it; it is free again when this process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"the output folder {folder} cannot be written: {error.strerror}; choose another with --out") from None
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another thalweg process is at work in {folder}; wait for it, or choose another folder with --out") from None
    return lock


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What distinguishes two specs, a sentence part each."""
    found = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if key == "optimizers":
            a, b = (", ".join(o["label"] for o in side or ()) for side in (a, b))
            if a == b:
                found.append("optimizers have other settings")
                continue
        found.append(f"{key} is {a} there and {b} here")
    return found


def plain(spec: Spec) -> dict[str, Any]:
    """A spec as TOML and JSON hold it: no nulls, lists for tuples."""
    return json.loads(spec.model_dump_json(exclude_none=True))


def toml(spec: Spec, name: str, data: str | None) -> str:
    """The text of study.toml, which `thalweg compare study.toml` reads back."""
    found = {"name": name, **({"data": data} if data else {}), **plain(spec)}
    return f"# The study as resolved. `thalweg {spec.kind}` on this file repeats it.\n" + tomli_w.dumps(found)


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware, as far as results may depend on them."""
    import torch

    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    found = {name: metadata.version(name) for name in PACKAGES}
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **found,
        "system": f"{platform.system()} {platform.release()}",
        "processor": cpu,
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
    }
