"""Cross-entropies of an affine layer, ReLU and an affine layer, at all points of a line of weights from one pass over the hidden units.

Along w + alpha d what comes into hidden unit j is a_j + alpha b_j, which is positive on one side of one place, and the last layer is affine
in alpha too: between the places where units flip a score is the quadratic sum over the active units of (a + alpha b) (w + alpha d). Three
coefficients a class are summed over the units active at one point of the line; each other unit adds or takes away its own where it flips,
and sums that run outwards from that point give the scores everywhere. The point is the one nearest to alpha = 0: what is added on the way
is then no greater than what the scores there are made of, and sums are rounded no worse than those of the layers themselves.

The loops are C (`thalweg.core.compiled`); units, rows and points are of any number, classes up to 64.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thalweg.core.compiled import compiler, load

CLASSES, POINTS, ROWS = 64, 64, 64
"""Most classes; points of a line, and rows, that are done at once, so that all of it stays in the first caches."""
LARGE = 1e15
"""Numbers that are greater are left to other ways: products of two, summed, must be finite in single precision."""

_TEXT = """#define T {kind}
#define I {whole}
#define LANES {lanes}
#define K {classes}
#define VECTORS (K / LANES)
#define POINTS {points}
#define ROWS {rows}
#define UNITS 256
typedef T V __attribute__((vector_size(64)));
typedef T U __attribute__((vector_size(64), aligned({size}), may_alias));

static inline T power(T x) {{  /* exp(x) for x <= 0: 2^n times a Taylor polynomial of what is left, |r| <= log(2) / 2 */
    x = x < (T){least} ? (T){least} : x;
    const T n = (x * (T)1.4426950408889634 + (T){magic}) - (T){magic};
    const T r = (x - n * (T){high}) - n * (T){low};
    T value = (T){first};
    {polynomial}
    const I bits = ((I)n + {bias}) << {shift};
    T scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    return value * scale;
}}

