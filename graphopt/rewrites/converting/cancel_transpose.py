"""Cancel Transposes against those before them, through what lies between; MatMul per pixel becomes a 1x1.

What
    A Transpose that is followed, behind elementwise operators and MatMuls over channels, by another one: the
    operators between work on the layout in front, and both Transposes go, or one is left for the two.

        x ─ Transpose(0,2,3,1) ─ MatMul(Wᵀ) ─ Add(b) ─ Transpose(0,3,1,2) ─ y        x ─ 1x1(W) ─ Add(b) ─ y
        x ─ Transpose(p) ─ Relu ─ Transpose(p⁻¹) ─ y                                 x ─ Relu ─ y

Maths
    With z = x transposed by p, axis i of z is axis p[i] of x; transposed by q again, axis i is axis p[q[i]]
    of x. An elementwise operator commutes with that; a constant operand, with ones put in front up to the
    rank, is transposed by p⁻¹. A MatMul by a matrix [c, o] on the last axis is a 1x1 convolution [o, c] where
    the last axis of z is axis 1 of x, and the first is the first.

When it applies
    1. Every way back from the second Transpose ends at Transposes of one permutation, or at constants.
    2. What lies between is read there only, or by further Transposes of the second permutation.
    3. Between lie elementwise operators, Concat and Softmax (their axis follows), and MatMuls by constants.
    4. The operators become fewer. Where the permutations don't cancel, one Transpose by p∘q stays.

Exactness
    Exact. Each output is computed from the same numbers.

Cost
    Same MACs; each Transpose less saves a copy of the activations. Operators become fewer each time, so there
    is an end.

References:
    Liu et al. 2022, "A ConvNet for the 2020s", whose blocks hold 1x1 convolutions as MatMuls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.operators import ELEMENTWISE, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, propose
from graphopt.types import Candidate, Cost, Rejection, Replacement

ALONG_AN_AXIS = frozenset({"Concat", "Softmax", "LogSoftmax"})
"""Operators that work along the axis that an attribute names."""
FIRST_SOFTMAX_OF_ONE_AXIS = 13
"""Opset from which on Softmax works along one axis, not along all from it on."""
LARGEST_REGION = 64
"""Operators between the Transposes beyond which nobody looks: derived, they are walked by recursion, which
Python ends at 1,000 calls, and each Transpose looks anew. Measured by benchmarks.thresholds: the Transposes
around 200 operators stay, with 1,000 they go, and the time is the same within the noise."""


@dataclass(frozen=True)
class CancelTranspose(ExactRewrite):
    """Cancels Transposes against those before them, through what lies between."""

    name: ClassVar[str] = "cancel_transpose"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each region between Transposes, at the first one behind it."""
        for node in analysis.nodes.values():
            if not _is_transpose(node):
                continue
            region = _BetweenTransposes.behind(analysis, node)
            if region is None:
                continue
            if region.problem or region.exits[0] is node:
                found = region.problem or region.costs(analysis)
                yield propose(self.name, analysis, [node, *region.nodes], analysis.name(node), found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The operators between, in the layout in front."""
        region = _BetweenTransposes.behind(analysis, analysis.nodes[candidate.site.nodes[0]])
        assert region is not None and not region.problem
        return region.built(analysis)


@dataclass(slots=True)
class _BetweenTransposes:
    """What lies between Transposes.

    Attributes:
        inner: the operators between, each after those that it reads.
        entries: the Transposes in front.
        exits: the Transposes behind, all of one permutation.
        problem: why the region stays as it is; "" when it need not.
    """

    inner: list[ir.Node] = field(default_factory=list)
    entries: list[ir.Node] = field(default_factory=list)
    exits: list[ir.Node] = field(default_factory=list)
    problem: str = ""

    @classmethod
    def behind(cls, analysis: Analysis, last: ir.Node) -> _BetweenTransposes | None:
        """The region in front of a Transpose; None where no Transpose is in front of it."""
        region = cls()
        source = last.inputs[0]
        if source is None or not region._gather(analysis, source, last.graph, set()) or not region.entries:
            return None
        permutations = {_permutation(analysis, entry) for entry in region.entries}
        if len(permutations) > 1 or None in permutations or _permutation(analysis, last) is None:
            return None
        region._find_exits(analysis, last)
        region.problem = region.problem or region._refusal(analysis)
        return region

    @property
    def nodes(self) -> list[ir.Node]:
        """All operators of the region but the first exit."""
        return [*self.exits[1:], *self.inner, *self.entries]

    def _gather(
        self, analysis: Analysis, value: ir.Value, graph: ir.Graph | ir.Function | None, seen: set[ir.Node]
    ) -> bool:
        """Whether all ways back from a value end at Transposes or constants; notes what lies on them."""
        if analysis.constants.is_constant(value):
            return True
        node = value.producer()
        if node is None or node.graph is not graph or len(seen) > LARGEST_REGION:
            return False
        if node in seen:
            return True
        seen.add(node)
        if _is_transpose(node):
            self.entries.append(node)
            return True
        if not _moves(analysis, node):
            return False
        operands = node.inputs[:1] if node.op_type == "MatMul" else node.inputs
        if not all(v is None or self._gather(analysis, v, graph, seen) for v in operands):
            return False
        self.inner.append(node)
        return True

    def _find_exits(self, analysis: Analysis, last: ir.Node) -> None:
        """Notes the Transposes that read the region, and what else does."""
        inside, wanted = set(self.inner), _permutation(analysis, last)
        found = {last: None}
        values: list[ir.Value | None] = [node.outputs[0] for node in self.inner] or [last.inputs[0]]
        for value in values:
            assert value is not None
            if value.is_graph_output() and self.inner:
                self.problem = f"{value.name}, which lies between, is an output of the graph"
            for reader in analysis.consumers(value):
                if _is_transpose(reader) and _permutation(analysis, reader) == wanted:
                    found[reader] = None
                elif reader not in inside and self.inner:
                    self.problem = f"{analysis.name(reader)} reads {value.name}, which lies between, too"
        self.exits = [node for node in found if node.graph is last.graph] if self.inner else [last]

    def _refusal(self, analysis: Analysis) -> str:
        front = self.front(analysis)
        for node in self.inner:
            if node.op_type == "MatMul":
                reason = _refuses_convolution(analysis.linear(node), front)
                if reason:
                    return reason
            for value in node.inputs:
                constant = analysis.constant(value) if node.op_type != "MatMul" else None
                if constant is not None and constant.ndim > len(front):
                    return f"the constant of {analysis.name(node)} raises the rank"
        if self._left(analysis) and not self._gone(analysis):
            return f"{analysis.name(self.entries[0])} is read elsewhere too, and does not cancel"
        return ""

    def front(self, analysis: Analysis) -> tuple[int, ...]:
        """The permutation of the Transposes in front."""
        permutation = _permutation(analysis, self.entries[0])
        assert permutation is not None
        return permutation

    def _left(self, analysis: Analysis) -> tuple[int, ...]:
        """The permutation that both make; () where they cancel."""
        front, back = self.front(analysis), _permutation(analysis, self.exits[0])
        assert back is not None
        both = tuple(front[i] for i in back)
        return () if both == tuple(range(len(both))) else both

    def _gone(self, analysis: Analysis) -> list[ir.Node]:
        """The Transposes in front that nothing else reads."""
        inside = {*self.inner, *self.exits}
        return [
            entry
            for entry in self.entries
            if not entry.outputs[0].is_graph_output()
            and inside.issuperset(analysis.consumers(entry.outputs[0]))
        ]

    def costs(self, analysis: Analysis) -> tuple[Cost, Cost]:
        """The cost of what goes away, and of what takes its place."""
        products = [node for node in self.inner if node.op_type == "MatMul"]
        before = analysis.cost([*self.exits, *self._gone(analysis), *products])
        after = analysis.cost(self.exits) if self._left(analysis) else Cost(0)
        for node in products:
            linear = analysis.linear(node)
            assert linear is not None and linear.input_shape is not None
            form, ones = _convolution(len(linear.input_shape) - 2)
            order = np.argsort(self.front(analysis))
            shape = tuple(linear.input_shape[i] for i in order)
            after += linear_cost(
                form,
                (linear.out_channels or 1, linear.in_channels or 1, *ones),
                shape,
                linear.itemsize,
                False,
            )
        return before, after

    def built(self, analysis: Analysis) -> Replacement:
        """The region in the layout in front."""
        front, left = self.front(analysis), self._left(analysis)
        linears = [linear for node in self.inner if (linear := analysis.linear(node)) is not None]
        builder = Builder(linears[0].dtype if linears else np.dtype(np.float64))
        names = {entry.outputs[0]: (entry.inputs[0].name or "") for entry in self.entries if entry.inputs[0]}
        for node in self.inner:
            names[node.outputs[0]] = _moved(analysis, node, builder, names, front)
        outputs = {}
        for leaving in self.exits:
            assert leaving.inputs[0] is not None
            y = names[leaving.inputs[0]]
            outputs[leaving.outputs[0].name or ""] = (
                builder.node("Transpose", [y], {"perm": left}) if left else y
            )
        return builder.replacement(outputs)


def _moved(
    analysis: Analysis,
    node: ir.Node,
    builder: Builder,
    names: Mapping[ir.Value, str],
    front: Sequence[int],
) -> str:
    """Adds one operator of the region in the other layout; returns its output's name."""
    linear = analysis.linear(node)
    if linear is not None and node.inputs[0] is not None:
        form, ones = _convolution(len(front) - 2)
        weight = linear.weight()
        return builder.linear(form, names[node.inputs[0]], weight.reshape(*weight.shape, *ones), None)
    inputs: list[str | None] = []
    for value in node.inputs:
        constant = analysis.constant(value) if value is not None and value not in names else None
        if constant is None or constant.size == 1:
            inputs.append(None if value is None else names.get(value) or value.name)
            continue
        wide = constant.reshape((1,) * (len(front) - constant.ndim) + constant.shape)
        inputs.append(builder.constant(wide.transpose(np.argsort(front)), "constant", keep_type=True))
    attributes = attributes_of(node) or {}
    if node.op_type in ALONG_AN_AXIS:
        attributes["axis"] = int(front[node.attributes.get_int("axis", -1) or 0])
    return builder.node(node.op_type, inputs, attributes, f"/{node.outputs[0].name}")


def _moves(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the operator can work on another layout."""
    if not is_standard(node) or len(node.outputs) != 1:
        return False
    if node.op_type in ("Softmax", "LogSoftmax"):
        opset = analysis.model.opset_imports.get("", 0)
        return opset >= FIRST_SOFTMAX_OF_ONE_AXIS
    if node.op_type == "MatMul":
        linear = analysis.linear(node)
        return linear is not None and not linear.obstacle
    if node.op_type not in ELEMENTWISE and node.op_type not in ALONG_AN_AXIS:
        return False
    return attributes_of(node) is not None


def _refuses_convolution(linear: Linear | None, front: Sequence[int]) -> str:
    """Why a MatMul in this layout is no 1x1 convolution; "" when it is."""
    assert linear is not None
    if len(front) < 3 or front[-1] != 1 or front[0] != 0:
        return f"the Transpose by {list(front)} does not put the channels behind the positions"
    if linear.macs is None or linear.input_shape is None or linear.in_channels is None:
        return f"the size of {linear.name} is unknown"
    return ""


def _convolution(axes: int) -> tuple[Form, tuple[int, ...]]:
    """The form of a 1x1 convolution, and its kernel."""
    return Form("Conv", 1, (1,) * axes, (0,) * 2 * axes, (1,) * axes), (1,) * axes


def _is_transpose(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and is_standard(node) and node.inputs[0] is not None


def _permutation(analysis: Analysis, node: ir.Node) -> tuple[int, ...] | None:
    """What the Transpose does; without an attribute it reverses the axes, if their number is known."""
    attribute = node.attributes.get("perm")
    if attribute is not None:
        return tuple(attribute.as_ints())
    shape = analysis.shape(node.inputs[0])
    return None if shape is None else tuple(reversed(range(len(shape))))
