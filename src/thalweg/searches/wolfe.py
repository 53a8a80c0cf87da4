"""A step that satisfies the strong Wolfe conditions, by cubics inside a shrinking interval. More and Thuente 1994, ACM TOMS 20:286

low is the end with the least value so far, high the other. While no step has fallen enough with a rising slope, the function is
judged after subtracting c1 times its first slope, as the paper does. A point that is not finite is no point: the interval ends before
it. Interval and trial are kept inside as in the paper, sections 3 and 4.
"""

import math

from thalweg.core.method import search

WIDEST = 1e30
GROW = 4.0


def _accept(f0, d0, alpha, f, d, noise, *, c1=1e-4, c2=0.9):
    return (f <= f0 + c1 * alpha * d0 + noise) & (abs(d) <= -c2 * d0)


@search(slopes=True, accept=_accept)
def wolfe(f0, d0, first, noise, *, c1=1e-4, c2=0.9, most=20):
    low = high = (0.0, f0, d0)
    bracketed, plain, wall = False, False, WIDEST
    width = before = math.inf
    alpha = first
    while most:  # as long as it falls, it may be followed
        f, d = yield alpha
        most -= bracketed or not math.isfinite(f)
        if not (math.isfinite(f) and math.isfinite(d)):
            wall, alpha = alpha, low[0] + 0.25 * (alpha - low[0])
            if alpha in (low[0], wall):
                break
            continue
        if _accept(f0, d0, alpha, f, d, noise, c1=c1, c2=c2):
            return alpha
        enough = f <= f0 + c1 * alpha * d0 + noise
        plain = plain or (enough and d >= 0)
        tilt = 0.0 if plain or enough or f > low[1] else c1 * d0
        low, high, new, bracketed = _refine(low, high, (alpha, f, d), tilt, bracketed)
        if bracketed:
            a, b = sorted((low[0], high[0]))
            if b - a > 0.66 * before:
                new = a + 0.5 * (b - a)
            before, width = width, b - a
            if width <= 1e-16 * max(a, b):
                break
        else:
            reach = low[0] - high[0]
            new = min(max(new, low[0] + 0.5 * reach), low[0] + GROW * reach)
            if new >= wall:
                new = low[0] + 0.5 * (wall - low[0])
        if new in (alpha, low[0]) or new > WIDEST:
            break
        alpha = new
    return low[0] if low[0] > 0 and low[1] < f0 + noise else None


def _refine(low, high, trial, tilt, bracketed):
    """The new interval and a trial inside it, by the four cases of section 4."""
    at, f, d = (trial[0], trial[1] - tilt * trial[0], trial[2] - tilt)
    al, fl, dl = (low[0], low[1] - tilt * low[0], low[2] - tilt)
    ah, fh, dh = (high[0], high[1] - tilt * high[0], high[2] - tilt)
    if f > fl:  # higher: a minimum lies between
        cubic, square = _cubic(al, fl, dl, at, f, d), al + (at - al) * dl / (dl + (fl - f) / (at - al)) / 2
        new = cubic if abs(cubic - al) < abs(square - al) else cubic + (square - cubic) / 2
        return low, trial, new, True
    if d * (at - al) < 0:  # lower, and not rising away from low: as far as it goes
        secant = at - d * (at - al) / (d - dl) if d != dl else math.inf * (at - al)
        if abs(d) <= abs(dl):
            cubic = _cubic(al, fl, dl, at, f, d)
            onward = (cubic - at) * (at - al) > 0 and math.isfinite(cubic)
            if bracketed:
                new = cubic if onward and abs(cubic - at) < abs(secant - at) else secant
                edge = at + 0.66 * (ah - at)
                new = min(new, edge) if at > al else max(new, edge)
            else:
                far = cubic if onward else math.copysign(math.inf, at - al)
                new = far if abs(far - at) > abs(secant - at) else secant
        elif bracketed:
            new = _cubic(at, f, d, ah, fh, dh)
        else:
            new = math.inf if at > al else -math.inf
        return trial, high if bracketed else low, new, bracketed
    cubic, secant = _cubic(al, fl, dl, at, f, d), at - d * (at - al) / ((d - dl) or math.inf)  # lower, and rising again
    return trial, low, (cubic if abs(cubic - at) >= abs(secant - at) else secant), True


def _cubic(a, fa, da, b, fb, db):
    """Where the cubic with these values and slopes at a and b has its minimum; the middle where it has none."""
    theta = 3 * (fa - fb) / (b - a) + da + db
    size = max(abs(theta), abs(da), abs(db))  # squares of it may overflow
    inner = (theta / size) ** 2 - (da / size) * (db / size) if size else -1.0
    if not inner >= 0:
        return a + (b - a) / 2
    gamma = math.copysign(size * math.sqrt(inner), b - a)
    below = db - da + 2 * gamma
    return b - (b - a) * (db + gamma - theta) / below if below else math.inf * (b - a)
