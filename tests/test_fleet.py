"""How fleets work inside changes nothing: ways, tapes, forms and kernels agree with the plain loop; what lanes may vary and do besides."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import os
import re
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw
from loops import distance, flat, train
from samples import sample
from thalweg.core import Rate, rule, zeros
from thalweg.core.catalogue import shelf
from thalweg.core.problem import Problem
from thalweg.engine.bound import resolve
from thalweg.engine.fleet import choose, fleet, glance, gradient, solo
from thalweg.engine.fleet import trial as trials
from thalweg.engine.fleet.trial import trial
from thalweg.engine.fleet.ways import WAYS
from thalweg.engine.recording import cache, kernel, strategies
from thalweg.engine.recording.program import Program
from thalweg.engine.recording.strategies import FORMS, REWRITES, forced
from thalweg.engine.recording.tape import Unrecordable, fuse, record
from thalweg.engine.work import Lane, Outcome, Work, threads_of
from thalweg.study.prepare import prepare
from thalweg.study.sweep import Runs, all_wrappers

STEPS = 25
LANES = ({"lr": 0.02}, {"lr": 0.05, "beta1": 0.5}, {"lr": 1e-3}, {"lr": 0.01})


@pytest.fixture(autouse=True, scope="module")
def _taped():
    """Short as the runs here are, they are recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "TAPED", True)
        yield


def work(name: str, configs=LANES, rule_name: str = "adam", dtype=torch.float64, steps: int = STEPS, seeds=None, **more) -> Work:
    s = sample(name, dtype)
    chosen, wrappers = shelf("optimizers")[rule_name], tuple(all_wrappers())
    lanes = tuple(Lane(resolve(chosen, c, wrappers), seed) for c, seed in zip(configs, seeds or [0] * len(configs), strict=True))
    problem = Problem(lambda: s.model, s.loss, train=s.data)
    return Work(problem, chosen, lanes, lambda _: copy.deepcopy(s.model), steps, s.batch_size, wrappers, **more)


def gap(outcome: Outcome, name: str, config, rule_name: str = "adam", steps: int = STEPS, seed: int = 0, **more) -> float:
    s = sample(name)
    hand = train(s.model, s.loss, s.data, rule_name, config, steps=steps, batch_size=s.batch_size, seed=seed, **more)
    return distance(outcome.state, hand.model)


def sweep(name: str, configs, optimizer, engine: str = "fleet", loss=None, **more) -> Runs:
    s = sample(name)
    options = {"steps": 20, "batch_size": 16, "device": "cpu"} | more
    return tw.sweep(s.model, loss or s.loss, s.data, optimizer=optimizer, configs=configs, engine=engine, **options)


def looped(name: str, config, rule_name: str, seed: int = 0) -> nn.Module:
    s = sample(name)
    return train(s.model, s.loss, s.data, rule_name, config, steps=20, batch_size=16, seed=seed).model


@pytest.fixture(autouse=True)
def machine():
    """One thread, which is fastest for small models; ways of several threads ask for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock is a millisecond after the one before: what is chosen by the clock is the same on any machine."""
    ticks = itertools.count()
    for module in (glance, gradient, strategies, trials):
        monkeypatch.setattr(module, "perf_counter", lambda: 1e-3 * next(ticks))


# --- every way, taped or not, equals the loop


@pytest.mark.parametrize("taped", [True, False], ids=["taped", "plain"])
@pytest.mark.parametrize("way", ["together", "apart", "threads"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "batch-norm", "dropout"])
@pytest.mark.parametrize("seeds", [[3, 3, 3, 3], [3, 4, 3, 5]], ids=["one seed", "seeds"])
def test_every_way_equals_the_loop(name, way, taped, seeds):
    with threads_of(2 if way == "threads" else 1):
        ends = fleet.run(work(name, seeds=seeds), way=way, taped=taped)
    for end, config, seed in zip(ends, LANES, seeds, strict=True):
        assert gap(end, name, config, seed=seed) <= 1e-10


@pytest.mark.parametrize("form", sorted({form.__name__ for forms in FORMS.values() for form in forms}))
def test_every_form_of_an_operation_equals_the_loop(form):
    name = "cnn" if "pool" in form or "convolution" in form else "mlp"
    with forced(form):
        for way in ("together", "apart"):
            for end, config in zip(fleet.run(work(name), way=way), LANES, strict=True):
                assert gap(end, name, config) <= 1e-10


