"""Gradients through arithmetic of several values, which may be repeated to the shape of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from graphopt.compression.autodiff.tape import Gradient, Tape, ends, name_of


def _each(tape: Tape, node: ir.Node, part: Callable[[int], str], places: Sequence[int]) -> Sequence[Gradient]:
    """The gradient of each input that is of interest, from what it would be in the shape of the output."""
    return [
        tape.reduced(part(i), node, i) if i in places and tape.moves(value) else None
        for i, value in enumerate(node.inputs)
    ]


def add(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Add and Sum: that of the output, for every input."""
    return _each(tape, node, lambda _: g, range(len(node.inputs)))


def expand(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Expand: the sum over the axes that were repeated."""
    return _each(tape, node, lambda _: g, (0,))


def mean(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Mean: that of the output, divided by the number of inputs."""
    return add(tape, node, tape.scaled(g, 1 / len(node.inputs)))


def subtract(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Sub: that of the output, negative for the second input."""
    return _each(tape, node, lambda i: tape.op("Neg", g) if i else g, (0, 1))


def multiply(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Mul: that of the output times the other factor."""
    return _each(tape, node, lambda i: tape.op("Mul", g, name_of(node.inputs[1 - i])), (0, 1))


def divide(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Div, y = a / b: g / b for a, and −g · y / b for b."""
    above = tape.op("Div", g, name_of(node.inputs[1]))

    def part(index: int) -> str:
        return tape.op("Neg", tape.op("Mul", above, ends(node)[1])) if index else above

    return _each(tape, node, part, (0, 1))


def largest(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Max and Min: of several that are the largest, or smallest, each counts."""

    def part(index: int) -> str:
        pair = (name_of(node.inputs[index]), ends(node)[1])
        mask = tape.at_least(*pair) if node.op_type == "Max" else tape.at_least(*reversed(pair))
        return tape.op("Mul", g, mask)

    return _each(tape, node, part, range(len(node.inputs)))


def where(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Where: it goes to what was chosen."""

    def part(index: int) -> str:
        condition = name_of(node.inputs[0])
        return tape.op("Mul", g, tape.mask(condition if index == 1 else tape.op("Not", condition)))

    return _each(tape, node, part, (1, 2))
