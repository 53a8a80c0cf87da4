"""The examples run as they stand, only shorter."""

from pathlib import Path

import pytest

import thalweg as tw

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("problem", "optimizers"),
    [
        (f"{EXAMPLES / 'own_model.py'}:problem", ["sgd", "adam"]),
        ("digits-mlp", [f"{EXAMPLES / 'own_rule.py'}:lion", "adam"]),
        (str(EXAMPLES / "study.toml"), None),
    ],
    ids=["own_model", "own_rule", "study"],
)
def test_an_example_runs(problem, optimizers, tmp_path):
    few = {"epochs": 2} if problem.endswith(".toml") else {"steps": 20}
    study = tw.compare(problem, optimizers, budget=3, seeds=2, engine="fleet", device="cpu", out=tmp_path, **few)
    results = study.results()
    assert len(results.runs) == sum(results.planned.values())
    assert study.verdict.leader in results.optimizers


def test_a_run_on_batches_of_a_loader(tmp_path):
    run = tw.train(f"{EXAMPLES / 'own_loader.py'}:problem", "adamw", lr=3e-3, epochs=2, out=tmp_path)
    assert run.status == "done"
    assert run.test["accuracy"] > 0.5
