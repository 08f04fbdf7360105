"""Compute once what is computed twice.

What
    Deterministic operators of one kind with the same attributes, inputs and constants become one, and so do
    whole chains of them.

        x ─┬─ Conv(W, b) ─ Relu ─ y        x ─ Conv(W, b) ─ Relu ─┬─ y
           └─ Conv(W, b) ─ Relu ─ z                               └─ z

Maths
    f(x) = f(x).

When it applies
    1. The operators are of the default domain and of one graph, without subgraphs of their own.
    2. Each input is the same value, the output of a duplicate, or a constant of equal type, shape and bytes.
    3. They are deterministic: no random generator, no Dropout that may be in training mode.
    4. They are not in a quantised region.

Exactness
    Exact, to the bit.

Cost
    MACs fall by those of the duplicates.

References:
    Common-subexpression elimination by value numbering: Aho, Lam, Sethi and Ullman, "Compilers", section 6.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.costs import QUANTISE
from graphopt.analysis.operators import RANDOM, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, is_passthrough, site
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class RemoveDuplicates(ExactRewrite):
    """Computes once what is computed twice."""

    name: ClassVar[str] = "remove_duplicates"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each set of duplicates that hang together."""
        held = set(analysis.nodes.values())
        pairs = analysis.cached(_first_of).items()
        first = {node: original for node, original in pairs if held >= {node, original}}
        for cluster in _connected(first):
            nodes = [node for pair in ((first[node], node) for node in cluster) for node in pair]
            place = site(analysis, list(dict.fromkeys(nodes)))
            yield Candidate(self.name, place, analysis.cost(cluster), Cost(0))

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """No new operator: what read a duplicate reads the one that is kept."""
        nodes = [analysis.nodes[name] for name in candidate.site.nodes]
        first = analysis.cached(_first_of)
        outputs = {
            ours.name or "": theirs.name or ""
            for node in nodes
            if node in first
            for ours, theirs in zip(node.outputs, first[node].outputs, strict=True)
            if ours.name and theirs.name
        }
        return Builder(np.dtype(np.float32)).replacement(outputs)


def _first_of(analysis: Analysis) -> dict[ir.Node, ir.Node]:
    """Each duplicate, with the operator that computes the same before it."""
    first: dict[ir.Node, ir.Node] = {}
    values: dict[ir.Value, ir.Value] = {}
    seen: dict[Hashable, list[ir.Node]] = {}
    numbered: dict[Hashable, ir.Node] = {}
    digests: dict[ir.Value, bytes] = {}

    def with_contents(rough: Hashable, node: ir.Node) -> Hashable:
        constants = [v for v in node.inputs if v is not None and analysis.constants.is_constant(v)]
        for value in constants:
            if value not in digests:
                array = np.ascontiguousarray(analysis.constant(value))
                digests[value] = hashlib.blake2b(array.tobytes()).digest()
        return rough, tuple(digests[value] for value in constants)

    for node in analysis.nodes.values():
        rough = _rough_key(analysis, node, values)
        if rough is None:
            continue
        alike = seen.setdefault(rough, [])
        alike.append(node)
        if len(alike) == 1:
            continue
        if len(alike) == 2:  # only now are constants read
            numbered[with_contents(rough, alike[0])] = alike[0]
        original = numbered.setdefault(with_contents(rough, node), node)
        if original is not node and not _only_renames(analysis, original, node):
            first[node] = original
            values.update(zip(node.outputs, original.outputs, strict=True))
    return first


def _rough_key(analysis: Analysis, node: ir.Node, values: Mapping[ir.Value, ir.Value]) -> Hashable | None:
    """What duplicates have in common but for the content of constants; None where there can be none."""
    if (
        not is_standard(node)
        or node.op_type in RANDOM | QUANTISE | {"Constant", "Identity"}
        or not node.inputs
    ):
        return None
    if node.op_type == "Dropout" and not is_passthrough(analysis, node):
        return None
    attributes = attributes_of(node)
    linear = analysis.linear(node)
    if attributes is None or (linear is not None and linear.blocked):
        return None
    if all(analysis.constants.is_constant(value) for value in node.inputs if value is not None):
        return None
    inputs: list[Hashable] = []
    for value in node.inputs:
        if value is None or not analysis.constants.is_constant(value):
            inputs.append(None if value is None else values.get(value, value))
        else:
            kind = analysis.constants.dtype(value)
            shape = analysis.shape(value)
            inputs.append((str(kind), shape))
    outputs = tuple(bool(value.name) for value in node.outputs)
    return node.op_type, node.graph, tuple(sorted(attributes.items())), tuple(inputs), outputs


def _only_renames(analysis: Analysis, original: ir.Node, node: ir.Node) -> bool:
    """Whether an Identity would have to take the place of a cheap operator, as both are graph outputs."""
    pairs = zip(original.outputs, node.outputs, strict=True)
    both = any(ours.is_graph_output() and theirs.is_graph_output() for ours, theirs in pairs)
    return analysis.linear(node) is None and both


def _connected(first: Mapping[ir.Node, ir.Node]) -> list[list[ir.Node]]:
    """Duplicates in sets: one that reads another's output, or the same original's, is in the same set."""
    group: dict[ir.Node, list[ir.Node]] = {}
    for node, original in first.items():
        joined = [node]
        near = [value.producer() for value in node.inputs if value is not None]
        for other in (original, *(producer for producer in near if producer in first)):
            if other is not None and other in group and group[other] is not joined:
                other_group = group[other]
                joined, other_group = sorted((joined, other_group), key=len, reverse=True)
                joined += other_group
                group.update(dict.fromkeys(other_group, joined))
                for member in other_group:
                    group[first[member]] = joined
        group[node] = group[original] = joined
    return list({id(members): members for members in group.values()}.values())
