"""The contract of `thalweg.optim`: every class, on every engine, steps as torch's does, or as the paper's formula, and breaks nothing."""

from __future__ import annotations

import copy
import io
import math
import pickle
import sys
from functools import partial
from typing import Annotated

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thalweg as tw
from optim_cases import (
    ENGINES,
    FIXED,
    RULED,
    STEPPED,
    TORCH,
    TWINS,
    apart,
    element,
    flat,
    parameters,
    same,
    slopes,
    walked,
)
from thalweg import optim
from thalweg.core import Decay, Domain, Rate, zeros
from thalweg.engine.numbers import numbers_of
from thalweg.engine.recording import kernel


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors are quicker so, and other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def alike(a, b):
    """Whether states are equal bit for bit."""
    return all(torch.equal(v, w) for s, r in zip(a, b, strict=True) for v, w in zip(s.values(), r.values(), strict=True))


# --- parity: options by class; the first is the default

COMMON = ({}, {"lr": 0.02}, {"weight_decay": 0.1}, {"lr": 0.01, "maximize": True, "weight_decay": 0.05})
DECOUPLED = ({"decoupled_weight_decay": True, "weight_decay": 0.1},)
MOMENTS = ({"betas": (0.5, 0.9), "eps": 1e-4}, {"betas": (0.0, 0.99)})
OPTIONS = {
    "SGD": (
        *COMMON, {"lr": 0.02, "momentum": 0.9}, {"lr": 0.02, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    "Adagrad": (*COMMON, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.5, "eps": 1e-3}),
    "RMSprop": (*COMMON, {"alpha": 0.9, "eps": 1e-4}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.5}),
    "Adadelta": (*COMMON, {"rho": 0.5, "eps": 1e-3}),
    "Adam": (*COMMON, *MOMENTS, *DECOUPLED, {"amsgrad": True}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    "AdamW": (*COMMON, *MOMENTS, {"amsgrad": True}),
    "Adamax": (*COMMON, *MOMENTS),
    "NAdam": (*COMMON, *MOMENTS, *DECOUPLED, {"momentum_decay": 0.1}),
    "RAdam": (*COMMON, *MOMENTS, *DECOUPLED),
    "Rprop": ({}, {"lr": 0.02}, {"etas": (0.3, 1.5)}, {"step_sizes": (1e-3, 0.1), "maximize": True}),
    "ASGD": (*COMMON, {"lambd": 0.01, "alpha": 0.5}, {"t0": 20.0}),
    "Adafactor": (*COMMON, {"d": 2.0}, {"beta2_decay": -0.5}, {"eps": (1e-6, 1e-2)}),
    "Muon": (
        {}, {"lr": 0.02}, {"weight_decay": 0.3, "momentum": 0.5}, {"nesterov": False}, {"ns_steps": 3}, {"adjust_lr_fn": "match_rms_adamw"},
        {"ns_coefficients": (3.0, -4.0, 2.0)},
    ),
}  # fmt: skip
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]
NAMED = [f"{name}-{'-'.join(options) or 'default'}" for name, options in CASES]
PRECISE = {torch.float32: 1e-5, torch.float64: 1e-10}


