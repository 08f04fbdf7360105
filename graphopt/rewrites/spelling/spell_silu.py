"""Write the logistic function by exp as Sigmoid.

What
    onnxruntime puts Sigmoid into the convolution before, and runs x·Sigmoid(x) as one kernel.

        x ─┬─ Neg ─ Exp ─ Add(1) ─ Div ─ y      x ─┬─ Sigmoid ─ Mul ─ y
           └────────────────────────┘              └─────────────┘

        x ─ Mul(−b) ─ Exp ─ Add(1) ─ Reciprocal ─ y      x ─ Mul(b) ─ Sigmoid ─ y

Maths
    z/(1 + exp(−b·x)) = z·σ(b·x), for any z and b; with b = 1, 1 is σ and x is SiLU.

When it applies
    1. It takes fewer operators than before: z is 1, or x is negated or multiplied by a number.
    2. The numbers are of float32 or float16, and have no more axes than x.
    3. Nothing else reads a value in between, and what reads the result makes nothing of how near to 0 it is:
       onnxruntime's Sigmoid is 0 where exp still leaves 1e-8, of which Log would make −∞.

Exactness
    Exact, but for rounding; that of Sigmoid is one of 1, not of the result.

Cost
    No MACs; one to three passes over the map instead of three to five.

References:
    Elfwing et al. 2018, "Sigmoid-weighted linear units".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, made_by, read_by
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.numbers import SINGLE, float_type, is_near, scalar
from graphopt.rewrites.spelling.pieces.products import multiple
from graphopt.rewrites.spelling.pieces.spelled import Pieces, Spelling, relative, replaceable


@dataclass(frozen=True, slots=True)
class _Logistic(Pieces):
    """z/(1 + exp(−factor·x)), told by its Exp.

    Attributes:
        factor: what multiplies x.
        z: what is divided; None where that is 1.
    """

    factor: float
    z: ir.Value | None

    @property
    def passes(self) -> int:
        """Sigmoid, what it is of, and the product."""
        return 1 + (self.factor != 1) + (self.z is not None)


@dataclass(frozen=True)
class SpellSilu(Spelling[_Logistic]):
    """Writes the logistic function by exp as Sigmoid."""

    name: ClassVar[str] = "spell_silu"

    def find(self, analysis: Analysis, node: ir.Node) -> _Logistic | None:
        """The logistic function around an Exp."""
        value = node.inputs[0] if node.op_type == "Exp" and is_standard(node) else None
        plus = None if value is None else read_by(analysis, node, "Add")
        if value is None or plus is None or not is_near(analysis, beside(plus, node.outputs[0]), 1):
            return None
        if (last := read_by(analysis, plus, "Reciprocal")) is not None:
            z = None
        elif (last := read_by(analysis, plus, "Div")) is not None and last.inputs[1] is plus.outputs[0]:
            z = None if scalar(analysis, last.inputs[0]) == 1 else last.inputs[0]
        else:
            return None
        x, factor, before = _exponent(analysis, node, value)
        found = _Logistic(x, (node, plus, last, *before), last.outputs[0], -factor, z)
        if float_type(analysis, [plus]) not in SINGLE or len(found.nodes) <= found.passes:
            return None
        return found if replaceable(analysis, found.nodes, x) and not relative(analysis, found.y) else None

    def write(self, builder: Builder, found: _Logistic, opset: int) -> str:
        """The Sigmoid, what it is of, and what it multiplies."""
        y = found.x.name or ""
        if found.factor == -1:
            y = builder.node("Neg", [y])
        elif found.factor != 1:
            y = builder.node("Mul", [y, builder.constant(np.array(found.factor), "factor")], {}, "/factor")
        y = builder.node("Sigmoid", [y])
        return y if found.z is None else builder.node("Mul", [found.z.name or "", y], {}, "/times")


def _exponent(
    analysis: Analysis, exp: ir.Node, value: ir.Value
) -> tuple[ir.Value, float, tuple[ir.Node, ...]]:
    """What Exp is of, as a number times a value, and the operator that multiplies."""
    if analysis.sole_consumer(value) is exp:
        negated = made_by(value, "Neg")
        if negated is not None and negated.inputs[0] is not None:
            return negated.inputs[0], -1.0, (negated,)
        scaled = multiple(analysis, value)
        if scaled is not None:
            return scaled
    return value, 1.0, ()
