"""Landscapes and gradient flow: against losses worked out by hand, the general way of evaluating, and nets with known faults."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn
from torch.nn import functional as F

import thalweg as tw
from thalweg.core.compiled import compiler
from thalweg.core.picture import draw
from thalweg.errors import UserError
from thalweg.probes.gradients import gradients
from thalweg.probes.landscape import landscape
from thalweg.probes.layers import flips


def data(rows=60, inputs=6, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, inputs, generator=draw), torch.randint(classes, (rows,), generator=draw)


def net(seed=0, **options):
    torch.manual_seed(seed)
    return tw.models.mlp((6,), 3, **{"hidden": 16, "depth": 2, **options})


def moved(model, landscape, place):
    """A copy of the model with the weights at a place of the landscape."""
    twin = copy.deepcopy(model).eval()
    flat = torch.cat([p.detach().reshape(-1) for p in twin.parameters()])
    flat = flat + torch.tensor(place, dtype=flat.dtype) @ landscape.directions.to(flat)
    nn.utils.vector_to_parameters(flat, twin.parameters())
    return twin.requires_grad_(False)


# --- landscapes: the grid


@pytest.mark.parametrize(
    "loss", [F.cross_entropy, nn.CrossEntropyLoss(), tw.losses.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)]
)
@pytest.mark.parametrize("options", [{"depth": 1}, {"depth": 3, "activation": "tanh", "dropout": 0.3}, {"depth": 0}])
def test_the_cheaper_way_gives_what_any_model_gives(loss, options):
    model, rows = net(**options), data(2300)  # more rows than are taken at once
    for extra in ({}, {"biases": True}, {"dimensions": 1}):
        cheap = landscape(model, loss, rows, points=5, **extra)
        general = landscape(model, loss, rows, points=5, cheaper=False, **extra)
        np.testing.assert_allclose(cheap.losses, general.losses, rtol=1e-5)


def test_the_cheaper_way_takes_images_and_regressions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(12, 8, bias=False), nn.GELU()), nn.Linear(8, 2))
    rows = torch.randn(50, 3, 2, 2), torch.randn(50, 2)
    cheap, general = (landscape(model, F.mse_loss, rows, points=5, cheaper=way) for way in (True, False))
    np.testing.assert_allclose(cheap.losses, general.losses, rtol=1e-5)


def test_each_value_is_the_loss_at_its_place():
    model, (X, y) = net(batch_norm=True), data()
    model(X)  # statistics of batch norm
    found = landscape(model, F.cross_entropy, (X, y), points=3, biases=True)
    assert found.losses.shape == (3, 3)
    for i, alpha in enumerate(found.alphas):
        for j, beta in enumerate(found.betas):
            assert found.losses[i, j] == pytest.approx(float(F.cross_entropy(moved(model, found, [alpha, beta])(X), y)), rel=1e-5)
    assert found.center == pytest.approx(F.cross_entropy(model.eval()(X), y).item(), rel=1e-6)
    assert found.losses[1, 1] == pytest.approx(found.center, rel=1e-6)
    assert found.evaluations == 10


def test_filters_have_the_norms_of_the_weights_and_biases_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    rows = torch.randn(8, 1, 4, 4), torch.randint(2, (8,))
    found = landscape(model, F.cross_entropy, rows, dimensions=1, points=3)
    parts = dict(
        zip([n for n, _ in model.named_parameters()], found.directions[0].split([p.numel() for p in model.parameters()]), strict=True)
    )
    for name, p in model.named_parameters():
        if p.dim() > 1:
            torch.testing.assert_close(parts[name].reshape(len(p), -1).norm(dim=1), p.detach().reshape(len(p), -1).norm(dim=1))
        else:
            assert not parts[name].any()
    plain = landscape(model, F.cross_entropy, rows, dimensions=1, points=3, filters=False)
    assert plain.directions[0][:36].norm() != pytest.approx(float(found.directions[0][:36].norm()))
    assert landscape(model, F.cross_entropy, rows, dimensions=1, points=3, biases=True).directions[0][36:40].any()


def test_losses_that_are_not_finite_are_kept_and_drawn():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    found = landscape(model, lambda out, y: out.mean().log(), (torch.ones(4, 1), torch.zeros(4)), dimensions=1, points=9, span=2.0)
    assert np.isnan(found.losses).any()
    assert np.isneginf(found.losses).sum() == 1
    draw("landscape", landscape=found)
    plane = landscape(net(), lambda out, y: (out.sum() + 5).log(), data(), points=9, span=2.0)
    assert 0 < np.isnan(plane.losses).mean() < 1
    for surface in (False, True):
        FigureCanvasAgg(draw("landscape", landscape=plane, surface=surface)).draw()
    with pytest.raises(UserError, match="no loss of this landscape is finite"):
        draw("landscape", landscape=landscape(net(), lambda out, y: out.sum() / 0, data(), points=3))


# --- landscapes: lines at once, with one hidden layer of ReLUs


needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here; landscapes take the way of chains")


def both(model, rows, **options):
    """Losses from lines done at once, and those taken place by place; whether they are, is counted."""
    calls = []

    def summed(*args):
        calls.append(flips_summed(*args))
        return calls[-1]

    flips.summed, flips_summed = summed, flips.summed
    try:
        found = landscape(model, F.cross_entropy, rows, **options)
    finally:
        flips.summed = flips_summed
    assert calls
    return found.losses, landscape(model, F.cross_entropy, rows, cheaper=False, **options).losses, [part is not None for part in calls]


@needs_compiler
@settings(max_examples=25, deadline=None)
@given(
    hidden=st.sampled_from([1, 5, 64, 300]), classes=st.sampled_from([2, 10, 16, 17, 40, 64]), rows=st.sampled_from([1, 63, 130]),
    points=st.sampled_from([2, 3, 8, 66]), span=st.sampled_from([1e-3, 1.0, 30.0, 1e4]), double=st.booleans(), bias=st.booleans(),
    biases=st.booleans(), dimensions=st.sampled_from([1, 2]), seed=st.integers(0, 9),
)  # fmt: skip
def test_lines_at_once_give_what_any_model_gives(hidden, classes, rows, points, span, double, bias, biases, dimensions, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, classes, bias=bias))
    options = {"points": points, "span": span, "dimensions": dimensions, "biases": biases, "seed": seed}
    if points == 66:
        options["dimensions"] = 1  # more points than are done at once
    X, y = data(rows, classes=classes, seed=seed)
    found, expected, done = both(model, (X, y), double=double, **options)
    exact = landscape(model, F.cross_entropy, (X, y), cheaper=False, double=True, **options).losses
    largest = landscape(model, lambda out, _: out.abs().max(), (X, y), cheaper=False, double=True, **options).losses.max()
    size = max(largest, 1.0)  # of the scores, whose round-off is that of the largest on a line; the loss there may be small
    assert all(done)
    np.testing.assert_allclose(found, exact, rtol=1e-12 if double else 1e-5, atol=(1e-14 if double else 2e-7) * size)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-7 * size)


def one_way(model, weight, last):
    """A direction that moves the first weights and the last ones, and no bias."""
    parts = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    return {**parts, "0.weight": weight, "2.weight": last}


@needs_compiler
def test_units_that_are_dead_or_never_flip_or_flip_at_a_point():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-50.0, 50.0, 0.0, 0.0, 0.0, 0.5]))  # dead, always active, then exact zeros, and a flip at -0.5
        model[0].weight[2:].zero_()
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, 2])
    way = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        direction = one_way(model, way.to(dtype), torch.randn(3, 6, dtype=dtype))
        found, expected, done = both(
            model, [part.to(dtype) if k == 0 else part for k, part in enumerate(rows)], directions=direction, points=9
        )
        assert done == [True]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # by hand: at alpha = 1 the last weights move by the direction, and units 0..5 give (0, come, 1, 0, 0, 1.5) on the first row
    hidden = torch.relu(rows[0].double() @ (model[0].weight + way).T + model[0].bias)
    scores = hidden @ (model[2].weight + direction["2.weight"]).T + model[2].bias
    assert found[-1] == pytest.approx(F.cross_entropy(scores, rows[1]).item(), rel=1e-12)


@needs_compiler
def test_losses_near_zero_keep_their_digits():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(16.0), model[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
    way = {"0.weight": torch.tensor([[4.0]]), "2.weight": torch.zeros(2, 1)}
    found = landscape(model, F.cross_entropy, (torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)), directions=way, points=3)
    np.testing.assert_allclose(found.losses, np.log1p(np.exp([-12.0, -16.0, -20.0])), rtol=1e-6)  # of 1 + that, a float has no digits


@needs_compiler
@pytest.mark.parametrize("size", [1e12, 1e22, 1e30])
def test_huge_directions_come_out_as_in_the_general_way(size):
    model, rows = net(depth=1), data()
    torch.manual_seed(0)
    way = {name: size * torch.randn_like(p) for name, p in model.named_parameters()}
    found, expected, done = both(model, rows, directions=way, points=5)
    assert done == [size < 1e15]
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    assert np.isfinite(found[2])
    assert np.isfinite(found).all() == (size < 1e22)
    np.testing.assert_allclose(found[np.isfinite(found)], expected[np.isfinite(found)], rtol=1e-5)


@needs_compiler
def test_rows_that_are_not_finite_come_out_as_in_the_general_way():
    model, (X, y) = net(depth=1), data()
    X[3, 0] = torch.nan
    found, expected, done = both(model, (X, y), points=3)
    assert done == [False]
    assert np.isnan(found).all()
    assert np.isnan(expected).all()


def test_lines_are_done_at_once_only_where_they_can_be(monkeypatch):
    def never(*args):
        raise AssertionError("not this model, loss or line")

    monkeypatch.setattr(flips, "summed", never)
    rows = data()
    for model in (net(depth=2), net(depth=1, activation="tanh"), net(depth=0)):
        landscape(model, F.cross_entropy, rows, points=3)
    for loss in (nn.CrossEntropyLoss(label_smoothing=0.1), lambda out, y: F.cross_entropy(out, y)):
        landscape(net(depth=1), loss, rows, points=3)
    torch.manual_seed(0)
    landscape(tw.models.mlp((6,), 65, hidden=4, depth=1), F.cross_entropy, rows, points=3)
    landscape(net(depth=1), F.cross_entropy, (rows[0], F.one_hot(rows[1], 3).float()), points=3)
    for axes in (([0.0, 1.0, 3.0], [0.0]), ([0.0, 1.0], [0.0, 1.0, 3.0]), ([1.0, 0.0], [0.0])):
        assert not flips.fits(torch.float32, 3, *map(np.array, axes))
    monkeypatch.setattr(flips, "compiler", lambda: None)
    plain = landscape(net(depth=1), F.cross_entropy, rows, points=3).losses
    monkeypatch.undo()
    np.testing.assert_allclose(landscape(net(depth=1), F.cross_entropy, rows, points=3).losses, plain, rtol=1e-5)


def test_kernels_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("THALWEG_KERNELS", "0")
    compiler.cache_clear()
    try:
        assert compiler() is None
        assert not flips.fits(torch.float32, 3, np.arange(3.0), np.zeros(1))
    finally:
        compiler.cache_clear()


# --- landscapes: where to look


def walk(model, rows, steps=25, lr=0.3):
    points = [copy.deepcopy(model.state_dict())]
    for _ in range(steps):
        model.zero_grad()
        F.cross_entropy(model(rows[0]), rows[1]).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= lr * p.grad
        points.append(copy.deepcopy(model.state_dict()))
    return points


def test_a_trajectory_lies_on_its_principal_components():
    model, rows = net(), data()
    points = walk(model, rows)
    found = landscape(model, F.cross_entropy, rows, trajectory=points, points=5)
    flat = torch.stack([torch.cat([v.reshape(-1) for v in point.values()]) for point in points]).double().numpy()
    spread = flat - flat.mean(0)
    share = np.linalg.svd(spread, compute_uv=False) ** 2
    np.testing.assert_allclose(found.explained, share[:2] / share.sum(), rtol=1e-4)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-5)
    np.testing.assert_allclose(found.path, (flat - flat[-1]) @ found.directions.double().numpy().T, atol=1e-4)
    true = [F.cross_entropy(torch.func.functional_call(model, point, (rows[0],)), rows[1]).item() for point in points]
    np.testing.assert_allclose(found.path_true, true, rtol=1e-5)
    for place, loss in list(zip(found.path, found.path_losses, strict=True))[::8]:
        assert loss == pytest.approx(float(F.cross_entropy(moved(model, found, place)(rows[0]), rows[1])), rel=1e-4)
    assert found.path_losses[-1] == pytest.approx(found.path_true[-1], rel=1e-6)
    assert found.alphas[0] < found.path[:, 0].min() < found.path[:, 0].max() < found.alphas[-1]
    with pytest.raises(UserError, match="has 2 points"):
        landscape(model, F.cross_entropy, rows, trajectory=points[:2])
    with pytest.raises(UserError, match="does not extend in 2 directions"):
        landscape(model, F.cross_entropy, rows, trajectory=[points[0]] * 4)


def test_a_straight_walk_is_explained_by_one_component():
    model, rows = nn.Linear(6, 3), data()
    start, way = torch.randn(21), torch.randn(21)
    found = landscape(model, F.cross_entropy, rows, trajectory=[start + k * way for k in range(5)], dimensions=1, points=5)
    assert found.explained[0] == pytest.approx(1.0)
    np.testing.assert_allclose(found.path_losses, found.path_true, rtol=1e-4)


def test_between_two_and_through_three_solutions():
    rows = data()
    nets = [net(seed, batch_norm=True) for seed in range(3)]
    for k, model in enumerate(nets):
        model((k + 1) * rows[0])
        model.eval()
    own = [F.cross_entropy(model(rows[0]), rows[1]).item() for model in nets]
    line = landscape(nets[0], F.cross_entropy, rows, between=nets[1], points=13)
    assert line.path.tolist() == [[0.0], [1.0]]
    np.testing.assert_allclose(line.path_true, own[:2], rtol=1e-5)
    np.testing.assert_allclose(line.path_losses, own[:2], rtol=1e-5)
    plane = landscape(nets[0], F.cross_entropy, rows, between=[nets[1].state_dict(), nets[2]], points=5)
    np.testing.assert_allclose(plane.path_losses, own, rtol=1e-4)
    flat = [torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in nets]
    distances = [[float((a - b).norm()) for a in flat] for b in flat]
    np.testing.assert_allclose(np.linalg.norm(plane.path[:, None] - plane.path, axis=-1), distances, rtol=1e-4, atol=1e-5)
    assert np.isfinite(plane.losses).all()  # variances of batch norm stay positive beyond the solutions too
    with pytest.raises(UserError, match="lie on one line"):
        landscape(nets[0], F.cross_entropy, rows, between=[nets[1], nets[1]])


def test_along_a_given_direction_a_quadratic_is_its_curvature():
    model = nn.Linear(2, 1, bias=False)
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2)
    nn.init.zeros_(model.weight)
    found = landscape(model, lambda out, y: 2 * out.square().mean(), rows, directions=[torch.tensor([1.0, 0.0])], points=5)
    np.testing.assert_allclose(found.losses, 4 * found.alphas**2)


def test_what_does_not_fit_is_said():
    model, rows = net(), data()
    for options, words in (
        ({"dimensions": 3}, "must be 1, a line, or 2"),
        ({"points": 1}, "at least 2"),
        ({"span": 0}, "positive number"),
        ({"directions": [torch.ones(3)]}, "has 3 numbers, and the model"),
        ({"between": nn.Linear(2, 2)}, "has no 1.weight"),
        ({"trajectory": [], "between": model}, "one of the three"),
        ({"directions": [3.0]}, "not float"),
    ):
        with pytest.raises(UserError, match=words):
            landscape(model, F.cross_entropy, rows, **options)
    with pytest.raises(UserError, match="no parameters"):
        landscape(nn.ReLU(), lambda out, y: out.mean(), rows)
    with pytest.raises(UserError, match="must be one number"):
        landscape(model, lambda out, y: out, rows, points=3)


# --- gradient flow


def stack(activation=nn.ReLU, gain=1.0, depth=10, kaiming=True):
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k in range(depth):
        affine = nn.Linear(20 if k == 0 else 64, 3 if k == depth - 1 else 64)
        if kaiming:
            nn.init.kaiming_normal_(affine.weight)
            nn.init.zeros_(affine.bias)
            affine.weight.data *= gain
        layers += [affine, activation()] if k < depth - 1 else [affine]
    return nn.Sequential(*layers)


ROWS = data(600, 20)


def test_a_healthy_net_has_no_fault():
    found = gradients(stack(), F.cross_entropy, ROWS, torch.optim.SGD(stack().parameters(), lr=0.1))
    assert (found.vanishing, found.exploding, found.dead, found.text.count("vanish")) == ((), (), (), 0)
    found = gradients(stack(), F.cross_entropy, ROWS)
    assert not found.text
    assert 0.8 < found.signal_factor < 1.25
    assert len(found.layers) == 10
    assert all(0 <= layer.dead < 0.5 for layer in found.layers[:-1])
    assert np.isnan(found.layers[-1].dead)


def test_a_stack_of_sigmoids_vanishes():
    found = gradients(stack(nn.Sigmoid, kaiming=False), F.cross_entropy, ROWS)
    assert found.vanishing[0] == "0"
    assert "18" not in found.vanishing
    assert found.signal_factor < 0.25  # the derivative of a sigmoid is at most 1/4
    assert not found.exploding
    assert "vanishes" in found.text


def test_weights_times_three_explode():
    found = gradients(stack(gain=3.0), F.cross_entropy, ROWS)
    assert found.exploding
    assert found.activation_factor == pytest.approx(3, rel=0.1)
    assert not found.vanishing


@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6, lambda: nn.Threshold(0.0, 0.0)])
def test_a_relu_with_bias_of_minus_hundred_is_dead(relu):
    model = stack(relu, depth=3)
    nn.init.constant_(model[2].bias, -100.0)
    found = gradients(model, F.cross_entropy, ROWS)
    assert found.dead == ("2",)
    assert found.layers[1].dead == 1
    assert not found.vanishing  # nothing comes through dead units: that is no vanishing


class Functional(nn.Module):
    """Activations as functions, and parameters of its own beside layers."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(20, 8) / 5)
        self.bias = nn.Parameter(torch.tensor([-50.0] * 2 + [0.0] * 6))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.act(x @ self.weight + self.bias))