@pytest.mark.parametrize("rule_name", sorted(shelf("optimizers")))
def test_kernels_agree_with_operations_called_one_by_one(rule_name, monkeypatch):
    configs = [{}, {"weight_decay": 0.1}] if "lr" in shelf("optimizers")[rule_name].hypers else [{}, {"scale": 0.1}]
    joined = fleet.run(work("mlp", configs, rule_name))
    monkeypatch.setattr(kernel, "_compiler", lambda: None)
    apart = fleet.run(work("mlp", configs, rule_name))
    for a, b in zip(joined, apart, strict=True):
        assert max(float((a.state[n] - b.state[n]).abs().max()) for n in a.state) <= 1e-10


def test_kernels_are_compiled_where_there_is_a_compiler():
    if kernel._compiler() is None:
        pytest.skip("no C compiler here; fleets step operation by operation")
    f = fleet.Fleet(work("mlp"), "together", True)
    f.train(None)
    assert any(isinstance(node.op, kernel.Kernel) for node in f.update.program.tape.nodes)


def test_without_a_compiler_all_works_and_the_log_says_so_once(tmp_path):
    code = """
        import logging, torch, thalweg as tw
        from thalweg.engine.fleet import fleet
        logging.basicConfig(level=logging.DEBUG)
        fleet.TAPED = True
        X = torch.randn(50, 3)
        for _ in range(2):
            tw.sweep(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (X, X[:, :1]), configs=[{}, {"lr": 1.0}], steps=3, batch_size=10)
    """
    environment = {k: v for k, v in os.environ.items() if k != "CC"} | {"PATH": str(tmp_path), "THALWEG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no C compiler") == 1


