"""Stochastic depth: the branch of a residual block is dropped at random. Huang et al. 2016, arXiv:1603.09382"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional

from thalweg.core.declare import Probability, within
from thalweg.core.domain import Choice


class StochasticDepth(nn.Dropout):
    """In training each row is set to 0 with probability p, or the whole batch at once, and divided by 1 - p where it is kept.

    So its expectation is the branch itself, which is the answer in evaluation; the paper multiplies by 1 - p there
    instead. As a dropout layer it takes part in what is done to all of them: noise by seed, a probability of each lane.
    p: in [0, 1). mode: "row" or "batch". The input is (n, ...), the output the same.
    Raises UserError for other values.

    >>> import torch
    >>> kept = StochasticDepth(0.5)(torch.ones(100, 3))
    >>> kept.unique(), kept.unique(dim=1).shape
    (tensor([0., 2.]), torch.Size([100, 1]))
    """

    def __init__(self, p: float = 0.5, mode: str = "row") -> None:
        super().__init__(within(Probability, p, "StochasticDepth: p"))
        self.mode = within(Annotated[str, Choice("row", "batch")], mode, "StochasticDepth: mode")

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch
        rows = len(branch) if self.mode == "row" else 1
        return branch * functional.dropout(branch.new_ones(rows, *[1] * (branch.dim() - 1)), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}, mode={self.mode}"
