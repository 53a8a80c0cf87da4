"""The bench holds what it says: promises, failures, the page of the docs. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]


@contextmanager
def loaded(name):
    """A bench as a module, with bench/ where it looks for what benches share."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"bench_{name}"] = module
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "bench"))
    yield module
    del sys.modules[f"bench_{name}"]


@pytest.fixture(scope="module")
def bench():
    with loaded("fleet") as module:
        yield module


@pytest.fixture(scope="module")
def common(bench):
    return sys.modules["common"]


def turns(seconds, weights=None, failing=()):
    """Turns of sides that take so many seconds, as a process would answer them."""

    def turn(side):
        if side in failing:
            raise sys.modules["bench_fleet"].Failed("out of luck")
        same = [{"w": torch.ones(3)}]
        end = {"seconds": seconds[side], "first_use": 0.1, "weights": (weights or {}).get(side, same)}
        known = {"chosen": "fleet", "choosing": 0.1, "choice": {}, "kernels": [0.1], "recordings": [0.2], "diverged": 0}
        return end if side == "loop" else {**end, **known}

    return turn


def results(bench, *rows):
    machine = {"cpu": "a", "cores": 2, "load": [0, 0, 0], "torch": "2", "python": "3", "compiler": None, "accelerator": None}
    absent = [{"row": "MLP", "not_measured": "this machine has none"}]
    return {"date": "2000-01-01", "quick": False, "hardware": machine, "rows": list(rows), "rules": [], "accelerator": absent}


SIDES = ("loop", "fleet", "solo", "pool", "auto")
TIMES = {"loop": 30.0, "fleet": 1.0, "solo": 10.0, "pool": 8.0, "auto": 1.05}


@pytest.fixture
def row(bench):
    return bench.rows()[0]


def test_rows_have_names_of_their_own_and_run(bench):
    table = bench.rows() + bench.rows(device="cuda")
    assert len({row.name for row in table}) == len(table) == 9
    assert sum(p.numel() for p in bench.resnet18().parameters()) == 11_173_962
    for row in table:
        X, y = row.data
        assert row.loss(row.model(X[: row.batch_size]), y[: row.batch_size]).isfinite(), row.name
    assert all(row.promise is None for row in bench.rows(most=2))


def test_attention_looks_back_only(bench):
    torch.manual_seed(0)
    net = bench.Attention(8, 3)
    net.embedding.register_forward_hook(lambda module, given, out: seen.append(out.retain_grad() or out))
    seen: list[torch.Tensor] = []
    kept = {}
    net.out.register_forward_hook(lambda module, given, out: kept.update(out=out))
    net(torch.arange(8)[None])
    kept["out"][0, 3].sum().backward()
    assert seen[0].grad[0, :4].abs().sum() > 0
    assert seen[0].grad[0, 4:].abs().sum() == 0


def test_a_row_that_keeps_its_promise(bench, row):
    found = bench.measure(row, SIDES, turns(TIMES), 3)
    assert found["ratio"]["auto"] == pytest.approx(30 / 1.05)
    assert found["kept"]
    assert found["near_best"]
    assert found["gap"] == 0
    assert {side: len(values) for side, values in found["all_seconds"].items()} == {"loop": 1, "fleet": 3, "solo": 3, "pool": 3, "auto": 3}
    assert bench.missed(results(bench, found)) == []


@pytest.mark.parametrize(
    ("change", "failing", "said"),
    [
        ({"loop": 10.0}, (), "15 is promised"),
        ({"fleet": 0.9}, (), "10 % more is allowed"),
        ({}, ("pool",), "pool failed: out of luck"),
        ({}, ("loop",), "loop failed: out of luck"),
        ({}, SIDES, "auto failed: out of luck"),
    ],
)
def test_what_a_row_is_blamed_for(bench, row, change, failing, said, capsys):
    found = bench.measure(row, SIDES, turns({**TIMES, **change}, failing=failing), 1)
    table = {**results(bench, found), "quick": False}
    assert any(said in text for text in bench.missed(table))
    bench.show(table)
    assert "not measured, this machine has none" in capsys.readouterr().out
    assert "| logistic regression, short |" in bench.page(table)


def test_gaps_are_relative_and_those_of_numbers_that_are_not_finite_infinite(bench):
    one, two, lost = ([{"w": torch.tensor([value])}] for value in (1.0, 1.5, float("nan")))
    assert bench.gap(one, two) == pytest.approx(0.5)
    assert bench.gap(one, lost) == float("inf")


def test_the_page_is_filled_and_filled_again(bench, common, row):
    table = results(bench, bench.measure(row, SIDES, turns(TIMES), 1))
    text = bench.PAGE.read_text(encoding="utf-8")
    once = common.fill(text, bench.page(table))
    assert "| logistic regression, short | 128 x 200 | 30.00 | 1.00 |" in once
    assert common.fill(once, bench.page(table)) == once
    assert once.count("## ") == text.count("## ")


def test_some_rows_are_saved_among_the_others_of_the_day(bench, common, row, tmp_path):
    older = {**results(bench, *(bench.measure(r, SIDES, turns(TIMES), 1) for r in bench.rows()[:2])), "format": bench.FORMAT, "whole": True}
    (tmp_path / "fleet-2000-01-01.json").write_text(json.dumps(older))
    newer = {**results(bench, bench.measure(row, SIDES, turns({**TIMES, "loop": 60.0}), 1)), "format": bench.FORMAT, "whole": False}
    both = common.merged(newer, tmp_path / "fleet-2000-01-01.json", [r.name for r in bench.rows()])
    assert [r["seconds"]["loop"] for r in both["rows"]] == [60.0, 30.0]
    assert common.newest(tmp_path, "fleet", bench.FORMAT) == json.loads(json.dumps(older))
    assert common.newest(tmp_path, "fleet-cuda", bench.FORMAT) is None


def test_a_turn_in_a_process_of_its_own(bench):
    loop = bench.in_a_process("logistic regression, short", "loop", "cpu", False, 2)
    fleet = bench.in_a_process("logistic regression, short", "fleet", "cpu", False, 2)
    assert bench.gap(loop["weights"], fleet["weights"]) < 1e-5
    assert fleet["chosen"] == "fleet"
    with pytest.raises(bench.Failed, match="exit code"):
        bench.in_a_process("no such row", "loop", "cpu", False, 2)


def test_a_loss_and_its_model_are_one_module(bench):
    net = bench.Lossy(torch.nn.Linear(2, 1), F.mse_loss)
    assert net(torch.zeros(3, 2), net.model.bias.detach().expand(3, 1)) == 0
