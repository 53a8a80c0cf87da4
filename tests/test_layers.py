"""Layers and blocks: torch's batch norm as the oracle, formulas written out, shapes, noise, and errors in words."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import thalweg as tw
from loops import distance, train
from thalweg.errors import UserError
from thalweg.models import BatchNorm, DenseBlock, FractionalMaxPool, ResidualBlock, StochasticDepth, Transition, layers
from thalweg.models.layers.residual import Padded


@pytest.fixture(autouse=True)
def _one_thread():
    """The fastest for nets as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SIZE = {torch.float64: 1e-12, torch.float32: 2e-5}


def near(a, b, size):
    """Whether two tensors differ by at most `size`, relative to their largest number."""
    a, b = a.detach(), b.detach()
    return a.shape == b.shape and (a - b).abs().max() <= size * max(1.0, b.abs().max().item())


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_documented_examples():
    for info in pkgutil.iter_modules(layers.__path__):
        assert not doctest.testmod(importlib.import_module(f"{layers.__name__}.{info.name}")).failed, info.name


def test_public_names_are_no_models():
    for name in layers.__all__:
        assert getattr(tw.models, name) is getattr(layers, name)
        assert name not in tw.models.__all__
        assert doctest.DocTestFinder().find(getattr(layers, name))[0].examples, f"{name} has no example"


# --- batch norm


def torch_norm(x, **options):
    return (nn.BatchNorm1d if x.dim() == 2 else nn.BatchNorm2d)(x.shape[1], **options).to(x.dtype)


@given(
    st.integers(7, 12),
    st.integers(1, 5),
    st.one_of(st.just(()), st.tuples(st.integers(1, 6), st.integers(1, 6))),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([{}, {"eps": 1e-3, "momentum": 0.5}]),
    st.integers(0, 100),
)
@settings(deadline=None, max_examples=60)
def test_batch_norm_is_torchs(rows, channels, sides, dtype, options, seed):
    x = 3 * randn(rows, channels, *sides, seed=seed, dtype=dtype) + 2
    ours, theirs = BatchNorm(channels, **options).to(dtype), torch_norm(x, **options)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(1 + 0.3 * randn(channels, seed=1))
            norm.bias.copy_(randn(channels, seed=2))
    for step, mode in enumerate((True, True, False)):
        slopes = []
        for norm in (ours.train(mode), theirs.train(mode)):
            given = (x + step).requires_grad_()
            y = norm(given)
            push = randn(*x.shape, seed=3, dtype=dtype)
            slopes.append([y, *torch.autograd.grad((y * push).sum(), [given, norm.weight, norm.bias])])
        assert all(near(a, b, SIZE[dtype]) for a, b in zip(*slopes, strict=True))
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert all(near(a, b, SIZE[dtype]) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
        assert ours.num_batches_tracked == min(step + 1, 2)


@pytest.mark.parametrize("sides", [(), (3, 2)])
def test_batch_norm_is_its_formula(sides):
    x = randn(5, 3, *sides)
    norm = BatchNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    columns = x.transpose(0, 1).flatten(1)  # (channels, values)
    mean, var = columns.mean(1, keepdim=True), columns.var(1, keepdim=True, correction=0)
    expected = (columns - mean) / (var + 1e-5).sqrt() * norm.weight[:, None] + norm.bias[:, None]
    torch.testing.assert_close(norm(x).transpose(0, 1).flatten(1), expected)


def test_batch_norm_is_undone_by_its_parameters():
    x = randn(6, 4, 3, 3)
    norm = BatchNorm(4).double()
    with torch.no_grad():
        norm.weight.copy_((x.var((0, 2, 3), correction=0) + 1e-5).sqrt())
        norm.bias.copy_(x.mean((0, 2, 3)))
    torch.testing.assert_close(norm(x), x, rtol=0, atol=1e-12)


def test_the_other_convention_by_hand():
    norm = BatchNorm(1, unbiased=False, start=0.0).double()
    for batch in ([1.0, 3.0], [2.0, 8.0]):
        norm(torch.tensor(batch, dtype=torch.float64)[:, None])
    # means 2 and 5, biased variances 1 and 9
    assert norm.running_mean.item() == pytest.approx(0.9 * 0.2 + 0.1 * 5, rel=1e-14)
    assert norm.running_var.item() == pytest.approx(0.9 * 0.1 + 0.1 * 9, rel=1e-14)
    y = norm.eval()(torch.tensor([[2.68]], dtype=torch.float64))
    assert y.item() == pytest.approx((2.68 - 0.68) / math.sqrt(0.99 + 1e-5), rel=1e-12)
    assert repr(norm) == "BatchNorm(1, eps=1e-05, momentum=0.1, unbiased=False, start=0)"


@given(st.integers(2, 9), st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_conventions_differ_in_the_running_variance_alone(rows, seed):
    x = randn(rows, 3, 2, 1, seed=seed)
    usual, other = BatchNorm(3).double(), BatchNorm(3, unbiased=False, start=0.0).double()
    assert torch.equal(usual(x), other(x))
    assert torch.equal(usual.running_mean, other.running_mean)
    torch.testing.assert_close(other.running_var, (usual.running_var - 0.9) * (2 * rows - 1) / (2 * rows))


def test_state_dicts_are_exchanged_with_torch():
    x = randn(5, 3, 2, 2)
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    nn.init.normal_(theirs.weight)
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    ours.train()(2 * x)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert theirs.num_batches_tracked == 2


def test_one_row_in_evaluation_and_in_training():
    norm = BatchNorm(2)
    with pytest.raises(UserError, match=r"one value a channel to train on, input of shape \(1, 2\), .*: take batches of 2 or more rows"):
        norm(torch.ones(1, 2))
    with pytest.raises(UserError, match="one value a channel"):
        norm(torch.ones(1, 2, 1, 1))
    assert norm.num_batches_tracked == 0
    assert norm(torch.ones(1, 2, 1, 2)).shape == (1, 2, 1, 2)  # two values a channel
    for shape in ((1, 2), (1, 2, 1, 1), (0, 2)):
        assert norm.eval()(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 5), (3,), (4, 2, 5, 5), (4, 3, 2, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_takes_its_channels_only(shape, training):
    with pytest.raises(UserError, match=r"takes \(n, 3\) or \(n, 3, height, width\), and its input has shape"):
        BatchNorm(3).train(training)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"features": 0}, r"features = 0 is outside \[1, inf\)"),
        ({"features": 2.5}, "features = 2.5 must be a whole number"),
        ({"eps": -1.0}, "eps = -1 is outside"),
        ({"momentum": 1.5}, r"momentum = 1.5 is outside \[0, 1\]"),
        ({"unbiased": 1}, "unbiased = 1 must be true or false"),
        ({"start": -1.0}, "start = -1 is outside"),
    ],
)
def test_batch_norm_arguments_are_checked(options, sentence):
    with pytest.raises(UserError, match=f"BatchNorm: {sentence}"):
        BatchNorm(**{"features": 3, **options})


