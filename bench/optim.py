"""thalweg's optimizers against torch's, and both against the memory they pass over, side by side in one run.

    python bench/optim.py [--quick] [--only NAME]... [--device cpu|cuda] [--json PATH | --save]
    python bench/optim.py --docs

Each rule steps three sets of parameters: 100 small tensors, 60 of all sizes, a big one. Sides are thalweg's class with no engine named,
torch's class without arguments, with foreach and with fused where it has them, and `b.copy_(a)` on vectors of as many bytes as an update
must read and write: point, gradient and states read, point and states written. Sides take turns of a twentieth of a second; medians of 15
turns count, of fewer where a step takes seconds. Gradients stand in `.grad`, and finding them there is in the seconds of every step. Then,
in fresh processes: the first step with an empty cache folder, and again with what that left behind; what is compiled during 1,000 steps
under schedules; the most memory held beside parameters, gradients and states. What torch's own optimizers load at their first use in a
process is loaded before.

The exit code is 1 where a promise is missed or a rule fails. Promises are about rules that treat every number by itself, and about whole
sets: `--quick` takes few turns and shrinks two of the sets, of which it then promises nothing. `--save` writes
bench/results/optim-<date>.json, with `--only` the rows it measured into the same day's file; `--docs` puts the newest of those files into
docs/optim.md and measures nothing. Figures count on a machine that does nothing else: the load at the start is among the results.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch
from torch import Tensor, nn

import thalweg as tw
from common import Failed, answer, begun, cell, ended, keep, line, measured_on, parser_of, refill, tabular
from thalweg import optim
from thalweg.engine.optimizer.stepping import LARGE
from thalweg.engine.recording import kernel

FORMAT = 1
SETS = {"small": "100 small tensors", "mixed": "60 tensors of all sizes", "big": "one big tensor"}
TORCH: Mapping[str, Mapping[str, bool]] = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
SIDES = ("thalweg", *TORCH, "copy")
TURN, ROUNDS, BUDGET = 0.05, 15, 20.0
"""Seconds of a turn, turns of a side, and seconds after which no further round of turns begins."""
QUICK = 0.01, 3, 5.0
SCHEDULED = 1000
WIDE = 10_000_000
"""Numbers from which memory, not the processor's caches, is what an update waits for."""
COLD, WARM = 10.0, 2.0
"""The most seconds of a first step, without and with a cache folder filled by an earlier process."""
AIM = {"cpu": {"fused": 1.0}, "cuda": {"copy": 0.85}}


# --- what is stepped


@dataclass(frozen=True)
class Row:
    """title: the class's name, here and in torch; by_number: whether the rule treats every number by itself; flat: vectors too."""

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    by_number: bool = True
    flat: bool = True

    @property
    def ours(self) -> type[torch.optim.Optimizer]:
        return getattr(optim, self.title)

    @property
    def theirs(self) -> type[torch.optim.Optimizer] | None:
        return getattr(torch.optim, self.title, None)

    def new(self, kind: type[torch.optim.Optimizer], params: Iterable[nn.Parameter], **more: Any) -> torch.optim.Optimizer:
        return kind(params, **{"lr": 1e-5, **self.options, **more})  # so low that weights stay about 1 however many steps are timed


ROWS = [
    Row("SGD", "SGD"),
    Row("SGD, momentum", "SGD", {"momentum": 0.9}),
    *(Row(title, title) for title in ("Adagrad", "RMSprop", "Adadelta", "Adam")),
    Row("Adam, amsgrad", "Adam", {"amsgrad": True}),
    *(Row(title, title) for title in ("AdamW", "Adamax", "NAdam", "RAdam")),
    Row("Rprop", "Rprop", {"step_sizes": (1e-6, 1e-4)}),
    *(Row(title, title) for title in ("ASGD", "Yogi", "Lion", "AdaBelief", "ScheduleFreeSGD", "ScheduleFreeAdamW")),
    Row("Adafactor", "Adafactor", by_number=False),
    Row("Muon", "Muon", by_number=False, flat=False),
]


