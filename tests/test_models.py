"""Models: the contract of the shelf, parameter counts, initial weights, and errors in words."""

import doctest
import math
import pickle
import sys

import pytest
import torch
from torch import nn

from thalweg.core.catalogue import shelf
from thalweg.errors import UserError
from thalweg.models import BatchNorm, ResidualBlock, resnet
from thalweg.study.problems import combinations

MODELS = shelf("models")


@pytest.fixture(autouse=True)
def _one_thread():
    """The fastest for batches as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shape_of(model):
    return (1, 28, 28) if model.images else (5,)


def outputs_of(model):
    return 3 if "classes" in model.tasks else 1


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_names():
    assert {"linear", "logistic", "softmax", "svm", "two-layer", "mlp", "cnn", "resnet", "densenet"} <= set(MODELS)
    for name in ("resnet18", "resnet20", "resnet32", "resnet56", "densenet"):
        assert f"fashion-mnist-{name}" in combinations()


@pytest.mark.parametrize("name", MODELS)
def test_contract(name):
    model = MODELS[name]
    assert model.shelf == "models"
    assert model.name == name
    assert "start as" in model.doc
    assert model.loss is None or model.loss in shelf("losses")
    torch.manual_seed(0)
    module = model(shape_of(model), outputs_of(model))
    assert isinstance(module, nn.Module)
    assert module(torch.randn(2, *shape_of(model))).shape == (2, outputs_of(model))
    assert pickle.loads(pickle.dumps(model)) is model  # as worker processes get it
    # the caller's seed decides the weights, all of them
    for seed, same in ((0, True), (1, False)):
        torch.manual_seed(seed)
        other = model(shape_of(model), outputs_of(model))
        weights = [p for p in module.parameters() if p.dim() > 1]
        others = [p for p in other.parameters() if p.dim() > 1]
        assert all(torch.equal(a, b) is same for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_runs_stacked(name):
    """A fleet's way to run it: functional_call under vmap over stacked weights."""
    model = MODELS[name]
    shape = (1, 16, 16) if model.images else (5,)
    modules = [model(shape, outputs_of(model)).double() for _ in range(2)]
    stacked, buffers = torch.func.stack_module_state(modules)
    x = torch.randn(4, *shape, dtype=torch.float64)
    out = torch.func.vmap(lambda p, b: torch.func.functional_call(modules[0], (p, b), x))(stacked, buffers)
    torch.testing.assert_close(out, torch.stack([module(x) for module in modules]))
    for k, module in enumerate(modules):
        for key, buffer in module.named_buffers():
            torch.testing.assert_close(buffers[key][k], buffer)


def test_documented_examples():
    for name, model in MODELS.items():
        result = doctest.testmod(sys.modules[model.__module__])
        assert result.attempted, name
        assert not result.failed, name


@pytest.mark.parametrize("name", ["linear", "logistic", "softmax", "svm", "two-layer", "mlp"])
def test_dense_models_flatten(name):
    model = MODELS[name]
    outputs = outputs_of(model)
    assert model((1, 4, 4), outputs)(torch.zeros(2, 1, 4, 4)).shape == (2, outputs)


def test_parameter_counts():
    assert count(MODELS["cnn"]((1, 28, 28), 10)) == 16_938
    assert count(MODELS["mlp"]((64,), 10, hidden=128, depth=2)) == 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    assert count(MODELS["two-layer"]((64,), 10, hidden=7)) == 64 * 7 + 7 + 7 * 10 + 10
    assert count(MODELS["mlp"]((5,), 1, depth=0)) == 6
    assert count(MODELS["softmax"]((784,), 10)) == 7_850
    assert count(MODELS["resnet18"]((1, 28, 28), 10)) == 11_178_378
    assert count(MODELS["densenet"]((1, 28, 28), 10)) == 758_226


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 9, 17)])
def test_cnn_of_other_sizes(shape):
    assert MODELS["cnn"](shape, 4)(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.images])
@pytest.mark.parametrize("shape", [(64,), (28, 28), (1, 7, 8), (0, 8, 8)])
def test_images_are_needed(name, shape):
    with pytest.raises(UserError, match=rf"{name} needs images, .* at least 8x8 pixels, and a row has shape \({shape[0]},"):
        MODELS[name](shape, 10)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.images])
