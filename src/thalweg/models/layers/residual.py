"""Residual block: what its input lacks is learnt. He et al. 2015, arXiv:1512.03385"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional

from thalweg.core.declare import Width, within
from thalweg.core.domain import Choice
from thalweg.errors import UserError
from thalweg.models.layers.batch_norm import BatchNorm
from thalweg.models.layers.stochastic_depth import StochasticDepth


class ResidualBlock(nn.Module):
    """relu(branch(x) + x), the branch conv 3x3 - norm - relu - conv 3x3 - norm; (n, n_in, h, w) -> (n, n_out, h / stride, w / stride).

    Sides are rounded up. The first convolution takes the stride. Where the shape changes, x goes through a 1x1 convolution
    ("conv"), or every stride-th pixel is taken and channels of 0 are added ("pad", which has no parameters).
    residual: without it the block is relu(branch(x)), as in a plain net. drop: probability that the branch of the batch
    is dropped in training, see `StochasticDepth`. bias: of the convolutions.
    Raises UserError for sizes that are not positive, and for "pad" to fewer channels.

    >>> import torch
    >>> ResidualBlock(3, 6, stride=2)(torch.zeros(4, 3, 6, 6)).shape
    torch.Size([4, 6, 3, 3])
    """

    def __init__(
        self, n_in: int, n_out: int, stride: int = 1, *, residual: bool = True, shortcut: str = "conv", drop: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        for name, value in (("n_in", n_in), ("n_out", n_out), ("stride", stride)):
            within(Width, value, f"ResidualBlock: {name}")
        within(Annotated[str, Choice("conv", "pad")], shortcut, "ResidualBlock: shortcut")
        if drop and not residual:
            raise UserError("a block whose branch may be dropped needs its input beside it: leave drop at 0, or residual at True")
        self.branch = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=bias),
            BatchNorm(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=bias),
            BatchNorm(n_out),
        )
        if drop:
            self.branch.append(StochasticDepth(drop, "batch"))
        self.shortcut: nn.Module | None = None
        if residual:
            changes = stride != 1 or n_in != n_out
            wide = nn.Conv2d(n_in, n_out, 1, stride, bias=bias) if shortcut == "conv" else Padded(n_in, n_out, stride)
            self.shortcut = wide if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return functional.relu(y if self.shortcut is None else y + self.shortcut(x))


class Padded(nn.Module):
    """Every stride-th pixel, and channels of 0 behind the others; (n, n_in, h, w) -> (n, n_out, h / stride, w / stride)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        if n_out < n_in:
            raise UserError(f"a padded shortcut adds channels, and {n_in} to {n_out} takes some away: take shortcut='conv'")
        self.more, self.stride = n_out - n_in, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        return f"more={self.more}, stride={self.stride}"
