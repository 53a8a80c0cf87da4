"""One program: small data, a small model, a loop with torch.optim; every fault is a setting of it, and so is every remedy.

Five architectures: `linear` (softmax regression on means of 2 x 2 pixels, which do not separate the classes), `mlp` (with ReLU), `cnn`
and `rnn` (a row of pixels a step) on scikit-learn's 8 x 8 digits, and `tabular`, an MLP that predicts a
number (Friedman's first function, 1991, doi:10.1214/aos/1176347963).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURES = ("linear", "mlp", "cnn", "rnn", "tabular")
RATES = {
    "linear": {"sgd": 1.0, "momentum": 0.3, "adam": 0.1},
    "mlp": {"sgd": 0.3, "momentum": 0.05, "adam": 0.005},
    "cnn": {"sgd": 0.3, "momentum": 0.05, "adam": 0.01},
    "rnn": {"sgd": 0.2, "momentum": 0.05, "adam": 0.005},
    "tabular": {"sgd": 0.1, "momentum": 0.03, "adam": 0.01},
}
STEPS = {"linear": 150, "mlp": 150, "cnn": 120, "rnn": 150, "tabular": 200}
TRAIN, VALID = 400, 150


@dataclass(frozen=True)
class Settings:
    """What a program is made of; the defaults are healthy. Scales of features: "right", "columns" (units of their own), "raw" (pixels to
    255, or numbers in the hundreds)."""

    architecture: str
    seed: int = 0
    rule: str = "sgd"
    lr: float = 0.0  # 0: that of RATES
    momentum: float = 0.9  # of the rule `momentum`
    weight_decay: float = 0.0
    batch_size: int = 32
    steps: int = 0  # 0: that of STEPS
    gamma: float = 1.0  # the rate is multiplied by it after every step
    cosine: bool = False  # down to 0 at the end
    depth: int = 2
    length: int = 8  # steps of a sequence
    activation: str = "relu"
    norm: bool = False
    init: str = "default"  # or a number: weights times it
    bias: float | None = None
    scale: str = "right"
    outputs: str = "scores"
    loss: str = "right"
    labels: str = "right"
    frozen: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # of the optimizer
    zero_grad: bool = True
    norm_mode: str = "train"
    split: str = "apart"

    def full(self) -> Settings:
        lr = self.lr or RATES[self.architecture][self.rule]
        return replace(self, lr=lr, steps=self.steps or STEPS[self.architecture])


@dataclass(frozen=True)
class Handed:
    """What a user has in hand at the end of the training. final: the true loss over the training rows; chance: that of knowing nothing."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]
    optimizer: torch.optim.Optimizer
    history: list[float]
    valid: tuple[Tensor, Tensor]
    batch_size: int
    final: float
    chance: float


# --- data


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def friedman(rows: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, 10, generator=draw)
    y = 10 * torch.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + torch.randn(rows, generator=draw)
    return (x - 0.5) * 12**0.5, ((y - 14.4) / 4.9).unsqueeze(1)


