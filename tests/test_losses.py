"""Losses: the contract of the shelf, the worked numbers, and torch as the oracle."""

import doctest
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from thalweg.core.catalogue import shelf
from thalweg.errors import UserError
from thalweg.losses import bce_with_logits, cross_entropy, half_mse, mse, multiclass_svm

LOSSES = shelf("losses")


def rows(loss, n=6, seed=0):
    """An output and targets that suit the loss."""
    generator = torch.Generator().manual_seed(seed)
    if loss.target == "label":
        return torch.randn(n, 4, generator=generator), torch.randint(4, (n,), generator=generator)
    target = torch.randint(2, (n, 1), generator=generator).float()
    return torch.randn(n, 1, generator=generator), target


def test_names():
    assert {"mse", "half_mse", "bce_with_logits", "cross_entropy", "multiclass_svm"} <= set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name):
    loss = LOSSES[name]
    output, target = rows(loss)
    assert loss.shelf == "losses"
    assert loss.name == name
    assert "shape" in loss.doc or "(n" in loss.doc
    assert set(loss.tasks) <= {"regression", "binary", "classes"}
    value = loss(output, target)
    assert value.shape == ()
    # the mean over rows: the batch's loss is the mean of its rows' losses
    each = torch.stack([loss(output[i : i + 1], target[i : i + 1]) for i in range(len(output))])
    torch.testing.assert_close(value, each.mean())


@pytest.mark.parametrize("name", LOSSES)
def test_under_vmap_and_grad(name):
    loss = LOSSES[name]
    lanes = [rows(loss, seed=k) for k in range(3)]
    outputs, targets = (torch.stack(part) for part in zip(*lanes, strict=True))
    for target, dim in ((targets, 0), (targets[0], None)):
        fast = torch.func.vmap(torch.func.grad(loss), (0, dim))(outputs, target)
        slow = torch.stack([torch.func.grad(loss)(outputs[k], targets[k if dim == 0 else 0]) for k in range(3)])
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_against_differences(name):
    loss = LOSSES[name]
    output, target = rows(loss)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), output.double().requires_grad_())


def test_documented_examples():
    for name, loss in LOSSES.items():
        module = sys.modules[loss.__module__]
        result = doctest.testmod(module)
        assert result.attempted, name
        assert not result.failed, name


@pytest.mark.parametrize(
    ("scores", "label", "value"),
    [((3.2, 5.1, -1.7), 0, 2.9), ((1.3, 4.9, 2.0), 1, 0.0), ((2.2, 2.5, -3.1), 2, 12.9)],
)
def test_svm_worked_numbers(scores, label, value):
    output, target = torch.tensor([scores], dtype=torch.float64), torch.tensor([label])
    assert multiclass_svm(output, target).item() == pytest.approx(value, abs=1e-12)


def test_svm_mean_and_doubled_weights():
    output = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]], dtype=torch.float64)
    assert multiclass_svm(output, torch.tensor([0, 1, 2])).item() == pytest.approx((2.9 + 0 + 12.9) / 3)
    assert multiclass_svm(2 * output[1:2], torch.tensor([1])).item() == 0.0


@given(st.integers(0, 10_000))
def test_svm_agrees_with_torch(seed):
    output, target = rows(multiclass_svm, seed=seed)
    # torch divides by the number of classes
    torch.testing.assert_close(multiclass_svm(output, target), 4 * functional.multi_margin_loss(output, target))


def test_untrained_svm_loss_is_classes_minus_one():
    assert multiclass_svm(torch.zeros(5, 10), torch.arange(5)).item() == 9.0


@pytest.mark.parametrize("z", [1000.0, -1000.0, 0.0, 30.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_bce_is_stable(z, y):
    logit = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    value = bce_with_logits(logit, torch.tensor([y]))
    expected = max(z, 0) - y * z + math.log1p(math.exp(-abs(z)))
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    assert logit.grad.item() == pytest.approx(torch.sigmoid(logit).item() - y, abs=1e-12)


@pytest.mark.parametrize("loss", [mse, half_mse, bce_with_logits])
def test_no_silent_broadcast(loss):
    output, target = rows(loss)
    for o in (output, output.squeeze(1)):
        for t in (target, target.squeeze(1)):
            assert loss(o, t) == loss(output, target)
    with pytest.raises(UserError, match=r"output has shape \(6, 2\) and the targets \(6,\)"):
        loss(torch.zeros(6, 2), torch.zeros(6))


def test_against_torch():
    output, target = rows(mse)
    torch.testing.assert_close(mse(output, target), functional.mse_loss(output, target))
    torch.testing.assert_close(2 * half_mse(output, target), mse(output, target))
    scores, labels = rows(cross_entropy)
    torch.testing.assert_close(cross_entropy(scores, labels), functional.cross_entropy(scores, labels))
    assert cross_entropy(torch.tensor([[1e3, -1e3]]), torch.tensor([1])).item() == 2000.0
