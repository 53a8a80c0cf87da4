"""tw.diagnose: what it says of constructed faults, what it refuses, that it changes nothing; the range test; the command line's story."""

from __future__ import annotations

import contextlib
import copy
import html
import importlib
import json
import math
import random
import re
import shlex
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import thalweg as tw
from thalweg.cli import commands
from thalweg.core import Rate
from thalweg.core import cause as causing
from thalweg.core.finding import Finding, Findings
from thalweg.errors import UserError
from thalweg.explain import case as cases
from thalweg.explain.evidence import Evidence
from thalweg.explain.findings import diagnose, entries, ranked
from thalweg.explain.measure import MEASUREMENTS, WORDS
from thalweg.explain.measure.outputs import REFERENCES, identity
from thalweg.explain.range_test import range_test
from thalweg.study.folder import claim

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def _unhurried():
    """Budgets are of this process's own time: the machine may be busy with other things, or stand still for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("explain.evidence", "explain.findings", "explain.measure.trials", "study.diagnosing"):
            patch.setattr(importlib.import_module(f"thalweg.{name}"), "time", SimpleNamespace(monotonic=time.process_time))
        yield


def blobs(rows=120, features=6, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    x = torch.randn(rows, features, generator=draw)
    x[:, :classes] += 4 * F.one_hot(y, classes)
    return x, y


def net(seed=0, features=6, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, classes))


def train(model, loss, data, optimizer, steps=60, batch=32, history=None):
    draw, history = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        rows = torch.randperm(len(data[0]), generator=draw)[:batch]
        optimizer.zero_grad()
        value = loss(model(data[0][rows]), data[1][rows])
        value.backward()
        optimizer.step()
        history.append(value.item())
    return history


def first(*args, **kwargs):
    found = diagnose(*args, seconds=60, **kwargs)
    return found.first.cause if found else None


# --- the shelf


def test_every_cause_asks_for_measurements_that_there_are():
    assert set(causing.REQUESTS) == set(MEASUREMENTS) == set(WORDS)
    for name, entry in entries().items():
        assert entry.name == name
        assert entry.requests, f"{name} asks for nothing"
        assert set(entry.explains) <= set(entries()), f"{name} explains what is not there"
        assert entry.doc.strip()


def test_a_cause_asks_for_what_there_is():
    def moon_is_full(moon): ...

    with pytest.raises(UserError, match="no request of moon_is_full is called 'moon'"):
        causing.cause(moon_is_full)


def test_each_measurement_is_taken_once_and_within_the_budget():
    x, y = blobs()
    case = cases.make(net(), nn.CrossEntropyLoss(), (x, y), None, None, None, None, None, 0)
    taken = []
    shelf = {"parts": lambda case: taken.append("parts") or 1, "table": lambda parts: None, "slopes": lambda table: 1 / 0}
    evidence = Evidence(case, shelf, 60)
    assert [evidence.get("parts"), evidence.get("parts"), evidence.get("slopes")] == [1, 1, None]
    assert taken == ["parts"]
    late = Evidence(case, shelf, 1e-9)
    assert late.get("parts") is None
    assert "over" in late.skipped["parts"]


def test_short_trainings_end_when_the_time_is_over():
    data, model = blobs(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    case = cases.make(model, nn.CrossEntropyLoss(), data, optimizer, None, None, None, None, 0)
    late = Evidence(replace(case, deadline=0.0), MEASUREMENTS, 60)
    assert late.get("trials") is not None
    assert late.get("rates") is None
    assert "over" in late.skipped["rates"]


def test_what_a_certain_finding_explains_is_not_looked_for():
    x, y = blobs()
    model = nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))
    found = diagnose(model, nn.CrossEntropyLoss(), (x, y), torch.optim.SGD(model.parameters(), lr=1e-7), [1.1, 1.1], seconds=60)
    assert [one.cause for one in found] == ["softmax_twice"]


def test_what_is_skipped_is_said():
    found = diagnose(net(), nn.CrossEntropyLoss(), blobs(), seconds=1e-9)
    assert not found
    assert {"parts", "table"} <= set(found.skipped)
    assert "Not measured" in found.text


def test_findings_are_ranked_and_the_explained_count_for_less():
    high, frozen = Finding("rate_too_high", "", "", "", 0.92), Finding("frozen_layer", "", "", "", 0.96)
    order = ranked([high, frozen])
    assert [one.cause for one in order] == ["frozen_layer", "rate_too_high"]
    assert order[1].confidence == pytest.approx(0.46)
    assert ranked([Finding("diverged", "", "", "", 0.5), frozen]) == (frozen,)
    assert ranked([Finding("rate_too_low", "", "", "", 0.3)]) == ()


def test_findings_as_a_sequence_a_table_and_text():
    one = Finding("leak", "Rows leak.", "Half do.", "split first", 0.9, {}, {"share": 0.5})
    found = Findings((one,), looked=("the rows",))
    assert (len(found), found[0], found[:1], found.first) == (1, one, (one,), one)
    assert list(found.table()["cause"]) == ["leak"]
    assert found.text.startswith("1. Rows leak.")
    assert "Do: split first" in found.text
    assert "Looked at: the rows." in Findings((), looked=("the rows",)).text
    assert json.loads(json.dumps(found.plain()))["findings"][0]["numbers"] == {"share": 0.5}


# --- constructed faults beside those of tests/zoo


def test_a_healthy_training_has_no_finding():
    data, model = blobs(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = train(model, F.cross_entropy, data, optimizer)
    found = diagnose(model, nn.CrossEntropyLoss(), data, optimizer, history, valid=blobs(seed=1), seconds=60)
    assert not found, found.text
    assert found.skipped == {}


@pytest.mark.parametrize("told", [True, False])
def test_a_schedule_that_ends_with_the_training_is_no_finding_and_one_that_ended_early_is(told):
    for gamma, cause in ((None, None), (0.6, "schedule_ended")):
        data, model = blobs(), net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = (
            torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma) if gamma else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        )
        table = {"step": [], "loss": [], "lr": []}
        for step in range(60):
            table["step"].append(step)
            table["lr"].append(optimizer.param_groups[0]["lr"])
            table["loss"] += train(model, F.cross_entropy, data, optimizer, steps=1)
            schedule.step()
        found = diagnose(model, nn.CrossEntropyLoss(), data, optimizer, table if told else table["loss"], seconds=60)
        assert (found.first.cause if found else None) == cause, found.text


def test_nan_in_the_data_and_constant_targets():
    x, y = blobs()
    holed = x.clone()
    holed[3, 1] = math.nan
    assert first(net(), nn.CrossEntropyLoss(), (holed, y)) == "data_not_finite"
    assert first(net(classes=1), nn.MSELoss(), (x, torch.ones(120, 1))) == "constant_targets"


def test_a_sigmoid_taken_twice():
    x, y = blobs(classes=2)
    model = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())
    found = diagnose(model, nn.BCEWithLogitsLoss(), (x, y.float().unsqueeze(1)), seconds=60)
    assert found.first.cause == "softmax_twice"
    assert "Sigmoid" in found.first.evidence


def test_one_score_for_cross_entropy():
    x, _ = blobs()
    assert first(net(classes=1), nn.CrossEntropyLoss(), (x, torch.zeros(120, dtype=torch.long) + torch.arange(120) % 1)) is not None


def test_batch_norm_at_rest_in_a_model_in_training_mode():
    x, y = blobs()
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    for _ in range(3):
        model(x)
    model[1].eval()
    assert first(model, nn.CrossEntropyLoss(), (x, y)) == "norm_in_eval"
    model.eval()  # as after a training, for a test
    assert first(model, nn.CrossEntropyLoss(), (x, y)) is None


def test_overfitting_by_the_history():
    table = pd.DataFrame(
        {"step": range(0, 60, 10), "loss": np.nan, "train_loss": [2, 1, 0.5, 0.2, 0.1, 0.01], "valid_loss": [2, 1, 0.8, 1.2, 1.6, 2]}
    )
    table.loc[:, "loss"] = [2, 1, 0.5, 0.2, 0.1, 0.01]
    data, model = blobs(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, F.cross_entropy, data, optimizer)
    found = diagnose(model, nn.CrossEntropyLoss(), data, optimizer, table, seconds=60)
    assert [one.cause for one in found] == ["overfitting"]
    assert found.first.numbers == {"least": 0.8, "last": 2.0}


def test_a_leak_is_counted_and_rows_that_are_alike_by_nature_are_none():
    x, y = blobs()
    mixed = (torch.cat([x[:30], torch.randn(30, 6)]), torch.cat([y[:30], y[:30]]))
    found = diagnose(net(), nn.CrossEntropyLoss(), (x, y), valid=mixed, seconds=60)
    assert found.first.cause == "leak"
    assert found.first.numbers == {"share": 0.5, "rows": 30.0}
    coarse = torch.randint(0, 2, (120, 3), generator=torch.Generator().manual_seed(0)).float()
    labels = coarse.sum(1).long() % 2
    assert first(net(features=3, classes=2), nn.CrossEntropyLoss(), (coarse, labels), valid=(coarse[:40], labels[:40])) != "leak"


def test_diverged_weights_are_diagnosed_from_history_and_fresh_weights():
    data, model = blobs(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4)
    history = train(model, F.cross_entropy, data, optimizer, steps=80)
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    found = diagnose(model, nn.CrossEntropyLoss(), data, optimizer, [*history, math.nan], seconds=60)
    assert found.first.cause == "rate_too_high"
    assert "From fresh weights" in found.first.evidence
    assert found.first.change["lr"] < 10


def test_training_at_the_edge_of_stability_is_a_note_and_no_finding():
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 20).unsqueeze(1)
    y = 8 * x**4 - 8 * x**2 + 1
    model = nn.Sequential(nn.Linear(1, 100), nn.Tanh(), nn.Linear(100, 1, bias=False))
    nn.init.xavier_uniform_(model[0].weight, gain=1.9)
    nn.init.xavier_uniform_(model[2].weight)
    nn.init.zeros_(model[0].bias)
    optimizer, history = torch.optim.SGD(model.parameters(), lr=0.4), []
    for _ in range(1200):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean() / 2
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    found = diagnose(model, lambda out, t: (out - t).square().mean() / 2, (x, y), optimizer, history, batch_size=20, seconds=60)
    assert found.measurements["curvature"].ratio == pytest.approx(1, abs=0.15)
    assert not found, found.text
    assert "edge of stability" in found.text


@pytest.mark.parametrize("name", REFERENCES)
def test_a_loss_is_known_by_its_values(name):
    x, y = blobs(rows=40)
    numbers = {"mse_loss", "l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
    if name in numbers:
        out, target = torch.rand(40, 1), torch.rand(40, 1).round()
    elif "pairs" in name:
        out, target = torch.rand(40, 1), torch.rand(40)
    else:
        out, target = torch.randn(40, 3), y
    for factor in (1.0, 0.5, 40.0):
        case = cases.make(net(), lambda a, b, f=factor: f * REFERENCES[name](a, b), (x, target), None, None, None, None, None, 0)
        assert identity(case, out, target) == name
    case = cases.make(net(), lambda a, b: (a**4).mean(), (x, target), None, None, None, None, None, 0)
    assert identity(case, out, target) == ""


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_a_history_is_the_same_as_a_list_a_dict_rows_and_a_table(losses):
    forms = [losses, {"step": range(len(losses)), "loss": losses}, pd.DataFrame({"loss": losses}), [{"loss": value} for value in losses]]
    found = [cases._history(form) for form in forms]
    assert all(np.array_equal(one["loss"], losses) and np.array_equal(one["step"], np.arange(len(losses))) for one in found)


# --- what it is given


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((nn.Linear(2, 2), nn.MSELoss(), None), "data is missing"),
        ((nn.Linear(2, 2), None, (torch.ones(3, 2), torch.ones(3, 2))), "loss is missing"),
        ((3, nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 2))), "takes the module"),
        ((nn.Linear(2, 2), nn.MSELoss(), (torch.ones(0, 2), torch.ones(0, 2))), "no rows"),
        ((nn.Linear(2, 2), nn.MSELoss(), (torch.ones(3, 2), torch.ones(4, 2))), "different numbers of rows"),
        ((nn.Linear(2, 2), nn.MSELoss(reduction="none"), (torch.ones(3, 2), torch.ones(3, 2))), "must be one number"),
        ((nn.Linear(2, 2), lambda out, y: out @ torch.ones(7), (torch.ones(3, 2), torch.ones(3, 2))), "fails on the data"),
        ((nn.Linear(2, 2), nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 2)), "adam"), "torch.optim.Optimizer"),
        ((nn.Linear(2, 2), nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 2)), None, [object()]), "history must be"),
        ((nn.Linear(2, 2), nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 2)), None, {"step": [1]}), "needs a column loss"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_diagnosed_is_said_in_a_sentence(args, said):
    with pytest.raises(UserError, match=said) as error:
        diagnose(*args)
    assert "\n" not in str(error.value)


class Custom(torch.autograd.Function):
    """A function with a first derivative only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.numpy(force=True).__abs__().sum() * torch.ones(()) + 0 * x.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].sign()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.head = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.inside(x.view(-1, 3, 2))
        return self.head(F.scaled_dot_product_attention(h, h, h).mean(1))


