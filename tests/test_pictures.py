"""Pictures: the contract of the shelf, the numbers in them, what they refuse, and how they are found by name and saved."""

import contextlib
import doctest
import sys
import xml.etree.ElementTree as ET
from functools import cache
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix as counted
from torch import nn

import thalweg.core.picture
import thalweg.pictures as pictures
from thalweg import probes
from thalweg.core import canvas
from thalweg.core.catalogue import shelf
from thalweg.core.picture import REQUESTS, applicable, draw, picture, save
from thalweg.errors import UserCodeError, UserError

PICTURES = shelf("pictures")
LONG = ["airplane", "automobile", "a very long name", "cat"]


def history():
    """60 records and 6 evaluations, as a run keeps them."""
    records = [{"step": t, "epoch": t / 10, "loss": 2 / (1 + t) + 0.01 * (t % 3), "lr": 0.1 * 0.9**t} for t in range(60)]
    evaluations = [
        {"step": t, "epoch": t / 10, "train_accuracy": 1 - 0.5 / (1 + t), "valid_accuracy": 0.9 - 0.5 / (1 + t), "train_loss": 1.0,
         "valid_loss": 1.25}
        for t in range(0, 60, 10)
    ]  # fmt: skip
    return pd.DataFrame(records + evaluations)


class Draws(nn.Module):
    """Draws random numbers also in evaluation mode, and does not show it."""

    def forward(self, x):
        return x + 0 * torch.rand_like(x)


def images():
    """A linear classifier of 6x6 images with 4 classes of long names, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 4))
    data = torch.randn(50, 1, 6, 6), torch.randint(4, (50,))
    return {"model": model, "train": data, "valid": data, "test": data, "classes": LONG}


def plane(outputs=3):
    """A model of points of the plane that has random and changing parts, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), Draws(), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, outputs))
    X = torch.randn(40, 2)
    y = torch.randint(max(outputs, 2), (40,))
    data = (X, y) if outputs > 1 else (X, y.float().unsqueeze(1))
    return {"model": model, "train": data, "valid": data, "test": data}


@cache
def measured():
    """What probes and traces of a small net give, by the pictures' names for it."""
    torch.manual_seed(0)
    net, data = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (torch.randn(20, 3), torch.randn(20, 2))
    loss, path = nn.functional.mse_loss, np.array([[-1.0, 0.5], [0.5, 0.2], [0.1, 0.0]])
    return {
        "landscape": probes.landscape(net, loss, data, points=7),
        "flow": probes.gradients(net, loss, data, torch.optim.SGD(net.parameters(), lr=0.1)),
        "spectrum": probes.spectrum(net, loss, data, density=1),
        "trace": SimpleNamespace(
            name="bowl", paths={"a rule's long name": path, "sgd": 2 * path}, losses={"a rule's long name": path[:, 0], "sgd": path[:, 1]},
            minimisers=((0.0, 0.0),), function=lambda points: (points**2).sum(1),
        ),
    }  # fmt: skip


def available(name):
    """What the picture can be drawn from: of images, or of points of the plane."""
    for case in (images(), plane()):
        given = case | {"history": history()} | measured()
        with contextlib.suppress(UserError):
            draw(name, **given)
            return given
    raise AssertionError(f"{name} can be drawn neither of images nor of points of the plane")


def svg(figure, tmp_path):
    return save(figure, tmp_path / "picture.svg").read_bytes()


# --- the contract


def test_names():
    assert {"confusion_matrix", "decision_regions", "gap", "learning_rate", "loss", "weight_templates"} <= set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_contract(name, tmp_path):
    entry, given = PICTURES[name], available(name)
    assert (entry.shelf, entry.name) == ("pictures", name)
    assert entry.doc
    assert set(entry.requests) <= set(REQUESTS)
    assert any(entry.requests.values())
    model = given["model"]
    model.train()
    next(model.children()).eval()  # modes that no single call of train or eval restores
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()

    figure = draw(name, **given)

    assert isinstance(figure, Figure)
    assert all(axes.get_title(loc="left") or (axes.get_xlabel() and axes.get_ylabel()) or axes.get_ylabel() for axes in figure.axes)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()
    first = svg(figure, tmp_path)
    torch.manual_seed(99)
    assert svg(draw(name, **given), tmp_path) == first
    assert b"<dc:date>" not in first


