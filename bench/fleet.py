"""The fleet against the loop a user would have written, side by side in one run.

    python bench/fleet.py [--quick] [--only NAME]... [--device cpu|cuda] [--json PATH | --save]
    python bench/fleet.py --docs

Each row trains the same configurations, from the same weights, on the same batches: by a hand-written PyTorch loop, one configuration
after the other, and by thalweg's engines. Every turn of a side is a process of its own with a cache folder of its own, so that what a
sweep does but once (recording, measuring forms, compiling kernels, starting workers) is in its seconds, and a crash costs one turn.
What a process loads at the very first use of torch.optim or of thalweg is loaded before, on every side. Sides take turns; of three
turns the median counts, of a side that takes longer than 20 seconds the first. The exit code is 1 where a promise is missed or a row
fails; promises are about whole rows, so a quick run holds few. `--save` writes bench/results/fleet-<date>.json, `--only` the rows it
measured into the same day's file; `--docs` puts the newest of those files into docs/fleet.md and measures nothing. Figures count on
a machine that does nothing else: the load at the start is among the results.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from common import DOCS, Failed, answer, begun, cell, ended, keep, line, measured_on, parser_of, refill, tabular
from thalweg.core import catalogue
from thalweg.models import cnn, logistic, mlp, two_layer

PAGE = DOCS / "fleet.md"
FORMAT = 2
"""Of the results files; those without it come from before rows had all engines."""
ENGINES = {"cpu": ("fleet", "solo", "pool", "auto"), "cuda": ("fleet", "solo", "auto")}
LOOPS = {"cpu": ("loop",), "cuda": ("loop", "graphs")}
LONG = 20.0
"""Seconds from which a side has one turn only."""
NEAR = 1.1
"""How many times the seconds of the best engine `auto` may take, its choosing among them."""
TAME = 1e-3
"""Up to this rate a run is not chaotic in single precision, so that loop and fleet can be compared number by number."""


# --- what is trained


@dataclass(frozen=True)
class Row:
    """model, loss, data: as tw.sweep takes them. promise: the least ratio loop / auto, or None; aim: what would be good."""

    name: str
    model: nn.Module
    loss: Callable
    data: tuple[Tensor, Tensor]
    rates: Sequence[float]
    batch_size: int
    steps: int
    promise: float | None = None
    aim: float | None = None


class Attention(nn.Module):
    """A classifier of sequences: token embedding, one pre-norm transformer block with causal attention, the mean over tokens, a layer."""

    def __init__(self, tokens: int, outputs: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(tokens, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.mlp(self.between(x))
        return self.head(x.mean(1))


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation, around which the input goes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        short = stride == 1 and before == width
        self.around = nn.Identity() if short else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.around(x))


def resnet18(outputs: int = 10) -> nn.Module:
    """ResNet-18 for images of 32x32 pixels: 11.17 million numbers. He et al. 2016"""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for width in (64, 128, 256, 512):
        layers += [Residual(before, width, 1 if width == 64 else 2), Residual(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, outputs))


def classes(rows: int, shape: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, *shape, generator=generator), torch.randint(count, (rows,), generator=generator)


def between(low: float, high: float, count: int) -> list[float]:
    return np.geomspace(low, high, count).tolist()


def rows(quick: bool = False, device: str = "cpu", most: int | None = None) -> list[Row]:
    """The table. quick: fewer lanes and steps, and a promise only where the row is whole. most: steps at the most, nothing promised."""
    torch.manual_seed(0)
    ce, bce = F.cross_entropy, F.binary_cross_entropy_with_logits
    X, y = classes(5000, (20,), 2)
    small = (logistic((20,), 1), bce, (X, y.float()[:, None]))
    digits = catalogue.shelf("datasets")["digits"]()
    net = (two_layer((64,), 10), ce, (digits.X.float(), digits.y))
    tokens = torch.randint(256, (512, 32), generator=torch.Generator().manual_seed(0))
    dense = (mlp((784,), 10, hidden=128, depth=1), ce, classes(4000, (784,), 10))
    images = (cnn((1, 28, 28), 10), ce, classes(1000, (1, 28, 28), 10))
    wide, many = (1e-5, 1e-1), (lambda count: max(4, count // 4)) if quick else (lambda count: count)
    if device != "cpu":
        table = [
            Row("MLP 784-128-10, 64 rates", *dense, between(*wide, many(64)), 64, 2000),
            Row("CNN 1x28x28, 64 rates", *images, between(*wide, many(64)), 32, 100),
        ]
    else:
        table = [
            Row("logistic regression, short", *small, between(*wide, 128), 128, 200, promise=15.0),
            Row("logistic regression, long", *small, between(*wide, 128), 128, 5000, promise=50.0),
            Row("MLP 784-128-10", *dense, between(*wide, many(32)), 64, 2000, promise=2.5, aim=4.0),
            Row("CNN 1x28x28", *images, between(*wide, many(8)), 32, 100, promise=1.3, aim=2.0),
            Row("two-layer net, digits", *net, between(*wide, many(256)), 32, 200, promise=20.0),
            Row("transformer block", Attention(256, 10), ce, (tokens, tokens[:, 0] % 10), between(1e-5, 1e-2, 4), 16, 30, promise=0.95),
            Row("ResNet-18, 3x32x32", resnet18(), ce, classes(64, (3, 32, 32), 10), between(1e-4, 1e-3, 2), 16, 15, promise=0.95),
        ]
    if quick:
        table = [
            row if row.name == "logistic regression, short" else replace(row, steps=max(2, row.steps // 10), promise=None, aim=None)
            for row in table
        ]
    return [replace(row, steps=min(row.steps, most), promise=None, aim=None) for row in table] if most else table


# --- the sides


def by_hand(row: Row, device: str = "cpu", graphs: bool = False) -> list[nn.Module]:
    """The loop, as a user would write it: an optimizer that is fused, batches gathered by index."""
    trained = []
    X, y = (part.to(device) for part in row.data)
    order = [index.to(device) for index in tw.batches(len(X), row.batch_size, seed=0, steps=row.steps)]
    replayed = Graphed(row, X[order[0]], y[order[0]]) if graphs else None
    for lr in row.rates:
        model = copy.deepcopy(row.model).to(device) if replayed is None else replayed.restart()
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        for index in order:
            optimizer.zero_grad()
            loss = row.loss(model(X[index]), y[index]) if replayed is None else replayed(X[index], y[index])
            loss.backward()
            optimizer.step()
        trained.append(model if replayed is None else copy.deepcopy(model))
    return trained


class Graphed:
    """A model's forward and backward as CUDA graphs, captured once for all rates; a batch of another size goes the plain way."""

    def __init__(self, row: Row, x: Tensor, y: Tensor) -> None:
        self.row, self.size = row, len(x)
        self.model = copy.deepcopy(row.model).to(x.device)
        self.plain = Lossy(self.model, row.loss)
        self.fast = torch.cuda.make_graphed_callables(Lossy(self.model, row.loss), (x, y))

    def restart(self) -> nn.Module:
        """The model with the weights that every rate starts from; they stay where the graphs look for them."""
        self.model.load_state_dict(self.row.model.state_dict())
        return self.model

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.fast if len(x) == self.size else self.plain)(x, y)


