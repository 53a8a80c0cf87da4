"""Gradient flow by layer: what vanishes, explodes, is dead or frozen. Glorot and Bengio 2010, section 4; Lu et al. 2019, arXiv:1903.06733

A unit of a ReLU that is zero on every row gets no gradient: it is dead. What counts as vanishing and exploding is the loss's derivative by
the layers' outputs, the signal, since products of Jacobians act on it; derivatives by weights also hold the activations, which may grow by
what the signal loses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.probe import copied, probe, problem_of, whole
from thalweg.core.problem import Batch, Problem, rows, take, to
from thalweg.probes.layers.stepping import frozen, lost, updates
from thalweg.probes.layers.watch import Seen, Watch, squared

FAR = 1e3
"""The signal vanishes or explodes where it changes by more than this on its way, and by FACTOR or more a layer."""

FACTOR = 1.5

FAR_IN_TIME = 1e2
"""The same on its way through time: a net that learns does not lose control of what it remembers."""

LISTED = 4
"""Names of layers in a sentence."""

MANY = 0.5
"""A layer is dead where so large a share of its units is."""


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own; norms are of all of them together, and means over the batches looked at.

    kind: its class. weight, gradient: their norms; the gradient is 0 where the loss does not depend on them. update_ratio: length of one
    step of the optimizer over the weight's norm, nan without one. signal: norm of the loss's derivative by the layer's output. mean,
    deviation: of its output's numbers. dead: share of the units of the ReLU behind it that are 0 on every row, nan where there is none.
    saturated: share of the outputs of the tanh or sigmoid behind it (gates too) where |tanh| > 0.97 or the sigmoid is outside
    [0.03, 0.97], nan where there is none. frozen: why it does not learn, or "".
    """

    name: str
    kind: str
    parameters: int
    weight: float
    gradient: float
    update_ratio: float
    signal: float
    mean: float
    deviation: float
    dead: float
    saturated: float
    frozen: str


@dataclass(frozen=True)
class Gradients:
    """What `gradients` found; empty `layers` where the model has no module with parameters.

    layers: in the order in which they are run. vanishing, exploding, dead, frozen: names of layers, () where nothing is wrong.
    signal_factor: by how much the signal changes a layer on its way to the input, over the layers that have weights of two dimensions
    or more; activation_factor: the deviation of their outputs, on its way to the output; time_factor: a recurrent net's derivative by its
    inputs, a step back in time; nan where there are fewer than three. loss: mean over the batches. rows: how many were looked at.
    text: the facts in words.
    """

    layers: tuple[Layer, ...]
    vanishing: tuple[str, ...]
    exploding: tuple[str, ...]
    dead: tuple[str, ...]
    frozen: tuple[str, ...]
    signal_factor: float
    activation_factor: float
    time_factor: float
    loss: float
    rows: int
    text: str = field(compare=False)


@probe
def gradients(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    batch_size: int = 128,
    batches: int = 4,
    train: bool = True,
    seed: int = 0,
) -> Gradients:
    """Weights, gradients, updates and activations of each layer, at the weights that the model has.

    Works on a copy of the model and the optimizer: both stay what they are, and so does torch's random state. loss: (output, targets) ->
    scalar, or step: (model, batch) -> scalar; a Problem brings its own, and its training rows. data: tensors, pairs or dicts of tensors
    with a common first dimension, or a Dataset. optimizer: the one over the model's parameters, with whose state one step is taken.
    batch_size, batches: rows at once, drawn without replacement by `seed`, and how many times. train: in training mode.
    A ReLU, tanh or sigmoid is seen whether it is a module or a function, and counted for the layer run last before it.
    Raises UserError where there are no rows or the loss is not one number; losses and gradients that are not finite are told.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> found = gradients(net, nn.functional.mse_loss, (torch.randn(64, 2), torch.randn(64, 1)))
    >>> found.dead, [layer.dead for layer in found.layers]
    (('0',), [1.0, nan])
    """
    problem = problem_of(model, loss, data, step)
    twin = copied(model, train)
    stepper = copy.deepcopy(optimizer, {id(p): q for p, q in zip(model.parameters(), twin.parameters(), strict=True)})  # over the copy
    order = torch.randperm(rows(problem.train), generator=torch.Generator().manual_seed(seed))
    parts = order.split(whole("batch_size", batch_size, 1))[: whole("batches", batches, 1)]
    parts = parts[:-1] if len(parts) > 1 and len(parts[-1]) < batch_size else parts  # a short batch would weigh as much as the others
    device = next((p.device for p in twin.parameters()), torch.device("cpu"))
    still = frozen(twin, stepper)
    watch = Watch(twin)
    devices = [device.index or 0] if device.type == "cuda" else []
    total, first = 0.0, None
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        with watch:
            for part in parts:
                batch = to(take(problem.train, part), device)
                twin.zero_grad(set_to_none=True)
                with watch.batch(len(part)):
                    found = lost(problem, twin, batch)
                    if found.requires_grad:
                        found.backward()
                total += float(found.detach()) / len(parts)
                watch.gradients()
                first = first or (batch, [p.grad for p in twin.parameters()])
        assert first is not None
        moves = updates(problem, twin, stepper, *first) if stepper is not None else {}
    layers = tuple(_layer(seen, still, moves) for seen in watch.layers())
    return _judged(layers, watch, total, sum(map(len, parts)))