def data(s: Settings) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Training rows, validation rows, and the right targets of the training rows."""
    draw = torch.Generator().manual_seed(1000 + s.seed)
    if s.architecture == "tabular":
        x, y = friedman(TRAIN + VALID, draw)
    else:
        x, y = digits()
        chosen = torch.randperm(len(x), generator=draw)[: TRAIN + VALID]
        x, y = x[chosen], y[chosen]
    if s.architecture == "linear":
        x = F.avg_pool2d(x.view(-1, 1, 8, 8), 2).flatten(1) * 2
    if s.scale == "columns":
        x = x * 10 ** (3.5 * torch.rand(x.shape[1], generator=draw) - 1)
    elif s.scale == "raw":
        x = x * 255 if s.architecture != "tabular" else 100 * x + 300
    shape = {"cnn": (1, 8, 8), "rnn": (s.length, 64 // s.length)}.get(s.architecture)
    x = x if shape is None else x.view(-1, *shape)
    train, valid = (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])
    right = train[1]
    if s.labels == "shuffled":
        train = (train[0], right[torch.randperm(TRAIN, generator=draw)])
    elif s.labels == "shifted":
        train = (train[0], right.roll(1, 0))
    if s.split == "leak":
        half = VALID // 2
        valid = tuple(torch.cat([a[:half], b[half:]]) for a, b in zip(train, valid, strict=True))
    if s.loss == "broadcast":
        train, valid = (train[0], train[1].squeeze(1)), (valid[0], valid[1].squeeze(1))
    return train, valid, right


# --- model


class Recurrent(nn.Module):
    def __init__(self, norm: bool, length: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(length) if norm else None  # over the steps of the sequence
        self.rnn = nn.RNN(64 // length, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        return self.head(self.rnn(x)[0][:, -1])


def model(s: Settings) -> nn.Module:
    torch.manual_seed(s.seed)
    act = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[s.activation]
    layers: list[nn.Module] = []
    if s.architecture == "linear":
        layers = [nn.BatchNorm1d(16)] * s.norm + [nn.Linear(16, 10)]
    elif s.architecture == "cnn":
        channels = [1, 6, *[12] * (s.depth - 1)]
        for i, (a, b) in enumerate(itertools.pairwise(channels)):
            layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] * s.norm), act(), *([nn.MaxPool2d(2)] * (i < 2))]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * 4, 10)]
    elif s.architecture == "rnn":
        layers = []
    else:
        inputs, outputs, width = (10, 1, 32) if s.architecture == "tabular" else (64, 10, 32)
        sizes = [inputs, *[width] * s.depth]
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] * s.norm), act()]
        layers.append(nn.Linear(width, outputs))
    net = nn.Sequential(*layers) if layers else Recurrent(s.norm, s.length)
    if s.outputs == "softmax":
        net = nn.Sequential(*net, nn.Softmax(-1)) if isinstance(net, nn.Sequential) else nn.Sequential(net, nn.Softmax(-1))
    with torch.no_grad():
        weighty = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        if s.init == "fitting":  # He et al. 2015 or Glorot and Bengio 2010, by the activation
            for m in weighty:
                nn.init.kaiming_uniform_(m.weight, nonlinearity="relu") if s.activation == "relu" else nn.init.xavier_uniform_(m.weight)
            for name, p in net.named_parameters():
                if "weight_hh" in name:
                    nn.init.orthogonal_(p)
        elif s.init != "default":
            for m in weighty if s.architecture != "rnn" else [m for m in net.modules() if isinstance(m, nn.RNN)]:
                for name, p in m.named_parameters():
                    if name.startswith("weight"):
                        p.mul_(float(s.init))
        if s.bias is not None:
            for m in weighty[:-1]:
                m.bias.fill_(s.bias)
    for name, p in net.named_parameters():
        p.requires_grad_(not any(name.startswith(part) for part in s.frozen))
    return net


# --- loss and loop


def squares(out: Tensor, y: Tensor) -> Tensor:
    """As people write it; nothing warns where shapes differ."""
    return ((out - y) ** 2).mean()


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": nn.CrossEntropyLoss(), "mse": nn.MSELoss(), "nll": nn.NLLLoss(), "broadcast": squares,
    "to_labels": lambda out, y: F.mse_loss(out[:, 0], y.float()),
}  # fmt: skip


def train(s: Settings) -> Handed:
    """Run the program."""
    s = s.full()
    rows, valid, right = data(s)
    net = model(s)
    usual = "mse" if s.architecture == "tabular" else "cross_entropy"
    loss = LOSSES[usual if s.loss == "right" else s.loss]
    trained = [p for name, p in net.named_parameters() if not any(name.startswith(part) for part in s.left_out)]
    if s.rule == "adam":
        kind = torch.optim.AdamW if s.weight_decay else torch.optim.Adam
        optimizer: Any = kind(trained, lr=s.lr, **({"weight_decay": s.weight_decay} if s.weight_decay else {}))
    else:
        optimizer = torch.optim.SGD(trained, lr=s.lr, momentum=s.momentum if s.rule == "momentum" else 0, weight_decay=s.weight_decay)
    schedule: Any = torch.optim.lr_scheduler.ExponentialLR(optimizer, s.gamma) if s.gamma != 1 else None
    if s.cosine:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s.steps)
    net.train()
    for module in net.modules():
        if s.norm_mode == "eval" and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    draw, history = torch.Generator().manual_seed(s.seed), []
    order = torch.empty(0, dtype=torch.long)
    for _ in range(s.steps):
        if len(order) < s.batch_size:
            order = torch.randperm(TRAIN, generator=draw)
        batch, order = order[: s.batch_size], order[s.batch_size :]
        if s.zero_grad:
            optimizer.zero_grad()
        value = loss(net(rows[0][batch]), rows[1][batch])
        value.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        history.append(value.item())
    final, chance = _final(s, net, rows[0], right)
    return Handed(net, loss, rows, optimizer, history, valid, s.batch_size, final, chance)


def _final(s: Settings, net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The loss that was meant, on the right targets, and that of the best constant."""
    modes = [(m, m.training) for m in net.modules()]
    with torch.no_grad():
        out = net.eval()(x)
        if s.architecture == "tabular":
            final, chance = F.mse_loss(out, y.view_as(out)), y.var()
        else:
            # what the net holds for likely: its own probabilities where it gives such
            final = F.nll_loss(out.clamp_min(1e-12).log(), y) if s.outputs == "softmax" else F.cross_entropy(out, y)
            chance = torch.tensor(np.log(10.0))
    for m, mode in modes:
        m.training = mode
    return float(final), float(chance)


def progress(handed: Handed, healthy: Handed) -> float:
    """Of the way from chance to the healthy twin's loss, how much was gone: 1 is as good as healthy; below 0 where it "
    "is worse than chance."""
    value = (handed.chance - handed.final) / (handed.chance - healthy.final)
    return value if np.isfinite(value) else -np.inf
