"""Replace what is computed of constants alone by the constants that it makes.

What
    Weights and biases that the graph normalises, standardises, scales, splits or lays out anew, and sizes,
    axes and pads that it puts together of numbers, become constants.

        v ─ LpNormalization ─ Mul(g) ─┐                    w ─┐
                                   x ─ 3x3 ─ y             x ─ 3x3 ─ y

Maths
    They are the same in every run, so they are computed once.

When it applies
    1. All that they are computed of are constants, by operators whose results are known: no random ones, and
       none in a quantised region.
    2. They are stored in no more bytes than the operators take and the constants that nothing else reads
       then, or in few (4096): weights in float16 behind a Cast, or copied out by an Expand, stay as they are.

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

from graphopt.analysis.costs import QUANTISE
from graphopt.analysis.groups import Groups
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.types import Candidate, Cost, Rejection, Replacement

STORED_ANYWAY = 4096
"""Bytes by which a file may grow at a site. Derived: a page, as little as a file takes on a disk; scales and
shifts of 1,000 channels, sizes, axes and pads are smaller."""


@dataclass(frozen=True)
class ConstantFolding(ExactRewrite):
    """Replaces what is computed of constants alone by the constants that it makes."""

    name: ClassVar[str] = "constant_folding"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for a group of operators of constants; one a value where they make too much."""
        made = {value: _makers(analysis, value) for value in _read_by_others(analysis)}
        groups = Groups[ir.Node]()
        for nodes in made.values():
            groups.join(*nodes)
        for members in groups.of(dict.fromkeys(node for nodes in made.values() for node in nodes)):
            inside = set(members)
            within = [nodes for nodes in made.values() if nodes[0] in inside]
            together = _ordered(analysis, members)
            found = _costs(analysis, together)
            if isinstance(found, str) and len(within) > 1:
                for nodes in within:
                    yield propose(
                        self.name, analysis, nodes, analysis.name(nodes[0]), _costs(analysis, nodes)
                    )
            else:
                yield propose(self.name, analysis, together, analysis.name(together[0]), found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """All that the operators hand on as constants."""
        nodes = [analysis.nodes[name] for name in candidate.site.nodes]
        arrays = {value.name or "": analysis.constant(value) for value in _handed_on(analysis, nodes)}
        known = {name: array for name, array in arrays.items() if array is not None}
        builder = Builder(np.dtype(np.float32))
        return builder.replacement(
            {name: builder.constant(array, "constant", keep_type=True) for name, array in known.items()}
        )


def _read_by_others(analysis: Analysis) -> Iterator[ir.Value]:
    """The computed constants that not constants alone are computed of, outside of quantised regions."""
    for node in analysis.nodes.values():
        for value in node.outputs:
            if not analysis.constants.is_computed(value) or node.op_type == "Constant":
                continue
            readers = analysis.consumers(value)
            others = [reader for reader in readers if not analysis.constants.is_constant(reader.outputs[0])]
            if (others or value.is_graph_output()) and not any(_quantised(analysis, each) for each in others):
                yield value


def _quantised(analysis: Analysis, node: ir.Node) -> bool:
    linear = analysis.linear(node)
    return node.op_type in QUANTISE or (linear is not None and bool(linear.blocked))


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
        stack += [each for each in node.inputs if each is not None and analysis.constants.is_constant(each)]
    first, *others = found
    return [first, *_ordered(analysis, others)]


def _ordered(analysis: Analysis, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The operators, the last one of the model first."""
    return sorted(nodes, key=analysis.position, reverse=True)


def _handed_on(analysis: Analysis, nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """What others read of what some operators make."""
    inside = set(nodes)
    made = [value for node in nodes for value in node.outputs]
    return [v for v in made if v.is_graph_output() or not inside.issuperset(analysis.consumers(v))]


def _costs(analysis: Analysis, nodes: Sequence[ir.Node]) -> tuple[Cost, Cost] | str:
    """What the operators cost, and what is stored in their place; or why nothing is."""
    constants, inside = analysis.constants, set(nodes)
    made = _handed_on(analysis, nodes)
    if len(nodes) <= sum(value.is_graph_output() for value in made):
        return "an output of the graph needs an operator"
    stored = [analysis.constant(value) for value in made]
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    tensors = [value for value in read if value.producer() not in inside]
    alone = [v for v in tensors if inside.issuperset(analysis.consumers(v)) and not v.is_graph_output()]
    freed = sum(constants.stored_bytes(value) for value in alone)
    if any(array is None for array in stored):
        return "what it makes is not known"
    needed = sum(array.nbytes for array in stored if array is not None)
    written = sum(ir.serde.serialize_node(node).ByteSize() for node in nodes)
    if needed > freed + written + STORED_ANYWAY:
        return f"what it makes would take {needed:,} bytes, what it is computed from {freed:,}"
    elements = sum(array.size for array in stored if array is not None)
    return analysis.cost(nodes), Cost(0, elements, needed)