class Empty(nn.Module):
    def forward(self, x):
        return x[:, :3]


@pytest.mark.parametrize(
    ("model", "loss", "cause"),
    [
        (Empty(), F.cross_entropy, "nothing_to_train"),
        (net().requires_grad_(False), F.cross_entropy, "nothing_to_train"),
        (net(), lambda out, y: Custom.apply(out - y.unsqueeze(1)), None),
        (net(), lambda out, y: F.cross_entropy(out, y) * math.nan, None),
        (Attention(), F.cross_entropy, None),
    ],
    ids=["no parameters", "all frozen", "once differentiable", "loss is nan", "attention"],
)
def test_odd_models_and_losses_end_in_a_finding_or_in_what_was_skipped(model, loss, cause):
    points = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(points, lr=0.1) if points else None
    found = diagnose(model, loss, blobs(), optimizer, [1.0, 0.9], seconds=60)
    assert (found.first.cause if cause else None) == cause
    assert all("\n" not in why for why in found.skipped.values())
    if isinstance(model, Attention):
        assert found.skipped == {}


def test_steps_dicts_loaders_and_problems_are_taken():
    x, y = blobs()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True, generator=torch.Generator())
    before = loader.generator.get_state()
    model = nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))
    assert first(model, nn.CrossEntropyLoss(), loader) == "softmax_twice"
    assert torch.equal(loader.generator.get_state(), before)
    frozen = net()
    frozen[0].requires_grad_(False)
    batch = {"x": x, "y": y}
    assert first(frozen, data=batch, step=lambda model, b: F.cross_entropy(model(b["x"]), b["y"])) == "frozen_layer"
    problem = tw.Problem(model=net, loss=F.cross_entropy, train=(x, y), valid=(x[:50], y[:50]))
    assert first(net(), problem) == "leak"


