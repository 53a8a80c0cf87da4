"""Traces: the lecture's numbers, paths equal to torch's, files of every kind, the command, and the page in a browser."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import chromium
import thalweg as tw
from thalweg.cli.tracing import folded
from thalweg.cli.tracing import trace as command
from thalweg.core import catalogue
from thalweg.errors import UserError
from thalweg.explain.lectures import LECTURES
from thalweg.explain.trace import Runner, follow
from thalweg.study.tracing import lecture, trace


def by_torch(function, start, optimizer, steps, **settings):
    """The path of torch's own class."""
    x = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    stepper, path = optimizer([x], **settings), [x.detach().numpy().copy()]
    for _ in range(steps):
        stepper.zero_grad()
        function(x).backward()
        stepper.step()
        path.append(x.detach().numpy().copy())
    return np.array(path)


# --- the lecture's numbers


def test_gd_on_the_unequal_bowl():
    found = trace("bowl", ["sgd[lr=0.1]"], steps=20)
    (path,) = found.paths.values()
    assert [f"{v:.6f}" for v in path[-1]] == ["-0.057646", "-0.000073"]
    np.testing.assert_allclose(path[:, 0], -5 * 0.8 ** np.arange(21), rtol=1e-12)
    assert path[0].tolist() == [-5.0, -2.0]


def test_gd_at_three_rates():
    found = lecture("gd-rates")
    assert found.paths["GD, lr 0.2"][-1].item() == 0.06046617599999997
    assert found.paths["GD, lr 0.05"][-1].item() == pytest.approx(10 * 0.9**10)
    assert found.paths["GD, lr 1.1"][-1].item() == pytest.approx(10 * 1.2**10)


def test_the_lectures_other_pictures():
    noisy = lecture("noisy-sgd")
    assert [len(path) - 1 for path in noisy.paths.values()] == [50, 1000, 50]
    stalled = noisy.paths["exponential, 1000 steps"]
    assert np.abs(stalled[-1] - stalled[200]).max() < 1e-6  # the rate is gone
    assert noisy.losses["exponential, 1000 steps"][-1] > 0.01
    down = lecture("saddle")
    assert all(losses[-1] < 0 for losses in down.losses.values())
    valley = lecture("valley").losses
    assert valley["momentum 0.5, lr 0.4"][-1] < 0.1 * valley["GD, lr 0.4"][-1]
    waves = lecture("x-cos").paths
    assert waves["GD, lr 0.2"][-1] == pytest.approx(7.28, abs=0.02)
    assert waves["GD, lr 2.0"][-1] < 0
    with pytest.raises(UserError, match="did you mean 'gd-rates'"):
        lecture("gd-rate")


# --- paths


@pytest.mark.parametrize(
    ("text", "kind", "settings"),
    [
        ("sgd[lr=0.001]", torch.optim.SGD, {"lr": 0.001}),
        ("momentum[lr=0.001]", torch.optim.SGD, {"lr": 0.001, "momentum": 0.9}),
        ("sgd[lr=0.001, momentum=0.5, nesterov=true]", torch.optim.SGD, {"lr": 0.001, "momentum": 0.5, "nesterov": True}),
        ("adam[lr=0.05, beta1=0.8]", torch.optim.Adam, {"lr": 0.05, "betas": (0.8, 0.999)}),
        ("rmsprop[lr=0.01]", torch.optim.RMSprop, {"lr": 0.01}),
        ("adagrad[lr=0.3]", torch.optim.Adagrad, {"lr": 0.3}),
        ("lbfgs", torch.optim.LBFGS, None),
    ],
)
def test_paths_are_those_of_torch(text, kind, settings):
    (path,) = trace("rosenbrock", [text], steps=30).paths.values()
    if settings is None:
        np.testing.assert_allclose(path[-1], [1, 1], atol=1e-3)
        return
    np.testing.assert_allclose(path, by_torch(tw.functions.rosenbrock, [-1.2, 1.0], kind, 30, **settings), rtol=1e-9)


@pytest.mark.parametrize("name", sorted(catalogue.shelf("optimizers")))
def test_every_rule_walks(name):
    found = trace("bowl", [name], steps=3)
    (path,) = found.paths.values()
    assert path.shape == (4, 2)
    assert np.isfinite(path).all()
    assert (path[-1] != path[0]).any()