def test_every_class_of_torch_is_tried():
    assert set(OPTIONS) == set(TORCH)
    classes = {n: v for n, v in vars(torch.optim).items() if isinstance(v, type)}
    theirs = {n for n, v in classes.items() if issubclass(v, torch.optim.Optimizer)}
    assert theirs - set(TORCH) == {"Optimizer", "SparseAdam", "LBFGS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMED)
def test_a_hundred_steps_as_torch(name, options, dtype):
    with numbers_of(dtype):
        theirs = parameters(name, dtype)
        start = flat(theirs)
        walked(getattr(torch.optim, name), theirs, 100, **options)
        for engine in ENGINES if element(name) else ENGINES[:1]:
            ours = parameters(name, dtype)
            optimizer = walked(getattr(optim, name), ours, 100, engine=engine, **options)
            assert apart(ours, theirs, start) <= PRECISE[dtype], engine
            assert set(optimizer.param_groups[0]) >= set(getattr(torch.optim, name)(theirs).param_groups[0])


@pytest.mark.parametrize("name", TORCH)
def test_groups_with_options_of_their_own_and_tied_parameters_as_torch(name):
    ends = []
    for library in (torch.optim, optim):
        params = parameters(name, torch.float64)
        half = len(params) // 2
        groups = [{"params": params[:half], "lr": 0.02}, {"params": params[half:]}]
        if name != "Rprop":
            groups[1]["weight_decay"] = 0.3
        with numbers_of(torch.float64):
            walked(lambda _, groups=groups, library=library: getattr(library, name)(groups), params, 60)
            tied = torch.nn.Linear(3, 3).double()
            torch.manual_seed(0)
            twice = torch.nn.Sequential(tied, tied)
            for p in twice.parameters():
                p.data = torch.linspace(-1, 1, p.numel(), dtype=torch.float64).view(p.shape)
            chosen = [p for p in twice.parameters() if name != "Muon" or p.dim() == 2]
            optimizer = getattr(library, name)(chosen, lr=0.01)
            for _ in range(20):
                optimizer.zero_grad()
                twice(torch.eye(3, dtype=torch.float64)).square().sum().backward()
                optimizer.step()
        ends.append([*params, *chosen])
    assert apart(ends[1], ends[0], flat(ends[0])) <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", TWINS)
def test_a_hundred_steps_as_the_twin(name, dtype):
    cases = [{}, {"lr": 0.005, "weight_decay": 0.05}] if name != "Prodigy" else [{}, {"lr": 0.5, "d0": 1e-3}]
    for options in cases:
        with numbers_of(dtype):
            theirs = parameters(name, dtype)
            start = flat(theirs)
            walked(TWINS[name], theirs, 100, **FIXED.get(name, {}), **options)
            for engine in ENGINES if element(name) else ENGINES[:1]:
                ours = parameters(name, dtype)
                walked(getattr(optim, name), ours, 100, engine=engine, **FIXED.get(name, {}), **options)
                assert apart(ours, theirs, start) <= PRECISE[dtype], engine


def test_lbfgs_as_torch_and_finite_where_torch_is_not():
    def rosenbrock(x):
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    for options in ({"lr": 0.1}, {"line_search_fn": "strong_wolfe"}, {"history_size": 3, "max_iter": 5, "line_search_fn": "strong_wolfe"}):
        ends = []
        for library, sign in ((torch.optim, 1), (optim, 1), (optim, -1)):
            x = torch.linspace(-1, 1.5, 6, dtype=torch.float64).requires_grad_()
            optimizer = library.LBFGS([x], **options, **({"maximize": True} if sign < 0 else {}))

            def closure(x=x, optimizer=optimizer, sign=sign):
                optimizer.zero_grad()
                loss = sign * rosenbrock(x)
                loss.backward()
                return loss

            for _ in range(15):
                optimizer.step(closure)
            ends.append([x])
        assert apart(ends[1], ends[0], flat(ends[0])) <= 1e-10
        assert same(ends[1], ends[2])
    x = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
    optimizer = optim.LBFGS([x])

    def barrier():
        optimizer.zero_grad()
        loss = (x - x.log()).sum()
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(barrier)
    assert x.item() == pytest.approx(1.0, abs=1e-6)


# --- invariants


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STEPPED)
def test_gradients_are_not_changed_and_maximize_is_minimize_of_minus_f(name, engine):
    up, down = parameters(name), parameters(name)
    first = getattr(optim, name)(up, engine=engine, maximize=True, **FIXED.get(name, {}))
    second = getattr(optim, name)(down, engine=engine, **FIXED.get(name, {}))
    for t in range(12):
        slopes(down, t)
        for p, q in zip(up, down, strict=True):
            p.grad = None if q.grad is None else -q.grad
        before = [None if p.grad is None else p.grad.clone() for p in (*up, *down)]
        places = [None if p.grad is None else p.grad.data_ptr() for p in (*up, *down)]
        first.step()
        second.step()
        for p, g, place in zip((*up, *down), before, places, strict=True):
            assert (p.grad is None) == (g is None)
            assert g is None or (torch.equal(p.grad, g) and p.grad.data_ptr() == place)
    assert same(up, down)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STEPPED)
def test_saving_loading_copying_and_pickling_continue_bit_for_bit(name, engine):
    options = {"engine": engine, **FIXED.get(name, {})}
    params = parameters(name)
    optimizer = walked(getattr(optim, name), params, 7, **options)
    stored = io.BytesIO()
    torch.save([optimizer.state_dict(), params], stored)
    ends = []
    for way in ("go on", "load", "copy", "pickle"):
        if way == "load":
            stored.seek(0)
            state, kept = torch.load(stored, weights_only=True)
            again = getattr(optim, name)(kept, lr=0.5, **options)
            again.load_state_dict(state)
        elif way in ("copy", "pickle"):
            kept, again = (copy.deepcopy if way == "copy" else lambda v: pickle.loads(pickle.dumps(v)))((params, optimizer))
        else:
            continue
        ends.append((kept, again))
    for kept, again in [*ends, (params, optimizer)]:
        for t in range(7, 14):
            slopes(kept, t)
            again.step()
    for kept, again in ends:
        assert same(kept, params)
        assert again._options == optimizer._options
        assert alike(again.state.values(), optimizer.state.values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [n for n in STEPPED if n != "Prodigy"])
