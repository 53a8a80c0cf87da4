"""What constructors accept and refuse, and what stands in the groups afterwards."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from cases import DEFAULTS, EVERY, FEWER, INFOS, PLAIN, SKIPS, Case, Problem, groups, over, play, same, step
from torch import nn
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

from thalweg import optim


def errors():
    """Every wrong input of the data base."""
    for info in INFOS.values():
        for error in info.optim_error_inputs_func("cpu", torch.float32):
            wrong = error.optimizer_error_input
            yield pytest.param(info.name, error, id=Case(info, wrong.desc, {}).id)


def outcome(make, options, dtype=torch.float32):
    """How far a class comes with the options: the points after two steps, or the type of error that construction or a step end in."""
    problem = Problem([(3, 2), (1, 4)], dtype, trained=not options.get("differentiable"))
    try:
        optimizer = make(problem.params, **options)
    except Exception as error:
        return "construction", type(error)
    try:
        play(optimizer, problem, steps=2)
    except Exception as error:
        return "step", type(error)
    return "done", problem.points()


@pytest.mark.parametrize("name", [info.name for info in optim_db])
def test_the_class_is_ours(name):
    if reason := SKIPS.get((name, EVERY)):
        pytest.skip(reason)
    ours = getattr(optim, name)
    assert ours.__name__ == name
    assert issubclass(ours, torch.optim.Optimizer)


@over(DEFAULTS)
def test_arguments(case):
    """Every argument of torch's class is one of ours, by position where torch takes it by position."""
    params = case.problem().params
    _, *known = inspect.signature(getattr(torch.optim, case.name)).parameters.values()
    assert all(argument.default is not argument.empty for argument in known)
    by_place = [argument.default for argument in known if argument.kind is argument.POSITIONAL_OR_KEYWORD]
    by_name = {argument.name: argument.default for argument in known if argument.kind is argument.KEYWORD_ONLY}
    expected = groups(getattr(torch.optim, case.name)(params))
    same(groups(getattr(optim, case.name)(params, *by_place, **by_name)), expected)
    same(groups(getattr(optim, case.name)(params, **{argument.name: argument.default for argument in known})), expected)
    moved = [2 * value if isinstance(value, float) and 2 * value < 1 else value for value in by_place]
    same(groups(getattr(optim, case.name)(params, *moved)), groups(getattr(torch.optim, case.name)(params, *moved)))