def test_wrappers_schedules_rules_and_factories():
    halved = trace("bowl", ["sgd[lr=0.1, clip_norm=1]"], steps=1).paths.popitem()[1]
    assert np.linalg.norm(halved[1] - halved[0]) == pytest.approx(0.1)
    falling = trace("bowl", {"a": "sgd[lr=0.1, schedule=linear]", "b": tw.optimizers.sgd, "c": torch.optim.Adam}, steps=4, schedule=None)
    assert list(falling.paths) == ["a", "b", "c"]
    rates = np.array([1, 0.75, 0.5, 0.25]) * 0.1
    np.testing.assert_allclose(falling.paths["a"][:, 0], -5 * np.cumprod([1, *(1 - 2 * rates)]))
    everywhere = trace("bowl", ["sgd[lr=0.1]"], steps=4, schedule=lambda t: 1 - t / 4)
    np.testing.assert_array_equal(next(iter(everywhere.paths.values())), falling.paths["a"])
    averaged = trace("bowl", ["sgd[lr=0.1, ema=0.5]"], steps=3).paths.popitem()[1]  # the answer is the average
    assert (averaged[1] != trace("bowl", ["sgd[lr=0.1]"], steps=1).paths.popitem()[1][1]).any()


def test_noise_is_the_same_for_all_and_follows_the_seed():
    found = trace("bowl", {"a": "sgd[lr=0.1]", "b": "sgd[lr=0.1, weight_decay=0]"}, noise=1.0, steps=30)
    np.testing.assert_array_equal(found.paths["a"], found.paths["b"])
    other = trace("bowl", {"a": "sgd[lr=0.1]"}, noise=1.0, steps=30, seed=1)
    assert (other.paths["a"][1:] != found.paths["a"][1:]).all()
    flat = follow(
        lambda x: (0 * x).sum(), [0.0, 0.0], [Runner("gd", lambda m, s: torch.optim.SGD(m.parameters(), lr=1.0), 4000)], noise=2.0
    )
    steps = np.diff(flat.paths["gd"], axis=0)
    assert steps.std() == pytest.approx(2.0, rel=0.03)
    pushed = trace("bowl", {"a": "sgd[lr=0.1]"}, bias=0.5, steps=1).paths["a"]
    np.testing.assert_allclose(pushed[1], [-4 - 0.05, -1.2 - 0.05])
    assert found.losses["a"][1] == pytest.approx(float((found.paths["a"][1] ** 2 * [1, 2]).sum()))  # the function itself, without noise


def test_a_path_that_diverges_ends_in_nan():
    found = trace("rosenbrock", ["sgd[lr=0.01]", "adam"], steps=60)
    row = found.table().iloc[0]
    gone = int(row["diverged_at"])
    assert 0 < gone < 60
    assert np.isnan(found.paths["sgd (lr=0.01)"][gone:]).all()
    assert np.isfinite(found.paths["sgd (lr=0.01)"][:gone]).all()
    assert found.table().iloc[1]["diverged_at"] == -1
    assert isinstance(found.table(), pd.DataFrame)


def test_what_cannot_be_followed_is_said():
    for arguments, options, words in (
        (("bard", "sgd"), {}, "has 3 variables"),
        (("rosenbrok", "sgd"), {}, "did you mean 'rosenbrock'"),
        (("bowl", "sdg"), {}, "did you mean 'sgd'"),
        ((lambda x: x.sum(), "sgd"), {}, "needs a start"),
        ((lambda x: x, "sgd"), {"start": [0.0, 0.0]}, "must give one number"),
        ((lambda x: x.log().sum(), "sgd"), {"start": [0.0]}, "is -inf at the start"),
        ((lambda x: x.item(), "sgd"), {"start": [0.0]}, "must give one number"),
        (("bowl", "sgd"), {"steps": 0}, "between 1 and"),
        (("bowl", "sgd"), {"noise": -1.0}, "noise = -1"),
        (("bowl", ["sgd", "sgd"]), {}, "same name"),
        (("bowl", []), {}, "name a rule"),
        (("bowl", "sgd[dropout=0.1]"), {}, "no layers"),
        (("bowl", "lbfgs"), {"schedule": "cosine"}, "drives the rate"),
        ((3, "sgd"), {}, "follows a function"),
    ):
        with pytest.raises(UserError, match=words):
            trace(*arguments, **options)


# --- pictures and files


def test_pictures_fit_and_say_what_leaves():
    names = {
        f"{k}, a rule of a rather long name indeed, as they are": f"sgd[lr={lr}]"
        for k, lr in enumerate((1e-4, 2e-4, 1e-3, 2e-3, 5e-3, 0.1))
    }
    for found in (trace("rosenbrock", {**names, "a": "adam", "b": "lion"}, steps=20), lecture("gd-rates"), trace("x-cos", "sgd")):
        figure = found.picture()
        FigureCanvasAgg(figure).draw()
        box, size = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= size[0]
        assert box.y1 <= size[1]
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(texts) >= len(found.paths)
        lines = figure.axes[0].get_lines()[: 2 * len(found.paths) : 2]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines)
        assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines)  # also in grey
    assert "leaves the picture at step" in " ".join(t.get_text() for t in lecture("gd-rates").picture().legends[0].get_texts())