def test_the_smallest_images_do(name):
    assert MODELS[name]((2, 8, 8), 3)(torch.randn(2, 2, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("mlp", {"hiden": 3}, "mlp has no 'hiden'; it takes hidden, depth, activation, batch_norm, dropout"),
        ("mlp", {"batch_norm": 1}, "mlp: batch_norm = 1 must be true or false"),
        ("mlp", {"dropout": 1.0}, r"mlp: dropout = 1 is outside \[0, 1\)"),
        ("mlp", {"hidden": 0}, "mlp: hidden = 0 is outside"),
        ("mlp", {"depth": 1.5}, "depth = 1.5 must be a whole number"),
        ("mlp", {"activation": "gelu"}, "'gelu' is not one of relu, tanh, sigmoid"),
        ("linear", {"hidden": 3}, "linear has no 'hidden'; it takes no options"),
    ],
)
def test_options_are_checked(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        MODELS[name]((5,), 1, **options)


def test_outputs_are_checked():
    with pytest.raises(UserError, match="logistic has one output"):
        MODELS["logistic"]((5,), 2)
    for name in ("softmax", "svm"):
        with pytest.raises(UserError, match="2 or more classes"):
            MODELS[name]((5,), 1)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_mlp_initial_weights(activation):
    torch.manual_seed(0)
    net = MODELS["mlp"]((400,), 10, hidden=400, depth=1, activation=activation)
    first, last = net[1], net[-1]
    expected = math.sqrt(2 / 400) if activation == "relu" else math.sqrt(2 / 800)
    assert first.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert last.weight.std().item() == pytest.approx(math.sqrt(2 / 410), rel=0.05)
    assert not first.bias.any()
    assert not last.bias.any()
    assert type(net[2]).__name__.lower() == activation


def test_cnn_starts_as_torch_does():
    torch.manual_seed(0)
    conv = MODELS["cnn"]((1, 28, 28), 10)[3]
    reference = nn.Conv2d(16, 32, 3)
    assert conv.weight.abs().max().item() == pytest.approx(reference.weight.abs().max().item(), rel=0.02)


def test_untrained_svm_loss_on_pixels_is_near_classes_minus_one():
    torch.manual_seed(0)
    scores = MODELS["svm"]((784,), 10)(torch.rand(50, 784))
    assert shelf("losses")["multiclass_svm"](scores, torch.arange(50) % 10).item() == pytest.approx(9, abs=0.5)


# --- batch norm and dropout in the small ones


def kinds(net):
    return [type(layer).__name__ for layer in net]


def test_mlp_with_batch_norm_and_dropout():
    net = MODELS["mlp"]((5,), 3, hidden=4, depth=2, activation="tanh", batch_norm=True, dropout=0.25)
    assert kinds(net) == ["Flatten", *["Linear", "BatchNorm", "Tanh", "Dropout"] * 2, "Linear"]
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    assert count(net) == (5 * 4 + 2 * 4) + (4 * 4 + 2 * 4) + (4 * 3 + 3)
    assert net[-1].bias is not None
    assert kinds(MODELS["mlp"]((5,), 3, depth=0, batch_norm=True, dropout=0.25)) == ["Flatten", "Linear"]


def test_cnn_with_batch_norm_and_dropout():
    net = MODELS["cnn"]((1, 28, 28), 10, batch_norm=True, dropout=0.1)
    assert kinds(net) == [*["Conv2d", "BatchNorm", "ReLU", "Dropout", "MaxPool2d"] * 3, "Flatten", "Linear"]
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == [0.1] * 3
    assert count(net) == 16_938 + 16 + 32 + 32  # weight and bias of a norm in place of a bias
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_dropout_draws_no_weights(name):
    nets = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        nets.append(MODELS[name](shape_of(MODELS[name]), 3, dropout=dropout))
    first, second = (list(net.parameters()) for net in nets)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- residual and dense nets


def shapes(net, *shape):
    """What comes out of each part."""
    x, found = torch.randn(2, *shape), {}
    for name, part in net.named_children():
        x = part(x)
        found[name] = tuple(x.shape[1:])
    return found


@pytest.mark.parametrize(("size", "sides"), [(28, (7, 7, 4, 2, 1)), (96, (24, 24, 12, 6, 3))])
def test_stages_of_resnet18(size, sides):
    net = MODELS["resnet18"]((1, size, size), 10)
    found = shapes(net, 1, size, size)
    widths = (64, 64, 128, 256, 512)
    assert list(found) == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert list(found.values()) == [*((width, side, side) for width, side in zip(widths, sides, strict=True)), (10,)]
    assert [len(net.get_submodule(f"stage{i}")) for i in (1, 2, 3, 4)] == [2, 2, 2, 2]
    first = net.stem[0]
    assert (first.kernel_size, first.stride) == ((7, 7), (2, 2))


@pytest.mark.parametrize(("size", "sides"), [(28, (7, 7, 3, 3, 1, 1, 1, 1, 1)), (96, (24, 24, 12, 12, 6, 6, 3, 3, 3))])
def test_stages_of_densenet(size, sides):
    found = shapes(MODELS["densenet"]((1, size, size), 10), 1, size, size)
    widths = (64, 192, 96, 224, 112, 240, 120, 248, 248)
    assert list(found.values()) == [*((width, side, side) for width, side in zip(widths, sides, strict=True)), (10,)]
    assert list(found)[1:3] == ["block1", "transition1"]


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_resnets_for_small_images(depth):
    net = resnet((3, 32, 32), 10, depth=depth)
    assert list(shapes(net, 3, 32, 32).values()) == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (10,)]
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net.modules()) == depth
    n = (depth - 2) // 6
    convs = 9 * (3 * 16 + 2 * n * 16**2 + (16 * 32 + (2 * n - 1) * 32**2) + (32 * 64 + (2 * n - 1) * 64**2))
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert count(net) == convs + norms + 64 * 10 + 10
    # a plain net of equal depth has the same parameters, and starts from the same weights
    plain = []
    for residual in (True, False):
        torch.manual_seed(0)
        plain.append(resnet((3, 32, 32), 10, depth=depth, residual=residual))
    weights, others = (list(part.parameters()) for part in plain)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(plain[0](x), plain[1](x))


