"""Sizes that an operator takes only where they are alike: they tell an open size of an input.

A size that nobody gave goes through the operators by its name, and what they make of it has a name too
(`analysis.shapes.open_sizes`). Where one of them takes it only together with a size that is known (channels
and those of a weight, the sides of a Concat), the model runs at that size alone. Operators that broadcast
take 1 as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, takewhile

import onnx_ir as ir

from graphopt.analysis.operators import BROADCASTING
from graphopt.analysis.shapes.open_sizes import OpenSizes
from graphopt.analysis.shapes.sizes import Equation
from graphopt.types import Dim, Dims

Pair = tuple[Dim, Dim]
Inputs = Sequence[Dims | None]


class Demands:
    """What the operators of one model demand of its open sizes.

    Attributes:
        sizes: the open sizes, and what operators make of them.
        equations: what is demanded of those, in the order in which it was met.
        pinned: the open sizes of inputs that an operator takes at one size alone, by name.
    """

    def __init__(self) -> None:
        self.sizes = OpenSizes()
        self.equations: dict[Equation, None] = {}
        self.pinned: dict[str, int] = {}
        self._broadcast: dict[str, int] = {}  # those that an operator takes at this size and at 1

    def tell(self, node: ir.Node, inputs: Inputs, output: Dims | None, *, certain: bool) -> None:
        """Notes what an operator demands.

        Args:
            node: the operator, of the default domain.
            inputs: the sizes of its inputs, by number or by name; None where the rank is unknown.
            output: those of its first output, as they follow from its inputs.
            certain: whether it runs whenever the model does.
        """
        for name, size in _alike(node, inputs, output, self.sizes):
            self.equations[Equation(name, size, certain)] = None
            if certain and isinstance(size, int):
                self._pin(name, size)
        for name, size in _usual(node, inputs, output, self.sizes):
            self.claim(name, size)
        for name, size in _broadcast(node, inputs):
            self.equations[Equation(name, size, False, broadcast=True)] = None
            if certain and isinstance(size, int) and self._broadcast.setdefault(name, size) != size:
                self._pin(name, 1)

    def claim(self, name: str, size: int | str) -> None:
        """Notes what a size may have to be."""
        self.equations[Equation(name, size, False)] = None

    def _pin(self, name: str, size: int) -> None:
        """Notes the only size of an input at which another has this size."""
        found = self.sizes.only(name, size)
        if found is not None:
            self.pinned.setdefault(*found)


def _alike(
    node: ir.Node, inputs: Inputs, output: Dims | None, sizes: OpenSizes
) -> Iterator[tuple[str, int | str]]:
    """The open sizes that an operator takes at one size alone, each with that size or the name of it."""
    if node.op_type == "Reshape":
        yield from _told(_reshape(node, inputs, output, sizes))
    if node.op_type == "Concat" and _lax(inputs, sizes):
        return
    rule = _RULES.get(node.op_type)
    yield from _told(rule(node, inputs, output) if rule is not None else ())


def _broadcast(node: ir.Node, inputs: Inputs) -> Iterator[tuple[str, int | str]]:
    """The open sizes that an operator takes at this size and at 1: a name and the size of another input."""
    if node.op_type in BROADCASTING:
        ranks = [dims[::-1] for dims in inputs if dims is not None]
        for axis in range(max(map(len, ranks), default=0)):
            sizes = [dims[axis] for dims in ranks if axis < len(dims) and dims[axis] != 1]
            yield from _told((a, b) for a, b in combinations(dict.fromkeys(sizes), 2))


def _usual(
    node: ir.Node, inputs: Inputs, output: Dims | None, sizes: OpenSizes
) -> Iterator[tuple[str, int | str]]:
    """The open sizes that an operator is made for, though it takes others.

    A Reshape to [-1, ...] keeps the samples apart, one that leaves a size in the middle keeps those behind
    it, and a ConvTranspose to an output_shape pads by little. A Concat may take maps without elements.
    """
    first = inputs[0] if inputs else None
    if not first or not output:
        return
    if node.op_type == "Reshape" and isinstance(output[0], str) and output[0] != first[0]:
        sample = sizes.product(f"{node.outputs[0].name}[0] of a sample", output[:1], first[:1])
        yield from _told([(sample, 1)])
    elif node.op_type == "Reshape" and any(isinstance(size, str) for size in output[1:]):
        behind = takewhile(
            lambda pair: isinstance(pair[1], int), zip(first[::-1], output[::-1], strict=False)
        )
        yield from _told(behind)
    if node.op_type == "Concat" and _lax(inputs, sizes):
        yield from _told(_concat(node, inputs, output))
    named = node.attributes.get_ints("output_shape", ())
    if node.op_type == "ConvTranspose" and named:
        yield from _told(zip(first[2:], _before(node, inputs, named[2 - len(first) :]), strict=False))


def _lax(inputs: Inputs, sizes: OpenSizes) -> bool:
    """Whether one of several maps may have no elements: onnxruntime joins it whatever its sizes."""
    return any(dims is not None and sizes.may_be_empty(dims) for dims in inputs)


def _before(node: ir.Node, inputs: Inputs, after: Sequence[int]) -> Iterator[Dim]:
    """The sizes of which a ConvTranspose makes those of its output_shape: onnxruntime takes no less."""
    ints = node.attributes.get_ints
    strides, dilations = (ints(key, ()) or (1,) * len(after) for key in ("strides", "dilations"))
    added, taps = ints("output_padding", ()) or (0,) * len(after), ints("kernel_shape", ())
    same = (node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET").startswith("SAME")
    for axis, size in enumerate(after):
        kernel = taps[axis] if taps else _at(inputs, 1, axis + 2)
        if same:
            yield -(-size // strides[axis])
        elif isinstance(kernel, int):
            yield (size - added[axis] - dilations[axis] * (kernel - 1) - 1) // strides[axis] + 1
        else:
            yield None


def _told(pairs: Iterable[Pair]) -> Iterator[tuple[str, int | str]]:
    for one, other in pairs:
        if one is None or other is None or one == other:
            continue
        if isinstance(one, str):
            yield one, other
        elif isinstance(other, str):
            yield other, one


# --- the rules: pairs of sizes that have to be alike ---


def _at(inputs: Inputs, place: int, axis: int) -> Dim:
    """The size of an axis of an input; None where there is none."""
    dims = inputs[place] if place < len(inputs) else None
    return dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None


def _convolution(weight: int) -> Callable[[ir.Node, Inputs, Dims | None], Iterator[Pair]]:
    def rule(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
        channels = _at(inputs, weight, 1)
        if isinstance(channels, int):
            yield _at(inputs, 0, 1), channels * node.attributes.get_int("group", 1)

    return rule


def _matmul(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    second = inputs[1] if len(inputs) > 1 else None
    if second is not None:
        yield _at(inputs, 0, -1), _at(inputs, 1, -2 if len(second) > 1 else 0)


def _gemm(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    first, second = (node.attributes.get_int(key, 0) for key in ("transA", "transB"))
    yield _at(inputs, 0, 0 if first else 1), _at(inputs, 1, 1 if second else 0)
    for axis in (-2, -1):  # the bias is broadcast, not what it is added to
        bias = _at(inputs, 2, axis)
        if bias != 1 and output is not None:
            yield output[axis], bias


def _concat(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    ranks = {len(dims) for dims in inputs if dims is not None}
    if len(ranks) != 1:
        return
    rank = ranks.pop()
    for axis in set(range(rank)) - {node.attributes.get_int("axis", 1) % rank}:
        sizes = [_at(inputs, place, axis) for place in range(len(inputs))]
        told = [size for size in sizes if size is not None]
        known = next((size for size in told if isinstance(size, int)), told[0] if told else None)
        yield from ((size, known) for size in sizes)


def _channels(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    yield _at(inputs, 0, 1), _at(inputs, 1, 0)


def _reshape(node: ir.Node, inputs: Inputs, output: Dims | None, sizes: OpenSizes) -> Iterator[Pair]:
    """The elements stay as many."""
    before, after = inputs[0], output
    if before is not None and after is not None and None not in after:
        yield sizes.product(f"{node.outputs[0].name}[...]", before, after), 1


def _resize(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    """Onnxruntime interpolates in no batch: neither linearly nor by cubes."""
    mode = node.attributes.get_string("mode", "nearest")
    if mode in ("linear", "bilinear", "cubic") and output is not None and len(output) > 3:
        yield _at(inputs, 0, 0), output[0]


_RULES: dict[str, Callable[[ir.Node, Inputs, Dims | None], Iterator[Pair]]] = {
    "BatchNormalization": _channels,
    "Concat": _concat,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _channels,
    "Gemm": _gemm,
    "InstanceNormalization": _channels,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _convolution(3),
    "Resize": _resize,
    "Upsample": _resize,
}
"""Pairs of sizes that have to be alike, from the node, the sizes of its inputs and those of its output."""