@pytest.mark.parametrize("act", [F.relu, torch.relu, lambda x: x.clamp(min=0), lambda x: x.relu_(), lambda x: torch.clamp_min(x, 0.0)])
def test_relus_that_are_functions_are_seen(act):
    torch.manual_seed(0)
    found = gradients(Functional(act), F.cross_entropy, ROWS)
    assert found.layers[0].kind == "Functional"
    assert found.layers[0].dead == pytest.approx(2 / 8)


def test_a_unit_that_lives_on_one_row_alone_is_not_dead():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[0].bias.copy_(torch.tensor([-5.0, -1.0]))
    inputs = torch.zeros(80, 1)
    for row in range(0, 80, 27):  # in whichever batch it is
        inputs[row] = 6.0
        found = gradients(model, F.cross_entropy, (inputs, torch.zeros(80, dtype=torch.int64)), batch_size=10, batches=8)
        assert found.layers[0].dead == 0.5
        inputs[row] = 0.0


def test_saturation_is_counted():
    torch.manual_seed(0)
    model = Functional(torch.tanh)
    found = gradients(model, F.cross_entropy, ROWS, batches=10, batch_size=200)
    expected = (torch.tanh(ROWS[0] @ model.weight + model.bias).abs() > 0.97).double().mean()
    assert found.layers[0].saturated == pytest.approx(float(expected))
    assert np.isnan(gradients(Functional(F.gelu), F.cross_entropy, ROWS).layers[0].saturated)


