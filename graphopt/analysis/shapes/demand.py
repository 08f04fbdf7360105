"""What the operators of a model demand of the shapes that they read: from the rank and sizes of weights.

A convolution reads maps of the rank of its weight and of so many channels; what stands in front of it and
keeps ranks and channels has to make such maps, and may be fed nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.operators import ARITHMETIC, POOLS, UNARY, is_standard
from graphopt.analysis.shapes.tensor_types import completed, tensor_shape
from graphopt.model.constant_nodes import constant_tensor
from graphopt.model.traversal import topological
from graphopt.types import Shape

_ALIKE = UNARY | frozenset({"Identity", "Dropout", "Softmax", "LogSoftmax", "InstanceNormalization", "LRN"})
"""Operators whose first output has the shape of their first input."""


def demanded(
    graph: ir.Graph, constants: Constants, shape_of: Callable[[ir.Value], Shape | None]
) -> Mapping[ir.Value, Shape]:
    """The shapes that the operators of one graph demand of what they read, bodies apart.

    Args:
        graph: the graph.
        constants: the model's.
        shape_of: the shape of a value as far as it is known, which may tell the rank of what a MatMul reads.

    Returns:
        For each value of which something is demanded its shape, None for sizes that may be any.
    """
    found: dict[ir.Value, Shape] = {}
    for node in reversed(topological(graph)):
        x = node.inputs[0] if node.inputs else None
        if x is None or not node.outputs or not is_standard(node):
            continue
        output = found.get(node.outputs[0])
        if output is None and node.op_type == "MatMul" and (shape := shape_of(x)) is not None:
            output = (None,) * len(shape)
        arithmetic = node.op_type in ARITHMETIC
        value, shape = (_of_operand if arithmetic else _of_input)(node, x, constants, output)
        if shape is not None and not constants.is_constant(value):
            found[value] = completed(found.get(value), shape) or shape
    return found


def _of_input(
    node: ir.Node, x: ir.Value, constants: Constants, output: Shape | None
) -> tuple[ir.Value, Shape | None]:
    """What an operator demands of its first input, given what is demanded of its output."""
    weight = _shape(node.inputs[1], constants) if len(node.inputs) > 1 else None
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose") and weight is not None and len(weight) > 2:
        channels = weight[1] * node.attributes.get_int("group", 1) if kind == "Conv" else weight[0]
        return x, (None, channels, *(None,) * (len(weight) - 2))
    if kind == "Gemm" and weight is not None and len(weight) == 2:
        inner = weight[1 if node.attributes.get_int("transB", 0) else 0]
        return x, (inner, None) if node.attributes.get_int("transA", 0) else (None, inner)
    if kind == "MatMul" and weight is not None and len(weight) == 2 and output is not None:
        return x, (*output[:-1], weight[0])
    if kind == "BatchNormalization" and weight is not None and output is not None and len(output) > 1:
        return x, (output[0], weight[0], *output[2:])
    if kind == "Transpose" and output is not None:
        order = tuple(node.attributes.get_ints("perm", ()) or range(len(output))[::-1])
        return x, tuple(output[order.index(axis)] for axis in range(len(order)))
    if kind in POOLS:
        return x, _of_pool(node, output)
    return x, output if kind in _ALIKE else None


def _of_pool(node: ir.Node, output: Shape | None) -> Shape | None:
    """Pooling keeps rank, batch and channels."""
    axes = len(node.attributes.get_ints("kernel_shape", ()) or ())
    if output is None:
        return (None,) * (axes + 2) if axes else None
    return (*output[:2], *(None,) * (len(output) - 2))


def _of_operand(
    node: ir.Node, x: ir.Value, constants: Constants, output: Shape | None
) -> tuple[ir.Value, Shape | None]:
    """What arithmetic with a constant of one element demands of its other operand."""
    for value, other in (node.inputs[:2], node.inputs[1::-1]):
        shape = _shape(other, constants)
        if value is None or output is None or shape is None:
            continue
        if set(shape) <= {1} and len(shape) < len(output):
            return value, output
    return x, None


def _shape(value: ir.Value | None, constants: Constants) -> tuple[int, ...] | None:
    """The shape of a constant; its content is not read where a tensor holds it."""
    if value is None or not constants.is_constant(value):
        return None
    node = value.producer()
    tensor = value.const_value or (constant_tensor(node) if node is not None else None)
    if tensor is not None:
        return tensor_shape(tensor)
    array = constants.array(value)
    return None if array is None else array.shape