def test_two_groups_are_two_optimizers(name, engine):
    options = {"engine": engine, **FIXED.get(name, {})}
    one, two = parameters(name), parameters(name)
    half = len(one) // 2
    grouped = getattr(optim, name)([{"params": one[:half]}, {"params": one[half:], "lr": 0.003}], **options)
    parts = [getattr(optim, name)(two[:half], **options), getattr(optim, name)(two[half:], lr=0.003, **options)]
    for t in range(10):
        for params, several in ((one, [grouped]), (two, parts)):
            slopes(params, t)
            for optimizer in several:
                optimizer.step()
    assert same(one, two)


def test_prodigy_sees_all_groups_as_one():
    one, two = parameters("Prodigy", torch.float64), parameters("Prodigy", torch.float64)
    walked(optim.Prodigy, one, 20)
    walked(lambda p: optim.Prodigy([{"params": p[:4]}, {"params": p[4:]}]), two, 20)
    assert same(one, two)
    assert "two groups are not two optimizers" in (optim.Prodigy.__doc__ or "")


@pytest.mark.parametrize("name", STEPPED)
def test_permuted_named_parameters_load_right(name):
    names = [f"layer{i}" for i in range(len(parameters(name)))]
    params = parameters(name)
    optimizer = getattr(optim, name)(list(zip(names, params, strict=True)), **FIXED.get(name, {}))
    for t in range(5):
        slopes(params, t, sparse=False)
        optimizer.step()
    other = [p.detach().clone().requires_grad_() for p in params]
    turned = getattr(optim, name)(list(zip(names, other, strict=True))[::-1], **FIXED.get(name, {}))
    turned.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, other, strict=True):
        for key, value in optimizer.state[p].items():
            assert torch.equal(turned.state[q][key], value)
    for t in range(5, 10):
        slopes(params, t, sparse=False)
        for p, q in zip(params, other, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        turned.step()
    assert apart(other, params, flat(params)) < 1e-6


def test_other_names_are_refused_and_renamed_ones_go_by_place():
    a, b = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = walked(lambda p: optim.Adam([("a", p[0]), ("b", p[1])]), [a, b], 3)
    with pytest.raises(ValueError, match="names other parameters: b only there; c only here"):
        optim.Adam([("a", a), ("c", b)]).load_state_dict(optimizer.state_dict())
    renamed = optim.Adam([("x", a), ("y", b)])
    renamed.load_state_dict(optimizer.state_dict())
    assert torch.equal(renamed.state[a]["exp_avg"], optimizer.state[a]["exp_avg"])


def test_a_state_of_another_shape_is_refused():
    optimizer = walked(optim.Adam, [torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)], 2, sparse=False)
    other = optim.Adam([torch.ones(4, requires_grad=True), torch.ones(2, 3, requires_grad=True)])
    with pytest.raises(ValueError, match=r"'exp_avg' of shape \(2, 3\) for a parameter of shape \(4,\).*give names"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@pytest.mark.parametrize("name", RULED)
def test_steps_without_gradients_do_nothing(name):
    params = parameters(name)
    before = [p.detach().clone() for p in params]
    optimizer = getattr(optim, name)(params)
    optimizer.step()
    assert same(params, before)
    assert not optimizer.state or optimizer.naming.eager
    if name in STEPPED:
        slopes(params, 1)
        optimizer.step()
        state = copy.deepcopy(list(optimizer.state.values()))
        before = [p.detach().clone() for p in params]
        optimizer.zero_grad()
        optimizer.step()
        assert same(params, before)
        assert alike(optimizer.state.values(), state)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", STEPPED)
def test_bfloat16_parameters_train_with_float32_states_when_asked(name, engine):
    lr = {"Adadelta": 1.0, "Prodigy": 1.0, "LARS": 1.0}.get(name, 0.02)
    for dtype, kept in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        params = parameters(name, torch.bfloat16)
        exact = parameters(name, torch.float32)
        options = {"lr": lr, **FIXED.get(name, {}), **({"momentum": 0.9} if name == "SGD" else {})}
        optimizer = walked(getattr(optim, name), params, 15, engine=engine, state_dtype=dtype, **options)
        walked(getattr(optim, name), exact, 15, **options)
        assert {p.dtype for p in params} == {torch.bfloat16}
        states = [(p, n, s) for p, found in optimizer.state.items() for n, s in found.items() if n not in ("step", "x0")]
        assert {s.dtype for p, _, s in states if s.shape == p.shape and s.dim()} == {kept}
        assert apart(params, exact, flat(exact)) < 0.15


@pytest.mark.parametrize("name", STEPPED)
def test_complex_parameters_are_stepped_as_pairs_or_refused(name):
    shape = (3, 4)
    z = torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(3)).requires_grad_()
    pairs = torch.view_as_real(z.detach()).clone().requires_grad_()
    optimizer = getattr(optim, name)([z])
    if name in ("Muon", "LARS", "LAMB", "Adafactor", "SOAP"):
        z.grad = torch.ones_like(z)
        with pytest.raises(RuntimeError, match=f"{name} does not support complex parameters"):
            optimizer.step()
        return
    for engine in ENGINES:
        w, q = z.detach().clone().requires_grad_(), pairs.detach().clone().requires_grad_()
        optimizer, twin = getattr(optim, name)([w], engine=engine), getattr(optim, name)([q], engine=engine)
        for t in range(6):
            q.grad = torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(t)) + q.detach()
            w.grad = torch.view_as_complex(q.grad)
            optimizer.step()
            twin.step()
        assert torch.equal(torch.view_as_real(w.detach()), q.detach())


