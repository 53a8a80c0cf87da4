"""Schedulers and plateaus over any optimizer, and the pictures of the schedules."""

import copy
import io
import itertools
import json
import math
import xml.etree.ElementTree as ET

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, ReduceLROnPlateau, SequentialLR, StepLR

import thalweg as tw
from thalweg.cli import commands, plots
from thalweg.core import catalogue
from thalweg.core.schedule import schedule
from thalweg.schedules import constant, cosine, linear, one_cycle, step, warmup

SHELF = sorted(catalogue.shelf("schedules"))


def point():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    return p


def optimizer(make=torch.optim.SGD, groups=1, **more):
    """An optimizer whose groups have the rates 0.3, 0.03, ..."""
    return make([{"params": [point()], "lr": 0.3 / 10**k} for k in range(groups)], **more)


def saved(state):
    """A state as it comes back from a file that holds nothing but plain values and tensors."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def rates(opt):
    return [float(group["lr"]) for group in opt.param_groups]


def course(sched, steps, look=rates):
    """What the groups hold at each of some steps."""
    found = []
    for _ in range(steps):
        found.append(look(sched.opt))
        sched.opt.step()
        sched.step()
    return found


# --- values


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("name", SHELF)
def test_rates_are_those_of_torchs_lambda_scheduler(name, make):
    f = plots.example(catalogue.shelf("schedules")[name])
    ours, theirs = optimizer(make, groups=2), optimizer(make, groups=2)
    sched, oracle = tw.Scheduler(ours, lr=f), LambdaLR(theirs, f)
    for t in range(110):
        assert sched.t == t
        assert rates(ours) == rates(theirs)
        for opt in (ours, theirs):
            opt.step()
        sched.step()
        oracle.step()
    assert all(torch.equal(a["params"][0], b["params"][0]) for a, b in zip(ours.param_groups, theirs.param_groups, strict=True))


def test_the_first_update_is_made_at_the_rate_of_t_0():
    opt = optimizer(lr=1.0)
    sched = tw.Scheduler(opt, lr=warmup(total=100, warmup=4))
    assert rates(opt) == [0.0]
    assert [rate for (rate,) in course(sched, 6)] == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3, 0.3])


def test_rates_are_those_of_torchs_own_schedulers():
    for f, make in [(step(every=7), lambda o: StepLR(o, 7)), (cosine(total=30), lambda o: CosineAnnealingLR(o, 30))]:
        ours, theirs = optimizer(), optimizer()
        sched, oracle = tw.Scheduler(ours, lr=f), make(theirs)
        for _ in range(30):
            assert rates(ours) == pytest.approx(rates(theirs), rel=1e-9, abs=1e-12)
            for each in (ours, theirs, sched, oracle):
                each.step()


def test_every_hyperparameter_of_a_group_is_driven():
    opt = optimizer(momentum=0.9, weight_decay=0.01)
    sched = tw.Scheduler(opt, lr=linear(total=10), momentum=lambda t: 1 - 0.1 * t, weight_decay=lambda t: 2.0)
    for _ in range(3):
        opt.step()
        sched.step()
    assert sched.values() == {"lr": [0.3 * 0.7], "momentum": [0.9 * (1 - 0.1 * 3)], "weight_decay": [0.02]}
    assert sched.base == {"lr": [0.3], "momentum": [0.9], "weight_decay": [0.01]}


def test_elements_of_a_tuple_have_names_of_their_own():
    opt = optimizer(torch.optim.Adam, betas=(0.8, 0.9))
    sched = tw.Scheduler(opt, beta2=lambda t: 1 / (t + 1))
    sched.step()
    assert opt.param_groups[0]["betas"] == (0.8, 0.45)
    opt = optimizer(torch.optim.Rprop)
    tw.Scheduler(opt, eta1=lambda t: 0.5, step_size2=lambda t: 0.1)
    assert opt.param_groups[0]["etas"] == (0.25, 1.2)
    assert opt.param_groups[0]["step_sizes"] == (1e-6, 5.0)


def test_a_number_in_a_list_stays_in_a_list():
    opt = optimizer(torch.optim.Adam)
    opt.param_groups[0]["betas"] = [0.5, 0.75]
    tw.Scheduler(opt, beta1=lambda t: 0.5)
    assert opt.param_groups[0]["betas"] == [0.25, 0.75]


def test_a_multiplier_may_be_any_kind_of_number():
    opt = optimizer(groups=1)
    tw.Scheduler(opt, lr=lambda t: torch.tensor([0.5]))
    assert rates(opt) == [0.15]
    assert type(opt.param_groups[0]["lr"]) is float


# --- groups


def test_groups_may_have_schedules_of_their_own():
    opt = optimizer(groups=3)
    sched = tw.Scheduler(opt, lr=[linear(total=10), None, constant()])
    opt.step()
    sched.step()
    assert rates(opt) == [0.3 * 0.9, 0.03, 0.003]
    assert sched.state_dict() == {
        "t": 1, "base": {"lr": [0.3, None, 0.003]}, "schedules": {"lr": ["linear(total=10)", None, "constant()"]},
    }  # fmt: skip
    assert repr(sched) == "Scheduler(t=1, lr=linear(total=10) constant())"


def test_only_the_named_groups_are_driven():
    opt = optimizer(groups=3)
    tw.Scheduler(opt, lr=lambda t: 0.5, groups=[0, 2])
    assert rates(opt) == [0.15, 0.03, 0.0015]
    tw.Scheduler(opt, lr=[lambda t: 3.0], groups=[1])
    assert rates(opt) == [0.15, 0.09, 0.0015]


def test_a_group_without_the_hyperparameter_is_left_alone():
    opt = optimizer(groups=2)
    opt.param_groups[1]["warmth"] = 5.0
    sched = tw.Scheduler(opt, warmth=lambda t: 0.5)
    assert sched.values() == {"warmth": [None, 2.5]}
    assert "warmth" not in opt.param_groups[0]


def test_a_group_added_later_starts_from_what_it_holds_then():
    opt = optimizer()
    sched = tw.Scheduler(opt, lr=linear(total=10))
    course(sched, 4)
    opt.add_param_group({"params": [point()], "lr": 2.0})
    sched.write()
    assert rates(opt) == [0.3 * 0.6, 2.0 * 0.6]
    opt.add_param_group({"params": [point()], "lr": 1.0})
    sched.step()
    assert rates(opt) == [0.3 * 0.5, 2.0 * 0.5, 1.0 * 0.5]
    assert saved(sched.state_dict())["base"] == {"lr": [0.3, 2.0, 1.0]}


def test_a_group_added_later_is_not_among_those_that_were_named():
    opt = optimizer(groups=2)
    some, listed = tw.Scheduler(opt, lr=lambda t: 0.5, groups=[1]), tw.Scheduler(opt, dampening=[lambda t: 1.0, None])
    opt.add_param_group({"params": [point()], "lr": 2.0})
    for sched in (some, listed):
        sched.step()
    assert rates(opt) == [0.3, 0.015, 2.0]
    assert listed.base == {"dampening": [0.0, None, None]}


def test_a_group_that_is_gone_is_told():
    opt = optimizer(groups=2)
    sched = tw.Scheduler(opt, lr=linear(total=10))
    del opt.param_groups[1]
    with pytest.raises(tw.UserError, match="had 2 groups and has 1; make a new Scheduler"):
        sched.step()


# --- tensors


def test_a_tensor_is_filled_in_place():
    lr = torch.tensor(1e-3)
    opt = torch.optim.Adam([point()], lr=lr)
    sched = tw.Scheduler(opt, lr=linear(total=10))
    found = course(sched, 12)
    assert opt.param_groups[0]["lr"] is lr
    assert lr.item() == 0.0
    assert [rate for (rate,) in found] == pytest.approx([1e-3 * (1 - t / 10) for t in range(10)] + [0.0] * 2, rel=1e-6)


def test_what_is_compiled_is_compiled_once():
    compiled = []

    def count(module, inputs):
        compiled.append(module)
        return module.forward

    opt = torch.optim.SGD([point()], lr=torch.tensor(0.1))
    sched = tw.Scheduler(opt, lr=one_cycle(total=10))
    run = torch.compile(lambda: opt.param_groups[0]["lr"] * 2, backend=count)
    values = []
    for _ in range(5):
        values.append(run().item())
        sched.step()
    assert len(compiled) == 1
    assert values == pytest.approx([0.2 * one_cycle(total=10)(t) for t in range(5)], rel=1e-6)


def test_betas_that_are_tensors_are_filled_in_place():
    first, second = torch.tensor(0.8), torch.tensor(0.9)
    opt = torch.optim.Adam([point()], lr=torch.tensor(0.1), betas=(first, second))
    tw.Scheduler(opt, beta1=lambda t: 0.5)
    assert opt.param_groups[0]["betas"][0] is first
    assert first.item() == pytest.approx(0.4)


def test_groups_that_share_a_tensor_share_its_base():
    lr = torch.tensor(1.0)
    opt = torch.optim.SGD([{"params": [point()]}, {"params": [point()]}], lr=lr)
    sched = tw.Scheduler(opt, lr=linear(total=10))
    course(sched, 5)
    opt.add_param_group({"params": [point()]})  # takes the optimizer's default: the same tensor, which holds 0.5 now
    sched.step()
    assert sched.base == {"lr": [1.0, 1.0, 1.0]}
    assert lr.item() == pytest.approx(0.4)


@pytest.mark.parametrize("more", [{"lr": [constant(), linear(total=10)]}, {"lr": [None, constant()]}, {"lr": constant(), "groups": [0]}])
def test_groups_that_share_a_tensor_cannot_be_driven_apart(more):
    opt = torch.optim.SGD([{"params": [point()]}, {"params": [point()]}], lr=torch.tensor(1.0))
    with pytest.raises(tw.UserError, match="groups 0 and 1 share one tensor as lr"):
        tw.Scheduler(opt, **more)


# --- resuming


def driven(make=torch.optim.Adam, lr=0.01):
    opt = make([{"params": [point()], "lr": lr}, {"params": [point()]}], lr=0.5, weight_decay=0.1)
    return tw.Scheduler(opt, lr=cosine(total=40, warmup=5, floor=0.1), weight_decay=[linear(total=30), step(every=9)])


@settings(max_examples=40, deadline=None)
@given(t=st.integers(0, 60), later=st.integers(0, 60), first=st.booleans(), before=st.booleans(), tensor=st.booleans())
def test_a_resumed_scheduler_goes_on_as_if_uninterrupted(t, later, first, before, tensor):
    """first: the optimizer's state is loaded first. before: even before the new scheduler is made, which then sees other rates."""
    start = torch.tensor(0.01) if tensor else 0.01
    whole = driven(lr=start.clone() if tensor else start)
    course(whole, t)
    states = saved((whole.opt.state_dict(), whole.state_dict()))
    opt = driven(lr=start.clone() if tensor else start).opt
    if before:
        opt.load_state_dict(states[0])
    resumed = tw.Scheduler(opt, lr=cosine(total=40, warmup=5, floor=0.1), weight_decay=[linear(total=30), step(every=9)])
    if first:
        opt.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    if not first:
        opt.load_state_dict(states[0])
    assert resumed.t == t
    assert resumed.values() == whole.values()
    assert course(resumed, later, lambda o: resumed.values()) == course(whole, later, lambda o: whole.values())
    assert resumed.state_dict() == whole.state_dict()


