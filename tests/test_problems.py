"""Named problems, CSV files, the user's own problems, and what is said when something does not fit."""

import doctest
import warnings

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import thalweg.core.table
import thalweg.study.checks
import thalweg.study.problems
from thalweg.core.catalogue import shelf
from thalweg.core.problem import Problem, rows
from thalweg.core.table import apart
from thalweg.errors import UserCodeError, UserError
from thalweg.study.problems import check, combinations, complete, problem

EMBEDDED = [pair for pair in combinations() if pair.startswith(("digits", "diabetes", "breast-cancer"))]


def counts(p):
    return [rows(split) for split in (p.train, p.valid, p.test)]


def clean(p):
    """Complete, and nothing wrong with it."""
    p = complete(p)
    check(p)
    return p


# --- by name


@pytest.mark.parametrize("name", EMBEDDED)
def test_named(name):
    p = clean(problem(name))
    assert p.name == name
    assert p.notes
    X, y = p.train
    assert X.dtype == torch.float32
    torch.manual_seed(0)
    output = p.model()(X)
    if p.metrics:
        assert p.score == "accuracy"
    else:
        assert y.shape == output.shape == (len(X), 1)
    # factories travel to other processes
    torch.manual_seed(0)
    again = cloudpickle.loads(cloudpickle.dumps((p.model, p.loss)))
    assert torch.equal(again[0]()(X), output)
    assert again[1](output, y) == p.loss(output, y)


def test_documented_examples():
    for module in (thalweg.study.problems, thalweg.study.checks, thalweg.core.table, thalweg.core.declare, thalweg.core.files):
        result = doctest.testmod(module)
        assert result.attempted, module
        assert not result.failed, module


def test_split_of_digits():
    p = problem("digits-mlp")
    assert counts(p) == [1078, 359, 360]
    for split in (p.train, p.valid, p.test):
        share = split[1].bincount() / len(split[1])
        assert (share - 0.1).abs().max() < 0.01
    again = problem("digits-softmax")
    assert all(torch.equal(a[0], b[0]) for a, b in zip((p.train, p.valid, p.test), (again.train, again.valid, again.test), strict=True))
    whole = torch.cat([p.train[0], p.valid[0], p.test[0]])
    assert torch.equal(whole.sum(0), shelf("datasets")["digits"]().X.sum(0))
    assert counts(problem("digits-mlp", valid=0.1)) == [1257, 180, 360]


def test_standardised_by_training_rows_only():
    p = problem("diabetes-linear")
    X, y = p.train
    for values in (X, y):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones(values.shape[1]), atol=1e-5, rtol=0)
    assert p.valid[0].mean(0).abs().max() > 1e-3
    assert any("training rows' mean" in note for note in p.notes)
    raw = problem("diabetes-linear", standardize=False)
    assert raw.train[1].mean() > 100
    assert any("not standardised" in note for note in raw.notes)


def test_binary_targets_follow_the_loss():
    logistic, softmax = problem("breast-cancer-logistic"), problem("breast-cancer-softmax")
    assert logistic.train[1].dtype == torch.float32
    assert logistic.train[1].shape == (342, 1)
    assert softmax.train[1].dtype == torch.int64
    one_logit = clean(problem("breast-cancer-mlp", loss="bce_with_logits"))
    assert one_logit.model()(one_logit.train[0]).shape == (342, 1)


def test_mnist(data_folder):
    p = clean(problem("mnist-softmax", data=data_folder))
    assert counts(p) == [50_000, 10_000, 10_000]
    assert (p.batch_size, p.epochs) == (32, 3)


