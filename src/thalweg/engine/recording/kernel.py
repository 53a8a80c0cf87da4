"""Kernels: runs of operations that work number by number, joined into one loop of C that passes over memory once.

An update reads point, gradient and states and writes point and states; step by step it would pass over memory a dozen times. Where a C
compiler is at hand (gcc or clang, a fraction of a second a kernel), such runs on a tape become one call. Kernels know neither sizes nor
constants, so that one serves every block, width and rate of a rule; they are kept in the user's cache folder from run to run.
Without a compiler the operations are called one by one, and the log says so once at debug level.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.core.compiled import compilations as compilations
from thalweg.core.compiled import compiler as _compiler
from thalweg.core.compiled import load
from thalweg.engine.recording.tape import ATEN, Node, Ref, Tape, Value

TILE = 8192
SHORT = 3
"""Runs of fewer operations are not joined."""

_MAX = "({0} != {0} ? {0} : {1} != {1} ? {1} : {0} > {1} ? {0} : {1})"
_MIN = "({0} != {0} ? {0} : {1} != {1} ? {1} : {0} < {1} ? {0} : {1})"
_LERP = "({2} < (T)0.5 ? {0} + {2} * ({1} - {0}) : {1} - ({1} - {0}) * ((T)1 - {2}))"
EXPRESSIONS: dict[Any, str] = {
    ATEN.mul.Tensor: "{0} * {1}", ATEN.mul.Scalar: "{0} * {1}", ATEN.div.Tensor: "{0} / {1}", ATEN.div.Scalar: "{0} / {1}",
    ATEN.neg.default: "-{0}", ATEN.sqrt.default: "SQRT({0})", ATEN.rsqrt.default: "(T)1 / SQRT({0})", ATEN.abs.default: "ABS({0})",
    ATEN.reciprocal.default: "(T)1 / {0}", ATEN.sign.default: "(T)(({0} > 0) - ({0} < 0))", ATEN.relu.default: "({0} < 0 ? (T)0 : {0})",
    ATEN.maximum.default: _MAX, ATEN.minimum.default: _MIN, ATEN.clamp_min.default: "({0} < {1} ? {1} : {0})",
    ATEN.clamp_max.default: "({0} > {1} ? {1} : {0})", ATEN.where.self: "({0} ? {1} : {2})", ATEN.lerp.Scalar: _LERP,
    ATEN.clone.default: "{0}", ATEN.detach.default: "{0}",
}  # fmt: skip
SCALED: dict[Any, str] = {
    ATEN.add.Tensor: "{0} + {k} * {1}", ATEN.sub.Tensor: "{0} - {k} * {1}", ATEN.add.Scalar: "{0} + {k} * {1}",
    ATEN.sub.Scalar: "{0} - {k} * {1}", ATEN.rsub.Scalar: "{1} - {k} * {0}", ATEN.rsub.Tensor: "{1} - {k} * {0}",
    ATEN.addcmul.default: "{0} + {k} * {1} * {2}", ATEN.addcdiv.default: "{0} + {k} * {1} / {2}",
}  # fmt: skip
"""Those with a factor, named alpha or value."""
TESTS: dict[Any, str] = {
    getattr(getattr(ATEN, name), kind): f"{{0}} {sign} {{1}}"
    for name, sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
    for kind in ("Scalar", "Tensor")
}
REAL = {torch.float32: "float", torch.float64: "double"}
KINDS = {**REAL, torch.bool: "unsigned char", torch.int64: "long long"}


@dataclass(frozen=True)
class Kernel:
    """A compiled loop. rows, columns: of what it passes over; numbers: constants in the order of its signature."""

    call: Any
    rows: int
    columns: int
    numbers: tuple[float, ...]


def joined(tape: Tape) -> Tape:
    """The tape with its runs of operations compiled; the tape itself where there is no compiler or nothing to join.

    Operations of a run move to the run's end, which lies before the first operation that needs one of their answers.
    """
    if not available():
        return tape
    wanted = {ref.number for ref in tape.outputs}
    runs: dict[Any, list[Node]] = {}
    nodes: list[Node | _Loop] = []
    home: dict[int, Any] = {}
    readers: dict[int, list[Node]] = {}
    for node in tape.nodes:
        for number in node.reads():
            readers.setdefault(number, []).append(node)

    def close(key: Any) -> None:
        run = runs.pop(key)
        made = {out for node in run for out in node.outs}
        for out in made:
            home.pop(out)
        if len(run) < SHORT:
            nodes.extend(run)
            return
        ends = [o for o in made if o in wanted or any(all(reader is not inner for inner in run) for reader in readers.get(o, []))]
        nodes.append(_written(tape, key, run, sorted(ends)))

    for node in tape.nodes:
        key = _key(tape, node)
        for needed in dict.fromkeys(home[n] for n in node.reads() if n in home):
            if needed != key and needed in runs:
                close(needed)
        if key is None:
            nodes.append(node)
            continue
        runs.setdefault(key, []).append(node)
        home.update(dict.fromkeys(node.outs, key))
    for key in list(runs):
        close(key)
    sources = list(dict.fromkeys(node.source for node in nodes if isinstance(node, _Loop)))
    with ThreadPoolExecutor(max(1, min(8, len(sources)))) as pool:  # compilers side by side
        calls = dict(zip(sources, pool.map(load, sources), strict=True))
    tape.nodes = [done for node in nodes for done in ([node] if isinstance(node, Node) else node.nodes(calls[node.source]))]
    return tape


def _key(tape: Tape, node: Node) -> Any:
    """What operations must share to run in one loop: shape and type; None where an operation cannot be part of one."""
    if node.writes or len(node.outs) != 1 or not (node.op in EXPRESSIONS or node.op in SCALED or node.op in TESTS):
        return None
    value = tape.values[node.outs[0]]
    if value.device.type != "cpu" or len(value.shape) < 1 or not _dense(value) or value.shape.numel() < 2:
        return None
    if set(node.kwargs) - {"alpha", "value"} or not all(isinstance(k, int | float) for k in node.kwargs.values()):
        return None
    kinds = {value.dtype} if value.dtype in REAL else set()
    if not kinds and node.op not in TESTS:
        return None
    for argument in node.args:
        if isinstance(argument, bool) or not isinstance(argument, Ref | int | float):
            return None
        if isinstance(argument, Ref):
            given = tape.values[argument.number]
            if given.dtype not in KINDS or _reach(given, value) is None:
                return None
            if given.dtype in REAL and len(given.shape) > 0:
                kinds.add(given.dtype)
    if len(kinds) != 1:
        return None
    return tuple(value.shape), next(iter(kinds))


def _dense(value: Value) -> bool:
    strides, size = [], 1
    for length in reversed(value.shape):
        strides.append(size)
        size *= length
    return all(n == 1 or a == b for n, a, b in zip(value.shape, value.stride, reversed(strides), strict=True))


def _reach(given: Value, value: Value) -> str | None:
    """How a tensor spreads over another's rows and columns: by full shape, a row, a column, or one number."""
    if given.shape == value.shape:
        return "[i]" if _dense(given) else None
    if given.shape.numel() == 1:
        return "[0]"
    if not _dense(given):
        return None
    if len(given.shape) == len(value.shape) and given.shape[0] == value.shape[0] and given.shape.numel() == given.shape[0]:
        return "[r]"
    tail = value.shape[1:]
    if given.shape[-len(tail) :] == tail and given.shape.numel() == tail.numel() and len(tail) > 0:
        return "[i - r * columns]"
    return None