class Lossy(nn.Module):
    """A model and its loss in one."""

    def __init__(self, model: nn.Module, loss: Callable) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.model(x), y)


def by_engine(row: Row, engine: str, device: str = "cpu") -> Any:
    configs = [{"lr": lr} for lr in row.rates]
    return tw.sweep(
        row.model, row.loss, row.data, optimizer="adam", configs=configs, steps=row.steps, batch_size=row.batch_size, engine=engine,
        every=row.steps, device=device,
    )  # fmt: skip


def timed(call: Callable[[], Any], device: str = "cpu") -> tuple[float, Any]:
    gc.collect()
    start = perf_counter()
    value = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return perf_counter() - start, value


# --- one turn, in a process of its own


def first_use(side: str, device: str) -> None:
    """What a side loads when it is first used; the rule is another than the row's, so that it compiles nothing for it."""
    torch.manual_seed(0)
    row = Row("", nn.Linear(3, 2), F.cross_entropy, (torch.rand(8, 3), torch.randint(2, (8,))), [0.1, 0.2], 4, 2)
    if side in LOOPS[device]:
        by_hand(row, device)
        return
    from thalweg.engine.fleet import fleet

    configs = [{"lr": lr} for lr in row.rates]
    for fleet.TAPED in (True, None):
        tw.sweep(row.model, row.loss, row.data, optimizer="sgd", configs=configs, steps=2, batch_size=4, engine="fleet", device=device)