@pytest.mark.parametrize("name", STEPPED)
def test_sparse_gradients_step_their_rows_or_are_refused(name):
    p = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    q = p.detach().clone().requires_grad_()
    optimizer, dense = getattr(optim, name)([p]), getattr(optim, name)([q])
    for t in range(4):
        rows = torch.tensor([[0, 3, 3, t]])
        p.grad = torch.sparse_coo_tensor(rows, torch.full((4, 3), 0.5 + t, dtype=torch.float64), p.shape, check_invariants=True)
        q.grad = p.grad.to_dense()
        if name not in ("SGD", "Adagrad"):
            before = p.detach().clone()
            with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
                optimizer.step()
            assert torch.equal(p.detach(), before)
            return
        optimizer.step()
        dense.step()
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-14)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse gradients"):
        optimizer.step()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6),
    st.sampled_from(["Adam", "SGD", "NAdam", "Adagrad", "Adafactor", "LAMB"]),
    st.integers(0, 2**16),
)
def test_any_shapes_on_any_engine(shapes, name, seed):
    ends = []
    for engine in ENGINES:
        generator = torch.Generator().manual_seed(seed)
        params = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
        optimizer = getattr(optim, name)(params, engine=engine, lr=0.02)
        for _ in range(4):
            for p in params:
                p.grad = (
                    torch.randn(p.shape, generator=generator, dtype=torch.float64) if torch.rand((), generator=generator) < 0.8 else None
                )
            optimizer.step()
        ends.append(params)
    for params in ends[1:]:
        torch.testing.assert_close(flat(params), flat(ends[0]), rtol=1e-11, atol=1e-11)


# --- what users do between steps


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_stay_the_users_own(engine):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.01, engine=engine)
    owned = [p.data_ptr() for p in model.parameters()]

    def step():
        optimizer.zero_grad()
        model(torch.ones(5, 4, dtype=model[0].weight.dtype)).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    assert [p.data_ptr() for p in model.parameters()] == owned
    stored = io.BytesIO()
    torch.save(model[0].bias, stored)
    assert stored.tell() < 3000
    model.double()  # the storage moves, the states stay what they were
    before = [p.detach().clone() for p in model.parameters()]
    step()
    assert not same(list(model.parameters()), before)
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = None
    frozen = model[0].weight.detach().clone()
    step()
    assert torch.equal(model[0].weight, frozen)
    extra = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    extra.grad = torch.ones(2, dtype=torch.float64)
    step()  # which clears it
    extra.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert (extra < 1).all()
    assert float(optimizer.state[extra]["step"]) == 1


def test_states_replaced_or_moved_between_steps_are_seen():
    p, q = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer = walked(optim.Adam, [p, q], 4, sparse=False)
    optimizer.state[p]["exp_avg"] = torch.zeros(4)
    optimizer.state[q]["exp_avg_sq"].fill_(1e12)
    kept = q.detach().clone()
    p.grad, q.grad = torch.zeros(4), torch.ones(4)
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)
    torch.testing.assert_close(q.detach(), kept, rtol=0, atol=1e-8)
    optimizer.state[p] = {}
    p.grad = torch.ones(4)
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 1
    p.grad = torch.ones(8)[::2]
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 2


