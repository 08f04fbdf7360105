"""Replace a linear operator whose whole input is constant by what it computes.

What
    A Conv, ConvTranspose, Gemm or MatMul of constants becomes a constant.

        constant ─ 3x3 ─ Add ─ y        constant ─ Add ─ y
                      x ─┘                     x ─┘

Maths
    The output is the same in every run, so it is computed once.

When it applies
    1. Input, weights and bias are constants, and none of them is made for the run.
    2. The output is stored in no more bytes than the constants that nothing else reads then, or it is small
       (at most 4096 elements): a table or a mask that expands into a large map stays as it is.

Exactness
    Exact: computed in float64 and rounded once.

Cost
    No MACs are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import composition
from graphopt.rewrites.patterns.common import propose
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement

STORED_ANYWAY = 4096
"""Elements of an output that is stored whatever it takes the place of. Derived: 16 KB of float32, as much as
forty operators take in a file (`planning.spending.NODE_BYTES`); benchmarks.thresholds shows a site that 0
leaves."""


@dataclass(frozen=True)
class FoldConstant(ExactRewrite):
    """Replaces a linear operator of constants by what it computes."""

    name: ClassVar[str] = "fold_constant"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each linear operator of a constant."""
        for linear in analysis.linears:
            if not analysis.constants.is_constant(linear.node.inputs[0]):
                continue
            size = math.prod(n or 0 for n in linear.output_shape or ())
            costs = analysis.linear_cost(linear), Cost(0, size, size * linear.itemsize)
            found = _refusal(analysis, linear) or costs
            yield propose(self.name, analysis, [linear.node], linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The output as a constant."""
        linear = anchor(analysis, candidate)
        x = analysis.constant(linear.node.inputs[0])
        assert x is not None
        builder = Builder(linear.dtype)
        name = builder.constant(_output(linear, x.astype(np.float64)), "constant")
        return builder.replacement({linear.y: name})


def _refusal(analysis: Analysis, linear: Linear) -> str:
    """Why the output is not stored; "" when it is."""
    if linear.obstacle:
        return linear.obstacle
    shape = linear.output_shape
    x = linear.node.inputs[0]
    kind = analysis.constants.dtype(x) if x is not None else None
    if shape is None or None in shape or not linear.macs:
        return "the size of its output is unknown"
    if kind != linear.dtype:
        return f"its input has type {kind}, its weights {linear.dtype}"
    made = math.prod(n or 0 for n in shape)
    dropped = sum(_freed(analysis, value) for value in linear.node.inputs if value is not None)
    if made > max(dropped, STORED_ANYWAY):
        return f"its output has {made:,} elements, the constants that it would replace {dropped:,}"
    return ""


def _freed(analysis: Analysis, value: ir.Value) -> int:
    """Elements of stored constants that go away when the operator does."""
    alone = len(analysis.consumers(value)) == 1 and not value.is_graph_output()
    if not alone or not (value.is_initializer() or _is_constant_node(value)):
        return 0
    return analysis.constants.size(value) or 0


def _is_constant_node(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"


def _output(linear: Linear, x: Array) -> Array:
    """What the operator makes of the constant, in float64."""
    found = composition.operator(linear)
    if linear.op in composition.FLAT:
        product: Array = x @ found.weight.T
        return product if found.bias is None else product + found.bias
    positions = tuple(np.arange(size) for size in x.shape[2:])
    samples = [composition.through(ZonedMap(sample, positions), found).expanded() for sample in x]
    return np.stack(samples)