def test_loading_writes_the_rates_at_once():
    state = {"t": 5, "base": {"lr": [1.0]}}
    opt = optimizer()
    sched = tw.Scheduler(opt, lr=linear(total=10))
    sched.load_state_dict(state)
    assert rates(opt) == [0.5]
    sched.step()
    assert rates(opt) == [0.4]
    assert state == {"t": 5, "base": {"lr": [1.0]}}


def test_what_overwrote_the_rates_is_overwritten_by_the_next_step():
    opt = optimizer()
    before = copy.deepcopy(opt.state_dict())
    sched = tw.Scheduler(opt, lr=linear(total=10))
    course(sched, 3)
    opt.load_state_dict(before)
    assert rates(opt) == [0.3]
    sched.step()
    assert rates(opt) == [0.3 * 0.6]


def test_one_after_another_resumes_where_torchs_sequence_does_not():
    """A warm-up and then a cosine: torch's SequentialLR, loaded over an optimizer that was loaded before, goes on from wrong rates."""

    def theirs():
        opt = optimizer()
        return opt, SequentialLR(opt, [LinearLR(opt, 1e-9, 1.0, 5), CosineAnnealingLR(opt, 20)], milestones=[5])

    whole, sequence = theirs()
    f = cosine(total=25, warmup=5)
    ours = tw.Scheduler(optimizer(), lr=f)
    for t in range(10):
        assert rates(ours.opt) == pytest.approx(rates(whole), abs=1e-6), t
        for each in (whole, sequence, ours.opt, ours):
            each.step()
    states = saved((ours.opt.state_dict(), ours.state_dict()))
    opt = optimizer()
    opt.load_state_dict(states[0])
    resumed = tw.Scheduler(opt, lr=f)
    resumed.load_state_dict(states[1])
    for _ in range(15):
        assert rates(opt) == rates(ours.opt)
        assert rates(opt) == pytest.approx(rates(whole), abs=1e-6)
        for each in (whole, sequence, opt, resumed, ours.opt, ours):
            each.step()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"t": 1, "base": {"momentum": [0.9, None]}}, "this state drives momentum, but this Scheduler lr; make it with the same"),
        ({"t": 1, "base": {}}, "drives none, but this Scheduler lr"),
        ({"t": 1, "base": {"lr": [0.1]}}, "lr has base values for 1 groups, but the optimizer has 2; add groups before"),
        ({"t": 1, "base": {"lr": [0.1, 0.1]}}, "lr has base values for the groups 0, 1, but 0 are driven here;"),
        ({"t": 1, "base": {"lr": [math.nan, None]}}, r"lr = \[nan, None\] must be base values: a finite number a group"),
        ({"t": 1, "base": {"lr": 0.1}}, "must be base values"),
        ({"t": -1, "base": {"lr": [0.1, None]}}, "t = -1 in this state must be a whole number"),
        ({"t": 1.5, "base": {"lr": [0.1, None]}}, "t = 1.5"),
        ({"last_epoch": 3, "base_lrs": [0.1]}, "not the state of a tw.Scheduler; load what its state_dict"),
        (None, "not the state of a tw.Scheduler"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, words):
    opt = optimizer(groups=2)
    sched = tw.Scheduler(opt, lr=linear(total=10), groups=[0])
    sched.step()
    with pytest.raises(tw.UserError, match=words):
        sched.load_state_dict(state)
    assert (sched.t, rates(opt), sched.base) == (1, [0.27, 0.03], {"lr": [0.3, None]})


