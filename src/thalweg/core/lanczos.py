"""Lanczos's method for the ends of a symmetric matrix (1950, doi:10.6028/jres.045.026), reorthogonalised in full.

An estimate's distance from an eigenvalue is no more than its residual, and where others lie far off no more than the residual's square
over the distance to the nearest (Parlett 1998, 11.7 and 11.8). The second is known only as far as the others are, so that what stops the
method may rest on it, and what is reported does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UserError

SMALL = 0.1
"""Of the largest value: below it an end lies among others that may hide what is beyond them."""

STILL = ((4, 0.01), (8, 0.25), (3, 0.25))
"""Steps over which a value must not have moved, and by what share of the error that is allowed: an end, behind which a farther one shows at
first by slow moves; one that is so small that it may hide others, there over half of all steps where that is more, up to LONG; a value
between the ends. Beginning near a vector that is known, fewer are enough."""

LONG = 20
WARM = (2, 0.3)

LAST = 0.1
"""The share that is enough where there is no product left to wait for."""

BEYOND = 0.1
"""Of what an end may at most be off by: how far it is, in the middle of many nets."""

UNSEEN = 6.0
"""Times what shows of the round-off in the basis, for what does not; four were seen against products in double precision."""


class Symmetric(Protocol):
    """What Lanczos's method takes: a symmetric matrix (n, n) as a function of a vector; products counts the calls."""

    size: int
    products: int
    dtype: torch.dtype
    device: torch.device

    def __call__(self, v: Tensor) -> Tensor: ...


