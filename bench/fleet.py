"""The fleet against the loop a user would have written, side by side in one run.

    python bench/fleet.py [--quick] [--json PATH | --save]

Each row trains the same configurations, from the same weights, on the same batches: by a hand-written PyTorch loop, one configuration
after the other, and by thalweg's engines. The exit code is 1 where a row misses the ratio it promises. `--save` writes
bench/results/fleet-<date>.json. Figures count on a machine that does nothing else: the load at the start is among the results.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import json
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.core import catalogue
from thalweg.models import cnn, logistic, mlp, two_layer


@dataclass(frozen=True)
class Row:
    """model, loss, data: as tw.sweep takes them. promise: the least ratio loop / fleet, or None."""

    name: str
    model: nn.Module
    loss: Callable
    data: tuple[Tensor, Tensor]
    rates: Sequence[float]
    batch_size: int
    steps: int
    promise: float | None = None


def classes(rows: int, shape: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, *shape, generator=generator), torch.randint(count, (rows,), generator=generator)


def rows(quick: bool) -> list[Row]:
    torch.manual_seed(0)
    X, y = classes(5000, (20,), 2)
    ce, bce = nn.functional.cross_entropy, nn.functional.binary_cross_entropy_with_logits
    X8, y8 = catalogue.shelf("datasets")["digits"]().X.float(), catalogue.shelf("datasets")["digits"]().y
    some = 4 if quick else 1

    def rates(count: int) -> list[float]:
        return np.geomspace(1e-5, 1e-1, count).tolist()

    return [
        # the promise is about this row as it is, also in a quick run
        Row("logistic regression, 20 features", logistic((20,), 1), bce, (X, y.float()[:, None]), rates(128), 128, 200, promise=10.0),
        Row("MLP 784-128-10", mlp((784,), 10, hidden=128, depth=1), ce, classes(4000, (784,), 10), rates(32 // some), 64, 200 // some),
        Row("CNN 1x28x28", cnn((1, 28, 28), 10), ce, classes(1000, (1, 28, 28), 10), rates(8 // some), 32, 20),
        Row("two-layer net, digits", two_layer((64,), 10), ce, (X8, y8), rates(256 // some), 32, 200 // some),
    ]


def by_hand(row: Row) -> list[nn.Module]:
    """The loop, as a user would write it: an optimizer that is fused, batches gathered by index."""
    trained = []
    X, y = row.data
    for lr in row.rates:
        model = copy.deepcopy(row.model)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        for index in tw.batches(len(X), row.batch_size, seed=0, steps=row.steps):
            optimizer.zero_grad()
            row.loss(model(X[index]), y[index]).backward()
            optimizer.step()
        trained.append(model)
    return trained


def by_engine(row: Row, engine: str) -> Any:
    configs = [{"lr": lr} for lr in row.rates]
    return tw.sweep(
        row.model, row.loss, row.data, optimizer="adam", configs=configs, steps=row.steps, batch_size=row.batch_size, engine=engine,
        every=row.steps, device="cpu",
    )  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = perf_counter()
    value = call()
    return perf_counter() - start, value


def measure(row: Row, engines: Sequence[str], repeats: int) -> dict[str, Any]:
    """Seconds of the loop and of each engine: medians over repeats, in which the sides take turns."""
    sides: dict[str, Callable[[], Any]] = {"loop": lambda: by_hand(row)} | {e: lambda e=e: by_engine(row, e) for e in engines}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    ends: dict[str, Any] = {}
    for _ in range(repeats):
        for name, call in sides.items():
            spent, ends[name] = timed(call)
            seconds[name].append(spent)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    gaps = [
        float((ends["fleet"].state_dict(k)[n] - p.detach()).norm() / p.detach().norm().clamp(min=1e-12))
        for k, model in enumerate(ends["loop"])
        for n, p in model.named_parameters()
    ]
    return {
        "row": row.name, "lanes": len(row.rates), "batch": row.batch_size, "steps": row.steps, "seconds": middle, "all_seconds": seconds,
        "ratio": {name: middle["loop"] / value for name, value in middle.items()}, "promise": row.promise,
        "largest_relative_gap": max(gaps),
    }  # fmt: skip


def rules(lanes: int, steps: int) -> list[dict[str, Any]]:
    """Every rule of the catalogue in a fleet: seconds of one lane alone, and of many together."""
    torch.manual_seed(0)
    model, data = mlp((64,), 10, hidden=64, depth=1), classes(1000, (64,), 10)
    found = []
    for name, rule in catalogue.shelf("optimizers").items():
        first = next(iter(rule.hypers))  # what every rule varies: its rate, or what stands for it
        values = np.geomspace(0.1, 1.0, lanes) * rule.hypers[first].default

        def call(values: Sequence[float], engine: str, name: str = name, first: str = first) -> Any:
            configs = [{first: float(value)} for value in values]
            return tw.sweep(
                model, nn.functional.cross_entropy, data, optimizer=name, configs=configs, steps=steps, batch_size=64, engine=engine,
                every=steps, device="cpu",
            )  # fmt: skip

        call(values[:2], "fleet")
        alone, _ = timed(lambda call=call, values=values: call(values[:1], "solo"))
        together, _ = timed(lambda call=call, values=values: call(values, "fleet"))
        found.append({"rule": name, "lanes": lanes, "steps": steps, "solo_1": alone, "fleet": together, "ratio": lanes * alone / together})
    return found


def hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu, "cores": psutil.cpu_count(logical=False), "logical": psutil.cpu_count(), "threads": torch.get_num_threads(),
        "load": psutil.getloadavg(), "torch": torch.__version__, "python": platform.python_version(), "system": platform.platform(),
        "thalweg": tw.__version__,
    }  # fmt: skip


def show(results: Mapping[str, Any]) -> None:
    engines = list(results["rows"][0]["seconds"])
    print(f"{'':36}{'lanes':>6}{'steps':>6}" + "".join(f"{name + ' s':>10}" for name in engines) + f"{'loop/fleet':>12}{'gap':>10}")
    for row in results["rows"]:
        cells = "".join(f"{row['seconds'][name]:10.2f}" for name in engines)
        print(f"{row['row']:36}{row['lanes']:6}{row['steps']:6}{cells}{row['ratio']['fleet']:12.1f}{row['largest_relative_gap']:10.0e}")
    print(f"\n{'rule':20}{'lanes':>6}{'1 solo s':>10}{'fleet s':>10}{'lanes x solo / fleet':>22}")
    for row in results["rules"]:
        print(f"{row['rule']:20}{row['lanes']:6}{row['solo_1']:10.3f}{row['fleet']:10.3f}{row['ratio']:22.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat, fewer lanes and steps where nothing is promised")
    parser.add_argument("--pool", action="store_true", help="time the pool too")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--save", action="store_true", help="write the results to bench/results/fleet-<date>.json")
    options = parser.parse_args()
    engines = ["fleet", "solo", *(["pool"] if options.pool else [])]
    date = datetime.date.today().isoformat()
    results: dict[str, Any] = {"date": date, "quick": options.quick, "hardware": hardware(), "rows": [], "rules": []}
    with torch.random.fork_rng():
        for row in rows(options.quick):
            for warm in ("fleet", "solo"):
                by_engine(Row(**{**vars(row), "steps": 2, "rates": row.rates[:2]}), warm)
            results["rows"].append(measure(row, engines, 1 if options.quick else 3))
        results["rules"] = rules(8 if options.quick else 32, 20 if options.quick else 100)
    show(results)
    for path in [options.json, Path(__file__).parent / "results" / f"fleet-{date}.json" if options.save else None]:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"written to {path}")
    missed = [row for row in results["rows"] if row["promise"] is not None and row["ratio"]["fleet"] < row["promise"]]
    for row in missed:
        ratio, promise = row["ratio"]["fleet"], row["promise"]
        print(f"{row['row']}: the fleet is {ratio:.1f} times as fast as the loop, {promise:g} is promised", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