@pytest.mark.parametrize("own", [True, False])
def test_what_changes_between_steps_is_seen(own, monkeypatch):
    """Gradients, points and groups of another kind than at the last step, with torch's own look at tensors and without."""
    if not own:
        monkeypatch.setitem(sys.modules, "torch._C._dynamo.guards", None)

    def changes(p, q, optimizer):
        group = optimizer.param_groups[0]
        yield lambda: None
        yield lambda: group.update(lr=0.3)
        yield lambda: group.update(betas=[0.5, 0.9])
        yield lambda: group["betas"].__setitem__(0, 0.2)
        yield lambda: setattr(q, "grad", None)
        yield lambda: None
        yield lambda: setattr(p, "grad", p.grad.t().contiguous().t())
        yield lambda: setattr(p, "data", p.detach().clone())
        yield lambda: optimizer.state[p].update(exp_avg=optimizer.state[p]["exp_avg"].clone())
        yield lambda: group["params"].reverse()
        yield lambda: group.update(weight_decay=0.1)

    found = []
    for kind in (optim.Adam, torch.optim.Adam):
        p, q = (nn.Parameter(torch.arange(1.0, 1 + n).view(2, -1)) for n in (6, 8))
        optimizer = kind([p, q], lr=0.1)
        for k, change in enumerate(changes(p, q, optimizer)):
            for x in (p, q):
                x.grad = torch.cos((k + 1) * torch.arange(x.numel()).view_as(x))
            change()
            optimizer.step()
        found += [p.detach(), q.detach()]
    torch.testing.assert_close(found[:2], found[2:])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 3, 100, 8191, 8192, 8193, 20000]), min_size=1, max_size=12), st.sampled_from([1, 2, 3, 7]))