class Lanczos:
    """An orthonormal basis of ever more products, and the matrix in it, which is tridiagonal.

    theta (m,): its eigenvalues there, rising; residual (m,): of each with its vector; vectors (m, m): in the basis, a column a value.
    noise: the round-off of a product, as it shows where a symmetric matrix would have zeros in the basis; it is part of each residual.
    """

    def __init__(self, product: Symmetric, most: int, draw: torch.Generator) -> None:
        self.product, self.most, self.generator = product, min(most, product.size), draw
        self.basis = torch.empty(min(16, self.most), product.size, device=product.device, dtype=product.dtype)
        self.diagonal: list[float] = []
        self.beside: list[float] = []
        self.theta = self.residual = np.zeros(0)
        self.warm, self.noise = False, 0.0
        self.course: list[np.ndarray] = []  # theta of every step
        self.vectors = np.zeros((0, 0))

    @property
    def whole(self) -> bool:
        """Whether all directions were seen."""
        return len(self.diagonal) == self.product.size

    @property
    def scale(self) -> float:
        """The size of the largest value."""
        return float(np.abs(self.theta).max())

    def random(self) -> Tensor:
        """A random direction, (n,), normal."""
        drawn = torch.randn(self.product.size, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.product.device, self.product.dtype)

    def start(self, given: Tensor | None, lead: Tensor | None = None) -> Tensor:
        """A random direction, or the one given with a little of a random one, lest it lies beside the eigenvector that is looked for.

        lead: a direction in which the eigenvectors that are looked for are likely to lie; it makes the greater part of a start without
        `given`, and none where it is 0 or not finite.
        """
        random = self.random()
        if given is None:
            length = 0.0 if lead is None else float(lead.norm())
            return random if lead is None or not 0 < length < math.inf else 0.5 * random / random.norm() + lead / length
        if given.shape != random.shape or not bool(given.isfinite().all()) or not bool(given.any()):
            raise UserError(f"start must be {self.product.size} finite numbers, one a trainable parameter, not all 0")
        self.warm = True
        return given.to(random) / given.norm().to(random) + 0.05 * random / random.norm()

    def run(self, start: Tensor, done: Callable[[Lanczos], bool]) -> Lanczos:
        """Take products until it is done, or there are no more to take."""
        q, epsilon = start / start.norm(), torch.finfo(self.product.dtype).eps
        while True:
            m = len(self.diagonal)
            if m == len(self.basis):
                self.basis = torch.cat([self.basis, torch.empty_like(self.basis)])
            self.basis[m] = q
            w = self.product(q)
            self.diagonal.append(float(q.double() @ w.double()))
            w, beta = self._apart(w, seen=True)
            self.theta, self.vectors = np.linalg.eigh(np.diag(self.diagonal) + np.diag(self.beside, 1) + np.diag(self.beside, -1))
            self.course.append(self.theta)
            self.residual = np.hypot(beta * np.abs(self.vectors[-1]), max(self.noise, 40 * epsilon * self.scale))
            if m + 1 == self.most or done(self):
                return self
            if beta <= 616 * epsilon * self.scale:  # nothing new this way: what is left is seen from elsewhere
                self.noise, beta = max(self.noise, beta), 0.0
                w, _ = self._apart(self.random())
            self.beside.append(beta)
            q = w / w.norm()

    def _apart(self, w: Tensor, seen: bool = False) -> tuple[Tensor, float]:
        """A vector without its parts along the basis, and its length; twice, since once leaves round-off. seen: whether it is a product."""
        basis = self.basis[: len(self.diagonal)]
        for again in range(2):
            parts = basis @ w
            if seen and not again and len(parts) > 2:
                self.noise = max(self.noise, UNSEEN * float(parts[:-2].norm()))
            w = w - basis.T @ parts
        return w, float(w.norm())

    def met(self, places: Sequence[int], tolerance: float, floor: float = 0.01) -> bool:
        """Whether the values at these places are found to a share of their size, or of `floor` of the largest size where that is larger.

        A value is found where its residual says so, or the residual and the distance to the others. It must besides not have moved for
        some steps: a small residual tells that there is a value, and not that none lies beyond.
        """
        m = len(self.theta)
        if m == self.product.size:
            return True
        allowed = tolerance * np.maximum(np.abs(self.theta), floor * self.scale)
        return all(self._found(int(place) % m, float(allowed[place])) for place in places)

    def _found(self, i: int, allowed: float) -> bool:
        m = len(self.theta)
        rank = i if i < m // 2 else i - m  # from the nearer end
        hidden = rank in (0, -1) and bool(abs(self.theta[i]) < SMALL * self.scale)
        inside = rank not in (0, -1)
        steps, share = STILL[2 if inside else hidden] if hidden or not self.warm else WARM
        share = max(share, LAST) if m == self.most else share
        earlier = self.course[max(0, m - 1 - (min(max(steps, m // 2), LONG) if hidden else steps))]
        if not -len(earlier) <= rank < len(earlier) or abs(earlier[rank] - self.theta[i]) > share * allowed:
            return False
        if self.residual[i] <= allowed:
            return True
        if self.residual[i] > 3 * allowed or m < 2:
            return False
        gap = np.abs(np.delete(self.theta, i) - self.theta[i]).min() - self.residual[i]
        moved = np.abs(self.course[-2] - self.theta[i]).min()
        return bool(gap > 0 and self.residual[i] ** 2 / gap <= allowed / 4 and moved <= allowed / 4)

    def outward(self) -> tuple[np.ndarray, np.ndarray]:
        """The values with the two ends moved out to where they are likely to lie, and the residuals of their vectors with these.

        An end lies beyond what is seen of it, by no more than the residual, nor than its square over the gap to the next. None is moved
        past 0, so that a negative value is one that was seen.
        """
        values, residuals = self.theta.copy(), self.residual.copy()
        for end, beside, out in ((0, 1, -1), (-1, -2, 1)) if len(values) > 1 else ():
            seen, residual = float(self.theta[end]), float(self.residual[end])
            gap = out * (seen - float(self.theta[beside]))
            moved = seen + out * BEYOND * residual**2 / max(gap, residual, 1e-300)
            values[end] = moved if moved * seen >= 0 else 0.0
            residuals[end] = math.hypot(residual, values[end] - seen)
        return values, residuals

    def vector(self, place: int) -> Tensor:
        """The unit vector (n,) of the value at that place."""
        inside = torch.from_numpy(self.vectors[:, place].copy()).to(self.basis)
        found = inside @ self.basis[: len(inside)]
        return found / found.norm()

    def rest(self) -> float:
        """z H z for random signs z without their parts in the basis: on average the trace of what the basis leaves out."""
        z, _ = self._apart(self.random().sign())
        return float(z.double() @ self.product(z).double())

    def trace(self, samples: int) -> tuple[float, float]:
        """The trace and its standard error, by so many further products unless all directions were seen. Hutchinson 1990."""
        seen = sum(self.diagonal)
        if self.whole:
            return seen, 0.0
        rest = [self.rest() for _ in range(samples)]
        trace = seen + float(np.mean(rest)) if rest else math.nan
        return trace, float(np.std(rest, ddof=1) / math.sqrt(samples)) if samples > 1 else math.nan
