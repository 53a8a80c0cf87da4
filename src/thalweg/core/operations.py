"""How much a model computes, told by counting and not by the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

WEIGHTS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "inner", "einsum", "scaled_dot_product_attention")
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")


class Operations(TorchFunctionMode):
    """A block whose floating-point operations are counted, roughly, in `total`: two a number that a product of matrices, a convolution or a
    recurrent cell adds up, and one a number that any other function of torch gives. What is no function of torch is not seen.

    >>> import torch
    >>> with Operations() as counted:
    ...     _ = torch.nn.functional.linear(torch.ones(3, 20, requires_grad=True), torch.ones(5, 20))
    >>> counted.total   # 15 numbers of 20 products and sums, and those of ones
    760.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if made:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.total += made[0].numel() * _each(getattr(func, "__name__", "").strip("_"), given, made[0])
        return result


def _each(name: str, given: Sequence[Tensor], made: Tensor) -> float:
    """Operations a number of the result."""
    if name in WEIGHTS and len(given) > 1:
        return 2.0 * given[1].numel() / max(len(given[1]), 1)
    if name in CELLS:
        return 2.0 * sum(p.numel() for p in given if isinstance(p, nn.Parameter)) / max(made.shape[-1], 1)
    if name in PRODUCTS and given[0].dim():
        return 2.0 * given[0].shape[-1]
    return 1.0
