"""Probes inside a run: what they write, what they leave alone, and what they say to nonsense."""

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import thalweg as tw
from thalweg import UserError
from thalweg.cli import commands
from thalweg.explain.inside import Inside, numbers


def run(**given):
    return tw.train("digits-mlp", "momentum", lr=0.05, dropout=0.2, steps=30, **given)


def test_a_run_is_the_same_with_probes_on():
    plain, probed = run(), run(probes=["default", "spectrum", "critical_point"], probe_every=10)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, probed.state_dict()[name]), name
    rows = probed.history.dropna(subset=["sharpness_value"])
    assert rows["step"].tolist() == [1, 10, 20, 30]
    assert set(plain.history) < set(probed.history)
    kept = probed.history.dropna(subset=["loss"])[["step", "loss"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, plain.history.dropna(subset=["loss"])[["step", "loss"]].reset_index(drop=True))
    for name in ("gradients_dead", "noise_scale", "spectrum_largest"):
        assert rows[name].notna().all(), name
    assert (rows["sharpness_value"] > 0).all()
    assert plain.notes == probed.notes


def test_the_measured_is_what_the_probe_gives():
    seen = []

    def largest(model, loss, data, optimizer):
        seen.append((optimizer.param_groups[0]["lr"], len(data[0])))
        return {"weight": max(float(p.detach().abs().max()) for p in model.parameters()), "kind": "text", "names": ("a", "b")}

    probed = run(probes=[largest], probe_every=15)
    assert seen == [(0.05, 128)] * 3
    rows = probed.history.dropna(subset=["largest_weight"])
    last = max(float(p.detach().abs().max()) for p in probed.model.parameters())
    assert rows["largest_weight"].iloc[-1] == pytest.approx(last)
    assert set(rows["largest_names"]) == {2.0}
    assert "largest_kind" not in rows


def test_measurements_go_on_with_the_run(tmp_path):
    done = []

    def stop(loop):
        done.append(loop.t)
        if loop.t == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(probes=["gradients"], probe_every=10, out=tmp_path / "run", save_every=5, watch=stop)
    whole = run(probes=["gradients"], probe_every=10, out=tmp_path / "run")
    assert whole.history.dropna(subset=["gradients_loss"])["step"].tolist() == [1, 10, 20, 30]
    again = tw.Run.open(tmp_path / "run")
    assert again.history.dropna(subset=["gradients_loss"])["step"].tolist() == [1, 10, 20, 30]
    for name, tensor in run().state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])


@pytest.mark.parametrize(
    ("steps", "first"),
    # a first measurement is guessed at 25 gradients of 4 batches, 100 steps; a probe's part is 2 % of what is done and of a quarter of what
    # is to come, and they are as much where t - 1 + (steps - t) / 4 = 5000
    [(6000, 4668), (12_000, 2668), (24_000, 6)],
)
def test_by_itself_it_measures_as_time_allows(steps, first):
    inside = Inside(["sharpness", "gradients"])
    inside._measure = lambda name, loop: {f"{name}_x": 1.0}
    rows = []
    for t in range(1, steps + 1):
        source = SimpleNamespace(batch_size=32, per_epoch=34, streams=False)
        inside(SimpleNamespace(t=t, seconds=float(t), records=[], measurements=rows, source=source, settings=SimpleNamespace(steps=steps)))
    sharp = next(row for row in rows if "sharpness_x" in row)
    assert (sharp["step"], sharp["epoch"]) == (first, first / 34)
    assert rows[0]["step"] == min(first, 6)  # gradients are guessed to cost a fifth of it
    assert "gradients_x" in rows[0]


def test_what_does_not_apply_is_said_once_and_stops_nothing():
    def refuses(model, loss, data):
        raise UserError("it takes another model")

    found = run(probes=[refuses, "gradients"], probe_every=10)
    assert found.status == "done"
    assert [note for note in found.notes if "probe" in note] == ["the probe refuses did not apply: it takes another model"]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 3), torch.randn(64)), batch_size=8)
    problem = tw.Problem(lambda: torch.nn.Linear(3, 1), lambda out, y: (out[:, 0] - y).square().mean(), train=loader)
    streamed = tw.train(problem, "sgd", lr=0.01, steps=5, valid=0, probes=["gradients"], probe_every=1)
    assert any("DataLoader" in note for note in streamed.notes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"probes": ["sharpnes"]}, "no probe of a model in training is called 'sharpnes'; did you mean 'sharpness'"),
        ({"probes": ["gap"]}, "no probe of a model in training is called 'gap'"),
        ({"probes": [3]}, r"a probe is a function \(model, loss, data, ...\), not int"),
        ({"probes": [lambda model: 1.0]}, "is not a probe of a model in training: it must take model, loss, data"),
        ({"probes": ["noise"], "probe_every": 0}, "probe_every = 0 must be a whole number of steps of at least 1"),
        ({"probe_every": 5}, "say what as well, such as probes="),
    ],
)
def test_nonsense_is_refused_before_work_starts(given, said):
    with pytest.raises(UserError, match=said):
        run(**given)


def test_an_answer_is_numbers():
    assert numbers(2) == {"": 2.0}
    assert numbers({"a": True, "b": math.inf, "c": [1], "d": ("x",), "e": (1.0, 2.0)}) == {"a": 1.0, "b": math.inf, "d": 1.0}
    with pytest.raises(UserError, match="a probe answers with a dataclass, a mapping or a number, not with str"):
        numbers("text")


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["train", "digits-mlp", "-o", "sgd", "--lr", "0.1", "--steps", "20", "--probe", "sharpness", "--probe-every", "10", "--json"]
    done = CliRunner().invoke(commands, asked, catch_exceptions=False)
    assert json.loads(done.output)["status"] == "done"
    table = pd.read_csv(tmp_path / "outputs" / "digits-mlp-sgd" / "measurements.csv")
    assert table["step"].tolist() == [1, 10, 20]
    assert (table["sharpness_stable_rate"] > 0).all()