def _layer(seen: Seen, frozen: dict[nn.Parameter, str], updates: dict[nn.Parameter, float]) -> Layer:
    own = [p for _, p in seen.parameters]
    weight = math.sqrt(sum(squared(p) for p in own))
    moved = math.sqrt(sum(updates[p] for p in own)) if updates else math.nan
    weights = [p for p in own if p.dim() > 1] or own
    why = frozen.get(weights[0], "") if all(p in frozen for p in weights) else ""
    return Layer(
        name=seen.name, kind=type(seen.module).__name__, parameters=sum(p.numel() for p in own), weight=weight,
        gradient=_mean(seen.norms), update_ratio=moved / weight if weight else math.nan, signal=_mean(seen.signals), mean=seen.mean,
        deviation=seen.deviation, dead=seen.dead, saturated=seen.saturated,
        frozen=why or ("the loss does not depend on it" if seen.unused else ""),
    )  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _judged(layers: tuple[Layer, ...], watch: Watch, loss: float, looked: int) -> Gradients:
    matrices = {seen.name for seen in watch.of.values() if any(p.dim() > 1 for _, p in seen.parameters)}
    chain = [layer for layer in layers if layer.name in matrices and layer.signal == layer.signal]
    back = _factor([layer.signal for layer in reversed(chain)])
    on = _factor([layer.deviation for layer in chain])
    times = [_factor(series[::-1]) for series in watch.times if len(series) > 2]
    steps = max((len(series) for series in watch.times), default=0)
    in_time = math.exp(_mean([math.log(f) for f in times if 0 < f < math.inf])) if any(0 < f < math.inf for f in times) else math.nan
    vanishing: list[str] = []
    exploding = [layer.name for layer in layers if not math.isfinite(layer.gradient) or layer.signal in (math.inf, -math.inf)]
    if chain and back <= 1 / FACTOR and not any(layer.dead == 1 for layer in layers):  # behind dead units nothing is left to vanish
        vanishing = [layer.name for layer in chain if layer.signal < chain[-1].signal / FAR]
    if chain and back >= FACTOR:
        exploding += [layer.name for layer in chain if layer.signal > chain[-1].signal * FAR]
    if chain and on >= FACTOR:
        exploding += [layer.name for layer in chain if layer.deviation > chain[0].deviation * FAR]
    over_time = in_time ** (steps - 1) > FAR_IN_TIME
    if over_time:
        exploding += [seen.name for seen in watch.of.values() if isinstance(seen.module, nn.RNNBase) or len(seen.calls) > 2]
    dead = [layer.name for layer in layers if layer.dead >= MANY]
    frozen = [layer.name for layer in layers if layer.frozen]
    said = []
    if vanishing:
        said.append(f"the gradient vanishes: a layer on the way to the input leaves {back:.2g} of it, {_share(chain):.1e} in all")
    if exploding:
        how = f"{back:.2g} times a layer on the way to the input" if back >= FACTOR else f"the activations {on:.2g} times a layer"
        how = f"{in_time:.2g} times a step back in time" if over_time else how if back >= FACTOR or on >= FACTOR else "it is not finite"
        said.append(f"the gradient explodes: {how}")
    said += [f"{_of(layer)}: {layer.dead:.0%} of its units are 0 on all {looked} rows" for layer in layers if layer.name in dead]
    for why in dict.fromkeys(layer.frozen for layer in layers if layer.frozen):
        alike = [layer.name for layer in layers if layer.frozen == why]
        said.append(f"{', '.join(alike[:LISTED])}{', ...' * (len(alike) > LISTED)} {'does' if len(alike) == 1 else 'do'} not learn: {why}")
    return Gradients(
        layers, tuple(vanishing), tuple(dict.fromkeys(exploding)), tuple(dead), tuple(frozen), back, on, in_time, loss, looked,
        "; ".join(said),
    )  # fmt: skip


def _factor(series: list[float]) -> float:
    """By how much a number of a series is the one before, on geometric average; nan where there are fewer than three, or it starts at 0."""
    if len(series) < 3 or not series[0] > 0 or not all(map(math.isfinite, series)):
        return math.nan
    return (series[-1] / series[0]) ** (1 / (len(series) - 1))


def _share(chain: list[Layer]) -> float:
    return chain[0].signal / chain[-1].signal


def _of(layer: Layer) -> str:
    return f"{layer.name} ({layer.kind})"
