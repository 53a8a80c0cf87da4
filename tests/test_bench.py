"""The bench holds what it says: promises, failures, the page of the docs. No time is asserted."""

from __future__ import annotations

import doctest
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


def test_a_turn_in_a_process_of_its_own(bench, tmp_path):
    name = "logistic regression, short"
    fleet = bench.in_a_process(name, "fleet", "cpu", False, 2)
    assert bench.main(["--turn", name, "loop", str(tmp_path / "loop.pt"), "--steps", "2"]) == 0  # what a process would do
    loop = torch.load(tmp_path / "loop.pt", weights_only=True)
    assert bench.gap(loop["weights"], fleet["weights"]) < 1e-5
    assert fleet["chosen"] == "fleet"


def test_a_turn_that_fails_says_what_it_said_last(bench, common, tmp_path):
    for text, said in (("exit('no such row')", r"no such row \(exit code 1\)"), ("", r"nothing said \(exit code 0\)")):
        (tmp_path / "turn.py").write_text(text)
        with pytest.raises(bench.Failed, match=said):
            common.answer(tmp_path / "turn.py", ["row", "loop"])


def test_a_loss_and_its_model_are_one_module(bench):
    net = bench.Lossy(torch.nn.Linear(2, 1), F.mse_loss)
    assert net(torch.zeros(3, 2), net.model.bias.detach().expand(3, 1)) == 0


# --- optimizers


@pytest.fixture(scope="module")
def steps():
    with loaded("optim") as module:
        yield module


@pytest.fixture
def little(steps, monkeypatch):
    """The sets with few numbers."""
    monkeypatch.setattr(steps, "shapes", lambda name, quick=False: [(64, 8), (32,)])


def named(steps, name):
    return next(row for row in steps.ROWS if row.name == name)


def test_the_sets_are_of_the_sizes_that_the_table_says(steps):
    sizes = {name: [torch.Size(shape).numel() for shape in steps.shapes(name)] for name in steps.SETS}
    assert {name: len(found) for name, found in sizes.items()} == {"small": 100, "mixed": 60, "big": 1}
    assert {name: sum(found) for name, found in sizes.items()} == {"small": 200_000, "mixed": 11_480_074, "big": 16_777_216}
    assert [len(steps.shapes(name, quick=True)) for name in steps.SETS] == [100, 60, 1]
    assert len({row.name for row in steps.ROWS}) == len(steps.ROWS) == 20


@pytest.mark.parametrize(
    ("name", "bytes_", "torchs"),
    [
        ("SGD", 12, ["default", "foreach", "fused"]),
        ("SGD, momentum", 20, ["default", "foreach", "fused"]),
        ("Adam", 28, ["default", "foreach", "fused"]),
        ("Adam, amsgrad", 36, ["default", "foreach", "fused"]),
        ("Rprop", 28, ["default", "foreach"]),
        ("ASGD", 20, ["default", "foreach"]),
        ("Lion", 20, []),
        ("ScheduleFreeAdamW", 36, []),
        ("Muon", 20, ["default"]),
    ],
)
def test_sides_do_the_same_and_bytes_follow_from_the_states(steps, little, name, bytes_, torchs):
    row = named(steps, name)
    calls, size = steps.sides(row, steps.points(row, "small"), "cpu")
    assert size == bytes_
    assert list(calls) == ["thalweg", *torchs, "copy"]
    calls["thalweg"]()  # its first step is done
    for side in torchs:
        calls[side]()
        calls[side]()
        theirs = [p for group in calls[side].__self__.param_groups for p in group["params"]]
        ours = [p for group in calls["thalweg"].__self__.param_groups for p in group["params"]]
        assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_every_rule_can_be_measured(steps, little):
    for row in steps.ROWS:
        calls, size = steps.sides(row, steps.points(row, "small"), "cpu")
        for call in calls.values():
            call()
        assert size >= 12, row.name


def test_sides_take_turns(steps):
    seen = []
    calls = {side: lambda side=side: seen.append(side) for side in ("thalweg", "copy")}
    seconds = steps.measure(calls, quick=True)
    rounds = steps.QUICK[1]
    assert {side: len(values) for side, values in seconds.items()} == {"thalweg": rounds, "copy": rounds}
    order = [side for i, side in enumerate(seen) if i == 0 or seen[i - 1] != side]
    assert order == ["thalweg", "copy"] * (rounds + 1)


