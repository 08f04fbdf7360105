"""Write Mish by Sigmoid.

What
    onnxruntime has no kernel for Mish: it runs Softplus, which has no vectors, and Tanh. Sigmoid and four
    sums and products take a fraction of the time.

        x ─┬─ Softplus ─ Tanh ─ Mul ─ y      x ─┬─ Sigmoid(p) ─ u = p·(2 − p) ─ u/(2 − u) ─ Mul ─ y
           └─────────────────────┘              └───────────────────────────────────────────┘

        x ─ Mish ─ y                         x ─┬─ Exp ─ Add(1) ─ Log ─ Tanh ─ Mul ─ y
                                                └────────────────────────────────┘

Maths
    With w = 1 + exp(x), tanh(ln w) = (w² − 1)/(w² + 1). Of p = σ(x) = 1 − 1/w, 1/w² = (1 − p)² = 1 − u, so
    that this is u/(2 − u). Nothing overflows where x is large, and no more cancels where it is far below 0.

When it applies
    1. Mish is the operator, or in pieces of which nothing else reads a value in between.
    2. It is of float32 or float16.
    3. What reads the result makes nothing of how near to 0 it is: onnxruntime's Sigmoid is 0 where exp still
       leaves 1e-8.

Exactness
    Exact, but for rounding; that of Sigmoid is one of 1, not of the result.

Cost
    No MACs; six passes over the map, and no Softplus or logarithm.

References:
    Misra 2019, "Mish: a self regularized non-monotonic activation function".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, read_by
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.numbers import SINGLE, is_near, type_of
from graphopt.rewrites.spelling.pieces.spelled import Pieces, Spelling, relative, replaceable


@dataclass(frozen=True, slots=True)
class _Mish(Pieces):
    """Mish, told by what is of x alone."""

    @property
    def passes(self) -> int:
        """Sigmoid, two differences, two products and a quotient."""
        return 6


@dataclass(frozen=True)
class SpellMish(Spelling[_Mish]):
    """Writes Mish by Sigmoid."""

    name: ClassVar[str] = "spell_mish"

    def find(self, analysis: Analysis, node: ir.Node) -> _Mish | None:
        """Mish that begins with a node."""
        if not is_standard(node) or node.op_type not in ("Exp", "Mish", "Softplus"):
            return None
        x, nodes = node.inputs[0], _pieces(analysis, node)
        if x is None or not nodes or type_of(analysis, x) not in SINGLE:
            return None
        found = _Mish(x, nodes, nodes[-1].outputs[0])
        return found if replaceable(analysis, nodes, x) and not relative(analysis, found.y) else None

    def write(self, builder: Builder, found: _Mish, opset: int) -> str:
        """The product of x and u/(2 − u)."""
        x, two = found.x.name or "", builder.constant(np.array(2.0), "two")
        p = builder.node("Sigmoid", [x])
        u = builder.node("Mul", [p, builder.node("Sub", [two, p], {}, "/rest")], {}, "/part")
        whole = builder.node("Sub", [two, u], {}, "/whole")
        return builder.node("Mul", [x, builder.node("Div", [u, whole], {}, "/tanh")], {}, "/times")


def _pieces(analysis: Analysis, node: ir.Node) -> tuple[ir.Node, ...]:
    """The operators of a Mish that begins with a node; none where none does."""
    if node.op_type == "Mish":
        return (node,)
    soft = _logarithm(analysis, node) if node.op_type == "Exp" else (node,)
    tanh = read_by(analysis, soft[-1], "Tanh") if soft else None
    last = read_by(analysis, tanh, "Mul") if tanh is not None else None
    if tanh is None or last is None or beside(last, tanh.outputs[0]) is not node.inputs[0]:
        return ()
    return (*soft, tanh, last)


def _logarithm(analysis: Analysis, exp: ir.Node) -> tuple[ir.Node, ...]:
    """The operators that make ln(1 + exp(x)), from Exp on; none where they don't."""
    plus = read_by(analysis, exp, "Add")
    if plus is None or not is_near(analysis, beside(plus, exp.outputs[0]), 1):
        return ()
    log = read_by(analysis, plus, "Log")
    return () if log is None else (exp, plus, log)