def test_images_count_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    nn.init.constant_(model[1].bias[:1], -30.0)
    found = gradients(model, F.cross_entropy, (torch.randn(40, 1, 4, 4), torch.randint(2, (40,))))
    assert [layer.kind for layer in found.layers] == ["Conv2d", "BatchNorm2d", "Linear"]
    assert found.layers[1].dead == 0.25


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.net, self.out = kind(5, 24, batch_first=True, **options), nn.Linear(24, 3)

    def forward(self, x):
        return self.out(self.net(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_nets(kind):
    torch.manual_seed(0)
    model, rows = Recurrent(kind), (torch.randn(80, 30, 5), torch.randint(3, (80,)))
    healthy = gradients(model, F.cross_entropy, rows)
    assert not healthy.exploding
    assert healthy.time_factor < 1
    if kind is nn.RNN:
        model.net.weight_hh_l0.data *= 4
        wild = gradients(model, F.cross_entropy, rows)
        assert wild.exploding == ("net",)
        assert wild.time_factor > 1.2
        assert "back in time" in wild.text


def test_what_does_not_learn_and_why():
    model = stack(depth=4)
    model[0].weight.requires_grad_(False)
    groups = [{"params": [*model[0].parameters(), *model[2].parameters()]}, {"params": model[4].parameters(), "lr": 0.0}]
    found = gradients(model, F.cross_entropy, ROWS, torch.optim.SGD(groups, lr=0.1))
    assert found.frozen == ("0", "4", "6")
    assert [layer.frozen for layer in found.layers] == [
        "requires_grad is off", "", "its learning rate is 0", "not among the optimizer's parameters",
    ]  # fmt: skip
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: nn.Sequential(*list(model)[:7])(x)
    assert gradients(model, F.cross_entropy, ROWS).layers[-1].frozen == "the loss does not depend on it"


def test_the_update_ratio_is_that_of_a_true_step():
    model = stack(depth=3)
    found = gradients(model, F.cross_entropy, ROWS, torch.optim.SGD(model.parameters(), lr=0.1), batches=1, batch_size=600)
    for layer, module in zip(found.layers, model[::2], strict=True):
        assert layer.weight == pytest.approx(float(torch.cat([p.detach().flatten() for p in module.parameters()]).norm()), rel=1e-6)
        assert layer.update_ratio == pytest.approx(0.1 * layer.gradient / layer.weight, rel=1e-4)
    for make in (lambda p: torch.optim.Adam(p, lr=0.01), lambda p: tw.optim.Lion(p, lr=0.01), torch.optim.LBFGS):
        optimizer = make(model.parameters())
        ratios = [layer.update_ratio for layer in gradients(model, F.cross_entropy, ROWS, optimizer).layers]
        assert all(0 < ratio < 100 for ratio in ratios)
        assert not optimizer.state
    adam = torch.optim.Adam(model.parameters(), lr=0.01)  # its first step moves every number by the rate
    layers = gradients(model, F.cross_entropy, ROWS, adam, batches=1).layers
    assert layers[0].update_ratio == pytest.approx(0.01 * layers[0].parameters ** 0.5 / layers[0].weight, rel=0.02)


def test_models_without_layers_and_losses_that_are_not_finite():
    assert gradients(nn.ReLU(), lambda out, y: out.mean(), ROWS).layers == ()
    found = gradients(stack(depth=3), lambda out, y: out.mean() * float("nan"), ROWS)
    assert np.isnan(found.loss)
    assert found.exploding
    with pytest.raises(UserError, match="must be one number"):
        gradients(stack(depth=3), lambda out, y: out, ROWS)


def test_nothing_is_changed():
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters())
    F.cross_entropy(model(ROWS[0]), ROWS[1]).backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    random = torch.get_rng_state()
    gradients(model, F.cross_entropy, ROWS, optimizer)
    landscape(model, F.cross_entropy, ROWS, points=3)
    after = (model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