def test_a_plain_net_lacks_the_shortcuts_alone():
    shortcuts = sum(a * b + b for a, b in ((64, 128), (128, 256), (256, 512)))
    assert count(resnet((1, 28, 28), 10, residual=False)) == 11_178_378 - shortcuts


def test_presets_fix_the_depth():
    for depth in (18, 20, 32, 56):
        preset = MODELS[f"resnet{depth}"]
        assert count(preset((1, 28, 28), 10, width=4)) == count(resnet((1, 28, 28), 10, depth=depth, width=4))
        with pytest.raises(UserError, match=f"resnet{depth} has no 'depth'; it takes width, stochastic_depth, residual"):
            preset((1, 28, 28), 10, depth=8)


def test_depths_are_told():
    with pytest.raises(UserError, match="resnet: depth = 50 is not one of 8, 14, 18, 20, 32, 34, 44, 56, 110"):
        resnet((1, 28, 28), 10, depth=50)
    with pytest.raises(UserError, match="stochastic_depth drops branches beside which the input passes"):
        resnet((1, 28, 28), 10, stochastic_depth=0.5, residual=False)


def test_stochastic_depth_grows_with_depth():
    net = resnet((1, 8, 8), 3, depth=20, stochastic_depth=0.9)
    drops = [block.branch[-1] for block in net.modules() if isinstance(block, ResidualBlock)]
    assert [drop.p for drop in drops] == pytest.approx([0.1 * k for k in range(1, 10)])
    assert {drop.mode for drop in drops} == {"batch"}
    assert not any(isinstance(layer, nn.Dropout) for layer in resnet((1, 8, 8), 3, depth=20).modules())


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "densenet"])
def test_initial_weights_of_deep_nets(name):
    torch.manual_seed(0)
    for layer in MODELS[name]((1, 28, 28), 10).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            expected = math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size)))
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (layer.in_features + 10)), rel=0.1)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            assert not layer.bias.any()
        if isinstance(layer, BatchNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
