"""Strategies: operations with several forms that answer alike, of which the fastest depends on shapes and machine.

While a tape is recorded, each form is timed on the tensors at hand, once a shape and machine, and the fastest is written down and
remembered (`thalweg.engine.recording.cache`). `forced` names a form to take wherever it applies, so that tests reach every one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.recording import cache, pooling
from thalweg.engine.recording.tape import ATEN, Recorder

Form = Callable[..., Any]
"""(emit, *arguments) -> the operation's answer, every step through `emit(op, ...)`; None where the form does not apply."""

_forced: list[str] = []


@contextlib.contextmanager
def forced(*names: str) -> Iterator[None]:
    """A block in which the named forms are taken wherever they apply, whatever their speed."""
    _forced.extend(names)
    try:
        yield
    finally:
        del _forced[len(_forced) - len(names) :]


# --- products of which one side is shared by all lanes, or lies transposed


def direct_product(emit: Form, a: Tensor, b: Tensor) -> Tensor:
    return emit(ATEN.bmm.default, a, b)


def transposed_product(emit: Form, a: Tensor, b: Tensor) -> Tensor:
    """(B' A')': the same sums, in the order of memory that weights have."""
    turned = emit(ATEN.bmm.default, emit(ATEN.transpose.int, b, 1, 2), emit(ATEN.transpose.int, a, 1, 2))
    return emit(ATEN.transpose.int, turned, 1, 2)


def one_product(emit: Form, a: Tensor, b: Tensor) -> Tensor | None:
    """Shared input times stacked weights, or stacked slopes times shared input, as one product of matrices."""
    lanes, rows, inner = a.shape
    columns = b.shape[2]
    if b.stride(0) == 0 and lanes > 1 and a.is_contiguous():  # (K, rows, inner) x shared (inner, columns)
        flat = emit(ATEN.view.default, a, [lanes * rows, inner])
        return emit(ATEN.view.default, emit(ATEN.mm.default, flat, emit(ATEN.select.int, b, 0, 0)), [lanes, rows, columns])
    turned = b.transpose(1, 2)
    if a.stride(0) == 0 and lanes > 1 and turned.is_contiguous():  # shared (rows, inner) x (K, inner, columns), stacked by columns
        flat = emit(ATEN.view.default, emit(ATEN.transpose.int, b, 1, 2), [lanes * columns, inner])
        across = emit(ATEN.transpose.int, emit(ATEN.select.int, a, 0, 0), 0, 1)
        whole = emit(ATEN.view.default, emit(ATEN.mm.default, flat, across), [lanes, columns, rows])
        return emit(ATEN.transpose.int, whole, 1, 2)
    return None


# --- softmax over the last dimension


def direct_softmax(emit: Form, x: Tensor, *rest: Any) -> Tensor:
    return emit(ATEN._log_softmax.default, x, *rest)


def packed_softmax(emit: Form, x: Tensor, *rest: Any) -> Tensor | None:
    """In the order of memory that sums over neighbours like; what the layers before hand over may lie transposed."""
    if x.is_contiguous():
        return None
    return emit(ATEN._log_softmax.default, emit(ATEN.clone.default, x, memory_format=torch.contiguous_format), *rest)


def turned_softmax(emit: Form, x: Tensor, dim: int, half: bool) -> Tensor | None:
    """Across memory: few classes are summed for many rows at once."""
    if x.dim() < 2 or dim not in (-1, x.dim() - 1) or x.shape[-1] > 256:
        return None
    turned = _packed(emit, emit(ATEN.transpose.int, x, -1, -2))
    return emit(ATEN.transpose.int, emit(ATEN._log_softmax.default, turned, x.dim() - 2, half), -1, -2)


def direct_slope(emit: Form, g: Tensor, y: Tensor, *rest: Any) -> Tensor:
    return emit(ATEN._log_softmax_backward_data.default, g, y, *rest)


