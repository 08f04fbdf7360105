"""Connected operators behind convolutions that take another form together, and what crosses their borders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.fusions.fused import Fusions
from graphopt.analysis.operators import ARITHMETIC
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.patterns.common import joined, propose
from graphopt.types import Candidate, Cost, Rejection

Judge: TypeAlias = "Callable[[Analysis, Sequence[ir.Node]], str | tuple[Cost, Cost]]"
"""What a region costs before and after; or why it stays."""
FIRST_OPSET = 7
"""Opset from which on operands broadcast by their last axes."""
AXES_AS_INPUT = 13
"""Opset from which on Squeeze and Unsqueeze read their axes."""
BROADCAST = ARITHMETIC | {"Pow", "Max", "Min", "Sum", "PRelu"}
"""Operators on the elements in one place of all that they read."""
MAP_BYTES = 4
"""Of an element: derived, of float32."""


def judged(
    name: str, analysis: Analysis, nodes: Iterable[ir.Node], costs: Judge
) -> Iterator[Candidate | Rejection]:
    """Regions that gain; of one that does not, its parts between the convolutions that gain nothing alone.

    Args:
        name: the rewrite's.
        analysis: the snapshot.
        nodes: operators that have the other form, in the order of the model.
        costs: what a region costs.

    Returns:
        The candidates, and of the regions of which no part gains the reason.
    """
    for region in regions(analysis, nodes):
        whole = costs(analysis, region)
        if not isinstance(whole, str):
            yield propose(name, analysis, region, "", whole)
            continue
        convolutions = [node for node in region if analysis.linear(node) is not None]
        idle = {node for node in convolutions if isinstance(costs(analysis, [node]), str)}
        parts = regions(analysis, [node for node in region if node not in idle])
        found = [(part, costs(analysis, part)) for part in parts]
        taken = [(part, each) for part, each in found if not isinstance(each, str)]
        for part, each in taken:
            yield propose(name, analysis, part, "", each)
        if not taken:
            yield propose(name, analysis, region, analysis.name(region[0]), whole)


def regions(analysis: Analysis, nodes: Iterable[ir.Node]) -> list[list[ir.Node]]:
    """Operators that one reads of the other, behind convolutions, and whole fused kernels only.

    Args:
        analysis: the snapshot.
        nodes: those that may take part, in the order of the model.

    Returns:
        The regions.
    """
    kept = dict.fromkeys(nodes)
    for fused in analysis.cached(Fusions).kernels:
        if not kept.keys() >= {*fused.nodes}:
            for node in fused.nodes:
                kept.pop(node, None)
    behind: set[ir.Node | None] = set()
    graphs: dict[object, list[ir.Node]] = {}
    for node in kept:
        makers = (value.producer() for value in node.inputs if value is not None)
        if analysis.linear(node) is not None or not behind.isdisjoint(makers):
            behind.add(node)
            graphs.setdefault(node.graph, []).append(node)
    return [
        region
        for inside in graphs.values()
        for region in joined(inside, {value for node in inside for value in node.outputs})
    ]


def entering(analysis: Analysis, region: Sequence[ir.Node], rank: int) -> list[ir.Value]:
    """The maps that a region reads and does not make, each once.

    Args:
        analysis: the snapshot.
        region: its operators.
        rank: axes of a map.

    Returns:
        The values, in the order in which they are read.
    """
    made = {value for node in region for value in node.outputs}
    read = dict.fromkeys(v for node in region for v in node.inputs if v is not None and v not in made)
    return [
        value
        for value in read
        if len(analysis.shape(value) or ()) == rank and not analysis.constants.is_constant(value)
    ]


def leaving(analysis: Analysis, region: Sequence[ir.Node]) -> Iterator[tuple[ir.Node, ir.Value]]:
    """The values that others read than a region's operators, with what makes them."""
    inside = set(region)
    for node in region:
        for value in node.outputs:
            if value.is_graph_output() or not inside.issuperset(analysis.consumers(value)):
                yield node, value


def map_bytes(analysis: Analysis, value: ir.Value) -> int:
    """Bytes of a map at the sizes of the snapshot."""
    return MAP_BYTES * math.prod(n or 0 for n in analysis.shape(value) or ())
