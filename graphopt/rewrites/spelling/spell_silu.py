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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, made_by, read_by
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.spelling.numbers import SINGLE, float_type, is_near, scalar
from graphopt.rewrites.spelling.products import multiple
from graphopt.rewrites.spelling.sites import costs, relative, replaceable
from graphopt.types import Candidate, Rejection, Replacement


class _Found(NamedTuple):
    """z/(1 + exp(−factor·x)).

    Attributes:
        x: what the exponential is of.
        factor: what multiplies it.
        z: what is divided; None where that is 1.
        nodes: the operators, the Exp first.
        y: what they make.
    """

    x: ir.Value
    factor: float
    z: ir.Value | None
    nodes: tuple[ir.Node, ...]
    y: ir.Value

    @property
    def passes(self) -> int:
        """The operators that take their place."""
        return 1 + (self.factor != 1) + (self.z is not None)


@dataclass(frozen=True)
class SpellSilu(ExactRewrite):
    """Writes the logistic function by exp as Sigmoid."""

    name: ClassVar[str] = "spell_silu"
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each of them."""
        for node in analysis.nodes.values():
            found = _find(analysis, node)
            if found is not None:
                before, after = costs(analysis, found.nodes, found.passes)
                yield Candidate(self.name, site(analysis, found.nodes), before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The Sigmoid, what it is of, and what it multiplies."""
        found = _find(analysis, analysis.nodes[candidate.site.nodes[0]])
        assert found is not None
        dtype = float_type(analysis, found.nodes)
        assert dtype is not None
        builder, y = Builder(dtype), found.x.name or ""
        if found.factor == -1:
            y = builder.node("Neg", [y])
        elif found.factor != 1:
            y = builder.node("Mul", [y, builder.constant(np.array(found.factor), "factor")], {}, "/factor")
        y = builder.node("Sigmoid", [y])
        if found.z is not None:
            y = builder.node("Mul", [found.z.name or "", y], {}, "/times")
        return builder.replacement({found.y.name or "": y})


def _find(analysis: Analysis, node: ir.Node) -> _Found | None:
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
    found = _Found(x, -factor, z, (node, plus, last, *before), last.outputs[0])
    if float_type(analysis, [plus]) not in SINGLE or len(found.nodes) <= found.passes:
        return None
    return found if replaceable(analysis, found.nodes, x) and not relative(analysis, found.y) else None


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