def test_a_state_from_before_a_group_was_added_is_refused():
    opt = optimizer()
    sched = tw.Scheduler(opt, lr=linear(total=10))
    state = sched.state_dict()
    opt.add_param_group({"params": [point()]})
    with pytest.raises(tw.UserError, match="for 1 groups, but the optimizer has 2"):
        sched.load_state_dict(state)


# --- several drivers


def test_schedulers_of_different_hyperparameters_do_not_disturb_each_other():
    opt = optimizer(momentum=0.8)
    one, two = tw.Scheduler(opt, lr=linear(total=10)), tw.Scheduler(opt, momentum=lambda t: 1 / (t + 1))
    one.step()
    one.step()
    two.step()
    assert (rates(opt), opt.param_groups[0]["momentum"]) == ([0.3 * 0.8], 0.4)
    one.load_state_dict({"t": 5, "base": {"lr": [1.0]}})
    assert (rates(opt), opt.param_groups[0]["momentum"]) == ([0.5], 0.4)


def test_two_schedulers_of_one_hyperparameter_are_told_apart():
    opt = optimizer()
    old = tw.Scheduler(opt, lr=linear(total=10))
    new = tw.Scheduler(opt, lr=constant())
    new.step()
    with pytest.raises(tw.UserError, match="lr of group 0 is driven by another Scheduler or Plateau, made after this one"):
        old.step()
    assert (old.t, rates(opt)) == (0, [0.3])
    new.step()


