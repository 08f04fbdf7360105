"""What makes way for another spelling, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.snapshot import Analysis
from graphopt.types import Cost


def replaceable(analysis: Analysis, nodes: Sequence[ir.Node], x: ir.Value) -> bool:
    """Whether operators may make way for others that make as many axes as a value has.

    Args:
        analysis: the snapshot.
        nodes: the operators.
        x: the value.

    Returns:
        Whether they are of one graph, and no number that they read has more axes, as far as the value's are
        known.
    """
    rank = len(analysis.shape(x) or ())
    numbers = (analysis.constant(value) for node in nodes for value in node.inputs)
    if any(array is not None and array.ndim > rank for array in numbers):
        return False
    return all(node.graph is nodes[0].graph for node in nodes)


def relative(analysis: Analysis, value: ir.Value) -> bool:
    """Whether an operator that reads a value may make much of a small change near 0, as its inverse does.

    Args:
        analysis: the snapshot.
        value: the value.
    """
    for node in analysis.consumers(value):
        if node.op_type in ("Log", "Pow", "Reciprocal", "Sqrt"):
            return True
        if node.op_type == "Div" and node.inputs[1] is value:
            return True
    return False


def costs(analysis: Analysis, nodes: Sequence[ir.Node], passes: int = 1) -> tuple[Cost, Cost]:
    """What operators that pass over a map cost, and other passes in their place.

    Args:
        analysis: the snapshot.
        nodes: the operators.
        passes: how many there are then.

    Returns:
        The costs before and after, of the same numbers.
    """
    before = analysis.cost(nodes)
    moved = max(analysis.cost([node]).activation_bytes for node in nodes)
    seconds = passes * time_model.seconds(0, 1, 1, 1, 2 * moved)
    return before, replace(before, activation_bytes=passes * moved, seconds=seconds)