# --- nothing is changed


class Everything(nn.Module):
    """Batch norm, dropout, recurrence and a buffer."""

    def __init__(self):
        super().__init__()
        self.norm, self.rnn, self.drop, self.head = nn.BatchNorm1d(3), nn.RNN(2, 8, batch_first=True), nn.Dropout(0.3), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return self.head(self.drop(self.rnn(self.norm(x.view(-1, 3, 2)))[0][:, -1]))


def state(model, optimizer):
    """All that must stay what it is, as plain copies."""
    return copy.deepcopy((
        [(k, v.clone(), v.data_ptr()) for k, v in model.state_dict().items()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [(p.requires_grad, id(p)) for p in model.parameters()], [m.training for m in model.modules()],
        optimizer.state_dict(), torch.get_rng_state(), np.random.get_state(), random.getstate(),
    ))  # fmt: skip


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def made(kind):
    torch.manual_seed(0)
    model = Everything()
    optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "adam": torch.optim.Adam, "lbfgs": torch.optim.LBFGS,
        "thalweg": lambda p: tw.optim.Adam(p, lr=1e-3), "lion": lambda p: tw.optimizer(tw.optimizers.lion)(p, lr=1e-3),
    }[kind](model.parameters())  # fmt: skip
    x, y = blobs()

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    history = [optimizer.step(closure).item() for _ in range(3)]
    model.norm.eval()
    return model, optimizer, (x, y), history