@pytest.mark.parametrize("form", ["png", "svg", "gif", "html"])
def test_files_of_every_kind(form, tmp_path):
    found = trace("rosenbrock", ["momentum[lr=1e-3]", "sgd[lr=0.01]"], steps=12)
    path = found.save(tmp_path / f"trace.{form}")
    again = trace("rosenbrock", ["momentum[lr=1e-3]", "sgd[lr=0.01]"], steps=12).save(tmp_path / f"again.{form}")
    assert path.read_bytes() == again.read_bytes()
    if form == "gif":
        with Image.open(path) as film:
            assert film.n_frames == 13
            film.seek(0)
            first = np.asarray(film.convert("RGB")).astype(int)
            film.seek(12)
            assert (np.abs(np.asarray(film.convert("RGB")) - first).max(-1) > 60).sum() > 300  # the paths have grown
    with pytest.raises(UserError, match="can be written"):
        found.save(tmp_path / "trace.bmp")


# --- the command


def invoke(*arguments):
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_rate_belongs_to_the_optimizer_before_it():
    assert folded(["rosenbrock", "-o", "momentum", "--lr", "1e-3", "-o", "adam"]) == ["rosenbrock", "-o", "momentum[lr=1e-3]", "-o", "adam"]
    assert folded(["--lr=0.1", "--optimizer=sgd", "--to", "x.png"]) == ["--lr", "0.1", "-o", "sgd", "--to", "x.png"]


def test_the_command_as_it_is_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("rosenbrock", "-o", "momentum", "--lr", "1e-3", "-o", "adam", "--to", "here/path.svg", "--to", "path.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "here/path.svg").read_text().startswith("<?xml")
    assert "momentum (lr=1e-3)" in done.output
    assert "adam" in done.output
    (tmp_path / "mine.py").write_text("def hill(x):\n    return -(x ** 2).sum()\n")
    drawn = invoke("mine.py:hill", "--lr", "0.5", "-o", "sgd", "-o", "sgd[lr=0.1]", "--start", "1, 1", "--steps", "2", "--json")
    paths = json.loads(drawn.output)["paths"]
    assert paths["sgd (lr=0.5)"] == [[1, 1], [2, 2], [4, 4]]
    assert paths["sgd (lr=0.1)"][1] == pytest.approx([1.2, 1.2])
    assert not (tmp_path / "outputs").exists()  # JSON alone writes nothing


def test_the_command_in_numbers_and_in_lectures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads(invoke("bowl", "-o", "sgd", "--lr", "0.1", "--steps", "20", "--json").output)
    assert found["paths"]["sgd (lr=0.1)"][-1] == pytest.approx([-0.0576460752, -7.31231688e-05])
    assert found["minimisers"] == [[0, 0]]
    for name in LECTURES:
        assert json.loads(invoke("--lecture", name, "--json").output)["paths"]
    assert "written to" in invoke("--lecture", "gd-rates").output
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"trace-gd-rates.png", "trace-gd-rates.html"}
    for arguments in ([], ["bowl", "--lecture", "valley"], ["bowl", "--to", "x.pdf"], ["bowl", "--start", "here"]):
        with pytest.raises(UserError):
            invoke(*arguments)


# --- the page


@pytest.mark.skipif(chromium.executable() is None, reason="no chromium on the PATH")
def test_the_slider_moves_the_paths(tmp_path):
    found = trace("rosenbrock", {"<b>momentum</b>": "momentum[lr=1e-3]", "gone": "sgd[lr=0.01]"}, steps=40)
    path = found.save(tmp_path / "trace.html")
    with chromium.page() as tab:
        for width, dark in ((1000, False), (400, True)):
            tab.open(path, width, dark=dark)
            assert tab.run("document.documentElement.scrollWidth") <= width
            assert tab.run("document.getElementById('now').textContent") == "40"
            whole = tab.run("document.getElementById('p0').getAttribute('d').split('L').length")
            assert whole == 41
            tab.run("(s => { s.value = 10; s.dispatchEvent(new Event('input')) })(document.getElementById('step'))")
            assert tab.run("document.getElementById('p0').getAttribute('d').split('L').length") == 11
            shown = tab.run("document.getElementById('x0').textContent").split(", ")
            assert [float(v) for v in shown] == pytest.approx(found.paths["<b>momentum</b>"][10].tolist(), rel=1e-4)
            assert float(tab.run("document.getElementById('f0').textContent")) == pytest.approx(
                found.losses["<b>momentum</b>"][10], rel=1e-4
            )
        tab.run("(s => { s.value = 37; s.dispatchEvent(new Event('input')) })(document.getElementById('step'))")
        tab.click("#play")
        tab.wait("document.getElementById('now').textContent === '40'")
        tab.wait("document.getElementById('play').textContent === 'Play'")
        assert tab.run("document.querySelector('tbody th').textContent") == "<b>momentum</b>"
        ends = tab.run("(r => [r.width, r.height])(document.getElementById('e0').getBoundingClientRect())")
        assert min(ends) > 4
        assert tab.errors == []
        assert all(url.startswith(("data:", "file:")) for url in tab.requests)
