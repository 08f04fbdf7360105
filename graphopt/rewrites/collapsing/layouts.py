"""Operators that only move elements, as a pointwise operator sees them that is carried across.

A pointwise operator mixes the elements along one axis, the channels. An operator that moves elements lets it
pass where that axis stays an axis of its own: Transpose; Reshape, Flatten, Squeeze and Unsqueeze that leave
it as it is; DepthToSpace backward and SpaceToDepth forward, where every channel becomes b² channels and the
matrix W becomes kron(I, W), or kron(W, I) in mode CRD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import BLOCKS, VIEWS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, is_passthrough
from graphopt.types import Array, Shape

LAYOUTS = VIEWS | BLOCKS | {"Transpose"}


class Carried(NamedTuple):
    """Where a pointwise operator stands on one side of operators that move elements.

    Attributes:
        axis: the axis that it mixes.
        copies: for each DepthToSpace or SpaceToDepth passed, the number of copies and whether they are inner.
    """

    axis: int
    copies: tuple[tuple[int, bool], ...] = ()

    @property
    def factor(self) -> int:
        """How many times more channels there are than where it came from."""
        return math.prod(number for number, _ in self.copies)

    def matrix(self, weight: Array) -> Array:
        """The weights [out, in] for all copies."""
        for number, inner in self.copies:
            identity = np.eye(number)
            weight = np.kron(weight, identity) if inner else np.kron(identity, weight)
        return weight

    def vector(self, bias: Array | None) -> Array | None:
        """The bias [out] for all copies."""
        for number, inner in self.copies:
            if bias is not None:
                bias = np.repeat(bias, number) if inner else np.tile(bias, number)
        return bias


def is_layout(analysis: Analysis, node: ir.Node | None) -> bool:
    """Whether the node only moves or renames elements."""
    if node is None or not is_standard(node):
        return False
    return node.op_type in LAYOUTS or is_passthrough(analysis, node)


def backward(analysis: Analysis, nodes: Sequence[ir.Node], axis: int) -> Carried | None:
    """Where an operator on an axis behind the nodes stands in front of them; None where it can't.

    Args:
        analysis: the snapshot.
        nodes: the nodes, the last first.
        axis: the axis behind them.

    Returns:
        The axis in front, or None.
    """
    carried: Carried | None = Carried(axis)
    for node in nodes:
        carried = _across(analysis, node, carried, back=True) if carried is not None else None
    return carried


def forward(analysis: Analysis, nodes: Sequence[ir.Node], axis: int) -> Carried | None:
    """Where an operator on an axis in front of the nodes, the first first, stands behind them.

    Args:
        analysis: the snapshot.
        nodes: the nodes, the first first.
        axis: the axis in front of them.

    Returns:
        The axis behind, or None where a node does not let it pass.
    """
    carried: Carried | None = Carried(axis)
    for node in nodes:
        carried = _across(analysis, node, carried, back=False) if carried is not None else None
    return carried


def _across(analysis: Analysis, node: ir.Node, carried: Carried, *, back: bool) -> Carried | None:
    if node.op_type == "Transpose":
        shape = analysis.shape(node.outputs[0])
        perm = _perm(node, len(shape) if shape is not None else None)
        if perm is None:
            return None
        return carried._replace(axis=perm[carried.axis] if back else perm.index(carried.axis))
    if node.op_type in BLOCKS:
        if carried.axis != 1 or (node.op_type == "DepthToSpace") != back:
            return None
        mode = node.attributes.get("mode")
        inner = node.op_type == "DepthToSpace" and mode is not None and mode.as_string() == "CRD"
        copies = (node.attributes.get_int("blocksize", 1) or 1) ** 2
        return carried._replace(copies=(*carried.copies, (copies, inner)))
    if node.op_type in VIEWS:
        axis = _view_axis(analysis, node, carried.axis, back=back)
        return None if axis is None else carried._replace(axis=axis)
    return carried


def _perm(node: ir.Node, rank: int | None) -> list[int] | None:
    attribute = node.attributes.get("perm")
    if attribute is not None:
        return list(attribute.as_ints())
    return None if rank is None else list(reversed(range(rank)))


def _view_axis(analysis: Analysis, node: ir.Node, axis: int, *, back: bool) -> int | None:
    """The axis on the other side that holds the same elements in the same order; None where none does."""
    source, target = node.inputs[0], node.outputs[0]
    here, there = (target, source) if back else (source, target)
    ours, theirs = analysis.fixed_shape(here), analysis.fixed_shape(there)
    if ours is None or theirs is None or axis >= len(ours) or (ours[axis] or 0) < 2:
        return None  # an axis of one element could be any of several
    for other, size in enumerate(theirs):
        if size != ours[axis]:
            continue
        if _same(ours[:axis], theirs[:other]) or _same(ours[axis + 1 :], theirs[other + 1 :]):
            return other
        if axis == other and _leads_alike(analysis, node, axis):
            return other
    return None


def _same(ours: Shape, theirs: Shape) -> bool:
    """Whether the sizes are known and of one product."""
    if None in ours or None in theirs:
        return False
    return math.prod(n or 0 for n in ours) == math.prod(n or 0 for n in theirs) != 0


def _leads_alike(analysis: Analysis, node: ir.Node, axis: int) -> bool:
    """Whether the axes in front of this one are the same on both sides, whatever their sizes."""
    if node.op_type == "Flatten":
        return axis == 1 and node.attributes.get_int("axis", 1) == 1
    if node.op_type != "Reshape" or node.attributes.get_int("allowzero", 0) != 0:
        return False
    target = analysis.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return target is not None and not np.any(target[:axis])


# ---------------------------------------------------------------- copies on other channels


def target_shape(
    analysis: Analysis, node: ir.Node, source: int, target: int, channels: int
) -> list[int] | None:
    """The shape to give a copy of a Reshape whose channel axis has another size; None where there is none.

    Args:
        analysis: the snapshot.
        node: the Reshape.
        source: its channel axis in front.
        target: its channel axis behind.
        channels: the new size.

    Returns:
        Sizes, −1 for one that follows from the others, or None.
    """
    shape = analysis.fixed_shape(node.outputs[0])
    if shape is not None and sum(size is None for size in shape) <= 1 and 0 not in shape:
        sizes = [-1 if size is None else size for size in shape]
        sizes[target] = channels
        return sizes
    constant = analysis.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if constant is None or node.attributes.get_int("allowzero", 0) != 0:
        return None
    sizes = [int(size) for size in constant]
    if any(size == 0 and i == source and i != target for i, size in enumerate(sizes)):
        return None
    sizes[target] = channels
    return sizes


def can_copy(analysis: Analysis, nodes: Sequence[ir.Node], axes: Sequence[tuple[int, int]]) -> bool:
    """Whether the nodes can be put on another number of channels; `axes` as for `copy`.

    Args:
        analysis: the snapshot.
        nodes: the nodes.
        axes: for each node its channel axis in front and behind.

    Returns:
        False where one depends on the number.
    """
    for node, (source, target) in zip(nodes, axes, strict=True):
        if node.op_type == "Squeeze" and len(node.inputs) < 2 and "axes" not in node.attributes:
            return False  # it would drop a single new channel
        if node.op_type == "Reshape" and target_shape(analysis, node, source, target, 1) is None:
            return False
        if attributes_of(node) is None:
            return False
    return True


def copy(
    builder: Builder,
    analysis: Analysis,
    nodes: Sequence[ir.Node],
    axes: Sequence[tuple[int, int]],
    x: str,
    channels: int,
) -> str:
    """Adds copies of the nodes, the first first, on x with so many channels; returns the last's local name.

    Args:
        builder: what collects them.
        analysis: the snapshot.
        nodes: the nodes.
        axes: for each node its channel axis in front and behind.
        x: what the first one reads.
        channels: channels of x.

    Returns:
        The last copy's local name; `x` where nothing had to be copied.
    """
    for number, (node, (source, target)) in enumerate(zip(nodes, axes, strict=True)):
        if is_passthrough(analysis, node):
            continue
        attributes = dict(attributes_of(node) or {})
        inputs: list[str | None] = [x, *(None if v is None else v.name for v in node.inputs[1:])]
        if node.op_type in BLOCKS:
            copies = (node.attributes.get_int("blocksize", 1) or 1) ** 2
            channels = channels // copies if node.op_type == "DepthToSpace" else channels * copies
        if node.op_type == "Reshape":
            sizes = target_shape(analysis, node, source, target, channels)
            assert sizes is not None
            inputs = [x, builder.constant(np.array(sizes, np.int64), "shape")]
            attributes = {}
        x = builder.node(node.op_type, inputs, attributes, f"/layout{number}")
    return x


def axes_of(analysis: Analysis, nodes: Sequence[ir.Node], axis: int) -> list[tuple[int, int]] | None:
    """For each node, the first first, the channel axis in front and behind, from the one in front of all.

    None where one does not let the axis pass. DepthToSpace and SpaceToDepth keep axis 1.

    Args:
        analysis: the snapshot.
        nodes: the nodes, the first first.
        axis: the channel axis in front of all.

    Returns:
        A pair for each node, or None.
    """
    found = []
    for node in nodes:
        if node.op_type in BLOCKS:
            if axis != 1:
                return None
            found.append((1, 1))
            continue
        carried = forward(analysis, [node], axis)
        if carried is None:
            return None
        found.append((axis, carried.axis))
        axis = carried.axis
    return found
