"""The update of a rule, written as C: what depends on one tensor alone before the loop over its numbers, and the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.bound import Bound
from thalweg.engine.numbers import numbers_of
from thalweg.engine.recording import kernel
from thalweg.engine.recording.tape import ATEN, Node, Ref, Tape, record

STORED = {
    torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "_Float16",
    torch.bool: "unsigned char", torch.int64: "long long",
}  # fmt: skip
POWER = (ATEN.pow.Tensor_Scalar, ATEN.pow.Tensor_Tensor, ATEN.pow.Scalar)
MORE = {
    ATEN.remainder.Scalar: "({0} - {1} * __builtin_floor({0} / {1}))",
    ATEN.exp.default: "__builtin_exp({0})",
    ATEN.log.default: "__builtin_log({0})",
    ATEN.tanh.default: "__builtin_tanh({0})",
    ATEN.square.default: "{0} * {0}",
    ATEN.bitwise_and.Tensor: "({0} && {1})",
    ATEN.logical_not.default: "(!{0})",
    ATEN.alias.default: "{0}",
    ATEN.view.default: "{0}",
    ATEN.reshape.default: "{0}",
    ATEN.clamp_min.Tensor: "({0} < {1} ? {1} : {0})",
    ATEN.clamp_max.Tensor: "({0} > {1} ? {1} : {0})",
}
LITERALS = (ATEN.scalar_tensor.default, ATEN.full.default)
HEAD = """typedef struct { unsigned short bits; } bf16;
static inline float wide_bf16(bf16 v) { union { unsigned u; float f; } c; c.u = (unsigned)v.bits << 16; return c.f; }
static inline bf16 to_bf16(float f) {
    union { float f; unsigned u; } c; c.f = f;
    bf16 v; v.bits = f != f ? 0x7fc0 : (unsigned short)((c.u + 0x7fff + ((c.u >> 16) & 1)) >> 16);
    return v;
}
"""


@dataclass(frozen=True)
class Key:
    """What tensors must share to be stepped by one loop: types of the point and of its states by name, and the sign of the gradient."""

    point: torch.dtype
    states: tuple[tuple[str, torch.dtype, bool], ...]  # the last: whether it is one number for the tensor
    step: torch.dtype
    maximize: bool


class Unwritten(Exception):
    """An operation that has no expression in C here."""


class Text:
    """The update of one tensor, written as C."""

    def __init__(self, bound: Bound, key: Key) -> None:
        self.key = key
        self.wide = torch.float64 if key.point is torch.float64 else torch.float32
        self.hypers = tuple(bound.data)
        self.tape = self._record(bound)
        self.names: dict[int, str] = {}
        self.single: list[str] = []  # lines worked out once a tensor
        self.inner: list[str] = []  # lines of the loop
        self.kept: list[int] = []  # values of one number that the loop needs
        self._inputs()
        for node in self.tape.nodes:
            self._write(node)

    def _record(self, bound: Bound) -> Tape:
        double = torch.float64
        points = [torch.full((3,), 0.5, dtype=self.wide), torch.full((3,), 0.25, dtype=self.wide)]
        states = {n: torch.full(() if one else (3,), 0.5, dtype=double if one else self.wide) for n, _, one in self.key.states}
        hypers = {n: torch.tensor(0.5, dtype=double) for n in self.hypers}
        given = {n: torch.tensor(2.0, dtype=double) for n in sorted(bound.requests)}
        inputs = [*points, *states.values(), *hypers.values(), *given.values()]
        self.order = ["x", "g", *states, *(f"h.{n}" for n in hypers), *(f"r.{n}" for n in given)]

        def step(*_: Tensor) -> Any:
            x, after = bound.step(points[0], -points[1] if self.key.maximize else points[1], states, hypers, given)
            return [x, *(after[n] for n in states)]

        with torch.no_grad(), numbers_of(double):
            return record(step, inputs)

    def _inputs(self) -> None:
        places = {n: 3 + i for i, (n, *_) in enumerate(self.key.states)}
        for number, name in enumerate(self.order):
            kind, _, rest = name.partition(".")
            variable = self.names[number] = f"n{number}"
            if kind == "h" and rest in self.hypers:
                self.single.append(f"const double {variable} = h[{self.hypers.index(rest)}];")
            elif name == "r.t":
                self.single.append(f"const double {variable} = now;")
            elif name == "r.weights":
                self.single.append(f"const double {variable} = weights[j];")
            elif name in ("x", "g"):
                self.inner.append(f"const T {variable} = {self._loaded(self.key.point, f'{name}[i]')};")
            else:
                dtype, one = next((d, o) for n, d, o in self.key.states if n == name)
                source = f"*({STORED[dtype]}*)p[{places[name]}]" if one else f"s{places[name]}[i]"
                line = f"const {'double' if one else 'T'} {variable} = {self._loaded(dtype, source)};"
                (self.single if one else self.inner).append(line)

    @staticmethod
    def _loaded(dtype: torch.dtype, source: str) -> str:
        return f"wide_bf16({source})" if dtype is torch.bfloat16 else source

    @staticmethod
    def _stored(dtype: torch.dtype, value: str) -> str:
        return f"to_bf16((float){value})" if dtype is torch.bfloat16 else f"({STORED[dtype]}){value}"

    # --- operations

    def _vector(self, number: int) -> bool:
        shape = self.tape.values[number].shape
        if shape.numel() != 1 and tuple(shape) != (3,):
            raise Unwritten(str(tuple(shape)))
        return shape.numel() != 1

    def _term(self, argument: Any, within: str | None) -> str:
        """An argument: a literal, or a variable; `within` the loop, one number is rounded to the loop's type first."""
        if isinstance(argument, bool | int | float):
            literal = repr(float(argument)).replace("inf", "__builtin_inf()").replace("nan", '__builtin_nan("")')
            return f"({within}){literal}" if within else literal
        if not isinstance(argument, Ref):
            raise Unwritten(repr(argument))
        number = argument.number
        if number not in self.names:
            constant = self.tape.values[number].constant
            if constant is None or constant.numel() != 1:
                raise Unwritten("a constant tensor")
            return self._term(float(constant), within)
        if within and not self._vector(number):
            if number not in self.kept:
                self.kept.append(number)
            return f"({within})k{self.kept.index(number)}"
        return self.names[number]

    def _write(self, node: Node) -> None:
        if len(node.outs) != 1 or node.writes or isinstance(node.op, kernel.Kernel):
            raise Unwritten(str(node.op))
        out = node.outs[0]
        vector = self._vector(out)
        dtype = self.tape.values[out].dtype
        kind = STORED.get(dtype)
        if kind is None or kind == "bf16":
            raise Unwritten(str(dtype))
        kind = kind if vector or kind != "float" else "double"
        text = self._expression(node, kind if vector and dtype.is_floating_point else "T" if vector else None)
        self.names[out] = f"n{out}"
        (self.inner if vector else self.single).append(f"const {kind} n{out} = {text};")

    def _expression(self, node: Node, within: str | None) -> str:
        op, args = node.op, node.args
        if op in LITERALS:
            return self._term(args[-1] if op is ATEN.full.default else args[0], within)
        if op in (ATEN.view.default, ATEN.reshape.default):
            args = args[:1]
        if op in (ATEN.clamp.default, ATEN.clamp.Tensor):
            low, high = (*args[1:], None)[:2] if len(args) < 3 else args[1:3]
            text = self._term(args[0], within)
            for bound, sign in ((low, "<"), (high, ">")):
                text = text if bound is None else f"({text} {sign} {self._term(bound, within)} ? {self._term(bound, within)} : {text})"
            return text
        if op in POWER:
            return self._power(args, within)
        if op in (ATEN.div.Tensor, ATEN.div.Scalar) and within and not self._wide(args[1]) and self._wide(args[0]):
            return f"{self._term(args[0], within)} * {self._inverse(args[1], within)}"
        terms = [self._term(argument, within) for argument in args]
        factor = next(iter(node.kwargs.values()), 1) if set(node.kwargs) <= {"alpha", "value"} else None
        if factor is None and op not in (ATEN.clone.default, ATEN._to_copy.default):
            raise Unwritten(str(op))
        if op is ATEN._to_copy.default:
            return terms[0]
        if op in kernel.SCALED:
            plain = kernel.SCALED[op].replace("{k} * ", "") if factor == 1 else kernel.SCALED[op]
            return plain.format(*terms, k=self._term(factor, within) if factor != 1 else "")
        form = kernel.EXPRESSIONS.get(op) or kernel.TESTS.get(op) or MORE.get(op)
        if form is None:
            raise Unwritten(str(op))
        text = form.format(*terms)
        return text if within else text.replace("SQRT", "__builtin_sqrt").replace("ABS", "__builtin_fabs").replace("(T)", "(double)")

    def _wide(self, argument: Any) -> bool:
        return isinstance(argument, Ref) and self._vector(argument.number)

    def _inverse(self, argument: Any, within: str) -> str:
        """1 / a number of one tensor, worked out outside the loop: a product there is quicker than a division."""
        if not isinstance(argument, Ref) or argument.number not in self.names:
            return f"(({within})1 / {self._term(argument, within)})"
        if -1 - argument.number not in self.kept:
            self.kept.append(-1 - argument.number)
        return f"({within})k{self.kept.index(-1 - argument.number)}"

    def _power(self, args: Sequence[Any], within: str | None) -> str:
        base = self._term(args[0], within)
        simple = {2.0: "{0} * {0}", 0.5: "SQRT({0})", -0.5: "1 / SQRT({0})", 1.0: "{0}"} if isinstance(args[1], int | float) else {}
        form = simple.get(float(args[1]) if simple else 0.0)
        if form is None:
            return f"__builtin_pow({base}, {self._term(args[1], within)})"
        return form.format(base) if within else form.format(base).replace("SQRT", "__builtin_sqrt")

    # --- the whole

    def source(self) -> str:
        """The text of the function."""
        ends = [ref.number for ref in self.tape.outputs]
        states = list(enumerate(self.key.states, 3))
        vectors = [(place, name, dtype) for place, (name, dtype, one) in states if not one]
        stores = [f"x[i] = {self._stored(self.key.point, self._term(Ref(ends[0]), 'T'))};"]
        singles = []
        for (place, (_, dtype, one)), end in zip(states, ends[1:], strict=True):
            if one:
                singles.append(f"*({STORED[dtype]}*)p[{place}] = {self._stored(dtype, self._term(Ref(end), None))};")
            else:
                stores.append(f"s{place}[i] = {self._stored(dtype, self._term(Ref(end), 'T'))};")
        saved = [f"s[{i}] = {f'n{n}' if n >= 0 else f'1 / n{-1 - n}'};" for i, n in enumerate(self.kept)]
        restored = [f"const double k{i} = s[{i}];" for i in range(len(self.kept))]
        kinds = STORED[self.key.point]
        pointers = [f"{kinds}* x = ({kinds}*)p[0];", f"const {kinds}* g = (const {kinds}*)p[1];"]
        pointers += [f"{STORED[dtype]}* s{place} = ({STORED[dtype]}*)p[{place}];" for place, _, dtype in vectors]
        wide = self.wide is torch.float64
        slots = 3 + len(self.key.states)
        outer = "\n        ".join([*self.single, *singles, *saved])
        opening = "\n        ".join([*pointers, *restored])
        body = "\n            ".join([*self.inner, *stores])
        return f"""#define T {"double" if wide else "float"}
#define SQRT __builtin_sqrt{"" if wide else "f"}
#define ABS __builtin_fabs{"" if wide else "f"}
{HEAD}#ifdef _OPENMP
int omp_get_thread_num(void);
int omp_get_num_threads(void);
#endif
void run(long count, long tiles, long numbers, const long* owner, const long* first, const long* last, const long* before,
         void** slots, double* scratch, const double* weights, const double* h) {{
    for (long j = 0; j < count; j++) {{
        void** p = slots + j * {slots};
        double* s = scratch + j * {max(1, len(self.kept))};
        const double now = *({STORED[self.key.step]}*)p[2] += 1;
        {outer}
    }}
    #pragma omp parallel if (numbers > 32768)
    {{
    long low = 0, high = numbers;
    #ifdef _OPENMP
    low = numbers * omp_get_thread_num() / omp_get_num_threads();
    high = numbers * (omp_get_thread_num() + 1) / omp_get_num_threads();
    #endif
    for (long tile = 0; tile < tiles; tile++) {{
        if (before[tile] < low) continue;
        if (before[tile] >= high) break;
        void** p = slots + owner[tile] * {slots};
        const double* s = scratch + owner[tile] * {max(1, len(self.kept))};
        {opening}
        #pragma GCC ivdep
        for (long i = first[tile]; i < last[tile]; i++) {{
            {body}
        }}
    }}
    }}
}}
"""