def test_threads_share_all_numbers_among_them(sizes, threads):
    params = [nn.Parameter(torch.ones(n)) for n in (40000, *sizes, 1)]
    optimizer = optim.SGD(params, lr=0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for steps in (1, 2):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            assert all((p == 1 - 0.5 * steps).all() for p in params)
    finally:
        torch.set_num_threads(before)


def test_a_profiler_sees_steps():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = optim.SGD([p])
    with torch.autograd.profiler.profile() as seen:
        optimizer.step()
    assert any(event.name == "Optimizer.step#SGD.step" for event in seen.function_events)


@pytest.mark.parametrize("name", TORCH)
def test_checkpoints_of_torch_are_read_and_ours_are_read_by_torch(name):
    for giver, taker in ((torch.optim, optim), (optim, torch.optim)):
        with numbers_of(torch.float64):
            params = parameters(name, torch.float64, strided=False)
            optimizer = walked(getattr(giver, name), params, 6, lr=0.01)
            other = [p.detach().clone().requires_grad_() for p in params]
            state = io.BytesIO()
            torch.save(optimizer.state_dict(), state)
            state.seek(0)
            again = getattr(taker, name)(other, lr=0.5)
            again.load_state_dict(torch.load(state, weights_only=True))
            assert again.param_groups[0]["lr"] == 0.01
            for t in range(6, 30):
                slopes(params, t)
                slopes(other, t)
                optimizer.step()
                again.step()
            assert apart(other, params, flat(params)) <= 1e-10


def test_the_type_of_states_survives_a_checkpoint():
    p = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    optimizer = walked(optim.Adam, [p], 3, sparse=False, state_dtype=torch.float32)
    again = optim.Adam([p])
    again.load_state_dict(optimizer.state_dict())
    assert again.state[p]["exp_avg"].dtype == torch.float32
    assert again.state[p]["exp_avg"].data_ptr() != optimizer.state[p]["exp_avg"].data_ptr()


def test_rates_change_without_another_compilation():
    params = parameters("Adam")
    optimizer = walked(optim.Adam, params, 2, weight_decay=0.1)
    scheduler = tw.Scheduler(optimizer, lr=tw.schedules.cosine(total=100, warmup=10), weight_decay=tw.schedules.linear(total=90, warmup=10))
    before = len(kernel.compilations), len(optimizer._loops.loops)
    for t in range(100):
        slopes(params, t, sparse=False)
        optimizer.step()
        scheduler.step()
    assert (len(kernel.compilations), len(optimizer._loops.loops)) == before


# --- wrappers and options


def test_decay_is_l2_or_decoupled():
    ends = {}
    for cls in ("Adam", "AdamW"):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = getattr(optim, cls)([p], lr=0.1, weight_decay=0.5)
        p.grad = torch.zeros(3, dtype=torch.float64)
        optimizer.step()
        ends[cls] = p[0].item()
    assert ends["AdamW"] == pytest.approx(0.95, rel=1e-12)
    assert ends["Adam"] == pytest.approx(0.9, rel=1e-6)


@pytest.mark.parametrize("penalty", [{"l1": 0.1}, {"elastic_net": 0.1, "elastic_beta": 0.5}])
def test_l1_and_elastic_net_give_exact_zeros_in_weights_alone(penalty):
    for engine in ENGINES:
        w, b = torch.full((4, 4), 0.005, requires_grad=True), torch.full((4,), 0.005, requires_grad=True)
        optimizer = optim.SGD([w, b], lr=0.1, engine=engine, **penalty)
        w.grad, b.grad = torch.zeros(4, 4), torch.zeros(4)
        optimizer.step()
        assert (w == 0).all()
        assert (b == 0.005).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_is_torchs_over_all_groups(engine):
    ours, theirs = parameters("Adam", torch.float64), parameters("Adam", torch.float64)
    optimizer = optim.Adam([{"params": ours[:3]}, {"params": ours[3:]}], clip_norm=0.5, clip_value=0.2, engine=engine)
    plain = torch.optim.Adam(theirs)
    for t in range(10):
        slopes(ours, t)
        slopes(theirs, t)
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        torch.nn.utils.clip_grad_value_(theirs, 0.2)
        optimizer.step()
        plain.step()
        assert all(g is None or torch.equal(p.grad, g) for p, g in zip(ours, kept, strict=True))
    assert apart(ours, theirs, flat(theirs)) <= 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulated_parts_are_one_batch(engine):
    whole, parts = parameters("Adam", torch.float64), parameters("Adam", torch.float64)
    one, four = optim.Adam(whole, engine=engine), optim.Adam(parts, accumulate=4, engine=engine)
    for t in range(3):
        slopes(whole, t, sparse=False)
        for k in range(4):
            for p, q in zip(whole, parts, strict=True):
                q.grad = p.grad * (k + 1) * 0.4
            if t == 1 and k == 2:  # a checkpoint in the middle of a batch
                again = optim.Adam(parts, accumulate=4, engine=engine)
                again.load_state_dict(four.state_dict())
                four = again
            four.step()
        one.step()
    assert apart(parts, whole, flat(whole)) <= 1e-12
    assert float(four.state[parts[0]]["step"]) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_averages_of_weights_and_slow_weights_by_hand(engine):
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([x], lr=1.0, ema=0.5, engine=engine)
    mean, point = 0.0, 0.0
    for _ in range(4):
        x.grad = torch.full((2,), -1.0, dtype=torch.float64)
        optimizer.step()
        point += 1
        mean = 0.5 * mean + 0.5 * point
    assert x.tolist() == [point] * 2
    optimizer.eval()
    assert x.tolist() == pytest.approx([mean] * 2, rel=1e-14)
    with pytest.raises(tw.UserError, match=r"since eval\(\); call train\(\)"):
        optimizer.step()
    optimizer.train()
    assert x.tolist() == [point] * 2

    slow = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([slow], lr=1.0, lookahead=0.5, lookahead_steps=3, engine=engine)
    for t in range(1, 7):
        slow.grad = torch.full((2,), -1.0, dtype=torch.float64)
        optimizer.step()
        assert slow.tolist() == [{1: 1, 2: 2, 3: 1.5, 4: 2.5, 5: 3.5, 6: 3.0}[t]] * 2


def test_sharpness_aware_steps_take_the_gradient_uphill():
    x = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([x], lr=0.1, sam=0.5)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * x.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12.5
    torch.testing.assert_close(x.detach(), torch.tensor([3.0, 4.0], dtype=torch.float64) * (1 - 0.1 * 1.1), rtol=1e-12, atol=0)
    x.grad = torch.ones_like(x)
    with pytest.raises(tw.UserError, match=r"give step.. a closure"):
        optimizer.step()


def test_schedule_free_answers_the_mean_in_eval():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = optim.ScheduleFreeSGD([x], lr=0.1)
    for _ in range(200):
        x.grad = x.detach().clone()
        optimizer.step()
    point = x.detach().clone()
    optimizer.eval()
    torch.testing.assert_close(x.detach(), optimizer.state[x]["mean"])
    optimizer.train()
    assert torch.equal(x.detach(), point)


def test_random_search_keeps_the_best_draw():
    x = torch.ones(50, requires_grad=True)
    optimizer = optim.RandomSearch([x], scale=1.0, seed=3)
    seen = []

    def closure():
        x.grad = torch.zeros(50)
        seen.append((x.square().sum().item(), x.detach().clone()))
        return x.square().sum()

    for _ in range(20):
        optimizer.step(closure)
    optimizer.eval()
    assert torch.equal(x.detach(), min(seen, key=lambda pair: pair[0])[1])


def test_matrices_and_the_rest_are_routed_in_one_line():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3))
    make = partial(optim.route, matrices=partial(optim.Muon, lr=0.02), rest=partial(optim.AdamW, lr=3e-4), except_for="0.*")
    optimizer = make(model.named_parameters())
    assert [list(g["param_names"]) for g in optimizer.param_groups] == [["1.weight"], ["0.weight", "1.bias"]]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.arange(5)).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step(model, optimizer)
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02 / 8, 3e-4 / 8])
    other, copied = copy.deepcopy((model, optimizer))
    again = make(other.named_parameters())
    again.load_state_dict(optimizer.state_dict())
    for m, o in ((model, optimizer), (other, again)):
        step(m, o)
    assert same(list(model.parameters()), list(other.parameters()))
    assert len(copied.param_groups) == 2
    with pytest.raises(tw.UserError, match="add the group to one of the parts"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    with pytest.raises(tw.UserError, match="except_for matches names"):
        make(model.parameters())


def test_no_decay_groups_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    optimizer = optim.AdamW(model.named_parameters(), weight_decay=0.1, no_decay=("*.bias", "1.*"))
    assert [(g["weight_decay"], g["param_names"]) for g in optimizer.param_groups] == [
        (0.1, ["0.weight"]),
        (0.0, ["0.bias", "1.weight", "1.bias"]),
    ]
    with pytest.raises(tw.UserError, match=r"no parameter's name matches '\*\.scale'"):
        optim.AdamW(model.named_parameters(), no_decay=("*.bias", "*.scale"))
    with pytest.raises(tw.UserError, match="no_decay matches names"):
        optim.AdamW(model.parameters(), no_decay="*.bias")


def test_a_users_rule_is_an_optimizer_on_every_engine():
    @tw.rule
    def sign_momentum(x, g, m=zeros, *, lr: Rate = 1e-3, beta: Decay = 0.9, power: Annotated[float, Domain("Power", low=0)] = 1.0):
        """Signs of momentum. Me, 2024"""
        m = beta * m + (1 - beta) * g
        return x - lr * m.sign() * (m.abs() + 1e-12) ** power, m

    made = tw.optimizer(sign_momentum, "SignMomentum")
    ends = []
    for engine in ENGINES:
        params = parameters("Adam", torch.float64)
        walked(made, params, 20, engine=engine, lr=0.01, power=0.5)
        ends.append(flat(params))
    assert made.__name__ == "SignMomentum"
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-10, atol=1e-10)
    with pytest.raises(tw.UserError, match=r"tw.optimizer takes a rule"):
        tw.optimizer(lambda x, g: x)


