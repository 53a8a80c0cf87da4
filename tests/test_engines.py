"""Any lane of any engine equals the loop written by hand; lanes do not disturb each other, nor the caller."""

from __future__ import annotations

import copy
import gc
import math
import re
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import thalweg as tw
from loops import ORACLES, cached, distance, flat, oracle, train
from samples import sample
from thalweg.core import Rate, catalogue
from thalweg.engine.fleet import choose, fleet
from thalweg.schedules import cosine
from thalweg.study.sweep import Runs

RULES = sorted(catalogue.shelf("optimizers"))
ENGINES = ("fleet", "solo", "pool")
POOLED = ("adam", "random_search", "sgd", "soap")
ORDINARY = {"adamax", "adabelief", "amsgrad", "lamb", "lars", "lion", "muon", "nadam", "nesterov", "radam", "schedule_free_sgd", "yogi"}
"""Rules whose like is among the others: every one is compared on one model and engine, the others on all."""
PAIRS = [(rule, engine) for engine in ENGINES for rule in RULES if engine != "pool" or rule in POOLED]
"""A pool's workers step as the solo engine does: a rule of every scope is enough there."""
FEWER = [(rule, engine) for rule, engine in PAIRS if engine == "fleet" or rule not in ORDINARY]
MODELS = [(rule, engine, "mlp") for rule, engine in PAIRS]
MODELS += [(rule, engine, model) for rule, engine in FEWER if rule not in ORDINARY for model in ("cnn", "batch-norm")]
SMOOTH = ("sgd", "momentum", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "lamb", "nadam")
"""Rules whose round-off says something of threads: signs and bfloat16 lose it or show it as a whole step; ASGD shrinks weights by a
millionth a step, where torch's two roundings err alike at every step and our single one does not. Of some that are alike one is here."""
STEPS = 100
FEW = 40  # in float32, where every run is trained four times


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One thread, which is fastest for small models; and a pool that is made of processes, also on a machine with one core."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _taped():
    """Short as the runs here are, they are recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "TAPED", True)
        yield


def sweep(name: str, rule: Any, configs: Any, engine: str = "fleet", dtype: torch.dtype = torch.float64, **options: Any) -> Runs:
    s = sample(name, dtype)
    options = {"steps": STEPS, "batch_size": s.batch_size} | options
    return tw.sweep(s.model, s.loss, s.data, optimizer=rule, configs=configs, engine=engine, device="cpu", **options)


@cached
def by_hand(name: str, rule: str, lane: int, kind: str = "lanes", dtype: torch.dtype = torch.float64, steps: int = STEPS, seed: int = 0):
    """The loop for a lane of a rule; engines are compared with the same one."""
    s = sample(name, dtype)
    return train(s.model, s.loss, s.data, rule, configs_of(rule, kind)[lane], steps=steps, batch_size=s.batch_size, seed=seed)


def configs_of(rule: str, kind: str) -> list[Mapping[str, Any]]:
    """Configurations to train together: the rule's own lanes, or its default under schedule, decay and clipping."""
    if kind == "lanes":
        return list(oracle(rule).lanes)
    if rule == "random_search":  # neither a rate nor a gradient
        return [{"scale": 0.3, "schedule": {"scale": COSINE}}, {"scale": 0.1}]
    base = oracle(rule).lanes[1]
    return [
        {**base, "schedule": COSINE},
        {**base, "weight_decay": 0.05},
        {**base, "schedule": {"lr": COSINE, "weight_decay": COSINE}, "weight_decay": 0.2},
        {**base, "clip_norm": 0.3, "clip_value": 0.1},
        {**base, "clip_norm": 0.5, "clip_value": 0.05, "weight_decay": 0.1, "schedule": COSINE},
    ]


COSINE = cosine(total=STEPS, floor=0.1, warmup=10)


# --- acceptance: any lane equals the hand-written loop


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_an_oracle(rule):
    assert len(oracle(rule).lanes) > 1, f"give the oracle of {rule} several lanes, so that it is tested in a fleet"


def test_a_rule_without_an_oracle_is_told_where_to_add_it():
    with pytest.raises(LookupError, match=r"the rule nadam0 has no oracle: add its torch.optim class"):
        oracle("nadam0")


