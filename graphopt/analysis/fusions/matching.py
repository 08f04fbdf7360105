"""What patterns of operators are told by: constants, and who makes and reads a value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis

NEAR = 1e-4
"""By so much of it a constant may differ from the one that a pattern names: derived, they are written to five
digits at least."""


def is_number(analysis: Analysis, value: ir.Value | None, number: float) -> bool:
    """Whether a value is one number, and this one.

    Args:
        analysis: the snapshot.
        value: the value.
        number: the number.

    Returns:
        Whether it is, but for `NEAR` and its type's rounding.
    """
    array = analysis.constant(value)
    if array is None or array.size != 1:
        return False
    rounding = float(np.finfo(array.dtype.name).eps) if array.dtype.kind == "f" else 0.0
    return bool(np.isclose(float(array.item()), number, rtol=max(NEAR, rounding)))


def made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    """The operator that makes a value, where it is of that kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and is_standard(node) else None


def read_by(analysis: Analysis, node: ir.Node, op: str) -> ir.Node | None:
    """The only operator that reads what a node makes, where it is of that kind.

    Args:
        analysis: the snapshot.
        node: the node, of one output.
        op: the kind.

    Returns:
        The reader; None where there are others, or it is of another kind.
    """
    reader = analysis.sole_consumer(node.outputs[0])
    return reader if reader is not None and reader.op_type == op and is_standard(reader) else None


def beside(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """The other one of an operator's two operands."""
    first, second = node.inputs[0], node.inputs[1]
    return second if first is value else first if second is value else None


def scaled(analysis: Analysis, value: ir.Value | None, number: float) -> tuple[ir.Node, ir.Value] | None:
    """The Mul that makes a value of a number and something else, with that.

    Args:
        analysis: the snapshot.
        value: the value.
        number: the number.

    Returns:
        The Mul, and what it multiplies by the number; None where nothing of the kind makes the value.
    """
    node = made_by(value, "Mul")
    if node is None:
        return None
    for factor, other in (node.inputs, reversed(node.inputs)):
        if other is not None and is_number(analysis, factor, number):
            return node, other
    return None
