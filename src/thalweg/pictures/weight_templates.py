"""The weight templates of a linear classifier: each class's row of weights as an image. Karpathy 2015, CS231n, linear classification"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from thalweg.core.canvas import INK, inches, label, named, scale, sheet
from thalweg.core.picture import picture
from thalweg.errors import UserError

if TYPE_CHECKING:
    from thalweg.core.canvas import Figure

PLAIN = (nn.Flatten, nn.Identity, nn.Dropout)
"""What may stand beside the affine layer."""

CELL = 1.45
"""Inches of an image's width."""

SMALLEST = 4
"""Pixels along the side of the smallest square; with fewer, a square number of inputs is hardly an image."""

REFUSAL = "weight templates are for linear classifiers of images, one nn.Linear after a Flatten"


@picture
def weight_templates(model, train=None, classes=None) -> Figure:
    """The rows of a linear classifier's weights as images: grey ones from blue (negative) over white to red, colour ones around grey.

    model: one affine layer, as softmax, svm, logistic and linear are. train: its inputs' shape, (n, channels, height, width) or (n, height,
    width), is that of the images; without it, or where its rows are flat, they are squares of one channel or of three. classes: names in
    the order of the outputs. Raises UserError where the model is not linear, or its rows are no images.

    >>> from thalweg.models import softmax
    >>> figure = weight_templates(softmax((1, 8, 8), 3), classes=["cat", "dog", "owl"])
    >>> [axes.get_title(loc="left") for axes in figure.axes[:3]]
    ['cat', 'dog', 'owl']
    """
    weights = _affine(model).weight.detach().cpu().double()  # (classes, inputs)
    count, features = weights.shape
    if not weights.isfinite().all():
        raise UserError("the model's weights are not all finite: it has diverged; draw an earlier state of it")
    images = weights.reshape(count, *_shape(features, train))  # (classes, channels, height, width)
    names = named(classes, max(2, count))
    joint = " " if len(names[0] + names[1]) < 12 else "\n"
    titles = names if count > 1 else [f"{names[1]}{joint}against {names[0]}"]
    longest = max((line for title in titles for line in title.split("\n")), key=len)
    size = min(10.5, 10.5 * CELL / inches(longest, 10.5))
    most = float(weights.abs().max()) or 1.0
    across = min(5, count)
    down = -(-count // across)
    figure, cells = sheet(CELL * across + 1.1, CELL * down * images.shape[2] / images.shape[3] + 0.35 * down + 0.45, across, down)
    drawn = None
    for axes, image, title in zip(cells, images, titles, strict=False):
        if len(image) == 1:
            drawn = axes.imshow(image[0].numpy(), cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        else:
            axes.imshow((0.5 + image / most / 2).permute(1, 2, 0).numpy(), interpolation="nearest")
        label(axes, title, size=size)
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        axes.spines[:].set_visible(False)
    for axes in cells[count:]:
        axes.remove()
    said = "Weight templates" if drawn is not None else f"Weight templates: grey is 0, full colour {most:.2g}"
    figure.suptitle(said, x=0.01, horizontalalignment="left", fontsize=10.5, color=INK)
    if drawn is not None:
        scale(figure, drawn, cells[:count], "weight")
    return figure


def _affine(model: nn.Module) -> nn.Linear:
    """The one affine layer. Raises UserError where the model has other parts that count."""
    parts = [part for part in model.modules() if not list(part.children())]
    layers = [part for part in parts if isinstance(part, nn.Linear)]
    others = [type(part).__name__ for part in parts if not isinstance(part, (nn.Linear, *PLAIN))]
    if len(layers) != 1 or others:
        raise UserError(f"{REFUSAL}; this model has {', '.join([f'{len(layers)} nn.Linear', *dict.fromkeys(others)])}")
    return layers[0]


def _shape(size: int, train: tuple[Tensor, Tensor] | None) -> tuple[int, int, int]:
    """Channels, height and width of a row. Raises UserError where it is no image."""
    if train is not None and train[0].dim() in (3, 4):
        shape = tuple(train[0].shape[1:])
        channels, height, width = shape if len(shape) == 3 else (1, *shape)
        if channels in (1, 3) and channels * height * width == size:
            return channels, height, width
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if channels * side * side == size and side >= SMALLEST:
            return channels, side, side
    raise UserError(f"{REFUSAL}; {size} inputs are no square of {SMALLEST}x{SMALLEST} pixels or more, of one channel or of three")
