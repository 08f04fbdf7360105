"""What a convolution reads through resizings and a Concat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import is_passthrough
from graphopt.rewrites.patterns.pixelwise import dying, is_unary, operators_before, replay
from graphopt.rewrites.patterns.resized import Resize, resize_cost, resize_of
from graphopt.types import Cost, Shape

Wanted: TypeAlias = Callable[[Resize, ir.Value], str]
"""Why a resizing is not what a rewrite looks for, given the convolution's output; "" when it is."""


@dataclass(frozen=True, slots=True)
class ChannelRange:
    """A range of the input channels of a convolution, and where it comes from.

    Attributes:
        value: what the convolution, or the Concat in front of it, reads.
        start: the first of its channels.
        channels: how many.
        resize: the resizing that made it, if that is to be moved.
        chain: the operators behind that, first one first.
    """

    value: ir.Value
    start: int
    channels: int
    resize: Resize | None = None
    chain: tuple[ir.Node, ...] = ()


@dataclass(frozen=True, slots=True)
class ResizedInput:
    """What a convolution reads: parts that are resized in the same way, together, and the rest.

    Attributes:
        linear: the convolution.
        groups: resized parts, those of the same resizing together.
        plain: all other parts.
        concat: the Concat that joins them, if any.
        behind: operators between that and the convolution.
        missed: why a resizing in front of the convolution is left alone, by the Resize's node.
    """

    linear: Linear
    groups: tuple[tuple[ChannelRange, ...], ...]
    plain: tuple[ChannelRange, ...]
    concat: ir.Node | None
    behind: tuple[ir.Node, ...]
    missed: dict[ir.Node, str] = field(hash=False)

    @property
    def whole(self) -> bool:
        """Whether all that the convolution reads is resized in the same way."""
        return len(self.groups) == 1 and not self.plain

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes of the site, the convolution first."""
        found = [self.linear.node, *self.behind, *([] if self.concat is None else [self.concat])]
        for part in (part for group in self.groups for part in group):
            assert part.resize is not None
            found += [*part.chain, part.resize.node]
        return list(dict.fromkeys(found))

    @property
    def sizing(self) -> list[ir.Node]:
        """The nodes that compute the sizes, which stay."""
        resizes = [part.resize for group in self.groups for part in group]
        return list(dict.fromkeys(node for r in resizes if r is not None for node in r.sizing))

    def keeping(self, groups: Sequence[tuple[ChannelRange, ...]]) -> ResizedInput:
        """The same, in which only these groups are moved."""
        left = [part for group in self.groups if group not in groups for part in group]
        plain = [*self.plain, *(replace(part, resize=None, chain=()) for part in left)]
        return replace(self, groups=tuple(groups), plain=tuple(sorted(plain, key=lambda part: part.start)))

    def low_shape(self, analysis: Analysis, group: tuple[ChannelRange, ...]) -> Shape:
        """The shape of a group's maps before the resizing, all channels together."""
        assert group[0].resize is not None
        batch, _, *sizes = analysis.shape(group[0].resize.x) or ()
        return (batch, sum(part.channels for part in group), *sizes)

    def plain_shape(self) -> Shape:
        """The shape of the parts that are not moved, all channels together."""
        batch, _, *sizes = self.linear.input_shape or ()
        return (batch, sum(part.channels for part in self.plain), *sizes)

    def low(self, builder: Builder, group: tuple[ChannelRange, ...]) -> str:
        """Adds what makes a group's maps as they are before the resizing."""
        names = []
        for part in group:
            assert part.resize is not None
            names.append(replay(builder, part.chain, part.resize.y, part.resize.x.name or ""))
        return self._behind(builder, self._joined(builder, names))

    def rest(self, builder: Builder) -> str:
        """Adds what joins the parts that are not moved."""
        return self._behind(builder, self._joined(builder, [part.value.name or "" for part in self.plain]))

    def weight(self, builder: Builder, parts: tuple[ChannelRange, ...]) -> str | None:
        """Adds the weights that some parts meet; None when that is all of them."""
        linear = self.linear
        channels = [part.start + i for part in parts for i in range(part.channels)]
        if channels == list(range(linear.in_channels or 0)):
            return None
        if not linear.obstacle:
            return builder.constant(linear.weight()[:, channels], "weight")
        weight = linear.node.inputs[1]
        assert weight is not None
        taken = builder.constant(np.array(channels, np.int64), "channels")
        return builder.node("Gather", [weight.name, taken], {"axis": 1}, "/weight")

    def passing(self, analysis: Analysis) -> Cost:
        """The cost of what is not linear and goes away."""
        itemsize, cost = self.linear.itemsize, Cost(0)
        for node in dying(analysis, self.nodes):
            if node is not self.linear.node:
                cost += resize_cost(analysis, node, itemsize)
        return cost

    def _joined(self, builder: Builder, names: list[str]) -> str:
        return names[0] if len(names) == 1 else builder.node("Concat", names, {"axis": 1}, "/concat")

    def _behind(self, builder: Builder, x: str) -> str:
        value = self.concat.outputs[0] if self.concat is not None else self.linear.node.inputs[0]
        assert value is not None
        return replay(builder, self.behind, value, x)


