"""What the benches share: the machine in words, turns in processes of their own, results that are kept, tables, pages filled with them."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

import thalweg as tw

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
LIMIT = 3600
"""Seconds after which a turn is given up."""
BY_ROW = ("rows", "accelerator")
"""The tables of which single rows can be measured anew."""


# --- the machine


def cpuinfo(field: str) -> str:
    """What Linux says of the first processor under that name; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def hardware() -> dict[str, Any]:
    cpu = cpuinfo("model name") or platform.processor() or platform.machine()
    compiler = next((path for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name and (path := shutil.which(name))), None)
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=False).stdout.strip() if compiler else ""
    kernels = os.environ.get("THALWEG_KERNELS") != "0" and compiler is not None
    return {
        "cpu": cpu, "cores": psutil.cpu_count(logical=False), "logical": psutil.cpu_count(), "threads": torch.get_num_threads(),
        "load": psutil.getloadavg(), "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "compiler": f"{Path(compiler).name} {version}" if compiler and kernels else None, "torch": torch.__version__,
        "python": platform.python_version(), "system": platform.platform(), "thalweg": tw.__version__,
    }  # fmt: skip


def measured_on(results: Mapping[str, Any]) -> str:
    """The day and the machine, as the docs name them."""
    machine = results["hardware"]
    said = f"Measured on {results['date']}: {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
    said += f"Python {machine['python']}, {machine['compiler'] or 'no C compiler'}"
    return f"{said}; load average at the start {machine['load'][0]:.2f}."


# --- one turn, in a process of its own


class Failed(Exception):
    """A turn that crashed, and what it said last."""


def answer(script: Path, turn: Sequence[str], rest: Sequence[str] = (), cache: Path | None = None) -> Any:
    """What a bench saves when it is called with `--turn`, what to do, and a path; in a fresh process with a fresh cache, or this one."""
    with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder:
        out, cache = Path(folder) / "turn.pt", cache or Path(folder) / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, str(script.resolve()), "--turn", *turn, str(out), *rest]
        own = {"THALWEG_CACHE": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch")}
        try:
            done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {LIMIT} s") from None
        if done.returncode or not out.exists():
            said = done.stderr.strip().splitlines()
            raise Failed(f"{said[-1][:300] if said else 'nothing said'} (exit code {done.returncode})")
        return torch.load(out, weights_only=True)


# --- results


def begun(kind: str, form: int, options: argparse.Namespace, small: bool) -> tuple[dict[str, Any], Path | None]:
    """Results to which rows are added, and where they are saved if that is asked."""
    date, name = datetime.date.today().isoformat(), kind if options.device == "cpu" else f"{kind}-{options.device}"
    results = {"format": form, "date": date, "quick": small, "whole": False, "device": options.device, "hardware": hardware()}
    return results, RESULTS / f"{name}-{date}.json" if options.save else None


def keep(results: dict[str, Any], elsewhere: Path | None, saved: Path | None, names: Sequence[str] | None) -> list[Path]:
    """Write what there is by now, so that nothing is lost whatever comes next. names: of all rows, where only some are measured."""
    for path in filter(None, [elsewhere, saved]):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = merged(results, path, names) if names and path == saved else results
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return [path for path in (elsewhere, saved) if path is not None]


def merged(results: dict[str, Any], path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The day's results with the rows measured now in place of the older ones."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if earlier.get("format") != results["format"] or earlier["hardware"]["cpu"] != results["hardware"]["cpu"]:
        return results
    place = {name: i for i, name in enumerate(names)}
    whole = {**earlier, "hardware": {**results["hardware"], "load": earlier["hardware"]["load"]}}
    for name, rows in results.items():
        if name in BY_ROW:
            both = {row["row"]: row for row in (*earlier[name], *rows)}
            whole[name] = sorted(both.values(), key=lambda row: place.get(row["row"], len(place)))
        elif isinstance(rows, list):
            whole[name] = rows or earlier[name]
    return whole


def newest(folder: Path, kind: str, form: int) -> dict[str, Any] | None:
    """The results of the newest whole run."""
    for path in sorted(folder.glob(f"{kind}-[0-9]*.json"), reverse=True):
        results = json.loads(path.read_text(encoding="utf-8"))
        if results.get("format") == form and results["whole"]:
            return results
    return None


# --- what is said of it


def cell(value: Any, form: str, none: str = "-") -> str:
    """A number in its form, a truth value in a word."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return none if value is None else format(value, form) if not isinstance(value, str) else value


def line(first: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"{first:30.30}" + "".join(f"{text:>{width}}" for text, width in zip(cells, widths, strict=True))


def tabular(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table as a page has them."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def fill(text: str, told: str) -> str:
    """A page with what stands behind its line `<!-- table -->` made new."""
    place = re.compile(r"<!-- table -->\n(?:.*?<!-- end of table -->\n)?", re.S)
    if not place.search(text):
        raise SystemExit("the page has no line <!-- table -->")
    return place.sub(lambda _: f"<!-- table -->\n\n{told}\n<!-- end of table -->\n", text, count=1)


def refill(kind: str, form: int, page: Callable[[Mapping[str, Any], Mapping[str, Any] | None], str]) -> None:
    """Put the newest saved results, and those of an accelerator, into the page of their kind."""
    results, path = newest(RESULTS, kind, form), DOCS / f"{kind}.md"
    if results is None:
        raise SystemExit("no results of a whole run are saved; run with --save first")
    path.write_text(fill(path.read_text(encoding="utf-8"), page(results, newest(RESULTS, f"{kind}-cuda", form))), encoding="utf-8")


# --- the command


def parser_of(doc: str | None, kind: str) -> argparse.ArgumentParser:
    """A bench's command with what all of them take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--save", action="store_true", help=f"write the results to bench/results/{kind}-<date>.json")
    parser.add_argument("--docs", action="store_true", help=f"put the newest saved results into docs/{kind}.md; measures nothing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the rows for an accelerator instead")
    return parser


def ended(written: Sequence[Path], missed: Sequence[str]) -> int:
    """Say where results were written and what was missed; the exit code."""
    for path in written:
        print(f"written to {path}")
    print("\n".join(missed), end="\n" * bool(missed), file=sys.stderr)
    return 1 if missed else 0