def turned_slope(emit: Form, g: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor | None:
    """The softmax's gradient, across memory too."""
    if y.dim() < 2 or dim not in (-1, y.dim() - 1) or y.shape[-1] > 256:
        return None
    g, y = (_packed(emit, emit(ATEN.transpose.int, part, -1, -2)) for part in (g, y))
    return emit(ATEN.transpose.int, emit(ATEN._log_softmax_backward_data.default, g, y, y.dim() - 2, dtype), -1, -2)


def _packed(emit: Form, x: Tensor) -> Tensor:
    return x if x.is_contiguous() else emit(ATEN.clone.default, x, memory_format=torch.contiguous_format)


# --- pooling


def native_pool(emit: Form, x: Tensor, *rest: Any) -> Any:
    return emit(ATEN.max_pool2d_with_indices.default, x, *rest)


def last_pool(emit: Form, x: Tensor, *rest: Any) -> Any:
    """With the channels last, where pooling is over neighbours in memory."""
    if x.dim() != 4 or x.is_contiguous(memory_format=torch.channels_last):
        return None
    return emit(ATEN.max_pool2d_with_indices.default, emit(ATEN.clone.default, x, memory_format=torch.channels_last), *rest)


def looped_pool(emit: Form, x: Tensor, *rest: Any) -> Any:
    """The same in a compiled loop."""
    side = pooling.window(x, *rest)
    return None if side is None else emit(pooling.operations()[0], _last(emit, x), side)


def native_pool_slope(emit: Form, *arguments: Any) -> Any:
    return emit(ATEN.max_pool2d_with_indices_backward.default, *arguments)


def looped_pool_slope(emit: Form, g: Tensor, x: Tensor, *rest: Any) -> Any:
    """The pool's gradient in a compiled loop, too."""
    *sizes, where = rest
    side = pooling.window(x, *sizes)
    return None if side is None else emit(pooling.operations()[1], _last(emit, g), _last(emit, where), x, side)


# --- convolutions


def native_convolution(emit: Form, *arguments: Any) -> Any:
    return emit(ATEN.convolution.default, *arguments)


def last_convolution(emit: Form, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    """With the channels last, in the answer too: what pools and convolutions after it like."""
    if x.dim() != 4 or x.device.type != "cpu":
        return None
    y = emit(ATEN.convolution.default, _last(emit, x), weight, *rest)
    return _last(emit, y)


def native_convolution_slope(emit: Form, *arguments: Any) -> Any:
    return emit(ATEN.convolution_backward.default, *arguments)


def last_convolution_slope(emit: Form, g: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    """The gradients of a convolution whose channels lie last."""
    if x.dim() != 4 or x.device.type != "cpu" or not g.is_contiguous(memory_format=torch.channels_last):
        return None
    return emit(ATEN.convolution_backward.default, g, _last(emit, x), weight, *rest)


def _last(emit: Form, x: Tensor) -> Tensor:
    _, channels, height, width = x.shape
    strides = (channels * height * width, 1, channels * width, channels)
    if x.stride() == strides:
        return x
    if x.is_contiguous(memory_format=torch.channels_last):  # a single channel lies either way; torch goes by the strides
        return emit(ATEN.as_strided.default, x, list(x.shape), strides)
    return emit(ATEN.clone.default, x, memory_format=torch.channels_last)


FORMS: dict[Any, tuple[Form, ...]] = {
    ATEN.bmm.default: (direct_product, transposed_product, one_product),
    ATEN._log_softmax.default: (direct_softmax, packed_softmax, turned_softmax),
    ATEN._log_softmax_backward_data.default: (direct_slope, turned_slope),
    ATEN.max_pool2d_with_indices.default: (native_pool, last_pool, looped_pool),
    ATEN.max_pool2d_with_indices_backward.default: (native_pool_slope, looped_pool_slope),
    ATEN.convolution.default: (native_convolution, last_convolution),
    ATEN.convolution_backward.default: (native_convolution_slope, last_convolution_slope),
}


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    return op(*args, **kwargs)


def _seconds(call: Callable[[], Any]) -> float:
    """The least of a few calls: whatever else the machine does can only add."""
    best, spent = float("inf"), 0.0
    for i in range(7):
        start = perf_counter()
        call()
        taken = perf_counter() - start
        spent += taken
        best = min(best, taken) if i or taken > 5e-3 else best  # a first call that is short may be cold
        if best < float("inf") and (spent > 0.05 or taken > 5e-3):
            break
    return best


def _cost(form: Form, args: tuple[Any, ...]) -> float:
    """Seconds of a form; an answer that lies across memory costs what it takes to set it straight."""
    answer = form(_run, *args)
    seconds = _seconds(lambda: form(_run, *args))
    if isinstance(answer, Tensor) and not answer.is_contiguous():
        seconds += _seconds(lambda: answer.clone(memory_format=torch.contiguous_format))
    return seconds


def _key(op: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    known = [(tuple(a.shape), a.stride(), a.dtype, a.device) if isinstance(a, Tensor) else str(a) for a in args]
    return (str(op), *known, torch.get_num_threads())


def choose(recorder: Recorder, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record an operation in its fastest form."""
    forms = FORMS[op]
    for form in forms:
        if form.__name__ in _forced and (answer := form(recorder.emit, *args)) is not None:
            return answer
    fitting = {form.__name__: form for form in forms if len(forms) > 1 and form(_run, *args) is not None}

    def fastest() -> str:
        times = {name: _cost(form, args) for name, form in fitting.items()}
        return clearly(times, forms[0].__name__)

    with torch.no_grad():
        name = cache.remembered(_key(op, args), tuple(fitting), fastest) if len(fitting) > 1 else forms[0].__name__
    return fitting.get(name, forms[0])(recorder.emit, *args)


def clearly(times: dict[str, float], plain: str) -> str:
    """The fastest by a clear margin, else the plain one."""
    best = min(times, key=lambda name: times[name])
    return best if times[best] < 0.9 * times[plain] else plain


REWRITES = dict.fromkeys(FORMS, choose)

VARIANTS: dict[Any, str] = {ATEN.convolution.default: "last_convolution"}
"""Operations of which one form may pay only where all of them take it: whole tapes are then timed against each other."""