def test_a_scheduler_that_could_not_be_made_drives_nothing():
    opt = optimizer()
    sched = tw.Scheduler(opt, lr=linear(total=10))
    with pytest.raises(tw.UserError):
        tw.Scheduler(opt, lr=lambda t: math.nan)
    sched.step()
    assert rates(opt) == [0.27]


def test_a_copy_is_its_own():
    sched = tw.Scheduler(optimizer(), lr=linear(total=10))
    twin = copy.deepcopy(sched)
    twin.step()
    sched.step()
    sched.step()
    assert (rates(sched.opt), rates(twin.opt)) == ([0.3 * 0.8], [0.3 * 0.9])


def test_new_base_values_are_written_at_once():
    opt = optimizer(groups=2)
    sched = tw.Scheduler(opt, lr=[None, linear(total=10)])
    sched.step()
    sched.rebase("lr", [None, 1.0])
    assert rates(opt) == [0.3, 0.9]
    for name, values, words in [
        ("lrr", [None, 1.0], "no hyperparameter of this Scheduler is called 'lrr'; did you mean 'lr'"),
        ("lr", [1.0, 1.0], "lr has base values for the groups 0, 1, but 1 are driven here"),
        ("lr", [1.0], "for 1 groups, but the optimizer has 2"),
    ]:
        with pytest.raises(tw.UserError, match=words):
            sched.rebase(name, values)


