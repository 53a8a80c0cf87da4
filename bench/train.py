"""One run of `tw.train` against the loop a user would have written, side by side in one process.

    python bench/train.py [--quick] [--only NAME]... [--data DIR] [--device cpu|cuda] [--json PATH | --save]
    python bench/train.py --docs

The CNN is trained on all 60,000 images of Fashion-MNIST and of MNIST, Adam at its defaults, batches of 32, 3 epochs, seeds 0 to 2: by a
plain PyTorch loop (data in memory, gathered by index, `torch.optim.Adam` as a user gets it) and by `tw.train`, from the same weights and
on the same batches, as it is, and under bfloat16 autocast where the processor computes in that type. A row is a process of its own with
an empty cache folder; the sides take turns in it, seed by seed, and each begins at every other seed. Seconds are those of the
training alone, an epoch, the median over seeds: evaluations count on neither side, nor does what a process loads at the first use of
torch.optim or of thalweg. For information, a loop over a DataLoader without workers is timed for 300 steps. Then ResNet-18 and DenseNet
are held against the CNN, one epoch each on 10,000 images of Fashion-MNIST.

The exit code is 1 where a promise is missed or a row fails; `--quick` trains little and promises nothing. `--save` writes
bench/results/train-<date>.json, with `--only` the rows it measured into the same day's file; `--docs` puts the newest of those files into
docs/train.md and measures nothing. Figures count on a machine that does nothing else: the load at the start is among the results.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw
from common import Failed, answer, begun, cell, cpuinfo, ended, keep, line, measured_on, parser_of, refill, tabular

FORMAT = 1
BATCH = 32
SIDES = ("plain", "thalweg")
NETS = {"CNN": "cnn", "ResNet-18": "resnet18", "DenseNet": "densenet"}
BETTER = "ResNet-18, DenseNet"
"""The row of the nets that are to beat the CNN."""
BF16 = {"avx512_bf16", "amx_bf16"}
"""What a processor calls its arithmetic in bfloat16."""


# --- what is trained


@dataclass(frozen=True)
class Row:
    """published: the test accuracy known for it, in per cent. points: how far from the loop's accuracy the mean may be.

    most: times the loop's seconds that an epoch may take, or None; aim: what would be good.
    """

    name: str
    problem: str
    published: float
    precision: str | None = None
    points: float = 0.4
    most: float | None = 1.0
    aim: float | None = None


HALF = {"precision": "bf16", "points": 0.3, "most": None, "aim": 0.5}
ROWS = [
    Row("CNN, Fashion-MNIST, float32", "fashion-mnist-cnn", 88.6),
    Row("CNN, MNIST, float32", "mnist-cnn", 98.6),
    Row("CNN, Fashion-MNIST, bf16", "fashion-mnist-cnn", 88.6, **HALF),
    Row("CNN, MNIST, bf16", "mnist-cnn", 98.6, **HALF),
]


@dataclass(frozen=True)
class Size:
    """rows, test: the first so many training and test rows. loader: steps of the loop over a DataLoader."""

    rows: int
    test: int
    epochs: int
    seeds: tuple[int, ...]
    loader: int = 0


WHOLE, FEW = Size(60_000, 10_000, 3, (0, 1, 2), 300), Size(10_000, 10_000, 1, (0, 1))
QUICK, QUICK_FEW = Size(640, 1000, 1, (0, 1), 10), Size(160, 1000, 1, (0,))


def given(name: str, size: Size, data: str | None) -> tw.Problem:
    """A problem with all rows of that size for training and none for validation."""
    problem = tw.problem(name, data=data, valid=0)
    return replace(
        problem, train=tuple(part[: size.rows] for part in problem.train), test=tuple(part[: size.test] for part in problem.test)
    )


# --- the sides


@dataclass(frozen=True)
class End:
    """accuracy: on the test rows, in per cent. seconds: of the training, an epoch. besides: those of the call that were not training."""

    model: nn.Module
    accuracy: float
    seconds: float
    besides: float = 0.0
    layout: str = "as given"


def by_hand(problem: tw.Problem, size: Size, seed: int, device: str = "cpu") -> End:
    """The loop, as a user would write it, on the batches of that seed."""
    (X, y), (X_test, y_test) = ([part.to(device) for part in rows] for rows in (problem.train, problem.test))
    torch.manual_seed(seed)
    model = problem.model().to(device)
    optimizer = torch.optim.Adam(model.parameters())
    start = perf_counter()
    for index in tw.batches(len(X), BATCH, seed=seed, epochs=size.epochs):
        step(model, optimizer, X[index], y[index])
    wait(device)
    seconds = perf_counter() - start
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in X_test.split(1000)]) == y_test
    return End(model, 100 * right.double().mean().item(), seconds / size.epochs)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def by_loader(problem: tw.Problem, size: Size, device: str = "cpu") -> float:
    """Seconds of an epoch of the loop over a DataLoader as it is without arguments, from so many steps."""
    model = problem.model().to(device)
    optimizer = torch.optim.Adam(model.parameters())
    flow = DataLoader(TensorDataset(*problem.train), batch_size=BATCH, shuffle=True)
    start = perf_counter()
    for _, (x, y) in zip(range(size.loader), flow, strict=False):
        step(model, optimizer, x.to(device), y.to(device))
    wait(device)
    return (perf_counter() - start) / size.loader * len(flow)


def by_train(problem: tw.Problem, size: Size, seed: int, precision: str | None = None, device: str = "cpu") -> End:
    start = perf_counter()
    run = tw.train(problem, "adam", epochs=size.epochs, batch_size=BATCH, seed=seed, valid=0, precision=precision, device=device)
    besides = perf_counter() - start - run.seconds
    return End(run.model, 100 * run.test["accuracy"], run.seconds / size.epochs, besides, run.spec["layout"])


# --- one turn, in a process of its own


def first_use(device: str) -> None:
    """What a process loads when it first uses torch.optim and thalweg; by another rule, so that nothing is compiled for the rows'."""
    few = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2))
    step(model, torch.optim.SGD(model.parameters()), *few)
    small = tw.Problem(lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2)), F.cross_entropy, few, few, few)
    tw.train(small, "sgd", steps=2, device=device)