def test_all_rows(data_folder):
    p = clean(problem("airfoil-linear", data=data_folder, all_rows=True))
    assert p.all_rows
    assert counts(p) == [1500, 1500, 1500]
    assert p.train[0] is p.test[0]
    assert p.loss.name == "half_mse"
    assert any("training score" in note for note in p.notes)
    raw = problem("advertising-linear", data=data_folder)
    assert raw.train[0].max() > 100
    scaled = problem("advertising-linear", data=data_folder, all_rows=True, standardize=True)
    X, y = (part.double() for part in scaled.train)
    A = torch.cat([torch.ones(200, 1, dtype=torch.float64), X], 1)
    w = torch.linalg.lstsq(A, y).solution
    assert (A @ w - y).square().mean().item() == pytest.approx(2.78412631, abs=1e-6)  # in units of sales, scaled or not


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("digits", {}, "digits is a data set; say with which model: digits-mlp, digits-softmax, digits-svm, digits-two-layer"),
        ("digits-mpl", {}, "no problem is called 'digits-mpl'; did you mean 'digits-mlp'?"),
        ("digit-mlp", {}, "did you mean 'digits-mlp'?"),
        ("fashion-mnst-cnn", {}, "did you mean 'fashion-mnist-cnn'?"),
        ("digits-linear", {}, "linear predicts a number, and digits has 10 classes; take mlp"),
        ("digits-logistic", {}, "logistic tells 2 classes apart, and digits has 10 classes"),
        ("diabetes-softmax", {}, "softmax tells classes apart, and diabetes has a number to predict; take linear"),
        ("digits-cnn", {}, r"cnn needs images, .* and digits has rows of shape \(64,\)"),
        ("digits-mlp", {"hiden": 3}, "mlp has no 'hiden'; it takes hidden, depth, activation"),
        ("digits-mlp", {"loss": "mse"}, "the loss mse does not fit this target; take one of cross_entropy, kl_divergence, multiclass_svm"),
        ("digits-mlp", {"loss": "cros_entropy"}, "no loss is called 'cros_entropy'; did you mean 'cross_entropy'"),
        ("digits", {"model": "mpl"}, "no model is called 'mpl'"),
        ("digits-mlp", {"model": "svm"}, "digits-mlp names its model already"),
        ("digits-mlp", {"target": "y"}, "digits-mlp knows its own target"),
        ("digits-mlp", {"valid": 1.0}, "valid = 1.0 must be a share"),
        ("digits-mlp", {"valid": 0.9}, "leaves no training rows"),
        ("digits-mlp", {"valid": 0.1, "all_rows": True}, "leave valid out"),
        ("breast-cancer-logistic", {"loss": "cross_entropy"}, "logistic has one output"),
        ("nosuch.csv", {"target": "y"}, "there is no file nosuch.csv"),
        ("mine.py", {}, "mine.py is a file; name the problem in it as well, mine.py:object"),
    ],
)
def test_errors_of_names(name, options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        problem(name, **options)
    assert "\n" not in str(caught.value)


def test_a_bare_data_set_takes_model():
    assert problem("digits", model="svm").name == "digits-svm"


# --- CSV


@pytest.fixture
def csv(tmp_path):
    def write(text, name="houses.csv"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def sheet(n=40, sep=",", **columns):
    frame = pd.DataFrame({"a": np.arange(n) * 1.5, "b": np.arange(n) % 7, **columns})
    return frame.to_csv(sep=sep, index=False)


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_csv_separators(csv, sep):
    p = clean(problem(csv(sheet(sep=sep, price=np.arange(40) / 3)), target="price"))
    assert counts(p) == [24, 8, 8]
    assert p.name == "houses-mlp"
    assert p.metrics == ()
    assert p.train[0].shape == (24, 2)


@pytest.mark.parametrize(
    ("target", "classes", "loss"),
    [
        (["yes", "no"] * 20, 2, "cross_entropy"),
        ([3, 1, 7, 7] * 10, 3, "cross_entropy"),
        ([True, False] * 20, 2, "cross_entropy"),
        (list(range(40)), 1, "mse"),
        ([0.5, 1.5] * 20, 1, "mse"),
    ],
)
def test_csv_targets(csv, target, classes, loss):
    p = clean(problem(csv(sheet(kind=target)), target="kind", model="mlp", hidden=8))
    assert p.loss.name == loss
    assert p.model()(p.train[0]).shape == (24, classes)
    if loss == "cross_entropy":
        values = sorted({str(value) for value in target})
        assert any(", ".join(values) in note for note in p.notes)


def test_csv_takes_other_models(csv):
    path = csv(sheet(kind=["yes", "no"] * 20))
    assert clean(problem(path, target="kind", model="logistic")).train[1].shape == (24, 1)
    with pytest.raises(UserError, match=r"linear predicts a number, and houses\.csv has 2 classes"):
        problem(path, target="kind", model="linear")


def test_csv_columns_of_one_value(csv):
    p = clean(problem(csv(sheet(c=[0.1] * 40, price=np.arange(40) / 3)), target="price"))
    assert p.train[0][:, 2].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("text", "target", "sentence"),
    [
        (sheet(price=1.0), None, "say which column of .* target=...; it has a, b, price"),
        (sheet(price=np.arange(40) / 3), "prise", "no column of .* is called 'prise'; did you mean 'price'?"),
        (sheet(c=[1.0, 2.0, None, 4.0] * 10, y=1.5), "y", "column 'c' has no value in row 3"),
        (sheet(c=["1", "2", "red", "4"] * 10, y=1.5), "y", "column 'c' holds 'red' in row 3, not a number"),
        (sheet(c=[1.0, 2.0, np.inf, 4.0] * 10, y=1.5), "y", "column 'c' holds inf in row 3"),
        (sheet(c=[1.0, 1e300] * 20, y=1.5), "y", "column 'c' holds 1e[+]300 in row 2, which is infinite in float32"),
        (sheet(y=["u", None] * 20), "y", "target 'y' has no value in row 2"),
        (sheet(y=1), "y", "has one value only, 1"),
        (sheet(y=[f"id{i}" for i in range(40)]), "y", "is text with 40 different values"),
        (sheet(n=3, y=1), "y", "3 rows below its header; 5 or more"),
        ("", "y", "cannot be read as CSV"),
        ("a,y\n1,2\n1,2,3\n", "y", "cannot be read as CSV"),
        ("y\n1\n2\n3\n4\n5\n", "y", "has no column besides the target"),
    ],
)
def test_csv_errors(csv, text, target, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        problem(csv(text), target=target)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_apart_is_a_stratified_partition(labels, data):
    labels = torch.tensor(labels)
    count = data.draw(st.integers(0, len(labels)))
    kept, out = apart(count, labels, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    assert len(out) == count
    assert torch.cat([kept, out]).sort().values.tolist() == list(range(len(labels)))
    for label in labels.unique():
        even = count * (labels == label).sum() / len(labels)
        assert abs((labels[out] == label).sum() - even) <= 1 + 1e-5


# --- the user's own


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom torch import nn\nimport thalweg as tw\n"
        "def net():\n    return nn.Linear(3, 1)\n"
        "def loss(out, y):\n    return (out - y).square().mean()\n"
        "def make():\n    return tw.Problem(net, loss, train=(torch.ones(20, 3), torch.ones(20, 1)), batch_size=4)\n"
        "ready = make()\n"
        "def wide(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], outputs))\n"
        "def broken():\n    return 1 / 0\n"
        "def needs(n):\n    return make()\n"
        "def wrong():\n    return 3\n"
        "class Net(nn.Module):\n    pass\n"
        "number = 7\n"
    )
    return str(path)


@pytest.mark.parametrize("name", ["make", "ready"])
def test_own(mine, name):
    p = clean(problem(f"{mine}:{name}"))
    assert counts(p) == [12, 4, 4]
    assert b"_thalweg_user_" not in cloudpickle.dumps(p.model) or cloudpickle.loads(cloudpickle.dumps(p.model))()


def test_own_model(mine):
    p = clean(problem("digits", model=f"{mine}:wide"))
    assert p.name == "digits-wide"
    assert p.model()(p.train[0]).shape == (1078, 10)
    with pytest.raises(UserCodeError, match=r"the model failed, called as make\(\(64,\), 10\): TypeError"):
        problem("digits", model=f"{mine}:make")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("broken", {}, "failed when called: ZeroDivisionError: division by zero"),
        ("needs", {}, "needs the arguments n"),
        ("wrong", {}, "returned a int; it should return a Problem"),
        ("Net", {}, "is a class; it should be a Problem"),
        ("number", {}, "is a int; it should be a Problem"),
        ("mak", {}, "did you mean 'make'"),
        ("make", {"hidden": 3, "all_rows": True}, "takes no hidden, all_rows"),
    ],
)
def test_errors_of_own(mine, name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        problem(f"{mine}:{name}", **options)


# --- complete and check

X, Y = torch.arange(60.0).reshape(20, 3) / 60, torch.arange(20) % 2


def make(model=lambda: nn.Linear(3, 2), loss=functional.cross_entropy, train=(X, Y), **more):
    return Problem(model, loss, train=train, **{"batch_size": 4, **more})


def test_complete_sets_apart():
    p = clean(make())
    assert counts(p) == [12, 4, 4]
    assert [split[1].sum().item() for split in (p.train, p.valid, p.test)] == [6, 2, 2]
    assert "4 of the 20 rows set apart for test and for valid, drawn by seed 0" in p.notes
    assert counts(clean(make(test=(X[:5], Y[:5])))) == [16, 4, 5]
    assert counts(clean(make(valid=(X[:5], Y[:5]), test=(X[:5], Y[:5])))) == [20, 5, 5]
    assert counts(clean(make(all_rows=True))) == [20, 20, 20]
    everything = torch.cat([p.train[0], p.valid[0], p.test[0]])
    assert torch.equal(everything.sort(0).values, X)


def test_complete_reads_what_holds_data():
    dataset = [(X[i], int(Y[i])) for i in range(20)]

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return dataset[i]

    for train in (Rows(), torch.utils.data.TensorDataset(X, Y), (X.numpy(), Y.numpy()), (pd.DataFrame(X.numpy()), pd.Series(Y.numpy()))):
        assert counts(clean(make(train=train))) == [12, 4, 4]
    by_step = make(loss=None, step=lambda m, b: functional.cross_entropy(m(b["x"]), b["y"]), train={"x": X, "y": Y})
    assert counts(clean(by_step)) == [12, 4, 4]


def test_random_numbers_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    clean(make(model=lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout())))
    problem("digits-mlp")
    assert torch.equal(before, torch.get_rng_state())