# --- nonsense


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: tw.Scheduler(torch.nn.Linear(1, 1), lr=constant()), "drives a torch.optim.Optimizer, not a Linear; pass the optimizer"),
        (lambda o: tw.Scheduler(torch.optim.SGD, lr=constant()), "not the class SGD"),
        (lambda o: tw.Scheduler(o), "drives nothing; name a hyperparameter, such as lr="),
        (lambda o: tw.Scheduler(o, lrr=constant()), "no hyperparameter of SGD is called 'lrr'; did you mean 'lr'"),
        (lambda o: tw.Scheduler(o, params=constant()), "no hyperparameter of SGD is called 'params'"),
        (lambda o: tw.Scheduler(o, maximize=constant()), "maximize = False is not one number, .*; those are dampening, lr, momentum"),
        (lambda o: tw.Scheduler(o, lr=0.1), r"schedule of lr must be a function of t, such as tw.schedules.cosine\(total=1000\), not 0.1"),
        (lambda o: tw.Scheduler(o, lr=None), "must be a function of t, .* not None"),
        (lambda o: tw.Scheduler(o, lr=[constant(), 1.0]), "must be a function of t, .* not 1.0"),
        (lambda o: tw.Scheduler(o, lr=cosine), "lr=cosine names a schedule without its arguments; call it"),
        (lambda o: tw.Scheduler(o, lr=[constant()]), "lr has 1 schedules for 2 groups; give one a group"),
        (lambda o: tw.Scheduler(o, lr=constant(), groups=[2]), r"groups = \[2\] must be numbers of groups, .* has 0 to 1"),
        (lambda o: tw.Scheduler(o, lr=constant(), groups=[0, 0]), "each once"),
        (lambda o: tw.Scheduler(o, lr=constant(), groups=[True]), "must be numbers of groups"),
        (lambda o: tw.Scheduler(o, lr=constant(), groups=[]), "must be numbers of groups"),
        (lambda o: tw.Scheduler(o, lr=constant(), groups=0), "groups = 0 must be"),
        (lambda o: tw.Scheduler(o, lr=lambda t: math.nan), "schedule <lambda> of lr, group 0, gives nan at t = 0; a multiplier must be"),
        (lambda o: tw.Scheduler(o, lr=lambda t: math.inf), "gives inf at t = 0"),
        (lambda o: tw.Scheduler(o, lr=lambda t: -0.5), "gives -0.5 at t = 0"),
        (lambda o: tw.Scheduler(o, lr=lambda t: "1"), "gives '1' at t = 0"),
        (lambda o: tw.Scheduler(o, lr=lambda t: None), "gives None at t = 0"),
        (lambda o: tw.Scheduler(o, lr=lambda t: torch.ones(2)), "gives tensor"),
    ],
)
def test_nonsense_is_told_in_a_sentence_and_changes_nothing(call, words):
    opt = optimizer(groups=2)
    with pytest.raises(tw.UserError, match=words) as told:
        call(opt)
    assert "\n" not in str(told.value)
    assert rates(opt) == [0.3, 0.03]


def test_a_name_inside_a_tuple_is_offered():
    opt = optimizer(torch.optim.Adam)
    with pytest.raises(tw.UserError, match=r"betas = \(0.9, 0.999\) is not one number, .* beta1, beta2"):
        tw.Scheduler(opt, betas=constant())
    with pytest.raises(tw.UserError, match="did you mean 'beta1'"):
        tw.Scheduler(opt, bet1=constant())


def test_a_group_that_lacks_what_its_schedule_drives_is_named():
    opt = optimizer(groups=2)
    opt.param_groups[1]["warmth"] = 5.0
    with pytest.raises(tw.UserError, match="group 0 has no warmth; give None for it"):
        tw.Scheduler(opt, warmth=[constant(), constant()])


def test_betas_stay_below_one():
    opt = optimizer(torch.optim.Adam)
    sched = tw.Scheduler(opt, beta1=lambda t: 1 + 0.1 * t)
    sched.step()
    with pytest.raises(tw.UserError, match=r"beta1 of group 0 would be 0.9 x 1.2 at t = 2, but must stay below 1"):
        sched.step()
    assert (sched.t, opt.param_groups[0]["betas"][0]) == (1, pytest.approx(0.99))