def side_by_side(row: Row, size: Size, data: str | None, device: str) -> dict[str, Any]:
    """What both sides take and reach, seed by seed."""
    first_use(device)
    problem = given(row.problem, size, data)
    ends: dict[str, list[End]] = {side: [] for side in SIDES}
    for k, seed in enumerate(size.seeds):
        for side in SIDES if k % 2 == 0 else SIDES[::-1]:
            gc.collect()
            end = by_hand(problem, size, seed, device) if side == "plain" else by_train(problem, size, seed, row.precision, device)
            ends[side].append(end)
    found = {what: {side: [getattr(end, what) for end in of] for side, of in ends.items()} for what in ("accuracy", "seconds")}
    ours = ends["thalweg"]
    return {
        **found, "loader": by_loader(problem, size, device) if row.precision is None else None,
        "besides": [end.besides for end in ours], "layout": ours[0].layout,
    }  # fmt: skip


def all_nets(size: Size, data: str | None, device: str) -> list[dict[str, Any]]:
    """What each net reaches, seed by seed."""
    first_use(device)
    found = []
    for name, model in NETS.items():
        problem = given(f"fashion-mnist-{model}", size, data)
        ends = [by_train(problem, size, seed, device=device) for seed in size.seeds]
        count = sum(p.numel() for p in ends[0].model.parameters())
        found.append({
            "net": name, "parameters": count, "accuracy": [end.accuracy for end in ends], "seconds": [end.seconds for end in ends],
            "layout": ends[0].layout,
        })  # fmt: skip
    return found


# --- a row, and what is promised of it


def judged(row: Row, size: Size, turn: Callable[[], dict[str, Any]], device: str = "cpu") -> dict[str, Any]:
    """A row with the means over its seeds, and which promises it keeps: of whole rows alone, of their speed on a processor alone."""
    about = {
        "row": row.name, "rows": size.rows, "epochs": size.epochs, "batch": BATCH, "seeds": list(size.seeds),
        "published": row.published, "load": psutil.getloadavg(),
    }  # fmt: skip
    try:
        found = turn()
    except Failed as error:
        return {**about, "failed": str(error)}
    mean = {side: statistics.mean(values) for side, values in found["accuracy"].items()}
    middle = {side: statistics.median(values) for side, values in found["seconds"].items()}
    points, ratio = mean["thalweg"] - mean["plain"], middle["thalweg"] / middle["plain"]
    promise = {} if size != WHOLE else {"points": row.points} | ({"ratio": row.most} if row.most and device == "cpu" else {})
    kept = {"points": abs(points) <= row.points, "ratio": row.most is None or ratio <= row.most}
    return {
        **about, **found, "mean": mean, "middle": middle, "points": points, "ratio": ratio, "promise": promise,
        "aim": row.aim, "kept": {what: kept[what] for what in promise},
    }  # fmt: skip