@pytest.mark.parametrize("kind", ["sgd", "adam", "lbfgs", "thalweg", "lion"])
def test_nothing_is_changed_and_training_goes_on_the_same(kind):
    model, optimizer, data, history = made(kind)
    before = state(model, optimizer)
    diagnose(model, F.cross_entropy, data, optimizer, history, valid=data, seconds=60)
    range_test(model, F.cross_entropy, data, optimizer, steps=12)
    assert same(state(model, optimizer), before)
    twin, its, _, _ = made(kind)
    for m, o in ((model, optimizer), (twin, its)):
        torch.manual_seed(1)

        def closure(m=m, o=o):
            o.zero_grad()
            loss = F.cross_entropy(m(data[0]), data[1])
            loss.backward()
            return loss

        o.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_nothing_is_changed_where_it_fails():
    model, optimizer, data, history = made("adam")
    before = state(model, optimizer)

    def failing(out, y):
        torch.rand(3), np.random.rand(), random.random()
        model.zero_grad()
        raise ValueError("no loss today")

    with pytest.raises(UserError, match="no loss today"):
        diagnose(model, failing, data, optimizer, history)
    assert same(state(model, optimizer), before)


# --- the range test


@pytest.mark.parametrize("curvature", [0.5, 8.0, 300.0])
def test_the_largest_stable_rate_of_a_quadratic_is_two_over_its_curvature(curvature):
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    x = torch.diag(torch.tensor([curvature, curvature / 10, curvature / 100]) * 3 / 2).sqrt()
    found = range_test(model, nn.MSELoss(), (x, torch.zeros(3, 1)), low=1e-5, high=100.0, batch_size=3)
    assert 2 / curvature / 1.5 < found.largest_stable < 2 / curvature * 1.5
    assert found.best <= found.largest_stable / 2
    assert found.rates.shape == found.losses.shape == found.smoothed.shape
    assert math.isfinite(found.diverged_at)
    assert found.diverged_at > found.largest_stable


