"""Write a GELU in pieces in the order that onnxruntime runs as one kernel.

What
    Exporters write GELU in several orders; onnxruntime fuses two of those by erf and one of those by tanh.

        x ─ Mul(√½) ─ Erf ─ Add(1) ─ Mul(½) ─ Mul(x) ─ y
        x ─ Div(√2) ─ Erf ─ Add(1) ─ Mul(x) ─ Mul(½) ─ y

Maths
    x·(½·(1 + erf(√½·x))) = (x·(1 + erf(x/√2)))·½, and with u = √(2/π)·(x + 0.044715·x³)
    x·(½·(1 + tanh u)) = (½·x)·(1 + tanh u), x³ by Pow.

When it applies
    1. All factors are there once, and nothing else reads a value in between.
    2. The constants are those of GELU, but for the rounding of their type.

Exactness
    Exact; the order of the roundings changes.

Cost
    No MACs; one pass over the map instead of five to nine, and the map stays in blocks of channels.

References:
    Hendrycks and Gimpel 2016, "Gaussian error linear units (GELUs)".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.fusions import activations
from graphopt.analysis.fusions.matching import beside, made_by, read_by
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.numbers import float_type, is_near, near, scalar
from graphopt.rewrites.spelling.pieces.products import product
from graphopt.rewrites.spelling.pieces.spelled import Pieces, Spelling, replaceable

SCALE = math.sqrt(2 / math.pi)
"""Of what the tanh is of (Hendrycks and Gimpel 2016)."""


@dataclass(frozen=True)
class SpellGelu(Spelling[Pieces]):
    """Writes GELUs in the order that onnxruntime runs as one kernel."""

    name: ClassVar[str] = "spell_gelu"

    def find(self, analysis: Analysis, node: ir.Node) -> Pieces | None:
        """The GELU around an Erf or a Tanh that is not in the order that is fused."""
        if node.op_type not in ("Erf", "Tanh") or not is_standard(node):
            return None
        by_erf = node.op_type == "Erf"
        if activations.gelu(analysis, node) if by_erf else activations.fast_gelu(analysis, node):
            return None
        inner = _scaled(analysis, node) if by_erf else _cubic(analysis, node)
        plus = read_by(analysis, node, "Add")
        if inner is None or plus is None or not is_near(analysis, beside(plus, node.outputs[0]), 1):
            return None
        x, before = inner
        outer = product(analysis, plus, x)
        nodes = (node, *before, plus, *outer.nodes)
        dtype = float_type(analysis, nodes)
        if dtype is None or outer.times != 1 or not near(dtype, outer.factor, 0.5):
            return None
        return Pieces(x, nodes, nodes[-1].outputs[0]) if replaceable(analysis, nodes, x) else None

    def write(self, builder: Builder, found: Pieces, opset: int) -> str:
        """The order that is fused."""
        x = found.x.name or ""

        def number(value: float, hint: str) -> str:
            return builder.constant(np.array(float(value)), hint)

        def node(op: str, *inputs: str, name: str = "") -> str:
            return builder.node(op, inputs, {}, f"/{name or op}")

        one, half = number(1, "one"), number(0.5, "half")
        if found.nodes[0].op_type == "Erf":
            erf = node("Erf", node("Div", x, number(math.sqrt(2), "root")))
            return node("Mul", node("Mul", x, node("Add", erf, one)), half, name="half")
        cubic = node(
            "Mul", node("Pow", x, number(3, "three")), number(activations.CUBIC, "cubic"), name="cubic"
        )
        inner = node("Mul", node("Add", x, cubic, name="total"), number(SCALE, "scale"), name="scale")
        plus = node("Add", node("Tanh", inner), one)
        return node("Mul", node("Mul", x, half, name="half"), plus)


def _scaled(analysis: Analysis, erf: ir.Node) -> tuple[ir.Value, list[ir.Node]] | None:
    """X of erf(x/√2), and the operators before."""
    value = erf.inputs[0]
    if value is None or analysis.sole_consumer(value) is not erf:
        return None
    by_div, by_mul = made_by(value, "Div"), made_by(value, "Mul")
    if (
        by_div is not None
        and by_div.inputs[0] is not None
        and is_near(analysis, by_div.inputs[1], math.sqrt(2))
    ):
        return by_div.inputs[0], [by_div]
    if by_mul is not None:
        for factor, x in (by_mul.inputs, reversed(by_mul.inputs)):
            if x is not None and is_near(analysis, factor, math.sqrt(0.5)):
                return x, [by_mul]
    return None


def _cubic(analysis: Analysis, tanh: ir.Node) -> tuple[ir.Value, list[ir.Node]] | None:
    """X of tanh(√(2/π)·(x + 0.044715·x³)), and the operators before."""
    outer = _times(analysis, tanh.inputs[0], tanh, SCALE)
    total = None if outer is None else made_by(outer[1], "Add")
    if outer is None or total is None or analysis.sole_consumer(outer[1]) is not outer[0]:
        return None
    for x, term in (total.inputs, reversed(total.inputs)):
        cubic = _times(analysis, term, total, activations.CUBIC)
        cube = None if cubic is None or x is None else _cube(analysis, cubic[1], cubic[0], x)
        if cubic is not None and cube is not None and x is not None:
            return x, [*cube, cubic[0], total, outer[0]]
    return None


def _times(
    analysis: Analysis, value: ir.Value | None, reader: ir.Node, number: float
) -> tuple[ir.Node, ir.Value] | None:
    """The Mul by a number that makes what a node alone reads, and what it multiplies."""
    node = made_by(value, "Mul")
    if value is None or node is None or analysis.sole_consumer(value) is not reader:
        return None
    for factor, other in (node.inputs, reversed(node.inputs)):
        if other is not None and is_near(analysis, factor, number):
            return node, other
    return None


def _cube(analysis: Analysis, value: ir.Value, reader: ir.Node, x: ir.Value) -> list[ir.Node] | None:
    """What makes x³ for a node alone: Pow, or two Mul."""
    node = value.producer()
    if node is None or not is_standard(node) or analysis.sole_consumer(value) is not reader:
        return None
    if node.op_type == "Pow":
        return [node] if node.inputs[0] is x and scalar(analysis, node.inputs[1]) == 3 else None
    square = beside(node, x) if node.op_type == "Mul" else None
    squared = None if square is None else square.producer()
    if square is None or squared is None or analysis.sole_consumer(square) is not node:
        return None
    if squared.op_type == "Pow":
        return (
            [squared, node] if squared.inputs[0] is x and scalar(analysis, squared.inputs[1]) == 2 else None
        )
    alone = squared.op_type == "Mul" and squared.inputs[0] is x and squared.inputs[1] is x
    return [squared, node] if alone and is_standard(squared) else None
