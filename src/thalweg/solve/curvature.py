"""What the Hessian says of a point, for many points at once: minimum, saddle, or neither, and how far above round-off.

A Hessian is judged after Jacobi scaling, D^-1 H D^-1 with D = sqrt(diag H): its signs are those of H (Sylvester), and its small
eigenvalues stand far above rounding where those of a badly scaled H do not (Demmel and Veselic 1992).

A positive definite Hessian at a point where the gradient is only nearly zero proves nothing by itself: near the minimum of x^4 it is
positive as well, and on the way down exp(-x) too. So the Newton step p is taken, and the Hessian again at its end. Where it changed
by less than a quarter there is a strict minimum near by (Kantorovich 1948; Ortega and Rheinboldt 1970, 12.6.2). Near a zero of higher
order it changes by more than half. Where Newton's steps do not shrink, the function falls for ever. A Hessian that is well conditioned
after scaling is not taken again where the step leaves less than a tenth of the gradient in every eigenvector's direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thalweg.solve.result import NECESSARY, NOT_STATIONARY, SADDLE, STRICT

Array = np.ndarray
NOISE = 100.0
"""Round-offs (times n) that an eigenvalue of the scaled Hessian must exceed to have a sign."""
CHANGE = 0.25
SHRINK = 0.95
ALIKE = 1e-4
"""The smallest scaled eigenvalue from which on the gradient after a Newton step tells enough of the Hessian there."""
FLOOR = 16.0
"""Round-offs of the function, as moving x by its own rounding shows them, below which a decrease cannot be seen."""
PROBES = (1e-2, 3e-3, 1e-3)


@dataclass
class Spectrum:
    """Scaled eigenvalues (..., n) ascending and vectors, D (..., n), the limit below which an eigenvalue has no sign."""

    values: Array
    vectors: Array
    D: Array
    limit: Array

    @property
    def positive(self) -> Array:
        return self.values[..., 0] > self.limit

    @property
    def negative(self) -> Array:
        return self.values[..., 0] < -self.limit

    def solve(self, g: Array) -> Array:
        """|H|^-1 g (..., n), leaving out directions without a sign."""
        sure = np.abs(self.values) > self.limit[..., None]
        inverse = np.where(sure, 1 / np.where(sure, np.abs(self.values), 1), 0)
        inner = np.einsum("...ji,...j->...i", self.vectors, g / self.D)
        return np.einsum("...ij,...j->...i", self.vectors, inverse * inner) / self.D

    def lowest(self) -> Array:
        """The direction (..., n) of the smallest scaled eigenvalue, of unit length."""
        v = self.vectors[..., 0] / self.D
        return v / np.linalg.norm(v, axis=-1, keepdims=True)


def spectrum(H: Array, eps: float) -> Spectrum:
    """Of Hessians (..., n, n)."""
    n = H.shape[-1]
    diagonal = np.einsum("...ii->...i", H)
    largest = np.abs(H).max(-1)
    top = largest.max(-1, keepdims=True)
    trusted = diagonal > n * eps * top  # smaller ones are what rounding left of zero
    D = np.sqrt(np.where(trusted, diagonal, np.maximum(largest, np.where(top > 0, top, 1))))
    scaled = H / D[..., :, None] / D[..., None, :]
    finite = np.isfinite(scaled).all((-1, -2))
    values, vectors = np.linalg.eigh(np.where(finite[..., None, None], scaled, 0.0))
    return Spectrum(values, vectors, D, np.full(values.shape[:-1], NOISE * n * eps))


def smallest(H: Array, seen: Spectrum) -> Array:
    """The smallest eigenvalue (...) of H itself; through the inverse where that keeps more digits."""
    plain = np.linalg.eigvalsh(np.where(np.isfinite(H), H, 0.0))[..., 0]
    if (plain > 1e-6 * np.abs(H).max((-2, -1))).all():
        return plain
    V = seen.vectors / seen.D[..., :, None]
    inverse = np.einsum("...ik,...k,...jk->...ij", V, 1 / np.where(seen.positive[..., None], seen.values, 1.0), V)
    return np.where(seen.positive, 1 / np.linalg.eigvalsh(inverse)[..., -1], plain)


@dataclass
class Verdict:
    """Of each lane: status, why (a clause), smallest curvature of H, margin (scaled curvature in round-offs), a downhill direction
    (nan where none), the Newton decrement g H^-1 g / 2 and the round-off floor it is seen against."""

    status: list[str]
    why: list[str]
    curvature: Array
    margin: Array
    escape: Array
    decrement: Array
    floor: Array


def judge(
    x: Array, f: Array, g: Array, H: Array, at: Callable[[Array, Array], tuple[Array, Array, Array]],
    slopes: Callable[[Array, Array], tuple[Array, Array]], values: Callable[[Array, Array], Array], tol: float, eps: float,
) -> Verdict:  # fmt: skip
    """Judge points without constraints.

    x, g: (lanes, n), f: (lanes,), H: (lanes, n, n). at: points of some lanes and the lanes' indices -> value, gradient, Hessian there;
    slopes, values: the same for value and gradient, and for the value. tol: the largest entry of a gradient that counts as zero.
    eps: of the functions' arithmetic.
    """
    lanes, n = x.shape
    seen = spectrum(H, eps)
    p = -seen.solve(g)
    decrement = -np.einsum("ki,ki->k", g, p) / 2
    reach = eps * np.abs(x)
    floor = FLOOR * (eps * np.abs(f) + np.einsum("ki,kij,kj->k", reach, np.abs(H), reach) / 2)
    size = np.abs(g).max(-1)
    zero = size <= tol
    finite = np.isfinite(f) & np.isfinite(size) & np.isfinite(H).all((1, 2))
    rounding = FLOOR * n * (seen.D * reach).max(-1)  # what moving x by its own rounding makes of the scaled gradient
    stationary = finite & (zero | (seen.positive & (decrement <= floor) & (np.abs(g / seen.D).max(-1) <= rounding)))
    saddle = stationary & seen.negative
    flat = stationary & ~seen.negative & ~seen.positive
    theta, ratio = np.zeros(lanes), np.zeros(lanes)
    moved = np.flatnonzero(stationary & ~saddle & (np.abs(p).max(-1) > 0))
    moved = moved[~_calm(x, p, g, seen, slopes, moved, rounding)]
    if moved.size:
        theta[moved], ratio[moved] = _newton(x, p, H, seen, at, moved, eps)
    away = stationary & ~saddle & (theta > CHANGE) & (ratio >= SHRINK)
    strict = stationary & seen.positive & (theta <= CHANGE)
    lower = np.zeros(lanes)
    probed = np.flatnonzero(stationary & ~saddle & ~away & ~strict)
    if probed.size:
        lower[probed] = _lower(x, f, seen, values, probed, size, eps)
        away[probed] = (lower[probed] == 0) & _falls_on(x, f, g, seen, values, probed, eps)
    falls = saddle | (lower != 0)
    escape = np.full_like(x, np.nan)
    if falls.any():
        lowest = seen.lowest()
        down = lowest * np.where(lower != 0, np.sign(lower), -np.where(np.einsum("ki,ki->k", g, lowest) > 0, 1, -1))[:, None]
        escape = np.where(falls[:, None], down, np.nan)
    status, why = [], []
    for k in range(lanes):
        label, clause = _words(k, finite, stationary, falls, saddle, away, strict, flat, zero, size, tol)
        status.append(label)
        why.append(clause)
    return Verdict(status, why, smallest(H, seen), seen.values[:, 0] / (n * eps), escape, decrement, floor)


def _calm(x: Array, p: Array, g: Array, seen: Spectrum, slopes: Callable, lanes: Array, rounding: Array) -> Array:
    """Whether the Newton step takes away the gradient in every direction, for lanes whose curvatures are alike after scaling."""
    calm = seen.values[lanes, 0] > ALIKE
    if calm.any():
        k = lanes[calm]
        _, after = slopes(x[k] + p[k], k)
        left = np.abs(np.einsum("kji,kj->ki", seen.vectors[k], after / seen.D[k]))
        was = np.abs(np.einsum("kji,kj->ki", seen.vectors[k], g[k] / seen.D[k]))
        calm[calm] = (left <= 0.1 * was + rounding[k, None]).all(-1)
    return calm


def _newton(x: Array, p: Array, H: Array, seen: Spectrum, at: Callable, lanes: Array, eps: float) -> tuple[Array, Array]:
    """How much the Hessian changes over the Newton step, relative to itself, and how long the next step is beside this one."""
    _, g1, H1 = at(x[lanes] + p[lanes], lanes)
    known = np.isfinite(H1).all((1, 2)) & np.isfinite(g1).all(1)
    H1, g1 = np.where(known[:, None, None], H1, H[lanes]), np.where(known[:, None], g1, 0.0)
    D, limit = seen.D[lanes], seen.limit[lanes]
    part = Spectrum(seen.values[lanes], seen.vectors[lanes], D, limit)
    change = (H1 - H[lanes]) / D[:, :, None] / D[:, None, :]
    rotated = np.einsum("kji,kjl,klm->kim", part.vectors, change, part.vectors)
    root = 1 / np.sqrt(np.maximum(np.abs(part.values), limit[:, None]))
    theta = np.linalg.norm(rotated * root[:, :, None] * root[:, None, :], 2, axis=(1, 2))
    next_p = spectrum(H1, eps).solve(g1)
    ratio = np.linalg.norm(next_p * D, axis=-1) / np.maximum(np.linalg.norm(p[lanes] * D, axis=-1), 1e-300)
    return np.where(known, theta, np.inf), np.where(known, ratio, np.inf)


def _lower(x: Array, f: Array, seen: Spectrum, values: Callable, lanes: Array, slope: Array, eps: float) -> Array:
    """The side (-1, 0, 1) along a flat direction to which the function falls by more than its slope explains."""
    v, scale = seen.lowest()[lanes], np.maximum(1.0, np.abs(x[lanes]).max(-1))
    side = np.zeros(len(lanes))
    for sign in (1.0, -1.0):
        falls = np.ones(len(lanes), bool)
        for t in PROBES:
            step = t * scale
            drop = f[lanes] - values(x[lanes] + sign * step[:, None] * v, lanes)
            falls &= drop > 3 * (slope[lanes] * step * np.sqrt(x.shape[1]) + eps * np.abs(f[lanes]))
        side = np.where(falls, sign, side)
    return side


def _falls_on(x: Array, f: Array, g: Array, seen: Spectrum, values: Callable, lanes: Array, eps: float) -> Array:
    """Whether the function still falls down the flat part of the gradient at half the length of x from here, and at its whole length."""
    V, D = seen.vectors[lanes], seen.D[lanes]
    flat = seen.values[lanes] <= seen.limit[lanes, None]
    d = -np.einsum("kij,kj,klj,kl->ki", V, flat, V, g[lanes] / D) / D
    size = np.linalg.norm(d, axis=-1)
    d = d / np.where(size > 0, size, 1.0)[:, None]
    reach = np.maximum(1.0, np.linalg.norm(x[lanes], axis=-1))[:, None]
    noise = 4 * eps * np.abs(f[lanes])
    half, whole = values(x[lanes] + reach * d / 2, lanes), values(x[lanes] + reach * d, lanes)
    return (size > 0) & (half < f[lanes] - noise) & (whole < half - noise)


def _words(
    k: int, finite: Array, stationary: Array, falls: Array, saddle: Array, away: Array, strict: Array, flat: Array, zero: Array,
    size: Array, tol: float,
) -> tuple[str, str]:  # fmt: skip
    if not finite[k]:
        return NOT_STATIONARY, "the function or a derivative is not finite here"
    if not stationary[k]:
        return NOT_STATIONARY, f"the gradient's largest entry is {size[k]:.2g}, above {tol:.2g} and above what rounding explains"
    first = "the gradient vanishes" if zero[k] else "the gradient is as small as rounding lets it be"
    if saddle[k]:
        return SADDLE, f"{first} and the curvature is negative along `escape`"
    if falls[k]:
        return SADDLE, f"{first}, the curvature is zero along `escape`, and the function falls there"
    if away[k]:
        return NOT_STATIONARY, f"{first}, but Newton's steps do not shrink: the function falls on without a minimum near by"
    if strict[k]:
        return STRICT, f"{first} and the Hessian is positive definite, also a Newton step on"
    kind = "is singular" if flat[k] else "vanishes with the gradient"
    return NECESSARY, f"{first} and no curvature is negative, but the Hessian {kind}: second order does not decide"
