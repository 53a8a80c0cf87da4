"""What probes cost beside what a user would have written, side by side in one process.

    python bench/probes.py [--quick] [--only NAME]... [--data DIR] [--json PATH | --save]
    python bench/probes.py --docs

The five largest eigenvalues of the Hessian of the CNN's loss on 1,000 images of MNIST, at its initial weights and after 200 steps of Adam:
by `tw.probes.spectrum`, and by power iteration with deflation as PyHessian does it, on one graph of the gradient kept by `create_graph`,
stopped where an eigenvalue changes by less than 1e-3 or after 100 iterations. Sides take turns, over three seeds of the start; seconds are
medians. Errors are against Lanczos's method continued to errors of 1e-4 from another start, as a share of the largest eigenvalue.

Then a landscape beside training epochs of its data (bench/landscape.py), and what the default probes take inside a run (bench/inside.py).

The exit code is 1 where a promise is missed or a row fails; `--quick` measures few images and promises nothing. `--save` writes
bench/results/probes-<date>.json, with `--only` the rows it measured into the same day's file; `--docs` puts the newest of those files into
docs/probes.md and measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from common import Failed, answer, begun, cell, ended, keep, line, measured_on, parser_of, refill, tabular
from inside import RUNS, inside
from landscape import landscape

FORMAT = 1
COUNT = 5
"""Eigenvalues."""
SEEDS = (0, 1, 2)
IMAGES, FEW = 1000, 100
FASTER = 3.0
"""Times as fast as the power iteration that is promised."""
EXACT = 0.01
"""The error that is promised, as a share of the largest eigenvalue."""
ROWS = {"CNN, initial weights": 0, "CNN, 200 steps of Adam": 200}


# --- what is measured


def given(data: str | None, images: int, steps: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The net after so many steps, and the images."""
    problem = tw.problem("mnist-cnn", data=data)
    X, y = (part[:images] for part in problem.train)
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.Adam(model.parameters())
    for index in tw.batches(len(X), 32, seed=0, steps=steps) if steps else ():
        optimizer.zero_grad()
        F.cross_entropy(model(X[index]), y[index]).backward()
        optimizer.step()
    return model, (X, y)


def by_power(
    model: nn.Module, data: tuple[Tensor, Tensor], seed: int, iterations: int = 100, tolerance: float = 1e-3
) -> tuple[list[float], int]:
    """The eigenvalues of largest size one after another, and the products that took."""
    points = list(model.parameters())
    slopes = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), points, create_graph=True)
    draw = torch.Generator().manual_seed(seed)
    values: list[float] = []
    found: list[list[Tensor]] = []
    products = 0
    for _ in range(COUNT):
        v = unit([torch.randn(p.shape, generator=draw) for p in points])
        value: float | None = None
        for _ in range(iterations):
            for known in found:
                along = dot(v, known)
                v = [a - along * b for a, b in zip(v, known, strict=True)]
            v = unit(v)
            w = list(torch.autograd.grad(slopes, points, grad_outputs=v, retain_graph=True))
            products += 1
            before, value = value, dot(v, w)
            v = unit(w)
            if before is not None and abs(before - value) / (abs(before) + 1e-6) < tolerance:
                break
        assert value is not None
        values.append(value)
        found.append(v)
    return values, products


def dot(v: Sequence[Tensor], w: Sequence[Tensor]) -> float:
    return float(sum((a * b).sum() for a, b in zip(v, w, strict=True)))


def unit(v: Sequence[Tensor]) -> list[Tensor]:
    length = dot(v, v) ** 0.5 + 1e-6
    return [a / length for a in v]


def by_spectrum(model: nn.Module, data: tuple[Tensor, Tensor], seed: int) -> tuple[list[float], int]:
    found = tw.probes.spectrum(model, F.cross_entropy, data, k=COUNT, which="largest", samples=0, seed=seed)
    return found.values.tolist(), found.products


def off(values: Sequence[float], exact: Sequence[float]) -> float:
    """The largest error, the values in their order by size, as a share of the largest eigenvalue."""
    return max(abs(a - b) for a, b in zip(sorted(values, reverse=True), exact, strict=True)) / exact[0]


def side_by_side(steps: int, images: int, data: str | None) -> dict[str, Any]:
    model, rows = given(data, images, steps)
    reference = tw.probes.spectrum(model, F.cross_entropy, rows, k=COUNT, which="largest", samples=0, tolerance=1e-4, products=150, seed=99)
    exact = reference.values.tolist()
    sides = {"power": by_power, "thalweg": by_spectrum}
    few = tuple(part[:8] for part in rows)
    for side in sides.values():  # what a process loads when it first takes second derivatives
        side(model, few, 0)
    ends: dict[str, dict[str, list[float]]] = {side: {"seconds": [], "products": [], "error": []} for side in sides}
    for k, seed in enumerate(SEEDS):
        for side in list(sides)[:: 1 if k % 2 == 0 else -1]:
            gc.collect()
            start = perf_counter()
            values, products = sides[side](model, rows, seed)
            ends[side]["seconds"].append(perf_counter() - start)
            ends[side]["products"].append(products)
            ends[side]["error"].append(off(values, exact))
    return {"exact": exact, "ends": ends}


def judged(name: str, found: Mapping[str, Any], promised: bool) -> dict[str, Any]:
    ends = found["ends"]
    pairs = zip(ends["power"]["seconds"], ends["thalweg"]["seconds"], strict=True)
    row: dict[str, Any] = {"row": name, "exact": found["exact"], "faster": statistics.median(a / b for a, b in pairs)}
    for side, of in ends.items():
        row[side] = {"seconds": statistics.median(of["seconds"]), "products": statistics.median(of["products"]), "error": max(of["error"])}
    if promised:
        row["kept"] = {"faster": row["faster"] >= FASTER, "error": row["thalweg"]["error"] <= EXACT}
    return row