def clocked(owners: Sequence[Any], name: str, function: Any, note: Callable[[Any], Any] = lambda _: None) -> list[tuple[float, Any]]:
    """Seconds of every call of a function from now on, under the name it has in its owners, and what is noted of its answer."""
    calls: list[tuple[float, Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        answer = function(*args, **kwargs)
        calls.append((perf_counter() - start, note(answer)))
        return answer

    for owner in owners:
        setattr(owner, name, call)
    return calls


def one_turn(row: Row, side: str, device: str) -> dict[str, Any]:
    """What a side takes and leaves: seconds, the weights of the tame lanes, and what was done but once."""
    from thalweg.engine.fleet import choose
    from thalweg.engine.recording import kernel, tape

    before, _ = timed(lambda: first_use(side, device), device)
    users = [m for n, m in list(sys.modules.items()) if n.startswith("thalweg.engine.") and getattr(m, "record", None) is tape.record]
    recordings = clocked(users, "record", tape.record)
    choices = clocked([choose], "choose", choose.choose, lambda choice: {n: str(v) for n, v in vars(choice).items()})
    compiled = len(kernel.compilations)
    tame = [k for k, rate in enumerate(row.rates) if rate <= TAME * (1 + 1e-9)]
    if side in LOOPS[device]:
        seconds, models = timed(lambda: by_hand(row, device, graphs=side == "graphs"), device)
        states = [dict(models[k].named_parameters()) for k in tame]
        return {"seconds": seconds, "first_use": before, "weights": [{n: p.detach().cpu() for n, p in s.items()} for s in states]}
    seconds, runs = timed(lambda: by_engine(row, side, device), device)
    names = dict(row.model.named_parameters())
    return {
        "seconds": seconds, "first_use": before, "weights": [{n: runs.state_dict(k)[n] for n in names} for k in tame],
        "chosen": str(runs.engine), "choosing": sum(spent for spent, _ in choices), "choice": choices[-1][1] if choices else {},
        "kernels": list(kernel.compilations[compiled:]), "recordings": [spent for spent, _ in recordings],
        "diverged": int((runs.diverged_at >= 0).sum()),
    }  # fmt: skip


def in_a_process(name: str, side: str, device: str, quick: bool, most: int | None) -> dict[str, Any]:
    """A turn in a fresh process with a fresh cache."""
    rest = ["--device", device, *["--quick"] * quick, *(["--steps", str(most)] if most else [])]
    return answer(Path(__file__), [name, side], rest)


# --- a row, and the rules


def measure(row: Row, sides: Sequence[str], turn: Callable[[str], dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Seconds of the loop and of each engine: medians over repeats, in which the sides take turns. A side that fails has no seconds."""
    seconds: dict[str, list[float]] = {}
    last: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    load = psutil.getloadavg()
    for repeat in range(repeats):
        for side in sides:
            if side in failed or (repeat and seconds[side][0] >= LONG):
                continue
            try:
                last[side] = turn(side)
            except Failed as error:
                failed[side] = str(error)
                continue
            seconds.setdefault(side, []).append(last[side]["seconds"])
            print(f"{row.name}: {side} {seconds[side][-1]:.2f} s", file=sys.stderr, flush=True)
    middle = {side: statistics.median(values) for side, values in seconds.items() if side not in failed}
    engines = {side: value for side, value in middle.items() if side not in ("loop", "graphs")}
    ratio = {side: middle["loop"] / value for side, value in middle.items()} if "loop" in middle else {}
    gaps = {side: gap(last["loop"]["weights"], last[side]["weights"]) for side in engines if "loop" in last}
    best = min(engines, key=lambda side: engines[side], default="")
    return {
        "row": row.name, "lanes": len(row.rates), "batch": row.batch_size, "steps": row.steps, "load": load, "seconds": middle,
        "all_seconds": seconds, "ratio": ratio, "promise": row.promise, "aim": row.aim,
        "kept": None if row.promise is None else ratio.get("auto", 0.0) >= row.promise,
        "chosen": last.get("auto", {}).get("chosen"), "choosing": last.get("auto", {}).get("choosing"), "best": best,
        "choices": {side: {"choosing": last[side]["choosing"], **last[side]["choice"]} for side in engines},
        "near_best": engines["auto"] <= NEAR * engines[best] if "auto" in engines else None,
        "gap": gaps.get("fleet"), "gaps": gaps, "diverged": last.get("fleet", {}).get("diverged"),
        "first_use": {side: end["first_use"] for side, end in last.items()},
        "once": {side: {what: last[side][what] for what in ("kernels", "recordings")} for side in engines}, "failed": failed,
    }  # fmt: skip


def gap(theirs: Sequence[Mapping[str, Tensor]], ours: Sequence[Mapping[str, Tensor]]) -> float:
    """The largest relative gap between the tensors of two sets of lanes; infinite where one is not finite."""
    gaps = [
        float((b[n].double() - p.double()).norm() / p.double().norm().clamp(min=1e-12))
        for a, b in zip(theirs, ours, strict=True)
        for n, p in a.items()
    ]
    return max((value if np.isfinite(value) else float("inf") for value in gaps), default=0.0)


def rules(lanes: int, steps: int) -> list[dict[str, Any]]:
    """Every rule of the catalogue in a fleet: seconds of one lane alone, and of many together."""
    torch.manual_seed(0)
    model, data = mlp((64,), 10, hidden=64, depth=1), classes(1000, (64,), 10)
    found: list[dict[str, Any]] = []
    for name, rule in catalogue.shelf("optimizers").items():
        first = next(iter(rule.hypers))  # what every rule varies: its rate, or what stands for it
        values = np.geomspace(0.1, 1.0, lanes) * rule.hypers[first].default

        def call(values: Sequence[float], engine: str, name: str = name, first: str = first) -> Any:
            configs = [{first: float(value)} for value in values]
            return tw.sweep(
                model, F.cross_entropy, data, optimizer=name, configs=configs, steps=steps, batch_size=64, engine=engine, every=steps,
                device="cpu",
            )  # fmt: skip

        try:
            call(values[:2], "fleet")
            alone, _ = timed(lambda call=call, values=values: call(values[:1], "solo"))
            together, _ = timed(lambda call=call, values=values: call(values, "fleet"))
        except Exception as error:
            found.append({"rule": name, "lanes": lanes, "steps": steps, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
            continue
        found.append({"rule": name, "lanes": lanes, "steps": steps, "solo_1": alone, "fleet": together, "ratio": lanes * alone / together})
    return found


# --- what is said of it


def show(results: Mapping[str, Any]) -> None:
    for table, device in ((results["rows"], "cpu"), (results["accelerator"], "cuda")):
        measured = [row for row in table if "not_measured" not in row]
        for row in table:
            if row not in measured:
                print(f"\n{row['row']}: not measured, {row['not_measured']}", end="")
        if not measured:
            continue
        sides, engines = (*LOOPS[device], *ENGINES[device]), ENGINES[device]
        widths = [6, 6, 6, *[10] * len(sides), 10, 12]
        print("\n" + line("seconds", ["lanes", "batch", "steps", *sides, "choosing", "auto chose"], widths))
        for row in measured:
            sizes = [str(row[name]) for name in ("lanes", "batch", "steps")]
            times = [cell(row["seconds"].get(side), ".2f", "failed") for side in sides]
            print(line(row["row"], [*sizes, *times, cell(row["choosing"], ".2f"), cell(row["chosen"], "")], widths))
        others = [name for name in ("graphs", "pool") if name in sides]
        widths = [12, 12, *[12] * len(others), 10, 6, 8, 13, 10, 10]
        heads = ["loop/fleet", "loop/auto", *(f"{name}/auto" for name in others)]
        heads += ["promised", "aim", "kept", "within 10 %", "gap", "diverged"]
        print("\n" + line("times as fast", heads, widths))
        for row in measured:
            times, auto = row["seconds"], row["seconds"].get("auto")
            against = [times[name] / auto if name in times and auto else None for name in others]
            ratios = [cell(value, ".2f") for value in (row["ratio"].get("fleet"), row["ratio"].get("auto"), *against)]
            told = [cell(row["promise"], "g"), cell(row["aim"], "g"), cell(row["kept"], ""), cell(row["near_best"], "")]
            print(line(row["row"], [*ratios, *told, cell(row["gap"], ".0e"), cell(row["diverged"], "d")], widths))
        widths = [8, 10, 10, 12, 10]
        print("\n" + line("done once in a sweep", ["engine", "kernels", "s", "recordings", "s"], widths))
        for row in measured:
            for engine in [name for name in engines if name != "pool" and name in row["once"]]:  # the pool's are its workers'
                kinds = [row["once"][engine][what] for what in ("kernels", "recordings")]
                print(line(row["row"], [engine, *(text for kind in kinds for text in (str(len(kind)), f"{sum(kind):.2f}"))], widths))
        for side, what in (("loop", "torch.optim"), ("fleet", "a fleet")):
            used = [row["first_use"][side] for row in measured if side in row["first_use"]]
            if used:
                print(f"in no row: {statistics.median(used):.2f} s for what the first use of {what} in a process loads")
    if results["rules"]:
        widths = [6, 12, 12, 24]
        print("\n" + line("rule", ["lanes", "1 solo s", "fleet s", "lanes x solo / fleet"], widths))
    for row in results["rules"]:
        times = [cell(row.get(name), form, "failed") for name, form in (("solo_1", ".3f"), ("fleet", ".3f"), ("ratio", ".1f"))]
        print(line(row["rule"], [str(row["lanes"]), *times], widths))
    print()


def missed(results: Mapping[str, Any]) -> list[str]:
    """What a run fails for, in words."""
    said = []
    for row in (*results["rows"], *results["accelerator"]):
        said += [f"{row['row']}: {side} failed: {text}" for side, text in row.get("failed", {}).items()]
        if row.get("kept") is False and "auto" in row["ratio"]:
            said.append(f"{row['row']}: auto is {row['ratio']['auto']:.2f} times as fast as the loop, {row['promise']:g} is promised")
        if row.get("near_best") is False and not results["quick"]:
            auto, best = row["seconds"]["auto"], row["seconds"][row["best"]]
            said.append(f"{row['row']}: auto took {auto:.2f} s, {row['best']} {best:.2f} s; 10 % more is allowed")
    return said + [f"{row['rule']}: failed: {row['failed']}" for row in results["rules"] if "failed" in row]


def page(results: Mapping[str, Any], accelerator: Mapping[str, Any] | None = None) -> str:
    """The results as the docs show them."""
    heads = ["", "lanes x steps", "loop", *ENGINES["cpu"], "auto chose", "loop / fleet", "loop / auto", "promised", "gap"]
    cells = []
    for row in results["rows"]:
        times = [cell(row["seconds"].get(side), ".2f", "failed") for side in ("loop", *ENGINES["cpu"])]
        ratios = [cell(row["ratio"].get(name), ".1f") for name in ("fleet", "auto")]
        first, promise = [row["row"], f"{row['lanes']} x {row['steps']}"], [cell(row["promise"], "g"), cell(row["gap"], ".0e")]
        cells.append([*first, *times, cell(row["chosen"], ""), *ratios, *promise])
    lines = [f"{measured_on(results)} Seconds, all-inclusive.", "", *tabular(heads, cells), ""]
    told = accelerator or results
    for row in told["accelerator"]:
        if "not_measured" in row:
            lines.append(f"On an accelerator, {row['row']}: not measured, {row['not_measured']}.")
        else:
            times = ", ".join(f"{side} {value:.2f} s" for side, value in row["seconds"].items())
            lines.append(f"On {told['hardware']['accelerator']}, {row['row']}, {row['steps']} steps: {times}.")
    return "\n".join(lines).rstrip() + "\n"


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, "fleet")
    parser.add_argument("--quick", action="store_true", help="one turn a side, fewer lanes and steps; promises only where a row is whole")
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name contains this, or rules; may be repeated")
    parser.add_argument("--steps", type=int, help="at most so many steps, one turn a side, nothing promised: to try the bench itself")
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)  # ROW SIDE PATH, in a process of its own
    options = parser.parse_args(arguments)
    if options.docs:
        refill("fleet", FORMAT, page)
        return 0
    small = options.quick or options.steps is not None
    if options.save and small:
        parser.error("a quick run is not for --save; use --json PATH")
    sizes = (8, min(20, options.steps or 20)) if small else (32, 100)
    table = rows(options.quick, options.device, options.steps)
    if options.turn:
        name, side, out = options.turn
        ends = rules(*sizes) if name == "rules" else one_turn(next(r for r in table if r.name == name), side, options.device)
        torch.save(ends, out)
        return 0
    asked = [word.lower() for word in options.only or [""]]
    chosen = [row for row in table if any(word in row.name.lower() for word in asked)]
    with_rules = options.device == "cpu" and any(word in "rules" for word in asked)
    if not chosen and not with_rules:
        parser.error(f"no row is named so; there are {', '.join(row.name for row in table)} and rules")
    found, here = "rows" if options.device == "cpu" else "accelerator", options.device == "cpu" or torch.cuda.is_available()
    results, saved = begun("fleet", FORMAT, options, small)
    results |= {"rows": [], "rules": [], "accelerator": []}
    if options.device == "cpu" or not here:
        why = "this machine has none" if not torch.cuda.is_available() else "run with --device cuda"
        results["accelerator"] = [{"row": row.name, "not_measured": why} for row in rows(options.quick, "cuda", options.steps)]
    names = [row.name for row in table] if options.only else None

    def turn(name: str, side: str) -> Any:
        return in_a_process(name, side, options.device, options.quick, options.steps)

    for row in chosen if here else []:
        sides = (*LOOPS[options.device], *ENGINES[options.device])
        results[found].append(measure(row, sides, lambda side, row=row: turn(row.name, side), 1 if small else 3))
        keep(results, options.json, saved, names)
    if with_rules:
        try:
            results["rules"] = turn("rules", "fleet")
        except Failed as error:
            results["rules"] = [{"rule": "all", "lanes": sizes[0], "steps": sizes[1], "failed": str(error)}]
    results["whole"] = not small and not options.only
    show(results)
    return ended(keep(results, options.json, saved, names), missed(results))


if __name__ == "__main__":
    sys.exit(main())
