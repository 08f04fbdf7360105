"""Sizes that an operator takes only where they are alike: they tell an open size of an input.

A size that nobody gave goes through the operators by its name, as long as they keep it. Where one of them
takes it only together with a size that is known (channels and those of a weight, the sides of a Concat), the
model runs at that size alone. Operators that broadcast take 1 as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from graphopt.analysis.operators import BROADCASTING
from graphopt.types import Dim, Dims

Pair = tuple[Dim, Dim]
Inputs = Sequence[Dims | None]


def alike(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[tuple[str, int]]:
    """The open sizes that an operator takes at one size alone.

    Args:
        node: the operator, of the default domain.
        inputs: the sizes of its inputs, by number or by name; None where the rank is unknown.
        output: those of its first output, as they follow from its inputs.

    Returns:
        Names, each with the size.
    """
    rule = _RULES.get(node.op_type)
    yield from _told(rule(node, inputs, output) if rule is not None else ())


def broadcast(node: ir.Node, inputs: Inputs) -> Iterator[tuple[str, int]]:
    """The open sizes that an operator takes at this size and at 1: a name and the size of another input."""
    if node.op_type in BROADCASTING:
        ranks = [dims[::-1] for dims in inputs if dims is not None]
        for axis in range(max(map(len, ranks), default=0)):
            sizes = [dims[axis] for dims in ranks if axis < len(dims) and dims[axis] != 1]
            yield from _told((a, b) for a in sizes for b in sizes)


def _told(pairs: Iterator[Pair] | Sequence[Pair]) -> Iterator[tuple[str, int]]:
    for one, other in pairs:
        for name, size in ((one, other), (other, one)):
            if isinstance(name, str) and isinstance(size, int):
                yield name, size


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
        known = next((size for size in sizes if isinstance(size, int)), None)
        yield from ((size, known) for size in sizes)


def _channels(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    yield _at(inputs, 0, 1), _at(inputs, 1, 0)


def _reshape(node: ir.Node, inputs: Inputs, output: Dims | None) -> Iterator[Pair]:
    """The elements stay as many."""
    dims = inputs[0]
    names = [size for size in dims or () if not isinstance(size, int)]
    after = [size for size in output or () if isinstance(size, int)]
    if dims is None or output is None or len(names) != 1 or len(after) != len(output):
        return
    rest, total = math.prod(size for size in dims if isinstance(size, int)), math.prod(after)
    if rest > 0 and total > 0 and total % rest == 0:
        yield names[0], total // rest


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
    "Reshape": _reshape,
}
"""Pairs of sizes that have to be alike, from the node, the sizes of its inputs and those of its output."""
