"""Replace what computes weights of constants by the weights.

What
    Weights and biases that the graph normalises, standardises, scales, splits or lays out anew become
    constants.

        v ─ LpNormalization ─ Mul(g) ─┐                    w ─┐
                                   x ─ 3x3 ─ y             x ─ 3x3 ─ y

Maths
    The weights are the same in every run, so they are computed once.

When it applies
    1. All that the weights are computed of are constants, by operators whose results are known.
    2. The weights are stored in no more bytes than the constants that nothing else reads then: those in
       float16 behind a Cast, or copied out by an Expand, stay as they are.

Exactness
    Exact: computed as onnxruntime does in every run.

Cost
    As many MACs as before, or less by those of a MatMul among the operators that go.

References:
    Salimans and Kingma 2016, "Weight normalization".
    Miyato et al. 2018, "Spectral normalization for generative adversarial networks".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class FoldWeights(ExactRewrite):
    """Replaces what computes weights of constants by the weights."""

    name: ClassVar[str] = "fold_weights"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each group of operators that makes weights."""
        done: set[ir.Value] = set()
        for value in _weights(analysis):
            if value in done:
                continue
            nodes = _makers(analysis, value)
            done.update(_handed_on(analysis, nodes))
            yield propose(self.name, analysis, nodes, analysis.name(nodes[0]), _costs(analysis, nodes))

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """All that the operators hand on as constants."""
        nodes = [analysis.nodes[name] for name in candidate.site.nodes]
        arrays = {value.name or "": analysis.constant(value) for value in _handed_on(analysis, nodes)}
        known = {name: array for name, array in arrays.items() if array is not None}
        builder = Builder(np.dtype(np.float32))
        return builder.replacement(
            {name: builder.constant(array, "weight", keep_type=True) for name, array in known.items()}
        )


def _weights(analysis: Analysis) -> Iterator[ir.Value]:
    """The weights and biases that the model computes from constants, outside of quantised regions."""
    constants = analysis.constants
    for linear in analysis.linears:
        if not linear.blocked and not constants.is_constant(linear.node.outputs[0]):
            read = (value for value in linear.node.inputs[1:] if value is not None)
            yield from (value for value in read if constants.is_computed(value))


def _makers(analysis: Analysis, value: ir.Value) -> list[ir.Node]:
    """The operators of its graph that a constant is computed by, the last one first."""
    found: dict[ir.Node, None] = {}
    stack = [value]
    graph = value.graph
    while stack:
        node = stack.pop().producer()
        if node is None or node in found or node.op_type == "Constant" or node.graph is not graph:
            continue
        found[node] = None
        stack += [each for each in node.inputs if each is not None]
    first, *others = found
    return [first, *sorted(others, key=analysis.position, reverse=True)]


def _handed_on(analysis: Analysis, nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """What others read of what some operators make."""
    inside = set(nodes)
    made = [value for node in nodes for value in node.outputs]
    return [v for v in made if v.is_graph_output() or not inside.issuperset(analysis.consumers(v))]


def _costs(analysis: Analysis, nodes: Sequence[ir.Node]) -> tuple[Cost, Cost] | str:
    """What the operators cost, and what is stored in their place; or why nothing is."""
    constants, inside = analysis.constants, set(nodes)
    stored = [analysis.constant(value) for value in _handed_on(analysis, nodes)]
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    tensors = [value for value in read if value.producer() not in inside]
    alone = [v for v in tensors if inside.issuperset(analysis.consumers(v)) and not v.is_graph_output()]
    freed = sum(constants.stored_bytes(value) for value in alone)
    if any(array is None for array in stored):
        return "what it makes is not known"
    needed = sum(array.nbytes for array in stored if array is not None)
    if needed > freed:
        return f"its weights would take {needed:,} bytes, the constants that they are computed from {freed:,}"
    elements = sum(array.size for array in stored if array is not None)
    return analysis.cost(nodes), Cost(0, elements, needed)