def test_a_schedule_that_turns_bad_leaves_everything_as_it_was():
    opt = optimizer(momentum=0.9)
    sched = tw.Scheduler(opt, momentum=linear(total=10), lr=lambda t: 1.0 - t)
    sched.step()
    with pytest.raises(tw.UserError, match=r"gives -1\.0 at t = 2"):
        sched.step()
    assert (sched.t, sched.values()) == (1, {"momentum": [0.9 * 0.9], "lr": [0.0]})


# --- plateau


METRICS = st.lists(st.one_of(st.floats(-3, 3), st.sampled_from([math.nan, math.inf, -math.inf])), min_size=1, max_size=60)
SETTINGS = st.fixed_dictionaries(
    {
        "factor": st.sampled_from([0.1, 0.5, 0.9]), "patience": st.integers(0, 4), "cooldown": st.integers(0, 3),
        "threshold": st.sampled_from([0.0, 1e-4, 0.3]), "threshold_mode": st.sampled_from(["rel", "abs"]),
        "mode": st.sampled_from(["min", "max"]), "eps": st.sampled_from([1e-8, 1e-2]),
    }
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(metrics=METRICS, chosen=SETTINGS, floor=st.sampled_from([0.0, 0.2]))
def test_a_plateaus_rates_are_those_of_torchs(metrics, chosen, floor):
    ours, theirs = optimizer(groups=2), optimizer(groups=2)
    plateau = tw.Plateau(ours, floor=floor, **chosen)
    oracle = ReduceLROnPlateau(theirs, min_lr=[floor * lr for lr in rates(theirs)], **chosen)
    for metric in metrics:
        plateau.step(metric)
        oracle.step(metric)
        assert rates(ours) == rates(theirs)
    assert plateau.best == oracle.best


@settings(max_examples=60, deadline=None)
@given(metrics=METRICS, cut=st.integers(0, 60), patience=st.integers(0, 2), scheduled=st.booleans())
def test_a_resumed_plateau_goes_on_as_if_uninterrupted(metrics, cut, patience, scheduled):
    def made():
        opt = optimizer(groups=2)
        of = tw.Scheduler(opt, lr=cosine(total=50)) if scheduled else opt
        return tw.Plateau(of, factor=0.5, patience=patience, cooldown=1, floor=0.1)

    def run(plateau, metrics):
        for metric in metrics:
            if scheduled:
                plateau.scheduler.step()
            plateau.step(torch.tensor(metric))
            yield rates(plateau.scheduler.opt)

    whole = made()
    list(run(whole, metrics[:cut]))
    states = saved((whole.scheduler.opt.state_dict(), whole.scheduler.state_dict(), whole.state_dict()))
    resumed = made()
    resumed.scheduler.opt.load_state_dict(states[0])
    if scheduled:
        resumed.scheduler.load_state_dict(states[1])
    resumed.load_state_dict(states[2])
    assert rates(resumed.scheduler.opt) == rates(whole.scheduler.opt)
    assert list(run(resumed, metrics[cut:])) == list(run(whole, metrics[cut:]))
    assert resumed.state_dict() == whole.state_dict()


def test_loading_a_plateau_writes_the_rates_at_once():
    plateau = tw.Plateau(optimizer(), factor=0.5, patience=0)
    for metric in (1.0, 1.0, 1.0):
        plateau.step(metric)
    opt = optimizer()
    tw.Plateau(opt, factor=0.5, patience=0).load_state_dict(saved(plateau.state_dict()))
    assert rates(opt) == [0.3 / 4]


def test_nan_is_a_bad_metric():
    plateau = tw.Plateau(optimizer(), patience=1, factor=0.5)
    assert [plateau.step(metric) for metric in (1.0, math.nan, math.nan, 0.5)] == [False, False, True, False]
    assert plateau.best == 0.5


def test_a_plateau_of_a_scheduler_multiplies_it():
    opt = optimizer(groups=2)
    sched = tw.Scheduler(opt, lr=cosine(total=20, warmup=4), groups=[0])
    plateau = tw.Plateau(sched, factor=0.5, patience=0)
    lowered = 1.0
    for t, metric in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 0.5]):
        assert rates(opt) == [pytest.approx(0.3 * lowered * cosine(total=20, warmup=4)(t)), 0.03]
        sched.step()
        lowered *= 0.5 if plateau.step(metric) else 1.0
    assert lowered == 0.25
    assert sched.base == {"lr": [0.3 * 0.25, None]}


