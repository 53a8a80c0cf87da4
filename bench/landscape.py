"""A 51 x 51 landscape of the MLP 784-128-10 on 10,000 images of MNIST against plain training epochs of those images.

    python bench/landscape.py [--quick] [--data DIR] [--turns N]

An epoch is a loop as a user writes it: batches of 64 gathered by index, `torch.optim.Adam(fused=True)`. The sides take turns;
seconds are medians, and `ratio` is the landscape's over those of one epoch. Asked for: at most 3.
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw

ROWS, POINTS, MOST = 10_000, 51, 3.0


def epoch(model: nn.Module, X: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for index in torch.randperm(len(X), device=X.device).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(X[index]), y[index]).backward()
        optimizer.step()


def landscape(data: str | None = None, device: str = "cpu", turns: int = 3, quick: bool = False) -> dict[str, Any]:
    """The row: seconds (and, on a processor, those of its cores) of an epoch and of the landscape, the ratio, and whether it is kept."""
    problem = tw.problem("mnist-mlp", data=data)
    X, y = (part[: 500 if quick else ROWS].to(device) for part in problem.train)
    torch.manual_seed(0)
    model = tw.models.mlp(tuple(X.shape[1:]), 10, hidden=128, depth=1).to(device)
    points = 9 if quick else POINTS
    sides = {
        "epoch": lambda: epoch(model, X, y),
        "landscape": lambda: tw.probes.landscape(model, F.cross_entropy, (X, y), points=points),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    cores: dict[str, list[float]] = {side: [] for side in sides}
    epoch(model, X[:640], y[:640])  # what a process loads at first use
    for _ in range(1 if quick else turns):
        for side, run in sides.items():
            wall, own = perf_counter(), process_time()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[side].append(perf_counter() - wall)
            cores[side].append(process_time() - own)
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = middle["landscape"] / middle["epoch"]
    return {
        "row": f"landscape {points} x {points}, MLP 784-128-10, {len(X):,} images", "threads": torch.get_num_threads(), "seconds": middle,
        "cores": {side: statistics.median(values) for side, values in cores.items()}, "ratio": ratio, "promise": None if quick else MOST,
        "kept": None if quick else ratio <= MOST,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and points, nothing promised")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of MNIST")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    row = landscape(options.data, options.device, options.turns, options.quick)
    for name, value in row.items():
        print(f"{name}: {value}")
    return 1 if row["kept"] is False else 0


if __name__ == "__main__":
    raise SystemExit(main())
