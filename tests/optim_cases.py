"""The classes of `thalweg.optim`, what each is compared with, and problems that have every kind of tensor."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import twins
from loops import Yogi
from thalweg import optim
from thalweg.core.catalogue import shelf

TORCH = ("SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD", "Adafactor", "Muon")
TWINS: Mapping[str, Callable] = {
    "Yogi": Yogi,
    **{n: getattr(twins, n) for n in ("Lion", "AdaBelief", "LARS", "LAMB", "Prodigy", "SOAP", "ScheduleFreeSGD", "ScheduleFreeAdamW")},
}
RULED = tuple(
    sorted(n for n in optim.__all__ if inspect.isclass(getattr(optim, n)) and hasattr(getattr(optim, n), "naming") and n != "Optimizer")
)
"""All classes that are made from rules."""
STEPPED = tuple(n for n in RULED if n != "RandomSearch")
"""Those that need no closure."""
ENGINES = ("reference", "flat", "compiled")
SHAPES = ((), (0,), (5,), (3, 4), (2, 3, 4), (2, 3, 2, 2))
MATRICES = ((3, 4), (6, 2), (5, 5))
FIXED: Mapping[str, dict[str, Any]] = {"SOAP": {"largest": 3}}
"""Arguments without which a comparison is ill-conditioned: a singular matrix has no one basis."""


def shapes_of(name: str) -> tuple[tuple[int, ...], ...]:
    """Shapes that a class can step: torch's Muon takes matrices alone, and its Adafactor fails at a tensor of no numbers."""
    return MATRICES if name == "Muon" else tuple(s for s in SHAPES if name != "Adafactor" or s != (0,))


def element(name: str) -> bool:
    """Whether the class's rule treats every number by itself."""
    return getattr(optim, name).naming.rule.scope == "element"


def parameters(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, strided: bool = True) -> list[Tensor]:
    """Tensors of every shape, the last ones of two and four dimensions not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes_of(name)]
    if strided:
        found.append(torch.randn(4, 3, generator=generator, dtype=torch.float64).to(dtype).t())
        if name != "Muon":
            found.append(torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64).to(dtype).to(memory_format=torch.channels_last))
            found.append(torch.randn(8, generator=generator, dtype=torch.float64).to(dtype)[::2])
    return [p.detach().requires_grad_() for p in found]


@functools.cache
def noise(t: int, dtype: torch.dtype, *shapes: torch.Size) -> list[Tensor]:
    """What the gradients at step t differ by from those of a bowl."""
    generator = torch.Generator().manual_seed(1000 + t)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * (t % 7 + 0.1) for shape in shapes]


def slopes(params: list[Tensor], t: int, sparse: bool = True) -> None:
    """Gradients at step t: noise of changing size and the pull of a bowl; with `sparse`, some parameters have none."""
    for k, (p, more) in enumerate(zip(params, noise(t, params[0].dtype, *(p.shape for p in params)), strict=True)):
        p.grad = None if sparse and (3 * t + k) % 5 == 0 else more + p.detach()


def walked(
    make: Callable[..., torch.optim.Optimizer], params: list[Tensor], steps: int, first: int = 0, sparse: bool = True, **options: Any
) -> Any:
    """Steps of an optimizer; gives it back."""
    optimizer = make(params, **options)
    for t in range(first, first + steps):
        slopes(params, t, sparse)
        optimizer.step()
    return optimizer


def flat(params: list[Tensor]) -> Tensor:
    """All numbers in one float64 vector."""
    return torch.cat([p.detach().double().reshape(-1) for p in params])


def apart(a: list[Tensor], b: list[Tensor], start: Tensor) -> float:
    """|a - b| over the larger of |b| and the norm at the start."""
    return float((flat(a) - flat(b)).norm() / max(flat(b).norm(), start.norm()))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


assert set(TORCH) | set(TWINS) | {"RandomSearch"} == set(RULED), "every class needs torch's of the same name, or a twin"
assert {getattr(optim, n).naming.rule.name for n in RULED} | {"momentum", "nesterov", "amsgrad"} == set(shelf("optimizers"))
