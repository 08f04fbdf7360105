"""What rewrites of functions in pieces share: their sites, and what another spelling costs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.channels import SOFTMAXES
from graphopt.analysis.operators import SUMS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.model.traversal import subgraphs
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.spelling.pieces.numbers import float_type, type_of
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True, slots=True)
class Pieces:
    """A function in pieces.

    Attributes:
        x: what it works on.
        nodes: its operators, the one that it is told by first.
        y: what it makes.
    """

    x: ir.Value
    nodes: tuple[ir.Node, ...]
    y: ir.Value

    @property
    def passes(self) -> int:
        """How many there are over the map in the other spelling."""
        return 1


STEEP = frozenset({"Log", "Pow", "Reciprocal", "Sqrt"})
"""Operators that may make much of a small change near 0."""
NORMALISED = SOFTMAXES | {"BatchNormalization", "InstanceNormalization", "LayerNormalization"}
"""Operators of which a small change of a few elements changes little."""
Found = TypeVar("Found", bound=Pieces)


class Spelling(ExactRewrite, Generic[Found]):
    """A function in pieces that is written in another way: a rewrite, by what is its own."""

    time_alone: ClassVar[bool] = True

    @abstractmethod
    def find(self, analysis: Analysis, node: ir.Node) -> Found | None:
        """The function that is told by a node; None where there is none, or it is written so already."""

    @abstractmethod
    def write(self, builder: Builder, found: Found, opset: int) -> str:
        """The function in the other spelling.

        Args:
            builder: takes its operators.
            found: the function in pieces.
            opset: of the model.

        Returns:
            The local name of what it makes.
        """

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each function in pieces."""
        for node in analysis.nodes.values():
            found = self.find(analysis, node)
            if found is not None:
                before, after = _costs(analysis, found)
                yield Candidate(self.name, site(analysis, found.nodes), before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The function in the other spelling."""
        found = self.find(analysis, analysis.nodes[candidate.site.nodes[0]])
        assert found is not None
        dtype = float_type(analysis, found.nodes) or type_of(analysis, found.x)
        assert dtype is not None
        builder = Builder(dtype)
        y = self.write(builder, found, analysis.opset)
        return builder.replacement({found.y.name or "": y})


def replaceable(analysis: Analysis, nodes: Sequence[ir.Node], x: ir.Value) -> bool:
    """Whether operators may make way for others that make as many axes as a value has.

    Args:
        analysis: the snapshot.
        nodes: the operators.
        x: the value.

    Returns:
        Whether they are of one graph, and no number that they read has more axes, as far as the value's are
        known.
    """
    rank = len(analysis.shape(x) or ())
    numbers = (analysis.constant(value) for node in nodes for value in node.inputs)
    if any(array is not None and array.ndim > rank for array in numbers):
        return False
    return all(node.graph is nodes[0].graph for node in nodes)


def relative(analysis: Analysis, value: ir.Value) -> bool:
    """Whether an operator may make much of a small change near 0 of a value, or of what is made of it.

    Args:
        analysis: the snapshot.
        value: the value.

    Returns:
        Whether there is one, before what is near to 0 is summed up with other things.
    """
    seen, pending = {value}, [value]
    while pending:
        near = pending.pop()
        for node in analysis.consumers(near):
            divides = node.op_type == "Div" and node.inputs[1] is near
            if divides or node.op_type in STEEP or not is_standard(node) or any(subgraphs(node)):
                return True
            made = () if node.op_type in SUMS | NORMALISED else node.outputs
            pending += [each for each in made if each not in seen]
            seen.update(made)
    return False


def _costs(analysis: Analysis, found: Pieces) -> tuple[Cost, Cost]:
    """What the operators cost, and the passes that take their place, of the same numbers."""
    before = analysis.cost(found.nodes)
    moved = max(analysis.cost([node]).activation_bytes for node in found.nodes)
    seconds = found.passes * time_model.seconds(0, 1, 1, 1, 2 * moved)
    return before, replace(before, activation_bytes=found.passes * moved, seconds=seconds)