def test_a_plateau_beside_a_scheduler_of_the_same_hyperparameter_is_told():
    opt = optimizer(momentum=0.9)
    sched, plateau = tw.Scheduler(opt, lr=linear(total=10)), tw.Plateau(opt)
    with pytest.raises(tw.UserError, match=r"make the plateau of the scheduler, tw.Plateau\(scheduler\), which multiplies the two"):
        sched.step()
    sched, plateau = tw.Scheduler(opt, lr=linear(total=10)), tw.Plateau(opt, name="momentum", patience=0, factor=0.5)
    for metric in (1.0, 1.0):
        sched.step()
        plateau.step(metric)
    assert (opt.param_groups[0]["momentum"], plateau.name) == (0.45, "momentum")
    plateau = tw.Plateau(optimizer())
    tw.Scheduler(plateau.scheduler.opt, lr=constant())
    with pytest.raises(tw.UserError, match="driven by another Scheduler or Plateau"):
        plateau.step(1.0)
    assert plateau.best == math.inf


def test_a_plateau_fills_a_tensor_in_place_and_takes_in_new_groups():
    lr = torch.tensor(1.0)
    opt = torch.optim.SGD([point()], lr=lr)
    plateau = tw.Plateau(opt, patience=0, factor=0.5, floor=0.3)
    plateau.step(1.0)
    opt.add_param_group({"params": [point()], "lr": 8.0})
    for metric in (1.0, 1.0, 1.0):
        plateau.step(metric)
    assert opt.param_groups[0]["lr"] is lr
    assert rates(opt) == pytest.approx([0.3, 2.4])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: tw.Plateau(0.1), "lowers what a torch.optim.Optimizer or a Scheduler holds, not 0.1"),
        (lambda o: tw.Plateau(o, factor=1.0), "factor = 1.0 must be a number, at least 0 and below 1"),
        (lambda o: tw.Plateau(o, factor="0.1"), "factor = '0.1'"),
        (lambda o: tw.Plateau(o, threshold=-1), "threshold = -1 must be a number, at least 0"),
        (lambda o: tw.Plateau(o, floor=math.nan), "floor = nan"),
        (lambda o: tw.Plateau(o, patience=-1), "patience = -1 must be a whole number"),
        (lambda o: tw.Plateau(o, cooldown=1.5), "cooldown = 1.5 must be a whole number"),
        (lambda o: tw.Plateau(o, mode="mix"), "no mode of a Plateau is called 'mix'; did you mean 'min'"),
        (lambda o: tw.Plateau(o, threshold_mode="res"), "no threshold_mode of a Plateau is called 'res'"),
        (lambda o: tw.Plateau(o, name="lrr"), "no hyperparameter of SGD is called 'lrr'"),
        (lambda o: tw.Plateau(tw.Scheduler(o, momentum=constant())), "no hyperparameter of this Scheduler is called 'lr'"),
        (lambda o: tw.Plateau(o).step("1.0"), "the metric of a Plateau must be a number, not '1.0'"),
        (lambda o: tw.Plateau(o).step(torch.ones(2)), "must be a number"),
        (lambda o: tw.Plateau(o).load_state_dict({"best": 1.0}), "not the state of a tw.Plateau"),
        (lambda o: tw.Plateau(o).load_state_dict(tw.Plateau(o, mode="max").state_dict()), "has mode = 'max', but this Plateau 'min'"),
        (lambda o: tw.Plateau(o).load_state_dict(tw.Plateau(optimizer(groups=2)).state_dict()), "is not of 1 groups"),
    ],
)
def test_nonsense_of_a_plateau_is_told_in_a_sentence(call, words):
    with pytest.raises(tw.UserError, match=words):
        call(optimizer())


# --- pictures


def called(*arguments):
    return CliRunner().invoke(commands, ["list", *map(str, arguments)])


def test_every_schedule_of_the_shelf_has_a_picture_in_the_terminal():
    output = called("schedules", "--plot").output
    assert all(row["schedule"] in output for row in plots.samples())
    assert output.count("0                                     100") == len(SHELF)
    assert "\x1b" not in output


