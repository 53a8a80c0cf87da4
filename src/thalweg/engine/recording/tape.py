"""Tapes: a function of tensors recorded once, as the plain operations it comes down to.

What a fleet does at a step is the same at every step but for the numbers. A tape holds the operations that are left once `vmap`, autograd
and the user's Python have done their part; `program` replays them. Operations whose fastest form depends on the shape are rewritten while
they are recorded, see `strategies`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ATEN = torch.ops.aten


class Unrecordable(Exception):
    """The function cannot be replayed from a tape: it draws random numbers, reads numbers out of tensors, or changes its inputs."""


@dataclass(frozen=True)
class Ref:
    """A value on a tape, by its number."""

    number: int


@dataclass
class Value:
    """What is known of a tensor on a tape. root: the value that owns its memory; constant: the tensor itself where it never changes."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    root: int
    constant: Tensor | None = None


@dataclass
class Node:
    """An operation. writes: roots of the values that it changes in place."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[int, ...]
    writes: frozenset[int] = frozenset()

    def reads(self) -> list[int]:
        return [leaf.number for leaf in tree_flatten((self.args, self.kwargs), is_leaf=_is_ref)[0] if isinstance(leaf, Ref)]


@dataclass
class Tape:
    """Inputs are values 0 .. inputs - 1. outputs: the leaves of the answer."""

    inputs: int
    values: list[Value]
    nodes: list[Node]
    outputs: list[Ref]
    answer: Any = field(default=None, repr=False)  # what the recorded call returned
    peak: int = 0  # bytes that were in use at once while it was recorded, beside the inputs

    def uses(self) -> dict[int, int]:
        """root -> the last node that reads or writes it; len(nodes) where it is part of the answer."""
        last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            for number in (*node.reads(), *node.outs):
                last[self.values[number].root] = i
        for ref in self.outputs:
            last[self.values[ref.number].root] = len(self.nodes)
        return last


def _is_ref(leaf: Any) -> bool:
    return isinstance(leaf, Ref)


Rewrite = Callable[["Recorder", Any, tuple[Any, ...], dict[str, Any]], Any]


class Recorder(TorchDispatchMode):
    """Runs operations and writes them down."""

    def __init__(self, inputs: Sequence[Tensor], rewrites: Mapping[Any, Rewrite]) -> None:
        super().__init__()
        self.mark = object()
        self.rewrites = rewrites
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.kept: list[Tensor] = []
        for tensor in inputs:
            self._new(tensor, len(self.values))
            self.kept.append(tensor)
        self.inputs = len(inputs)

    def _new(self, tensor: Tensor, root: int) -> int:
        number = len(self.values)
        self.values.append(Value(tensor.shape, tensor.stride(), tensor.dtype, tensor.device, root))
        tensor._thalweg_tape = (self.mark, number)  # type: ignore[attr-defined]
        return number

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; one never seen before is a constant from outside."""
        mark, number = getattr(tensor, "_thalweg_tape", (None, -1))
        if mark is self.mark:
            return number
        number = self._new(tensor, len(self.values))
        self.values[number].constant = tensor
        self.kept.append(tensor)
        return number

    def ref(self, leaf: Any) -> Any:
        return Ref(self.number(leaf)) if isinstance(leaf, Tensor) else leaf

    def emit(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run an operation and write it down."""
        if _tagged(op):
            raise Unrecordable(f"{op} cannot be replayed")
        if op._schema.is_mutable:
            return self._mutate(op, args, kwargs)
        answer = op(*args, **kwargs)
        flat = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        storages = {leaf.untyped_storage()._cdata: self.number(leaf) for leaf in flat}
        outs = []
        for leaf in tree_flatten(answer)[0]:
            if not isinstance(leaf, Tensor):
                if leaf is not None:
                    raise Unrecordable(f"{op} answers with {type(leaf).__name__}, not a tensor")
                continue
            known = storages.get(leaf.untyped_storage()._cdata)
            outs.append(self._new(leaf, len(self.values) if known is None else self.values[known].root))
        self.nodes.append(Node(op, tree_map(self.ref, args), tree_map(self.ref, kwargs), tuple(outs)))
        return answer

    def _mutate(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        written = [
            value
            for i, argument in enumerate(op._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
            for value in [args[i] if i < len(args) else kwargs.get(argument.name)]
            if isinstance(value, Tensor)
        ]
        roots = {self.values[self.number(tensor)].root for tensor in written}
        if any(root < self.inputs or self.values[root].constant is not None for root in roots):
            raise Unrecordable(f"{op} changes a tensor from outside")
        before = (tree_map(self.ref, args), tree_map(self.ref, kwargs))
        answer = op(*args, **kwargs)
        outs = tuple(self.number(leaf) for leaf in tree_flatten(answer)[0] if isinstance(leaf, Tensor))
        self.nodes.append(Node(op, *before, outs, frozenset(roots)))
        return answer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch would load its compiler at the first operation, which takes longer than many a run."""
        return False

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rewrite = self.rewrites.get(op)
        if rewrite is not None:
            answer = rewrite(self, op, args, kwargs or {})
            if answer is not NotImplemented:
                return answer
        return self.emit(op, *args, **(kwargs or {}))


def _tagged(op: Any) -> bool:
    bad = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in op.tags for tag in bad)