@pytest.mark.parametrize(("rule", "engine", "model"), MODELS)
def test_lane_equals_loop(rule, model, engine):
    runs = sweep(model, rule, configs_of(rule, "lanes"), engine)
    assert runs.engine == engine
    for lane in range(len(runs.configs)):
        assert distance(runs.state_dict(lane), by_hand(model, rule, lane).model) <= 1e-10


@pytest.mark.parametrize(("rule", "engine"), FEWER)
def test_lane_equals_loop_with_dropout_schedule_decay_and_clipping(rule, engine):
    runs = sweep("dropout", rule, configs_of(rule, "extras"), engine)
    for lane in range(len(runs.configs)):
        assert distance(runs.state_dict(lane), by_hand("dropout", rule, lane, "extras").model) <= 1e-10


@pytest.mark.parametrize("engine", ENGINES)
def test_extras_change_the_run(engine):
    single = [{"clip_norm": 0.3}, {"clip_value": 0.1}, {}]
    runs = sweep("dropout", "sgd", [{"lr": 0.1} | config for config in [*single, *configs_of("sgd", "extras")]], engine)
    ends = [flat(sample("dropout").model, runs.state_dict(k)) for k in range(len(runs.configs))]
    assert all((a - b).norm() > 1e-3 for k, a in enumerate(ends) for b in ends[:k])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", ["mlp", "dropout", "batch-norm"])