def test_the_picture_is_plain_letters_where_the_output_knows_no_others():
    ended = CliRunner(charset="ascii").invoke(commands, ["list", "schedules", "--plot"], catch_exceptions=False)
    assert b"cosine(total=100)" in ended.stdout_bytes
    assert ended.stdout_bytes.decode("ascii").count("#") > 1000


def test_the_numbers_of_the_pictures():
    rows = json.loads(called("schedules", "--plot", "--json").output)
    assert [row["name"] for row in rows] == SHELF
    for row in rows:
        assert row["t"] == list(range(101))
        f = plots.example(catalogue.shelf("schedules")[row["name"]])
        assert row["values"] == [f(t) for t in row["t"]]
    assert sum(len(set(row["values"])) > 1 for row in rows) == len(SHELF) - 1  # all but the constant one move


def test_one_svg_shows_every_curve(tmp_path):
    target = tmp_path / "deep" / "schedules.svg"
    ended = called("schedules", "--plot", "--to", target)
    assert ended.exit_code == 0
    assert ended.output.strip() == str(target)
    root = ET.fromstring(target.read_text())
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}g")
    assert [p.find(f"{space}text").text for p in panels] == [row["schedule"] for row in plots.samples()]
    wide, high = float(root.get("width")), float(root.get("height"))
    for panel in panels:
        x, y = (float(v) for v in panel.get("transform")[10:-1].split())
        assert 0 <= x <= wide - 400
        assert 0 <= y <= high - 240
        assert len(panel.find(f"{space}svg").find(f"{space}path").get("d")) > 500
    corners = [p.get("transform") for p in panels]
    assert len(set(corners)) == len(panels)


def test_a_new_schedule_has_a_picture_without_another_edit(monkeypatch, tmp_path):
    @schedule
    def saw(teeth, height=1.0):
        return lambda t: height * (t % teeth) / teeth

    @schedule
    def loud(milestones, values=(3.0, 1.0, 2.0)):
        return lambda t: float(values[sum(t >= m for m in milestones)])

    shelf = catalogue.shelf("schedules")
    monkeypatch.setattr(catalogue, "shelf", lambda name: {**shelf, "saw": saw, "loud": loud})
    rows = {row["name"]: row for row in json.loads(called("schedules", "--plot", "--json").output)}
    assert rows["saw"]["schedule"] == "saw(teeth=0.5)"
    assert max(rows["loud"]["values"]) == 3.0
    assert "3 |" in called("schedules", "--plot").output
    assert called("schedules", "--plot", "--to", tmp_path / "all.svg").exit_code == 0


def test_a_schedule_whose_arguments_cannot_be_found_is_named(monkeypatch):
    @schedule
    def odd(total, what):
        raise tw.UserError(f"odd: what = {what} is not odd enough")

    monkeypatch.setattr(catalogue, "shelf", lambda name: {"odd": odd})
    with pytest.raises(tw.UserError, match=r"no example of a schedule is known: odd: what = .*; name its arguments as total, every"):
        plots.samples()


def test_a_long_label_does_not_run_out_of_its_figure():
    row = {"schedule": "x" * 80, "t": [0, 1], "values": [1.0, 0.0]}
    assert f">{'x' * 45}...<" in plots.picture([row])


@pytest.mark.parametrize(("high", "wide"), [(1, 2), (3, 7), (5, 40)])
def test_bars_are_as_high_as_the_values(high, wide):
    values = [k / 100 for k in range(101)]
    lines = plots.small(values, wide=wide, high=high)[:-1]
    heights = [sum(plots.BARS.index(line[3 + k]) for line in lines) / (8 * high) for k in range(wide)]
    expected = [values[round(k * 100 / (wide - 1))] for k in range(wide)]
    assert all(0 <= a - b <= 1 / (8 * high) + 1e-9 for a, b in zip(heights, expected, strict=True))
    assert all(a <= b for a, b in itertools.pairwise(heights))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optimizers", "--plot"], "--plot draws the schedules alone; write thalweg list schedules --plot"),
        (["--plot"], "--plot draws the schedules alone"),
        (["schedules", "--to", "x.svg"], "--to x.svg is where --plot writes; add --plot"),
        (["schedules", "--plot", "--to", "x.png"], "the picture is an SVG; name a file that ends in .svg"),
    ],
)
def test_pictures_of_other_things_are_refused(arguments, words):
    ended = called(*arguments)
    assert isinstance(ended.exception, tw.UserError)
    assert words in str(ended.exception)