/* sums, products: of a block of rows at each point, so that its loss is sums + log(products). starts: what comes into units at the pivot */
void run(long rows, long units, long classes, long points, long lines, long pivot, double step, const T* betas, const T* deltas,
         const T* starts, const T* alongs, const T* asides, const T* weights, const T* slopes, const T* offsets, const T* drifts,
         const long long* labels, double* sums, double* products) {{
    const long blocks = (rows + ROWS - 1) / ROWS;
    #pragma omp parallel for schedule(dynamic)
    for (long block = 0; block < blocks; block++) {{
        V flips[POINTS][3][VECTORS] __attribute__((aligned(64)));
        T scores[POINTS][K] __attribute__((aligned(64))), turned[K][POINTS] __attribute__((aligned(64)));
        T came[UNITS] __attribute__((aligned(64))), own[POINTS] __attribute__((aligned(64))), most[POINTS] __attribute__((aligned(64)));
        T rest[POINTS] __attribute__((aligned(64))), sign[UNITS] __attribute__((aligned(64)));
        I place[UNITS] __attribute__((aligned(64)));
        int active[UNITS], turning[UNITS];
        __builtin_memset(flips, 0, sizeof flips);
        __builtin_memset(turned, 0, sizeof turned);
        const long last = (block + 1) * ROWS < rows ? (block + 1) * ROWS : rows;
        for (long line = 0; line < lines; line++) {{
            double* sum = sums + (block * lines + line) * points;
            double* product = products + (block * lines + line) * points;
            for (long k = 0; k < points; k++) sum[k] = 0, product[k] = 1;
            const T beta = betas[line], width = (T)step;
            const I center = pivot, many = points;
            for (long row = block * ROWS; row < last; row++) {{
                V at[4][VECTORS];
                for (int v = 0; v < VECTORS; v++) {{
                    at[0][v] = ((const U*)(offsets + line * K))[v];
                    at[1][v] = ((const U*)drifts)[v];
                    at[2][v] = at[3][v] = (V){{0}};
                }}
                for (long first = 0; first < units; first += UNITS) {{
                    const int here = units - first < UNITS ? units - first : UNITS;
                    const T *a0 = starts + row * units + first, *a2 = asides + row * units + first, *b = alongs + row * units + first;
                    const T *w = weights + (line * units + first) * K, *d = slopes + first * K;
                    #pragma GCC ivdep
                    for (int j = 0; j < here; j++) {{  /* the first point beyond its flip, and what it does to the sums there */
                        const T a = a0[j] + beta * a2[j], way = __builtin_fabs{f}(a) / (__builtin_fabs{f}(b[j]) * width);
                        const T near = way < POINTS ? way : POINTS;
                        const I on = a > 0, rises = b[j] > 0, steps = (I)near + 1, k = on ^ rises ? center + steps : center - steps;
                        came[j] = a, sign[j] = on ? -1 : 1;
                        place[j] = (k >= 0) & (k < many) ? k : POINTS;
                    }}
                    int actives = 0, turns = 0;
                    for (int j = 0; j < here; j++) {{
                        active[actives] = j, actives += came[j] > 0;
                        turning[turns] = j, turns += place[j] < POINTS;
                    }}
                    for (int i = 0; i < actives; i++) {{
                        const int j = active[i];
                        const U *wj = (const U*)(w + j * K), *dj = (const U*)(d + j * K);
                        for (int v = 0; v < VECTORS; v++) {{
                            at[0][v] += came[j] * wj[v], at[1][v] += b[j] * wj[v];
                            at[3][v] += came[j] * dj[v], at[2][v] += b[j] * dj[v];
                        }}
                    }}
                    for (int i = 0; i < turns; i++) {{
                        const int j = turning[i];
                        const T a = sign[j] * came[j], s = sign[j] * b[j];
                        const U *wj = (const U*)(w + j * K), *dj = (const U*)(d + j * K);
                        V(*to)[VECTORS] = flips[place[j]];
                        for (int v = 0; v < VECTORS; v++)
                            to[0][v] += a * wj[v], to[1][v] += a * dj[v] + s * wj[v], to[2][v] += s * dj[v];
                    }}
                }}
                for (int way = -1; way <= 1; way += 2)
                    for (int v = 0; v < VECTORS; v++) {{
                        V c0 = at[0][v], c1 = at[1][v] + at[3][v], c2 = at[2][v];
                        for (long k = pivot; k >= 0 && k < points; k += way) {{
                            c0 += flips[k][0][v], c1 += flips[k][1][v], c2 += flips[k][2][v];
                            flips[k][0][v] = flips[k][1][v] = flips[k][2][v] = (V){{0}};
                            ((V*)scores[k])[v] = c0 + deltas[k] * (c1 + deltas[k] * c2);
                        }}
                    }}
                for (long c = 0; c < classes; c++)
                    for (long k = 0; k < points; k++) turned[c][k] = scores[k][c];
                const long y = labels[row], wide = (points + LANES - 1) / LANES * LANES;
                for (long k = 0; k < wide; k++) own[k] = turned[y][k], most[k] = 0, rest[k] = 0;
                for (long c = 0; c < classes; c++)
                    for (long k = 0; k < wide; k++) {{
                        const T gap = turned[c][k] - own[k];
                        most[k] = gap > most[k] ? gap : most[k];
                    }}
                for (long c = 0; c < classes; c++)
                    if (c != y)
                        for (long k = 0; k < wide; k++) rest[k] += power(turned[c][k] - own[k] - most[k]);
                for (long k = 0; k < wide; k++) own[k] = power(-most[k]);  /* 1 + a small rest keeps it, in double */
                for (long k = 0; k < points; k++) sum[k] += most[k], product[k] *= (double)own[k] + (double)rest[k];
            }}
        }}
    }}
}}
"""


def _text(dtype: torch.dtype, classes: int) -> str:
    """The loops for numbers of a type and at most so many classes."""
    wide = dtype is torch.float64
    lanes, degree = (8, 13) if wide else (16, 7)
    high = int(math.log(2) * 2**12) / 2**12  # few digits, so that n times it is exact
    coefficients = [f"value = value * r + (T){1 / math.factorial(k)!r};" for k in reversed(range(degree))]
    return _TEXT.format(
        kind="double" if wide else "float", whole="long long" if wide else "int", lanes=lanes, classes=-(-classes // lanes) * lanes,
        points=POINTS, rows=ROWS, size=8 if wide else 4, f="" if wide else "f", least=-700 if wide else -87, bias=1023 if wide else 127,
        shift=52 if wide else 23, magic=1.5 * 2**52 if wide else 1.5 * 2**23, first=repr(1 / math.factorial(degree)),
        polynomial=" ".join(coefficients), high=high, low=math.log(2) - high,
    )  # fmt: skip


def fits(dtype: torch.dtype, classes: int, alphas: np.ndarray) -> bool:
    """Whether the loops can do such a line here: evenly spaced points, few classes, and a compiler."""
    even = len(alphas) > 1 and alphas[-1] > alphas[0] and np.allclose(np.diff(alphas), (alphas[-1] - alphas[0]) / (len(alphas) - 1))
    known = dtype in (torch.float32, torch.float64) and classes <= CLASSES and even
    return bool(known) and compiler() is not None and load(_text(dtype, classes)) is not None


def summed(
    starts: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], labels: Tensor, alphas: np.ndarray, betas: np.ndarray
) -> np.ndarray | None:  # fmt: skip
    """The sum of the rows' cross-entropies at each place (a, b); None where numbers are too large or not finite.

    Each of starts (n, units), what the first layer makes of the rows, weights (classes, units) and biases (classes,) is given at the origin and
    along one way or two. labels (n,): int64, of the classes.
    """
    classes, units = weights[0].shape
    reach = [1.0, float(np.abs(alphas).max()), float(np.abs(betas).max())]
    for parts in (starts, weights, biases):
        if not sum(k * float(part.abs().max()) for k, part in zip(reach, parts, strict=False)) < LARGE:
            return None
    call = load(_text(starts[0].dtype, classes))
    lines = torch.tensor(betas, dtype=starts[0].dtype)
    step = (alphas[-1] - alphas[0]) / (len(alphas) - 1)
    lanes = 64 // starts[0].element_size()
    padded = -(-classes // lanes) * lanes

    def table(parts: Sequence[Tensor], at: float, betas: Tensor) -> Tensor:
        """Weights or biases where lines are at a point, (lines, .., padded)."""
        here = (parts[0] + at * parts[1]).expand(len(betas), *parts[0].shape)
        here = here + betas.reshape(-1, *[1] * parts[0].dim()) * parts[2] if len(parts) > 2 else here
        return _padded(here.movedim(1, -1), padded)

    blocks = -(-len(labels) // ROWS)
    found = np.zeros((len(alphas), len(betas)))
    asides = starts[2] if len(starts) > 2 else torch.zeros_like(starts[0])
    for points in np.array_split(np.arange(len(alphas)), -(-len(alphas) // POINTS)):
        pivot = int(np.abs(alphas[points]).argmin())
        at = float(alphas[points][pivot])
        deltas = torch.tensor(alphas[points] - at, dtype=lines.dtype)
        first = starts[0] + at * starts[1]
        slopes, drifts = _padded(weights[1].T, padded), _padded(biases[1], padded)
        for begin in range(0, len(betas), POINTS):
            some = lines[begin : begin + POINTS]
            sums = torch.empty(2, blocks, len(some), len(points), dtype=torch.float64)
            arrays = (some, deltas, first, starts[1], asides, table(weights, at, some), slopes, table(biases, at, some), drifts, labels, *sums)
            sizes = (len(labels), units, classes, len(points), len(some), pivot)
            call(*map(ctypes.c_long, sizes), ctypes.c_double(step), *(ctypes.c_void_p(array.data_ptr()) for array in arrays))
            found[points, begin : begin + POINTS] = (sums[0] + sums[1].log()).sum(0).T.numpy()
    return found


def _padded(values: Tensor, classes: int) -> Tensor:
    """With zeros behind the last dimension, in one piece."""
    return torch.nn.functional.pad(values, (0, classes - values.shape[-1])).contiguous()
