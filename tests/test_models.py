"""Models: the contract of the shelf, parameter counts, initial weights, and errors in words."""

import doctest
import math
import sys

import pytest
import torch
from torch import nn

from thalweg.core.catalogue import shelf
from thalweg.errors import UserError

MODELS = shelf("models")


def shape_of(model):
    return (1, 28, 28) if model.images else (5,)


def outputs_of(model):
    return 3 if "classes" in model.tasks else 1


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_names():
    assert {"linear", "logistic", "softmax", "svm", "two-layer", "mlp", "cnn"} <= set(MODELS)


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
    modules = [model(shape_of(model), outputs_of(model)) for _ in range(2)]
    stacked, buffers = torch.func.stack_module_state(modules)
    x = torch.randn(3, *shape_of(model))
    out = torch.func.vmap(lambda p, b: torch.func.functional_call(modules[0], (p, b), x))(stacked, buffers)
    torch.testing.assert_close(out, torch.stack([module(x) for module in modules]))


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


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 9, 17)])
def test_cnn_of_other_sizes(shape):
    assert MODELS["cnn"](shape, 4)(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("shape", [(64,), (28, 28), (1, 7, 8), (0, 8, 8)])
def test_cnn_needs_images(shape):
    with pytest.raises(UserError, match="cnn needs images"):
        MODELS["cnn"](shape, 10)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("mlp", {"hiden": 3}, "mlp has no 'hiden'; it takes hidden, depth, activation"),
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
