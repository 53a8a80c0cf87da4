"""Progressive functions, z_{i+1} = g_i(z_i, w_i), and the two recursions for their gradient. Griewank and Walther 2008, chapter 3

z_0 = x and f = loss(z_{L+1}). With J_{g_i} = (A_i B_i), A_i by z_i and B_i by w_i:

    forward   J_1 = B_0,  J_{i+1} = (A_i J_i  B_i),               gradient = J_{L+1}^T grad loss
    reverse   p_{L+1} = grad loss,  q_i = B_i^T p_{i+1},  p_i = A_i^T p_{i+1},    gradient = (q_0, ..., q_L)

A_0 and p_0 are needed by neither and are never computed: x may be what has no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from thalweg.calculus.jacobian import jacobian
from thalweg.calculus.matrix import vec
from thalweg.errors import UserError


@dataclass(frozen=True, eq=False)
class Layer:
    """One step g(z, w) of a progressive function and its weights w, a vector (k,), empty where it has none."""

    function: Callable[[Tensor, Tensor], Tensor]
    weights: Tensor
    name: str = "layer"

    def A(self, z: Tensor) -> Tensor:
        """The Jacobian of g by z: (numbers out, numbers in)."""
        return jacobian(lambda z: self.function(z, self.weights), z)

    def B(self, z: Tensor) -> Tensor:
        """The Jacobian of g by w: (numbers out, k)."""
        return jacobian(lambda w: self.function(z, w), self.weights)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a recursion computed.

    value: f. gradient: by the weights of each layer, (k_0,), ..., (k_L,). products: matrix-vector products by their matrix, "A", "B", "J".
    z: z_0, ..., z_{L+1}. A, B: the Jacobians of each layer; A of the first is None. J: J_1, ..., J_{L+1} of the forward recursion.
    p: p_0, ..., p_{L+1} of the reverse recursion, of which p_0 is None. q: q_0, ..., q_L, the gradient again.
    """

    value: Tensor
    gradient: tuple[Tensor, ...]
    products: Mapping[str, int]
    z: tuple[Tensor, ...]
    A: tuple[Tensor | None, ...]
    B: tuple[Tensor, ...]
    names: tuple[str, ...]
    J: tuple[Tensor, ...] = ()
    p: tuple[Tensor | None, ...] = ()
    q: tuple[Tensor, ...] = ()

    @property
    def total(self) -> int:
        """All matrix-vector products."""
        return sum(self.products.values())

    def rows(self) -> list[dict[str, str]]:
        """A row a layer: z, A, B, and p, q or J, each as text; long ones by their shape."""
        out = []
        for i, name in enumerate(self.names):
            row = {"i": str(i), "layer": name, "z_i": _text(self.z[i]), "A_i": _text(self.A[i]), "B_i": _text(self.B[i])}
            row |= {"p_i": _text(self.p[i]), "q_i": _text(self.q[i])} if self.q else {"J_{i+1}": _text(self.J[i])}
            out.append(row)
        last = {"i": str(len(self.names)), "layer": "loss", "z_i": _text(self.z[-1]), "A_i": "", "B_i": ""}
        return [*out, last | ({"p_i": _text(self.p[-1]), "q_i": ""} if self.q else {"J_{i+1}": ""})]

    def table(self) -> str:
        """The rows as a table of plain text, and below it the value and the products."""
        rows = self.rows()
        widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
        lines = ["  ".join(f"{cell:<{widths[key]}}" for key, cell in row.items()).rstrip() for row in [{k: k for k in rows[0]}, *rows]]
        counted = ", ".join(f"{count} with {name}" for name, count in self.products.items())
        return "\n".join([*lines, f"f = {float(self.value):.6g}; {self.total} matrix-vector products: {counted}"])


