"""Losses: the contract of the shelf, the worked numbers, and torch as the oracle."""

import doctest
import math
import pickle
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import thalweg as tw
from loops import distance, train
from thalweg.core.catalogue import shelf
from thalweg.errors import UserError
from thalweg.losses import bce_with_logits, cross_entropy, half_mse, kl_divergence, mse, multiclass_svm

LOSSES = shelf("losses")


@pytest.fixture(autouse=True)
def _one_thread():
    """The fastest for batches as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(loss, n=6, seed=0):
    """An output and targets that suit the loss."""
    generator = torch.Generator().manual_seed(seed)
    if loss.target == "label":
        return torch.randn(n, 4, generator=generator), torch.randint(4, (n,), generator=generator)
    target = torch.randint(2, (n, 1), generator=generator).float()
    return torch.randn(n, 1, generator=generator), target


def test_names():
    assert {"mse", "half_mse", "bce_with_logits", "cross_entropy", "multiclass_svm", "kl_divergence"} <= set(LOSSES)


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
    torch.testing.assert_close(loss(output, target, reduction="mean"), value)
    torch.testing.assert_close(loss(output, target, reduction="sum"), each.sum())
    assert pickle.loads(pickle.dumps(loss)) is loss  # as worker processes get it
    for reduction in ("none", None):
        with pytest.raises(UserError, match=f"{name}: reduction = {reduction!r} is not one of mean, sum"):
            loss(output, target, reduction=reduction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_give_finite_losses_and_gradients(name, reduction, dtype):
    loss = LOSSES[name]
    _, target = rows(loss, n=24)
    columns = 4 if loss.target == "label" else 1
    output = (1000 * torch.randn(24, columns, generator=torch.Generator().manual_seed(1)).sign()).to(dtype)
    output[:4] = 1000.0  # equal scores, too
    targets = [target, nn.functional.one_hot(target, columns).float()] if name in ("cross_entropy", "kl_divergence") else [target]
    for aim in targets:
        value = loss(output.requires_grad_(), aim, reduction=reduction)
        (slope,) = torch.autograd.grad(value, output)
        assert slope.dtype is dtype
        assert value > 0
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()
        assert slope.any()


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


def test_kl_by_hand():
    p, q = (torch.tensor([row], dtype=torch.float64) for row in ((0.2, 0.3, 0.5), (0.1, 0.4, 0.5)))
    expected = 0.2 * math.log(2) + 0.3 * math.log(3 / 4)
    assert expected == pytest.approx(0.0523248, abs=1e-7)
    for shift in (0.0, 5.0, -1000.0):  # scores count up to a constant
        assert kl_divergence(q.log() + shift, p).item() == pytest.approx(expected, abs=1e-12)
    assert kl_divergence(p.log(), p).item() == pytest.approx(0, abs=1e-15)
    two = kl_divergence(torch.cat([q, p]).log(), torch.cat([p, p]))
    assert two.item() == pytest.approx(expected / 2, abs=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_kl_agrees_with_torch_and_with_cross_entropy(seed):
    output, labels = rows(kl_divergence, seed=seed)
    p = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).softmax(1)
    logs = output.log_softmax(1)
    torch.testing.assert_close(kl_divergence(output, p), functional.kl_div(logs, p, reduction="batchmean"))
    torch.testing.assert_close(kl_divergence(output, labels), cross_entropy(output, labels))
    torch.testing.assert_close(kl_divergence(output, functional.one_hot(labels, 4).float()), cross_entropy(output, labels))
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(kl_divergence(output, p), cross_entropy(output, p) - entropy)


def test_kl_takes_a_probability_for_each_score():
    with pytest.raises(UserError, match=r"output has shape \(6, 4\) and the probabilities \(6,\)"):
        kl_divergence(torch.zeros(6, 4), torch.ones(6))


def test_label_smoothing_reaches_the_cross_entropy_of_the_shelf():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    data = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    lanes = [{"lr": 0.5, "label_smoothing": 0.2}, {"lr": 0.5, "label_smoothing": 0.0}]
    runs = tw.sweep(model, cross_entropy, data, optimizer="sgd", configs=lanes, steps=5, batch_size=4, engine="fleet", device="cpu")
    for k, config in enumerate(lanes):
        assert distance(runs.state_dict(k), train(model, cross_entropy, data, "sgd", config, steps=5, batch_size=4).model) <= 1e-12


def test_l2_prefers_spread_weights_and_l1_does_not_care():
    # one row x = (1, 1, 1, 1) with target 1: w1 = (1, 0, 0, 0) and w2 = (.25, .25, .25, .25) have the same score
    data = torch.ones(1, 4, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    ends = {}
    for name, start in (("w1", (1.0, 0.0, 0.0, 0.0)), ("w2", (0.25, 0.25, 0.25, 0.25))):
        model = nn.Linear(4, 1, bias=False).double()
        model.weight.data[:] = torch.tensor(start)
        assert mse(model(data[0]), data[1]) == 0
        for penalty in ("l2", "l1"):
            lanes = [{"lr": 0.1, penalty: 0.5}]
            runs = tw.sweep(model, mse, data, optimizer="sgd", configs=lanes, steps=200, batch_size=1, engine="solo", device="cpu")
            ends[name, penalty] = runs.state_dict(0)["weight"][0].tolist()
    # (4 v - 1)^2 + .5 * 4 v^2 is least at v = 2 / 9, wherever it starts
    assert ends["w1", "l2"] == pytest.approx([2 / 9] * 4, abs=1e-9)
    assert ends["w2", "l2"] == pytest.approx([2 / 9] * 4, abs=1e-9)
    # (s - 1)^2 + .5 |s| is least at s = .75, however it is spread
    assert ends["w1", "l1"] == pytest.approx([0.75, 0, 0, 0], abs=1e-9)
    assert ends["w2", "l1"] == pytest.approx([0.75 / 4] * 4, abs=1e-9)