def test_a_ramp_ends_at_a_loss_that_is_not_finite():
    def loss(out, y):
        return (out.square().mean() + 1).log() if bool(out.abs().max() < 0.6) else out.mean() * math.nan

    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    found = range_test(model, loss, (torch.eye(2), torch.zeros(2, 1)), high=1e4, batch_size=2)
    assert math.isfinite(found.diverged_at)
    assert np.isfinite(found.losses).all()
    assert found.rates[-1] < found.diverged_at


@pytest.mark.parametrize(("options", "said"), [({"low": 1.0, "high": 0.1}, "0 < low < high"), ({"steps": 3}, "at least 10")])
def test_a_range_that_is_none_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        range_test(net(), F.cross_entropy, blobs(), **options)


def test_the_range_test_has_a_picture():
    found = range_test(net(), F.cross_entropy, blobs(), steps=20)
    assert found.picture().axes[0].get_xlabel() == "learning rate"


# --- the command line


def typed(*words):
    done = CliRunner().invoke(commands, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_story_of_advertising(tmp_path, monkeypatch, data_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THALWEG_DATA", str(data_folder))
    found = json.loads(typed("diagnose", "advertising-linear", "-o", "sgd", "--lr", "1e-5", "--json"))
    one = found["findings"][0]
    assert one["cause"] == "features_unscaled"
    assert "TV" in one["title"]
    assert 1.5e5 < one["numbers"]["condition"] < 3e5
    assert one["numbers"]["stable_rate"] == pytest.approx(3.3e-5, rel=0.1)
    remedies = re.findall(r"thalweg (train [^(;]*?)(?= \(|;|$)", one["remedy"])
    assert len(remedies) == 2
    for remedy in remedies:
        run = json.loads(typed(*shlex.split(remedy), "--json", "--quiet"))
        assert run["test"]["loss"] == pytest.approx(2.7841263145, abs=2e-6)
    text = typed("diagnose", "advertising-linear", "-o", "sgd", "--lr", "1e-5")
    assert "1. The features are not scaled" in text
    assert "Do: thalweg train advertising-linear -o sgd" in text


def test_a_run_and_its_folder_are_diagnosed_alike(tmp_path):
    given = {"lr": 1e-6, "steps": 60, "out": tmp_path / "run"}
    run = tw.train("diabetes-linear", "sgd", **given)
    there = json.loads(typed("diagnose", tmp_path / "run", "--json"))
    assert there["findings"][0]["cause"] == run.diagnose().first.cause == "rate_too_low"
    assert there["findings"][0]["remedy"].startswith("thalweg train diabetes-linear -o sgd --lr 0.")
    again = tw.train("diabetes-linear", "sgd", lr=1e-6, steps=60)
    assert again.diagnose().first.cause == "rate_too_low"


def test_a_study_is_diagnosed_by_its_chosen_configurations(tmp_path):
    tw.compare("diabetes-linear", ["sgd"], budget=3, seeds=1, steps=40, out=tmp_path / "study").close()
    found = json.loads(typed("diagnose", tmp_path / "study", "--json"))
    assert found["name"] == "sgd"
    assert "trained with sgd: 40 of 40 steps" in found["message"]
    page = (tmp_path / "study" / "report.html").read_text()
    assert 'id="diagnosed"' in page
    assert "trained with sgd: 40 of 40 steps" in page


def test_findings_go_into_the_report_until_the_study_goes_on(tmp_path):
    given = ["diabetes-linear", "-o", "sgd", "--lr", "1e-7,1e-6", "--steps", "60", "--out", tmp_path / "study", "--quiet"]
    found = json.loads(typed("sweep", *given, "--diagnose", "--json"))["diagnosed"]
    assert [one["name"] for one in found] == ["sgd"]
    first = found[0]["findings"][0]
    page = (tmp_path / "study" / "report.html").read_text()
    assert first["cause"] == "rate_too_low"
    assert first["title"] in html.unescape(page)
    assert first["remedy"] in html.unescape(page)
    typed("sweep", *given, "--json")  # nothing is left to train
    assert "rate_too_low" in str(json.loads(typed("show", tmp_path / "study", "--json"))["diagnosed"])
    with contextlib.closing(sqlite3.connect(tmp_path / "study" / "study.db")) as store, store:
        store.execute("delete from runs")
        store.execute("delete from groups")
    assert "diagnosed" not in json.loads(typed("sweep", *given, "--json"))
    assert 'id="diagnosed"' not in (tmp_path / "study" / "report.html").read_text()


def test_a_study_of_ones_own_objects_is_diagnosed_while_it_is_at_hand():
    X = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    problem = tw.Problem(lambda: nn.Linear(4, 1), nn.functional.mse_loss, train=(X, X.sum(1, keepdim=True)), name="sums")

    @tw.rule
    def slow(x, g, *, lr: Rate = 1e-7):
        return x - lr * g

    study = tw.compare(problem, [slow], budget=1, seeds=1, steps=30)
    (one,) = study.diagnose()
    assert one.findings.first.cause == "rate_too_low"
    assert study.results().diagnosed[0]["findings"][0]["cause"] == "rate_too_low"


def test_a_study_at_work_is_diagnosed_without_its_report(tmp_path):
    tw.compare("diabetes-linear", ["sgd"], budget=2, seeds=1, steps=20, out=tmp_path / "study").close()
    lock = claim(tmp_path / "study")
    try:
        done = CliRunner().invoke(commands, ["diagnose", str(tmp_path / "study"), "--json"])
    finally:
        lock.release()
    assert done.exit_code == 0
    assert json.loads(done.stdout)["name"] == "sgd"
    assert tw.Study.open(tmp_path / "study").results().diagnosed == ()


def test_a_healthy_problem_says_what_was_looked_at():
    text = typed("diagnose", "digits-mlp", "--epochs", "3")
    assert "Nothing wrong was found" in text
    assert "Looked at: the layers" in text


def test_a_folder_takes_no_settings(tmp_path):
    done = CliRunner().invoke(commands, ["diagnose", str(tmp_path), "--lr", "1"])
    assert isinstance(done.exception, UserError)
    assert "leave out --lr" in str(done.exception)
    done = CliRunner().invoke(commands, ["diagnose", str(tmp_path)])
    assert isinstance(done.exception, UserError)


# --- the docs


def test_the_code_of_the_page_runs_in_order(tmp_path, monkeypatch, data_folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THALWEG_DATA", str(data_folder))
    text, known = (ROOT / "docs" / "diagnose.md").read_text(encoding="utf-8"), {"__name__": "diagnose"}
    for kind, block in re.findall(r"^```(python|sh)\n(.*?)^```", text, re.M | re.S):
        if kind == "python":
            exec(compile(block, "diagnose.md", "exec"), known)
            continue
        for line in block.splitlines():
            typed(*shlex.split(line)[1:])


def test_every_cause_stands_in_the_docs():
    text = (ROOT / "docs" / "diagnose.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == set(entries())