# --- what is said of it

COLUMNS = ("thalweg s", "power s", "times as fast", "products", "power's", "error", "power's error")


def cells(row: Mapping[str, Any], mark: str) -> list[str]:
    kept = row.get("kept", {})
    ours, power = row["thalweg"], row["power"]
    return [
        cell(ours["seconds"], ".2f"), cell(power["seconds"], ".2f"), cell(row["faster"], ".1f") + mark * (kept.get("faster") is False),
        cell(ours["products"], ".0f"), cell(power["products"], ".0f"), cell(ours["error"], ".1e") + mark * (kept.get("error") is False),
        cell(power["error"], ".1e"),
    ]  # fmt: skip


def show(results: Mapping[str, Any]) -> None:
    widths = [len(head) + 3 for head in COLUMNS]
    print("\n" + line("five largest eigenvalues", COLUMNS, widths))
    for row in results["rows"]:
        print(line(row["row"], cells(row, "!"), widths) if "faster" in row else f"{row['row']}: failed: {row['failed']}")
    for title, heads, rows in others(results, "!"):
        print("\n" + line(title, heads[1:], [24] * (len(heads) - 1)))
        print("\n".join(line(row[0], row[1:], [24] * (len(row) - 1)) for row in rows))
    print("!: a promise that is missed\n")


def others(results: Mapping[str, Any], mark: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, heads, rows) of the landscape and the runs, where they were measured."""
    grids = [
        [r["row"], cell(r["seconds"]["landscape"], ".2f"), cell(r["seconds"]["epoch"], ".3f"),
         cell(r["ratio"], ".1f") + mark * (r["kept"] is False)]
        for r in results["landscape"]
    ]  # fmt: skip
    runs = [
        [r["row"], cell(r["seconds"]["probed"], ".1f"), cell(r["seconds"]["plain"], ".1f"),
         cell(100 * r["share"], ".1f") + mark * (r["kept"] is False), ", ".join(f"{n} {k}" for k, n in r["taken"].items())]
        for r in results["runs"]
    ]  # fmt: skip
    found = [
        ("landscape", ["", "thalweg s", "an epoch s", "epochs"], grids),
        ("run with the default probes", ["", "with them s", "without s", "% of the steps' time", "taken"], runs),
    ]
    return [one for one in found if one[2]]


def missed(results: Mapping[str, Any]) -> list[str]:
    """What a run fails for, in words."""
    said = [f"{row['row']}: failed: {row['failed']}" for row in results["rows"] if "failed" in row]
    for row in results["rows"]:
        kept = row.get("kept", {})
        if kept.get("faster") is False:
            said.append(f"{row['row']}: {row['faster']:.1f} times as fast as the power iteration, {FASTER:g} are promised")
        if kept.get("error") is False:
            said.append(f"{row['row']}: an error of {row['thalweg']['error']:.1e} of the largest eigenvalue, {EXACT:g} is promised")
    said += [f"{r['row']}: {r['ratio']:.1f} epochs, {r['promise']:g} are promised" for r in results["landscape"] if r["kept"] is False]
    said += [
        f"{r['row']}: {r['share']:.1%} of the steps' time, {r['promise']:.0%} is promised" for r in results["runs"] if r["kept"] is False
    ]
    return said


def page(results: Mapping[str, Any], accelerator: Mapping[str, Any] | None = None) -> str:
    """The results as the docs show them."""
    rows = [[row["row"], *cells(row, "**")] for row in results["rows"] if "faster" in row]
    lines = [measured_on(results), "", *tabular(["five largest eigenvalues", *COLUMNS], rows)]
    for title, heads, rest in others(results, "**"):
        lines += ["", *tabular([title, *heads[1:]], rest)]
    return "\n".join(lines) + "\n"


# --- the command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, "probes")
    parser.add_argument("--quick", action="store_true", help="few images, nothing promised: to try the bench itself")
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name contains this; may be repeated")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of MNIST [default: the usual places]")
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)  # ROW PATH, in a process of its own
    options = parser.parse_args(arguments)
    if options.docs:
        refill("probes", FORMAT, page)
        return 0
    if options.save and options.quick:
        parser.error("a quick run is not for --save; use --json PATH")
    if options.turn:
        name, out = options.turn
        torch.save(side_by_side(ROWS[name], FEW if options.quick else IMAGES, options.data), out)
        return 0
    asked = [word.lower() for word in options.only or [""]]
    chosen = [name for name in ROWS if any(word in name.lower() for word in asked)]
    if not chosen:
        parser.error(f"no row is named so; there are {'; '.join(ROWS)}")
    results, saved = begun("probes", FORMAT, options, options.quick)
    results |= {"rows": [], "landscape": [], "runs": []}
    names = list(ROWS) if options.only else None
    rest = [*["--quick"] * options.quick, *(["--data", options.data] if options.data else [])]
    for name in chosen:
        try:
            results["rows"].append(judged(name, answer(Path(__file__), [name], rest), not options.quick))
        except Failed as error:
            results["rows"].append({"row": name, "failed": str(error)})
        print(f"{name}: measured", file=sys.stderr, flush=True)
        keep(results, options.json, saved, names)
    if not options.only:
        results["landscape"] = [landscape(options.data, quick=options.quick)]
        results["runs"] = [inside(name, options.data, quick=options.quick) for name in RUNS]
    results["whole"] = not options.quick and not options.only
    show(results)
    return ended(keep(results, options.json, saved, names), missed(results))


if __name__ == "__main__":
    sys.exit(main())