def judged_nets(found: Sequence[Mapping[str, Any]], whole: bool) -> list[dict[str, Any]]:
    """The nets with their means, and whether each but the CNN is above it."""
    means = {net["net"]: statistics.mean(net["accuracy"]) for net in found}
    return [
        {**net, "mean": means[net["net"]], "kept": means[net["net"]] > means["CNN"] if whole and net["net"] != "CNN" else None}
        for net in found
    ]


def why_not(row: Row, device: str) -> str | None:
    """Why a row is not measured here, or None."""
    if row.precision == "bf16" and device == "cpu" and BF16.isdisjoint(cpuinfo("flags").split()):
        return "this processor has no arithmetic in bfloat16"
    return None


# --- what is said of it


COLUMNS = (
    "published %", "plain %", "thalweg %", "points", "at most", "plain s", "thalweg s", "ratio", "at most", "aim", "DataLoader s",
    "besides s",
)  # fmt: skip
NET_COLUMNS = ("parameters", "mean %", "each seed %", "s")


def cells(row: Mapping[str, Any], mark: str) -> list[str]:
    """A row in words; what misses its promise between marks."""
    told = {"points": f"{row['points']:+.2f}", "ratio": f"{row['ratio']:.2f}"}
    told = {what: text if row["kept"].get(what, True) else f"{mark}{text}{mark}" for what, text in told.items()}
    accuracy, seconds = ([f"{row[what][side]:.2f}" for side in SIDES] for what in ("mean", "middle"))
    promise = {what: cell(row["promise"].get(what), "g") for what in told}
    return [
        f"{row['published']:g}", *accuracy, told["points"], promise["points"], *seconds, told["ratio"], promise["ratio"],
        cell(row["aim"], "g"), cell(row["loader"], ".2f"), f"{statistics.median(row['besides']):.2f}",
    ]  # fmt: skip


def net_cells(net: Mapping[str, Any], mark: str) -> list[str]:
    """A net in words; one that is not above the CNN between marks."""
    mean, mark = f"{net['mean']:.2f}", mark if net["kept"] is False else ""
    each = ", ".join(f"{value:.2f}" for value in net["accuracy"])
    return [f"{net['parameters']:,}", f"{mark}{mean}{mark}", each, f"{statistics.median(net['seconds']):.1f}"]