@pytest.mark.parametrize(
    ("name", "asked", "promise"),
    [
        ("Adam", ("small", 200_000, True), {"default": 3.0, "fused": 0.95}),
        ("Adam", ("mixed", 11_000_000, True), {"fused": 0.95, "copy": 0.8}),
        ("NAdam", ("small", 200_000, False), {"default": 3.0}),
        ("NAdam", ("big", 16_000_000, False), {"default": 2.0, "copy": 0.8}),
        ("Lion", ("small", 200_000, False), {}),
        ("Lion", ("big", 16_000_000, False), {"copy": 0.8}),
        ("Muon", ("big", 16_000_000, False), {}),
        ("Adam", ("big", 16_000_000, True, "cuda"), {}),
    ],
)
def test_what_is_promised(steps, name, asked, promise):
    assert steps.promised(named(steps, name), *asked) == promise


def test_the_most_bytes_held_are_counted(steps):
    kept = []

    def call():
        kept.append(torch.zeros(1000))
        torch.zeros(500) + torch.zeros(500)  # three of 2,000 bytes, soon gone
        kept.append(torch.zeros(1000))

    assert steps.allocated(call) == (10_000, 8000)


def memory(tensors=100):
    return {"tensors": tensors, "python": 4000, "bucket": 10_000}


def answers(steps, little_else=(), **change):
    """Turns of a rule that keeps its promises but for what is changed."""
    middle = {"thalweg": 1.0, "default": 4.0, "foreach": 3.0, "fused": 1.1, "copy": 0.9, **dict(little_else)}
    cold = {"seconds": 0.5, "first_use": 1.0, "compiled": 1, "recompiled": 0, "memory": memory(), **change}

    def turn(what, cache):
        if what in change:
            raise steps.Failed("out of luck")
        if what != "table":
            assert cache.is_dir()
            return cold
        seconds = {side: [value] * 3 for side, value in middle.items()}
        sizes = {"small": 200_000, "mixed": 11_000_000, "big": 16_000_000}
        row = named(steps, "Adam")
        return {name: {"tensors": 1, **steps.judged(row, name, n, True, 28.0, seconds, "cpu")} for name, n in sizes.items()}

    return turn


@pytest.mark.parametrize(
    ("sides", "change", "said"),
    [
        ({}, {}, None),
        ({"default": 2.0}, {}, "Adam, 100 small tensors: 2.00 times as fast as torch's default, 3 is promised"),
        ({"fused": 0.9}, {}, "Adam, one big tensor: 0.90 times as fast as torch's fused, 0.95 is promised"),
        ({"copy": 0.7}, {}, "0.70 times the bandwidth of a copy, 0.8 is promised"),
        ({}, {"seconds": 11.0}, "11.0 s with an empty cache folder, 10 s is promised"),
        ({}, {"seconds": 3.0}, "3.0 s with a filled cache folder, 2 s is promised"),
        ({}, {"recompiled": 2}, "compiled 2 times during 1000 scheduled steps, never is promised"),
        ({}, {"memory": memory(7000)}, "7 kB of tensors and 4 kB of Python's beside parameters, gradients and states, 10 kB is promised"),
        ({}, {"table": True}, "Adam: table failed: out of luck"),
        ({}, {"warm": True}, "Adam: first step failed: out of luck"),
    ],
)
def test_what_a_rule_is_blamed_for(steps, sides, change, said, capsys):
    found = steps.assembled(named(steps, "Adam"), answers(steps, sides, **change))
    table = {**results(steps, found), "accelerator": [{"row": "all", "not_measured": "this machine has none"}]}
    told = steps.missed(table)
    assert any(said in text for text in told) if said else told == []
    steps.show(table)
    assert "on an accelerator: not measured, this machine has none" in capsys.readouterr().out
    page = steps.page(json.loads(json.dumps(table)))
    assert ("**" in page) == (said is not None and "failed" not in said)
    assert "| Adam |" in page
    assert "On an accelerator: not measured, this machine has none." in page


def test_the_page_of_the_optimizers_is_filled(steps):
    table = results(steps, steps.assembled(named(steps, "Adam"), answers(steps)))
    text = (ROOT / "docs" / "optim.md").read_text(encoding="utf-8")
    fill = sys.modules["common"].fill
    once = fill(text, steps.page(table))
    assert "| Adam | 28 | 1000 | 4000 | 3000 | 1100 | 900 | 4.00 | 3.00 | 1.10 | 90% |" in once
    assert "100 small tensors, 0.2 million numbers, milliseconds a step:" in once
    assert fill(once, steps.page(table)) == once


def test_an_accelerator_that_is_measured_has_tables_of_its_own(steps):
    table = results(steps, steps.assembled(named(steps, "Adam"), answers(steps)))
    other = {**table, "rows": [], "accelerator": table["rows"], "hardware": {**table["hardware"], "accelerator": "a card"}}
    assert "On a card, 2000-01-01, torch 2:" in steps.page({**table, "accelerator": []}, other)


