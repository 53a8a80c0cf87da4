"""Max-pooling with the channels last over windows that do not overlap, as compiled loops over the channels.

Convolutions on a processor leave their answers with the channels last. torch pools them there well enough, but its gradient goes number by
number, and in a small convolutional net that takes as long as a convolution. Answers are the same to the bit, indices included.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.recording.kernel import REAL, available, load

_LOOP = """#define T {kind}
#define K {window}
void run(long images, long height, long width, long channels, {arguments}) {{
    const long rows = height / K, columns = width / K;
    #pragma omp parallel for schedule(static) if (images * height * width * channels > 16384)
    for (long n = 0; n < images; n++) {{
        {before}
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < columns; j++) {{
                const long end = ((n * rows + i) * columns + j) * channels;
                for (long a = 0; a < K; a++)
                    for (long b = 0; b < K; b++) {{
                        const long at = (i * K + a) * width + j * K + b, from = (n * height * width + at) * channels;
                        #pragma GCC ivdep
                        for (long c = 0; c < channels; c++) {{
                            {body}
                        }}
                    }}
            }}
    }}
}}
"""
_FORWARD = {
    "arguments": "const T* x, T* y, long long* where",
    "before": "",
    "body": """const T v = x[from + c], most = y[end + c];
                            const int more = (a == 0 && b == 0) || v > most || v != v;
                            y[end + c] = more ? v : most;
                            where[end + c] = more ? at : where[end + c];""",
}
_BACKWARD = {
    "arguments": "const T* g, const long long* where, T* slope",
    # rows and columns beside the last window get nothing
    "before": """if (rows * K != height || columns * K != width)
            for (long k = 0; k < height * width * channels; k++) slope[n * height * width * channels + k] = 0;""",
    "body": "slope[from + c] = where[end + c] == at ? g[end + c] : (T)0;",
}
_libraries: list[Any] = []


@functools.cache
def operations() -> tuple[Any, Any]:
    """`max_pool(x, window)` and `max_pool_backward(g, where, x, window)`, defined at first use."""
    library = torch.library.Library("thalweg", "DEF")
    library.define("max_pool(Tensor x, int window) -> (Tensor, Tensor)")
    library.define("max_pool_backward(Tensor g, Tensor where, Tensor x, int window) -> Tensor")
    library.impl("max_pool", _forward, "CPU")
    library.impl("max_pool_backward", _backward, "CPU")
    _libraries.append(library)  # the operations go when their library goes
    return torch.ops.thalweg.max_pool.default, torch.ops.thalweg.max_pool_backward.default


def window(x: Tensor, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> int | None:
    """The side of square windows that do not overlap, where that is what an operation's arguments say and the loops compile here."""
    sides = {*_both(size), *(_both(stride) or _both(size))}
    plain = not any(_both(padding)) and set(_both(dilation)) == {1} and not ceil
    if not plain or len(sides) != 1 or x.dim() != 4 or x.device.type != "cpu" or x.dtype not in REAL or not x.numel():
        return None
    side = sides.pop()
    fits = 1 < side <= min(x.shape[2:])
    return side if fits and available() and all(_loop(way, x.dtype, side) for way in ("forward", "backward")) else None


def _both(sizes: Any) -> tuple[int, ...]:
    return (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)


@functools.cache
def _loop(way: str, dtype: torch.dtype, side: int) -> Any:
    return load(_LOOP.format(kind=REAL[dtype], window=side, **(_FORWARD if way == "forward" else _BACKWARD)))


def _call(way: str, x: Tensor, side: int, *tensors: Tensor) -> None:
    images, channels, height, width = x.shape
    sizes = (ctypes.c_long(n) for n in (images, height, width, channels))
    _loop(way, x.dtype, side)(*sizes, *(ctypes.c_void_p(t.data_ptr()) for t in tensors))


def _forward(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], x.shape[2] // side, x.shape[3] // side)
    y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    where = torch.empty(shape, dtype=torch.int64, memory_format=torch.channels_last)
    _call("forward", x, side, x, y, where)
    return y, where


def _backward(g: Tensor, where: Tensor, x: Tensor, side: int) -> Tensor:
    slope = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
    _call("backward", x, side, g, where, slope)
    return slope