def test_an_update_that_no_loop_can_do_is_done_without():
    @tw.rule
    def softened(x, g, *, lr: Rate = 1e-2):
        """Erf of the gradient. Me, 2024"""
        return x - lr * torch.special.erf(g)

    p = torch.ones(5, requires_grad=True)
    p.grad = torch.ones(5)
    tw.optimizer(softened)([p], engine="compiled").step()
    torch.testing.assert_close(p.detach(), 1 - 0.01 * torch.special.erf(torch.ones(5)))


def test_without_a_compiler_the_flat_engine_steps(monkeypatch):
    monkeypatch.setattr(kernel, "_compiler", lambda: None)
    ours, theirs = parameters("Adam"), parameters("Adam")
    walked(optim.Adam, ours, 10)
    walked(torch.optim.Adam, theirs, 10)
    assert apart(ours, theirs, flat(theirs)) <= 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch's compiler imports
def test_other_devices_step_under_torchs_compiler():
    # the step that accelerators take, tried where every machine can
    from thalweg.engine.optimizer.groups import Kinds
    from thalweg.engine.optimizer.stepping import Member, gathered, graphed

    params, theirs = parameters("Adam", strided=False), parameters("Adam", strided=False)
    optimizer = walked(optim.Adam, params, 1, sparse=False)
    walked(torch.optim.Adam, theirs, 4, sparse=False)
    kind, values = Kinds(optimizer.naming).of(optimizer.param_groups[0], params[0])
    step = graphed(kind.bound)
    for t in range(1, 4):
        slopes(params, t, sparse=False)
        members = [Member(p, p.grad, optimizer.state[p]) for p in params]
        with torch.no_grad():
            gathered(kind.bound, values, members, {}, kind.singles, step)
    assert apart(params, theirs, flat(theirs)) <= 1e-6


