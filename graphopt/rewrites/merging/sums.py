"""Nested sums: Add, Sub and Sum operators that nothing else reads, taken apart into terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder

SUMS = frozenset({"Add", "Sub", "Sum"})
MIN_OPSET_OF_BROADCAST = 8
"""The first opset whose Sum takes terms of different shapes."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A tree of additions and subtractions.

    Attributes:
        root: the operator that makes the result.
        nodes: all its operators, the root first.
        terms: sign and value of each leaf, in order.
        nary: whether a Sum is among the operators, and takes terms that broadcast as an Add does.
    """

    root: ir.Node
    nodes: tuple[ir.Node, ...]
    terms: tuple[tuple[int, ir.Value], ...]
    nary: bool

    @property
    def factors(self) -> dict[ir.Value, int]:
        """How often each value is added, less how often it is subtracted."""
        counts: Counter[ir.Value] = Counter()
        for sign, value in self.terms:
            counts[value] += sign
        return dict(counts)

    def owns(self, value: ir.Value) -> bool:
        """Whether nothing but the sum reads the value."""
        mine = set(self.nodes)
        return not value.is_graph_output() and all(usage.node in mine for usage in value.uses())

    def without(self, values: set[ir.Value]) -> list[tuple[int, str]]:
        """Sign and name of the terms that are not among the values."""
        return [(sign, value.name or "") for sign, value in self.terms if value not in values]


def sum_roots(analysis: Analysis) -> Iterator[ir.Node]:
    """The outermost operator of each sum."""
    for node in analysis.nodes.values():
        if _is_sum(node) and not _goes_on(node.outputs[0], node):
            yield node


def sum_at(analysis: Analysis, root: ir.Node) -> Sum:
    """The sum whose outermost operator this is."""
    nodes: list[ir.Node] = []
    terms: list[tuple[int, ir.Value]] = []
    pending = [(1, root)]
    while pending:
        sign, node = pending.pop()
        nodes.append(node)
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            own = -sign if node.op_type == "Sub" and index else sign
            below = value.producer()
            if below is not None and _is_sum(below) and _goes_on(value, below):
                pending.append((own, below))
            else:
                terms.append((own, value))
    nary = analysis.opset >= MIN_OPSET_OF_BROADCAST and any(node.op_type == "Sum" for node in nodes)
    return Sum(root, tuple(nodes), tuple(terms), nary)


def _is_sum(node: ir.Node) -> bool:
    return node.op_type in SUMS and is_standard(node)


def _goes_on(value: ir.Value, node: ir.Node) -> bool:
    """Whether another sum of the same graph, and nothing else, reads the value once."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return False
    return _is_sum(uses[0].node) and uses[0].node.graph is node.graph


def emit(builder: Builder, made: Sequence[str], rest: Sequence[tuple[int, str]], *, nary: bool) -> str:
    """Adds the operators of a sum.

    Args:
        builder: takes them.
        made: names of terms that are added; at least one.
        rest: sign and name of others.
        nary: whether more than two terms are added by one Sum.

    Returns:
        The result's name.
    """
    added = [*made, *(name for sign, name in rest if sign > 0)]
    if nary and len(added) > 2:
        y = builder.node("Sum", added, {}, "/sum")
    else:
        y = added[0]
        for other in added[1:]:
            y = builder.node("Add", [y, other], {}, "/sum")
    for sign, name in rest:
        if sign < 0:
            y = builder.node("Sub", [y, name], {}, "/sum")
    return y
