"""Products of a value, numbers and what is made of the value, whatever their order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, read_by
from graphopt.analysis.snapshot import Analysis

EXACT = 4.0
"""Times a type's rounding that a constant may differ from the number that a spelling names: derived, it may
be a quotient of two that were rounded, one of them a root."""


@dataclass(slots=True)
class Product:
    """What multiplies a value on the way to what reads the product.

    Attributes:
        nodes: the operators, the last of which makes the product.
        factor: the product of the numbers.
        times: how often another value is among the factors.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    factor: float = 1.0
    times: int = 0


def is_near(analysis: Analysis, value: ir.Value | None, number: float) -> bool:
    """Whether a value is one number, and this one.

    Args:
        analysis: the snapshot.
        value: the value.
        number: the number.

    Returns:
        Whether it is, but for its type's rounding.
    """
    found = scalar(analysis, value)
    return found is not None and near(analysis, value, found, number)


def near(analysis: Analysis, value: ir.Value | None, found: float, number: float) -> bool:
    """Whether a number that was computed in a value's type is another.

    Args:
        analysis: the snapshot.
        value: of the type.
        found: the number.
        number: what it should be.

    Returns:
        Whether it is, but for the type's rounding.
    """
    array = analysis.constant(value)
    eps = np.finfo(np.float32 if array is None else array.dtype.name).eps
    return bool(abs(found - number) <= EXACT * float(eps) * abs(number))


def scalar(analysis: Analysis, value: ir.Value | None) -> float | None:
    """The number that a value is; None where it is none, or has more of them."""
    array = analysis.constant(value)
    return float(array.item()) if array is not None and array.size == 1 and array.dtype.kind == "f" else None


def product(analysis: Analysis, node: ir.Node, x: ir.Value) -> Product:
    """The product of what a node makes with numbers and with x, as far as it reaches.

    Args:
        analysis: the snapshot.
        node: makes the first factor.
        x: may be among the factors, once.

    Returns:
        The operators behind the node, all read by the next one alone.
    """
    found = Product()
    while True:
        value, last = node.outputs[0], node
        if (reader := read_by(analysis, last, "Div")) is not None and reader.inputs[0] is value:
            divisor = scalar(analysis, reader.inputs[1])
            if not divisor:
                return found
            found.factor /= divisor
        elif (reader := read_by(analysis, last, "Mul")) is not None:
            other = beside(reader, value)
            taken = None if other is None else _factors(analysis, other, x, reader)
            if taken is None or found.times + taken.times > 1:
                return found
            found.nodes += taken.nodes
            found.factor *= taken.factor
            found.times += taken.times
        else:
            return found
        found.nodes.append(reader)
        node = reader


def _factors(analysis: Analysis, value: ir.Value, x: ir.Value, reader: ir.Node) -> Product | None:
    """x, a number, or x times a number, read by a node alone; None where it is none of these."""
    if value is x:
        return Product(times=1)
    number = scalar(analysis, value)
    if number is not None:
        return Product(factor=number)
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div") or analysis.sole_consumer(value) is not reader:
        return None
    first, second = node.inputs
    if node.op_type == "Mul" and second is x:
        first, second = second, first
    number = scalar(analysis, second)
    if first is not x or not number:
        return None
    return Product([node], 1 / number if node.op_type == "Div" else number, 1)