@pytest.mark.parametrize("unbiased", [True, False])
def test_batch_norm_keeps_the_order_of_memory_and_its_own_precision(unbiased):
    x = randn(4, 3, 5, 5, dtype=torch.float32)
    norm = BatchNorm(3, unbiased=unbiased)
    plain = norm(x)
    last = norm(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), norm)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), net(x), rtol=0.05, atol=0.05)
    half.float().square().sum().backward()
    assert norm.weight.grad.dtype is norm.running_var.dtype is torch.float32
    assert torch.isfinite(net[0].weight.grad).all()


@pytest.mark.parametrize("options", [{}, {"unbiased": False, "start": 0.0}], ids=["usual", "other"])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2)])
def test_batch_norm_in_lanes_changes_stacked_buffers_in_place(shape, options):
    norms = [BatchNorm(3, **options).double() for _ in range(2)]
    for k, norm in enumerate(norms):
        nn.init.constant_(norm.weight, 1.0 + k)
    inputs = torch.stack([randn(*shape, seed=k) for k in range(2)])
    points, buffers = torch.func.stack_module_state(norms)
    places = {name: buffer.data_ptr() for name, buffer in buffers.items()}

    def loss(points, buffers, x):
        return torch.func.functional_call(norms[0], (points, buffers), x).pow(3).sum()

    slopes, values = torch.func.vmap(torch.func.grad_and_value(loss))(points, buffers, inputs)
    assert {name: buffer.data_ptr() for name, buffer in buffers.items()} == places
    for k, norm in enumerate(norms):
        value = norm(inputs[k]).pow(3).sum()
        value.backward()
        torch.testing.assert_close(values[k], value.detach())
        torch.testing.assert_close(slopes["weight"][k], norm.weight.grad)
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(buffers[name][k], buffer)
    # in evaluation they stay
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    norms[0].eval()
    torch.func.vmap(loss)(points, buffers, inputs)
    assert all(torch.equal(buffers[name], buffer) for name, buffer in before.items())


def test_batch_norm_has_second_derivatives():
    norm = BatchNorm(2).double()
    assert torch.autograd.gradgradcheck(norm, randn(4, 2, 1, 2).requires_grad_())


# --- residual blocks


