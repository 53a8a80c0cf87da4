"""The contract of the shelf `optimizers`, held by every rule by being there; and of the declarations it is written in."""

from __future__ import annotations

import inspect
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap
from torch.utils._pytree import tree_map

import thalweg as tw
from loops import oracle
from thalweg.core import Choice, Count, Decay, Flag, Fraction, GradientRate, Penalty, Rate, Scale, Threshold, catalogue, rule, when, zeros
from thalweg.core.domain import Domain, domain_of
from thalweg.core.rule import Rule
from thalweg.engine.bound import Bound, Layout, bind, resolve, structure_of
from thalweg.optimizers import adagrad, adam, adamw, momentum, nesterov, rmsprop, sgd

RULES = catalogue.shelf("optimizers")
NAMES = sorted(RULES)
TAKING_GRADIENTS = [name for name in NAMES if RULES[name].gradient]
DOMAINS = {
    a.__metadata__[0].name: domain_of(a)
    for a in (Rate, GradientRate, Scale, Decay, Fraction, Penalty, Threshold, Count, Flag, tw.core.Epsilon)
}
SHAPES = ((3, 2), (4,))


def bound_to(name: str, *configs: dict[str, Any], dtype: torch.dtype = torch.float64) -> Bound:
    layout = Layout(tuple("ab"), tuple(torch.Size(shape) for shape in SHAPES), dtype)
    return bind(RULES[name], [resolve(RULES[name], config, ()) for config in configs or ({},)], (), layout)


def given_to(bound: Bound, t: int, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(t)
    return {
        "t": t,
        "loss": torch.tensor(1.0 / t, dtype=dtype),
        "noise": torch.randn(10, generator=generator, dtype=dtype),
        "x0": torch.ones(10, dtype=dtype),
        "weights": bound.layout.weights("cpu"),
    }


def walk(bound: Bound, hypers: dict[str, Any], steps: int, dtype: torch.dtype, slope=lambda x, t: x) -> tuple[torch.Tensor, Any]:
    """Steps of a rule from ones, under the gradient slope(x, t)."""
    x = torch.ones(10, dtype=dtype)
    states = bound.start(x, hypers)
    for t in range(1, steps + 1):
        x, states = bound.step(x, slope(x, t), states, hypers, given_to(bound, t, dtype))
    return x, states


def wobble(x: torch.Tensor, t: int) -> torch.Tensor:
    """A gradient that changes in size and sign."""
    return torch.linspace(-1, 2, 10, dtype=x.dtype) * math.cos(t) + 0.1 * x


def numbers(bound: Bound, config: dict[str, Any]) -> dict[str, float]:
    full = resolve(bound.rule, config, ())
    return {name: full[name] for name in bound.data}


# --- every rule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_modifies_nothing_that_it_is_given(name, dtype):
    bound = bound_to(name, *oracle(name).lanes[:1], dtype=dtype)
    hypers = numbers(bound, dict(oracle(name).lanes[0]))
    x, states = walk(bound, hypers, 2, dtype, wobble)
    g, given = wobble(x, 3), given_to(bound, 3, dtype)
    before = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, (x, g, states, given))
    bound.step(x, g, states, hypers, given)
    after = (x, g, states, given)
    assert all(_same(a, b) for a, b in zip(_leaves(before), _leaves(after), strict=True))


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def _leaves(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_flatten(tree)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_keeps_shape_and_dtype(name, dtype):
    bound = bound_to(name, dtype=dtype)
    x, states = walk(bound, numbers(bound, {}), 3, dtype, wobble)
    assert x.shape == (10,)
    assert {v.dtype for v in _leaves((x, states))} == {dtype}
    assert set(states) == set(bound.states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in NAMES if RULES[name].batched])
def test_lanes_of_a_vmapped_step_equal_their_own(name, dtype):
    lanes = [dict(lane) for lane in oracle(name).lanes]
    kinds = [structure_of(RULES[name], {**{n: h.default for n, h in RULES[name].hypers.items()}, **lane}, ()) for lane in lanes]
    most = max(kinds, key=kinds.count)  # lanes of one structure, as a fleet has them
    lanes = [lane for lane, kind in zip(lanes, kinds, strict=True) if kind == most]
    together = bound_to(name, *lanes, dtype=dtype)
    rows = [numbers(together, lane) for lane in lanes]
    columns = {n: torch.tensor([row[n] for row in rows], dtype=torch.float64) for n in rows[0]}
    X = torch.ones(len(lanes), 10, dtype=dtype)
    states = vmap(together.start)(X, columns)
    for t in range(1, 6):
        given = given_to(together, t, dtype)
        step = lambda x, g, s, h, given=given: together.step(x, g, s, h, given)  # noqa: E731
        X, states = vmap(step)(X, vmap(lambda x, t=t: wobble(x, t))(X), states, columns)
    assert X.dtype == dtype
    for k, row in enumerate(rows):
        x, _ = walk(bound_to(name, lanes[k], dtype=dtype), row, 5, dtype, wobble)
        close = 1e-12 if dtype is torch.float64 else 1e-5
        torch.testing.assert_close(X[k], x, rtol=close, atol=close)