def shapes(name: str, quick: bool = False) -> list[tuple[int, ...]]:
    """Of a set's tensors. The mixed set is a transformer: six blocks, embeddings of tokens and places, a last norm, a head."""
    if name == "small":
        return [(64, 62)] * 50 + [(32,)] * 50
    if name == "big":
        return [(1024, 1024) if quick else (4096, 4096)]
    width = 96 if quick else 384
    block = [(3 * width, width), (3 * width,), (width, width), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [*[*block, (width,)] * 6, (2048, width), (128, width), (width,), (width,), (10, width), (10,)]


def points(row: Row, name: str, quick: bool = False) -> list[tuple[Tensor, Tensor]]:
    """A set's weights, about 1, and gradients, about a tenth: neither comes near the numbers that processors are slow with."""
    generator = torch.Generator().manual_seed(0)
    wanted = [shape for shape in shapes(name, quick) if row.flat or len(shape) > 1]
    return [(1 + 0.1 * torch.randn(shape, generator=generator), 0.1 * torch.randn(shape, generator=generator)) for shape in wanted]


def parameters(found: Sequence[tuple[Tensor, Tensor]], device: str = "cpu") -> list[nn.Parameter]:
    """Parameters of one's own, with these gradients."""
    params = []
    for x, g in found:
        params.append(nn.Parameter(x.to(device, copy=True)))
        params[-1].grad = g
    return params


# --- the table


def sides(row: Row, found: Sequence[tuple[Tensor, Tensor]], device: str) -> tuple[dict[str, Callable[[], Any]], float]:
    """What takes turns, each with states that are there already, and the bytes a number of an update."""
    found = [(x, g.to(device)) for x, g in found]
    numbers = sum(x.numel() for x, _ in found)
    ours = row.new(row.ours, parameters(found, device))
    ours.step()
    states = sum(s.numel() for held in ours.state.values() for s in held.values() if s.dim())
    size = 12 + 8 * states / numbers
    a = torch.ones(round(numbers * size / 8), device=device)
    b = torch.empty_like(a)
    calls: dict[str, Callable[[], Any]] = {"thalweg": ours.step}
    for side, asked in TORCH.items() if row.theirs else ():
        try:
            calls[side] = row.new(row.theirs, parameters(found, device), **asked).step
        except (TypeError, RuntimeError):  # torch has no such kernel for it
            if not asked:
                raise
    return calls | {"copy": lambda: b.copy_(a)}, size


def clock(call: Callable[[], Any], times: int = 1, device: str = "cpu") -> float:
    """Seconds of one call, of several in a row."""
    start = perf_counter()
    for _ in range(times):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return (perf_counter() - start) / times


def measure(calls: Mapping[str, Callable[[], Any]], quick: bool = False, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of a step of every side, turn by turn."""
    turn, rounds, budget = QUICK if quick else (TURN, ROUNDS, BUDGET)
    times = {}
    gc.collect()
    gc.disable()
    try:
        for side, call in calls.items():
            first = clock(call, 1, device)  # states begin, kernels compile
            times[side] = max(1, round(turn / (clock(call, 3, device) if first < 1 else first)))
        seconds: dict[str, list[float]] = {side: [] for side in calls}
        start = perf_counter()
        for _ in range(rounds):
            for side, call in calls.items():
                seconds[side].append(clock(call, times[side], device))
            if perf_counter() - start > budget:
                break
    finally:
        gc.enable()
    return seconds


def promised(row: Row, name: str, numbers: int, fused: bool, device: str = "cpu") -> dict[str, float]:
    """How many times as fast as each side a step is to be, at the least."""
    if not row.by_number or device != "cpu":
        return {}
    found = {} if row.theirs is None else {"fused": 0.95} if fused else {"default": 2.0}
    if name == "small" and row.theirs is not None:
        found["default"] = 3.0
    return found | ({"copy": 0.8} if numbers >= WIDE else {})


def judged(
    row: Row, name: str, numbers: int, whole: bool, size: float, seconds: Mapping[str, Sequence[float]], device: str
) -> dict[str, Any]:
    """A rule on one set. whole: whether the set is, so that anything is promised of it."""
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    speed = {side: size * numbers / middle[side] / 1e9 for side in ("thalweg", "copy")}
    ratio = {side: value / middle["thalweg"] for side, value in middle.items() if side != "thalweg"}
    least = promised(row, name, numbers, "fused" in middle, device) if whole else {}
    return {
        "bytes": size, "numbers": numbers, "seconds": middle, "bandwidth": speed, "ratio": ratio, "promise": least,
        "all_seconds": {side: list(values) for side, values in seconds.items()},
        "aim": {side: value for side, value in AIM[device].items() if side in ratio and (side != "copy" or numbers >= WIDE)},
        "kept": {side: ratio[side] >= value for side, value in least.items()},
    }  # fmt: skip


def side_by_side(row: Row, quick: bool, device: str) -> dict[str, Any]:
    """A rule on all sets."""
    found = {}
    for name in SETS:
        made = points(row, name, quick)
        calls, size = sides(row, made, device)
        numbers = sum(x.numel() for x, _ in made)
        seconds = measure(calls, quick, device)
        found[name] = {"tensors": len(made), **judged(row, name, numbers, not quick or name == "small", size, seconds, device)}
        del calls, made
    return found


# --- what happens once, and what must not happen again


def compilations() -> int:
    """Kernels compiled in this process, and graphs compiled by torch."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return len(kernel.compilations) + (dynamo.counters["stats"]["unique_graphs"] if dynamo else 0)


def first_use(device: str) -> float:
    """Seconds of what any optimizer of torch's loads at its first use in a process."""
    p = nn.Parameter(torch.ones(3, device=device))
    p.grad = torch.ones_like(p)
    return clock(lambda: torch.optim.SGD([p]).step(), 1, device)


def first_step(row: Row, device: str) -> dict[str, Any]:
    """Seconds of the first step in this process, from the parameters on, and what was compiled for it."""
    before = first_use(device)
    params, start = parameters([(x, g.to(device)) for x, g in points(row, "small")], device), compilations()
    seconds = clock(lambda: row.new(row.ours, params).step(), 1, device)
    return {"seconds": seconds, "first_use": before, "compiled": compilations() - start}


def recompiled(row: Row, device: str) -> int:
    """What is compiled after the first step, under schedules of the rate and, where there is one, the weight decay; both start at 0."""
    params = parameters([(x, g.to(device)) for x, g in points(row, "small")], device)
    opt = row.new(row.ours, params)
    if "weight_decay" in opt.param_groups[0]:
        opt.param_groups[0]["weight_decay"] = 0.1
    schedule = tw.schedules.cosine(total=SCHEDULED, warmup=SCHEDULED // 10)
    scheduler = tw.Scheduler(opt, **{name: schedule for name in ("lr", "weight_decay") if name in opt.param_groups[0]})
    before = 0
    for t in range(SCHEDULED):
        opt.step()
        scheduler.step()
        before = before if t else compilations()
    return compilations() - before


def allocated(call: Callable[[], Any], device: str = "cpu") -> tuple[int, int]:
    """Bytes of tensors beyond those that there were: the most that a call held at one time, and what it left."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    held = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most, held


def beside(row: Row, quick: bool, device: str) -> dict[str, int]:
    """Bytes held beside parameters, gradients and states while the mixed set is stepped: tensors, and Python's own.

    starting: of tensors in the first step, in which states begin; of it nothing is promised. bucket: the small tensors gathered, point,
    gradient and states.
    """
    params = parameters([(x, g.to(device)) for x, g in points(row, "mixed", quick)], device)
    kept: list[torch.optim.Optimizer] = []

    def begin() -> None:
        kept.append(row.new(row.ours, params))
        kept[0].step()

    def go_on() -> None:
        for _ in range(3):
            kept[0].step()

    most, left = allocated(begin, device)
    held = [s for state in kept[0].state.values() for s in state.values()]
    states = sum(s.untyped_storage().nbytes() for s in held if device == "cpu" or s.device.type != "cpu")
    later, _ = allocated(go_on, device)
    tracemalloc.start()
    kept[0].step()
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    small = [p for p in params if p.numel() < LARGE]
    gathered = sum(2 * p.numel() + sum(s.numel() for s in kept[0].state[p].values() if s.dim()) for p in small)
    return {"tensors": max(0, left - states) + later, "python": python, "starting": max(0, most - states), "bucket": 4 * gathered}


def once(row: Row, cold: Mapping[str, Any], warm: Mapping[str, Any]) -> dict[str, Any]:
    """What two fresh processes found, the second with the first one's cache folder, and which promises it keeps."""
    memory = cold["memory"]
    found = {
        "cold": cold["seconds"], "warm": warm["seconds"], "first_use": [cold["first_use"], warm["first_use"]],
        "compiled": [cold["compiled"], warm["compiled"]], "recompiled": cold["recompiled"], "memory": memory,
    }  # fmt: skip
    kept = {
        "cold": found["cold"] <= COLD, "warm": found["warm"] <= WARM, "recompiled": found["recompiled"] == 0,
        "memory": memory["tensors"] + memory["python"] <= memory["bucket"],
    }  # fmt: skip
    return {**found, "kept": kept if row.by_number else {}}


def one_turn(row: Row, what: str, quick: bool, device: str) -> dict[str, Any]:
    """What is asked of a process: the table's rows of a rule, or its first step, cold (and what follows from it) or warm."""
    if what == "table":
        return side_by_side(row, quick, device)
    found = first_step(row, device)
    return found if what == "warm" else {**found, "recompiled": recompiled(row, device), "memory": beside(row, quick, device)}


def assembled(row: Row, turn: Callable[[str, Path | None], dict[str, Any]]) -> dict[str, Any]:
    """All of a rule. turn: answers what is asked of a process with this cache folder."""
    found: dict[str, Any] = {"row": row.name, "load": psutil.getloadavg(), "by_number": row.by_number, "sets": {}, "once": {}, "failed": {}}
    try:
        found["sets"] = turn("table", None)
    except Failed as error:
        found["failed"]["table"] = str(error)
    with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder:
        try:
            cold = turn("cold", Path(folder))
            found["once"] = once(row, cold, turn("warm", Path(folder)))
        except Failed as error:
            found["failed"]["first step"] = str(error)
    return found


# --- what is said of it


def brief(seconds: float | None) -> str:
    """Milliseconds in three digits.

    >>> [brief(s) for s in (0.0000712, 0.0256, 1.234, None)]
    ['0.0712', '25.6', '1234', '-']
    """
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def large(size: float) -> str:
    """Bytes in a word.

    >>> [large(n) for n in (164, 1_264_000)]
    ['164 B', '1.26 MB']
    """
    return f"{size:.0f} B" if size < 1e3 else f"{size / 1e3:.3g} kB" if size < 1e6 else f"{size / 1e6:.3g} MB"


COLUMNS = ("bytes", *SIDES, "default /", "foreach /", "fused /", "of copy")
ONCE = ("cold", "warm", "compiled", "again", "beside", "bucket")


def cells(found: Mapping[str, Any], mark: str) -> list[str]:
    """A rule on one set, in words; what misses its promise between marks."""
    ratio, kept = found["ratio"], found["kept"]
    times = [brief(found["seconds"].get(side)) for side in SIDES]
    told = [cell(ratio.get(side), ".0%" if side == "copy" else ".2f") for side in (*TORCH, "copy")]
    marked = [text if kept.get(side, True) else f"{mark}{text}{mark}" for side, text in zip((*TORCH, "copy"), told, strict=True)]
    return [f"{found['bytes']:.0f}", *times, *marked]


def once_cells(found: Mapping[str, Any], mark: str) -> list[str]:
    """What a rule does once, in words."""
    memory, kept = found["memory"], found["kept"]
    told = {
        "cold": f"{found['cold']:.2f}", "warm": f"{found['warm']:.2f}", "compiled": f"{found['compiled'][0]}",
        "recompiled": f"{found['recompiled']}", "memory": large(memory["tensors"] + memory["python"]), "": large(memory["bucket"]),
    }  # fmt: skip
    return [text if kept.get(what, True) else f"{mark}{text}{mark}" for what, text in told.items()]


def heading(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A set as it was measured: its numbers are those of most rules."""
    numbers = statistics.mode(row["sets"][name]["numbers"] for row in rows if row["sets"])
    return f"{SETS[name]}, {numbers / 1e6:.1f} million numbers"


def show(results: Mapping[str, Any]) -> None:
    for rows in (results["rows"], results["accelerator"]):
        for row in rows:
            if "not_measured" in row:
                print(f"\non an accelerator: not measured, {row['not_measured']}")
        rows = [row for row in rows if "not_measured" not in row]
        for name in SETS if any(row["sets"] for row in rows) else ():
            widths = [7, *[10] * len(SIDES), *[11] * 4]
            print("\n" + line(f"{name}: ms a step", COLUMNS, widths))
            for row in rows:
                if row["sets"]:
                    print(line(row["row"], cells(row["sets"][name], "!"), widths))
            print(f"{heading(name, rows)}; default /: how many times as fast as torch's default; !: below what is promised")
        if any(row["once"] for row in rows):
            widths = [8, 8, 10, 8, 10, 10]
            print("\n" + line("first step, s; memory", ONCE, widths))
            for row in rows:
                if row["once"]:
                    print(line(row["row"], once_cells(row["once"], "!"), widths))
            print(f"again: compiled during {SCHEDULED} scheduled steps; beside: held beside parameters, gradients, states; at most bucket")
    print()


def blamed(what: str, told: Mapping[str, Any]) -> str:
    """A promise about what happens once that is missed, in words."""
    if what == "recompiled":
        return f"compiled {told['recompiled']} times during {SCHEDULED} scheduled steps, never is promised"
    if what == "memory":
        tensors, python, bucket = (large(told["memory"][kind]) for kind in ("tensors", "python", "bucket"))
        return f"{tensors} of tensors and {python} of Python's beside parameters, gradients and states, {bucket} is promised"
    cache, most = ("an empty", COLD) if what == "cold" else ("a filled", WARM)
    return f"the first step took {told[what]:.1f} s with {cache} cache folder, {most:g} s is promised"


def missed(results: Mapping[str, Any]) -> list[str]:
    """What a run fails for, in words."""
    said = []
    for row in (*results["rows"], *results["accelerator"]):
        said += [f"{row['row']}: {what} failed: {text}" for what, text in row.get("failed", {}).items()]
        for name, found in row.get("sets", {}).items():
            for side in [side for side, kept in found["kept"].items() if not kept]:
                against = "the bandwidth of a copy" if side == "copy" else f"as fast as torch's {side}"
                said.append(
                    f"{row['row']}, {SETS[name]}: {found['ratio'][side]:.2f} times {against}, {found['promise'][side]:g} is promised"
                )
        told = row.get("once") or {"kept": {}}
        said += [f"{row['row']}: {blamed(what, told)}" for what, kept in told["kept"].items() if not kept]
    return said


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as tables of a page."""
    lines = []
    for name in SETS if any(row["sets"] for row in rows) else ():
        told = [[row["row"], *cells(row["sets"][name], "**")] for row in rows if row["sets"]]
        heads = ["", "bytes", *SIDES, "default / thalweg", "foreach / thalweg", "fused / thalweg", "of the copy's bandwidth"]
        title = heading(name, rows)
        lines += [f"{title[0].upper()}{title[1:]}, milliseconds a step:", "", *tabular(heads, told), ""]
    heads = ["", "first step, cold, s", "warm, s", "compiled", f"compiled in {SCHEDULED:,} scheduled steps", "memory beside", "at most"]
    told = [[row["row"], *once_cells(row["once"], "**")] for row in rows if row["once"]]
    return [*lines, *tabular(heads, told), ""] if told else lines


def page(results: Mapping[str, Any], accelerator: Mapping[str, Any] | None = None) -> str:
    """The results as the docs show them."""
    lines = [measured_on(results), "", *tables(results["rows"])]
    told = accelerator or results
    for row in told["accelerator"]:
        if "not_measured" in row:
            lines.append(f"On an accelerator: not measured, {row['not_measured']}.")
    measured = [row for row in told["accelerator"] if "not_measured" not in row]
    if measured:
        lines += [f"On {told['hardware']['accelerator']}, {told['date']}, torch {told['hardware']['torch']}:", "", *tables(measured)]
    return "\n".join(lines).rstrip() + "\n"


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, "optim")
    parser.add_argument("--quick", action="store_true", help="few turns, two of the sets small: promises only about the other one")
    parser.add_argument("--only", action="append", metavar="NAME", help="rules whose name contains this; may be repeated")
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)  # ROW WHAT PATH, in a process of its own
    options = parser.parse_args(arguments)
    if options.docs:
        refill("optim", FORMAT, page)
        return 0
    if options.save and options.quick:
        parser.error("a quick run is not for --save; use --json PATH")
    if options.turn:
        name, what, out = options.turn
        torch.save(one_turn(next(row for row in ROWS if row.name == name), what, options.quick, options.device), out)
        return 0
    chosen = [row for row in ROWS if any(word.lower() in row.name.lower() for word in options.only or [""])]
    if not chosen:
        parser.error(f"no rule is named so; there are {', '.join(row.name for row in ROWS)}")
    here, found = options.device == "cpu" or torch.cuda.is_available(), "rows" if options.device == "cpu" else "accelerator"
    results, saved = begun("optim", FORMAT, options, options.quick)
    results |= {"rows": [], "accelerator": []}
    if options.device == "cpu" or not here:
        why = "run with --device cuda" if torch.cuda.is_available() else "this machine has none"
        results["accelerator"] = [{"row": "all", "not_measured": why}]
    names = [row.name for row in ROWS] if options.only else None
    rest = ["--device", options.device, *["--quick"] * options.quick]
    for row in chosen if here else []:
        results[found].append(assembled(row, lambda what, cache, row=row: answer(Path(__file__), [row.name, what], rest, cache)))
        print(f"{row.name}: {'failed' if results[found][-1]['failed'] else 'measured'}", file=sys.stderr, flush=True)
        keep(results, options.json, saved, names)
    results["whole"] = not options.quick and not options.only
    show(results)
    return ended(keep(results, options.json, saved, names), missed(results))


if __name__ == "__main__":
    sys.exit(main())
