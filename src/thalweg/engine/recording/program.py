"""Programs: a tape bound to memory. Every tensor gets its place once; a replay writes into it and allocates little or nothing.

An operation that works number by number writes over an input that nothing needs any more; others write into memory that is free by then.
Views are taken once. What has no form that writes into given memory is called as it was, and allocates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.engine.recording.kernel import Kernel
from thalweg.engine.recording.operations import APART, COPIES, EMPTY, FILLED, GRADIENT_INPUT, MADE, POINTWISE, SAME
from thalweg.engine.recording.tape import ATEN, Node, Ref, Tape


class Pool:
    """The memory of a program. taken: bytes in all."""

    def __init__(self) -> None:
        self.free: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        self.taken = 0

    def take(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A flat tensor of at least `count` numbers."""
        options = self.free.setdefault((dtype, device), [])
        fitting = [i for i, flat in enumerate(options) if count <= flat.numel() <= 2 * count + 64]
        if fitting:
            return options.pop(min(fitting, key=lambda i: options[i].numel()))
        self.taken += count * dtype.itemsize
        return torch.empty(count, dtype=dtype, device=device)

    def give(self, flat: Tensor) -> None:
        """What is taken again last is likely still in the cache."""
        self.free.setdefault((flat.dtype, flat.device), []).append(flat)


