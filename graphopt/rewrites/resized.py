"""One view of Resize and Upsample, and of what a convolution reads through them and a Concat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt import phases
from graphopt.analysis import Analysis
from graphopt.constants import default_opset
from graphopt.conv import Builder, Linear
from graphopt.core import Cost, Shape
from graphopt.rewrites.common import attributes_of, is_passthrough, is_standard
from graphopt.rewrites.pixelwise import dying, is_unary, operators_before, pass_cost, replay

RESIZE_OPS = frozenset({"Resize", "Upsample"})
MIXING_PASSES = 8
"""Times that a linear or cubic Resize takes longer than a copy of its output; nearest takes as long."""
Wanted: TypeAlias = Callable[["Resize", "ir.Value"], str]
"""Why a resizing is not what a rewrite looks for, given the convolution's output; "" when it is."""


@dataclass(frozen=True, slots=True)
class Resize:
    """A Resize or Upsample that leaves the channels alone.

    Attributes:
        node: the operator.
        x: its input.
        y: its output.
        nearest: whether it picks pixels; else it takes means whose weights sum to 1.
        repeats: how often it repeats each pixel per spatial axis, where it does just that; None otherwise.
        grows: whether every scale is known and at least 1, so that equal outputs come from equal inputs.
        obstacle: why it may not change places with anything; "" when it may.
    """

    node: ir.Node
    x: ir.Value
    y: ir.Value
    nearest: bool
    repeats: tuple[int, ...] | None
    grows: bool
    obstacle: str


    @property
    def passes(self) -> int:
        """How many copies of the output take as long."""
        return 1 if self.nearest else MIXING_PASSES


def resize_of(analysis: Analysis, node: ir.Node | None) -> Resize | None:
    """The view of an operator; None when it is neither Resize nor Upsample of something of known rank."""
    if node is None or node.op_type not in RESIZE_OPS or not is_standard(node):
        return None
    x, y = node.inputs[0], node.outputs[0]
    shape = analysis.shape(x)
    if x is None or shape is None or len(shape) < 3:
        return None
    mode = node.attributes.get_string("mode", "nearest") or "nearest"
    scales = _scales(analysis, node, len(shape))
    obstacle = _obstacle(analysis, node, scales)
    nearest = mode == "nearest"
    spatial = scales[2:]
    return Resize(
        node,
        x,
        y,
        nearest,
        _repeats(analysis, node, spatial) if nearest and not obstacle else None,
        all(scale is not None and scale >= 1 for scale in spatial) and _sizes(node) is None,
        obstacle,
    )


def _sizes(node: ir.Node) -> ir.Value | None:
    """The input that gives the output's size, rather than scales."""
    return node.inputs[3] if len(node.inputs) > 3 else None


def _transformation(node: ir.Node, opset: int) -> str:
    default = "half_pixel" if node.op_type == "Resize" and opset >= 11 else "asymmetric"
    return node.attributes.get_string("coordinate_transformation_mode", default) or default


def _scales(analysis: Analysis, node: ir.Node, rank: int) -> tuple[float | None, ...]:
    """The factor of each axis; None where it is not known to hold for every run."""
    axes = [axis % rank for axis in node.attributes.get_ints("axes", range(rank))]
    shape, output = analysis.fixed_shape(node.inputs[0]), analysis.fixed_shape(node.outputs[0])
    if _sizes(node) is not None:
        pairs = zip(shape or (None,) * rank, output or (None,) * rank, strict=True)
        factors = [None if a is None or b is None or a == 0 else b / a for a, b in pairs]
        return tuple(factor if axis in axes else 1.0 for axis, factor in enumerate(factors))
    if "scales" in node.attributes:  # Upsample up to opset 8
        return tuple(node.attributes["scales"].as_floats())
    place = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    given = _entries(analysis, node.inputs[place] if len(node.inputs) > place else None)
    named = dict(zip(axes, given, strict=False))
    return tuple(named.get(axis) if axis in axes else 1.0 for axis in range(rank))


def _entries(analysis: Analysis, value: ir.Value | None) -> list[float | None]:
    """The entries of a vector as far as they are constant: those of a Concat up to the first that is not."""
    array = analysis.constant(value)
    if array is not None:
        return [float(entry) for entry in np.asarray(array).reshape(-1)]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Concat" or not is_standard(producer):
        return []
    found: list[float | None] = []
    for part in producer.inputs:
        constant = analysis.constant(part)
        if constant is None:
            break
        found += [float(entry) for entry in np.asarray(constant).reshape(-1)]
    return found


def _obstacle(analysis: Analysis, node: ir.Node, scales: tuple[float | None, ...]) -> str:
    if _transformation(node, default_opset(analysis.model)) == "tf_crop_and_resize":
        return "tf_crop_and_resize puts a fixed value outside of its region"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "its keep_aspect_ratio_policy lets the sizes depend on each other"
    if scales[1] is None:
        return "it is not known that it leaves the channels alone"
    return "" if scales[1] == 1 else f"it scales the channels by {scales[1]:g}"


def _repeats(analysis: Analysis, node: ir.Node, scales: tuple[float | None, ...]) -> tuple[int, ...] | None:
    opset = default_opset(analysis.model)
    transformation = _transformation(node, opset)
    default = "round_prefer_floor" if node.op_type == "Resize" and opset >= 11 else "floor"
    nearest_mode = node.attributes.get_string("nearest_mode", default) or default
    factors = []
    for scale in scales:
        if scale is None or scale < 1 or scale != int(scale):
            return None
        if not phases.repeats(int(scale), transformation, nearest_mode):
            return None
        factors.append(int(scale))
    return tuple(factors)


