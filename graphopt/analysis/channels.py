"""Where values have their channels: which axis numbers what differs in kind, and what is side by side on it.

A layer's outputs lie on one axis of what it makes; operators behind it keep that axis, move it, or lose it.
What a Concat lays side by side on it may be of another unit and magnitude, as boxes and scores are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.attributes import Content, ints
from graphopt.analysis.constants import default_opset
from graphopt.analysis.operators import ALIKE, BLOCKS, BROADCASTING, POOLS, REDUCTIONS, VIEWS, is_standard
from graphopt.model.traversal import topological
from graphopt.types import Shape

Shapes: TypeAlias = Callable[[ir.Value], "Shape | None"]

_SECOND = (
    POOLS
    | BLOCKS
    | {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "LpPool", "GlobalLpPool", "LRN"}
    | {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "Resize", "Upsample"}
    | {"GridSample", "MaxUnpool", "MaxRoiPool", "RoiAlign"}
)
"""Operators whose channels are the second axis of what they make."""
_LAST = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "LSTM", "GRU", "RNN", "Attention"})
"""Operators whose channels are its last."""
_NAMED = frozenset({"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "Hardmax"})
"""Operators that name the axis on which channels are worked on together."""
LAST_SINCE = 13
"""The opset since which a Softmax that names no axis means the last: derived, from its definition."""
_LIKE_FIRST = ALIKE | {"Identity", "Dropout", "Cast", "Split", "Slice", "Pad", "CumSum"}
"""Operators whose output has the axes of their first input."""
SOFTMAXES = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
BOUNDED = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
"""Operators that hide differences: whatever goes far enough, they make the same of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """Channels of a value that lie side by side, and are of one kind.

    Attributes:
        source: the value that holds just these, before they were laid beside others.
        start: the first of them on the channels' axis.
        stop: behind the last; None where sizes are not known, or for all of them.
    """

    source: ir.Value
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A value that stands for an output, or for a part of it, where models are compared.

    Attributes:
        value: what is looked at.
        axis: that holds its channels; None for a value that is one channel.
        common: whether all channels are of one unit, as probabilities are.
    """

    value: ir.Value
    axis: int | None
    common: bool = False

    @property
    def name(self) -> str:
        """The name of the value."""
        return self.value.name or ""


class Channels:
    """The axes of a model's values that hold channels.

    Args:
        model: the model; it is not changed.
        shape: tells the shape of a value, as far as it is known.
        content: tells what a value holds, where that is known.
        axes: of outputs, by name, where somebody knows better.
    """

    def __init__(
        self,
        model: ir.Model,
        shape: Shapes,
        content: Content,
        axes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._shape, self._content = shape, content
        self._opset = default_opset(model)
        self._axes: dict[ir.Value, int] = {}
        for node in topological(model.graph):
            if not is_standard(node):
                continue
            axis = self._made(node)
            if axis is not None:
                self._axes.update((value, axis) for value in node.outputs if self._fits(value, axis))
        for output in model.graph.outputs:
            axis = axes.get(output.name or "")
            if axis is not None:
                before = self.before_bounded(output)
                alike = shape(output) is not None and shape(before) == shape(output)
                self._axes.update(dict.fromkeys((output, before) if alike else (output,), axis))

    def axis(self, value: ir.Value) -> int | None:
        """The axis that holds the channels, counted from the front; None where there is no such axis.

        Where nothing tells it is the second; of three, the smaller of the last two, since there are more
        places than kinds of numbers as a rule.
        """
        shape = self._shape(value)
        if value in self._axes:
            return self._axes[value]
        if shape is None or len(shape) != 3:
            return 1 if shape is None or len(shape) > 1 else None
        sizes = [size if isinstance(size, int) else sys.maxsize for size in shape[1:]]
        return 2 if sizes[1] < sizes[0] else 1

    def parts(self, value: ir.Value) -> tuple[Part, ...]:
        """What lies side by side on the channels' axis of a value, in order; the value where it is one."""
        found: list[Part] = []
        start = 0
        for sources in self._laid(value):
            size = self._size(sources[0])
            if size is None:
                return (Part(value),)
            found.append(Part(sources[0], start, start + size))
            start += size
        return tuple(found) if len(found) > 1 else (Part(value),)

    def sources(self, value: ir.Value) -> tuple[ir.Value, ...]:
        """The values that lie side by side in a value, in order, also at several levels."""
        return tuple(source for sources in self._laid(value) for source in sources)

    def signals(self, value: ir.Value) -> tuple[Signal, ...]:
        """What to compare for a value: its parts, and what Softmax and Sigmoid at the end of them read."""
        found: dict[Signal, None] = {}
        for source in self.sources(value):
            before = self.before_bounded(source)
            found[Signal(before, self.axis(before))] = None
            if before is not source:
                found[Signal(source, self.axis(source), common=True)] = None
        return tuple(found)

    def before_bounded(self, value: ir.Value) -> ir.Value:
        """What a Softmax or Sigmoid behind which nothing but views stands reads; else the value itself."""
        inner = _through_moves(value)
        node = inner.producer()
        if node is None or node.op_type not in BOUNDED or not is_standard(node) or node.inputs[0] is None:
            return value
        return _through_moves(node.inputs[0])

    def _laid(self, value: ir.Value) -> list[tuple[ir.Value, ...]]:
        """What lies side by side on the channels' axis; each of it at all levels that lie on another one."""
        inner = self._same_channels(value)
        node, axis = inner.producer(), self.axis(inner)
        rank = len(self._shape(inner) or ())
        if node is None or node.op_type != "Concat" or not is_standard(node) or axis is None or not rank:
            return [(value,)]
        beside = node.attributes["axis"].as_int() % rank
        inputs = [v for v in node.inputs if v is not None]
        if beside == axis:
            return [each for v in inputs for each in self._laid(v)]
        levels = [self._laid(v) for v in inputs]
        sizes = {tuple(self._size(each[0]) for each in level) for level in levels}
        if len(sizes) > 1 or len(levels[0]) < 2:
            return [(value,)]
        return [tuple(v for each in part for v in each) for part in zip(*levels, strict=True)]

    def _same_channels(self, value: ir.Value) -> ir.Value:
        """The value that holds the same elements in another form, with as many channels."""
        while (node := value.producer()) is not None and node.op_type in {*VIEWS, "Transpose", "Identity"}:
            inner = node.inputs[0]
            if inner is None or self._size(inner) is None or self._size(inner) != self._size(value):
                break
            value = inner
        return value

    def _size(self, value: ir.Value) -> int | None:
        """How many channels a value has."""
        shape, axis = self._shape(value), self.axis(value)
        size = shape[axis] if shape is not None and axis is not None and axis < len(shape) else None
        return size if isinstance(size, int) else None

    def _fits(self, value: ir.Value, axis: int) -> bool:
        shape = self._shape(value)
        return shape is None or 0 <= axis < len(shape)

    # ------------------------------------------------------------ what operators do with it

    def _made(self, node: ir.Node) -> int | None:
        """The channels' axis of what an operator makes; None where it is not known."""
        kind = node.op_type
        if kind in _SECOND:
            return 1
        rank = self._rank(node.outputs[0])
        if kind in _LAST:
            return None if rank is None else rank - 1
        if kind in _NAMED:
            attribute = node.attributes.get("axis")
            named = attribute.as_int() if attribute is not None else self._default(kind)
            return named if named >= 0 else (None if rank is None else named + rank)
        if kind in BROADCASTING or kind == "Concat":
            return self._aligned(node, rank)
        first = node.inputs[0] if node.inputs else None
        axis = self._axes.get(first) if first is not None else None
        if first is None or axis is None:
            return None
        if kind in _LIKE_FIRST:
            return axis
        if kind == "Transpose":
            order = node.attributes.get("perm")
            perm = list(order.as_ints()) if order is not None else list(reversed(range(rank or 0)))
            return perm.index(axis) if axis in perm else None
        if kind in VIEWS:
            return self._viewed(first, node.outputs[0], axis)
        if kind in REDUCTIONS:
            return self._reduced(node, axis)
        return None

    def _default(self, kind: str) -> int:
        """The axis that an operator means that names none."""
        return 1 if kind in SOFTMAXES and self._opset < LAST_SINCE else -1

    def _aligned(self, node: ir.Node, rank: int | None) -> int | None:
        """That of the first operand whose axis is known, when all are aligned at their last axes."""
        for value in node.inputs:
            if value is not None and value in self._axes:
                own = self._rank(value)
                if node.op_type == "Concat" or own == rank:
                    return self._axes[value]
                if own is not None and rank is not None:
                    return self._axes[value] + rank - own
        return None

    def _viewed(self, read: ir.Value, made: ir.Value, axis: int) -> int | None:
        """Where an axis is in another form of the same elements: as large, and as many on one side of it."""
        ours, theirs = self._shape(read), self._shape(made)
        if ours is None or theirs is None or not isinstance(ours[axis], int) or ours[axis] == 1:
            return None
        for place, size in enumerate(theirs):
            if size != ours[axis]:
                continue
            if _product(ours[axis + 1 :]) == _product(theirs[place + 1 :]) is not None:
                return place
            if _product(ours[:axis]) == _product(theirs[:place]) is not None:
                return place
            if place == axis and len(theirs) > axis and _unknown(ours[:axis]) == _unknown(theirs[:place]):
                return place
        return None

    def _reduced(self, node: ir.Node, axis: int) -> int | None:
        """Where an axis is behind a reduction; None where it is one of those that are gone."""
        first = node.inputs[0]
        rank = None if first is None else self._rank(first)
        axes = ints(node, "axes", 1, self._content)
        if rank is None or axes is None:
            return None
        gone = {each % rank for each in axes}
        kept = node.attributes.get("keepdims")
        if kept is None or kept.as_int():
            return axis
        return None if axis in gone else axis - sum(each < axis for each in gone)

    def _rank(self, value: ir.Value) -> int | None:
        shape = self._shape(value)
        return None if shape is None else len(shape)


def _product(sizes: Shape) -> int | None:
    """The product of sizes that are all known."""
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None  # type: ignore[arg-type]


def _unknown(sizes: Shape) -> list[bool]:
    return [not isinstance(size, int) for size in sizes]


def _through_moves(value: ir.Value) -> ir.Value:
    """The value that holds the same elements, in another form or another order of axes."""
    while (node := value.producer()) is not None and node.op_type in {*VIEWS, "Transpose", "Identity"}:
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value
