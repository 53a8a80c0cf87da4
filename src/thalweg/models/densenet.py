"""Densely connected net: every layer of a block sees all layers before it. Huang et al. 2016, arXiv:1608.06993"""

from collections import OrderedDict

from torch import nn

from thalweg.core.declare import Width, model
from thalweg.models.layers import BatchNorm, DenseBlock, Transition
from thalweg.models.layers.ends import head, initialised, stem


@model(tasks=("regression", "binary", "classes"), images=True)
def densenet(
    shape: tuple[int, ...], outputs: int, *, growth: Width = 32, blocks: Width = 4, depth: Width = 4, width: Width = 64
) -> nn.Module:
    """Dense net: conv 7x7 and max-pool, dense blocks with transitions between them that halve channels and image, mean, affine layer.

    Convolutions start as N(0, 2 / fan out), the affine layer as N(0, 2 / (fan in + fan out)), biases at 0, norms at 1 and 0.
    growth: channels that a layer adds. blocks: how many. depth: layers of a block. width: channels before the first one.
    shape: (channels, height, width) with height and width at least 8. The module maps (n, *shape) to (n, outputs).
    Raises UserError for any other shape.

    >>> sum(p.numel() for p in densenet((1, 28, 28), 10).parameters())
    758226
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem(shape[0], width))
    for i in range(1, blocks + 1):
        block = DenseBlock(width, growth, depth)
        width = block.n_out
        parts[f"block{i}"] = block
        if i < blocks:
            parts[f"transition{i}"] = Transition(width, width // 2)
            width //= 2
    parts["norm"] = nn.Sequential(BatchNorm(width), nn.ReLU())
    parts["head"] = head(width, outputs)
    return initialised(nn.Sequential(parts))