def test_shapes_of_blocks():
    x = torch.zeros(4, 3, 6, 6)
    assert ResidualBlock(3, 3)(x).shape == x.shape
    assert ResidualBlock(3, 6, stride=2)(x).shape == (4, 6, 3, 3)
    assert ResidualBlock(3, 6, stride=2, shortcut="pad")(x[..., :5]).shape == (4, 6, 3, 3)
    assert ResidualBlock(3, 6, stride=2, residual=False)(x).shape == (4, 6, 3, 3)
    dense = DenseBlock(3, growth=10, depth=2)
    assert dense(torch.zeros(4, 3, 8, 8)).shape == (4, 23, 8, 8)
    assert dense.n_out == 23
    narrow = Transition(23, 10)
    sides = {(8, 8): (4, 4), (7, 7): (3, 3), (1, 1): (1, 1), (1, 5): (1, 2)}
    for before, after in sides.items():
        assert narrow(torch.ones(4, 23, *before)).shape == (4, 10, *after)


@pytest.mark.parametrize(("n_out", "stride", "residual"), [(3, 1, True), (6, 2, True), (6, 1, True), (6, 2, False)])
def test_residual_block_is_its_formula(n_out, stride, residual):
    torch.manual_seed(0)
    block = ResidualBlock(3, n_out, stride, residual=residual).double()
    x = randn(4, 3, 6, 6)
    first, _, _, second, _ = block.branch
    y = functional.conv2d(x, first.weight, first.bias, stride, 1)
    y = functional.batch_norm(y, None, None, training=True).relu()
    y = functional.conv2d(y, second.weight, second.bias, 1, 1)
    y = functional.batch_norm(y, None, None, training=True)
    if residual:
        y = y + (functional.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride) if x.shape != y.shape else x)
    torch.testing.assert_close(block(x), y.relu())


def test_a_branch_of_zeros_passes_the_input():
    x = randn(4, 3, 6, 6)
    for block in (ResidualBlock(3, 3).double(), ResidualBlock(3, 5, 2, shortcut="pad").double()):
        nn.init.zeros_(block.branch[-1].weight)
        y = block(x)
        torch.testing.assert_close(y[:, :3], (x if y.shape == x.shape else x[:, :, ::2, ::2]).relu())
        assert not y[:, 3:].any()
    assert not list(Padded(3, 5, 2).parameters())


def test_dense_layers_see_all_before_them():
    torch.manual_seed(0)
    block = DenseBlock(2, growth=3, depth=2).double()
    x = randn(4, 2, 5, 5)
    y = block(x)
    assert torch.equal(y[:, :2], x)
    torch.testing.assert_close(y[:, 2:5], block.layers[0](x))
    torch.testing.assert_close(y[:, 5:], block.layers[1](y[:, :5]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ResidualBlock(0, 3), "ResidualBlock: n_in = 0 is outside"),
        (lambda: ResidualBlock(3, 3, 0), "ResidualBlock: stride = 0 is outside"),
        (lambda: ResidualBlock(3, 3, shortcut="none"), "'none' is not one of conv, pad"),
        (lambda: ResidualBlock(6, 3, shortcut="pad"), "6 to 3 takes some away: take shortcut='conv'"),
        (lambda: ResidualBlock(3, 3, residual=False, drop=0.5), "needs its input beside it"),
        (lambda: ResidualBlock(3, 3, drop=1.0), r"p = 1 is outside \[0, 1\)"),
        (lambda: StochasticDepth(-0.1), r"StochasticDepth: p = -0.1 is outside \[0, 1\)"),
        (lambda: StochasticDepth(0.1, "column"), "'column' is not one of row, batch"),
        (lambda: DenseBlock(3, 0, 2), "DenseBlock: growth = 0 is outside"),
        (lambda: Transition(3, 0), "Transition: n_out = 0 is outside"),
        (lambda: FractionalMaxPool(1.0), r"FractionalMaxPool: ratio = 1 is outside \[0.5, 1\)"),
        (lambda: FractionalMaxPool(0.4), "ratio = 0.4 is outside"),
        (lambda: FractionalMaxPool()(torch.zeros(2, 3, 1, 5)), r"at least 2x2 pixels, not shape \(2, 3, 1, 5\)"),
        (lambda: FractionalMaxPool()(torch.zeros(3, 5, 5)), r"not shape \(3, 5, 5\)"),
    ],
)
def test_arguments_are_checked(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


# --- stochastic depth


@pytest.mark.parametrize("shape", [(2000, 3), (2000, 2, 2, 1)])
def test_rows_are_dropped_whole_and_the_expectation_is_kept(shape):
    torch.manual_seed(0)
    layer = StochasticDepth(0.25)
    y = layer(torch.ones(shape)).flatten(1)
    assert (y == y[:, :1]).all()
    assert y.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert y.mean().item() == pytest.approx(1, abs=4 * math.sqrt(0.25 / 0.75 / 2000))  # four standard errors
    x = torch.randn(shape)
    assert torch.equal(layer.eval()(x), x)


def test_a_batch_is_dropped_whole():
    torch.manual_seed(0)
    layer = StochasticDepth(0.25, "batch")
    ends = [layer(torch.ones(3, 2, 1, 1)).unique().tolist() for _ in range(2000)]
    assert all(len(end) == 1 for end in ends)
    assert sum(end == [0.0] for end in ends) / 2000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))


