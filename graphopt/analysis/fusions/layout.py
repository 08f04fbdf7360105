"""Which values onnxruntime keeps in blocks of channels, and which change their layout on the way.

A convolution that has a blocked kernel makes a blocked value. Operators behind it hand the blocks on, are
computed within the convolution, or read a plain value again (`nchwc_transformer.cc`). What is said of a
convolution along a line holds for its twin of two axes, whose map has one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.fusions.convolutions import BLOCKED_ACTIVATIONS
from graphopt.analysis.fusions.fused import Fused, Fusions
from graphopt.analysis.operators import POOLS, is_standard
from graphopt.analysis.snapshot import Analysis

KEPT = frozenset({"Relu", "Sigmoid", "Tanh", "Gelu", "BatchNormalization", "Identity", "Dropout"})
"""Operators that hand on the blocks of what they read."""
KERNELS_KEPT = frozenset({"GELU", "SiLU"})
"""Fused kernels that do."""
SUMMED = frozenset({"Add", "Mul", "Sum"})
"""Operators that do where all that they read is blocked, and as large as what they make."""


class Layout:
    """The layout of values between some operators.

    Args:
        analysis: the snapshot.
        nodes: operators of one graph, in its order; what they read of others is plain, and what others read.
        channels: of values that are taken to have another number of them.

    Attributes:
        moved: the values that change their layout: each once a direction.
    """

    def __init__(
        self, analysis: Analysis, nodes: Sequence[ir.Node], channels: Mapping[ir.Value, int] | None = None
    ) -> None:
        self._analysis = analysis
        self._channels = channels or {}
        self._blocked: set[ir.Value] = set()
        self._into: dict[ir.Value, None] = {}
        self._out_of: dict[ir.Value, None] = {}
        inside, fusions = set(nodes), analysis.cached(Fusions)
        for node in nodes:
            kernel = fusions.of(node)
            if kernel is None:
                self._enter(node)
            elif node is kernel.nodes[0]:
                self._pass(kernel)
        for node in nodes:
            for value in node.outputs:
                if value.is_graph_output() or not inside.issuperset(analysis.consumers(value)):
                    self._read_plain(value)
        self.moved: tuple[ir.Value, ...] = (*self._into, *self._out_of)

    def _enter(self, node: ir.Node) -> None:
        x = node.inputs[0] if node.inputs else None
        if x is None or not is_standard(node):
            return
        if self._is_blocked_conv(node):
            linear = self._analysis.linear(node)
            assert linear is not None
            few = linear.group == 1 and (self._count(x, linear.in_channels) or 0) < time_model.BLOCK
            (self._read_plain if few else self._read_blocked)(x)
            self._blocked.add(node.outputs[0])
        elif node.op_type in POOLS and self._in_blocks(node.outputs[0]):
            self._read_blocked(x)
            self._blocked.add(node.outputs[0])
        elif self._hands_on(node):
            self._blocked.add(node.outputs[0])
        else:
            for value in node.inputs:
                if value is not None:
                    self._read_plain(value)

    def _pass(self, kernel: Fused) -> None:
        """A fused kernel, from its one map to what it makes."""
        made = {value for node in kernel.nodes for value in node.outputs}
        read = dict.fromkeys(v for node in kernel.nodes for v in node.inputs if v is not None)
        maps = [
            value for value in read if value not in made and not self._analysis.constants.is_constant(value)
        ]
        if kernel.kernel in KERNELS_KEPT and all(value in self._blocked for value in maps):
            ends = [v for v in made if not {*kernel.nodes}.issuperset(self._analysis.consumers(v))]
            self._blocked.update(ends)
            return
        for value in maps:
            self._read_plain(value)

    def _is_blocked_conv(self, node: ir.Node) -> bool:
        linear = self._analysis.linear(node) if node.op_type == "Conv" else None
        if linear is None:
            return False
        inside = self._count(node.inputs[0], linear.in_channels)
        out = self._count(node.outputs[0], linear.out_channels)
        if inside is None or out is None:
            return False
        group = inside if linear.depthwise else linear.group
        return time_model.blocked(out, inside // group, group)

    def _count(self, value: ir.Value | None, known: int | None) -> int | None:
        """The channels that a value is taken to have; those that are known of it where nothing is said."""
        return known if value is None else self._channels.get(value, known)

    def _hands_on(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if node.op_type in KEPT:
            return x in self._blocked
        maker = None if x is None else x.producer()
        if node.op_type in BLOCKED_ACTIVATIONS and maker is not None and x in self._blocked:
            return maker.op_type == "Conv" and self._analysis.sole_consumer(maker.outputs[0]) is node
        if node.op_type == "Mul" and self._scales(node):
            return True
        if not self._blocked.issuperset(v for v in node.inputs if v is not None):
            return False
        if node.op_type == "Concat":
            return node.attributes.get_int("axis", 0) == 1 and all(
                self._in_blocks(value) for value in node.inputs
            )
        shapes = {self._analysis.shape(value) for value in (*node.inputs, *node.outputs)}
        return node.op_type in SUMMED and len(shapes) == 1

    def _scales(self, node: ir.Node) -> bool:
        """Whether it is a Mul of a blocked value by a number a channel."""
        for value, other in (node.inputs, reversed(node.inputs)):
            if value not in self._blocked or not self._analysis.constants.is_constant(other):
                continue
            shape, whole = self._analysis.shape(other), self._analysis.shape(value)
            if shape is not None and whole is not None and len(shape) >= len(whole) - 1:
                channels = shape[len(shape) - len(whole) + 1]
                return channels == whole[1] and all(n in (1, whole[1]) for n in shape) and shape[-1] == 1
        return False

    def _in_blocks(self, value: ir.Value | None) -> bool:
        """Whether a map's channels are whole blocks."""
        shape = self._analysis.shape(value)
        channels = self._count(value, shape[1]) if shape and len(shape) > 2 else None
        return bool(channels and channels % time_model.BLOCK == 0)

    def _read_plain(self, value: ir.Value) -> None:
        if value in self._blocked:
            self._out_of[value] = None

    def _read_blocked(self, value: ir.Value) -> None:
        if value not in self._blocked:
            self._into[value] = None
