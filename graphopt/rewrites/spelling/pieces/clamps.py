"""Values that are kept between two numbers, in every spelling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.spelling.pieces.numbers import SINGLE, scalar, type_of


@dataclass(frozen=True, slots=True)
class Clamp:
    """A value that is kept between two numbers.

    Attributes:
        x: the value.
        nodes: the operators that do so, the last one first.
        low: the least number; −∞ where there is none.
        high: the largest; ∞ where there is none.
    """

    x: ir.Value
    nodes: tuple[ir.Node, ...]
    low: float
    high: float


def clamp(analysis: Analysis, last: ir.Node) -> Clamp | None:
    """All that keeps a value between two numbers up to an operator, each read by the next one alone.

    Args:
        analysis: the snapshot.
        last: Relu, Clip, or Max or Min by a number.

    Returns:
        The operators; None where the last one is none of those. Those before that leave one number alone, or
        nothing, are not among them.
    """
    found = _one(analysis, last)
    while found is not None:
        producer = found.x.producer()
        if producer is None or analysis.sole_consumer(found.x) is not found.nodes[-1]:
            break
        inner = _one(analysis, producer) if producer.graph is last.graph else None
        if inner is None or max(inner.low, found.low) >= min(inner.high, found.high):
            break
        found = Clamp(
            inner.x, (*found.nodes, producer), max(inner.low, found.low), min(inner.high, found.high)
        )
    return found


def _one(analysis: Analysis, node: ir.Node) -> Clamp | None:
    """What one operator does."""
    x, low, high = node.inputs[0] if node.inputs else None, -math.inf, math.inf
    if not is_standard(node):
        return None
    match node.op_type:
        case "Relu":
            low = 0.0
        case "Clip":
            bounds = _bounds(analysis, node)
            if bounds is None:
                return None
            low, high = bounds
        case "Max" | "Min" if len(node.inputs) == 2:
            first, second = node.inputs
            number = scalar(analysis, second)
            if number is None:
                x, number = second, scalar(analysis, first)
            if number is None:
                return None
            low, high = (number, high) if node.op_type == "Max" else (low, number)
        case _:
            return None
    return Clamp(x, (node,), low, high) if x is not None and low < high else None


def _bounds(analysis: Analysis, clip: ir.Node) -> tuple[float, float] | None:
    """The bounds of a Clip, attributes up to opset 10; None where one is no constant number.

    Where one is not given it is that of the type: infinity is clipped too.
    """
    values = [*clip.inputs, None, None][1:3]
    given = [None if value is None else scalar(analysis, value) for value in values]
    if any(number is None and value is not None for number, value in zip(given, values, strict=True)):
        return None
    x, (low, high), attributes = clip.inputs[0], given, clip.attributes
    dtype = None if x is None else type_of(analysis, x)
    most = float(np.finfo(dtype).max) if dtype in SINGLE else math.inf
    low = attributes.get_float("min", -most) if low is None else low
    high = attributes.get_float("max", most) if high is None else high
    return low, high
