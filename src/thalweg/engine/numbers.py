"""Numbers: in which precision a Python number meets a tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def numbers_of(dtype: torch.dtype) -> Iterator[None]:
    """A block in which a Python number keeps its precision when it meets the count of a step, as in `0.3 * (t > 1)`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
