"""Intersection of sets, each known by its projection: splitting after Spingarn 1983, Newton steps after Xiao, Li, Wen and Zhang 2018"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from thalweg.core.convex import ConvexSet, Projection, convex_set, norm, parts_of
from thalweg.errors import UserError

ROUNDS, NEWTON_EVERY, NEWTON_UP_TO = 4000, 5, 400  # Newton steps where parts times numbers are at most so many
EXACT, ENOUGH = 5e-14, 1e-9  # of the size of things: when to stop, and what is accepted where that is not reached


@convex_set
def intersection(*sets: ConvexSet) -> Projection:
    """The points that are in every one of the sets. Points are those of the sets; matrices, where some of the sets have matrices.

    Found by iteration, in float64. First derivatives are right, by the implicit function theorem; second ones are not. Raises UserError
    where the sets have no common point, and where the rounds do not suffice, as when they only just touch.

    >>> from thalweg.sets import box, hyperplane
    >>> intersection(box(0.0, 0.6), hyperplane([1.0, 1.0, 1.0], 1.0)).project([1.0, 0.5, 0.3]).round(decimals=12)
    tensor([0.6000, 0.3000, 0.1000], dtype=torch.float64)
    """
    parts = parts_of("intersection", sets)
    axes = max(part.axes for part in parts)
    named = " and ".join(map(str, parts))

    def project(x: Tensor) -> Tensor:
        shape = x.shape[x.dim() - axes :]
        flat = x.double().reshape(-1, shape.numel())  # (lanes, n)
        split = _Split([partial(_flat, part, shape) for part in parts], named)
        y, w, weight = split.solve(flat.detach())
        if x.requires_grad and torch.is_grad_enabled():
            moved = flat - flat.detach()  # 0, and what derivatives go through
            y = y + (split.derivative(flat.detach(), weight, w) @ moved.unsqueeze(-1)).squeeze(-1)
        return y.reshape(x.shape).to(x.dtype)

    return project


@dataclass
class _Split:
    """The fixed point of w_i <- w_i + P_i(2 y - w_i) - y, y = (x + weight * sum of w) / (1 + weight * m), m the number of parts.

    There P_i(2 y - w_i) = y for all i: y is in every part, and x - y = weight * sum of (y - w_i) is a sum of normals. The map is
    nonexpansive, so that its moves never grow. Lanes: problems side by side. weight (lanes, 1): any positive one is right.
    """

    projections: list[Callable[[Tensor], Tensor]]
    named: str

    def solve(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The projection of x, (lanes, n), and the w and weight at which it was found. Lanes that are done are left alone."""
        near = x
        for _ in range(5):
            for project in self.projections:
                near = project(near)
        far = norm(x - near)
        # copies as far from y as things are large: from a far x, w would need as many rounds as it is far
        weight = (far / (norm(near) + 0.01 * far).clamp(min=1e-300)).clamp(min=1.0)
        w, left, done = near.expand(len(self.projections), *x.shape).clone(), torch.arange(len(x), device=x.device), near.clone()
        for i, project in enumerate(self.projections):
            # the projection onto one part is the answer where it is in all of them
            p = project(x)
            inside = torch.stack([(other(p) - p).norm(dim=1) <= EXACT * (1 + p.norm(dim=1)) for other in self.projections]).all(0)
            w[:, inside] = p[inside]
            w[i, inside] -= ((x - p) / weight)[inside]
        all_w = w.clone()
        good, damping = False, torch.full_like(weight, 1e-2)
        for k in range(ROUNDS):
            here, scale = x[left], weight[left]
            y, move = self.moves(here, scale, w)
            size = _size(move)
            unit = 1 + _size(w) + _size(here.unsqueeze(0)) / scale.squeeze(1)
            still = size <= EXACT * unit
            if bool(still.any()):
                done[left[still]], all_w[:, left[still]] = y[still], w[:, still]
                left, w, y, move, size = left[~still], w[:, ~still], y[~still], move[:, ~still], size[~still]
                here, scale, unit = here[~still], scale[~still], unit[~still]
            if not len(left):
                break
            if k % 100 == 99 and (reach := self.apart(y, move)) > 100 * (1 + float(y.abs().max())):
                raise UserError(f"intersection: {self.named} have no common point within {reach:.3g} of x; widen one of them")
            after = w + move
            if (good or k % NEWTON_EVERY == NEWTON_EVERY - 1) and w[:, 0].numel() <= NEWTON_UP_TO:
                step = self.newton(scale, y, w, move, damping[left].squeeze(1) * size / unit)
                guess = w + step
                # a far jump may lower the moves and lead to where they never end
                better = (_size(self.moves(here, scale, guess)[1]) <= 0.9 * size) & (_size(step) <= 10 * unit)
                damping[left] = (damping[left] * torch.where(better, 0.1, 10.0).unsqueeze(1)).clamp(1e-3, 1e12)
                good = bool(better.any())
                after = torch.where(better.reshape(1, -1, 1), guess, after)
            w = after
        if len(left):
            done[left], all_w[:, left] = y, w
            if bool((size > ENOUGH * unit).any()):
                raise UserError(f"intersection: no projection onto {self.named} was found; they may just touch, or have no common point")
        return done, all_w, weight

    def moves(self, x: Tensor, weight: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """y, (lanes, n), and by how much a round moves each w_i, (parts, lanes, n)."""
        y = (x + weight * w.sum(0)) / (1 + weight * len(w))
        return y, torch.stack([project(2 * y - each) for project, each in zip(self.projections, w, strict=True)]) - y

    def slopes(self, y: Tensor, w: Tensor) -> Tensor:
        """The derivatives D_i of the projections at 2 y - w_i: (parts, lanes, n, n)."""
        units = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        out = []
        for project, each in zip(self.projections, w, strict=True):
            pull = torch.func.vjp(project, 2 * y - each)[1]
            out.append(torch.stack([pull(unit.expand_as(y).contiguous())[0] for unit in units], 1))
        return torch.stack(out)

    def system(self, weight: Tensor, D: Tensor) -> Tensor:
        """K = minus the derivative of the moves by w, in blocks s (I - 2 D_i) + [i = j] D_i, s = weight / (1 + weight m): (lanes, N, N)."""
        m, lanes, n, _ = D.shape
        s = (weight / (1 + weight * m)).reshape(1, lanes, 1, 1)
        row = s * (torch.eye(n, dtype=D.dtype, device=D.device) - 2 * D)  # the same in every block of a row of blocks
        K = row.movedim(0, 1).reshape(lanes, m * n, n).repeat(1, 1, m)
        for i, Di in enumerate(D):
            K[:, i * n : (i + 1) * n, i * n : (i + 1) * n] += Di
        return K

    def newton(self, weight: Tensor, y: Tensor, w: Tensor, move: Tensor, damping: Tensor) -> Tensor:
        """The step after which linearised moves are 0, but for the damping, (lanes,); K + K^T has no negative eigenvalues."""
        K = self.system(weight, self.slopes(y, w))
        damped = K + (1e-11 + damping.clamp(max=1)).reshape(-1, 1, 1) * torch.eye(K.shape[1], dtype=K.dtype, device=K.device)
        step = torch.linalg.solve(damped, move.movedim(0, 1).reshape(len(K), -1))
        return step.reshape(len(K), len(w), -1).movedim(0, 1)

    def derivative(self, x: Tensor, weight: Tensor, w: Tensor) -> Tensor:
        """dy / dx, (lanes, n, n), at the answer, where the moves stay 0."""
        D = self.slopes(self.moves(x, weight, w)[0], w)
        m, lanes, n, _ = D.shape
        unit, total = torch.eye(n, dtype=D.dtype, device=D.device), (1 + weight * m).unsqueeze(-1)
        by_x = (2 * D - unit).movedim(0, 1).reshape(lanes, m * n, n) / total
        dw = torch.linalg.pinv(self.system(weight, D), rtol=1e-10) @ by_x
        return (unit + weight.unsqueeze(-1) * dw.reshape(lanes, m, n, n).sum(1)) / total

    def apart(self, y: Tensor, move: Tensor) -> float:
        """A distance from y within which the sets certainly have no common point; 0 where nothing is certain.

        For v_i summing to nearly 0, p = P_i(y + t v_i) has v_i . (p - y) >= v_i . (c - y) - |c - y|^2 / 2t for every c in set i; where the
        sum of the left sides is -d < 0, a common c has m |c - y|^2 / 2t + |sum of v_i| |c - y| >= d. The moves of sets that are apart
        become such v_i.
        """
        t = 1e6 * (1 + norm(y)) / norm(move).sum(0).clamp(min=1e-300)
        reached = [project(y - t * v) - y for project, v in zip(self.projections, move, strict=True)]
        d = (move * torch.stack(reached)).sum((0, 2))
        a, b = len(move) / (2 * t.squeeze(1)), move.sum(0).norm(dim=1)
        return float(torch.where(d > 0, 2 * d / (b + (b * b + 4 * a * d.clamp(min=0)).sqrt()), torch.zeros_like(d)).max())


def _flat(part: ConvexSet, shape: torch.Size, v: Tensor) -> Tensor:
    """The projection of points that are laid out as vectors, (lanes, n)."""
    return part.project(v.reshape(-1, *shape)).reshape(v.shape)


def _size(w: Tensor) -> Tensor:
    """(parts, lanes, n) -> (lanes,), the norm over parts and numbers."""
    return w.square().sum((0, 2)).sqrt()