@pytest.mark.parametrize("name", TAKING_GRADIENTS)
def test_a_quadratic_falls_at_the_default_rate(name):
    bound = bound_to(name)
    x, _ = walk(bound, numbers(bound, {}), 200, torch.float64)
    assert 0 <= x.norm() < torch.ones(10).norm()
    assert (x < 1).all()


@pytest.mark.parametrize("name", TAKING_GRADIENTS)
def test_weight_decay_pulls_to_zero_where_the_gradient_is_zero(name):
    bound = bound_to(name, {"weight_decay": 0.5})
    hypers = numbers(bound, {"weight_decay": 0.5})
    x, _ = walk(bound, hypers, 3, torch.float64, lambda x, t: torch.zeros_like(x))
    assert (x < 1).all()
    if RULES[name].decay == "decoupled":
        torch.testing.assert_close(x, torch.full_like(x, (1 - hypers["lr"] * 0.5) ** 3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_names_its_source_and_year(name):
    module = inspect.getdoc(inspect.getmodule(RULES[name].function)) or ""
    assert RULES[name].doc.strip()
    assert re.search(r"\b(19|20)\d\d\b", RULES[name].doc + module), f"{name} should name where it comes from, with the year"


@pytest.mark.parametrize("name", NAMES)
def test_defaults_lie_in_their_domains(name):
    for hyper in RULES[name].hypers.values():
        assert hyper.domain.check(hyper.default, hyper.name) == hyper.default


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_hyperparameter_is_told(name):
    first = next(iter(RULES[name].hypers))
    with pytest.raises(tw.UserError, match=rf"{name} has no '{first}x'.*{first}"):
        RULES[name].check({first + "x": 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_values_outside_a_domain_are_refused(name):
    for hyper in RULES[name].hypers.values():
        kinds = {"flag": [0.5, "yes"], "choice": ["nonsense", 0.5, None]}
        bad = kinds.get(hyper.domain.kind, [math.nan, math.inf, "much", None, True])
        bad += [hyper.domain.low - 1] if math.isfinite(hyper.domain.low) else []
        bad += [hyper.domain.high + 1] if math.isfinite(hyper.domain.high) else []
        for value in bad:
            with pytest.raises(tw.UserError, match=rf"^{name}: {hyper.name} = "):
                RULES[name].check({hyper.name: value})


@pytest.mark.parametrize("name", ["adam", "adamw", "yogi"])
def test_a_decay_of_one_is_refused(name):
    with pytest.raises(tw.UserError, match=rf"{name}: beta1 = 1 is outside \[0, 1\)"):
        RULES[name].check({"beta1": 1.0})


@pytest.mark.parametrize("name", TAKING_GRADIENTS)
def test_defaults_are_those_of_the_oracle(name):
    # lanes leave hyperparameters to their defaults, here ours and there the oracle's; this says so where they part
    theirs = oracle(name).optimizer([torch.nn.Parameter(torch.zeros(2))], {}).param_groups[0]
    theirs |= dict(zip(("beta1", "beta2"), theirs.get("betas", ()), strict=False))
    names = {ours: oracle(name).names.get(ours, ours) for ours in RULES[name].hypers}
    shared = {ours: theirs[their] for ours, their in names.items() if their in theirs}
    assert {"lr", "weight_decay"} & set(theirs) <= set(shared)
    assert {ours: RULES[name].hypers[ours].default for ours in shared} == shared


# --- presets and variants


def test_presets_are_the_same_function_under_other_defaults():
    assert momentum.function is nesterov.function is sgd.function
    assert (momentum.hypers["momentum"].default, nesterov.hypers["nesterov"].default) == (0.9, True)
    assert (adam.decay, adamw.decay, adamw.hypers["weight_decay"].default) == ("l2", "decoupled", 0.01)
    assert sgd.hypers["momentum"].default == 0.0


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"momentm": 0.9}, "no hyperparameter of sgd is called 'momentm'; did you mean 'momentum'"),
        ({"momentum": 1.5}, "heavy: default momentum = 1.5"),
    ],
)
def test_wrong_presets_are_refused(defaults, words):
    with pytest.raises(tw.UserError, match=words):
        sgd.preset("heavy", "Heavier.", **defaults)


