"""One run: it is the loop a user would write, goes on bit by bit, ends well, and says what is wrong."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

import loops
import thalweg as tw
from held import held
from samples import sample
from thalweg.cli import commands
from thalweg.engine.noise import seed_step
from thalweg.study.training.home import read_checkpoint
from thalweg.study.training.run import Run

CPU = torch.device("cpu")


def blobs(rows: int = 240, features: int = 6, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    return torch.randn(rows, features, generator=generator) + 1.5 * F.one_hot(y, features).float(), y


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm1d(16), nn.Linear(16, 3))


def task(**more) -> tw.Problem:
    given = {"model": net, "loss": F.cross_entropy, "train": blobs(), "valid": blobs(seed=1), "test": blobs(seed=2), "metrics": "accuracy"}
    return tw.Problem(**{**given, **more})


def states_equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the loop a user would write


@pytest.mark.parametrize(
    ("rule", "config"),
    [
        ("adam", {}), ("adamw", {"lr": 0.01, "weight_decay": 0.1}), ("momentum", {"lr": 0.02, "clip_norm": 0.5}), ("muon", {"lr": 0.01}),
        ("prodigy", {"d0": 1e-3}), ("adam", {"label_smoothing": 0.1, "dropout": 0.4}), ("sgd", {"lr": 0.1, "sam": 0.05}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_is_the_loop(rule, config, accumulate):
    if accumulate > 1 and "sam" in config:
        pytest.skip("the loop of the oracle takes the second gradient whole")
    s = sample("dropout")
    cosine = tw.schedules.cosine(total=40, floor=0.1, warmup=5)
    hand = loops.train(
        s.model, s.loss, s.data, rule, {**config, "schedule": cosine}, steps=40, batch_size=s.batch_size, accumulate=accumulate
    )
    problem = tw.Problem(lambda: copy.deepcopy(s.model), s.loss, train=s.data, valid=s.data, test=s.data)
    run = tw.train(problem, rule, steps=40, batch_size=s.batch_size, schedule=cosine, accumulate=accumulate, every=1, **config)
    for name, tensor in hand.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.history["loss"].dropna(), hand.losses, rtol=1e-9)


def test_a_run_is_the_lane_of_a_sweep():
    s = sample("batch-norm")
    problem = tw.Problem(lambda: copy.deepcopy(s.model), s.loss, train=s.data, valid=s.data, test=s.data)
    run = tw.train(problem, "adamw", lr=0.01, steps=30, batch_size=s.batch_size, seed=3)
    lane = tw.sweep(s.model, s.loss, s.data, optimizer="adamw", configs=[{"lr": 0.01}], steps=30, batch_size=s.batch_size, seed=3)
    for name, tensor in lane.state_dict(0).items():
        torch.testing.assert_close(run.model.state_dict()[name].double(), tensor.double(), rtol=1e-10, atol=1e-12)


def test_any_optimizer_of_torch_trains():
    ours = tw.train(task(), "momentum", lr=0.05, epochs=2)
    theirs = tw.train(task(), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), epochs=2)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert tw.train(task(), torch.optim.Adam, lr=0.01, epochs=1).status == "done"
    assert tw.train(task(), torch.optim.LBFGS, steps=2).spec["batch_size"] == 240


def test_parts_of_epochs_schedules_and_the_batch_scaling_rule():
    run = tw.train(task(), "sgd", lr=0.1, epochs=1.5, batch_size=64, schedule="linear", warmup=2, scale_with_batch=32, every=1)
    assert run.steps == 6
    rates = run.history["lr"].dropna().to_numpy()
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.15, 0.1, 0.05], atol=1e-12)
    decay = tw.train(task(), "adamw", steps=4, every=1, schedule={"weight_decay": lambda t: 0.5**t, "lr": "cosine"})
    assert decay.spec["schedules"] == {"weight_decay": "<lambda>", "lr": "cosine(total=4)"}


def test_averages_answer_for_the_points():
    run = tw.train(task(), "schedule_free_sgd", lr=0.1, epochs=3)
    assert run.test["accuracy"] == pytest.approx(tw.core.problem.accuracy(run.model(blobs(seed=2)[0]), blobs(seed=2)[1]).item())
    assert run.test["accuracy"] > 0.6


def test_the_state_of_the_random_numbers_is_left_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    tw.train(task(train=loader(0)), "adam", epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


# --- early stopping, divergence, precision


def test_early_stopping_answers_with_the_best_weights():
    noisy = (torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)  # nothing to be learnt
    run = tw.train(task(train=noisy), "adam", lr=0.03, epochs=200, batch_size=20, early_stopping=3)
    assert run.status == "stopped early"
    assert "without a better validation score" in run.message
    scores = run.history[["step", "valid_accuracy"]].dropna()
    assert run.best["score"] == scores["valid_accuracy"].max()
    assert run.best["step"] == scores["step"][scores["valid_accuracy"].idxmax()]
    assert run.steps == run.best["step"] + 3 * 3
    assert tw.core.problem.accuracy(run.model(blobs(seed=1)[0]), blobs(seed=1)[1]).item() == pytest.approx(run.best["score"])


def test_a_run_that_diverges_says_so_and_keeps_finite_weights():
    run = tw.train(task(), "sgd", lr=1e8, epochs=2)
    assert run.status == "diverged"
    assert "take a lower learning rate" in run.message
    assert not run.test
    assert all(t.isfinite().all() for t in run.state_dict().values())


def test_double_and_bf16():
    assert tw.train("diabetes-linear", "sgd", steps=3, precision="double").model[1].weight.dtype == torch.float64
    full, half = (tw.train(task(), "adam", lr=0.01, epochs=3, precision=p) for p in (None, "bf16"))
    assert all(t.dtype != torch.bfloat16 for t in half.state_dict().values())
    assert abs(full.test["accuracy"] - half.test["accuracy"]) < 0.05
    assert any("bfloat16" in note for note in half.notes)
    assert not states_equal(full.state_dict(), half.state_dict())


class Viewed(nn.Module):
    def __init__(self, flat):
        super().__init__()
        self.conv, self.out, self.flat = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * 36, 2), flat

    def forward(self, x):
        return self.out(self.flat(self.conv(x)))


@pytest.mark.parametrize(("flat", "layout"), [(lambda y: y.flatten(1), "channels last"), (lambda y: y.view(len(y), -1), "as given")])
def test_images_have_the_channels_last_where_the_model_takes_it(flat, layout):
    data = torch.randn(40, 2, 6, 6), torch.arange(40) % 2
    problem = tw.Problem(lambda: Viewed(flat), F.cross_entropy, train=data, valid=data, test=data)
    run = tw.train(problem, steps=5)
    assert run.spec["layout"] == layout
    plain = tw.train(problem, steps=5, layout="as given")
    for a, b in zip(run.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- going on, bit by bit


class Stopped(Exception):
    """What stands for a process that vanishes."""


def vanish(at):
    def watch(loop):
        if loop.t == at:
            raise Stopped

    return watch


class Rows(torch.utils.data.Dataset):
    """Rows with noise from all three generators that data sets use."""

    def __init__(self):
        self.X, self.y = blobs(90)

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i] + 0.1 * torch.randn(6) + 0.1 * random.random() + 0.1 * float(np.random.rand()), self.y[i]


def loader(workers):
    return torch.utils.data.DataLoader(Rows(), batch_size=16, shuffle=True, num_workers=workers)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "schedule_free_adamw", "lbfgs", "muon", "adam[ema=0.9]"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_goes_on_bit_by_bit(optimizer, stream, tmp_path):
    problem = task(train=loader(0)) if stream else task()
    how = {"epochs": 5, "early_stopping": 4} if optimizer == "lbfgs" else {"epochs": 5, "schedule": "cosine", "early_stopping": 4}
    whole = tw.train(problem, optimizer, **how)
    at = random.randrange(2, whole.steps)
    with pytest.raises(Stopped):
        tw.train(problem, optimizer, out=tmp_path / "r", save_every=3, watch=vanish(at), **how)
    again = tw.train(problem, optimizer, out=tmp_path / "r", **how)
    assert states_equal(again.state_dict(), whole.state_dict()), f"stopped at step {at}"
    assert again.test == whole.test
    shown = [c for c in whole.history if c != "seconds"]
    np.testing.assert_array_equal(again.history[shown].to_numpy(float), whole.history[shown].to_numpy(float))
    assert tw.train(problem, optimizer, out=tmp_path / "r", watch=vanish(-1), **how).test == whole.test  # it has ended: nothing is trained


PROGRAM = """
import torch, sys
from torch import nn
import thalweg as tw
sys.path.insert(0, {tests!r})
from test_train import Rows, blobs, net
def problem():
    train = torch.utils.data.DataLoader(Rows(), batch_size=16, shuffle=True, num_workers=2)
    data = {{"train": train, "valid": blobs(seed=1), "test": blobs(seed=2)}}
    return tw.Problem(net, nn.functional.cross_entropy, metrics="accuracy", name="own", **data)
