"""How deep convolutional nets begin and end, and the weights they start from."""

from __future__ import annotations

from torch import nn

from thalweg.models.layers.batch_norm import BatchNorm


def stem(channels: int, width: int) -> nn.Sequential:
    """Conv 7x7 of stride 2, norm, relu, max-pool 3x3 of stride 2; (n, channels, h, w) -> (n, width, h / 4, w / 4), rounded up."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, stride=2, padding=3), BatchNorm(width), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )


def head(width: int, outputs: int) -> nn.Sequential:
    """The mean over pixels and an affine layer; (n, width, h, w) -> (n, outputs)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))


def initialised(net: nn.Sequential) -> nn.Sequential:
    """The net with new weights: convolutions N(0, 2 / fan out), affine layers N(0, 2 / (fan in + fan out)), biases 0."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
