"""What the default probes cost inside a run: `tw.train` with them and without, the sides taking turns.

A run is the MLP 784-256-10 with batches of 64, or the CNN with batches of 32, on MNIST by Adam, evaluated at its ends alone. The cost
is what probes took by the clock around each, as a share of the seconds of all steps; asked for: at most 5 %. The difference of the two
sides as a whole is told too, but is as large as the noise of the machine.
"""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import thalweg as tw
from thalweg.study.training.prepare import prepare
from thalweg.study.training.train import inside as measuring
from thalweg.study.training.train import run

MOST = 0.05
RUNS = {"MLP, 20,000 steps": ("mnist-mlp", 64, 20_000), "CNN, 2,000 steps": ("mnist-cnn", 32, 2000)}
TURNS = 2


def inside(name: str, data: str | None = None, turns: int = TURNS, quick: bool = False) -> dict[str, Any]:
    """The row: seconds of both sides, the share, how often each probe was taken, and whether the promise is kept."""
    problem, batch_size, steps = RUNS[name]
    given = tw.problem(problem, data=data)
    steps = steps // 100 if quick else steps
    seconds: dict[str, list[float]] = {"plain": [], "probed": []}
    spent: list[float] = []
    taken: dict[str, int] = {}
    for turn in range(-1, 1 if quick else turns):  # the first is for what a process loads
        for side in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
            bench = prepare(given, "adam", batch_size=batch_size, steps=20 if turn < 0 else steps, evaluate_every=steps, valid=0)
            measure = measuring(["default"], 5 if turn < 0 else None) if side == "probed" else None
            began = perf_counter()
            found = run(bench, measure=measure)
            if turn < 0:
                continue
            seconds[side].append(perf_counter() - began)
            if measure is not None:
                spent.append(measure.seconds / found.seconds)
                taken = {probe: int(found.history[column].notna().sum()) for probe, column in COLUMNS.items() if column in found.history}
    whole = {side: statistics.median(ends) for side, ends in seconds.items()}
    share = statistics.median(spent)
    return {
        "row": name, "seconds": whole, "difference": whole["probed"] / whole["plain"] - 1, "share": share, "taken": taken,
        "promise": None if quick else MOST, "kept": None if quick else share <= MOST,
    }  # fmt: skip


COLUMNS = {"sharpness": "sharpness_value", "gradients": "gradients_loss", "noise": "noise_scale"}


if __name__ == "__main__":
    for name in RUNS:
        print(inside(name))