def unmeasured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of what there is no figure, and why; a failure is said among what is missed."""
    return [f"{row['row']}: not measured, {row['not_measured']}." for row in rows if "not_measured" in row]


def show(results: Mapping[str, Any]) -> None:
    for rows in (results["rows"], results["accelerator"]):
        measured = [row for row in rows if "ratio" in row]
        if measured:
            widths = [len(head) + 2 for head in COLUMNS]
            print("\n" + line("test accuracy; s an epoch", COLUMNS, widths))
            for row in measured:
                print(line(row["row"], cells(row, "!"), widths))
    nets = [net for net in results["nets"] if "mean" in net]
    if nets:
        widths = [12, 10, 20, 10]
        print("\n" + line("test accuracy; s an epoch", NET_COLUMNS, widths))
        for net in nets:
            print(line(net["net"], net_cells(net, "!"), widths))
    print("\n".join(["", *unmeasured(results["rows"]), *(f"on an accelerator, {text}" for text in unmeasured(results["accelerator"]))]))
    print("ratio: seconds of thalweg over those of the plain loop; !: a promise that is missed\n")


def missed(results: Mapping[str, Any]) -> list[str]:
    """What a run fails for, in words."""
    said = []
    for row in (*results["rows"], *results["accelerator"]):
        if "failed" in row:
            said.append(f"{row['row']}: failed: {row['failed']}")
        for what in [what for what, kept in row.get("kept", {}).items() if not kept]:
            most = row["promise"][what]
            if what == "points":
                said.append(f"{row['row']}: {row['points']:+.2f} points from the loop's accuracy, at most {most:g} are promised")
            else:
                said.append(f"{row['row']}: an epoch takes {row['ratio']:.2f} times the loop's, at most {most:g} is promised")
    for net in results["nets"]:
        if "failed" in net:
            said.append(f"{net['net']}: failed: {net['failed']}")
        if net.get("kept") is False:
            said.append(f"{net['net']}: {net['mean']:.2f} % on the test rows, more than the CNN's is promised")
    return said


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    measured = [[row["row"], *cells(row, "**")] for row in rows if "ratio" in row]
    return [*tabular(["", *COLUMNS], measured), ""] if measured else []


def page(results: Mapping[str, Any], accelerator: Mapping[str, Any] | None = None) -> str:
    """The results as the docs show them."""
    lines = [measured_on(results), "", *table(results["rows"]), *unmeasured(results["rows"])]
    nets = [[net["net"], *net_cells(net, "**")] for net in results["nets"] if "mean" in net]
    if nets:
        lines += ["", "One epoch on 10,000 images of Fashion-MNIST:", "", *tabular(["", *NET_COLUMNS], nets), ""]
    told = accelerator or results
    measured = table(told["accelerator"])
    if measured:
        lines += [f"On {told['hardware']['accelerator']}, {told['date']}, torch {told['hardware']['torch']}:", "", *measured]
    lines += [f"On an accelerator, {text}" for text in unmeasured(told["accelerator"])]
    return "\n".join(lines).rstrip() + "\n"


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, "train")
    parser.add_argument("--quick", action="store_true", help="few images, one epoch, nothing promised: to try the bench itself")
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name contains this; may be repeated")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of MNIST and Fashion-MNIST [default: the usual places]")
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)  # ROW PATH, in a process of its own
    options = parser.parse_args(arguments)
    if options.docs:
        refill("train", FORMAT, page)
        return 0
    if options.save and options.quick:
        parser.error("a quick run is not for --save; use --json PATH")
    size, few = (QUICK, QUICK_FEW) if options.quick else (WHOLE, FEW)
    if options.turn:
        name, out = options.turn
        row = next((row for row in ROWS if row.name == name), None)
        ends = side_by_side(row, size, options.data, options.device) if row else all_nets(few, options.data, options.device)
        torch.save(ends, out)
        return 0
    asked = [word.lower() for word in options.only or [""]]
    chosen = [row for row in ROWS if any(word in row.name.lower() for word in asked)]
    with_nets = options.device == "cpu" and any(word in BETTER.lower() for word in asked)
    if not chosen and not with_nets:
        parser.error(f"no row is named so; there are {'; '.join([*(row.name for row in ROWS), BETTER])}")
    here, found = options.device == "cpu" or torch.cuda.is_available(), "rows" if options.device == "cpu" else "accelerator"
    results, saved = begun("train", FORMAT, options, options.quick)
    results |= {"rows": [], "nets": [], "accelerator": []}
    if options.device == "cpu" or not here:
        why = "run with --device cuda" if torch.cuda.is_available() else "this machine has none"
        results["accelerator"] = [{"row": "all rows", "not_measured": why}]
    names = [row.name for row in ROWS] if options.only else None
    rest = ["--device", options.device, *["--quick"] * options.quick, *(["--data", options.data] if options.data else [])]

    def turn(name: str) -> Any:
        return answer(Path(__file__), [name], rest)

    for row in chosen if here else []:
        why = why_not(row, options.device)
        ends = {"row": row.name, "not_measured": why} if why else judged(row, size, lambda row=row: turn(row.name), options.device)
        results[found].append(ends)
        print(f"{row.name}: {'failed' if 'failed' in ends else why or 'measured'}", file=sys.stderr, flush=True)
        keep(results, options.json, saved, names)
    if with_nets:
        try:
            results["nets"] = judged_nets(turn(BETTER), not options.quick)
        except Failed as error:
            results["nets"] = [{"net": BETTER, "failed": str(error)}]
    results["whole"] = not options.quick and not options.only
    show(results)
    return ended(keep(results, options.json, saved, names), missed(results))


if __name__ == "__main__":
    sys.exit(main())