"""


ARGUMENTS = (
    "train", "own.py:problem", "-o", "momentum", "--lr", "0.02", "--dropout", "0.4", "--schedule", "cosine", "--epochs", "12",
    "--save-every", "5", "--quiet",
)  # fmt: skip

# At a step, after what is saved there.
PLACE = """
from thalweg.cli.terminal import Training

genuine = Training.__call__

def after(training, loop):
    genuine(training, loop)
    if loop.t == {step}:
        hold()

Training.__call__ = after
"""


def ended(folder, *more):
    """What the command says, called to its end in this process; the folder lies where it is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        done = CliRunner().invoke(commands, [*ARGUMENTS, "--out", str(folder), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def started(folder, step):
    """The command in a process of its own, which holds still at a step; with the threads of this process."""
    threads = str(torch.get_num_threads())
    return held(PLACE.format(step=step), [*ARGUMENTS, "--out", str(folder)], folder, OMP_NUM_THREADS=threads)


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    (place / "own.py").write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    ended(place / "whole")
    return place


@pytest.mark.skipif(os.name != "posix", reason="process groups and SIGKILL are POSIX's")
def test_a_killed_run_ends_as_if_nothing_had_been(own):
    step = random.choice([8, 23, 44])  # between two checkpoints
    with started(own / "killed", step) as process:
        process.holds()
        process.kill()
    assert 0 < step - read_checkpoint(own / "killed" / "checkpoint.pt")["t"] < 5
    ended(own / "killed")
    assert states_equal(weights(own / "killed"), weights(own / "whole"))


@pytest.mark.skipif(os.name != "posix", reason="process groups and SIGINT are POSIX's")
def test_ctrl_c_ends_the_step_saves_and_says_how_to_go_on(own):
    with started(own / "stopped", 8) as process:
        process.holds()
        assert process.interrupt() == 130, process.said  # the workers of the loader are interrupted too
    assert "Traceback" not in process.said
    run = Run.open(own / "stopped")
    assert (run.status, run.steps) == ("interrupted", 8)
    assert "Interrupted after step 8 of 72; the same command goes on from" in process.said
    assert (own / "stopped" / "report.html").is_file()
    assert json.loads(ended(own / "stopped", "--json"))["status"] == "done"
    assert states_equal(weights(own / "stopped"), weights(own / "whole"))


# --- what goes wrong


def test_a_worker_that_dies_leaves_a_sentence_and_the_checkpoint(tmp_path):
    class Dies(Rows):
        def __getitem__(self, i):
            if (tmp_path / "die").exists():
                os._exit(3)
            return super().__getitem__(i)

    flow = torch.utils.data.DataLoader(Dies(), batch_size=16, num_workers=1)

    def watch(loop):
        if loop.t == 8:
            (tmp_path / "die").touch()

    with pytest.raises(tw.UserError, match="the data gave an error at step"):
        tw.train(task(train=flow), "sgd", epochs=20, out=tmp_path / "r", save_every=2, watch=watch)
    assert read_checkpoint(tmp_path / "r" / "checkpoint.pt")["t"] >= 8


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "text", "code", "another"])
def test_a_damaged_checkpoint_is_told(how, tmp_path):
    out = tmp_path / "r"
    tw.train(task(), "adam", epochs=1, out=out)
    path = out / "checkpoint.pt"
    raw = path.read_bytes()
    if how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "flipped":
        place = raw.index(task().model().state_dict()["4.weight"].numpy().tobytes()[:0] or raw[len(raw) // 2 : len(raw) // 2 + 8])
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("weights")
    elif how == "code":
        torch.save({"t": 1, "model": nn.Linear(1, 1), "optimizer": {}, "pins": {}}, path)
    else:
        torch.save({"weights": torch.zeros(3)}, path)
    said = "is not a checkpoint of thalweg" if how == "code" else "not the checkpoint of a run" if how == "another" else "is damaged"
    with pytest.raises(tw.UserError, match=f"checkpoint.pt {said}" if how != "another" else said):
        tw.train(task(), "adam", epochs=1, out=out)


def test_a_checkpoint_of_another_model_is_told(tmp_path):
    tw.train(task(), "adam", epochs=1, out=tmp_path / "a")
    tw.train(task(model=lambda: nn.Sequential(nn.Linear(6, 3))), "adam", epochs=1, out=tmp_path / "b")
    (tmp_path / "a" / "checkpoint.pt").write_bytes((tmp_path / "b" / "checkpoint.pt").read_bytes())
    with pytest.raises(
        tw.UserError, match=r"of another model: it has 0\.weight of shape \(3, 6\), and this one has 0\.weight of shape \(16, 6\)"
    ):
        tw.train(task(), "adam", epochs=1, out=tmp_path / "a")


def test_another_run_in_the_folder_is_refused(tmp_path):
    tw.train(task(), "adam", epochs=1, out=tmp_path)
    with pytest.raises(tw.UserError, match=r"holds another run .*seed is 0 there and 1 here"):
        tw.train(task(), "adam", epochs=1, seed=1, out=tmp_path)
    with pytest.raises(tw.UserError, match=r"holds another run .*fingerprint"):
        tw.train(task(train=blobs(seed=9)), "adam", epochs=1, out=tmp_path)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    real, full = os.replace, []

    def replace(a, b):
        if full and str(b).endswith("checkpoint.pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)

    def watch(loop):
        if loop.t == 9:
            full.append(True)

    with pytest.raises(tw.UserError, match="cannot be written: No space left on device; choose another place, or make room"):
        tw.train(task(), "adam", epochs=4, out=tmp_path, save_every=3, watch=watch)
    assert read_checkpoint(tmp_path / "checkpoint.pt")["t"] == 9
    assert not list(tmp_path.glob(".checkpoint*"))
    full.clear()
    assert states_equal(tw.train(task(), "adam", epochs=4, out=tmp_path).state_dict(), tw.train(task(), "adam", epochs=4).state_dict())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"optimizer": "adm"}, "no optimizer is called 'adm'; did you mean 'adam'"),
        ({"lrr": 0.1}, "adam has no 'lrr'; did you mean 'lr'"),
        ({"lr": -1.0}, "lr"),
        ({"lr": [0.1, 0.2]}, "a run takes one; to try several, use sweep or compare"),
        ({"optimizer": "adam[lr=0.1]", "lr": 0.2}, "lr is given twice"),
        ({"optimizer": "lbfgs", "momentum": 0.9}, "no setting of lbfgs is called 'momentum'"),
        ({"optimizer": lambda p: 3}, "must give a torch.optim.Optimizer"),
        ({"schedule": "cosin"}, "no schedule is called 'cosin'"),
        ({"schedule": "cosine", "warmup": 10**6}, "warmup = 1000000 must be a whole number of steps"),
        ({"schedule": lambda t: t, "warmup": 3}, "warmup goes with a schedule's name"),
        ({"epochs": 1, "steps": 3}, "give steps or epochs, not both"),
        ({"epochs": -1}, "epochs = -1 must be a positive number"),
        ({"steps": 1.5}, "steps = 1.5 must be a positive whole number"),
        ({"batch_size": 1000}, "batch_size = 1000 must be a whole number between 1 and the 240"),
        ({"precision": "half"}, "precision = 'half'"),
        ({"valid": 0, "early_stopping": 2}, "early stopping watches a validation score"),
        ({"device": "cda"}, "no device is called 'cda'"),
        ({"scale_with_batch": 0}, "scale_with_batch = 0 must be the batch size"),
        ({"tensorboard": True}, "name one with out="),
        ({"model": "mlp"}, "model: set these in the Problem itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_told_before_work_starts(arguments, said):
    with pytest.raises(tw.UserError, match=said):
        tw.train(task(), **{"optimizer": "adam", **arguments})


def test_a_wrong_input_shape_and_a_broken_step_are_told():
    with pytest.raises(tw.UserError, match="the model failed on train inputs of shape"):
        tw.train(task(train=blobs(features=5)), "adam")
    wrong = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*blobs(features=5)), batch_size=8)
    with pytest.raises(tw.UserError, match=r"step 0 failed on a batch of shapes \(8, 5\), \(8,\)"):
        tw.train(task(train=wrong), "adam", epochs=1, valid=0)