shared = nn.Linear(3, 2)
bad = X.clone()
bad[7, 1] = float("nan")


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": (X, Y[:19])}, r"different numbers of rows: shapes \(20, 3\), \(19,\)"),
        ({"train": (bad, Y)}, r"train inputs\[7, 1\] is nan \(row 7"),
        ({"train": (X, np.array(["a", "b"] * 10))}, "the train data cannot become tensors: .* give numbers"),
        ({"train": (X, np.array([None] * 20))}, "cannot become tensors"),
        ({"train": (X[:2], Y[:2])}, "there are 2 training rows, too few"),
        ({"train": X}, r"must be a pair \(inputs, targets\)"),
        ({"batch_size": 13}, "batch_size = 13 must be between 1 and the 12 training rows"),
        ({"model": lambda: 3}, "returned a int; it must return a torch.nn.Module"),
        ({"model": lambda: shared}, "returns the same module each time"),
        ({"train": (X, Y + 1)}, r"train targets\[1\] is 2, and the model has 2 outputs: labels must be 0 to 1"),
        ({"train": (X, Y - 1)}, r"targets\[0\] is -1, and the model has 2 outputs"),
        ({"train": (X, Y.float())}, r"targets are float32, and this loss over 2 outputs takes int64 labels; give y.long\(\)"),
        ({"train": (X, Y.int())}, r"targets are int32, .* give y.long\(\)"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, r"the loss gave a tensor of shape \(8,\); it must give a scalar"),
        ({"loss": lambda o, y: 3.0}, "the loss gave a float; it must give a scalar tensor"),
        ({"loss": lambda o, y: o.mean() * float("inf")}, "the loss is -?inf on the first train rows"),
    ],
)
def test_what_is_wrong_is_said(changes, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        clean(make(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": Broken}, r"the model failed on train inputs of shape \(8, 3\) float32: KeyError: 'no such layer'"),
        ({"model": lambda: nn.Linear(4, 2)}, r"inputs of shape \(8, 3\) float32: RuntimeError: mat1 and mat2"),
        ({"train": (X.double(), Y)}, r"float64 \(its weights are float32: convert the inputs, such as by X.float\(\)\)"),
        ({"model": lambda: 1 / 0}, "model=... failed: ZeroDivisionError"),
        ({"loss": lambda o, y: o.nothing}, r"the loss failed on .* output \(8, 2\) float32, targets \(8,\) int64: AttributeError"),
        ({"metrics": {"mine": lambda o, y: o.nothing}}, "the metric mine failed"),
    ],
)
def test_the_users_code_is_named(changes, sentence):
    with pytest.raises(UserCodeError, match=sentence) as caught:
        clean(make(**changes))
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def silent(output, target):
    return ((output - target) ** 2).mean()


@pytest.mark.parametrize("loss", [functional.mse_loss, nn.MSELoss(), nn.L1Loss(), silent])
def test_silent_broadcast(loss):
    regression = {"model": lambda: nn.Linear(3, 1), "train": (X, Y.float())}
    with pytest.raises(UserError, match=r"silently broadcasts to \(8, 8\)"):
        clean(make(loss=loss, **regression))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean(make(loss=lambda o, y: loss(o.squeeze(1), y), **regression))
        clean(make(loss=shelf("losses")["mse"], **regression))
        clean(make(loss=loss, model=lambda: nn.Linear(3, 1), train=(X, Y.float().unsqueeze(1))))


def test_ignored_labels_are_allowed():
    ignored = Y.clone()
    ignored[::3] = -100
    clean(make(train=(X, ignored)))
    clean(make(loss=nn.CrossEntropyLoss(ignore_index=9), train=(X, torch.where(Y == 1, Y, 9))))
    with pytest.raises(UserError, match=r"targets\[\d+\] is -100"):
        clean(make(loss=shelf("losses")["multiclass_svm"], train=(X, ignored)))
