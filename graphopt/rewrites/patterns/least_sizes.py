"""The least sizes that the maps of a model have in any run, where their sizes are open.

A form that fails, or has another size, on a map of a few pixels may be taken where no run has such a map.
What runs tells: a convolution has at least one output, a pooling at least one input, and what reads a map may
need more of it. An input has at least one position along each axis. Sizes that nothing bounds may be 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial

import onnx_ir as ir

from graphopt.analysis.attributes import FAR, ints, slice_ranges
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import BROADCASTING, UNARY, WINDOWS, is_standard
from graphopt.analysis.shapes.runtime_rules import RUNTIME_RULES
from graphopt.analysis.shapes.windows import PoolShape
from graphopt.analysis.snapshot import Analysis
from graphopt.model.traversal import topological
from graphopt.rewrites.patterns.common import is_inference_normalization, is_passthrough
from graphopt.types import Shape

MAY_BE_EMPTY = "of a small map it leaves no pixel, on which no convolution would run"
"""Why a convolution does not move behind what makes a map smaller."""
GLOBAL_POOLINGS = frozenset({"GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"})


class LeastSizes:
    """Lower bounds of the spatial sizes of all values, over the runs that come to an end.

    Args:
        analysis: a snapshot of the model.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._needed: dict[ir.Value, list[int]] = {}
        self._least: dict[ir.Value, tuple[int, ...]] = {}
        graphs = [node.graph for node in analysis.nodes.values() if isinstance(node.graph, ir.Graph)]
        for graph in dict.fromkeys(graphs):
            nodes = topological(graph)
            for node in reversed(nodes):
                self._ask(node)
            for node in nodes:
                for value in node.outputs:
                    self._settle(value, self._made(node) if value is node.outputs[0] else None)

    def of(self, value: ir.Value | None) -> tuple[int, ...]:
        """The least size of each spatial axis; none where the rank is unknown."""
        if value is None:
            return ()
        if value not in self._least:
            self._settle(value, None)
        return self._least[value]

    def may_be_empty(self, value: ir.Value | None) -> bool:
        """Whether a run may have no position at all of the value."""
        return value is None or self._analysis.fixed_shape(value) is None or 0 in self.of(value)

    def _settle(self, value: ir.Value, made: Sequence[int] | None) -> None:
        shape = self._analysis.fixed_shape(value)
        axes = max(len(shape or ()) - 2, 0)
        bound = [int(value.is_graph_input())] * axes if made is None or len(made) != axes else made
        needed = self._needed.get(value, ())
        if len(needed) != axes:  # nobody needs anything, or its own rank is not known
            needed = [0] * axes
        sizes = zip((shape or ())[2:], bound, needed, strict=True)
        self._least[value] = tuple(max(low, need) if size is None else size for size, low, need in sizes)

    # ------------------------------------------------------------ what is needed, from the outputs up

    def _ask(self, node: ir.Node) -> None:
        if not is_standard(node) or not node.inputs or not node.outputs:
            return
        shape = self._analysis.fixed_shape(node.outputs[0])
        if shape is None or len(shape) < 3:
            return
        axes = len(shape) - 2
        wanted = self._needed.get(node.outputs[0], [0] * axes)
        linear, window = self._analysis.linear(node), _window(node)
        if linear is not None and linear.op == "Conv" and len(linear.kernel) == axes:
            self._need(node, node.inputs[0], _conv_needs(linear, wanted))
        elif window is not None and len(window.kernel) == axes:
            self._need(node, node.inputs[0], _pool_needs(window, wanted))
        elif node.op_type in GLOBAL_POOLINGS:
            self._need(node, node.inputs[0], [1] * axes)
        elif _keeps_positions(self._analysis, node):
            self._need(node, node.inputs[0], wanted)
        elif node.op_type == "Slice" and any(wanted) and self._grows(node):
            self._need(node, node.inputs[0], self._slice_needs(node, wanted))
        elif _joins_channels(node, len(shape)):
            for value in node.inputs:
                self._need(node, value, wanted)

    def _slice_needs(self, node: ir.Node, wanted: Sequence[int]) -> list[int]:
        needs, ranges = list(wanted), slice_ranges(node, self._analysis.constant) or {}
        for axis, (start, end, step) in ranges.items():
            place = axis % (2 + len(wanted)) - 2
            if place >= 0 and wanted[place]:
                needs[place] = start + (wanted[place] - 1) * step + 1 - min(end, 0)
        return needs

    def _need(self, node: ir.Node, value: ir.Value | None, wanted: Sequence[int]) -> None:
        if value is None or value.graph is not node.graph:  # a branch may not be taken
            return
        before = self._needed.get(value, [0] * len(wanted))
        if len(before) == len(wanted):
            self._needed[value] = [max(pair) for pair in zip(before, wanted, strict=True)]

    # ------------------------------------------------------------ what is made, from the inputs down

    def _made(self, node: ir.Node) -> Sequence[int] | None:
        if not is_standard(node) or not node.inputs or node.inputs[0] is None:
            return None
        given, linear = self.of(node.inputs[0]), self._analysis.linear(node)
        if linear is not None and linear.op in ("Conv", "ConvTranspose") and len(linear.kernel) == len(given):
            if linear.blocked:
                return [1] * len(given)
            return [max(1, size) for size in linear.form.output_sizes(given, linear.kernel)]
        if _keeps_positions(self._analysis, node):
            return given
        shape = self._analysis.fixed_shape(node.outputs[0])
        if shape is None:
            return None
        if node.op_type in BROADCASTING or _joins_channels(node, len(shape)):
            return self._together(node, shape)
        if node.op_type == "Pad":
            amounts = ints(node, "pads", 1, self._analysis.constant)
            chosen = len(node.inputs) > 3 and node.inputs[3] is not None
            if amounts is None or chosen or len(amounts) != 2 * len(shape):  # of all axes, in order
                return None
            pairs = zip(given, amounts[2:], amounts[len(shape) + 2 :], strict=False)
            return [max(size + begin + end, 0) for size, begin, end in pairs]
        return self._by_rule(node, given)

    def _by_rule(self, node: ir.Node, given: Sequence[int]) -> Sequence[int] | None:
        """What onnxruntime makes of the least input, where it makes no less of more."""
        rule, shape = RUNTIME_RULES.get(node.op_type), self._analysis.fixed_shape(node.inputs[0])
        if rule is None or shape is None or (node.op_type == "Slice" and not self._grows(node)):
            return None
        if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") not in ("", "stretch"):
            return None  # an axis gets the fewer positions, the more the other has
        second = node.inputs[1] if len(node.inputs) > 1 else None
        weight = self._analysis.fixed_shape(second)
        found = rule(node, (*shape[:2], *given), weight, self._analysis.constant)
        return None if found is None else [max(size or 0, 0) for size in found[2:]]

    def _grows(self, node: ir.Node) -> bool:
        """Whether a Slice takes no fewer positions of more."""
        ranges = slice_ranges(node, self._analysis.constant)
        return ranges is not None and all(
            start >= 0 and step > 0 and (end < 0 or end >= FAR) for start, end, step in ranges.values()
        )

    def _together(self, node: ir.Node, shape: Shape) -> Sequence[int]:
        """The largest of maps that are alike, or of one position; 0 where one may be empty."""
        each = [self.of(value) for value in node.inputs if value is not None]
        whole = [sizes for sizes in each if len(sizes) == len(shape) - 2]
        return [0 if 0 in sizes else max(sizes) for sizes in zip(*whole, strict=True)]