# --- with other libraries


def test_a_gradient_scaler_skips_what_overflowed():
    p = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([p], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(p.sum() * math.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (p == 1).all()
    optimizer.zero_grad()
    scaler.scale(p.square().sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))


# --- bad input


@pytest.mark.parametrize("name", RULED)
def test_unknown_arguments_are_named_with_the_nearest(name):
    first = next(iter(getattr(optim, name).naming.arguments))
    with pytest.raises(TypeError, match=rf"{name} has no argument '{first}x'; did you mean '{first}'"):
        getattr(optim, name)([torch.ones(2, 2, requires_grad=True)], **{first + "x": 1.0})
    with pytest.raises(TypeError, match=rf"{name} has no argument '{first}x'"):
        getattr(optim, name)([{"params": [torch.ones(2, 2, requires_grad=True)], first + "x": 1.0}])


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, "much", None])
@pytest.mark.parametrize("name", STEPPED)
def test_rates_that_are_none_are_refused(name, rate):
    p = torch.ones(2, 2, requires_grad=True)
    with pytest.raises(ValueError, match=f"Invalid learning rate: {rate}"):
        getattr(optim, name)([p], lr=rate)
    optimizer = getattr(optim, name)([torch.ones(2, 2, requires_grad=True)])
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.add_param_group({"params": [p], "lr": rate})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: optim.Adam([p], betas=(1.0, 0.9)), ValueError, "Invalid beta parameter at index 0: 1.0"),
        (lambda p: optim.Adam([p], betas=(0.9, math.nan)), ValueError, "Invalid beta parameter at index 1: nan"),
        (lambda p: optim.Adam([p], betas=0.9), ValueError, "Invalid betas: 0.9; Adam takes 2 numbers there"),
        (lambda p: optim.Adam([p], eps=-1e-8), ValueError, "Invalid epsilon value: -1e-08"),
        (lambda p: optim.SGD([p], nesterov=True), ValueError, "Nesterov momentum requires a momentum and zero dampening"),
        (lambda p: optim.Adam([p], 1e-3, (0.9, 0.99), 1e-8, 0, False, 7), TypeError, "takes 5 arguments by position"),
        (lambda p: optim.Adam([p], 1e-3, lr=1e-3), TypeError, "got the argument 'lr' twice"),
        (lambda p: optim.Adam([p], engine="turbo"), ValueError, "engine = 'turbo' is not one of auto, reference, flat, compiled"),
        (lambda p: optim.Adam([p], state_dtype=torch.int32), ValueError, "must be a floating-point type"),
        (lambda p: optim.Adam([p], accumulate=0), ValueError, "accumulate = 0 must be a whole number of at least 1"),
        (lambda p: optim.Adam([]), ValueError, "empty parameter list"),
        (lambda p: optim.Adam(p), TypeError, "should be an iterable of Tensors or dicts"),
        (lambda p: optim.Adam([p * 2]), ValueError, "can't optimize a non-leaf Tensor"),
        (lambda p: optim.Adam([{"params": [p]}, {"params": [p]}]), ValueError, "appear in more than one parameter group"),
        (lambda p: optim.Adam(["weight"]), TypeError, "optimizer can only optimize Tensors"),
        (lambda p: optim.Muon([torch.ones(3, requires_grad=True)]), ValueError, "Muon only supports 2D parameters"),
        (lambda p: optim.LBFGS([p]).step(), ValueError, "give step.. a closure"),
        (lambda p: optim.LBFGS([p], lr=-1), ValueError, "Invalid learning rate"),
        (lambda p: optim.LBFGS([p], line_search_fn="armijo"), ValueError, "Invalid line_search_fn value: 'armijo'"),
        (lambda p: optim.route([], matrices=optim.Muon, rest=optim.Adam), ValueError, "empty parameter list"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make(torch.ones(2, 2, requires_grad=True))


def test_duplicates_within_a_group_are_warned_of():
    p = torch.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
        optim.Adam([p, p])