class Progressive:
    """A progressive function of its layers' weights.

    layers: one or more, the first applied to x. loss: z_{L+1} -> scalar.

    >>> square = Layer(lambda z, w: w * z**2, torch.tensor([3.0]), "w z^2")
    >>> f = Progressive([square, square], torch.sum)
    >>> print(f.reverse(torch.tensor([1.0])).table())
    i  layer  z_i   A_i     B_i    p_i   q_i
    0  w z^2  (1)           [[1]]        (18)
    1  w z^2  (3)   [[18]]  [[9]]  (18)  (9)
    2  loss   (27)                 (1)
    f = 27; 3 matrix-vector products: 1 with A, 2 with B
    """

    def __init__(self, layers: Sequence[Layer], loss: Callable[[Tensor], Tensor]) -> None:
        if not layers:
            raise UserError("Progressive takes one or more layers")
        for layer in layers:
            if layer.weights.dim() != 1 or not layer.weights.is_floating_point():
                raise UserError(f"Progressive: the weights of {layer.name} must be a vector of floats; list a matrix row by row, vec(W.T)")
        self.layers, self.loss = tuple(layers), loss

    @classmethod
    def of(cls, module: nn.Sequential, loss: Callable[[Tensor], Tensor]) -> Progressive:
        """A module of layers in a row, such as an MLP, as a progressive function in float64.

        The weights of a linear layer are listed row by row, w = vec(W^T), and its bias follows; then A = W and B = (I (x) z^T  I).
        loss: z_{L+1} -> scalar; targets are inside it.
        """
        if not isinstance(module, nn.Sequential) or not len(module):
            raise UserError(
                "Progressive.of takes an nn.Sequential with one or more layers; write other functions as Layer(function, weights)"
            )
        return cls([_layer(child) for child in module], loss)

    def values(self, x: Tensor) -> tuple[Tensor, ...]:
        """z_0 = x, ..., z_{L+1}."""
        z = [x]
        for layer in self.layers:
            z.append(layer.function(z[-1], layer.weights))
        return tuple(z)

    def forward(self, x: Tensor) -> Sweep:
        """The gradient by the forward recursion.

        With k_j weights in layer j, A_i is multiplied by as many columns as the k_j, j < i, together: the products are the sum of
        (L - j) k_j over j < L, and one with J^T.
        """
        z = self.values(x)
        A, B = self._jacobians(z)
        J, by_A = [B[0]], 0
        for i in range(1, len(self.layers)):
            Ai = A[i]
            assert Ai is not None
            by_A += J[-1].shape[1]
            J.append(torch.cat([Ai @ J[-1], B[i]], 1))
        flat = J[-1].T @ self._slope(z[-1])
        gradient = flat.split([layer.weights.numel() for layer in self.layers])
        return Sweep(self.loss(z[-1]), gradient, {"A": by_A, "J": 1}, z, A, B, self._names, J=tuple(J))

    def reverse(self, x: Tensor) -> Sweep:
        """The gradient by the reverse recursion.

        L products with A^T and one with B^T for each layer that has weights, however many it has.
        """
        z = self.values(x)
        A, B = self._jacobians(z)
        p: list[Tensor | None] = [self._slope(z[-1])]
        q: list[Tensor] = []
        for Ai, Bi in zip(reversed(A), reversed(B), strict=True):
            later = p[0]
            assert later is not None
            q.insert(0, Bi.T @ later)
            p.insert(0, None if Ai is None else Ai.T @ later)
        products = {"A": sum(a is not None for a in A), "B": sum(b.shape[1] > 0 for b in B)}
        return Sweep(self.loss(z[-1]), tuple(q), products, z, A, B, self._names, p=tuple(p), q=tuple(q))

    def _jacobians(self, z: tuple[Tensor, ...]) -> tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]:
        pairs = list(zip(self.layers, z[:-1], strict=True))
        return (None, *(layer.A(at) for layer, at in pairs[1:])), tuple(layer.B(at) for layer, at in pairs)

    def _slope(self, last: Tensor) -> Tensor:
        """grad loss at z_{L+1}, a vector."""
        return vec(torch.func.grad(lambda z: self.loss(z).reshape(()))(last))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)


def _layer(module: nn.Module) -> Layer:
    """A module as a layer: its parameters one after the other, each row by row, as one vector of float64."""
    parameters = {name: p.detach().double() for name, p in module.named_parameters()}
    buffers = {name: b.double() if b.is_floating_point() else b for name, b in module.named_buffers()}
    ends = [0, *torch.tensor([p.numel() for p in parameters.values()], dtype=torch.int64).cumsum(0).tolist()]

    def function(z: Tensor, w: Tensor) -> Tensor:
        parts = {n: w[a:b].reshape(p.shape) for (n, p), (a, b) in zip(parameters.items(), pairwise(ends), strict=True)}
        return torch.func.functional_call(module, (parts, buffers), (z.to(w.dtype) if z.is_floating_point() else z,))

    weights = torch.cat([p.reshape(-1) for p in parameters.values()]) if parameters else torch.zeros(0, dtype=torch.float64)
    return Layer(function, weights, type(module).__name__)


def _text(x: Tensor | None) -> str:
    """Up to nine numbers with four digits; of more, the shape."""
    if x is None or x.numel() == 0:
        return ""
    if x.numel() > 9:
        return "x".join(map(str, x.shape))
    if x.dim() == 2:
        return f"[{', '.join('[' + ', '.join(f'{v:.4g}' for v in row) + ']' for row in x.tolist())}]"
    return f"({', '.join(f'{v:.4g}' for v in x.flatten().tolist())})"
