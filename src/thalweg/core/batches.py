"""Batch order and noise seeds: the exact numbers every run of a seed uses, so that anyone can repeat a run by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from thalweg.errors import UserError

_MASK = (1 << 64) - 1


def step_seed(seed: int, t: int) -> int:
    """The seed of dropout and other noise at step t (0 at the first): `torch.manual_seed(step_seed(seed, t))` before the forward.

    A splitmix64 hash, so that neighbouring seeds and steps are unrelated. Steele, Lea and Flood 2014.

    >>> step_seed(0, 0) != step_seed(0, 1) != step_seed(1, 0)
    True
    """
    z = (seed * 0x9E3779B97F4A7C15 + (t + 1) * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1


def batches(
    n: int,
    batch_size: int,
    seed: int = 0,
    steps: int | None = None,
    epochs: int | None = None,
    replacement: bool = False,
    start: int = 0,
) -> Iterator[Tensor]:
    """The index tensors of every step: a fresh permutation each epoch, the short last batch kept.

    Yields int64 tensors of shape (batch_size,), the last of an epoch possibly shorter; `steps` of them, or `epochs` passes, or without
    end when neither is given. With `replacement` every batch is drawn anew from all n. A longer stream begins with the
    shorter one; `start` leaves out the first so many of its steps, at no cost. Raises UserError when batch_size is not in 1..n.

    >>> [b.tolist() for b in batches(5, 2, seed=0, epochs=1)]
    [[2, 0], [1, 3], [4]]
    >>> len(list(batches(5, 2, steps=7))), len(list(batches(5, 2, steps=7, start=6)))
    (7, 1)
    """
    if n < 1:
        raise UserError("there is no data to draw batches from: n = 0")
    if not 1 <= batch_size <= n:
        raise UserError(f"batch_size = {batch_size} must be between 1 and the {n} rows of the training data")
    for name, value in (("steps", steps), ("epochs", epochs), ("start", start)):
        if value is not None and value < 0:
            raise UserError(f"{name} = {value} must not be negative")
    return _stream(n, batch_size, seed, steps, epochs, replacement, start)


def _stream(
    n: int, batch_size: int, seed: int, steps: int | None, epochs: int | None, replacement: bool, start: int
) -> Iterator[Tensor]:
    per_epoch = -(-n // batch_size)
    ends = [k for k in (steps, None if epochs is None else epochs * per_epoch) if k is not None]
    limit = min(ends) if ends else None
    epoch, begun = divmod(start, per_epoch)
    done = start
    while limit is None or done < limit:
        # one generator an epoch, so that any epoch can be drawn without those before it
        generator = torch.Generator().manual_seed(step_seed(seed ^ 0x5EED, epoch))
        if replacement:
            draws = (torch.randint(n, (batch_size,), generator=generator) for _ in range(per_epoch))
        else:
            draws = iter(torch.randperm(n, generator=generator).split(batch_size))
        for index in itertools.islice(draws, begun, None):
            if limit is not None and done >= limit:
                return
            yield index
            done += 1
        epoch, begun = epoch + 1, 0
