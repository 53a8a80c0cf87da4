"""Torch's schedulers over our classes: the rates, momenta and points of torch's, and what a checkpoint of both brings back."""

import math
from copy import deepcopy

import pytest
import torch
from cases import DEFAULTS, Case, both, over, play, same, states
from torch.optim import lr_scheduler, swa_utils

ONE_GROUP = [case for case in DEFAULTS if case.name != "LBFGS"]


def cycles(optimizer):
    """Whether the class has a momentum for a cycle to move."""
    return "momentum" in optimizer.defaults or "betas" in optimizer.defaults


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 4], gamma=0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=6, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, step_size_up=2, cycle_momentum=cycles(o)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=10, cycle_momentum=cycles(o)),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, threshold=0.5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, T_max=5)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)]),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
}
OPTIONS = ("lr", "initial_lr", "momentum", "betas", "max_lr", "min_lr", "swa_lr")


def drive(optimizer, problem, scheduler, steps=5):
    """Steps of both: the rates, and what else of the groups moves."""
    seen = []
    for _ in range(steps):
        play(optimizer, problem, steps=1)
        scheduler.step(*([problem.loss()] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        seen.append([{key: group[key] for key in OPTIONS if key in group} for group in optimizer.param_groups])
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
@over(DEFAULTS)
def test_as_over_torch(case, name):
    both(case, lambda optimizer, problem: drive(optimizer, problem, SCHEDULERS[name](optimizer)))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_group_has_its_rate(name):
    for case in ONE_GROUP:
        seen = []
        for make in (case.ours, case.torchs):
            problem = case.problem()
            first, *rest = problem.params
            optimizer = make([{"params": [first], "lr": 0.01}, {"params": rest, "lr": 0.002}])
            rates = drive(optimizer, problem, SCHEDULERS[name](optimizer), 4)
            seen.append([rates, problem.points()])
        same(*seen)


@pytest.mark.parametrize("name", SCHEDULERS)
@over([case for case in DEFAULTS if case.name in {"SGD", "AdamW", "Rprop"}])
def test_gone_on_from_checkpoints(case, name):
    """Optimizer and scheduler, saved in the middle and loaded into new ones, go on as without the interruption."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    scheduler = SCHEDULERS[name](optimizer)
    drive(optimizer, problem, scheduler, 3)
    saved = deepcopy((scheduler.state_dict(), optimizer.state_dict()))
    others = case.problem()
    with torch.no_grad():
        for param, point in zip(others.params, problem.params, strict=True):
            param.copy_(point)
    other = case.ours(others.params)
    again = SCHEDULERS[name](other)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    same(drive(other, others, again, 4), drive(optimizer, problem, scheduler, 4), 0.0)
    same([others.points(), states(other)], [problem.points(), states(optimizer)], 0.0)


@over(DEFAULTS)
def test_a_scheduler_before_the_first_step(case):
    """Torch's warning about the order of both is there, and only where the order is wrong."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    with pytest.warns(UserWarning, match="before `optimizer.step\\(\\)`"):
        scheduler.step()
    play(optimizer, problem, steps=1)
    play(optimizer, problem, steps=1)
    scheduler.step()
    assert math.isclose(optimizer.param_groups[0]["lr"], case.default("lr") * 0.81)


@over(DEFAULTS)
def test_schedulers_take_no_other_thing(case):
    """Ours pass for optimizers of torch wherever torch asks."""
    optimizer = case.ours(case.problem().params)
    for scheduler in (lr_scheduler.StepLR, lr_scheduler.ReduceLROnPlateau):
        with pytest.raises(TypeError):
            scheduler(optimizer.param_groups, 1)
        assert scheduler(optimizer, *([1] if scheduler is lr_scheduler.StepLR else [])).optimizer is optimizer


@over(ONE_GROUP)
def test_a_group_added_under_a_scheduler(case):
    """Its rate moves with the others from then on, where the scheduler knows of it."""

    def do(optimizer, problem):
        late = case.problem()
        scheduler = lr_scheduler.LambdaLR(optimizer, [lambda k: 0.9**k])
        rates = drive(optimizer, problem, scheduler, 2)
        optimizer.add_param_group({"params": late.params, "initial_lr": 0.5, "lr": 0.5})
        scheduler.base_lrs.append(0.5)
        scheduler.lr_lambdas.append(lambda k: 0.5**k)
        late.loss()
        return [*rates, *drive(optimizer, problem, scheduler, 2), late.points()]

    both(case, do)


@over(DEFAULTS)
def test_averaged_model(case):
    """Stochastic weight averaging: the average of the points of ours is that of torch's."""
    seen = []
    for make in (case.ours, case.torchs):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=False)
        averaged = swa_utils.AveragedModel(model)
        optimizer = make(model.parameters())
        scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
        for k in range(4):
            model.weight.grad = model.weight.detach() - k
            optimizer.step(*([lambda: torch.tensor(1.0)] if case.info.step_requires_closure else []))
            averaged.update_parameters(model)
            scheduler.step()
        seen.append([averaged.module.weight, model.weight])
    same(*seen)


def test_cycles_move_momenta():
    """Of those that have one: momentum, or the first of betas, goes down while the rate goes up."""
    for case in (Case(case.info, "", {"momentum": 0.5} if case.name in {"SGD", "RMSprop"} else {}) for case in DEFAULTS):
        problem = case.problem()
        optimizer = case.ours(problem.params)
        if not cycles(optimizer):
            continue
        rates = drive(optimizer, problem, SCHEDULERS["OneCycleLR"](optimizer))
        momenta = [groups[0]["betas"][0] if "betas" in groups[0] else groups[0]["momentum"] for groups in rates]
        assert momenta[0] > momenta[1]
        assert rates[0][0]["lr"] < rates[1][0]["lr"]
        assert max(momenta) == pytest.approx(0.95, abs=0.06)