def test_a_block_whose_branch_is_dropped_is_its_input():
    torch.manual_seed(0)
    block, x = ResidualBlock(3, 3, drop=0.5), torch.randn(2, 3, 6, 6)
    kept = [not torch.equal(block(x), x.relu()) for _ in range(40)]
    assert 5 < sum(kept) < 35
    block.eval()
    torch.testing.assert_close(block(x), (block.branch[:-1](x) + x).relu())


# --- fractional max-pooling


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.5, 0.99), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_fractional_max_pool_shapes_and_values(height, width, ratio, seed):
    x = randn(2, 3, height, width, seed=seed)
    torch.manual_seed(seed)
    y = FractionalMaxPool(ratio)(x)
    assert y.shape == (2, 3, math.floor(ratio * height), math.floor(ratio * width))
    torch.manual_seed(seed)
    assert torch.equal(y, functional.fractional_max_pool2d(x, 2, output_ratio=(ratio, ratio)))
    assert torch.isin(y, x).all()


def test_fractional_max_pool_draws_in_training_alone():
    x = randn(2, 3, 20, 20)
    layer = FractionalMaxPool()
    assert not torch.equal(layer(x), layer(x))
    before = torch.get_rng_state()
    assert torch.equal(layer.eval()(x), layer(x))
    assert torch.equal(torch.get_rng_state(), before)
    x.requires_grad_()
    layer.train()(x).sum().backward()
    assert x.grad.sum() == 2 * 3 * 14 * 14  # each window's largest


# --- in fleets


def same_as_loops(model, data, configs, batch_size, steps, seeds, rule="sgd", engine="fleet"):
    """Every lane's weights and buffers are those of the loop written by hand."""
    runs = tw.sweep(
        model,
        tw.losses.cross_entropy,
        data,
        optimizer=rule,
        configs=configs,
        steps=steps,
        batch_size=batch_size,
        seed=seeds,
        engine=engine,
        device="cpu",
    )
    for k, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
        hand = train(model, tw.losses.cross_entropy, data, rule, config, steps=steps, batch_size=batch_size, seed=seed).model
        assert distance(runs.state_dict(k), hand) <= 1e-10
        for name, buffer in hand.named_buffers():
            torch.testing.assert_close(runs.state_dict(k)[name], buffer, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["fleet", "solo"])
@pytest.mark.parametrize("options", [{}, {"unbiased": False, "start": 0.0}], ids=["usual", "other"])
def test_batch_norm_trains_in_a_fleet(options, engine):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), BatchNorm(8, **options), nn.ReLU(), nn.Linear(8, 3)).double()
    data = randn(22, 6), torch.arange(22) % 3
    same_as_loops(model, data, [{"lr": 0.01}, {"lr": 0.03}], 8, 12, [0, 5], "adam", engine)


@pytest.mark.parametrize(("name", "options"), [("resnet18", {"width": 16}), ("resnet20", {}), ("densenet", {})])
def test_deep_nets_train_in_a_fleet(name, options):
    # of 2 rows, a channel of the last stages has 2 values: where they are near each other, the norm magnifies round-off a hundredfold
    torch.manual_seed(0)
    model = getattr(tw.models, name)((1, 28, 28), 10, **options).double()
    data = randn(8, 1, 28, 28), torch.arange(8)
    same_as_loops(model, data, [{"lr": 1e-3}, {"lr": 1e-2}], 4, 2, [0, 0])


@pytest.mark.parametrize("config", [{}, {"dropout": 0.8}], ids=["as made", "by configuration"])
def test_stochastic_depth_draws_what_its_loop_draws(config):
    torch.manual_seed(0)
    model = tw.models.resnet((1, 8, 8), 3, depth=8, width=4, stochastic_depth=0.5).double()
    data = randn(12, 1, 8, 8), torch.arange(12) % 3
    same_as_loops(model, data, [{"lr": 0.01, **config}] * 3, 4, 5, [3, 4, 3])


def test_fractional_max_pool_trains_in_a_fleet():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), FractionalMaxPool(), nn.Flatten(), nn.Linear(32, 3)).double()
    data = randn(8, 1, 8, 8), torch.arange(8) % 3
    same_as_loops(model, data, [{"lr": 0.1}, {"lr": 0.2}], 4, 3, [1, 2])