@pytest.mark.parametrize(
    ("name", "config", "states"),
    [
        ("sgd", {}, set()),
        ("sgd", {"momentum": 0.5}, {"v"}),
        ("momentum", {}, {"v"}),
        ("momentum", {"momentum": 0.0}, set()),
        ("rmsprop", {}, {"s"}),
        ("rmsprop", {"centered": True}, {"s", "a"}),
        ("rmsprop", {"centered": True, "momentum": 0.1}, {"s", "a", "v"}),
        ("adam", {}, {"m", "s"}),
        ("adadelta", {}, {"s", "d"}),
        ("adagrad", {}, {"s"}),
    ],
)
def test_states_exist_only_while_they_are_needed(name, config, states):
    assert set(bound_to(name, config).states) == states


def test_a_state_starts_where_its_hyperparameter_says():
    bound = bound_to("adagrad", {"initial": 0.25})
    assert bound.start(torch.ones(10), numbers(bound, {"initial": 0.25}))["s"].tolist() == [0.25] * 10


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_eps_under_the_root(rate):
    # adagrad, first step: x - lr g / (sqrt(g^2 + eps_root) + eps)
    bound = bound_to("adagrad")
    hypers = numbers(bound, {"lr": rate, "eps_root": 1e-2, "eps": 1e-7})
    x, _ = walk(bound, hypers, 1, torch.float64, lambda x, t: 0.3 * x)
    assert x[0].item() == pytest.approx(1 - rate * 0.3 / (math.sqrt(0.09 + 1e-2) + 1e-7), rel=1e-14)


def test_rmsprop_with_eps_under_the_root_by_hand():
    # s = 0.1 g^2; x - lr g / (sqrt(s + eps_root) + eps)
    bound = bound_to("rmsprop")
    hypers = numbers(bound, {"lr": 0.1, "gamma": 0.9, "eps_root": 1e-6, "eps": 0.0})
    x, _ = walk(bound, hypers, 1, torch.float64, lambda x, t: 0.3 * x)
    assert x[0].item() == pytest.approx(1 - 0.1 * 0.3 / math.sqrt(0.1 * 0.09 + 1e-6), rel=1e-14)


def test_adam_without_correction_takes_a_first_step_that_is_too_large():
    # m = 0.1 g, s = 0.001 g^2: m / sqrt(s) = 0.1 / sqrt(0.001) = 3.16 where the corrected step is 1
    ends = {}
    for correct in (True, False):
        bound = bound_to("adam", {"correct": correct})
        ends[correct], _ = walk(bound, numbers(bound, {"lr": 0.01}), 1, torch.float64)
    assert 1 - ends[True][0].item() == pytest.approx(0.01, rel=1e-6)
    assert 1 - ends[False][0].item() == pytest.approx(0.01 * 0.1 / math.sqrt(0.001), rel=1e-6)


def test_readings_of_the_lecture():
    # f = x^2 from 10, lr 0.2, ten steps
    x = torch.tensor(10.0, dtype=torch.float64)
    for t in range(1, 11):
        x = sgd(x, 2 * x, None, lr=0.2, t=t)
    assert x.item() == pytest.approx(0.06046617599999997, rel=1e-14)


# --- declarations that cannot be read


def no_point(a, b, *, lr: Rate = 0.1):
    return a


def no_rate(x, g):
    return x


def no_domain(x, g, *, lr: float = 0.1):
    return x


def wrong_default(x, g, *, lr: Rate = -1.0):
    return x


def unknown_request(x, g, *, lr: Rate = 0.1, noize):
    return x


def no_start(x, g, m, *, lr: Rate = 0.1):
    return x


def constant_start(x, g, m=0.0, *, lr: Rate = 0.1):
    return x


def start_of_nothing(x, g, m=tw.core.filled("initial"), *, lr: Rate = 0.1):
    return x


def option_of_nothing(x, g, m=when("amsgrad", zeros), *, lr: Rate = 0.1):
    return x


