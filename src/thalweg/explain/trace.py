"""The paths of several rules on a function of one or two variables, stepped by the same optimizers that train models."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core import picture
from thalweg.core.files import write_whole
from thalweg.core.schedule import Multiplier
from thalweg.engine.optimizer.optimizer import Optimizer
from thalweg.engine.optimizer.scheduler import Scheduler
from thalweg.engine.work import user_code
from thalweg.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMS = ("png", "svg", "gif", "html")
MOST = 100_000
"""Steps of a path."""


@dataclass(frozen=True)
class Runner:
    """One rule that is to walk. make: a module with one parameter, and a seed -> its optimizer."""

    label: str
    make: Callable[[nn.Module, int], torch.optim.Optimizer]
    steps: int
    schedules: Mapping[str, Multiplier] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """Where each rule went. name: of the function; d: its variables.

    paths: label -> points (steps + 1, d), the start first; nan after it left the finite numbers. losses: label -> the function there,
    without noise, (steps + 1,). function: points (m, d) -> values (m,). minimisers: points that are known to be such, maybe none.
    """

    name: str
    paths: Mapping[str, np.ndarray]
    losses: Mapping[str, np.ndarray]
    minimisers: tuple[tuple[float, ...], ...] = ()
    function: Callable[[np.ndarray], np.ndarray] = field(default=lambda points: points[:, 0], repr=False, compare=False)

    def table(self) -> pd.DataFrame:
        """A row a rule: optimizer, steps, where it ended, the loss there, the least loss, and the step from which on it is not finite."""
        import pandas as pd

        rows = []
        for label, path in self.paths.items():
            losses = self.losses[label]
            gone = np.flatnonzero(~np.isfinite(path).all(1))
            end = int(gone[0]) - 1 if len(gone) else len(path) - 1
            rows.append({
                "optimizer": label, "steps": len(path) - 1, "end": tuple(float(v) for v in path[end]), "loss": float(losses[-1]),
                "least": float(np.nanmin(losses)), "diverged_at": end + 1 if len(gone) else -1,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def picture(self, step: int | None = None) -> Figure:
        """Contours (or the curve) with the paths, up to a step or whole."""
        return picture.draw("paths", trace=self, step=step)

    def save(self, path: str | Path) -> Path:
        """Write a picture (.png, .svg), a film of the steps (.gif) or a page with a slider over them (.html), whole or not at all."""
        target = Path(path)
        form = target.suffix.lower().removeprefix(".")
        if form not in FORMS:
            raise UserError(f"{target} is not a picture that can be written; name a file that ends in .{', .'.join(FORMS)}")
        if form == "html":
            from thalweg.explain.trace_page import page

            write_whole(target, page(self))
        elif form == "gif":
            write_whole(target, film(self))
        else:
            picture.save(self.picture(), target)
        return target


def follow(
    function: Callable[[Tensor], Tensor],
    start: Any,
    runners: Sequence[Runner],
    *,
    name: str = "f",
    noise: float = 0.0,
    bias: float = 0.0,
    seed: int = 0,
    minimisers: Sequence[Sequence[float]] = (),
) -> Trace:
    """Walk every rule from one start, in double precision.

    function: x (d,) -> scalar. noise: standard deviation of what is added to every gradient, number by number; bias: what is added to it
    besides. Every rule meets the same noise. A rule that answers with another point than it steps from (an average) shows the answers.
    Raises UserError for functions of more than two variables, and where the function, or its gradient, fails at the start.

    >>> import thalweg as tw
    >>> gd = Runner("gd", lambda module, seed: tw.optim.SGD(module.parameters(), lr=0.2, engine="reference"), 10)
    >>> follow(lambda x: x[0] ** 2, [10.0], [gd]).paths["gd"][-1].tolist()
    [0.06046617599999997]
    """
    point = torch.as_tensor(start, dtype=torch.float64).detach().reshape(-1)
    if len(point) not in (1, 2):
        raise UserError(f"{name} has {len(point)} variables at its start; a trace is drawn of a function of one or two")
    if not bool(point.isfinite().all()):
        raise UserError(f"the start {point.tolist()} must be finite numbers")
    if not runners:
        raise UserError("name a rule to follow, such as sgd")
    for label, value, least in (("noise", noise, 0.0), ("bias", bias, -np.inf)):
        if not least <= value < np.inf:
            raise UserError(f"{label} = {value!r} must be a finite number{' of at least 0' if least == 0 else ''}")
    for runner in runners:
        if isinstance(runner.steps, bool) or not isinstance(runner.steps, int) or not 1 <= runner.steps <= MOST:
            raise UserError(f"steps = {runner.steps!r} must be a whole number between 1 and {MOST:,}")
    if len({runner.label for runner in runners}) < len(runners):
        raise UserError("two rules have the same name; give each its own settings, such as sgd[lr=0.1] and sgd[lr=0.2]")

    def values(points: np.ndarray) -> np.ndarray:
        return _values(function, name, points)

    first = values(point.numpy()[None])
    if not np.isfinite(first).all():
        raise UserError(f"{name} is {first[0]:g} at the start {point.tolist()}; start where it is finite")
    paths = {runner.label: _walk(function, name, point, runner, noise, bias, seed) for runner in runners}
    losses = {label: values(path) for label, path in paths.items()}
    return Trace(name, paths, losses, tuple(tuple(map(float, m)) for m in minimisers), values)


def _walk(
    function: Callable[[Tensor], Tensor], name: str, start: Tensor, runner: Runner, noise: float, bias: float, seed: int
) -> np.ndarray:  # fmt: skip
    module = nn.Module()
    module.x = nn.Parameter(start.clone())
    x = module.x
    optimizer = runner.make(module, seed)
    scheduler = Scheduler(optimizer, **dict[str, Any](runner.schedules)) if runner.schedules else None
    draw = torch.Generator().manual_seed(seed)

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad(), user_code(f"{name} could not be differentiated at {x.tolist()}"):
            loss = function(x)
            loss.backward()
        assert x.grad is not None
        x.grad += bias + noise * torch.randn(x.shape, generator=draw, dtype=torch.float64)
        return loss.detach()

    path = np.full((runner.steps + 1, len(start)), np.nan)
    path[0] = start.numpy()
    for t in range(1, runner.steps + 1):
        try:
            optimizer.step(closure)  # type: ignore[arg-type]
        except UserError as error:
            if t > 1 and "finite" in str(error):  # L-BFGS says so where it cannot go on
                break
            raise
        if scheduler is not None:
            scheduler.step()
        path[t] = _answer(optimizer, x)
        if not np.isfinite(path[t]).all():
            path[t] = np.nan
            break
    return path


def _answer(optimizer: torch.optim.Optimizer, x: Tensor) -> np.ndarray:
    if not isinstance(optimizer, Optimizer):
        return x.detach().numpy().copy()
    optimizer.eval()
    answer = x.detach().numpy().copy()
    optimizer.train()
    return answer


def _values(function: Callable[[Tensor], Tensor], name: str, points: np.ndarray) -> np.ndarray:
    """The function at points (m, d), all at once where it lets that be; nan where a point is not finite. (m,)"""
    known = np.isfinite(points).all(1)
    given, values = torch.from_numpy(np.ascontiguousarray(points[known], dtype=float)), np.full(len(points), np.nan)
    if len(given) == 0:
        return values
    with torch.no_grad(), user_code(f"{name} could not be evaluated"):
        one = function(given[0])
        if not isinstance(one, Tensor) or one.numel() != 1:
            raise UserError(f"{name} must give one number, a tensor such as (x * x).sum(), not {type(one).__name__}")
        try:
            found = torch.vmap(lambda x: function(x).reshape(()))(given)
        except Exception:  # not every function can be batched; then one by one, where true errors appear again
            found = torch.stack([function(x).reshape(()) for x in given])
    values[known] = found.double().numpy()
    return values


FRAMES, PALETTE = 80, 192
"""Of a film: frames at most, and colours."""


def film(trace: Trace, seconds: float = 8.0) -> bytes:
    """A GIF over the steps, that waits at the end; up to 80 frames, evenly taken."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    steps = max(len(path) for path in trace.paths.values()) - 1
    shown = np.unique(np.linspace(0, steps, min(FRAMES, steps + 1)).round().astype(int))
    figure = trace.picture()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    figure.set_layout_engine("none")
    moving = axes.get_lines()[: 2 * len(trace.paths)]
    still = [artist for artist in (*axes.collections, *axes.get_lines()[len(moving) :]) if artist.get_zorder() > 2]
    whole = [np.asarray(line.get_xydata()) for line in moving[::2]]
    for artist in (*moving, *still):
        artist.set_animated(True)
    canvas.draw()
    behind = canvas.copy_from_bbox(figure.bbox)
    counter = axes.text(0.985, 0.975, "", transform=axes.transAxes, ha="right", va="top", fontsize=9.5, animated=True)
    counter.set_bbox({"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2.5})
    frames = []
    for t in shown:
        canvas.restore_region(behind)
        for k, points in enumerate(whole):
            known = points[: t + 1][np.isfinite(points[: t + 1]).all(1)]
            moving[2 * k].set_data(*points[: t + 1].T)
            moving[2 * k + 1].set_data(*known[-1:].T)
        counter.set_text(f"step {t}")
        for artist in (*sorted((*moving, *still), key=lambda one: one.get_zorder()), counter):
            axes.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = frames[-1].quantize(PALETTE, method=Image.Quantize.FASTOCTREE)  # one for all, else colours flicker
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pause = max(40, int(1000 * seconds / len(frames)))
    content = io.BytesIO()
    frames[0].save(
        content, "GIF", save_all=True, append_images=frames[1:], loop=0, duration=[pause] * (len(frames) - 1) + [2000], optimize=False
    )
    return content.getvalue()