def test_an_accelerator_that_is_not_there_is_not_measured(steps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert steps.main(["--device", "cuda", "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["accelerator"] == [{"row": "all", "not_measured": "this machine has none"}]
    assert "not measured" in capsys.readouterr().out


def test_the_first_step_of_a_process(steps, common, tmp_path):
    found = common.answer(ROOT / "bench" / "optim.py", ["Adam", "warm"], ["--quick"], tmp_path)
    assert found["compiled"] == (1 if steps.kernel.available() else 0)
    assert found["seconds"] > 0


def test_what_is_compiled_and_held_is_counted(steps, little, monkeypatch):
    monkeypatch.setattr(steps, "SCHEDULED", 20)
    row = named(steps, "ScheduleFreeAdamW")
    assert steps.recompiled(row, "cpu") == 0
    found = steps.beside(row, True, "cpu")
    assert found["bucket"] == 4 * 5 * (64 * 8 + 32)
    if steps.kernel.available():
        assert found["tensors"] < 1000 < found["python"]


def test_numbers_in_words(steps):
    assert doctest.testmod(steps).failed == 0


# --- one run


@pytest.fixture(scope="module")
def runs():
    with loaded("train") as module:
        yield module


@pytest.fixture
def shapes(runs, monkeypatch):
    """A few images of bars that lie or stand, in place of the data sets."""
    generator = torch.Generator().manual_seed(0)
    X, y = torch.rand(80, 1, 8, 8, generator=generator), torch.arange(80) % 2
    X[y == 0, :, 3] += 1
    X[y == 1, :, :, 3] += 1

    def given(name, size, data):
        make = runs.tw.core.catalogue.shelf("models")["cnn"]
        return runs.tw.Problem(lambda: make((1, 8, 8), 2), F.cross_entropy, (X, y), test=(X[:20], y[:20]), metrics="accuracy")

    monkeypatch.setattr(runs, "given", given)
    return runs.Size(80, 20, 2, (0, 1), 2)


def test_every_row_of_the_runs_can_be_named_alone(runs):
    names = [*(row.name for row in runs.ROWS), runs.BETTER]
    assert len({*names}) == len(names) == 5
    assert all([name in other for other in names].count(True) == 1 for name in names)


def test_the_loop_and_the_run_end_alike(runs, shapes):
    problem = runs.given("", shapes, None)
    for seed in shapes.seeds:
        hand, run = runs.by_hand(problem, shapes, seed), runs.by_train(problem, shapes, seed)
        for a, b in zip(hand.model.state_dict().values(), run.model.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b.contiguous(), rtol=1e-3, atol=1e-5)
        assert hand.accuracy == pytest.approx(run.accuracy)
        assert run.layout == "channels last"
    assert not torch.equal(*(runs.by_hand(problem, shapes, seed).model[0].weight for seed in (0, 1)))
    half = runs.by_train(problem, shapes, 0, "bf16")
    assert not torch.equal(half.model[0].weight, runs.by_train(problem, shapes, 0).model[0].weight)


def test_sides_take_turns_seed_by_seed(runs, shapes, monkeypatch):
    seen = []
    end = runs.End(torch.nn.Linear(1, 1), 90.0, 1.0)
    monkeypatch.setattr(runs, "by_hand", lambda problem, size, seed, device: seen.append(("plain", seed)) or end)
    monkeypatch.setattr(runs, "by_train", lambda problem, size, seed, *more: seen.append(("thalweg", seed)) or end)
    found = runs.side_by_side(runs.ROWS[0], shapes, None, "cpu")
    assert seen == [("plain", 0), ("thalweg", 0), ("thalweg", 1), ("plain", 1)]
    assert found["accuracy"] == {"plain": [90.0, 90.0], "thalweg": [90.0, 90.0]}
    assert found["loader"] > 0
    assert runs.side_by_side(runs.ROWS[2], shapes, None, "cpu")["loader"] is None


def test_the_files_give_the_rows_that_a_size_asks_for(runs, data_folder):
    problem = runs.given("mnist-cnn", runs.Size(50, 20, 1, (0,)), str(data_folder))
    assert [tuple(part[0].shape) for part in (problem.train, problem.test)] == [(50, 1, 28, 28), (20, 1, 28, 28)]
    assert problem.valid is None


def ended_at(accuracy, seconds, loader=9.0):
    """A turn in which the loop reaches 88 % in 10 seconds an epoch, and thalweg something else."""
    ends = {"accuracy": {"plain": [87.0, 88.0, 89.0], "thalweg": accuracy}, "seconds": {"plain": [9.0, 10.0, 30.0], "thalweg": seconds}}
    return lambda: {**ends, "loader": loader, "besides": [1.0, 2.0, 3.0], "layout": "channels last"}


GOOD = [87.1, 88.1, 89.1], [8.0, 9.0, 40.0]


def out_of_luck():
    raise sys.modules["common"].Failed("out of luck")


@pytest.mark.parametrize(
    ("row", "turn", "said"),
    [
        (0, ended_at(*GOOD), None),
        (0, ended_at([87.5, 88.5, 89.5], [8.0, 9.0, 40.0]), "+0.50 points from the loop's accuracy, at most 0.4 are promised"),
        (0, ended_at([86.5, 87.5, 88.5], [8.0, 9.0, 40.0]), "-0.50 points from the loop's accuracy, at most 0.4 are promised"),
        (0, ended_at(GOOD[0], [8.0, 11.0, 12.0]), "an epoch takes 1.10 times the loop's, at most 1 is promised"),
        (2, ended_at([86.75, 87.75, 88.75], [11.0, 12.0, 13.0], None), None),
        (2, ended_at([86.6, 87.6, 88.6], [8.0, 9.0, 40.0], None), "-0.40 points from the loop's accuracy, at most 0.3 are promised"),
        (0, out_of_luck, "CNN, Fashion-MNIST, float32: failed: out of luck"),
    ],
)
def test_what_a_run_is_blamed_for(runs, row, turn, said, capsys):
    found = runs.judged(runs.ROWS[row], runs.WHOLE, turn)
    absent = [{"row": "all rows", "not_measured": "this machine has none"}]
    table = {**results(runs, found), "nets": [], "accelerator": absent}
    told = runs.missed(table)
    assert [said in text for text in told] == [True] if said else told == []
    runs.show(table)
    assert "on an accelerator, all rows: not measured, this machine has none." in capsys.readouterr().out
    page = runs.page(json.loads(json.dumps(table)))
    assert ("**" in page) == (said is not None and "failed" not in said)
    assert "On an accelerator, all rows: not measured, this machine has none." in page
    small = runs.judged(runs.ROWS[row], runs.QUICK, turn)
    assert runs.missed({**table, "rows": [small]}) == ([told[0]] if turn is out_of_luck else [])


def nets(densenet):
    return [
        {"net": name, "parameters": 10_000, "accuracy": accuracy, "seconds": [5.0, 7.0], "layout": "as given"}
        for name, accuracy in (("CNN", [79.0, 81.0]), ("ResNet-18", [85.0, 86.0]), ("DenseNet", densenet))
    ]


@pytest.mark.parametrize(
    ("densenet", "said"), [([79.0, 81.5], []), ([79.0, 81.0], ["DenseNet: 80.00 % on the test rows, more than the CNN's is promised"])]
)
def test_nets_that_are_to_beat_the_cnn(runs, densenet, said):
    table = {**results(runs), "nets": runs.judged_nets(nets(densenet), True)}
    assert runs.missed(table) == said
    page = runs.page(table)
    assert "| ResNet-18 | 10,000 | 85.50 | 85.00, 86.00 | 6.0 |" in page
    assert ("| **80.00** |" in page) == bool(said)
    assert not runs.missed({**table, "nets": runs.judged_nets(nets(densenet), False)})
    assert runs.missed({**table, "nets": [{"net": "all", "failed": "out of luck"}]}) == ["all: failed: out of luck"]


def test_the_page_of_the_runs_is_filled(runs):
    table = {**results(runs, runs.judged(runs.ROWS[0], runs.WHOLE, ended_at(*GOOD))), "nets": []}
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    fill = sys.modules["common"].fill
    once = fill(text, runs.page(table))
    assert "| CNN, Fashion-MNIST, float32 | 88.6 | 88.00 | 88.10 | +0.10 | 0.4 | 10.00 | 9.00 | 0.90 | 1 | - | 9.00 | 2.00 |" in once
    assert fill(once, runs.page(table)) == once


def test_rows_that_a_machine_cannot_measure_say_so(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "cpuinfo", lambda field: "avx2 avx512f")
    path = tmp_path / "found.json"
    assert runs.main(["--only", "MNIST, bf16", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert [row["not_measured"] for row in found["rows"]] == ["this processor has no arithmetic in bfloat16"] * 2
    assert not found["whole"]
    assert "CNN, MNIST, bf16: not measured, this processor has no arithmetic in bfloat16." in capsys.readouterr().out
    monkeypatch.setattr(runs, "cpuinfo", lambda field: "avx2 avx512_bf16")
    assert runs.why_not(runs.ROWS[2], "cpu") is None
    with pytest.raises(SystemExit):
        runs.main(["--only", "no such row"])