def test_lanes_with_seeds_of_their_own_equal_their_loops(model, engine):
    config, seeds = oracle("adam").lanes[1], [3, 4, 3, 11]
    runs = sweep(model, "adam", [config] * len(seeds), engine, seed=seeds)
    for lane, seed in enumerate(seeds):
        assert distance(runs.state_dict(lane), by_hand(model, "adam", 1, seed=seed).model) <= 1e-10
    assert distance(runs.state_dict(0), by_hand(model, "adam", 1, seed=4).model) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_random_search_draws_by_seed(engine):
    runs = sweep("mlp", "random_search", [{"scale": 0.5}] * 2, engine, seed=[1, 2])
    for lane, seed in enumerate([1, 2]):
        assert distance(runs.state_dict(lane), by_hand("mlp", "random_search", 2, seed=seed).model) <= 1e-10


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_are_those_of_the_loop(engine):
    runs = sweep("dropout", "adam", configs_of("adam", "lanes"), engine, every=7)
    assert runs.steps.tolist() == [*range(0, STEPS, 7), STEPS]
    for lane in range(3):
        hand = by_hand("dropout", "adam", lane, steps=STEPS + 1).losses
        np.testing.assert_allclose(runs.loss[lane], [hand[t] for t in runs.steps], rtol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_norm_buffers_equal_the_loops(engine):
    runs = sweep("batch-norm", "adam", configs_of("adam", "lanes"), engine)
    for lane in range(3):
        theirs = by_hand("batch-norm", "adam", lane).model.state_dict()
        assert list(theirs) == sorted(runs.state_dict(lane), key=list(theirs).index)
        for name, tensor in theirs.items():
            torch.testing.assert_close(runs.state_dict(lane)[name], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("rule", "engine"), PAIRS)
def test_float32_lane_equals_loop_after_a_few_steps(rule, engine):
    runs = sweep("mlp", rule, configs_of(rule, "lanes"), engine, torch.float32, steps=5)
    for lane in range(len(runs.configs)):
        assert distance(runs.state_dict(lane), by_hand("mlp", rule, lane, dtype=torch.float32, steps=5).model) <= 1e-5


@cached
def by_threads(rule: str, lane: int) -> tuple[nn.Module, float]:
    """The loop in float32 on the wide model, on one thread, and its distance from the same on two."""
    s, ends, before = sample("wide", torch.float32), [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            ends.append(train(s.model, s.loss, s.data, rule, oracle(rule).lanes[lane], steps=FEW, batch_size=s.batch_size).model)
    finally:
        torch.set_num_threads(before)
    return ends[0], distance(ends[1].state_dict(), ends[0])


@pytest.mark.parametrize("rule", SMOOTH)
def test_float32_lane_stays_near_the_loop(rule):
    # The yardstick is how far torch's own runs on 1 and 2 threads lie apart. On a small model that is 0, as every sum keeps its order, and
    # measures nothing; hence the wide one. Under relu a number that round-off carries across the kink throws a run 1e-4 off, torch's own
    # as well as ours, and a single pair of runs says nothing; hence the smooth one. The larger of the lanes' distances is the yardstick.
    lanes = configs_of(rule, "lanes")[:2]
    yardstick = max(by_threads(rule, lane)[1] for lane in range(len(lanes)))
    assert yardstick > 0
    for engine in ("fleet", "solo"):  # in one test, so that one process trains the loops once
        runs = sweep("wide", rule, lanes, engine, torch.float32, steps=FEW)
        for lane in range(len(lanes)):
            assert distance(runs.state_dict(lane), by_threads(rule, lane)[0]) <= 10 * yardstick, engine


def test_float32_random_search_answers_with_the_loops_draw():
    # no round-off adds up in it: the answer is one of the draws
    for engine in ENGINES:
        runs = sweep("wide", "random_search", configs_of("random_search", "lanes"), engine, torch.float32, steps=FEW)
        for lane in range(3):
            assert distance(runs.state_dict(lane), by_threads("random_search", lane)[0]) <= 1e-6, engine


# --- divergence: a lane that explodes changes no other


@pytest.mark.parametrize("bad", [1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_a_diverging_lane_changes_no_other(rule, dtype, bad):
    rates = np.geomspace(1e-3, 3e-2, 32).tolist()
    s = sample("mlp", dtype)
    without = sweep("mlp", rule, [{"lr": lr} for k, lr in enumerate(rates) if k != 13], dtype=dtype)
    runs = sweep("mlp", rule, [{"lr": bad if k == 13 else lr} for k, lr in enumerate(rates)], dtype=dtype)
    others = [k for k in range(32) if k != 13]
    for k, same in zip(others, range(31), strict=True):
        a, b = flat(s.model, runs.state_dict(k)), flat(s.model, without.state_dict(same))
        assert (a - b).norm() <= 1e-6 * b.norm()
    assert (runs.diverged_at[others] == -1).all()
    hand = train(s.model, s.loss, s.data, rule, {"lr": bad}, steps=5, batch_size=s.batch_size)
    assert runs.diverged_at[13] == hand.diverged_at() > 0


@pytest.mark.parametrize("patience", [7, 16])
def test_dead_lanes_that_are_masked_for_a_while_change_no_other(patience, monkeypatch):
    # as on an accelerator, which is asked for dead lanes seldom
    lanes = [{"lr": 0.05}, {"lr": 1e6}, {"lr": 0.01}, {"lr": 1e300}]
    at_once = sweep("mlp", "momentum", lanes, steps=40)
    monkeypatch.setattr(fleet, "PATIENCE", {"cpu": patience})
    runs = sweep("mlp", "momentum", lanes, steps=40)
    assert runs.diverged_at.tolist() == at_once.diverged_at.tolist()
    np.testing.assert_allclose(runs.loss, at_once.loss, rtol=1e-12)
    for lane in (0, 2):
        a, b = (flat(sample("mlp").model, r.state_dict(lane)) for r in (runs, at_once))
        assert (a - b).norm() <= 1e-12 * b.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_records_of_a_diverged_lane_stop_and_those_of_others_do_not(engine):
    runs = sweep("mlp", "sgd", [{"lr": 0.1}, {"lr": 1e6}, {"lr": 0.05}], engine, steps=30)
    assert runs.steps.tolist() == [0, 10, 20, 30]
    assert np.isfinite(runs.loss[[0, 2]]).all()
    assert np.isfinite(runs.loss[1, 0])
    assert np.isnan(runs.loss[1, 1:]).all()
    assert 0 < runs.diverged_at[1] < 10


@pytest.mark.parametrize("engine", ENGINES)
def test_all_lanes_may_diverge(engine):
    runs = sweep("mlp", "sgd", [{"lr": 1e6}, {"lr": 1e7}, {"lr": 1e300}], engine, steps=30)
    assert (runs.diverged_at > 0).all()
    assert np.isfinite(runs.loss[:, 0]).all()
    assert len(runs.table()) == 3
    assert set(runs.state_dict(2)) == set(sample("mlp").model.state_dict())


@pytest.mark.parametrize("engine", ENGINES)
def test_nan_in_the_data_diverges_at_once(engine):
    s = sample("mlp")
    inputs = torch.full_like(s.data[0], math.nan)
    runs = tw.sweep(s.model, s.loss, (inputs, s.data[1]), configs=[{}, {"lr": 1e-2}], steps=5, batch_size=16, engine=engine, device="cpu")
    assert runs.diverged_at.tolist() == [0, 0]
    for name, tensor in s.model.state_dict().items():
        assert torch.equal(runs.state_dict(1)[name], tensor)


@pytest.mark.parametrize("every", [1, 10])
def test_every_lane_that_dies_at_a_step_has_its_last_record(every):
    work_lanes = [{"lr": 1e6}, {"lr": 1e7}]
    fleet_runs, solo_runs = (sweep("mlp", "sgd", work_lanes, engine, steps=30, every=every) for engine in ("fleet", "solo"))
    assert fleet_runs.diverged_at.tolist() == solo_runs.diverged_at.tolist() == [1, 1]
    np.testing.assert_allclose(fleet_runs.loss, solo_runs.loss, rtol=1e-9)


# --- one lane's hyperparameters are its own


def test_dampening_needs_momentum_in_a_mixed_fleet():
    # torch.optim.SGD ignores dampening where momentum is 0, also next to a lane that has momentum
    lanes = [{"lr": 0.1, "dampening": 0.5}, {"lr": 0.1, "momentum": 0.9}]
    runs, s = sweep("mlp", "sgd", lanes), sample("mlp")
    for lane, config in enumerate(lanes):
        hand = train(s.model, s.loss, s.data, "sgd", config, steps=STEPS, batch_size=s.batch_size)
        assert distance(runs.state_dict(lane), hand.model) <= 1e-10


def test_lanes_of_different_structure_are_trained_in_one_call():
    lanes = [{"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.1}, {"lr": 0.1, "clip_norm": 0.1}, {"lr": 0.1, "momentum": 0.9}]
    runs, s = sweep("mlp", "sgd", lanes), sample("mlp")
    for lane, config in enumerate(lanes):
        hand = train(s.model, s.loss, s.data, "sgd", config, steps=STEPS, batch_size=s.batch_size)
        assert distance(runs.state_dict(lane), hand.model) <= 1e-10


# --- noise other than dropout's own


class Noisy(nn.Module):
    """Random numbers besides those of dropout, drawn before or after them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.drop, self.last = nn.Linear(6, 8), nn.Dropout(0.4), nn.Linear(8, 3)
        self.attention = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3, batch_first=True)

    def forward(self, x):
        if self.kind == "attention":
            x = self.attention(x[:, None].expand(-1, 4, -1)).mean(1)
        if self.kind == "noise, then dropout":
            x = x + 0.3 * torch.randn_like(x)
        x = self.first(x)
        # torch fills the noise of a transposed tensor in the order of its memory
        x = self.drop(x.reshape(-1, 2, 4).mT).mT.reshape(-1, 8) if self.kind == "transposed dropout" else self.drop(x)
        if self.kind == "dropout, then noise":
            x = x + 0.3 * torch.randn_like(x)
        return self.last(x)


@pytest.mark.parametrize("engine", ["fleet", "solo"])
@pytest.mark.parametrize("seeds", [[5, 5], [5, 6]], ids=["one seed", "two seeds"])
@pytest.mark.parametrize("kind", ["dropout, then noise", "noise, then dropout", "transposed dropout", "attention"])
def test_noise_of_any_kind_is_the_loops(kind, seeds, engine):
    s = sample("mlp")
    torch.manual_seed(0)
    model = Noisy(kind).double()
    lanes = [{"lr": 0.1}, {"lr": 0.05}]
    runs = tw.sweep(
        model, s.loss, s.data, optimizer="sgd", configs=lanes, steps=20, batch_size=16, seed=seeds, engine=engine, device="cpu"
    )
    for lane, config in enumerate(lanes):
        hand = train(model, s.loss, s.data, "sgd", config, steps=20, batch_size=16, seed=seeds[lane])
        assert distance(runs.state_dict(lane), hand.model) <= 1e-10


@pytest.mark.parametrize("make", [nn.Dropout2d, nn.AlphaDropout], ids=["channels", "alpha"])
@pytest.mark.parametrize("seeds", [[5, 5], [5, 6]], ids=["one seed", "two seeds"])
def test_other_dropouts_are_the_loops(make, seeds):
    s = sample("cnn")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), make(0.3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).double()
    runs = tw.sweep(
        model, s.loss, s.data, optimizer="sgd", configs=[{"lr": 0.1}] * 2, steps=20, batch_size=16, seed=seeds, engine="fleet", device="cpu"
    )
    for lane, seed in enumerate(seeds):
        hand = train(model, s.loss, s.data, "sgd", {"lr": 0.1}, steps=20, batch_size=16, seed=seed)
        assert distance(runs.state_dict(lane), hand.model) <= 1e-10


# --- the caller's model and settings are left alone


@pytest.mark.parametrize("engine", ENGINES)
def test_sweep_leaves_model_and_generator_alone(engine):
    s = sample("batch-norm")
    s.model.eval()
    before = copy.deepcopy(s.model.state_dict())
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    tw.sweep(s.model, s.loss, s.data, configs=[{}, {"lr": 1e6}], steps=5, batch_size=16, engine=engine, device="cpu")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in s.model.state_dict().items())
    assert all(p.grad is None for p in s.model.parameters())
    assert not s.model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("engine", ENGINES)
def test_sweep_trains_where_gradients_are_switched_off(engine):
    with torch.no_grad():
        runs = sweep("mlp", "sgd", [{"lr": 0.1}, {"lr": 0.2}], engine, steps=5)
        assert not torch.is_grad_enabled()
    assert runs.loss[0, -1] != runs.loss[0, 0]


# --- models as people write them


class Odd(nn.Module):
    """A frozen layer, an unused layer, tied weights, a layer used twice, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.unused = nn.Linear(6, 6), nn.Linear(6, 6)
        self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("scaling", torch.tensor(0.5), persistent=False)

    def forward(self, x):
        return self.out(self.b(self.a(self.a(self.frozen(x)).relu()).relu()).relu() * self.scaling)


@pytest.fixture(scope="module")
def odd():
    torch.manual_seed(3)
    return Odd().double()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("config", [{}, {"weight_decay": 0.1}], ids=["plain", "decay"])
def test_frozen_unused_and_tied_weights_are_as_torch_treats_them(odd, engine, config):
    s = sample("mlp")
    runs = tw.sweep(odd, s.loss, s.data, optimizer="adamw", configs=[config] * 2, steps=STEPS, batch_size=16, engine=engine, device="cpu")
    hand = train(odd, s.loss, s.data, "adamw", config, steps=STEPS, batch_size=16)
    assert distance(runs.state_dict(1), hand.model) <= 1e-10
    for name in ("frozen.weight", "unused.weight", "unused.bias"):
        assert torch.equal(runs.state_dict(1)[name], odd.state_dict()[name])


@pytest.mark.parametrize("engine", ENGINES)
def test_state_dict_loads_into_the_model(odd, engine):
    s = sample("mlp")
    runs = tw.sweep(odd, s.loss, s.data, configs=[{}], steps=2, batch_size=16, engine=engine, device="cpu")
    model = copy.deepcopy(odd)
    model.load_state_dict(runs.state_dict(0))
    assert torch.equal(model.a.weight, model.b.weight)
    assert not torch.equal(model.a.weight, odd.a.weight)


class Branching(nn.Module):
    """Python looks at a number, which no fleet can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        scores = self.layer(x)
        return scores if scores.sum().item() > 0 else 2 * scores


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_model_that_vmap_cannot_take_is_trained_lane_by_lane(engine):
    s, lanes = sample("mlp"), [{"lr": 0.1}, {"lr": 0.2}]
    model = Branching().double()
    runs = tw.sweep(model, s.loss, s.data, optimizer="sgd", configs=lanes, steps=20, batch_size=16, engine=engine, device="cpu")
    for lane, config in enumerate(lanes):
        assert distance(runs.state_dict(lane), train(model, s.loss, s.data, "sgd", config, steps=20, batch_size=16).model) <= 1e-10


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_failing_forward_shows_the_users_own_error(engine):
    s = sample("mlp")
    with pytest.raises(tw.UserError, match=r"batch of shapes \(16, 6\), \(16,\).*shapes cannot be multiplied"):
        tw.sweep(nn.Linear(5, 3).double(), s.loss, s.data, configs=[{}, {}], steps=5, batch_size=16, engine=engine, device="cpu")


# --- data in the forms it comes


class Rows(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return tuple(column[i] for column in self.columns)


def first_step(model, batch):
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["targets"])


@pytest.mark.parametrize("form", ["numpy", "TensorDataset", "Dataset", "dict", "Problem"])
@pytest.mark.parametrize("engine", ["fleet", "solo"])
def test_data_in_any_form_trains_alike(form, engine):
    s = sample("mlp")
    inputs, targets = s.data
    data, how = {
        "numpy": ((inputs.numpy(), targets.numpy()), {"loss": s.loss}),
        "TensorDataset": (TensorDataset(*s.data), {"loss": s.loss}),
        "Dataset": (Rows(*s.data), {"loss": s.loss}),
        "dict": ({"inputs": inputs, "targets": targets}, {"step": first_step}),
        "Problem": (tw.Problem(lambda: s.model, s.loss, train=s.data), {}),
    }[form]
    configs = configs_of("adam", "lanes")
    runs = tw.sweep(s.model, data=data, configs=configs, steps=STEPS, batch_size=s.batch_size, engine=engine, device="cpu", **how)
    for lane in range(len(configs)):
        assert distance(runs.state_dict(lane), by_hand("mlp", "adam", lane).model) <= 1e-10


@pytest.mark.parametrize("engine", ["fleet", "solo"])
@pytest.mark.parametrize("batch_size", [1, 49, 50])
def test_batches_of_any_size(batch_size, engine):
    s = sample("mlp")
    runs = sweep("mlp", "adam", [{"lr": 1e-2}], engine, batch_size=batch_size, steps=20)
    hand = train(s.model, s.loss, s.data, "adam", {"lr": 1e-2}, steps=20, batch_size=batch_size)
    assert distance(runs.state_dict(0), hand.model) <= 1e-10


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_no_steps_leave_the_weights_and_one_record(engine):
    runs = sweep("batch-norm", "adam", [{}, {"lr": 1.0}], engine, steps=0)
    assert runs.steps.tolist() == [0]
    assert runs.loss.shape == (2, 1)
    for name, tensor in sample("batch-norm").model.state_dict().items():
        assert torch.equal(runs.state_dict(1)[name], tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"configs": []}, "configs is empty"),
        ({"configs": [{"lr": -1.0}]}, r"adam: lr = -1 is outside \[0, inf\)"),
        ({"configs": [{"lr": math.inf}]}, r"adam: lr = inf is outside \[0, inf\)"),
        ({"configs": [{"bata1": 0.5}]}, "did you mean 'beta1'"),
        ({"configs": {"lr": 0.1}}, "configs"),
        ({"configs": [0.1]}, "configs"),
        ({"configs": [{"schedule": 0.5}]}, "must be a function of t"),
        ({"configs": [{"schedule": {"gamma": COSINE}}]}, "a schedule cannot drive 'gamma' of adam"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"optimizer": len}, "is not a rule"),
        ({"engine": "flet"}, "did you mean 'fleet'"),
        ({"batch_size": 51}, "between 1 and the 50 rows"),
        ({"batch_size": 0}, "between 1 and the 50 rows"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"steps": -1}, "steps = -1"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"every": 0}, "every = 0"),
        ({"seed": [1, 2, 3]}, "3 seeds for 1 configurations"),
        ({"model": lambda: None}, "sweep takes a module"),
        ({"loss": None}, "either loss="),
        ({"data": None}, "train=|data"),
        ({"device": "cudda"}, "did you mean 'cuda'"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "the loss must be one number"),
        ({"model": nn.Linear(6, 3).double().requires_grad_(False)}, "does not depend on any trainable parameter"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value))[:40],
)
def test_mistakes_are_told_in_a_sentence(change, words):
    s = sample("mlp")
    arguments = {"model": s.model, "loss": s.loss, "data": s.data, "configs": [{}], "steps": 2, "batch_size": 16, "device": "cpu"} | change
    with pytest.raises(tw.UserError, match=words) as caught:
        tw.sweep(arguments.pop("model"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(1), torch.tensor(0.5)], ids=["float32", "int64", "tensor"])
def test_numbers_of_numpy_are_numbers_or_an_error_in_words(value):
    try:
        runs = sweep("mlp", "sgd", [{"lr": value}], steps=2)
    except tw.UserError as error:
        assert "must be a number" in str(error)
    else:
        assert np.isfinite(runs.loss).all()


# --- memory


def test_a_fleet_too_large_for_memory_is_halved(monkeypatch):
    rates = [{"lr": lr} for lr in np.geomspace(1e-3, 1e-1, 11)]
    whole, sizes, alive = sweep("dropout", "adam", rates), [], []
    genuine = fleet.Fleet.train

    def train_little(self, progress):
        gc.collect()
        sizes.append(len(self.specs))
        alive.append(sum(ref() is not None for ref in gone))
        if len(self.specs) > 4:
            gone.append(weakref.ref(self))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(self, progress)

    gone: list[Any] = []
    plan = choose.Choice("fleet", 11, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(fleet.Fleet, "train", train_little)
        patch.setattr(choose, "choose", lambda *_, **__: plan)
        runs = sweep("dropout", "adam", rates)
    assert sizes == [11, 5, 2, 3, 6, 3, 3]
    for k in range(11):
        assert distance(runs.state_dict(k), _as_model("dropout", whole.state_dict(k))) <= 1e-10
    assert max(alive) == 0, "a fleet that did not fit must be gone before its halves are made"
    with monkeypatch.context() as patch:  # the choice of an engine finds out by itself
        patch.setattr(fleet.Fleet, "train", train_little)
        assert len(sweep("dropout", "adam", rates).configs) == 11


def _as_model(name: str, state: Mapping[str, torch.Tensor]) -> nn.Module:
    model = sample(name).model
    model.load_state_dict(state)
    return model


def test_memory_that_one_lane_exhausts_is_an_error(monkeypatch):
    def fail(self, progress):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fleet.Fleet, "train", fail)
    with pytest.raises(torch.OutOfMemoryError):
        sweep("mlp", "adam", [{}, {}])


# --- regularizers


@pytest.fixture(scope="module")
def irrelevant():
    """A regression whose last 10 of 15 features have no influence; full batches."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 15, generator=generator, dtype=torch.float64)
    y = X[:, :5] @ torch.tensor([3.0, -2.0, 1.5, 1.0, -1.0], dtype=torch.float64) + 2.0
    y = y + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    return nn.Linear(15, 1).double(), (X, y[:, None])


@pytest.mark.parametrize("engine", ["fleet", "solo"])
@pytest.mark.parametrize("name", ["l1", "elastic_net"])
def test_l1_and_elastic_net_give_exact_zeros(irrelevant, name, engine):
    model, data = irrelevant
    lanes = [{"lr": 0.05, name: 0.1} | ({"elastic_beta": 0.1} if name == "elastic_net" else {}), {"lr": 0.05}]
    runs = tw.sweep(
        model, nn.functional.mse_loss, data, optimizer="sgd", configs=lanes, steps=200, batch_size=200, engine=engine, device="cpu"
    )
    with_penalty, without = runs.state_dict(0), runs.state_dict(1)
    assert (with_penalty["weight"][0, 5:] == 0).all()
    assert (with_penalty["weight"][0, :5].abs() > 0.5).all()
    assert (without["weight"] != 0).all()
    assert with_penalty["bias"].item() == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("name", "beta"), [("l1", 0.0), ("elastic_net", 0.5)])
def test_proximal_steps_end_at_the_minimum_of_loss_plus_penalty(irrelevant, name, beta):
    # optimality of mse + strength * sum (beta w^2 + |w|): the smooth gradient is -strength sign(w), or within strength where w = 0
    model, (X, y) = irrelevant
    config = {"lr": 0.05, name: 0.2} | ({"elastic_beta": beta} if name == "elastic_net" else {})
    runs = tw.sweep(
        model, nn.functional.mse_loss, (X, y), optimizer="sgd", configs=[config], steps=1000, batch_size=200, engine="fleet", device="cpu"
    )
    w, b = runs.state_dict(0)["weight"][0], runs.state_dict(0)["bias"]
    residual = X @ w + b - y[:, 0]
    smooth = 2 * X.T @ residual / len(X) + 2 * 0.2 * beta * w
    assert residual.mean().abs() < 1e-9  # the bias pays no penalty
    assert torch.allclose(smooth[w != 0], -0.2 * w[w != 0].sign(), atol=1e-8)
    assert (smooth[w == 0].abs() <= 0.2).all()
    assert (w == 0).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw"])
def test_l2_equals_its_penalty_in_the_loss(rule, engine):
    s = sample("mlp")

    def penalty(model):
        return 0.03 * sum((p**2).sum() for p in model.parameters() if p.dim() > 1)

    lanes = [{"lr": 0.01, "l2": 0.03}, {"lr": 0.01, "l2": 0.03, "clip_norm": 0.5}]
    runs = sweep("mlp", rule, lanes, engine)
    for lane, config in enumerate(lanes):
        config = {name: value for name, value in config.items() if name != "l2"}
        hand = train(s.model, s.loss, s.data, rule, config, steps=STEPS, batch_size=s.batch_size, penalty=penalty)
        assert distance(runs.state_dict(lane), hand.model) <= 1e-10


# --- rules that users write


def test_a_rule_that_asks_for_the_first_point_and_the_weights(irrelevant):
    @tw.rule
    def pulled(x, g, *, lr: Rate = 1e-2, x0, weights, t):
        return x - lr * (g + weights * (x - x0) / t)

    model, data = irrelevant
    ends = [
        tw.sweep(model, nn.functional.mse_loss, data, optimizer=pulled, configs=[{}, {"lr": 0.1}], steps=20, engine=engine, device="cpu")
        for engine in ("fleet", "solo")
    ]
    for k in range(2):
        assert distance(ends[0].state_dict(k), _loaded(model, ends[1].state_dict(k))) <= 1e-12


@pytest.mark.parametrize("engine", ["fleet", "solo"])
def test_a_rule_of_whole_tensors_sees_each_parameter(engine):
    @tw.rule(scope="tensor")
    def normed(x, g, v=lambda x: torch.zeros(x.shape[:1], dtype=x.dtype), *, lr: Rate = 1e-2):
        v = v + g.reshape(len(g), -1).square().sum(1)
        return x - lr * g / (v.sqrt().reshape(-1, *[1] * (x.dim() - 1)) + 1e-8), v

    s = sample("mlp")
    runs = sweep("mlp", normed, [{}, {"lr": 0.05}], engine, steps=20)
    model, sums = copy.deepcopy(s.model), {}
    for index in tw.batches(50, 16, steps=20):
        model.zero_grad()
        s.loss(model(s.data[0][index]), s.data[1][index]).backward()
        with torch.no_grad():
            for p in model.parameters():
                sums[p] = sums.get(p, 0.0) + p.grad.flatten(1).square().sum(1) if p.dim() > 1 else sums.get(p, 0.0) + p.grad**2
                p -= 0.05 * p.grad / (sums[p].sqrt().reshape(-1, *[1] * (p.dim() - 1)) + 1e-8)
    assert distance(runs.state_dict(1), model) <= 1e-10


def _loaded(model: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    return model


USER_RULE = '''
"""Signs. Me, 2024"""
from thalweg.core import Rate, rule

@rule
def signs(x, g, *, lr: Rate = 1e-2):
    return x - lr * g.sign()
'''


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rule_from_a_users_file_runs_on_any_engine(tmp_path, engine):
    path = tmp_path / "mine.py"
    path.write_text(USER_RULE)
    runs = sweep("mlp", f"{path}:signs", [{}, {"lr": 0.1}], engine, steps=5)
    assert runs.engine == engine
    moved = flat(sample("mlp").model, runs.state_dict(1)) - flat(sample("mlp").model)
    assert moved.abs().max() <= 0.5 + 1e-12


def test_every_oracle_belongs_to_a_rule():
    assert set(ORACLES) == set(RULES)