def stars(x, g, *states, lr: Rate = 0.1):
    return x


def keywords(x, g, *, lr: Rate = 0.1, **more):
    return x


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_point, r"no_point: a rule's first two parameters are x"),
        (no_rate, "no_rate: a rule that uses the gradient needs a learning rate"),
        (no_domain, "no_domain: the hyperparameter 'lr' needs a domain as its annotation"),
        (wrong_default, r"wrong_default: default lr = -1 is outside \[0, inf\)"),
        (unknown_request, "no request of unknown_request is called 'noize'; did you mean 'noise'"),
        (no_start, "no_start: the state 'm' needs a start as its default, such as zeros"),
        (constant_start, "constant_start: the state 'm' needs a start as its default, such as zeros"),
        (start_of_nothing, "start_of_nothing: the state 'm' starts from initial, which the rule does not have"),
        (option_of_nothing, "option_of_nothing: the state 'm' starts from amsgrad, which the rule does not have"),
        (stars, "stars"),
        (keywords, "keywords"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_rule_that_cannot_be_read_says_why(function, words):
    with pytest.raises(tw.UserError, match=words):
        rule(function)


def test_a_readout_takes_the_point_and_the_states():
    @rule
    def averaged(x, g, mean=zeros, *, lr: Rate = 0.1):
        """Polyak's average. Polyak 1990"""
        return x - lr * g, mean + x

    with pytest.raises(tw.UserError, match=r"averaged.readout takes x and the states mean, not men"):
        averaged.readout(lambda x, men: x)
    averaged.readout(lambda mean: mean)
    assert isinstance(averaged, Rule)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, m: x, "must return the new point and then its states in order: m"),
        (lambda x, m: (x, m, m), "must return the new point and then its states in order: m"),
        (lambda x, m: (x.sum(), m), "must return the new point in the shape of x"),
        (lambda x, m: None, "must return the new point in the shape of x"),
    ],
)
def test_a_rule_that_returns_the_wrong_things_is_told(answer, words):
    def forgetful(x, g, m=zeros, *, lr: Rate = 0.1):
        return answer(x, m)

    layout = Layout(("a",), (torch.Size([4]),), torch.float32)
    read = rule(forgetful)
    bound = bind(read, [resolve(read, {}, ())], (), layout)
    x = torch.ones(4)
    with pytest.raises(tw.UserError, match=words):
        bound.step(x, x, bound.start(x, {"lr": 0.1}), {"lr": 0.1}, {})


# --- new rules


NEW_RULE = '''"""SignSGD: step along the sign of the gradient. Bernstein et al. 2018, arXiv:1802.04434"""

from thalweg.core import Rate, rule


@rule
def signsgd(x, g, *, lr: Rate = 1e-3):
    return x - lr * g.sign()
'''


