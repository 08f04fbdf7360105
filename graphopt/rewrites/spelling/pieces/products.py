"""Products of a value, numbers and what is made of the value, whatever their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, made_by, read_by
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.spelling.pieces.numbers import scalar


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


def product(analysis: Analysis, node: ir.Node, x: ir.Value) -> Product:
    """The product of what a node makes with numbers and with x, as far as it reaches.

    Args:
        analysis: the snapshot.
        node: makes the first factor.
        x: may be among the factors, once.

    Returns:
        The operators behind the node, all read by the next one alone.
    """
    *_, longest = products(analysis, node, x)
    return longest


def products(analysis: Analysis, node: ir.Node, x: ir.Value) -> Iterator[Product]:
    """The products of what a node makes with numbers and with x, the empty one first.

    Args:
        analysis: the snapshot.
        node: makes the first factor.
        x: may be among the factors, once.

    Returns:
        The operators behind the node, all read by the next one alone, one or more further each time.
    """
    found = Product()
    while True:
        yield found
        value = node.outputs[0]
        if (reader := read_by(analysis, node, "Div")) is not None and reader.inputs[0] is value:
            divisor = scalar(analysis, reader.inputs[1])
            taken = Product(factor=1 / divisor) if divisor else None
        elif (reader := read_by(analysis, node, "Mul")) is not None:
            other = beside(reader, value)
            taken = None if other is None else _factors(analysis, other, x, reader)
        else:
            return
        if taken is None or found.times + taken.times > 1:
            return
        nodes = [*found.nodes, *taken.nodes, reader]
        found = Product(nodes, found.factor * taken.factor, found.times + taken.times)
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


def multiple(analysis: Analysis, value: ir.Value) -> tuple[ir.Value, float, tuple[ir.Node, ...]] | None:
    """What a Mul or Div by a number makes a value of, with the number and the operator.

    Args:
        analysis: the snapshot.
        value: the value.

    Returns:
        x, s and the operator that makes s·x; None where no such operator makes the value.
    """
    if (node := made_by(value, "Mul")) is not None:
        for x, number in (node.inputs, reversed(node.inputs)):
            factor = scalar(analysis, number)
            if x is not None and factor is not None:
                return x, factor, (node,)
    if (node := made_by(value, "Div")) is not None:
        divisor, x = scalar(analysis, node.inputs[1]), node.inputs[0]
        return (x, 1 / divisor, (node,)) if divisor and x is not None else None
    return None