def reading(analysis: Analysis, linear: Linear, wanted: Wanted) -> ResizedInput | None:
    """What a Conv reads through resizings that are wanted; None when there is no resizing at all.

    Args:
        analysis: the snapshot.
        linear: the convolution.
        wanted: whether a resizing is to be moved.

    Returns:
        The parts with what is resized in each, and why others stay as they are, or None.
    """
    x = linear.node.inputs[0]
    if linear.op != "Conv" or x is None or linear.in_channels is None:
        return None
    graph = linear.node.graph
    whole = _part(analysis, linear, x, 0, linear.in_channels, graph, wanted)
    if whole is not None:
        part, missed = whole
        group = ((part,),) if part.resize is not None else ()
        return ResizedInput(linear, group, () if group else (part,), None, (), missed)
    behind: list[ir.Node] = []
    node = x.producer()
    while node is not None and node.graph is graph and is_unary(analysis, node):
        behind.insert(0, node)
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.graph is not graph or node.op_type != "Concat" or not is_standard(node):
        return None
    rank = 2 + len(linear.kernel)
    if node.attributes.get_int("axis", 1) % rank != 1:
        return None
    mixes = any(not is_passthrough(analysis, each) for each in behind)
    return _through_concat(analysis, linear, node, tuple(behind), wanted, only_nearest=mixes)


def _through_concat(
    analysis: Analysis,
    linear: Linear,
    concat: ir.Node,
    behind: tuple[ir.Node, ...],
    wanted: Wanted,
    *,
    only_nearest: bool,
) -> ResizedInput | None:
    start, parts, missed = 0, [], {}
    for value in concat.inputs:
        shape = analysis.fixed_shape(value)
        channels = None if shape is None or len(shape) < 2 else shape[1]
        if value is None or channels is None:
            return None
        found = _part(analysis, linear, value, start, channels, linear.node.graph, wanted)
        part = ChannelRange(value, start, channels)
        if found is not None:
            part = found[0]
            missed.update(found[1])
            if only_nearest and part.resize is not None and not part.resize.nearest:
                missed[part.resize.node] = f"{analysis.name(behind[0])} behind it is not linear"
                part = ChannelRange(value, start, channels)
        parts.append(part)
        start += channels
    if start != linear.in_channels:
        return None
    groups: list[list[ChannelRange]] = []
    for part in parts:
        if part.resize is None:
            continue
        group = next((g for g in groups if _alike(analysis, g[0].resize, part.resize)), None)
        groups.append([part]) if group is None else group.append(part)
    if not groups and not missed:
        return None
    plain = tuple(part for part in parts if part.resize is None)
    return ResizedInput(linear, tuple(tuple(g) for g in groups), plain, concat, behind, missed)


def _part(
    analysis: Analysis,
    linear: Linear,
    value: ir.Value,
    start: int,
    channels: int,
    graph: object,
    wanted: Wanted,
) -> tuple[ChannelRange, dict[ir.Node, str]] | None:
    """The part that a value is; with the reason, when it comes from a resizing that is left alone."""
    y = linear.node.outputs[0]
    for mixing in (True, False):
        source, chain = operators_before(analysis, value, graph, mixing=mixing)
        resize = resize_of(analysis, source.producer())
        if resize is None or resize.node.graph is not graph:
            continue
        reason = resize.obstacle or wanted(resize, y)
        if not resize.nearest and not mixing:
            reason = reason or "what stands behind it does not commute with a mean of pixels"
        if reason:
            return ChannelRange(value, start, channels), {resize.node: reason}
        return ChannelRange(value, start, channels, resize, tuple(chain)), {}
    return None


def _alike(analysis: Analysis, first: Resize | None, second: Resize | None) -> bool:
    """Whether two resizings do the same to maps of the same size."""
    assert first is not None and second is not None
    one, other = first.node, second.node
    if one.op_type != other.op_type or not (first.grows and second.grows):
        return False
    mine, theirs = ({name: a.value for name, a in n.attributes.items()} for n in (one, other))
    if mine != theirs or len(one.inputs) != len(other.inputs):
        return False
    sizes, others = analysis.shape(first.x), analysis.shape(second.x)
    if sizes is None or others is None or (sizes[0], sizes[2:]) != (others[0], others[2:]):
        return False
    return all(_same(analysis, a, b) for a, b in zip(one.inputs[1:], other.inputs[1:], strict=True))


def _same(analysis: Analysis, a: ir.Value | None, b: ir.Value | None) -> bool:
    if a is b:
        return True
    one, other = analysis.constant(a), analysis.constant(b)
    return one is not None and other is not None and np.array_equal(one, other)
