"""What each operator does to the channels of a map: the five kinds that channels can be taken from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attributes import ints, slice_ranges, taken
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import BROADCASTING, POOLS, REDUCTIONS, UNARY, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.model.traversal import topological
from graphopt.rewrites.patterns.common import attributes_of, is_inference_normalization, is_passthrough


@dataclass(frozen=True, slots=True)
class Lin:
    """A convolution or matrix product; `padded` when it may read zeros around its input."""

    linear: Linear
    padded: bool


@dataclass(frozen=True, slots=True)
class Own:
    """An operator on each channel by itself.

    Attributes:
        follows: the inputs that have the output's channels, by number.
        constants: the constant inputs with one entry a channel: input number → axis.
    """

    follows: tuple[int, ...]
    constants: Mapping[int, int] = field(default_factory=dict)

    def maps(self, node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
        """The inputs that have the output's channels, with their numbers."""
        for index in self.follows:
            value = node.inputs[index]
            assert value is not None
            yield index, value


@dataclass(frozen=True, slots=True)
class View:
    """A selection of channels: Slice, Gather or Split; for each output the input's channels in it."""

    parts: Mapping[ir.Value, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Cat:
    """A Concat along the channels."""

    values: tuple[ir.Value, ...]


@dataclass(frozen=True, slots=True)
class Flat:
    """A Flatten: each channel becomes so many features in a row."""

    factor: int


ChannelRole: TypeAlias = Lin | Own | View | Cat | Flat


class Roles:
    """The kinds of a model's operators.

    Attributes:
        axis: the axis of a value that holds its channels.
        whole: values from which no channel can be taken: inputs, outputs, what opaque operators make.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.axis: dict[ir.Value, int] = {}
        self.whole: set[ir.Value] = set()
        self._roles: dict[ir.Node, ChannelRole] = {}
        for graph in dict.fromkeys(node.graph for node in analysis.nodes.values()):
            assert isinstance(graph, ir.Graph)
            for node in topological(graph):
                role = self._role(node)
                if role is not None:
                    self._roles[node] = role
        for value in self.axis:
            if value.is_graph_output() or any(u.node.graph is not value.graph for u in value.uses()):
                self.whole.add(value)

    def get(self, node: ir.Node) -> ChannelRole | None:
        """The operator's kind; None for an opaque one."""
        return self._roles.get(node)

    def channels(self, value: ir.Value) -> int:
        """How many channels a value has."""
        shape = self.analysis.fixed_shape(value)
        assert shape is not None
        size = shape[self.axis[value]]
        assert size is not None
        return size

    def claim(self, value: ir.Value | None, axis: int) -> bool:
        """Whether a value's channels are on this axis; one that nobody asked about yet is whole."""
        shape = self.analysis.fixed_shape(value)
        if value is None or shape is None or not 0 <= axis < len(shape) or not shape[axis]:
            return False
        if value not in self.axis:
            self.axis[value] = axis
            if self.analysis.constant(value) is None:
                self.whole.add(value)
        return self.axis[value] == axis

    def _role(self, node: ir.Node) -> ChannelRole | None:
        if not is_standard(node) or not node.inputs or node.inputs[0] is None or not node.outputs:
            return None
        if self.analysis.constants.is_constant(node.outputs[0]):
            return None  # what reads it reads a constant, whatever computes that
        linear = self.analysis.linear(node)
        if linear is not None:
            return self._linear(linear)
        attributes = attributes_of(node)
        unread = all(not o.uses() and not o.is_graph_output() for o in node.outputs[1:])
        if attributes is None or (not unread and node.op_type != "Split"):
            return None
        rule = _RULES.get(node.op_type)
        if node.op_type in UNARY or is_passthrough(self.analysis, node):
            rule = _alike
        elif node.op_type in BROADCASTING:
            rule = _broadcasting
        found = None if rule is None else rule(self, node)
        if found is None:
            return None
        role, axis = found
        outputs = role.parts if isinstance(role, View) else node.outputs[:1]
        shapes = [self.analysis.fixed_shape(output) for output in outputs]
        if any(shape is None or len(shape) <= axis or not shape[axis] for shape in shapes):
            return None
        self.axis.update(dict.fromkeys(outputs, axis))
        return role

    def _linear(self, linear: Linear) -> ChannelRole | None:
        x, y = linear.node.inputs[0], linear.node.outputs[0]
        if linear.obstacle or not linear.in_channels or not linear.out_channels:
            return None
        if self.analysis.constant(x) is not None:
            return None
        before, after = self.analysis.fixed_shape(x), self.analysis.fixed_shape(y)
        if before is None or after is None or x in linear.node.inputs[1:]:
            return None
        if linear.op == "MatMul" and (len(before) < 2 or len(after) != len(before)):
            return None
        axis = len(before) - 1 if linear.op == "MatMul" else 1
        if (
            before[axis] != linear.in_channels
            or after[axis] != linear.out_channels
            or not self.claim(x, axis)
        ):
            return None
        self.axis[y] = axis
        return Lin(linear, linear.form.padded or linear.op == "ConvTranspose")


Found: TypeAlias = "tuple[ChannelRole, int] | None"


def _alike(roles: Roles, node: ir.Node) -> Found:
    """One input, one output, channels on the same axis."""
    x = node.inputs[0]
    return (Own((0,)), roles.axis[x]) if x in roles.axis else None


def _pool(roles: Roles, node: ir.Node) -> Found:
    return (Own((0,)), 1) if roles.claim(node.inputs[0], 1) else None


def _normalization(roles: Roles, node: ir.Node) -> Found:
    if not is_inference_normalization(roles.analysis, node) or not roles.claim(node.inputs[0], 1):
        return None
    if any(roles.analysis.constant(value) is None for value in node.inputs[1:5]):
        return None
    return Own((0,), dict.fromkeys(range(1, 5), 0)), 1


def _instance_normalization(roles: Roles, node: ir.Node) -> Found:
    """Each channel by its own mean and variance."""
    if any(roles.analysis.constant(value) is None for value in node.inputs[1:3]):
        return None
    return (Own((0,), {1: 0, 2: 0}), 1) if roles.claim(node.inputs[0], 1) else None


def _broadcasting(roles: Roles, node: ir.Node) -> Found:
    shape = roles.analysis.fixed_shape(node.outputs[0])
    known = [value for value in node.inputs if value in roles.axis]
    ranks = {value: len(roles.analysis.fixed_shape(value) or ()) for value in known}
    if shape is None or not known:
        return None
    first = known[0]
    axis = roles.axis[first] - ranks[first] + len(shape)
    follows, constants = [], {}
    for index, value in enumerate(node.inputs):
        given = roles.analysis.fixed_shape(value)
        if value is None:
            continue
        if given is None:
            return None
        place = axis - len(shape) + len(given)
        if place < 0 or given[place] == 1:
            continue
        if given[place] != shape[axis]:
            return None
        if roles.analysis.constant(value) is not None:
            constants[index] = place
        elif place != axis or not roles.claim(value, place):
            return None
        else:
            follows.append(index)
    return (Own(tuple(follows), constants), axis) if follows else None


def _reduction(roles: Roles, node: ir.Node) -> Found:
    axes = ints(node, "axes", 1, roles.analysis.constant)
    x = node.inputs[0]
    rank = len(roles.analysis.fixed_shape(x) or ())
    if not axes or x not in roles.axis or min(axis % rank for axis in axes) <= roles.axis[x]:
        return None
    return Own((0,)), roles.axis[x]


def _resize(roles: Roles, node: ir.Node) -> Found:
    """By factors, and not along the channels."""
    x = node.inputs[0]
    if x not in roles.axis or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    before, after = roles.analysis.fixed_shape(x), roles.analysis.fixed_shape(node.outputs[0])
    axis = roles.axis[x]
    if before is None or after is None or before[axis] != after[axis] or "axes" in node.attributes:
        return None
    return Own((0,)), axis


def _pad(roles: Roles, node: ir.Node) -> Found:
    x = node.inputs[0]
    if x not in roles.axis or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    amounts = ints(node, "pads", 1, roles.analysis.constant)
    if amounts is None:
        return None
    axis = roles.axis[x]
    return (Own((0,)), axis) if not amounts[axis] and not amounts[axis + len(amounts) // 2] else None


def _slice(roles: Roles, node: ir.Node) -> Found:
    x = node.inputs[0]
    shape, ranges = roles.analysis.fixed_shape(x), slice_ranges(node, roles.analysis.constant)
    if shape is None or ranges is None or x is None:
        return None
    ranges = {axis % len(shape): entry for axis, entry in ranges.items()}
    axis = roles.axis.get(x, 1)
    if axis not in ranges:
        return (Own((0,)), axis) if x in roles.axis else None
    if len(ranges) > 1 or not roles.claim(x, axis):
        return None
    return View({node.outputs[0]: np.array(taken(ranges[axis], roles.channels(x)), np.int64)}), axis


def _gather(roles: Roles, node: ir.Node) -> Found:
    x, index = node.inputs[0], roles.analysis.constant(node.inputs[1])
    shape = roles.analysis.fixed_shape(x)
    if shape is None or index is None or index.ndim != 1 or not index.size or not len(shape) or x is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    if (x not in roles.axis and axis != 1) or not roles.claim(x, axis):
        return None
    return View({node.outputs[0]: np.asarray(index, np.int64) % roles.channels(x)}), axis


def _split(roles: Roles, node: ir.Node) -> Found:
    x = node.inputs[0]
    shape = roles.analysis.fixed_shape(x)
    if shape is None or x is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    if (x not in roles.axis and axis != 1) or not roles.claim(x, axis):
        return None
    start, parts = 0, {}
    for output in node.outputs:
        part = roles.analysis.fixed_shape(output)
        size = None if part is None else part[axis]
        if size is None:
            return None
        parts[output] = np.arange(start, start + size)
        start += size
    return (View(parts), axis) if start == roles.channels(x) else None


def _concat(roles: Roles, node: ir.Node) -> Found:
    shape = roles.analysis.fixed_shape(node.outputs[0])
    axes = {roles.axis[value] for value in node.inputs if value in roles.axis}
    if shape is None or len(axes) > 1:
        return None
    along = node.attributes["axis"].as_int() % len(shape)
    axis = next(iter(axes), 1)
    values = [value for value in node.inputs if value is not None]
    if (not axes and along != 1) or not all(roles.claim(value, axis) for value in values):
        return None
    if along == axis:
        return Cat(tuple(values)), axis
    if any(roles.analysis.constant(value) is not None for value in values):
        return None
    return Own(tuple(range(len(values)))), axis


def _flatten(roles: Roles, node: ir.Node) -> Found:
    """[N, C, *sizes] → [N, C · sizes]."""
    x = node.inputs[0]
    before, after = roles.analysis.fixed_shape(x), roles.analysis.fixed_shape(node.outputs[0])
    if x not in roles.axis or roles.axis[x] != 1 or before is None or after is None or len(after) != 2:
        return None
    if len(before) < 3 or None in before[1:]:
        return None
    features = math.prod(size or 0 for size in before[1:])
    if after[1] != features or (node.op_type == "Flatten" and (node.attributes.get_int("axis") or 1) != 1):
        return None
    return Flat(math.prod(size or 0 for size in before[2:])), 1


_RULES: dict[str, Callable[[Roles, ir.Node], Found]] = {
    "BatchNormalization": _normalization,
    "InstanceNormalization": _instance_normalization,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Squeeze": _reduction,
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduction),
}


def constant_slice(
    array: npt.NDArray[np.generic], axis: int, index: Sequence[int] | npt.NDArray[np.int64]
) -> npt.NDArray[np.generic]:
    """The entries of a constant for some channels.

    Args:
        array: the constant.
        axis: its channel axis.
        index: the channels to take.

    Returns:
        The constant with so many channels.
    """
    return np.take(array, np.asarray(index, np.int64), axis=axis)