class Program:
    """A tape bound to inputs: tensors that stay where they are (their numbers may change), or None for what each call gives anew.

    donate: output -> input whose memory takes it, as an update in place; the input's old numbers are gone after the call.
    A call answers with the leaves of the answer, overwritten by the next call.
    """

    def __init__(self, tape: Tape, inputs: Sequence[Tensor | None], donate: Mapping[int, int] | None = None) -> None:
        self.tape, self.pool, self.last = tape, Pool(), tape.uses()
        self.env: dict[int, Any] = {}  # number -> a tensor that stays, or the name of a variable
        self.frozen: set[int] = set()  # numbers whose contents never change
        self.flats: dict[int, Tensor] = {}  # root -> its memory, where it is ours
        self.names: dict[str, Any] = {"torch": torch}
        self.ids: dict[int, str] = {}
        self.lines: list[str] = []
        self.used: list[Tensor] = []  # whose places kernels know
        self.written = {root for node in tape.nodes for root in node.writes}
        self.planned: dict[int, int] = {}
        for output, place in (donate or {}).items():
            number = tape.outputs[output].number
            root = tape.values[number].root
            whole = tape.values[root].shape.numel() == tape.values[number].shape.numel()
            self.planned.setdefault(root if whole else number, place)  # an answer that is another look at all of its memory counts as that
        parameters = []
        for number, tensor in enumerate(inputs):
            self.env[number] = f"i{number}" if tensor is None else tensor
            parameters += [f"i{number}"] if tensor is None else []
        self.inputs = list(inputs)
        for number, value in enumerate(tape.values):
            if value.constant is not None:
                self.env[number] = value.constant
                self.frozen.add(number)
        for i, node in enumerate(tape.nodes):
            self._place(i, node)
            self._release(i, node)
        for output, place in (donate or {}).items():
            number = tape.outputs[output].number
            if not _same(self.env[number], inputs[place]):
                self.lines.append(f"{self._text(inputs[place])}.copy_({self._text(self.env[number])})")
        ends = [self._text(self.env[ref.number]) for ref in tape.outputs]
        body = "".join(f"    {line}\n" for line in self.lines)
        exec(compile(f"def replay({', '.join(parameters)}):\n{body}    return [{', '.join(ends)}]\n", "<tape>", "exec"), self.names)
        self.replay = self.names.pop("replay")  # a function that its own names hold would outlive the program

    def __call__(self, *given: Tensor) -> list[Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return self.replay(*given)

    # --- one operation

    def _place(self, i: int, node: Node) -> None:
        if isinstance(node.op, Kernel):
            self._kernel(i, node)
            return
        numbers = node.reads()
        still = all(isinstance(self.env[n], Tensor) for n in numbers)
        value = self.tape.values[node.outs[0]] if node.outs else None
        if node.writes:
            self.lines.append(f"{self._call(node)}")
            for out, number in zip(node.outs, node.reads(), strict=False):
                self.env.setdefault(out, self.env[number])
            return
        assert value is not None
        own = value.root == node.outs[0]
        if node.op in SAME and not own:
            self._alias(node, node.args[0].number)
        elif not own and still:
            self._now(node, {n for n in numbers if n in self.frozen} == set(numbers))
        elif (
            still
            and not any(self.tape.values[o].root in self.written for o in node.outs)
            and (node.op in MADE or (own and all(n in self.frozen for n in numbers)))
        ):
            self._now(node, True)
        elif node.op in EMPTY:
            self._memory(node.outs[0])
        elif node.op in FILLED:
            self.lines.append(f"{self._text(self._memory(node.outs[0]))}.fill_({FILLED[node.op]})")
        elif node.op in COPIES:
            self.lines.append(f"{self._text(self._memory(node.outs[0]))}.copy_({self._argument(node.args[0])})")
        elif node.op is ATEN.relu.default:
            source = self._argument(node.args[0])
            self.lines.append(f"torch.clamp_min({source}, 0, out={self._text(self._output(i, node, True))})")
        elif node.op in POINTWISE or node.op in APART:
            self._into(i, node)
        else:
            self._anew(node)

    def _kernel(self, i: int, node: Node) -> None:
        """Call a kernel: with the places of tensors that stay, and of variables as they are then."""
        kernel = node.op
        places = [self.env[number] for number in node.reads()] + [self._output(i, node, True, out) for out in node.outs]
        terms = [f"{p}.data_ptr()" if isinstance(p, str) else self._text(ctypes.c_void_p(p.data_ptr())) for p in places]
        terms = [f"c_void_p({t})" if t.endswith("()") else t for t in terms]
        self.names["c_void_p"] = ctypes.c_void_p
        self.used += [p for p in places if not isinstance(p, str)]
        sizes = [self._text(ctypes.c_long(n)) for n in (kernel.rows, kernel.columns)]
        numbers = [self._text(ctypes.c_double(n)) for n in kernel.numbers]
        self.lines.append(f"{self._text(kernel.call)}({', '.join([*sizes, *terms, *numbers])})")

    def _into(self, i: int, node: Node) -> None:
        """Call an operation in the form that writes into given memory."""
        function = (POINTWISE if node.op in POINTWISE else APART)[node.op]
        arguments = [self._argument(a, self._scalars(node)) for a in node.args]
        arguments += [f"{k}={self._argument(v)}" for k, v in node.kwargs.items()]
        out = self._text(self._output(i, node, node.op in POINTWISE))
        word = "grad_input" if node.op in GRADIENT_INPUT else "out"
        self.lines.append(f"{self._text(function)}({', '.join([*arguments, f'{word}={out}'])})")

    def _scalars(self, node: Node) -> torch.dtype | None:
        """The type in which numbers among the arguments are passed as tensors, which is quicker and means the same; None: as they are.

        A truth value or a whole number that meets a number takes torch's default type, which may be another at the replay.
        """
        value = self.tape.values[node.outs[0]]
        plain = (ATEN.add.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor, ATEN.mul.Scalar, ATEN.div.Scalar, ATEN.add.Scalar, ATEN.sub.Tensor)
        whole = any(not self.tape.values[number].dtype.is_floating_point for number in node.reads())
        wide = value.dtype in (torch.float32, torch.float64)
        return value.dtype if node.op in plain and wide and (whole or value.device.type == "cpu") else None

    def _now(self, node: Node, frozen: bool) -> None:
        """Answer while the program is made: views, and what never changes."""

        def real(leaf: Any) -> Any:
            return self.env[leaf.number] if isinstance(leaf, Ref) else leaf

        args, kwargs = tree_map(real, (node.args, node.kwargs), is_leaf=lambda leaf: isinstance(leaf, Ref))
        with torch.no_grad():
            answers = [leaf for leaf in tree_flatten(node.op(*args, **kwargs))[0] if isinstance(leaf, Tensor)]
        for out, answer in zip(node.outs, answers, strict=True):
            self.env[out] = answer
            if frozen:
                self.frozen.add(out)

    def _anew(self, node: Node) -> None:
        """Call an operation as it was recorded; its answers are variables."""
        left = [f"v{out}" for out in node.outs]
        for out, name in zip(node.outs, left, strict=True):
            self.env[out] = name
        call = self._call(node)
        one = len(node.op._schema.returns) == 1 and not str(node.op._schema.returns[0].type).startswith("List")
        if one:
            self.lines.append(f"{left[0]} = {call}")
        else:
            self.lines.append(f"{', '.join(left)}, = [a for a in {call} if a is not None]")

    def _alias(self, node: Node, number: int) -> None:
        self.env[node.outs[0]] = self.env[number]
        if number in self.frozen:
            self.frozen.add(node.outs[0])

    def _call(self, node: Node) -> str:
        arguments = [self._argument(a) for a in node.args] + [f"{k}={self._argument(v)}" for k, v in node.kwargs.items()]
        return f"{self._text(node.op)}({', '.join(arguments)})"

    # --- memory

    def _output(self, i: int, node: Node, pointwise: bool, out: int | None = None) -> Tensor:
        """Where an answer of node i goes: into the memory it is donated, over an input that ends here, or into free memory."""
        out = node.outs[0] if out is None else out
        if out in self.planned and self._ends(self.planned[out], i, node, out, pointwise):
            place = self.inputs[self.planned[out]]
            assert place is not None
            self.env[out] = place.view(self.tape.values[out].shape)
            return self.env[out]
        value = self.tape.values[out]
        for number in node.reads() if pointwise else []:
            given, root = self.tape.values[number], self.tape.values[number].root
            if self.last[root] == i and root in self.flats and self._fits(number, out) and not self._entangled(node, number):
                self.flats[out] = self.flats.pop(root)
                self.env[out] = self.flats[out][: _extent(value)].as_strided(value.shape, value.stride)
                assert given.dtype == value.dtype
                return self.env[out]
        return self._memory(out)

    def _ends(self, place: int, i: int, node: Node, out: int, pointwise: bool) -> bool:
        """Whether nothing needs an input after node i, so that its memory may be written over."""
        given = self.inputs[place]
        value = self.tape.values[out]
        if given is None or given.dtype != value.dtype or given.numel() != value.shape.numel():
            return False
        if not given.is_contiguous() or value.stride != _contiguous(value.shape):
            return False
        last = self.last.get(place, -1)
        read = [n for n in node.reads() if self.tape.values[n].root == place]
        alike = pointwise and all(self._fits(n, out) for n in read)
        return last < i or (last == i and alike)

    def _fits(self, number: int, out: int) -> bool:
        a, b = self.tape.values[number], self.tape.values[out]
        dense = _extent(a) == a.shape.numel()
        return dense and isinstance(self.env[number], Tensor) and (a.shape, a.stride, a.dtype) == (b.shape, b.stride, b.dtype)

    def _entangled(self, node: Node, number: int) -> bool:
        """Whether a node reads the same memory in another shape too."""
        root = self.tape.values[number].root
        return any(self.tape.values[n].root == root and not self._fits(n, number) for n in node.reads())

    def _memory(self, out: int) -> Tensor:
        value = self.tape.values[out]
        flat = self.pool.take(_extent(value), value.dtype, value.device)
        self.flats[out] = flat
        self.env[out] = flat.as_strided(value.shape, value.stride)
        return self.env[out]

    def _release(self, i: int, node: Node) -> None:
        """Give back what nothing needs after node i."""
        roots = {self.tape.values[n].root for n in (*node.reads(), *node.outs)}
        for root in roots:
            if self.last.get(root) == i and root in self.flats:
                self.pool.give(self.flats.pop(root))
        names = [f"v{n}" for n in {*node.reads(), *node.outs} if isinstance(self.env.get(n), str) and self.env[n].startswith("v")]
        gone = [self.env[int(v[1:])] for v in names if self.last[self.tape.values[int(v[1:])].root] == i]
        if gone:
            self.lines.append(f"del {', '.join(sorted(set(gone)))}")

    # --- text

    def _argument(self, argument: Any, scalars: torch.dtype | None = None) -> str:
        if isinstance(argument, Ref):
            return self._text(self.env[argument.number])
        if scalars is not None and isinstance(argument, int | float) and not isinstance(argument, bool):
            return self._text(torch.tensor(float(argument), dtype=scalars))
        if isinstance(argument, list | tuple):
            return f"[{', '.join(self._argument(a) for a in argument)}]"
        if argument is None or isinstance(argument, bool | int | str):
            return repr(argument)
        return self._text(argument)

    def _text(self, thing: Any) -> str:
        """A name for a tensor, a function or a number in the program's text."""
        if isinstance(thing, str):
            return thing
        name = self.ids.get(id(thing))
        if name is None:
            name = self.ids[id(thing)] = f"c{len(self.names)}"
            self.names[name] = thing
        return name


def _extent(value: Any) -> int:
    """Numbers from the first to the last of a strided tensor."""
    return 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride, strict=True)) if value.shape.numel() else 0


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return torch.empty(tuple(shape), device="meta").stride()


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors are one look at one memory."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
