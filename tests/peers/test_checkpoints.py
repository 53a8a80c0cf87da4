"""State dicts, copies and pickles: what goes into them, what comes back, and that an optimizer goes on from there as before."""

import io
import pickle
from copy import deepcopy

import pytest
import torch
from cases import DEFAULTS, FEWER, INPUTS, PLAIN, TOLERANCE, VARIED, groups, over, play, same, states, step
from torch import nn


def started(case, make=None, steps=3, **problem):
    """An optimizer some steps on its way, and its problem."""
    problem = case.problem(**problem)
    optimizer = (make or case.ours)(problem.params)
    play(optimizer, problem, steps)
    return optimizer, problem


def twin(problem, like):
    """The problem at the points of another."""
    with torch.no_grad():
        for param, point in zip(problem.params, like.params, strict=True):
            param.copy_(point)
    return problem


def goes_on_alike(case, optimizer, problem, other, others, tolerance=0.0):
    same(play(optimizer, problem, 3), play(other, others, 3), tolerance)
    same(states(optimizer), states(other), tolerance)


def loaded(case, saved, problem, make=None, **more):
    """An optimizer with a state dict of its own (torch's loading shares tensors that need no cast), and its problem at the same points."""
    others = twin(case.problem(**more), problem)
    other = (make or case.ours)(others.params)
    other.load_state_dict(deepcopy(saved))
    return other, others


def numbers(state):
    """The states of a parameter's shape or part of it, copied: of those of one number torch's loading changes the dtype at times."""
    return {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor) and value.dim()}


@over(FEWER)
def test_loaded_goes_on_alike(case):
    """One loaded from another's state dict steps as the other does, to the last bit."""
    optimizer, problem = started(case)
    other, others = loaded(case, optimizer.state_dict(), problem)
    same(other.state_dict(), optimizer.state_dict(), 0.0)
    goes_on_alike(case, optimizer, problem, other, others)


@over(VARIED)
def test_loaded_across(case):
    """A state dict of torch's class loads into ours, and one of ours into torch's; either goes on as the other class does from there."""
    for of in (case.torchs, case.ours):
        optimizer, problem = started(case, of, dtype=torch.float64)
        found = []
        for make in (case.ours, case.torchs):
            other, others = loaded(case, optimizer.state_dict(), problem, make, dtype=torch.float64)
            found.append([play(other, others, 3), [numbers(state) for state in states(other)]])
        same(*found, case.tolerance)


@over(FEWER)
def test_form_of_a_state_dict(case):
    """As torch's: parameters by number, states by those numbers; loading leaves the dict as it was."""
    ours, _ = started(case)
    theirs, _ = started(case, case.torchs)
    saved = ours.state_dict()
    same(saved["state"], theirs.state_dict()["state"], case.tolerance)
    assert set(theirs.state_dict()["param_groups"][0]) <= set(saved["param_groups"][0])
    assert set(saved) == {"state", "param_groups"}
    assert saved["param_groups"][0]["params"] == list(range(len(case.shapes)))
    before = deepcopy(saved)
    case.ours(case.problem().params).load_state_dict(saved)
    same(saved, before, 0.0)
    same(case.ours(case.problem().params).state_dict()["state"], case.torchs(case.problem().params).state_dict()["state"])


@over(VARIED)
def test_state_dict_without_later_options(case):
    """A state dict from before an option was there loads, and the optimizer goes on as with the option's default."""
    optimizer, problem = started(case)
    saved = deepcopy(optimizer.state_dict())
    later = [option for option in case.info.not_og_supported_flags if option in saved["param_groups"][0]]
    for group in saved["param_groups"]:
        for option in later:
            del group[option]
    other, others = loaded(case, saved, problem)
    assert set(later) <= set(other.param_groups[0])
    assert all(not other.param_groups[0][option] for option in later)
    if not case.options.get("maximize"):
        goes_on_alike(case, optimizer, problem, other, others)
    step(other)


@over(VARIED)
def test_step_saved_as_a_number(case):
    """Steps were plain numbers once."""
    optimizer, problem = started(case)
    saved = deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = float(state["step"])
    other, others = loaded(case, saved, problem)
    goes_on_alike(case, other, others, optimizer, problem)


@over(VARIED)
def test_saved_and_loaded_by_torch(case):
    """`torch.load` takes the file with weights_only, and what comes back is what was saved."""
    optimizer, problem = started(case)
    saved = optimizer.state_dict()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    same(read, saved, 0.0)
    other, others = loaded(case, read, problem)
    goes_on_alike(case, optimizer, problem, other, others)


@over(VARIED)
def test_pickled(case):
    """The optimizer itself, with its parameters."""
    optimizer, problem = started(case)
    back = pickle.loads(pickle.dumps(optimizer))
    assert type(back) is type(optimizer)
    assert repr(back) == repr(optimizer)
    same(states(back), states(optimizer), 0.0)
    others = case.problem()
    others.params = back.param_groups[0]["params"]
    goes_on_alike(case, back, others, optimizer, problem)


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


@over(PLAIN)
def test_copies_have_all_public_attributes(case):
    optimizer, problem = started(case, steps=0)
    assert public(deepcopy(optimizer)) == public(optimizer)
    play(optimizer, problem)
    assert public(deepcopy(optimizer)) == public(optimizer)
    same(states(deepcopy(optimizer)), states(optimizer), 0.0)


@over(VARIED)
def test_copies_go_on_by_themselves(case):
    """The one copied does not notice."""
    optimizer, problem = started(case)
    before = deepcopy([problem.points(), states(optimizer)])
    copied, others = deepcopy((optimizer, problem))
    assert all(one is other for one, other in zip(copied.param_groups[0]["params"], others.params, strict=True))
    play(*deepcopy((copied, others)), 2)
    same([problem.points(), states(optimizer)], before, 0.0)
    goes_on_alike(case, copied, others, optimizer, problem)


