"""Residual nets of 8 to 110 layers, and plain nets of equal depth. He et al. 2015, arXiv:1512.03385, sections 3 and 4.2"""

from collections import OrderedDict

from torch import nn

from thalweg.core import Count, Flag
from thalweg.core.declare import Probability, model
from thalweg.errors import UserError
from thalweg.models.layers import BatchNorm, ResidualBlock
from thalweg.models.layers.ends import head, initialised, stem

# depth -> blocks of each stage: nets for large images have four stages, those for small ones three of n blocks, 6n + 2 layers
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)} | {6 * n + 2: (n, n, n) for n in (1, 2, 3, 5, 7, 9, 18)}


@model(tasks=("regression", "binary", "classes"), images=True)
def resnet(
    shape: tuple[int, ...],
    outputs: int,
    *,
    depth: Count = 18,
    width: Count = 0,
    stochastic_depth: Probability = 0.0,
    residual: Flag = True,
) -> nn.Module:
    """Residual net: a stem, stages of blocks that halve the image and double the channels from one to the next, mean, affine layer.

    Convolutions start as N(0, 2 / fan out), the affine layer as N(0, 2 / (fan in + fan out)), biases at 0, norms at 1 and 0.
    depth: 18 and 34 are for large images (conv 7x7 and max-pool before four stages; where the shape changes, 1x1
    convolutions without a norm; all convolutions with a bias); 8, 14, 20, 32, 44, 56 and 110 are for small ones (conv
    3x3 before three stages; zeros where the shape changes, so that plain and residual nets have the same parameters).
    width: channels of the first stage; 0 stands for the paper's, 64 for large images and 16 for small ones.
    stochastic_depth: probability that the last block is dropped in a training step; it falls linearly to the first block.
    residual: without it, the plain net of the same layers.
    shape: (channels, height, width) with height and width at least 8. The module maps (n, *shape) to (n, outputs).
    Raises UserError for any other shape or depth.

    >>> sum(p.numel() for p in resnet((1, 28, 28), 10).parameters())
    11178378
    """
    if depth not in STAGES:
        raise UserError(f"resnet: depth = {depth} is not one of {', '.join(map(str, sorted(STAGES)))}")
    if stochastic_depth and not residual:
        raise UserError("resnet: stochastic_depth drops branches beside which the input passes: leave it at 0, or residual at true")
    large = len(STAGES[depth]) == 4
    width = width or (64 if large else 16)
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=stem(shape[0], width) if large else _small_stem(shape[0], width))
    before, made = width, 0
    for i, blocks in enumerate(STAGES[depth]):
        now = width * 2**i
        stage = nn.Sequential()
        for j in range(blocks):
            made += 1
            drop = stochastic_depth * made / sum(STAGES[depth])
            stride = 2 if i > 0 and j == 0 else 1
            stage.append(ResidualBlock(before, now, stride, residual=residual, shortcut="conv" if large else "pad", drop=drop, bias=large))
            before = now
        parts[f"stage{i + 1}"] = stage
    parts["head"] = head(before, outputs)
    return initialised(nn.Sequential(parts))


def _small_stem(channels: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), BatchNorm(width), nn.ReLU())


resnet18 = resnet.preset("resnet18", "Residual net of 18 layers for large images. Weights start as those of resnet.", depth=18)
resnet20 = resnet.preset("resnet20", "Residual net of 20 layers for small images. Weights start as those of resnet.", depth=20)
resnet32 = resnet.preset("resnet32", "Residual net of 32 layers for small images. Weights start as those of resnet.", depth=32)
resnet56 = resnet.preset("resnet56", "Residual net of 56 layers for small images. Weights start as those of resnet.", depth=56)
