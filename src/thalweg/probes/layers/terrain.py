"""The loss at many points of a line or a plane of weights: w + alpha d1 + beta d2.

Any model is evaluated point by point on a copy. A plain chain of affine layers and activations is cheaper: what its first layer gives is
affine in alpha and beta, so that three matrix products serve the whole grid, and the layers behind it are small. With one hidden layer of
ReLUs and the cross-entropy, `flips` does a whole line of the grid at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from thalweg.core.problem import Problem, rows
from thalweg.errors import UserError
from thalweg.probes.layers import flips
from thalweg.probes.layers.weights import Names

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Identity,
)  # fmt: skip
"""They treat every number by itself."""

KINDS = ("weight", "bias")
COLUMNS = 2048
"""Rows of the data that the cheaper way takes at once on a processor: what lies between two layers then stays in its cache."""


class Terrain:
    """The loss over all rows, as a function of a place in weights.

    origin: the weights at place 0; ways: for each coordinate the change of each parameter and buffer along it; those without one stay.
    held: for buffers, place -> the coordinates at which they are taken, such as those of the nearest solution.
    """

    def __init__(
        self, model: nn.Module, problem: Problem, origin: Names, ways: Sequence[Names], held: Callable[[Sequence[float]], Sequence[float]],
        chunk: int, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.problem, self.origin, self.ways, self.held, self.seed = model, problem, origin, ways, held, seed
        self.parameters = dict(model.named_parameters())
        self.buffers = dict(model.named_buffers())
        first = next(iter(self.parameters.values()))
        self.device = first.device
        self.rows = rows(problem.train)
        double = first.dtype is torch.float64

        def cut(leaf: Tensor, begin: int) -> Tensor:
            part = leaf[begin : begin + chunk].to(self.device)
            return part.double() if double and part.is_floating_point() else part

        self.chunks = [tree_map(lambda leaf, i=i: cut(leaf, i), problem.train) for i in range(0, self.rows, chunk)]

    def put(self, values: Names) -> None:
        """Give the model these parameters and buffers."""
        for name, value in values.items():
            held = self.parameters.get(name, self.buffers.get(name))
            assert held is not None
            held.copy_(value)

    def move(self, place: Sequence[float]) -> None:
        """Give the model the weights at a place."""
        at = {True: place, False: self.held(place)}
        self.put({
            name: sum((k * way[name] for k, way in zip(at[name in self.parameters], self.ways, strict=True) if name in way), start)
            for name, start in self.origin.items()
        })  # fmt: skip

    def here(self) -> float:
        """The loss at the weights that the model has; nan and inf are answers."""
        buffers = {name: b.clone() for name, b in self.buffers.items()}
        total = 0.0
        for i, chunk in enumerate(self.chunks):
            self.put(buffers)
            torch.default_generator.manual_seed(self.seed + i)  # noise is the same at every place, else there were no one landscape
            loss = self.problem.lose(self.model, chunk)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")
            total += float(loss) * rows(chunk) / self.rows
        self.put(buffers)
        return total

    def at(self, place: Sequence[float]) -> float:
        self.move(place)
        return self.here()

    def grid(self, alphas: np.ndarray, betas: np.ndarray, cheaper: bool = True) -> np.ndarray:
        """(a, b) losses; betas is [0.0] on a line. cheaper: take the way of chains where the model is one."""
        steps = chain(self) if cheaper else None
        if steps is not None:
            return _affine(self, steps, alphas, betas)
        second = len(self.ways) > 1
        return np.array([[self.at((alpha, beta)[: 1 + second]) for beta in betas] for alpha in alphas])


# --- chains of affine layers


def chain(terrain: Terrain) -> list[tuple[str, nn.Module]] | None:
    """The affine layers and activations of a model that is nothing but these, by name; else None."""
    batch, found = terrain.problem.train, list(_parts(terrain.model, ""))
    whole = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    if terrain.problem.loss is None or not whole or not batch[0].is_floating_point() or batch[0].dim() < 2:
        return None
    while found and type(found[0][1]) in (nn.Flatten, nn.Identity):
        _, first = found.pop(0)
        if type(first) is nn.Flatten and (first.start_dim, first.end_dim) != (1, -1):
            return None
        batch = (batch[0].flatten(1), batch[1]) if type(first) is nn.Flatten else batch
    affine = [module for _, module in found if type(module) is nn.Linear]
    known = all(type(module) in (nn.Linear, *ACTIVATIONS) for _, module in found)
    once = len(set(map(id, affine))) == len(affine) and len(set(terrain.parameters)) == sum(len(list(m.parameters())) for m in affine)
    return found if known and once and batch[0].dim() == 2 and affine and type(found[0][1]) is nn.Linear else None


def _parts(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """What a module runs one after the other, by name; itself where that is not known."""
    bare = not (module._forward_hooks or module._forward_pre_hooks)
    if type(module) is nn.Sequential and bare:
        for key, part in module.named_children():
            yield from _parts(part, f"{name}{key}.")
    elif not (isinstance(module, nn.Dropout) and not module.training and bare):
        yield name, module if bare else nn.Module()


def _affine(terrain: Terrain, steps: list[tuple[str, nn.Module]], alphas: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """The losses of a chain (a, b). Rows are columns here, (units, n), so that a layer's output is a product with a small matrix."""
    inputs, targets = (torch.cat([chunk[k] for chunk in terrain.chunks]) for k in (0, 1))
    losses = np.zeros((len(alphas), len(betas)))
    moves = torch.tensor(alphas, dtype=inputs.dtype, device=inputs.device).reshape(-1, 1, 1)
    width = COLUMNS if inputs.device.type == "cpu" else len(inputs)  # elsewhere calls are dear, and memory is fast
    whole = _flips(terrain, steps, inputs, targets, alphas, betas)
    if whole:
        width = max(COLUMNS, 2**20 // len(terrain.parameters[steps[0][0] + "weight"]))
    for X, y in zip(inputs.flatten(1).split(width), targets.split(width), strict=True):
        if whole:
            first, last = ([_parts_of(terrain, steps[k][0], kind) for kind in KINDS] for k in (0, 2))
            sums = flips.summed(X, y.long(), first, last, alphas, betas)
            if sums is not None:
                losses += sums / terrain.rows
                continue
        starts = [_through(terrain, names, steps[0][0], X) for names in (terrain.origin, *terrain.ways)]
        lose = _loss(terrain.problem.loss, y)
        room = torch.empty_like(starts[0])
        for j, beta in enumerate(betas):
            here = starts[0] + float(beta) * starts[2] if len(starts) > 2 else starts[0]
            tables = [_table(terrain, name, float(beta), moves) for name, module in steps[1:] if type(module) is nn.Linear]
            for i, alpha in enumerate(alphas):
                values, layers = torch.add(here, starts[1], alpha=float(alpha), out=room), iter(tables)
                for _, module in steps[1:]:
                    if type(module) is nn.Linear:
                        weight, bias = next(layers)
                        assert weight is not None
                        values = torch.mm(weight[i], values) if bias is None else torch.addmm(bias[i], weight[i], values)
                    else:
                        values = values.relu_() if type(module) is nn.ReLU else module(values)
                losses[i, j] += lose(values) * (len(X) / terrain.rows)
    return losses


def _flips(terrain: Terrain, steps: list[tuple[str, nn.Module]], inputs: Tensor, targets: Tensor, *axes: np.ndarray) -> bool:
    """Whether a line is to be done at once: an affine layer, ReLU, an affine layer and the cross-entropy of labels, on a processor."""
    if [type(module) for _, module in steps] != [nn.Linear, nn.ReLU, nn.Linear] or inputs.device.type != "cpu":
        return False
    classes = len(terrain.parameters[steps[2][0] + "weight"])
    alike = all(p.dtype is inputs.dtype for p in terrain.parameters.values())
    return alike and _labels(terrain.problem.loss, targets) and int(targets.max()) < classes and flips.fits(inputs.dtype, classes, *axes)


def _parts_of(terrain: Terrain, layer: str, kind: str) -> list[Tensor]:
    """A layer's weight or bias at the origin and along each way; zeros where there is none."""
    weight = terrain.parameters[layer + "weight"]
    none = torch.zeros_like(weight if kind == "weight" else weight[:, 0])
    return [names.get(layer + kind, none) for names in (terrain.origin, *terrain.ways)]


def _through(terrain: Terrain, names: Names, layer: str, X: Tensor) -> Tensor:
    """What the first layer makes of rows with these weights, (units, n); a way may leave its weight or its bias alone."""
    weight, bias = (names.get(layer + kind) for kind in KINDS)
    product = X.new_zeros(len(terrain.parameters[layer + "weight"]), len(X)) if weight is None else weight @ X.T
    return product if bias is None else product + bias[:, None]


def _table(terrain: Terrain, layer: str, beta: float, moves: Tensor) -> list[Tensor | None]:
    """A layer's weight (a, out, in) and bias (a, out, 1) or None, at all alphas."""
    found: list[Tensor | None] = []
    for kind in KINDS:
        if layer + kind not in terrain.origin:
            found.append(None)
            continue
        at = terrain.origin[layer + kind]
        if len(terrain.ways) > 1 and layer + kind in terrain.ways[1]:
            at = at + beta * terrain.ways[1][layer + kind]
        at = at.reshape(len(at), -1)
        way = terrain.ways[0].get(layer + kind)
        found.append(at.expand(len(moves), *at.shape) if way is None else at + moves * way.reshape(at.shape))
    return found


def _labels(loss: Any, y: Tensor) -> bool:
    """Whether a loss is the mean cross-entropy, and the targets are labels none of which is left out."""
    ours = getattr(loss, "name", "") == "cross_entropy" and loss.__module__ == "thalweg.losses.cross_entropy"
    module = type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.label_smoothing == 0 and loss.reduction == "mean"
    plain = loss is functional.cross_entropy or ours or (module and loss.ignore_index < 0)
    return bool(plain and y.dim() == 1 and not y.is_floating_point() and int(y.min()) >= 0)


def _loss(loss: Any, y: Tensor) -> Callable[[Tensor], float]:
    """The mean loss of outputs (units, n) on these targets."""
    if _labels(loss, y):
        place = y[None]
        return lambda out: -float(torch.log_softmax(out, 0).gather(0, place).mean())  # along columns it is ten times as fast
    return lambda out: float(loss(out.T, y))
