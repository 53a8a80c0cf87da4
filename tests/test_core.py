"""Batches and seeds, schedules, the catalogue, problems: the parts that everything else stands on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import thalweg as tw
from thalweg.core import catalogue, problem
from thalweg.core.operations import Operations
from thalweg.schedules import constant, cosine, multistep, piecewise, step, warmup

SIZES = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
SEEDS = st.integers(0, 2**63)


def lists(*args, **kwargs) -> list[list[int]]:
    return [index.tolist() for index in tw.batches(*args, **kwargs)]


# --- batches


@given(SIZES, SEEDS)
def test_an_epoch_is_a_permutation_with_the_short_last_batch_kept(size, seed):
    n, batch_size = size
    drawn = lists(n, batch_size, seed=seed, epochs=1)
    assert sorted(itertools.chain(*drawn)) == list(range(n))
    assert [len(index) for index in drawn[:-1]] == [batch_size] * (len(drawn) - 1)
    assert len(drawn[-1]) == (n % batch_size or batch_size)


@given(SIZES, SEEDS, st.integers(0, 50), st.booleans())
def test_a_longer_stream_begins_with_the_shorter(size, seed, steps, replacement):
    shorter = lists(*size, seed=seed, steps=steps, replacement=replacement)
    assert len(shorter) == steps
    assert lists(*size, seed=seed, steps=steps + 7, replacement=replacement)[:steps] == shorter


def test_batches_without_an_end_go_on():
    assert [index.tolist() for index in itertools.islice(tw.batches(5, 2, seed=3), 20)] == lists(5, 2, seed=3, steps=20)


def test_epochs_and_steps_count_the_same_batches():
    assert lists(10, 4, seed=1, epochs=3) == lists(10, 4, seed=1, steps=9)
    assert lists(10, 4, seed=1, epochs=3, steps=5) == lists(10, 4, seed=1, steps=5)
    assert lists(10, 4, seed=1, epochs=1, steps=99) == lists(10, 4, seed=1, epochs=1)
    assert lists(10, 4, epochs=0) == lists(10, 4, steps=0) == []


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    epochs = lists(100, 100, seed=0, epochs=5) + lists(100, 100, seed=1, epochs=5)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_replacement_draws_every_batch_from_all_rows():
    drawn = lists(8, 8, seed=0, steps=200, replacement=True)
    assert all(len(index) == 8 for index in drawn)
    assert any(len(set(index)) < 8 for index in drawn)
    counts = torch.tensor(drawn).flatten().bincount(minlength=8)
    assert counts.sum() == 1600
    assert (counts - 200).abs().max() < 6 * math.sqrt(200)
    assert [len(index) for index in lists(5, 2, replacement=True, epochs=1)] == [2, 2, 2]


def test_batches_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    lists(10, 3, epochs=2)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0, "batch_size": 1}, "no data"),
        ({"n": 5, "batch_size": 0}, "batch_size = 0 must be between 1 and the 5 rows"),
        ({"n": 5, "batch_size": 6}, "batch_size = 6 must be between 1 and the 5 rows"),
        ({"n": 5, "batch_size": 2, "steps": -1}, "steps = -1 must not be negative"),
        ({"n": 5, "batch_size": 2, "epochs": -1}, "epochs = -1 must not be negative"),
    ],
)
def test_impossible_batches_are_refused_at_the_call(arguments, words):
    with pytest.raises(tw.UserError, match=words):
        tw.batches(**arguments)


# --- seeds of steps


@given(SEEDS, st.integers(0, 10**9))
def test_step_seed_is_what_torch_takes(seed, t):
    value = tw.step_seed(seed, t)
    assert 0 <= value < 2**63
    assert value == tw.step_seed(seed, t)
    torch.Generator().manual_seed(value)


def test_step_seeds_of_neighbours_differ():
    assert len({tw.step_seed(seed, t) for seed in range(200) for t in range(200)}) == 200 * 200


def test_step_seeds_look_random():
    bits = torch.tensor([[tw.step_seed(0, t) >> k & 1 for k in range(63)] for t in range(4000)], dtype=torch.float64)
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(4000)
    flips = (bits[1:] != bits[:-1]).double().mean(0)
    assert (flips - 0.5).abs().max() < 5 * 0.5 / math.sqrt(3999)


def test_seeds_and_orders_stay_what_they_were():
    # a run that somebody repeats by hand, or resumes with a later version, depends on these numbers
    places = ((0, 0), (0, 1), (1, 0), (2**40, 10**6))
    assert [tw.step_seed(*place) for place in places] == [
        7875946695839065323,
        328022546682925225,
        1251586451749844537,
        1237343993992013839,
    ]
    assert lists(7, 3, seed=5, epochs=2) == [[6, 5, 0], [1, 2, 4], [3], [3, 5, 0], [1, 2, 4], [6]]


# --- schedules


@pytest.mark.parametrize("t", [0, 1, 100, 10**6])
def test_constant_is_one(t):
    assert constant()(t) == 1.0


@pytest.mark.parametrize(("t", "value"), [(0, 1.0), (25, (1 + math.cos(math.pi / 4)) / 2), (50, 0.5), (100, 0.0), (150, 0.0)])
def test_cosine_values(t, value):
    assert cosine(total=100)(t) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(("t", "value"), [(0, 1.0), (50, 0.55), (100, 0.1), (1000, 0.1)])
def test_cosine_ends_at_its_floor(t, value):
    # the floor is a multiplier of the base rate; between, f + (1 - f)(1 + cos(pi t / T)) / 2
    assert cosine(total=100, floor=0.1)(t) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(("t", "value"), [(0, 0.0), (5, 0.5), (10, 1.0), (55, 0.5), (100, 0.0)])
def test_cosine_after_a_warm_up_from_zero_that_total_includes(t, value):
    assert cosine(total=100, warmup=10)(t) == pytest.approx(value, abs=1e-15)


def test_cosine_falls_without_a_break():
    values = [cosine(total=100, floor=0.2, warmup=20)(t) for t in range(121)]
    assert values[:21] == sorted(values[:21])
    assert values[20:] == sorted(values[20:], reverse=True)
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) <= 0.05 + 1e-12


@pytest.mark.parametrize(("t", "value"), [(0, 0.0), (2, 0.4), (5, 1.0), (100, 1.0)])
def test_warmup_is_a_twentieth_of_the_total_unless_told(t, value):
    assert warmup(total=100)(t) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("length", "t", "value"), [(5000, 0, 0.0), (5000, 2500, 0.5), (5000, 5000, 1.0), (0, 0, 1.0), (1, 0, 0.0), (1, 1, 1.0)]
)
def test_warmup_of_given_length(length, t, value):
    assert warmup(total=10_000, warmup=length)(t) == pytest.approx(value, abs=1e-15)


def test_a_short_run_warms_up_for_one_step_at_least():
    assert [warmup(total=3)(t) for t in range(3)] == [0.0, 1.0, 1.0]


EXAMPLES = {
    "constant": {}, "inverse_sqrt": {}, "polynomial": {}, "exponential": {"rate": 0.05}, "factor": {"factor": 0.9, "floor": 0.1},
    "multistep": {"milestones": [12, 30]}, "piecewise": {"milestones": [12, 30], "values": [1.0, 0.5, 0.2]}, "step": {"every": 15},
}  # fmt: skip


def example(name, **more):
    """A schedule of the shelf with arguments that make sense over 40 updates."""
    return catalogue.shelf("schedules")[name](**EXAMPLES.get(name, {"total": 40}), **more)


# t updates done, and the multiplier as written in the sources
WORKED = [
    ("linear", {"total": 40}, {0: 1.0, 10: 0.75, 40: 0.0, 50: 0.0}),
    ("linear", {"total": 50, "floor": 0.2, "warmup": 10}, {0: 0.0, 5: 0.5, 10: 1.0, 30: 0.6, 50: 0.2}),
    ("exponential", {"rate": 0.1}, {0: 1.0, 10: math.exp(-1), 1000: math.exp(-100)}),
    ("polynomial", {"beta": 0.1, "alpha": 0.5}, {0: 1.0, 30: 0.5, 990: 0.1}),
    ("inverse_sqrt", {}, {0: 1.0, 3: 0.5, 99: 0.1}),
    ("inverse_sqrt", {"warmup": 100}, {0: 0.0, 50: 0.5, 100: 1.0, 103: 0.5}),
    ("factor", {"factor": 0.5, "floor": 0.2}, {0: 1.0, 1: 0.5, 2: 0.25, 3: 0.2, 50: 0.2}),
    ("step", {"every": 30}, {0: 1.0, 29: 1.0, 30: 0.1, 59: 0.1, 60: 0.01, 90: 0.001}),
    ("multistep", {"milestones": [30, 60, 90], "gamma": 0.1}, {0: 1.0, 29: 1.0, 30: 0.1, 60: 0.01, 90: 0.001, 500: 0.001}),
    ("multistep", {"milestones": [30], "gamma": 0.1, "warmup": 10}, {0: 0.0, 5: 0.5, 29: 1.0, 30: 0.1}),
    ("piecewise", {"milestones": [3, 5], "values": [1.0, 0.5, 2.0]}, {0: 1.0, 2: 1.0, 3: 0.5, 4: 0.5, 5: 2.0, 9: 2.0}),
    ("wsd", {"total": 100, "warmup": 10}, {0: 0.0, 5: 0.5, 10: 1.0, 80: 1.0, 90: 0.5, 100: 0.0, 200: 0.0}),
    ("wsd", {"total": 100, "decay": 40, "floor": 0.1}, {0: 1.0, 60: 1.0, 80: 0.55, 100: 0.1}),
    ("one_cycle", {"total": 100}, {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.500002, 100: 4e-6, 150: 4e-6}),
]


@pytest.mark.parametrize(("name", "arguments", "values"), WORKED, ids=lambda v: v if isinstance(v, str) else "")
def test_schedules_have_their_worked_values(name, arguments, values):
    f = catalogue.shelf("schedules")[name](**arguments)
    assert {t: f(t) for t in values} == pytest.approx(values, rel=1e-12, abs=1e-15)


def test_schedules_agree_with_those_of_torch():
    theirs = torch.optim.lr_scheduler
    pairs = [
        (example("linear"), theirs.LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 40}),
        (example("exponential"), theirs.ExponentialLR, {"gamma": math.exp(-0.05)}),
        (example("step"), theirs.StepLR, {"step_size": 15}),
        (example("multistep"), theirs.MultiStepLR, {"milestones": [12, 30]}),
        (cosine(total=40), theirs.CosineAnnealingLR, {"T_max": 40}),
        (example("one_cycle"), theirs.OneCycleLR, {"max_lr": 1.0, "total_steps": 41, "pct_start": 12.0 / 41 + 1 / 41}),
    ]
    for ours, make, arguments in pairs:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer, **arguments)
        for t in range(40):
            assert ours(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-9), (make.__name__, t)
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("name", sorted(set(catalogue.shelf("schedules")) - {"constant", "one_cycle", "warmup"}))
def test_a_warm_up_rises_from_zero_to_where_the_schedule_begins(name):
    f, plain = example(name, warmup=10), example(name)
    assert [f(t) for t in range(11)] == pytest.approx([t / 10 * plain(0) for t in range(11)], rel=1e-12)


@pytest.mark.parametrize("name", catalogue.shelf("schedules"))
def test_schedules_know_their_name_and_source(name):
    make = catalogue.shelf("schedules")[name]
    assert make.name == name
    assert make.doc
    f = example(name)
    assert f.label.startswith(f"{name}(")
    assert all(0.0 <= f(t) <= 1.0 for t in range(60))
    assert all(isinstance(f(t), float) for t in range(60))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cosine(total=0), "cosine: total = 0 must be at least 1"),
        (lambda: cosine(total=10, floor=-0.1), "cosine: floor = -0.1 must be at least 0"),
        (lambda: cosine(total=10, warmup=11), "warmup = 11 is longer than total = 10"),
        (lambda: cosine(totl=10), "did you mean 'total'"),
        (lambda: cosine(), "cosine.*total"),
        (lambda: cosine(total="100"), "total = '100'"),
        (lambda: cosine(total=math.nan), "total = nan"),
        (lambda: warmup(total=10, warmup=-1), "warmup = -1 must be at least 0"),
        (lambda: constant(0.5), "constant"),
        (lambda: multistep(milestones=30), r"multistep: milestones = 30 must be several numbers, such as \[30, 60\]"),
        (lambda: multistep(milestones=[60, 30]), "milestones = .* must grow"),
        (lambda: multistep(milestones=[30, math.inf]), "milestones = .* must be finite numbers"),
        (lambda: piecewise(milestones=[3], values=[1.0]), "1 milestones need 2 values"),
        (lambda: step(every=0), "step: every = 0 must be at least 1"),
    ],
)
def test_wrong_schedules_are_told_in_a_sentence(make, words):
    with pytest.raises(tw.UserError, match=words):
        make()


# --- the catalogue


@pytest.mark.parametrize("shelf", catalogue.SHELVES)
def test_entries_carry_their_shelf_name_and_documentation(shelf):
    entries = catalogue.shelf(shelf)
    assert entries
    assert list(entries) == sorted(entries)
    for name, entry in entries.items():
        assert entry.shelf == shelf
        assert entry.name == name
        assert entry.doc.strip(), f"{shelf}: {name} says nothing about itself"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: catalogue.shelf("optimisers"), "no shelf is called 'optimisers'; did you mean 'optimizers'"),
        (lambda: catalogue.find("optimizers", "adm"), "no optimizer is called 'adm'; did you mean 'adam'"),
        (lambda: catalogue.find("datasets", "mnst"), "no dataset is called 'mnst'; did you mean 'mnist'"),
        (lambda: catalogue.find("losses", "zzzz"), r"no loss.* is called 'zzzz'; \(known: "),
        (lambda: catalogue.find("optimizers", "nowhere.py:f"), "there is no file nowhere.py"),
    ],
)
def test_unknown_names_offer_the_nearest(call, words):
    with pytest.raises(tw.UserError, match=words):
        call()


def test_an_object_of_a_users_file_is_found_once(tmp_path, monkeypatch):
    (tmp_path / "helper_of_mine.py").write_text("VALUE = 41\n")
    path = tmp_path / "mine.py"
    path.write_text("import helper_of_mine\nthing = [helper_of_mine.VALUE + 1]\n")
    monkeypatch.chdir(tmp_path)
    assert catalogue.find("optimizers", "mine.py:thing") == [42]
    assert catalogue.load(f"{path}:thing") is catalogue.load("mine.py:thing")


@pytest.mark.parametrize(
    ("text", "words"),
    [("thing = 1/0", "could not be imported: ZeroDivisionError"), ("thin = 1", "did you mean 'thin'"), ("thing = (", "SyntaxError")],
)
def test_a_users_file_that_does_not_work_is_named(tmp_path, text, words):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(tw.UserError, match=words) as caught:
        catalogue.load(f"{path}:thing")
    assert "broken.py" in str(caught.value)


# --- problems


def loss(output, target):
    return ((output - target) ** 2).mean()


PAIR = (torch.randn(6, 2), torch.randn(6, 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": nn.Linear(2, 1), "loss": loss}, "takes a function that makes a fresh module"),
        ({"model": nn.Identity, "loss": loss, "step": loss}, "one of the two"),
        ({"model": nn.Identity}, "one of the two"),
        ({"model": nn.Identity, "loss": loss, "train": None}, "needs train="),
        ({"model": nn.Identity, "step": loss, "metrics": "accuracy"}, "which a step does not show"),
        ({"model": nn.Identity, "loss": loss, "metrics": "acuracy"}, "no metric is called 'acuracy'; did you mean 'accuracy'"),
        ({"model": nn.Identity, "loss": loss, "metrics": ("r2", "f1")}, "no metric is called 'f1'"),
    ],
)
def test_wrong_problems_are_told_in_a_sentence(arguments, words):
    with pytest.raises(tw.UserError, match=words):
        tw.Problem(**({"train": PAIR} | arguments))


def test_the_first_metric_is_the_score():
    mine = {"error": lambda p, t: (p - t).abs().mean(), "spread": lambda p, t: p.std()}
    p = tw.Problem(nn.Identity, loss, PAIR, metrics=mine, better="lower")
    assert (p.score, p.higher_is_better) == ("error", False)
    assert tw.Problem(nn.Identity, loss, PAIR, metrics="r2").higher_is_better
    assert (tw.Problem(nn.Identity, loss, PAIR).score, tw.Problem(nn.Identity, loss, PAIR).higher_is_better) == ("loss", False)


@pytest.mark.parametrize(
    ("prediction", "target", "value"),
    [
        ([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [0, 1, 1], 2 / 3),  # scores a class
        ([[2.0], [-1.0], [0.5], [-3.0]], [1.0, 0.0, 0.0, 0.0], 0.75),  # one logit in a column
        ([2.0, -1.0], [1, 1], 0.5),  # logits
    ],
)
def test_accuracy(prediction, target, value):
    assert problem.accuracy(torch.tensor(prediction), torch.tensor(target)).item() == pytest.approx(value)


def test_r2_by_hand():
    # targets 1, 2, 3: spread 2; errors 0.5, 0, -0.5: 0.5; 1 - 0.25
    assert problem.r2(torch.tensor([[1.5], [2.0], [2.5]]), torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((torch.zeros(3, 2), torch.zeros(4)), r"different numbers of rows: shapes \(3, 2\), \(4,\)"),
        ({}, "data must be"),
        ((torch.tensor(1.0),), "first dimension counts the rows"),
    ],
)
def test_data_without_common_rows_is_refused(data, words):
    with pytest.raises(tw.UserError, match=words):
        problem.rows(data)


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.tensor([float(i)]), i * i


def test_a_dataset_becomes_tensors():
    X, y = problem.tensors(Squares(4))
    assert X.tolist() == [[0.0], [1.0], [2.0], [3.0]]
    assert y.tolist() == [0, 1, 4, 9]
    assert problem.tensors(TensorDataset(X, y))[1] is y
    with pytest.raises(tw.UserError, match="the Dataset is empty"):
        problem.tensors(Squares(0))


def test_rows_are_taken_from_every_tensor():
    batch = {"x": torch.arange(10).reshape(5, 2), "more": [torch.arange(5)]}
    taken = problem.take(batch, torch.tensor([3, 0]))
    assert taken["x"].tolist() == [[6, 7], [0, 1]]
    assert taken["more"][0].tolist() == [3, 0]


# --- operations


@pytest.mark.parametrize(
    ("layer", "shape", "count"),
    [
        (nn.Linear(20, 5, bias=False), (3, 20), 2 * 3 * 20 * 5),
        (nn.Conv2d(3, 8, 3, bias=False), (4, 3, 10, 10), 2 * 4 * 64 * 8 * 27),
        (nn.Conv1d(4, 6, 5, groups=2, bias=False), (2, 4, 9), 2 * 2 * 5 * 6 * 10),
        (nn.GRU(5, 6, bias=False), (7, 3, 5), 2 * 7 * 3 * 18 * 11),
        (nn.ReLU(), (3, 4), 12),
    ],
)  # fmt: skip
def test_operations_are_counted(layer, shape, count):
    given = torch.ones(shape)
    with Operations() as counted:
        layer(given)
    assert count <= counted.total < count + 200