@over(PLAIN)
def test_copied_by_hand(case):
    """Parameters, options and states, copied one by one: there is no state anywhere else."""
    optimizer, problem = started(case)
    others = twin(case.problem(), problem)
    other = case.ours(others.params)
    for param, own in zip(problem.params, others.params, strict=True):
        if param in optimizer.state:
            other.state[own] = deepcopy(optimizer.state[param])
    goes_on_alike(case, other, others, optimizer, problem)


@over(PLAIN)
def test_loaded_into_another_dtype(case):
    """States take the dtype of the parameters that they come to, but for the step's count; as in torch."""
    found = []
    for make in (case.ours, case.torchs):
        optimizer, problem = started(case, make)
        other, others = loaded(case, optimizer.state_dict(), problem, make, dtype=torch.float64)
        found.append([[numbers(state) for state in states(other)], play(other, others, 2)])
    same(*found, TOLERANCE | {torch.float64: 1e-5})


@over(DEFAULTS)
def test_a_state_dict_that_does_not_fit(case):
    optimizer, problem = started(case)
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        case.ours(problem.params[:2]).load_state_dict(saved)
    more = saved | {"param_groups": saved["param_groups"] * 2}
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(more)


@over(DEFAULTS)
def test_options_come_with_the_state(case):
    """The options of a loaded group replace those of the constructor, unknown ones among them; entries of no parameter stay."""
    saved = deepcopy(started(case)[0].state_dict())
    saved["param_groups"][0] |= {"lr": 0.125, "mine": "kept"}
    saved["state"]["of no parameter"] = {"mine": 1}
    other = case.ours(case.problem().params)
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.125
    assert other.param_groups[0]["mine"] == "kept"
    assert other.state["of no parameter"] == {"mine": 1}
    assert other.defaults["lr"] == case.default("lr")


@pytest.mark.parametrize("named", ["both", "saved", "loading", "neither"])
@over(DEFAULTS)
def test_names_in_state_dicts(case, named):
    """Names travel with the groups, into those that have none too; where one side has none, states go by position."""

    def model():
        return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))

    def params(of, are_named):
        return of.named_parameters() if are_named else of.parameters()

    torch.manual_seed(0)
    first, second = model(), model()
    optimizer = case.ours(params(first, named in {"both", "saved"}))
    for param in first.parameters():
        param.grad = torch.ones_like(param) / 3
    for _ in range(3):
        step(optimizer)
    saved = optimizer.state_dict()
    other = case.ours(params(second, named in {"both", "loading"}))
    other.load_state_dict(deepcopy(saved))
    same(states(other), states(optimizer), 0.0)
    assert other.param_groups[0].get("param_names") == (None if named == "neither" else ["0.weight", "1.weight"])
    assert ("param_names" in saved["param_groups"][0]) == (named in {"both", "saved"})
    second.load_state_dict(first.state_dict())
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        two.grad = one.grad.clone()
    step(optimizer)
    step(other)
    same(list(second.parameters()), list(first.parameters()), 0.0)


@over([case for case in DEFAULTS if case.info.supports_param_groups])
def test_states_by_name(case):
    """A hook before loading may put the states of one order into another by the names."""
    optimizer, problem = started(case)
    names = [f"p{k}" for k in range(len(problem.params))]
    optimizer = case.ours(zip(names, problem.params, strict=True))
    play(optimizer, problem)
    others = case.problem()
    other = case.ours(list(zip(names, others.params, strict=True))[::-1])

    def by_name(self, saved):
        order = [saved["param_groups"][0]["param_names"].index(name) for name in self.param_groups[0]["param_names"]]
        return {
            "state": {k: saved["state"][place] for k, place in enumerate(order) if place in saved["state"]},
            "param_groups": [saved["param_groups"][0] | {"param_names": names[::-1]}],
        }

    other.register_load_state_dict_pre_hook(by_name)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    twin(others, problem)
    same(play(other, others), play(optimizer, problem))
    assert groups(other)[0]["param_names"] == names[::-1]


@over([case for case in INPUTS if case.name in {"Adam", "AdamW"} and case.options.get("amsgrad")])
def test_option_turned_on_by_hand(case):
    """A group whose option was off when its states began; torch says what it lacks, or goes on."""
    found = []
    for make in (case.ours, case.torchs):
        problem = case.problem()
        optimizer = make(problem.params, amsgrad=False)
        play(optimizer, problem, 2)
        optimizer.param_groups[0]["amsgrad"] = True
        try:
            play(optimizer, problem, 1)
            found.append(problem.points())
        except Exception as error:
            found.append([type(error)])
    if all(isinstance(point, torch.Tensor) for point in found[1]):
        same(*found)
    else:  # what torch cannot do, ours may
        assert all(not isinstance(point, torch.Tensor) or bool(torch.isfinite(point).all()) for point in found[0])


def test_loading_between_classes():
    """Adam's state dict loads into AdamW, whose decay stays its own."""
    adam, adamw = (next(case for case in DEFAULTS if case.name == name) for name in ("Adam", "AdamW"))
    found = []
    for first, second in ((adam.ours, adamw.ours), (adam.torchs, adamw.torchs)):
        optimizer, problem = started(adam, first)
        other = second(problem.params)
        other.load_state_dict(optimizer.state_dict())
        other.param_groups[0]["weight_decay"] = 0.1
        found.append(play(other, problem))
    same(*found)