def _window(node: ir.Node) -> PoolShape | None:
    return PoolShape.of(node) if node.op_type in WINDOWS else None


def _keeps_positions(analysis: Analysis, node: ir.Node) -> bool:
    return (
        is_passthrough(analysis, node) or node.op_type in UNARY or is_inference_normalization(analysis, node)
    )


def _joins_channels(node: ir.Node, rank: int) -> bool:
    return node.op_type == "Concat" and node.attributes.get_int("axis", 1) % rank == 1


def _conv_needs(linear: Linear, wanted: Sequence[int]) -> list[int]:
    form, axes = linear.form, len(linear.kernel)
    if form.auto_pad or linear.blocked:
        return [1] * axes
    return [
        (max(wanted[a], 1) - 1) * form.strides[a]
        + form.dilations[a] * (linear.kernel[a] - 1)
        + 1
        - form.pads[a]
        - form.pads[a + axes]
        for a in range(axes)
    ]


def _pool_needs(window: PoolShape, wanted: Sequence[int]) -> list[int]:
    """The least size on each axis of which there are so many outputs, or 0: any less is refused."""
    needs = []
    for axis, count in enumerate(wanted):
        most = 1
        while window.axis_outputs(axis, most) < count:
            most *= 2
        sizes = range(most // 2 + 1, most + 1)
        needs.append(sizes[bisect_left(sizes, count, key=partial(window.axis_outputs, axis))])
    return needs