# --- tapes


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_programs_answer_as_the_function_does(data):
    """Random chains of operations, some of them in place on values of their own, with inputs that are donated."""
    picks = data.draw(st.lists(st.integers(0, 9), min_size=3, max_size=14))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    inputs = [torch.randn(4, 5, dtype=torch.float64) for _ in range(3)] + [torch.randn(4, 1, dtype=torch.float64)]

    def function(x, y, z, row):
        found = [x, y, z]
        for i, pick in enumerate(picks):
            a, b = found[(i * 7 + pick) % len(found)], found[(i * 3 + 1) % len(found)]
            steps = [
                lambda a, b: a + 0.3 * b, lambda a, b: a * b, lambda a, b: (a - b).abs(), lambda a, b: a / (b.abs() + 1.5),
                lambda a, b: torch.maximum(a, row), lambda a, b: torch.where(a > b, a, -b), lambda a, b: a - 0.5 * a * b,
                lambda a, b: (a * 2).add_(b), lambda a, b: a.t().contiguous().t() + b.sum(1, keepdim=True),
                lambda a, b: a.clamp(-1, 1) * row,
            ]  # fmt: skip
            found.append(steps[pick](a, b))
        return found[-1], found[-2], found[len(found) // 2] * 1.0

    expected = [end.clone() for end in function(*inputs)]
    for passes in (lambda t: t, fuse, lambda t: kernel.joined(fuse(t))):
        mine = [tensor.clone() for tensor in inputs]
        program = Program(passes(record(function, mine)), mine, donate={0: 0, 1: 1})
        ends = program()
        for end, wanted in zip(ends, expected, strict=True):
            torch.testing.assert_close(end, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mine[0], expected[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mine[2], inputs[2], rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [lambda x: x * x.sum().item(), lambda x: x + torch.rand_like(x), lambda x: x.add_(1.0), lambda x: x[x > 0]],
    ids=["reads a number", "draws numbers", "changes its input", "shape depends on numbers"],
)
def test_what_cannot_be_replayed_is_not_recorded(function):
    with pytest.raises(Unrecordable):
        record(function, [torch.ones(3)])


class Counting(nn.Module):
    """A forward that depends on how often it was called: what a tape cannot know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * (1.0 + 0.1 * min(self.calls, 1000))


def test_a_tape_that_drifts_from_its_model_is_found_out():
    s = sample("mlp")
    model = Counting().double()
    problem = Problem(lambda: model, s.loss, train=s.data)
    lanes = tuple(Lane(resolve(shelf("optimizers")["sgd"], {"lr": lr}, ())) for lr in (0.01, 0.02))
    w = Work(problem, shelf("optimizers")["sgd"], lanes, lambda _: copy.deepcopy(model), 20, 16)
    with pytest.raises(fleet.Drifted):
        fleet.Fleet(w, "together", True).train(None)
    ends = fleet.run(w, way="together")  # starts over without a tape
    assert all(np.isfinite(end.curve.loss).all() for end in ends)


def test_recordings_do_not_grow_with_steps_or_with_lanes_that_go():
    rates = [{"lr": lr} for lr in [*np.geomspace(1e-3, 1e-1, 24), *np.geomspace(1e3, 1e9, 40)]]

    def count(steps: int) -> tuple[int, int]:
        f = fleet.Fleet(work("mlp", rates, "sgd", steps=steps), "together", True)
        f.train(None)
        return f.gradient.recorded, f.update.programs

    short, long = count(30), count(300)
    assert short == long
    # two shapes of batches (the last of an epoch is short); a new size only when a quarter of the lanes is gone
    most = math.ceil(math.log(64 / 24) / math.log(1 / fleet.SPARSE)) + 1
    assert long[0] <= 2 * most
    assert long[1] <= most


def test_short_runs_are_not_recorded_and_long_ones_are(monkeypatch, clock):
    monkeypatch.setattr(fleet, "TAPED", None)
    few, many = (fleet.Fleet(work("mlp", [{"lr": 0.01 * (k + 1)} for k in range(lanes)], steps=n)) for lanes, n in ((2, 10), (64, 10_000)))
    assert (few.gradient.taped, few.update.taped) == (False, False)
    assert (many.gradient.taped, many.update.taped) == (True, True)


@pytest.mark.parametrize("name", ["mlp", "dropout", "batch-norm"])
@pytest.mark.parametrize("taped", [True, False])
def test_a_fleet_takes_over_the_rig_of_the_one_before(name, taped):
    configs = [{"lr": 0.02 * (k + 1)} for k in range(3)]
    first = work(name, configs)
    ends = fleet.run(first, way="together", taped=taped)
    rig = first.memo.rig
    recorded = rig.gradient.recorded
    fleet.run(first.with_lanes(work(name, [{"lr": 0.3}, {"lr": 0.2, "beta1": 0.8}, {}]).lanes), way="together", taped=taped)
    again = fleet.run(first, way="together", taped=taped)
    assert first.memo.rig is rig
    assert rig.gradient.recorded == recorded
    for a, b in zip(ends, again, strict=True):
        assert all(torch.equal(a.state[n], b.state[n]) for n in a.state)
        assert np.array_equal(a.curve.loss, b.curve.loss)


def test_lanes_trained_one_by_one_share_what_is_recorded(monkeypatch):
    configs = [{"lr": 0.01 * (k + 1)} for k in range(5)]
    w, updates = work("mlp", configs), []
    monkeypatch.setattr(fleet.Update, "_record", lambda self, *a, _f=fleet.Update._record: updates.append(1) or _f(self, *a))
    ends = solo.run(w)
    assert w.memo.rig.gradient.recorded <= 4  # two shapes of batches, two forms of convolutions at the most
    assert len(updates) == 1
    for end, config in zip(ends, configs, strict=True):
        assert gap(end, "mlp", config) <= 1e-10


def test_tensors_that_a_model_keeps_for_itself_are_not_handed_on():
    class Masked(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 1).double()
            self.mask = torch.rand(4, generator=torch.Generator().manual_seed(seed)).double()  # neither parameter nor buffer

        def forward(self, x):
            return self.layer(x * self.mask)

    X = torch.rand(40, 4, dtype=torch.float64)
    problem = Problem(lambda: Masked(0), nn.functional.mse_loss, train=(X, X.sum(1, keepdim=True)))
    sgd = shelf("optimizers")["sgd"]
    lanes = tuple(Lane(resolve(sgd, {"lr": 0.1}, ()), seed) for seed in (0, 1))
    both = Work(problem, sgd, lanes, Masked, 20, 40)
    shared = solo.run(both)
    alone = [solo.run(Work(problem, sgd, (lane,), Masked, 20, 40))[0] for lane in lanes]
    for a, b in zip(shared, alone, strict=True):
        assert all(torch.equal(a.state[n], b.state[n]) for n in a.state)


def test_compiled_kernels_serve_every_width_and_rate():
    fleet.run(work("mlp", LANES, "yogi"))
    before = len(kernel.compilations)
    fleet.run(work("mlp", [{"lr": 0.3}, {"lr": 0.7, "eps": 0.1}], "yogi", steps=7))
    fleet.run(work("cnn", LANES[:3], "yogi", steps=7))
    assert len(kernel.compilations) - before <= 1  # a hyperparameter that all share is a number, not a column


def test_what_was_found_fastest_is_remembered_for_other_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path))
    cache.folder.cache_clear()
    try:
        assert cache.remembered(("key", 1), ("a", "b"), lambda: "b") == "b"
    finally:
        cache.folder.cache_clear()
    code = "from thalweg.engine.recording.cache import remembered; print(remembered(('key', 1), ('a', 'b'), lambda: 'a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "b"


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir(mode=0o777)
    (tmp_path / "kernels").chmod(0o777)
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path))
    cache.folder.cache_clear()
    try:
        assert cache.folder("kernels").parent != tmp_path
    finally:
        cache.folder.cache_clear()


# --- what lanes may vary besides rates


@pytest.mark.parametrize("engine", ["fleet", "solo"])
@pytest.mark.parametrize("seeds", [[5, 5, 5, 5], [5, 6, 7, 5]], ids=["one seed", "seeds"])
def test_dropout_probability_varies_between_lanes(engine, seeds):
    configs = [{"lr": 0.05, "dropout": p} for p in (0.0, 0.2, 0.5, 0.8)]
    runs = sweep("dropout", configs, "sgd", engine, seed=seeds)
    for k, config in enumerate(configs):
        assert distance(runs.state_dict(k), looped("dropout", config, "sgd", seeds[k])) <= 1e-10


@pytest.mark.parametrize("engine", ["fleet", "solo"])
def test_label_smoothing_varies_between_lanes(engine):
    configs = [{"lr": 0.05, "label_smoothing": share} for share in (0.0, 0.1, 0.5)]
    runs = sweep("mlp", configs, "adam", engine, nn.CrossEntropyLoss())
    for k, config in enumerate(configs):
        assert distance(runs.state_dict(k), looped("mlp", config, "adam")) <= 1e-10


def test_label_smoothing_of_another_loss_is_refused():
    weighted = nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float64))
    with pytest.raises(tw.UserError, match="label_smoothing can be set for a mean cross_entropy"):
        sweep("mlp", [{"label_smoothing": 0.1}], "adam", "auto", weighted)


@pytest.mark.parametrize("engine", ["fleet", "solo"])
@pytest.mark.parametrize("name", ["mlp", "dropout", "batch-norm"])
def test_sam_takes_its_gradient_uphill(name, engine):
    configs = [{"lr": 0.05, "sam": radius} for radius in (0.01, 0.1, 0.5)]
    runs, plain = sweep(name, configs, "momentum", engine), sweep(name, [{"lr": 0.05}], "momentum")
    for k, config in enumerate(configs):
        assert distance(runs.state_dict(k), looped(name, config, "momentum")) <= 1e-10
    model = sample(name).model
    assert (flat(model, runs.state_dict(2)) - flat(model, plain.state_dict(0))).norm() > 1e-3


@pytest.mark.parametrize("way", ["together", "apart"])
@pytest.mark.parametrize("name", ["mlp", "dropout", "batch-norm"])
@pytest.mark.parametrize("parts", [2, 3, 100])
def test_accumulated_gradients_are_the_loops(name, way, parts):
    size = 25 if name == "batch-norm" else 16  # a batch norm cannot train on single rows, in torch either
    parts = min(parts, 5) if name == "batch-norm" else parts
    s = sample(name)
    for end, config in zip(fleet.run(replace(work(name, accumulate=parts, steps=15), batch_size=size), way=way), LANES, strict=True):
        hand = train(s.model, s.loss, s.data, "adam", config, steps=15, batch_size=size, accumulate=parts)
        assert distance(end.state, hand.model) <= 1e-10


@pytest.mark.parametrize("way", ["together", "threads"])
def test_a_fleet_that_is_done_is_gone_at_once(way):
    fleet.run(work("dropout"), way=way)  # what torch loads at first use may keep what was there then
    gc.collect()
    gc.disable()
    try:
        with threads_of(2):
            f = fleet.Fleet(work("dropout"), way, True)
        f.train(None)
        places = [weakref.ref(x) for x in (*f.lanes.x, *f.lanes.g)]
        del f
        assert not any(place() is not None for place in places)
    finally:
        gc.enable()


def test_accumulation_needs_less_memory():
    s = sample("cnn", torch.float32)
    data = (s.data[0].repeat(4, 1, 1, 1), s.data[1].repeat(4))

    def passing(parts: int) -> int:
        problem = Problem(lambda: s.model, s.loss, train=data)
        lanes = tuple(Lane(resolve(shelf("optimizers")["sgd"], {}, ())) for _ in range(4))
        return trial(
            Work(problem, shelf("optimizers")["sgd"], lanes, lambda _: s.model, 3, 64, accumulate=parts), "together", True
        ).recording

    assert passing(8) < passing(1) / 2


@pytest.mark.parametrize("way", ["together", "apart"])
def test_bf16_trains_near_full_precision_and_keeps_float32_weights(way):
    s = sample("mlp", torch.float32)
    full, half = (fleet.run(work("mlp", dtype=torch.float32, precision=p, steps=20), way=way) for p in ("full", "bf16"))
    for a, b in zip(full, half, strict=True):
        assert all(tensor.dtype is torch.float32 for tensor in b.state.values())
        x, y = flat(s.model, a.state), flat(s.model, b.state)
        assert 1e-6 < (x - y).norm() / x.norm() < 0.1
    hand = sample("mlp", torch.float32)

    def loss(output, target):
        return hand.loss(output.float(), target)

    class Cast(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    loop = train(Cast(hand.model), loss, hand.data, "adam", LANES[0], steps=3, batch_size=hand.batch_size)
    three = fleet.run(work("mlp", dtype=torch.float32, precision="bf16", steps=3), way=way)[0]
    x, y = flat(hand.model, three.state), flat(loop.model.inner)
    assert (x - y).norm() / y.norm() < 0.02


@pytest.mark.parametrize("engine", ["fleet", "solo", "auto"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loaders_batches_are_shared_by_all_lanes(engine, workers):
    s = sample("dropout")
    loader = DataLoader(TensorDataset(*s.data), batch_size=16, shuffle=True, num_workers=workers)
    configs = [{"lr": lr} for lr in (0.01, 0.05, 0.1)]
    seeds = [3, 4, 3]
    runs = tw.sweep(s.model, s.loss, loader, optimizer="adam", configs=configs, steps=10, seed=seeds, engine=engine, device="cpu")
    for k, config in enumerate(configs):
        model = copy.deepcopy(s.model)
        optimizer = torch.optim.Adam(model.parameters(), **config)
        t = 0
        for epoch in range(3):
            torch.manual_seed(tw.step_seed(0, epoch))
            for inputs, targets in loader:
                if t < 10:
                    torch.manual_seed(tw.step_seed(seeds[k], t))
                    optimizer.zero_grad()
                    s.loss(model(inputs), targets).backward()
                    optimizer.step()
                t += 1
        assert distance(runs.state_dict(k), model) <= 1e-10


def test_a_loader_without_batches_is_told():
    s = sample("mlp")
    loader = DataLoader(TensorDataset(*s.data), batch_size=1000, drop_last=True)
    with pytest.raises(tw.UserError, match="the DataLoader gives no batches"):
        tw.sweep(s.model, s.loss, loader, configs=[{}], steps=2)


# --- rules and models that vmap cannot take


def test_a_rule_with_a_branch_on_its_numbers_steps_lane_by_lane():
    @rule
    def halting(x, g, v=zeros, *, lr: Rate = 0.1):
        """Stops for good where the gradient is short."""
        if float(g.norm()) < 1e-3:
            return x, v
        v = 0.5 * v + g
        return x - lr * v, v

    runs = sweep("mlp", [{"lr": 0.1}, {"lr": 0.05}], halting)
    for k, lr in enumerate((0.1, 0.05)):
        assert distance(runs.state_dict(k), looped("mlp", {"lr": lr, "momentum": 0.5}, "sgd")) <= 1e-10


def test_numbers_keep_their_precision_beside_the_count_of_a_step():
    @rule
    def late(x, g, *, lr: Rate = 0.1, t):
        """Half a step first."""
        return x - lr * (1 - 0.3 * (t < 5)) * g

    config = {"lr": 0.1, "schedule": lambda t: 0.7 if t < 4 else 1.0}
    assert distance(sweep("mlp", [{"lr": 0.1}], late).state_dict(0), looped("mlp", config, "sgd")) <= 1e-12


# --- successive halving


def halved(**more) -> tuple[Work, list[Outcome]]:
    s = sample("mlp")
    w = work("mlp", [{"lr": lr} for lr in np.geomspace(1e-6, 0.1, 16)], steps=40, evaluations=(0, 10, 20, 40), rungs=(10, 20))
    problem = Problem(lambda: s.model, s.loss, train=s.data, valid=s.data, test=s.data, metrics="accuracy")
    w = replace(w, problem=problem, **more)
    return w, fleet.run(w)


def test_the_worse_half_is_stopped_at_each_rung_and_the_rest_is_as_without():
    w, ends = halved()
    assert sorted(end.stopped_at for end in ends) == [-1] * 4 + [10] * 8 + [20] * 4
    whole = fleet.run(w.with_lanes(w.lanes) if not w.rungs else type(w)(**{**vars(w), "rungs": ()}))
    for stop in (10, 20):
        at = [10, 20].index(stop) + 1
        kept = [end.curve.valid["accuracy"][at] for end in ends if end.stopped_at == -1 or end.stopped_at > stop]
        gone = [end.curve.valid["accuracy"][at] for end in ends if end.stopped_at == stop]
        assert min(kept) >= max(gone)
    for end, full in zip(ends, whole, strict=True):
        if end.stopped_at == -1:
            assert max(float((end.state[n] - full.state[n]).abs().max()) for n in end.state) <= 1e-10
        else:
            assert end.curve.eval_steps[-1] == end.stopped_at
            assert end.curve.steps[-1] < end.stopped_at
            assert not end.test
            np.testing.assert_allclose(end.curve.loss, full.curve.loss[: len(end.curve.loss)], rtol=1e-9)


def test_stop_early_leaves_the_judge_whole_runs(tmp_path):
    study = tw.compare("diabetes-linear", ["sgd", "adam"], budget=8, seeds=2, steps=40, stop_early=True, out=tmp_path / "s")
    table = study.table()
    tuning, final = table[table["phase"] == "tune"], table[table["phase"] == "final"]
    assert (final["status"] != "stopped").all()
    assert (tuning["status"] == "stopped").sum() >= 8
    first, second = sorted(set(tuning.loc[tuning["status"] == "stopped", "steps"]))
    assert abs(first - 10) <= 2
    assert abs(second - 20) <= 2
    for label in ("sgd", "adam"):
        chosen = final.loc[final["optimizer"] == label, "trial"].iloc[0]
        own = tuning[(tuning["optimizer"] == label) & (tuning["trial"] == chosen)]
        assert own["status"].item() == "done"


@pytest.mark.parametrize("asked", [{"engine": "solo"}, {"kind": "sweep"}])
def test_stop_early_needs_trials_that_train_together(asked):
    with pytest.raises(tw.UserError, match="stop_early ranks trials that train together"):
        prepare("diabetes-linear", ["sgd[lr=0.1,0.2]"], stop_early=True, steps=10, **asked)


# --- memory and the choice of an engine

PEAK = """
import sys, copy, torch
from thalweg.core.catalogue import shelf
from thalweg.core.problem import Problem
from thalweg.engine import memory
from thalweg.engine.fleet import choose, fleet
from thalweg.engine.bound import resolve
from thalweg.engine.work import Lane, Work
from thalweg.models import mlp
from thalweg.engine.fleet import trial as module
genuine = module.trial
choose.trial = lambda work, way="auto": genuine(work, {way!r} if way == "auto" else way)
choose.free_memory = lambda device: 64 << 30  # whatever else this machine is at
torch.manual_seed(0)
lanes, way, batch = int(sys.argv[1]), sys.argv[2], 64
model = mlp((784,), 10, hidden=1024, depth=2)
X, y = torch.rand(512, 784), torch.randint(10, (512,))
adam = shelf("optimizers")["adam"]
def work(n, steps=100_000):  # so many that the plan trains for a moment on any machine, however fast
    specs = tuple(Lane(resolve(adam, {{"lr": 1e-4 * (k + 1)}}, ())) for k in range(n))
    problem = Problem(lambda: model, torch.nn.functional.cross_entropy, train=(X, y))
    return Work(problem, adam, specs, lambda s: copy.deepcopy(model), steps, batch, keep_weights=False)
limit = int(sys.argv[3]) or None
choice = choose.choose(work(lanes), "fleet", limit=limit)
assert choice.way == way, choice
with memory.Peak(torch.device("cpu")) as peak:
    for i in range(0, lanes, choice.lanes):
        fleet.run(work(lanes, 6).with_lanes(work(lanes).lanes[i : i + choice.lanes]), way=choice.way, taped=True)
print(choice.lanes, choice.memory, peak.bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("way", ["together", "apart"])
def test_the_peak_of_a_fleet_is_predicted_and_kept_below_a_limit(way):
    lanes = 16  # of a size beside which what torch loads and the C library holds back for itself is small

    def peak(limit: int) -> list[int]:
        command = [sys.executable, "-c", PEAK.format(way=way), str(lanes), way, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [int(number) for number in done.stdout.split()]

    def off(predicted: int, real: int) -> float:
        return abs(predicted - real) / real

    width, predicted, real = peak(0)
    assert width == lanes
    if off(predicted, real) > 0.25:  # the system counts pages as it likes: the middle of three tells
        _, predicted, real = sorted([(width, predicted, real), peak(0), peak(0)], key=lambda seen: off(*seen[1:]))[1]
    assert off(predicted, real) <= 0.25, f"{predicted / 2**20:.0f} MB predicted, {real / 2**20:.0f} MB used"
    if way == "apart":
        return
    limit = round(0.6 * real)
    split, predicted, real = peak(limit)
    assert split < lanes
    assert max(predicted, real) <= limit


def test_a_limit_that_not_even_one_run_keeps_is_told():
    with pytest.raises(tw.UserError, match=r"one run needs about .* more than the 0 MB of --memory"):
        choose.choose(work("mlp"), limit=100)


@pytest.mark.parametrize("text", ["", "4 XB", "-1GB", "0", "many"])
def test_an_amount_of_memory_is_a_number_with_a_unit(text):
    with pytest.raises(tw.UserError, match="is not an amount of memory"):
        choose.parse_memory(text)


def test_a_choice_says_what_it_predicts(clock, monkeypatch):
    monkeypatch.setattr(choose.joblib, "cpu_count", lambda **_: 2)
    choice = choose.choose(work("mlp", steps=400))
    assert choice.engine == "fleet"
    assert choice.seconds["solo"] == pytest.approx(4 * 400 * 1e-3)
    assert choice.way in WAYS
    assert set(choice.seconds) == {"fleet", "solo", "pool"}
    assert choice.predicted == choice.seconds["fleet"] <= 1.001 * choice.seconds["solo"]
    assert re.match("the fastest", choice.why)


@pytest.mark.parametrize("lanes", [2, 3, 7, 12])
def test_auto_takes_a_fleet_where_little_is_known(lanes, clock):
    assert choose.choose(work("mlp", [{"lr": 0.01 * (k + 1)} for k in range(lanes)], steps=7)).engine == "fleet"


def test_rewrites_are_for_operations_with_several_forms():
    assert set(REWRITES) == set(FORMS)
    assert all(len(forms) > 1 for forms in FORMS.values())


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = self.into(x).view(-1, 4, 2, 3).transpose(1, 2).repeat(1, 1, 2, 1).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(1)[:, :8])


@pytest.mark.parametrize("way", ["together", "apart"])
def test_attention_takes_the_math_path_in_a_fleet(way):
    s = sample("mlp")
    torch.manual_seed(0)
    model = Attends().double()
    w = work("mlp")
    w = replace(w, problem=Problem(lambda: model, s.loss, train=s.data), start=lambda _: copy.deepcopy(model))
    for end, config in zip(fleet.run(w, way=way), LANES, strict=True):
        hand = train(model, s.loss, s.data, "adam", config, steps=STEPS, batch_size=s.batch_size)
        assert distance(end.state, hand.model) <= 1e-10
