"""A convex quadratic program whose constraints may be missed at a price, so that it always has a solution.

    minimise  g.d + d.B d / 2 + sum_i max(low_i r_i, high_i r_i),   r = a + A d

A row with price (-rho, rho) stands for r = 0, with (0, rho) for r <= 0, with (0, inf) for r <= 0 without a price. The prices are the limits
of its multiplier: low <= y <= high. Fletcher 1987, section 14.3. Solved by Mehrotra's primal-dual interior point method, 1992, and
then once more exactly on the rows it found to hold with equality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
ROUNDS = 60
CLOSE = 1e-11
"""Residuals and products (price left) x (residual left), in units of the data, at which the interior method ends."""
ROUGH = 1e-7
"""Where rounding may end it and the answer still be of use."""
WORSE = 1e3
KEPT = 0.995
"""How much of the way to the nearest limit a step goes."""


@dataclass(frozen=True)
class Answer:
    """d (n,), multipliers y (m,), which rows hold with equality (m,), and whether the method came to its end."""

    d: Array
    y: Array
    held: Array
    solved: bool


@dataclass(frozen=True)
class Rows:
    """a + A d: general rows a, J (k, n) with prices, then bounds d >= below and d <= above where these are finite."""

    J: Array
    a: Array
    low: Array
    high: Array
    lower: Array
    upper: Array

    @classmethod
    def of(cls, J: Array, a: Array, low: Array, high: Array, below: Array, above: Array) -> Rows:
        lower, upper = np.flatnonzero(np.isfinite(below)), np.flatnonzero(np.isfinite(above))
        count = len(lower) + len(upper)
        values = np.concatenate([a, below[lower], -above[upper]])
        return cls(J, values, np.concatenate([low, np.zeros(count)]), np.concatenate([high, np.full(count, np.inf)]), lower, upper)

    def times(self, d: Array) -> Array:
        return np.concatenate([self.J @ d, -d[self.lower], d[self.upper]])

    def pull(self, y: Array) -> Array:
        """A^T y (n,)."""
        k, j = len(self.J), len(self.J) + len(self.lower)
        v = self.J.T @ y[:k]
        v[self.lower] -= y[k:j]
        v[self.upper] += y[j:]
        return v

    def dense(self) -> Array:
        eye = np.eye(self.J.shape[1])
        return np.concatenate([self.J, -eye[self.lower], eye[self.upper]])


def quadratic(B: Array, g: Array, rows: Rows) -> Answer:
    """The minimiser and its multipliers; B (n, n) symmetric and positive definite, g (n,).

    >>> rows = Rows.of(np.array([[1.0, 1.0]]), np.array([-1.0]), np.array([-9.0]), np.array([9.0]), np.full(2, -np.inf), np.full(2, np.inf))
    >>> answer = quadratic(np.eye(2), np.zeros(2), rows)  # the point of d1 + d2 = 1 nearest to 0
    >>> answer.d.round(12).tolist(), answer.y.round(12).tolist()
    ([0.5, 0.5], [-0.5])
    """
    if len(rows.a) == 0:
        return Answer(np.linalg.solve(B, -g), np.zeros(0), np.zeros(0, bool), True)
    d, y, held, limit, solved = _interior(B, g, rows, plain=False)
    if not solved:  # Mehrotra's corrections sometimes lead round in circles
        d, y, held, limit, solved = _interior(B, g, rows, plain=True)
    exact = _held(B, g, rows, held, limit)
    if exact is None:
        return Answer(d, y, held, solved)
    return Answer(*exact, held, True)


def _interior(B: Array, g: Array, rows: Rows, plain: bool) -> tuple[Array, Array, Array, Array, bool]:
    """d, y, the rows held, the limits that the others' multipliers are at, and whether it came to its end.

    A residual is r = p - q with p, q > 0; p (high - y) and q (y - low) go to zero together.
    """
    n, k = len(g), len(rows.J)
    low, high = rows.low, rows.high
    priced = np.isfinite(high)
    size, far = max(1.0, float(np.abs(g).max())), max(1.0, float(np.abs(rows.a).max()))
    start = np.minimum(size, np.where(priced, high - low, np.inf) / 2)
    d, y = np.zeros(n), np.where(low < 0, 0.0, low + start)
    q = np.maximum(-rows.a, 0.0) + 0.1 * far
    p = np.where(priced, np.maximum(rows.a, 0.0) + 0.1 * far, 0.0)
    zp, zq = np.where(priced, high - y, 1.0), y - low  # numbers of their own: as differences they would lose their digits
    pairs = len(q) + int(priced.sum())
    best: tuple[Any, ...] = (math.inf, d, y, p, q, zp, zq)
    for _ in range(ROUNDS):
        rd, rp = g + B @ d + rows.pull(y), rows.a + rows.times(d) - p + q
        mu = float(p @ zp + q @ zq) / pairs
        grown = max(size, float(np.abs(y).max()))
        left = max(float(np.abs(rd).max()) / grown, float(np.abs(rp).max()) / far, mu / (grown * far))
        if not left <= WORSE * best[0]:
            break  # rounding has the upper hand
        best = min(best, (left, d, y, p, q, zp, zq), key=lambda state: state[0])
        if left <= CLOSE:
            break
        D = p / zp + q / zq
        K = np.zeros((n + k, n + k))
        K[:n, :n] = B
        diagonal = np.zeros(n)
        np.add.at(diagonal, np.concatenate([rows.lower, rows.upper]), 1 / D[k:])
        K[np.arange(n), np.arange(n)] += diagonal
        K[:n, n:], K[n:, :n] = rows.J.T, rows.J
        K[np.arange(n, n + k), np.arange(n, n + k)] = -D[:k]
        try:
            inverse = np.linalg.inv(K)
        except np.linalg.LinAlgError:
            break

        def step(rcp: Array, rcq: Array) -> tuple[Array, Array, Array, Array, float]:
            t = -rp + np.where(priced, rcp / zp, 0.0) - rcq / zq  # noqa: B023
            tail = np.concatenate([np.zeros(k), t[k:] / D[k:]])  # noqa: B023
            right = np.concatenate([-rd + rows.pull(tail), t[:k]])  # noqa: B023
            z = inverse @ right  # noqa: B023
            z = z + inverse @ (right - K @ z)  # noqa: B023
            dd = z[:n]
            dy = np.concatenate([z[n:], (rows.times(dd)[k:] - t[k:]) / D[k:]])  # noqa: B023
            dp = np.where(priced, (rcp + p * dy) / zp, 0.0)  # noqa: B023
            dq = (rcq - q * dy) / zq  # noqa: B023
            worst = max(_reach(p[priced], dp[priced]), _reach(q, dq), _reach(zp[priced], -dy[priced]), _reach(zq, dy))  # noqa: B023
            return dd, dy, dp, dq, 1.0 / max(worst, 1e-300)

        _, dy, dp, dq, reach = step(-p * zp, -q * zq)
        t = min(1.0, reach)
        foreseen = float((p + t * dp) @ np.where(priced, zp - t * dy, 0.0) + (q + t * dq) @ (zq + t * dy)) / pairs
        aim, bend = (0.2 * mu, 0.0) if plain else (mu * min(1.0, max(foreseen, 0.0) / mu) ** 3, 1.0)
        dd, dy, dp, dq, reach = step(aim - p * zp + bend * dp * dy, aim - q * zq - bend * dq * dy)
        t = min(1.0, KEPT * reach)
        zp, zq = np.where(priced, zp - t * dy, 1.0), zq + t * dy
        d, y, p, q = d + t * dd, y + t * dy, np.where(priced, p + t * dp, 0.0), q + t * dq
    left, d, y, p, q, zp, zq = best
    held = (zq > q) & ((zp > p) | ~priced)
    return d, np.minimum(np.maximum(y, low), high), held, np.where(zq > q, high, low), left <= ROUGH


def _reach(v: Array, change: Array) -> float:
    """The largest fall of v in units of v."""
    return float((-change / v).max(initial=0.0))


def _held(B: Array, g: Array, rows: Rows, held: Array, limit: Array) -> tuple[Array, Array] | None:
    """The solution with these rows at zero and the others' multipliers at their limits; None where it is not one of the program."""
    A, n = rows.dense(), len(g)
    W, m = A[held], int(held.sum())
    if m > n:
        return None
    y = np.where(held, 0.0, limit)  # a limit is finite where it is not held
    K = np.block([[B, W.T], [W, np.zeros((m, m))]])
    try:
        z = np.linalg.solve(K, -np.concatenate([g + A.T @ y, rows.a[held]]))
    except np.linalg.LinAlgError:
        return None
    d, y[held] = z[:n], z[n:]
    r = rows.a + A @ d
    room = 1e-9 * (np.abs(rows.a) + np.abs(A) @ np.abs(d)) + 1e-14
    price = 1e-9 * max(1.0, float(np.abs(y).max()))
    inside = (y >= rows.low - price) & (y <= rows.high + price)
    sides = held | np.where(limit == rows.low, r <= room, r >= -room)
    if not (
        np.isfinite(z).all()
        and inside.all()
        and sides.all()
        and np.abs(K @ z + np.concatenate([g + A.T @ np.where(held, 0.0, limit), rows.a[held]])).max()
        <= 1e-7 * max(1.0, float(np.abs(g).max()))
    ):
        return None
    return d, np.minimum(np.maximum(y, rows.low), rows.high)
