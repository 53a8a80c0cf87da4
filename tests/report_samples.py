"""Studies in every state a report may have to show, and what its page holds."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from study_samples import finals, results, run, study
from thalweg.study.results import Results


def unfinished() -> Results:
    whole = study(planned={"tune": 96, "final": 30})
    return dataclasses.replace(whole, runs=whole.runs[whole.runs["phase"] == "tune"])


def stopped() -> Results:
    """A study whose weaker half of trials was stopped half-way, and in which one trial failed."""
    whole = study(["adam", "sgd", "momentum"], trials=12)
    runs = whole.runs.copy()
    tune = runs["phase"] == "tune"
    weak = tune & (runs["status"] == "done") & (runs["valid_accuracy"] < runs.loc[tune, "valid_accuracy"].median())
    runs.loc[weak, "status"] = "stopped"
    runs.loc[weak, "steps"] = 250
    curves = dict(whole.curves)
    for id_ in runs.loc[weak, "id"]:
        c = curves[id_]
        half, evals = len(c.steps) // 2, len(c.eval_steps) // 2
        valid = {name: values[:evals] for name, values in c.valid.items()}
        curves[id_] = dataclasses.replace(
            c, steps=c.steps[:half], loss=c.loss[:half], grad_norm=c.grad_norm[:half], lr=c.lr[:half], eval_steps=c.eval_steps[:evals],
            valid=valid,
        )  # fmt: skip
    failed = runs.index[tune & (runs["trial"] == 3) & (runs["optimizer"] == "momentum")]
    runs.loc[failed, ["status", "valid_accuracy", "valid_loss", "train_loss"]] = ["failed", math.nan, math.nan, math.nan]
    curves = {id_: c for id_, c in curves.items() if id_ not in set(runs.loc[failed, "id"])}
    return dataclasses.replace(whole, runs=runs, curves=curves)


def mixed() -> Results:
    """Trials with several hyperparameters, of numbers, kinds and schedules; some only some optimizers have."""
    rng = np.random.default_rng(3)
    rows = []
    for label in ("adam", "sgd"):
        for trial in range(24):
            config: dict[str, Any] = {"lr": float(10 ** rng.uniform(-5, 0))}
            config |= {"beta1": float(rng.choice([0.9, 0.95]))} if label == "adam" else {"nesterov": bool(rng.integers(2))}
            config |= {"weight_decay": float(10 ** rng.uniform(-5, -1))} | ({"schedule": "cosine"} if trial % 3 else {})
            dead = config["lr"] > 0.2
            score = 0.95 - 0.1 * abs(math.log10(config["lr"]) + 2)
            values = {"valid_accuracy": score, "valid_loss": 1 - score, "train_loss": 1.5 - score}
            if dead:
                values = dict.fromkeys(values, math.nan) | {"status": "diverged", "diverged_at": 12}
            rows.append(run("tune", label, trial, 0, config, **values))
    return results(rows)


SAMPLES: dict[str, Callable[[], Results]] = {
    "finished": lambda: study(final_diverged=["sgd"]),
    "unfinished": unfinished,
    "sweep": lambda: study(kind="sweep", seeds=2),
    "all rows": lambda: study(kind="sweep", seeds=1, all_rows=True),
    "one optimizer": lambda: study(["adam"]),
    "one seed": lambda: study(["adam", "sgd"], seeds=1),
    "one trial": lambda: study(["adam", "sgd"], trials=1),
    "stopped": stopped,
    "mixed": mixed,
    "all diverged": lambda: study(all_diverged=True),
    "no curves": lambda: finals({"adam": [0.9, 0.91], "sgd": [0.8, 0.82]}),
    "a loss": lambda: finals({"adam": [0.1, 0.2], "sgd": [0.3, math.nan]}, score="loss", metrics=("loss",)),
    "nothing": lambda: results([]),
}


def data_of(page: str) -> dict[str, Any]:
    """The figures of a page: name -> views."""
    found = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))
