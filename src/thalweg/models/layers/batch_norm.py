"""Batch normalisation of rows and of images. Ioffe and Szegedy 2015, arXiv:1502.03167"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.core.declare import Width, within
from thalweg.core.domain import Domain, Epsilon, Flag, Fraction
from thalweg.errors import UserError

Variance = Annotated[float, Domain("Variance", low=0)]


class BatchNorm(nn.Module):
    """Each channel less its mean, over its deviation, times `weight` (starts at 1), plus `bias` (starts at 0); (n, c) or (n, c, h, w).

    Mean and biased variance are the batch's in training, running averages in evaluation. By default equal to torch's
    BatchNorm1d and BatchNorm2d, whose state_dict it takes and gives.
    features: c, the number of channels. eps: joins the variance under the root. momentum: weight of the new value in the
    running averages. unbiased: whether the running variance averages unbiased variances. start: what it starts at.
    `BatchNorm(c, unbiased=False, start=0.0)` is the other usual convention.
    Raises UserError for other shapes, and in training where a channel has a single value.

    >>> norm = BatchNorm(2)
    >>> norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).detach().round(decimals=2)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> norm.running_mean, norm.running_var
    (tensor([0.2000, 2.0000]), tensor([ 1.1000, 20.9000]))
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1, *, unbiased: bool = True, start: float = 1.0) -> None:
        super().__init__()
        self.features = within(Width, features, "BatchNorm: features")
        self.eps = within(Epsilon, eps, "BatchNorm: eps")
        self.momentum = within(Fraction, momentum, "BatchNorm: momentum")
        self.unbiased = within(Flag, unbiased, "BatchNorm: unbiased")
        self.start = within(Variance, start, "BatchNorm: start")
        self.weight = nn.Parameter(torch.ones(self.features))
        self.bias = nn.Parameter(torch.zeros(self.features))
        self.register_buffer("running_mean", torch.zeros(self.features))
        self.register_buffer("running_var", torch.full((self.features,), self.start))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() not in (2, 4) or x.shape[1] != self.features:
            wanted = f"(n, {self.features}) or (n, {self.features}, height, width)"
            raise UserError(f"BatchNorm({self.features}) takes {wanted}, and its input has shape {tuple(x.shape)}")
        if not self.training:
            return self._normalised(x, self.running_var)
        n = x.numel() // self.features  # values of a channel
        if n < 2:
            raise UserError(
                f"BatchNorm({self.features}) has one value a channel to train on, input of shape {tuple(x.shape)}, and no variance: "
                "take batches of 2 or more rows, the last one too"
            )
        self.num_batches_tracked.add_(1)
        if self.unbiased:
            return self._normalised(x, self.running_var)
        # torch's kernel averages unbiased variances: with the average scaled by n / (n - 1) before and back after, they are biased ones
        scaled = self.running_var * (n / (n - 1))
        y = self._normalised(x, scaled)
        self.running_var.copy_(scaled * ((n - 1) / n))
        return y

    def _normalised(self, x: Tensor, var: Tensor) -> Tensor:
        """The answer; in training, the running mean and `var` are updated where they lie."""
        return functional.batch_norm(x, self.running_mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        convention = "" if self.unbiased and self.start == 1 else f", unbiased={self.unbiased}, start={self.start:g}"
        return f"{self.features}, eps={self.eps:g}, momentum={self.momentum:g}{convention}"