def record(function: Callable[..., Any], inputs: Sequence[Tensor], rewrites: Mapping[Any, Rewrite] | None = None) -> Tape:
    """Record `function(*inputs)`, a pure function that answers with tensors, in any structure.

    Raises Unrecordable where a replay could answer differently; what the function itself raises passes through.
    """
    recorder = Recorder(inputs, rewrites or {})
    with recorder:
        answer = function(*inputs)
    leaves = tree_flatten(answer)[0]
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise Unrecordable("the function answers with more than tensors")
    outputs = [Ref(recorder.number(leaf)) for leaf in leaves]
    tape = Tape(len(inputs), recorder.values, recorder.nodes, outputs, answer)
    tape.peak = _peak(tape)
    return distinct(prune(tape))


def _peak(tape: Tape) -> int:
    """The most bytes in use at once when every value is freed after its last use."""
    changes = [0] * (len(tape.nodes) + 2)
    born = {out: i for i, node in enumerate(tape.nodes) for out in node.outs if tape.values[out].root == out and not node.writes}
    for root, last in tape.uses().items():
        if root in born:
            value = tape.values[root]
            size = value.shape.numel() * value.dtype.itemsize
            changes[born[root]] += size
            changes[last + 1] -= size
    most = now = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def prune(tape: Tape) -> Tape:
    """Leave out the operations that nothing depends on."""
    needed = {tape.values[ref.number].root for ref in tape.outputs}
    numbers = {ref.number for ref in tape.outputs}
    kept = []
    for node in reversed(tape.nodes):
        if numbers.intersection(node.outs) or needed.intersection(node.writes):
            kept.append(node)
            numbers.update(node.reads())
            needed.update(tape.values[number].root for number in node.reads())
    tape.nodes = kept[::-1]
    return tape


def distinct(tape: Tape) -> Tape:
    """Compute once what is the same: pure operations on the same values."""
    written = {root for node in tape.nodes for root in node.writes}
    seen: dict[Any, tuple[int, ...]] = {}
    same: dict[int, int] = {}
    kept = []

    def now(leaf: Any) -> Any:
        return Ref(same.get(leaf.number, leaf.number)) if isinstance(leaf, Ref) else leaf

    for node in tape.nodes:
        node.args, node.kwargs = tree_map(now, (node.args, node.kwargs), is_leaf=_is_ref)
        touched = {tape.values[number].root for number in (*node.reads(), *node.outs)}
        key = None if written & touched or node.writes else (node.op, repr(node.args), repr(sorted(node.kwargs.items())))
        if key is not None and key in seen:
            same.update(zip(node.outs, seen[key], strict=True))
            continue
        if key is not None:
            seen[key] = node.outs
        kept.append(node)
    tape.nodes = kept
    tape.outputs = [now(ref) for ref in tape.outputs]
    for value in tape.values:
        value.root = same.get(value.root, value.root)
    return prune(tape)


def fuse(tape: Tape) -> Tape:
    """Join products with the sums that follow them, as torch's fused kernels do: fewer passes over memory, sums rounded once less."""
    makers = {out: node for node in tape.nodes for out in node.outs if len(node.outs) == 1 and not node.writes}
    readers = Counter(number for node in tape.nodes for number in node.reads())
    readers.update(ref.number for ref in tape.outputs)

    def once(argument: Any, *ops: Any) -> Node | None:
        """The operation that made an argument, if it is one of these and nothing else needs what it made."""
        maker = makers.get(argument.number) if isinstance(argument, Ref) else None
        return maker if maker is not None and maker.op in ops and readers[argument.number] == 1 and not maker.kwargs else None

    def full(out: int, *arguments: Any) -> bool:
        """Whether all are tensors of the shape and type of a value that is a real one."""
        value = tape.values[out]
        kinds = [tape.values[a.number] if isinstance(a, Ref) else None for a in arguments]
        return value.dtype.is_floating_point and all(k is not None and (k.shape, k.dtype) == (value.shape, value.dtype) for k in kinds)

    for node in tape.nodes:
        if node.op not in (ATEN.add.Tensor, ATEN.sub.Tensor) or node.kwargs or not all(isinstance(a, Ref) for a in node.args):
            continue
        sign, out = (1 if node.op is ATEN.add.Tensor else -1), node.outs[0]
        for kept, other in ((0, 1), (1, 0)) if sign == 1 else ((0, 1),):
            first, maker = node.args[kept], once(node.args[other], ATEN.mul.Tensor, ATEN.div.Tensor)
            if maker is None or not full(out, first, Ref(maker.outs[0])):
                continue
            p, q = maker.args
            if maker.op is ATEN.div.Tensor and full(out, p, q):
                node.op, node.args, node.kwargs = ATEN.addcdiv.default, (first, p, q), {"value": sign}
            elif maker.op is ATEN.mul.Tensor and full(out, p, q):
                inner = once(p, ATEN.mul.Tensor)
                scaled = inner is not None and isinstance(inner.args[1], float) and full(out, inner.args[0])
                p, sign = (inner.args[0], sign * inner.args[1]) if inner is not None and scaled else (p, sign)
                node.op, node.args, node.kwargs = ATEN.addcmul.default, (first, p, q), {"value": sign}
            elif maker.op is ATEN.mul.Tensor and full(out, p) and isinstance(q, float):
                node.op, node.args, node.kwargs = ATEN.add.Tensor, (first, p), {"alpha": sign * q}
            else:
                continue
            break
    return prune(tape)