# --- the published numbers, and what is shown


def test_advertising(data_folder):
    best = {"intercept": 2.93888937, "TV": 0.0457646455, "radio": 0.188530017, "newspaper": -0.00103749304}
    where = {"all_rows": True, "data": data_folder}
    for seed in range(3):
        assert tw.train("advertising-linear", "sgd", lr=1e-5, seed=seed, **where).final("train_loss") > 3.5
    for how in ({"optimizer": "lbfgs"}, {"optimizer": "sgd", "lr": 0.1, "standardize": True, "full_batch": True}):
        run = tw.train("advertising-linear", **how, **where)
        assert run.final("train_loss") == pytest.approx(2.7841263145109365, abs=5e-5)
        assert run.coefficients == pytest.approx(best, abs=5e-5)


def test_the_command_shows_scores_pictures_and_the_page(tmp_path):
    out = tmp_path / "run"
    arguments = [
        "train",
        "breast-cancer-logistic",
        "-o",
        "adamw[lr=0.01]",
        "--l1",
        "0.001",
        "--epochs",
        "3",
        "--out",
        str(out),
        "--pictures",
        "svg",
    ]
    done = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Test accuracy" in done.output
    assert "Validation accuracy, last" in done.output
    page = (out / "report.html").read_text()
    assert "Confusion matrix" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert {p.name for p in (out / "pictures").iterdir()} >= {"confusion_matrix.svg", "gap.svg", "learning_rate.svg", "loss.svg"}
    shown = CliRunner().invoke(commands, ["show", str(out), "--json"], catch_exceptions=False)
    again = CliRunner().invoke(commands, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["test"] == json.loads(again.stdout)["test"]
    assert CliRunner().invoke(commands, ["report", str(out), "--to", str(tmp_path / "p.html")]).exit_code == 0
    assert (tmp_path / "p.html").is_file()


def test_torch_reads_the_optimizer_of_a_checkpoint(tmp_path):
    tw.train(task(), "adamw", lr=0.01, epochs=1, out=tmp_path, no_decay=["*.bias"])
    state = read_checkpoint(tmp_path / "checkpoint.pt")
    model = net()
    groups = [{"params": [p for n, p in model.named_parameters() if n.endswith("bias") == last]} for last in (False, True)]
    theirs = torch.optim.AdamW(groups if len(state["optimizer"]["param_groups"]) == 2 else model.parameters())
    theirs.load_state_dict(state["optimizer"])
    assert [g["weight_decay"] for g in theirs.param_groups] == [0.01, 0.0]
    assert all("exp_avg" in s for s in theirs.state.values())


def test_rows_for_validation_are_left_out_where_none_are_asked(tmp_path):
    run = tw.train("digits-two-layer", "adam", steps=3, valid=0, out=tmp_path)
    assert any("1437 training" in note for note in run.notes)
    assert not [c for c in run.history if c.startswith("valid_")]


def test_event_files_hold_the_curves(tmp_path):
    pytest.importorskip("tensorboardX")
    tw.train(task(), "adam", epochs=1, out=tmp_path, tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    raw = events.read_bytes()
    assert all(tag in raw for tag in (b"train/loss", b"valid/accuracy", b"test/accuracy", b"train/lr"))


def test_noise_of_a_step_follows_from_seed_and_step():
    first, seen = [], []
    problem = task(model=lambda: Drawn(first))
    tw.train(problem, "sgd", steps=3, seed=5, valid=0)
    with torch.random.fork_rng():
        for t in range(3):
            seed_step(5, t, CPU)
            seen.append(torch.rand(()).item())
    assert first[-3:] == seen


class Drawn(nn.Module):
    def __init__(self, into):
        super().__init__()
        self.into, self.out = into, nn.Linear(6, 3)

    def forward(self, x):
        if self.training:
            self.into.append(torch.rand(()).item())
        return self.out(x)