@dataclass(frozen=True)
class _Loop:
    """A run written as C. ends: the values that are needed outside it."""

    source: str
    run: Sequence[Node]
    shape: torch.Size
    inputs: Sequence[int]
    ends: Sequence[int]
    numbers: Sequence[float]

    def nodes(self, call: Any) -> Sequence[Node]:
        """The run as one operation, or as it was where it did not compile."""
        if call is None:
            return self.run
        kernel = Kernel(call, self.shape[0], torch.Size(self.shape[1:]).numel(), tuple(self.numbers))
        return [Node(kernel, tuple(Ref(n) for n in self.inputs), {}, tuple(self.ends))]


def _written(tape: Tape, key: Any, run: Sequence[Node], ends: Sequence[int]) -> _Loop:
    """A run as a loop of C."""
    shape, dtype = key
    inputs: dict[int, str] = {}  # number -> its parameter
    names: dict[int, str] = {}  # number -> its variable, by place, so that the same run of another tape is the same text
    numbers: list[float] = []
    loads: list[str] = []
    lines: list[str] = []

    def term(argument: Any, value: Value) -> str:
        if not isinstance(argument, Ref):
            numbers.append(float(argument))
            return f"k{len(numbers) - 1}"
        number = argument.number
        if number not in names:
            names[number] = f"n{len(names)}"
            given = tape.values[number]
            inputs[number] = f"const {KINDS[given.dtype]}* a{len(inputs)}"
            kind = "unsigned char" if given.dtype is torch.bool else "T"
            loads.append(f"const {kind} {names[number]} = a{len(inputs) - 1}{_reach(given, value)};")
        return names[number]

    for node in run:
        value = tape.values[node.outs[0]]
        terms = [term(argument, value) for argument in node.args]
        factor = next(iter(node.kwargs.values()), 1)
        if node.op in SCALED:
            plain = SCALED[node.op].replace("{k} * ", "") if factor == 1 else SCALED[node.op]
            text = plain.format(*terms, k=term(factor, value) if factor != 1 else "")
        else:
            text = (EXPRESSIONS.get(node.op) or TESTS[node.op]).format(*terms)
        names[node.outs[0]] = f"n{len(names)}"
        lines.append(f"const {'T' if value.dtype in REAL else 'unsigned char'} {names[node.outs[0]]} = {text};")
    outs = [f"{KINDS[tape.values[end].dtype]}* o{i}" for i, end in enumerate(ends)]
    stores = [f"o{i}[i] = {names[end]};" for i, end in enumerate(ends)]
    body = "\n            ".join([*loads, *lines, *stores])
    scalars = "".join(f", double d{i}" for i in range(len(numbers)))
    casts = " ".join(f"const T k{i} = (T)d{i};" for i in range(len(numbers)))
    wide = dtype is torch.float64
    source = f"""#define T {REAL[dtype]}
#define SQRT __builtin_sqrt{"" if wide else "f"}
#define ABS __builtin_fabs{"" if wide else "f"}
void run(long rows, long columns, {", ".join([*inputs.values(), *outs])}{scalars}) {{
    {casts}
    const long tiles = (columns + {TILE - 1}) / {TILE};
    #pragma omp parallel for schedule(static) if (rows * columns > 32768)
    for (long task = 0; task < rows * tiles; task++) {{
        const long r = task / tiles, first = (task % tiles) * {TILE};
        const long last = first + {TILE} < columns ? first + {TILE} : columns;
        #pragma GCC ivdep
        for (long i = r * columns + first; i < r * columns + last; i++) {{
            {body}
        }}
    }}
}}
"""
    return _Loop(source, run, torch.Size(shape), list(inputs), ends, numbers)


# --- the compiler


def available() -> bool:
    """Whether kernels can be compiled here."""
    return _compiler() is not None