def test_a_file_dropped_onto_the_shelf_is_an_optimizer(tmp_path):
    shutil.copytree(Path(tw.__file__).parent, tmp_path / "thalweg", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "thalweg" / "optimizers" / "signsgd.py").write_text(NEW_RULE)
    code = (
        "import thalweg, torch; from thalweg.core import catalogue; s = catalogue.shelf('optimizers')\n"
        "runs = thalweg.sweep(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (torch.ones(8, 2), torch.ones(8, 1)),\n"
        "    optimizer='signsgd', configs=[{'lr': 0.1}], steps=3, batch_size=4, device='cpu')\n"
        "print(thalweg.__file__, 'signsgd' in s, s['signsgd'].doc[:7], runs.loss.shape)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split("\n")[0] == f"{tmp_path}/thalweg/__init__.py True SignSGD (1, 2)"


def test_a_users_rule_is_named_by_file_and_object(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(NEW_RULE)
    found = catalogue.find("optimizers", f"{path}:signsgd")
    assert isinstance(found, Rule)
    assert found.name == "signsgd"
    assert "2018" in found.doc


# --- domains

SEARCHED = {name: domain for name, domain in DOMAINS.items() if domain.search is not None}
REALS = st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize("name", SEARCHED)
@given(u=st.floats(0, 1, exclude_max=True))
def test_points_lie_in_the_search_range_and_are_allowed(name, u):
    domain = SEARCHED[name]
    low, high = domain.search
    value = domain.point(u)
    assert low * (1 - 1e-12) <= value <= high * (1 + 1e-12)
    domain.check(value, "value")


@pytest.mark.parametrize("name", SEARCHED)
@given(u=st.floats(0, 0.99), step=st.floats(1e-3, 0.01))
def test_points_grow_with_u(name, u, step):
    assert SEARCHED[name].point(u) < SEARCHED[name].point(u + step)


def test_points_are_even_in_the_scale():
    rate, decay = domain_of(Rate), domain_of(Decay)
    assert [rate.point(u) for u in (0, 0.2, 0.6)] == pytest.approx([1e-5, 1e-4, 1e-2], rel=1e-12)
    # even in log(1 - beta), from 0.5 to 0.9999
    assert 1 - decay.point(0.5) == pytest.approx(math.sqrt(0.5 * 1e-4), rel=1e-9)
    assert domain_of(Fraction).point(0.25) == 0.25


@pytest.mark.parametrize("name", DOMAINS)
@given(value=REALS | st.integers() | st.booleans() | st.text(max_size=3) | st.none())
def test_a_check_gives_an_allowed_value_or_an_error_in_words(name, value):
    domain = DOMAINS[name]
    try:
        kept = domain.check(value, "label")
    except tw.UserError as error:
        assert str(error).startswith("label = ")
        return
    assert kept == (float(value) if domain.kind == "float" else value)
    assert domain.check(kept, "label") == kept
    if domain.kind != "flag":
        assert domain.low <= kept <= domain.high
        assert math.isfinite(kept)


@pytest.mark.parametrize("name", DOMAINS)
@given(text=st.text(max_size=6) | REALS.map(str) | st.integers(-5, 5).map(str) | st.sampled_from(["inf", "-inf", "nan", "1e400", "on"]))
def test_text_is_read_or_refused_in_words(name, text):
    try:
        value = DOMAINS[name].parse(text, "label")
    except tw.UserError as error:
        assert str(error).startswith("label = ")
    else:
        assert DOMAINS[name].check(value, "label") == value


@given(value=st.floats(1e-9, 1e9))
def test_text_of_a_number_reads_back(value):
    assert domain_of(Rate).parse(repr(value), "lr") == value


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("YES", True), ("on", True), ("1", True), ("False", False), ("off", False), ("0", False)]
)
def test_flags_read_as_people_write_them(text, value):
    assert domain_of(Flag).parse(text, "nesterov") is value


def test_choices():
    mode = domain_of(Annotated[str, Choice("fast", "slow")])
    assert mode.parse("fast", "mode") == "fast"
    with pytest.raises(tw.UserError, match="mode = 'fats' is not one of fast, slow"):
        mode.parse("fats", "mode")


@given(low=st.floats(1e-8, 1e3), ratio=st.floats(1.001, 1e6), u=st.floats(0, 1, exclude_max=True))
def test_a_narrower_range_is_searched_where_it_says(low, ratio, u):
    domain = domain_of(Rate).within(low, low * ratio, "lr")
    assert domain.tuned
    assert low * (1 - 1e-9) <= domain.point(u) <= low * ratio * (1 + 1e-9)


@pytest.mark.parametrize(
    ("domain", "low", "high", "scale", "words"),
    [
        (Rate, 1e-1, 1e-3, None, "the range of lr is empty: 0.1..0.001"),
        (Rate, 0.1, 0.1, None, "the range of lr is empty"),
        (Rate, -1.0, 1.0, None, r"lr, lower end of its range, = -1 is outside \[0, inf\)"),
        (Rate, 0.0, 1.0, None, "must be positive"),
        (Rate, 1e-3, math.inf, None, "lr"),
        (Rate, math.nan, 1.0, None, "lr, lower end"),
        (Decay, 0.5, 1.0, None, r"upper end of its range, = 1 is outside \[0, 1\)"),
        (Decay, 0.0, 0.9, "log", "must be positive"),
        (Flag, 0.0, 1.0, None, "takes a list of values"),
        (Count, 0.0, 1.0, None, "takes a list of values"),
    ],
)
def test_ranges_that_cannot_be_searched_are_refused(domain, low, high, scale, words):
    with pytest.raises(tw.UserError, match=words):
        domain_of(domain).within(low, high, "lr", scale)


def test_a_domain_without_a_range_asks_for_one():
    with pytest.raises(tw.UserError, match="a Amount has no search range; give one"):
        adagrad.hypers["lr_decay"].domain.point(0.5)
    assert rmsprop.hypers["centered"].domain.structural
    assert isinstance(adam.hypers, dict | MappingProxyType)
    assert Domain("any").interval == "(-inf, inf)"