def resized(analysis: Analysis, builder: Builder, resize: Resize, x: str, channels: int) -> str:
    """Adds the same resizing of another value with so many channels."""
    node, sizes = resize.node, _sizes(resize.node)
    rank = len(analysis.shape(resize.x) or ())
    axes = [axis % rank for axis in node.attributes.get_ints("axes", range(rank))]
    inputs = [x, *(None if value is None else value.name for value in node.inputs[1:])]
    if sizes is not None and 1 in axes:
        inputs[3] = _with_channels(analysis, builder, sizes, axes.index(1), channels)
    return builder.node(node.op_type, inputs, attributes_of(node), "/resize")


def _with_channels(
    analysis: Analysis, builder: Builder, sizes: ir.Value, place: int, channels: int
) -> str | None:
    """The sizes of a resizing with another number of channels."""
    constant = analysis.constant(sizes)
    if constant is not None:
        changed = np.array(constant).reshape(-1)
        if changed[place] == channels:
            return sizes.name
        changed[place] = channels
        return builder.constant(changed, "sizes")
    place_and_entry = [np.array([place], np.int64), np.array([channels], np.int64)]
    inputs = [sizes.name, *(builder.constant(array, "channels") for array in place_and_entry)]
    return builder.node("ScatterElements", inputs, {}, "/sizes")


# ---------------------------------------------------------------- what a convolution reads


@dataclass(frozen=True, slots=True)
class Part:
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
class Reading:
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
    groups: tuple[tuple[Part, ...], ...]
    plain: tuple[Part, ...]
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

    def keeping(self, groups: Sequence[tuple[Part, ...]]) -> Reading:
        """The same, in which only these groups are moved."""
        left = [part for group in self.groups if group not in groups for part in group]
        plain = [*self.plain, *(replace(part, resize=None, chain=()) for part in left)]
        return replace(self, groups=tuple(groups), plain=tuple(sorted(plain, key=lambda part: part.start)))

    def low_shape(self, analysis: Analysis, group: tuple[Part, ...]) -> Shape:
        """The shape of a group's maps before the resizing, all channels together."""
        assert group[0].resize is not None
        batch, _, *sizes = analysis.shape(group[0].resize.x) or ()
        return (batch, sum(part.channels for part in group), *sizes)

    def plain_shape(self) -> Shape:
        """The shape of the parts that are not moved, all channels together."""
        batch, _, *sizes = self.linear.input_shape or ()
        return (batch, sum(part.channels for part in self.plain), *sizes)

    def low(self, builder: Builder, group: tuple[Part, ...]) -> str:
        """Adds what makes a group's maps as they are before the resizing."""
        names = []
        for part in group:
            assert part.resize is not None
            names.append(replay(builder, part.chain, part.resize.y, part.resize.x.name or ""))
        return self._behind(builder, self._joined(builder, names))

    def rest(self, builder: Builder) -> str:
        """Adds what joins the parts that are not moved."""
        return self._behind(builder, self._joined(builder, [part.value.name or "" for part in self.plain]))

    def weight(self, builder: Builder, parts: tuple[Part, ...]) -> str | None:
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


def resize_cost(analysis: Analysis, node: ir.Node, itemsize: int) -> Cost:
    """The cost of an operator that computes no products."""
    size = elements(analysis.shape(node.outputs[0]))
    resize = resize_of(analysis, node)
    return pass_cost(itemsize, size * (1 if resize is None else resize.passes), size)


def elements(shape: Shape | None) -> int:
    """The elements of a shape, unknown sizes counting 0."""
    return int(np.prod([size or 0 for size in shape])) if shape is not None else 0


def reading(analysis: Analysis, linear: Linear, wanted: Wanted) -> Reading | None:
    """What a Conv reads through resizings that are wanted; None when there is no resizing at all.

    Args:
        analysis: the snapshot.
        linear: the convolution.
        wanted: whether a resizing is to be moved.
    """
    x = linear.node.inputs[0]
    if linear.op != "Conv" or x is None or linear.in_channels is None:
        return None
    graph = linear.node.graph
    whole = _part(analysis, linear, x, 0, linear.in_channels, graph, wanted)
    if whole is not None:
        part, missed = whole
        group = ((part,),) if part.resize is not None else ()
        return Reading(linear, group, () if group else (part,), None, (), missed)
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
) -> Reading | None:
    start, parts, missed = 0, [], {}
    for value in concat.inputs:
        shape = analysis.fixed_shape(value)
        channels = None if shape is None or len(shape) < 2 else shape[1]
        if value is None or channels is None:
            return None
        found = _part(analysis, linear, value, start, channels, linear.node.graph, wanted)
        part = Part(value, start, channels)
        if found is not None:
            part = found[0]
            missed.update(found[1])
            if only_nearest and part.resize is not None and not part.resize.nearest:
                missed[part.resize.node] = f"{analysis.name(behind[0])} behind it is not linear"
                part = Part(value, start, channels)
        parts.append(part)
        start += channels
    if start != linear.in_channels:
        return None
    groups: list[list[Part]] = []
    for part in parts:
        if part.resize is None:
            continue
        group = next((g for g in groups if _alike(analysis, g[0].resize, part.resize)), None)
        groups.append([part]) if group is None else group.append(part)
    if not groups and not missed:
        return None
    plain = tuple(part for part in parts if part.resize is None)
    return Reading(linear, tuple(tuple(g) for g in groups), plain, concat, behind, missed)


def _part(
    analysis: Analysis,
    linear: Linear,
    value: ir.Value,
    start: int,
    channels: int,
    graph: object,
    wanted: Wanted,
) -> tuple[Part, dict[ir.Node, str]] | None:
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
            return Part(value, start, channels), {resize.node: reason}
        return Part(value, start, channels, resize, tuple(chain)), {}
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