def fits(figure):
    """Whether all that is drawn, texts too, lies inside the figure."""
    FigureCanvasAgg(figure).draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_is_cut(name):
    assert fits(draw(name, **available(name)))


@pytest.mark.parametrize("module", [thalweg.core.picture, canvas, *(sys.modules[entry.function.__module__] for entry in PICTURES.values())])
def test_documented_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_colours_stand_out_and_differ():
    """3:1 against white, as lines and marks need; and no two alike."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert all(1.05 / (luminance(colour) + 0.05) >= 3 for colour in canvas.COLOURS)
    assert len({(canvas.COLOURS[k % 8], canvas.MARKERS[k % 10]) for k in range(40)}) == 40


# --- the numbers


@pytest.mark.parametrize(("count", "form"), [(2, "scores"), (2, "logits"), (2, "column"), (10, "scores")])
def test_confusion_counts_are_scikit_learns(count, form):
    torch.manual_seed(count)
    truth = torch.randint(count, (300,))
    outputs = torch.randn(300, count if form == "scores" else 1) + (2.0 * nn.functional.one_hot(truth, count) if form == "scores" else 0)
    predicted = outputs.argmax(1) if form == "scores" else (outputs[:, 0] > 0).long()
    given = outputs[:, 0] if form == "logits" else outputs
    figure = pictures.confusion_matrix(nn.Identity(), (given, truth.float().unsqueeze(1) if form == "column" else truth))
    axes = figure.axes[0]
    expected = counted(truth, predicted)
    cells = {tuple(int(x) for x in text.get_position()): text.get_text() for text in axes.texts if "%" not in text.get_text()}
    assert cells == {(j, i): str(n) for (i, j), n in np.ndenumerate(expected) if n}
    shares = expected / expected.sum(1, keepdims=True)
    np.testing.assert_allclose(axes.collections[0].get_array().reshape(count, count), shares, rtol=1e-6)
    written = [text.get_text() for text in axes.texts if "%" in text.get_text()]
    assert written == [f"{100 * s:.0f} %" if s >= 0.01 else "<1 %" for s in shares.flat if s]
    assert f"{100 * (truth == predicted).double().mean():.1f} % of 300" in axes.get_title(loc="left")


def test_confusion_of_classes_without_rows_and_of_many():
    scores = torch.eye(3)
    shares = pictures.confusion_matrix(nn.Identity(), (scores, torch.tensor([0, 1, 1]))).axes[0].collections[0].get_array()
    np.testing.assert_array_equal(shares.reshape(3, 3), [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    many = pictures.confusion_matrix(nn.Identity(), (torch.eye(60), torch.arange(60)))
    assert not many.axes[0].texts
    assert many.axes[1].get_ylabel() == "share of the true class's rows"
    assert fits(many)


@pytest.mark.parametrize("count", [2, 10])
def test_long_names_and_few_classes_fit(count):
    names = [f"{k}, a class of a very long name" for k in range(count)]
    assert fits(pictures.confusion_matrix(nn.Identity(), (torch.eye(count), torch.arange(count)), names))
    assert fits(pictures.weight_templates(nn.Linear(16, 1), classes=names[:2]))


@pytest.mark.parametrize("outputs", [1, 2, 3, 5])
def test_regions_are_the_models_decisions(outputs):
    given = plane(outputs)
    model = given["model"]
    figure = pictures.decision_regions(model, given["train"])
    axes = figure.axes[0]
    image = axes.images[0]
    drawn = np.asarray(image.get_array())
    assert image.origin == "lower"
    left, right, below, above = image.get_extent()
    high, wide = drawn.shape
    x = left + (np.arange(wide) + 0.5) * (right - left) / wide
    y = below + (np.arange(high) + 0.5) * (above - below) / high
    points = torch.tensor(np.stack(np.meshgrid(x, y), axis=-1), dtype=torch.float32)  # (high, wide, 2), rows from below
    with torch.no_grad():
        scores = model.eval()(points.reshape(-1, 2)).reshape(high, wide, -1)
    expected = scores.argmax(-1) if outputs > 1 else (scores[..., 0] > 0).long()
    # only points on a border may round to its other side
    assert (drawn == expected.numpy()).mean() > 0.9995
    assert len(np.unique(drawn)) > 1
    X, labels = given["train"]
    shown = {tuple(point) for part in axes.collections if hasattr(part, "get_offsets") for point in np.asarray(part.get_offsets()).tolist()}
    assert {tuple(point) for point in X.double().tolist()} <= shown
    with torch.no_grad():
        own = model(X)
    wrong = int(((own.argmax(1) if outputs > 1 else own[:, 0] > 0) != labels.reshape(-1)).sum())
    assert f": {wrong} of 40 rows" in axes.get_title(loc="left")
    # each region is a lighter tone of the colour of its class's points
    for k in np.unique(drawn):
        tone = image.cmap(image.norm(k))[:3]
        np.testing.assert_allclose(tone, canvas.tint(canvas.COLOURS[int(k)], 0.28), atol=1e-6)


def test_many_rows_are_thinned_and_a_single_row_is_drawn():
    X = torch.randn(5000, 2)
    axes = pictures.decision_regions(nn.Identity(), (X, (X[:, 1] > X[:, 0]).long())).axes[0]
    drawn = sum(len(part.get_offsets()) for part in axes.collections if part.get_label() in ("0", "1"))
    assert drawn == 1500
    assert isinstance(pictures.decision_regions(nn.Identity(), (X[:1], torch.tensor([0]))), Figure)


def test_templates_are_the_rows_of_the_weights():
    given = images()
    weight = given["model"][2].weight.detach()
    axes = pictures.weight_templates(given["model"], classes=LONG).axes
    assert [cell.get_title(loc="left") for cell in axes[:4]] == LONG
    for cell, row in zip(axes, weight, strict=False):
        np.testing.assert_allclose(np.asarray(cell.images[0].get_array()), row.reshape(6, 6).numpy())
        assert cell.images[0].get_clim() == pytest.approx((-float(weight.abs().max()), float(weight.abs().max())))
    one = pictures.weight_templates(nn.Linear(16, 1))
    assert one.axes[0].get_title(loc="left") == "1 against 0"


def test_templates_of_colour_images_and_of_a_given_shape():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 5, 2))
    weight = model[1].weight.detach()
    shown = np.asarray(pictures.weight_templates(model).axes[1].images[0].get_array())  # (height, width, channels)
    np.testing.assert_allclose(shown, (0.5 + weight[1].reshape(3, 5, 5).permute(1, 2, 0) / weight.abs().max() / 2).numpy(), atol=1e-6)
    oblong = torch.zeros(7, 1, 4, 9), torch.zeros(7)
    assert pictures.weight_templates(nn.Linear(36, 2), oblong).axes[0].images[0].get_array().shape == (4, 9)


def test_curves_show_the_history():
    table = history().sample(frac=1, random_state=0)  # rows in any order
    ordered = table.sort_values("step", kind="stable")
    lines = {line.get_label(): line for line in pictures.loss(table).axes[0].get_lines()}
    losses = ordered["loss"].dropna().to_numpy()
    np.testing.assert_array_equal(lines["batch"].get_ydata(), losses)
    np.testing.assert_allclose(lines["batch, mean"].get_ydata(), (losses[1:] + losses[:-1]) / 2)
    np.testing.assert_array_equal(lines["batch, mean"].get_xdata(), np.arange(59))
    assert lines["validation"].get_ydata().tolist() == [1.25] * 6
    (rate,) = pictures.learning_rate(table).axes[0].get_lines()
    np.testing.assert_allclose(rate.get_ydata(), 0.1 * 0.9 ** np.arange(60))
    assert pictures.learning_rate(table, log=True).axes[0].get_yscale() == "log"
    assert pictures.loss({"step": [0, 1], "loss": [0.0, 0.0]}, log=False).axes[0].get_yscale() == "linear"


def test_the_gap_is_between_training_and_validation():
    axes = pictures.gap(history()).axes[0]
    training, validation = axes.get_lines()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy")
    np.testing.assert_allclose(training.get_ydata() - validation.get_ydata(), 0.1)
    assert axes.get_legend().get_texts()[0].get_text() == "gap, 0.1 at the end"
    assert pictures.gap(history(), metric="loss").axes[0].get_ylabel() == "loss"
    assert pictures.gap(history().drop(columns="epoch")).axes[0].get_xlabel() == "step (updates done)"


# --- what they refuse

POINTS = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pictures.weight_templates(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))), "has 2 nn.Linear, ReLU"),
        (lambda: pictures.weight_templates(nn.Linear(30, 2)), "are for linear classifiers of images.*30 inputs are no square"),
        (lambda: pictures.weight_templates(nn.Linear(16, 3), classes=["a", "b"]), "classes has 2 names, and the model tells 3 classes"),
        (lambda: pictures.decision_regions(nn.Linear(3, 2), (torch.zeros(4, 3), torch.zeros(4))), r"rows of two numbers.*\(4, 3\)"),
        (lambda: pictures.decision_regions(nn.Linear(2, 1), (POINTS[0], torch.randn(6))), "these targets are numbers to predict"),
        (lambda: pictures.confusion_matrix(nn.Linear(2, 2), (POINTS[0], torch.arange(6))), "labels go from 0 to 5, and the model tells 2"),
        (lambda: pictures.confusion_matrix(nn.Unflatten(1, (2, 1, 1)), POINTS), "needs a model that gives a score for each class"),
        (lambda: pictures.confusion_matrix(nn.Linear(2, 2), (torch.full((1, 2), torch.nan), torch.tensor([0]))), "not all finite"),
        (lambda: pictures.confusion_matrix(POINTS, nn.Linear(2, 2)), "confusion_matrix: model must be a torch.nn.Module, not tuple"),
        (lambda: pictures.confusion_matrix(nn.Linear(2, 2), POINTS[0]), r"confusion_matrix: test must be a pair \(inputs, targets\)"),
        (lambda: pictures.confusion_matrix(nn.Linear(2, 2), (POINTS[0], POINTS[1][:3])), "different numbers of rows"),
        (lambda: pictures.confusion_matrix(nn.Linear(2, 2), (POINTS[0][:0], POINTS[1][:0])), "test has no rows"),
        (lambda: pictures.confusion_matrix(nn.Linear(2, 2), POINTS, "ab"), "classes must be a list of names, one a class"),
        (lambda: pictures.gap({"step": [0], "train_loss": [1.0]}), "the history has step, train_loss"),
        (lambda: pictures.gap({"step": [0], "train_loss": [1.0], "valid_loss": [1.0]}, metric="r2"), "no column train_r2"),
        (lambda: pictures.loss({"step": [0, 1], "loss": [np.nan, np.inf]}), "loss holds no finite number"),
        (lambda: pictures.learning_rate({"step": [0], "loss": [1.0]}), "the history has no column lr; it has step, loss"),
        (lambda: pictures.loss({"loss": [1.0]}), "loss: history needs the column step"),
        (lambda: pictures.loss(3), "loss: history must be a table"),
    ],
)  # fmt: skip
def test_what_does_not_apply_is_told_in_a_sentence(call, words):
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_is_the_users_and_is_left_as_it_was():
    model = nn.Linear(3, 2).train()
    with pytest.raises(UserCodeError, match=r"the model failed on rows of shape \(2,\): RuntimeError"):
        pictures.confusion_matrix(model, POINTS)
    assert model.training


def test_a_gap_needs_both_in_one_row():
    with pytest.raises(UserError, match="holds no finite number"):
        pictures.gap({"step": [0, 1], "train_loss": [1.0, None], "valid_loss": [None, 1.0]})
    axes = pictures.gap({"step": [0, 1, 2], "train_loss": [1.0, 0.5, np.nan], "valid_loss": [1.0, 0.75, np.inf]}).axes[0]
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[1.0, 0.5], [1.0, 0.75]]


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (lambda model, optimiser: None, "no request of <lambda> is called 'optimiser'"),
        (lambda model, size=3: None, "no request of <lambda> is called 'size'"),
        (lambda model, *, size: None, "no request of <lambda> is called 'size'"),
        (lambda *model, **other: None, "no request of <lambda> is called 'other'"),
    ],
)
def test_a_signature_asks_for_what_there_is(signature, words):
    with pytest.raises(UserError, match=words):
        picture(signature)


# --- by name, and saved


def test_applicable_are_those_that_can_be_drawn():
    assert applicable() == []
    assert applicable(history=history()) == ["gap", "learning_rate", "loss"]
    assert applicable(history=history()[["step", "lr"]].dropna()) == ["learning_rate"]
    assert applicable(**images()) == ["confusion_matrix", "weight_templates"]
    assert applicable(**plane()) == ["confusion_matrix", "decision_regions"]
    assert applicable(**plane() | {"test": None}) == ["decision_regions"]


def test_draw_says_what_is_missing_and_takes_a_file(tmp_path):
    with pytest.raises(UserError, match="no picture is called 'confusion'; did you mean 'confusion_matrix'"):
        draw("confusion")
    with pytest.raises(UserError, match="confusion_matrix is drawn from model, test, which are missing"):
        draw("confusion_matrix", history=history())
    (tmp_path / "own.py").write_text(
        "from thalweg.core.canvas import label, sheet\n"
        "from thalweg.core.picture import picture\n\n"
        "@picture\n"
        "def widths(model, *, power=1):\n"
        '    """Lengths of the parameters."""\n'
        "    figure, (axes,) = sheet(4, 3)\n"
        "    axes.bar(range(2), [float(p.norm()) ** power for p in model.parameters()])\n"
        "    label(axes, 'Lengths', 'parameter', 'length')\n"
        "    return figure\n\n"
        "def plain(model): ...\n"
    )
    model = nn.Linear(2, 2)
    figure = draw(f"{tmp_path / 'own.py'}:widths", model=model, train=POINTS, power=2)
    assert figure.axes[0].patches[0].get_height() == pytest.approx(float(model.weight.detach().norm()) ** 2)
    with pytest.raises(UserError, match="is not a picture; decorate the function with @picture"):
        draw(f"{tmp_path / 'own.py'}:plain", model=model)


def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = pictures.learning_rate(history())
    settings = dict(matplotlib.rcParams)
    assert pictures.save(figure, tmp_path / "new" / "rate.PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    path = pictures.save(figure, str(tmp_path / "rate.svg"))
    assert ET.parse(path).getroot().tag.endswith("svg")
    assert dict(matplotlib.rcParams) == settings
    with pytest.raises(UserError, match=r"PNG or SVG, not pdf; name a file that ends in .png or .svg"):
        save(figure, tmp_path / "rate.pdf")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(UserError, match=r"taken\.svg cannot be written"):
        save(figure, tmp_path / "taken.svg")
    old = path.read_bytes()
    monkeypatch.setattr(figure, "savefig", lambda file, **how: [file.write(b"half"), 1 / 0])
    with pytest.raises(ZeroDivisionError):
        save(figure, path)
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "rate.svg", "taken.svg"]


def test_pyplot_is_never_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is now an error
    for name in PICTURES:
        draw(name, **available(name))