def test_skips_are_of_tests():
    """Every line of the table is about a class of the data base and a test of this folder."""
    tests = {name for path in Path(__file__).parent.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    for name, test in SKIPS:
        assert name in {info.name for info in optim_db} | {EVERY}
        assert test in tests | {EVERY}


@pytest.mark.parametrize(("name", "error"), list(errors()))
def test_errors(name, error):
    wrong = error.optimizer_error_input
    params = [nn.Parameter(torch.randn(1, 1))] if wrong.params is None else wrong.params
    make = getattr(optim, name)
    if issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            make(params, **wrong.kwargs)
    elif error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(error.error_type, match=error.error_regex):
            make(params, **wrong.kwargs)
    else:
        optimizer = make(params, **wrong.kwargs)
        with pytest.raises(error.error_type, match=error.error_regex):
            optimizer.step()


FLAGS = (
    {"foreach": True}, {"fused": True}, {"capturable": True}, {"differentiable": True}, {"maximize": True},
    {"foreach": True, "fused": True}, {"foreach": True, "differentiable": True}, {"fused": True, "differentiable": True},
    {"foreach": True, "capturable": True}, {"foreach": False, "fused": False}, {"foreach": False, "capturable": True},
    {"foreach": True, "maximize": True}, {"fused": True, "maximize": True}, {"differentiable": True, "maximize": True},
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=["real", "complex"])
@over(DEFAULTS)
def test_flags_accepted_and_refused(case, dtype):
    """On a CPU: accepted where torch accepts them, refused by the same type of error where they do not go together.

    A flag that torch's class has not, or not on a CPU or for complex numbers, ours may have; it then changes nothing.
    """
    for flags in FLAGS:
        stage, theirs = outcome(case.torchs, flags, dtype)
        reached, ours = outcome(case.ours, flags, dtype)
        clash = flags.get("fused") and (flags.get("foreach") or flags.get("differentiable"))
        if stage == "done":
            assert reached == "done", (flags, ours)
            same(ours, theirs, where=str(flags))
        elif clash and issubclass(theirs, RuntimeError):
            assert (reached, ours) == (stage, theirs), flags
        elif reached == "done":
            plain = {flag: on for flag, on in flags.items() if flag == "maximize"}
            same(ours, outcome(case.ours, plain, dtype)[1], where=str(flags))


@over(DEFAULTS)
def test_options_refused(case):
    """An option out of its range is a ValueError where torch has an error, not later than there; one that nobody knows is a TypeError."""
    for options in (
        {"lr": -0.1}, {"lr": torch.ones(2)}, {"eps": -1.0}, {"eps": (-1.0, 1e-3)}, {"eps": (None, -1.0)}, {"weight_decay": -0.5},
        {"betas": (0.9, 1.5)}, {"betas": (-0.1, 0.9)}, {"momentum": -0.5}, {"rho": -0.1}, {"nesterov": True}, {"alpha": -0.5},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, {"lr_decay": -1.0}, {"lambd": -1.0}, {"initial_accumulator_value": -0.1},
        {"momentum_decay": -1.0}, {"etas": (1.5, 0.5)}, {"step_sizes": (1.0, 0.5)}, {"d": 0.5}, {"beta2_decay": 0.5},
        {"adjust_lr_fn": "none"}, {"line_search_fn": "none"}, {"ns_steps": 200},
    ):  # fmt: skip
        stage, theirs = outcome(case.torchs, options)
        if stage != "done" and issubclass(theirs, ValueError | RuntimeError):
            reached, ours = outcome(case.ours, options)
            assert reached in ("construction", stage), options
            assert issubclass(ours, ValueError | theirs), options
    with pytest.raises(TypeError):
        case.ours(case.problem().params, nothing=1)


@over(FEWER)
def test_groups_and_defaults(case):
    params = case.problem().params
    ours, theirs = case.ours(params), case.torchs(params)
    same(groups(ours), groups(theirs), 0.0)
    same(ours.defaults, theirs.defaults, 0.0)
    assert len(ours.state) == len(theirs.state)
    assert ours.param_groups[0]["params"] is not params
    assert all(one is other for one, other in zip(ours.param_groups[0]["params"], params, strict=True))


@over(DEFAULTS)
def test_can_be_printed(case):
    """The class, and every option of every group, a line each."""
    params = case.problem().params
    ours, theirs = str(case.ours(params)).split("\n"), repr(case.torchs(params)).split("\n")
    assert ours[:2] == theirs[:2] == [f"{case.name} (", "Parameter Group 0"]
    assert {line.split(":")[0] for line in theirs} <= {line.split(":")[0] for line in ours}


@over([case for case in DEFAULTS if case.info.supports_param_groups])
def test_groups_override(case):
    """What a group names is its own; the rest comes from the constructor."""
    first, second = case.problem().params[:2]
    optimizer = case.ours([{"params": first, "lr": 0.5}, {"params": [second]}], lr=0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    optimizer.add_param_group({"params": nn.Parameter(torch.zeros(2, 2)), "lr": 0.125})
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25, 0.125]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [first]})
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([first])


@over(DEFAULTS)
def test_groups_keep_what_is_put_into_them(case):
    """Entries that are no option, such as a name that a script knows its groups by, stay as they are."""
    problem = case.problem()
    optimizer = case.ours([{"params": problem.params, "mine": "kept"}])
    play(optimizer, problem, steps=1)
    optimizer.param_groups[0]["later"] = 1
    play(optimizer, problem, steps=1)
    assert optimizer.param_groups[0]["mine"] == "kept"
    assert optimizer.state_dict()["param_groups"][0]["mine"] == "kept"


@over(DEFAULTS)
def test_parameters_in_any_order_that_stands(case):
    """A list, a generator, the values of a dict; no set, nothing empty, no number, nothing computed."""
    params = case.problem().params
    for form in (params, tuple(params), (param for param in params), dict(enumerate(params)).values()):
        found = case.ours(form).param_groups[0]["params"]
        assert all(one is other for one, other in zip(found, params, strict=True))
    with pytest.raises(ValueError, match="empty parameter list"):
        case.ours([])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        case.ours([1.0])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        case.ours([params[0] * 2])
    with pytest.raises(TypeError, match="ordered collections"):
        case.ours([{"params": set(params)}])


@over(DEFAULTS)
def test_names_of_parameters(case):
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False))
    optimizer = case.ours(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "1.weight"]
    assert all(one is other for one, other in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
    assert "param_names" not in case.ours(model.parameters()).param_groups[0]
    if case.info.supports_param_groups:
        optimizer.add_param_group({"params": [("mine", nn.Parameter(torch.zeros(2, 2)))]})
        assert optimizer.param_groups[1]["param_names"] == ["mine"]


@over(PLAIN)
def test_parameters_without_numbers(case):
    """On the device meta there is nothing to compute: a step is taken where torch's class takes one."""
    outcomes = []
    for make in (case.ours, case.torchs):
        param = nn.Parameter(torch.empty(3, 2, device="meta"))
        param.grad = torch.empty(3, 2, device="meta")
        try:
            step(make([param]))
            outcomes.append(None)
        except Exception as error:
            outcomes.append(type(error))
    ours, theirs = outcomes
    assert ours is None or theirs is not None
