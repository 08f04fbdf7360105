"""Operators that treat every pixel alike: which ones a pooling or a resizing may change places with.

Two kinds. An affine operator (x ↦ s·x + t with one s and one t a channel) commutes with every weighted mean
of pixels whose weights sum to 1. Any other operator that works pixel by pixel commutes only with what moves
pixels without mixing them, such as nearest-neighbour resizing.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.attributes import TO_THE_END
from graphopt.analysis.operators import ALIKE, ARITHMETIC, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.analysis.time_model import seconds
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, is_inference_normalization, is_passthrough
from graphopt.rewrites.patterns.slicing import add_slice
from graphopt.types import Cost, Shape

_BINARY = ARITHMETIC | {"PRelu", "Min", "Max", "Pow"}


def treats_pixels_alike(analysis: Analysis, node: ir.Node, value: ir.Value, *, mixing: bool) -> bool:
    """Whether the operator on ``value`` may change places with an operator on the pixels in front of it.

    Args:
        analysis: the snapshot.
        node: the operator.
        value: the one of its inputs that the other operator makes.
        mixing: whether the other operator takes weighted means of pixels, rather than picking pixels.

    Returns:
        True where both orders compute the same.
    """
    if not is_standard(node):
        return False
    if is_passthrough(analysis, node):
        return True
    if node.op_type == "BatchNormalization":
        return node.inputs[0] is value and is_inference_normalization(analysis, node)
    if node.op_type == "Neg" or (node.op_type in ALIKE and not mixing):
        return node.inputs[0] is value
    if node.op_type not in (ARITHMETIC if mixing else _BINARY) or len(node.inputs) != 2:
        return False
    if (node.op_type in ("PRelu", "Pow") or (mixing and node.op_type == "Div")) and node.inputs[
        0
    ] is not value:
        return False
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    if other is None or other is value or "axis" in node.attributes:  # axis: broadcasting up to opset 6
        return False
    return _one_number_a_channel(analysis.fixed_shape(other), analysis.shape(value))


def is_unary(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the operator treats all elements of its only input alike, whatever their channel."""
    return is_passthrough(analysis, node) or (is_standard(node) and node.op_type in ALIKE)


def _one_number_a_channel(operand: Shape | None, shape: Shape | None) -> bool:
    """Whether the operand broadcasts along every axis of [N, C, spatial…] but the channels."""
    if operand is None or shape is None or len(operand) > len(shape):
        return False
    full = (1,) * (len(shape) - len(operand)) + operand
    return full[0] == 1 and full[1] in (1, shape[1]) and all(size == 1 for size in full[2:])


def operators_before(
    analysis: Analysis, value: ir.Value, graph: object, *, mixing: bool
) -> tuple[ir.Value, list[ir.Node]]:
    """What a chain of operators that treat pixels alike starts from, and the chain, first operator first.

    Args:
        analysis: the snapshot.
        value: the end of the chain.
        graph: the graph in which all of it has to be.
        mixing: as for `treats_pixels_alike`.

    Returns:
        The value in front of the chain, and the chain; the value itself and none where there is no such
        operator.
    """
    chain: list[ir.Node] = []
    node = value.producer()
    while node is not None and node.graph is graph:
        source = next(
            (
                v
                for v in node.inputs
                if v is not None and treats_pixels_alike(analysis, node, v, mixing=mixing)
            ),
            None,
        )
        if source is None or analysis.constants.is_constant(source):
            break
        chain.insert(0, node)
        value, node = source, source.producer()
    return value, chain


def replay(builder: Builder, chain: Sequence[ir.Node], value: ir.Value, x: str) -> str:
    """Adds the operators of a chain that starts from ``value`` on another one, and returns their output.

    Args:
        builder: collects the nodes.
        chain: the operators, the first first.
        value: what the first reads.
        x: what its copy is to read.

    Returns:
        The last copy's local name; `x` where nothing had to be copied.
    """
    for node in chain:
        if node.op_type not in ("Identity", "Dropout"):
            inputs = [None if v is None else x if v is value else v.name for v in node.inputs]
            x = builder.node(node.op_type, inputs, attributes_of(node), f"/{node.op_type.lower()}")
        value = node.outputs[0]
    return x


def dying(analysis: Analysis, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Which of the nodes go away with the first one: those that nothing else reads."""
    gone = {nodes[0]}
    waiting = list(nodes[1:])
    while True:
        more = [node for node in waiting if _read_only_by(analysis, node, gone)]
        if not more:
            return [node for node in nodes if node in gone]
        gone.update(more)
        waiting = [node for node in waiting if node not in gone]


def _read_only_by(analysis: Analysis, node: ir.Node, gone: set[ir.Node]) -> bool:
    return not any(
        output.is_graph_output() or any(reader not in gone for reader in analysis.consumers(output))
        for output in node.outputs
    )


def pass_cost(itemsize: int, *elements: int, params: int = 0) -> Cost:
    """The cost of an operator that passes over so many elements, the written ones last.

    Args:
        itemsize: bytes of one number.
        *elements: numbers read and written, those written last.
        params: numbers of the operator's own.

    Returns:
        No MACs; bytes, and seconds of the static time model.
    """
    moved = itemsize * sum(elements)
    written = itemsize * elements[-1]
    return Cost(0, params, params * itemsize, written, seconds(0, 1, 1, 1, moved))


def subsampled(analysis: Analysis, builder: Builder, x: str, strides: Sequence[int]) -> str:
    """Adds what takes every stride-th pixel of ``x`` [N, C, spatial…], from the first; ``x`` at stride 1.

    Args:
        analysis: the snapshot.
        builder: collects the nodes.
        x: name of the map.
        strides: pixels from one to the next, per spatial axis.

    Returns:
        The local name of what is left.
    """
    ranges = {axis: (0, TO_THE_END, stride) for axis, stride in enumerate(strides, start=2) if stride != 1}
    return add_slice(builder, analysis, x, ranges, 2 + len(strides))
