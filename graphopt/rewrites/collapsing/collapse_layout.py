"""Collapse two linear operators that have only Transpose, Reshape, Flatten or a pixel shuffle in between.

What
    A pointwise operator is carried across operators that only move elements, to the linear operator on the
    other side, and becomes one with it. A Gemm that reads a flattened map is a convolution that covers the
    map; a convolution that reads the reshaped output of a Gemm is part of that Gemm.

        x ─ 1x1 (64→256) ─ Transpose ─ MatMul (256→64) ─ y     x ─ 1x1 (64→64) ─ Transpose ─ y
        x ─ 3x3 (64→256) ─ DepthToSpace 2 ─ 1x1 (64→3) ─ y     x ─ 3x3 (64→12) ─ DepthToSpace 2 ─ y
        x ─ 5x5 (64→256) ─ Flatten ─ Gemm (256·h·w→10) ─ y     x ─ (h+4)x(w+4) (64→10) ─ Flatten ─ y
        x ─ Gemm (16→64·h·w) ─ Reshape ─ 3x3 (64→8) ─ y        x ─ Gemm (16→8·h·w) ─ Reshape ─ y

Maths
    Pointwise: P(L(z)) = L'(P(z)), where L' moves the same elements with another number of channels, while
    the channels are an axis of their own on both sides. DepthToSpace makes C channels of b²·C, so in front of
    it P is block diagonal, kron(I_b², P) (mode CRD: kron(P, I_b²)); in front of SpaceToDepth likewise.
    Covering: flattening [C, h, w] numbers the weights of an h x w kernel in their own order.
    Gemm in front: each of its input features is an image behind the Reshape; the convolution of these images
    gives the weights of the one Gemm.
    A bias of the first that meets zero padding is added by border zones, as in `collapse`.

When it applies
    1. Both have constant weights of one type, and at least one of them is pointwise with stride 1 and one
       group (or one is a Gemm on the flattened map, or the first a Gemm whose output becomes a map).
    2. The axis of the channels is the same for every run, and all sizes that a new Reshape needs are known.
    3. The one operator has fewer MACs than what goes away. What others read stays, and is bypassed.

Exactness
    Exact. Kernels are composed in float64 and rounded once.

Cost
    MACs fall, or it is not done. The operators in between stay, on the new number of channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.operators import VIEWS
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.collapsing import layouts
from graphopt.rewrites.collapsing.layouts import Carried
from graphopt.rewrites.patterns import chains, composition
from graphopt.rewrites.patterns.border_map import add_map
from graphopt.rewrites.patterns.chains import Stage
from graphopt.rewrites.patterns.common import is_passthrough, site
from graphopt.rewrites.patterns.composition import Outline, WeightedOperator
from graphopt.types import Array, Candidate, Choice, Cost, Rejection, Replacement, Shape


@dataclass(frozen=True)
class CollapseLayout(ExactRewrite):
    """Collapses two linear operators that have only moves of elements in between."""

    name: ClassVar[str] = "collapse_layout"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each pair that pays in one of the ways, a rejection for each that does not."""
        for linear in analysis.linears:
            pair = _pair(analysis, chains.stage(analysis, linear))
            if pair is None:
                continue
            place = site(analysis, pair.nodes)
            text = f"{pair.first.name} → {linear.name}"
            reason = chains.refusal(analysis, [pair.first, pair.second])
            if reason:
                yield Rejection(self.name, place, f"{text}: {reason}")
                continue
            ways = [way for way in (make(analysis, pair) for make in WAYS) if way is not None]
            before = analysis.cost(pair.gone)
            costs = {way.name: _cost(analysis, pair, way) for way in ways}
            known = {name: cost for name, cost in costs.items() if cost.macs is not None}
            if not known or before.macs is None:
                reason = "neither can be carried across what is in between"
                yield Rejection(self.name, place, f"{text}: {reason}")
                continue
            name, after = min(known.items(), key=lambda item: item[1].macs or 0)
            assert after.macs is not None
            if after.macs < before.macs:
                yield Candidate(self.name, place, before, after, choice={"way": name})
            else:
                reason = f"one operator would cost {after.macs:,} MACs, not less than {before.macs:,}"
                yield Rejection(self.name, place, f"{text}: {reason}")

    def describe(self, choice: Choice) -> str:
        """Nothing: which of the ways it is says little."""
        return ""

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The one operator, and the operators in between on the new number of channels."""
        linear = anchor(analysis, candidate)
        pair = _pair(analysis, chains.stage(analysis, linear))
        assert pair is not None
        made = (make(analysis, pair) for make in WAYS)
        way = next(way for way in made if way is not None and way.name == candidate.choice["way"])
        builder = Builder(linear.dtype)
        return builder.replacement({pair.second.y.name or "": _add(builder, analysis, pair, way)})


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two linear operators and what is in between.

    Attributes:
        first: the operator in front.
        second: the operator behind.
        between: the nodes in between, the first first.
        sole: whether nothing else reads what is in between.
    """

    first: Stage
    second: Stage
    between: tuple[ir.Node, ...]
    sole: bool

    @property
    def nodes(self) -> list[ir.Node]:
        """All nodes, the second operator first."""
        return [*self.second.nodes, *reversed(self.between), *self.first.nodes]

    @property
    def gone(self) -> list[ir.Node]:
        """Those that go away."""
        return self.nodes if self.sole else list(self.second.nodes)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way of making one operator of two.

    Attributes:
        name: ``back``, ``forward``, ``cover`` or ``image``.
        outline: the operator's.
        carried: where the pointwise operator stands behind or in front of what is in between.
        axes: channel axes in front of and behind each node in between.
        sizes: spatial sizes of what the second reads, where a bias meets its padding.
    """

    name: str
    outline: Outline
    carried: Carried | None = None
    axes: tuple[tuple[int, int], ...] = ()
    sizes: tuple[int, ...] | None = None


def _pair(analysis: Analysis, second: Stage) -> _Pair | None:
    """The linear operator in front of the moves in front of this one; None where there is none."""
    value = second.linear.node.inputs[0]
    between: list[ir.Node] = []
    sole = True
    while value is not None and layouts.is_layout(analysis, value.producer()):
        node = value.producer()
        assert node is not None
        sole = sole and chains.sole(value)
        between.append(node)
        value = node.inputs[0]
    moves = [node for node in between if not is_passthrough(analysis, node)]
    if value is None or not moves or any(n.graph is not second.linear.node.graph for n in between):
        return None
    first, _ = chains.stage_before(analysis, value)
    if first is None or first.y is not value:
        return None
    return _Pair(first, second, tuple(reversed(between)), sole and chains.sole(value))


def _input_axis(linear: Linear) -> int | None:
    """The axis of the operator's input that holds the channels."""
    if linear.op == "MatMul":
        return None if linear.input_shape is None else len(linear.input_shape) - 1
    return 1


def _mixes_pixels_apart(linear: Linear) -> bool:
    """Whether the operator treats each position by itself and keeps all of them."""
    return composition.outline(linear).pointwise and not linear.form.strided and linear.group == 1


# ---------------------------------------------------------------- the ways


def _back(analysis: Analysis, pair: _Pair) -> _Way | None:
    """The second is pointwise and goes in front."""
    first, second = pair.first.linear, pair.second.linear
    axis, wanted = _input_axis(second), first.channel_axis
    if not _mixes_pixels_apart(second) or axis is None or wanted is None:
        return None
    carried = layouts.backward(analysis, tuple(reversed(pair.between)), axis)
    axes = layouts.axes_of(analysis, pair.between, wanted)
    if carried is None or carried.axis != wanted or axes is None or axes[-1][1] != axis:
        return None
    if not layouts.can_copy(analysis, pair.between, axes):
        return None
    joined = composition.join(composition.outline(first), _pointwise(first, second, carried.factor))
    return None if isinstance(joined, str) else _Way("back", joined, carried, tuple(axes))


def _forward(analysis: Analysis, pair: _Pair) -> _Way | None:
    """The first is pointwise and goes behind."""
    first, second = pair.first.linear, pair.second.linear
    axis, wanted = first.channel_axis, _input_axis(second)
    if not _mixes_pixels_apart(first) or axis is None or wanted is None:
        return None
    carried = layouts.forward(analysis, pair.between, axis)
    axes = layouts.axes_of(analysis, pair.between, axis)
    if carried is None or carried.axis != wanted or axes is None:
        return None
    if not layouts.can_copy(analysis, pair.between, axes):
        return None
    joined = composition.join(_pointwise(second, first, carried.factor), composition.outline(second))
    if isinstance(joined, str):
        return None
    sizes = None
    if composition.biased(pair.first.bias()) and not composition.outline(second).shifts_evenly:
        sizes = chains.fixed_sizes(analysis.fixed_shape(second.node.inputs[0]))
        if sizes is None or chains.affine_behind(analysis, pair.second):
            return None
    return _Way("forward", joined, carried, tuple(axes), sizes)


def _cover(analysis: Analysis, pair: _Pair) -> _Way | None:
    """The second is a Gemm on the flattened map of a convolution."""
    first, second = pair.first.linear, pair.second.linear
    sizes = chains.fixed_sizes(analysis.fixed_shape(pair.first.y))
    if not _flattens(analysis, pair) or not first.kernel or sizes is None or second.rank != 2:
        return None
    joined = composition.join(composition.outline(first), _covering(first, second, sizes))
    return None if isinstance(joined, str) else _Way("cover", joined, sizes=sizes)


def _image(analysis: Analysis, pair: _Pair) -> _Way | None:
    """The first is a Gemm whose output becomes the map that a convolution reads."""
    first, second = pair.first.linear, pair.second.linear
    shape = analysis.fixed_shape(second.node.inputs[0])
    written = analysis.fixed_shape(pair.second.y)
    if first.rank != 2 or first.op not in composition.FLAT or not second.kernel or shape is None:
        return None
    if written is None or None in shape[1:] or None in written[1:]:
        return None
    views = [node for node in pair.between if not is_passthrough(analysis, node)]
    elements = int(np.prod([n or 0 for n in shape[1:]]))
    if any(node.op_type not in VIEWS for node in views) or elements != first.out_channels:
        return None
    made = int(np.prod([n or 0 for n in written[1:]]))
    assert first.in_channels is not None
    return _Way("image", Outline(Form(first.op), (), first.in_channels, made))


WAYS = (_back, _forward, _cover, _image)


def _pointwise(like: Linear, linear: Linear, factor: int) -> Outline:
    """A pointwise operator with as many spatial axes as another one, on so many times the channels."""
    assert linear.in_channels is not None and linear.out_channels is not None
    form = like.form.pointwise()
    kernel = (1,) * len(like.kernel)
    return Outline(form, kernel, linear.in_channels * factor, linear.out_channels * factor)


def _flattens(analysis: Analysis, pair: _Pair) -> bool:
    """Whether what is in between turns [N, C, …] into [N, C·…]."""
    views = [node for node in pair.between if not is_passthrough(analysis, node)]
    shape = analysis.fixed_shape(pair.first.y)
    if any(node.op_type not in VIEWS for node in views) or shape is None or None in shape[1:]:
        return False
    return int(np.prod([n or 0 for n in shape[1:]])) == pair.second.linear.in_channels


def _covering(first: Linear, second: Linear, sizes: tuple[int, ...]) -> Outline:
    """The Gemm as a convolution that covers the map."""
    assert first.out_channels is not None and second.out_channels is not None
    axes = len(sizes)
    form = Form("Conv", 1, (1,) * axes, (0,) * 2 * axes, (1,) * axes)
    return Outline(form, sizes, first.out_channels, second.out_channels)


def _cost(analysis: Analysis, pair: _Pair, way: _Way) -> Cost:
    """What the one operator costs, and the moves as they are."""
    first, second = pair.first.linear, pair.second.linear
    shape: Shape | None = first.input_shape
    if way.name == "forward":
        shape = second.input_shape
        if shape is not None:
            axis = _input_axis(second) or 0
            shape = (*shape[:axis], way.outline.in_channels, *shape[axis + 1 :])
    cost = linear_cost(way.outline.form, way.outline.weight_shape, shape, second.itemsize)
    cost += analysis.cost([node for node in pair.between if not is_passthrough(analysis, node)])
    if way.name == "forward" and way.sizes is not None:
        cost += chains.pass_over(analysis.shape(pair.second.y), second.itemsize)
    return cost


# ---------------------------------------------------------------- what takes the place


def _add(builder: Builder, analysis: Analysis, pair: _Pair, way: _Way) -> str:
    """Adds what takes the second operator's place, and returns its local name."""
    first, second = pair.first.operator(), pair.second.operator()
    x = pair.first.linear.x
    if way.name == "image":
        return _add_image(builder, analysis, pair, way)
    if way.name == "cover":
        assert way.sizes is not None
        covering = _covering(pair.first.linear, pair.second.linear, way.sizes)
        one = composition.join_operators(
            first, WeightedOperator(covering, second.weight.reshape(covering.weight_shape), second.bias)
        )
        y = builder.linear(one.outline.form, x, one.weight, one.bias, rank=pair.first.linear.rank)
        return builder.node("Flatten", [y], {"axis": 1}, "/flatten")
    assert way.carried is not None
    if way.name == "back":
        carried = _carried(pair.first.linear, pair.second.linear, second, way.carried)
        one = composition.join_operators(first, carried)
        y = builder.linear(one.outline.form, x, one.weight, one.bias, rank=pair.first.linear.rank)
        return layouts.copy(builder, analysis, pair.between, way.axes, y, one.outline.out_channels)
    assert pair.first.linear.in_channels is not None
    carried = _carried(pair.second.linear, pair.first.linear, first, way.carried)
    moved = layouts.copy(builder, analysis, pair.between, way.axes, x, pair.first.linear.in_channels)
    one = composition.join_operators(carried, second)
    rank = pair.second.linear.rank
    if way.sizes is None:
        return builder.linear(one.outline.form, moved, one.weight, one.bias, rank=rank)
    zoned = composition.constant_term([carried, second], 0, way.sizes)
    return add_map(builder, builder.linear(one.outline.form, moved, one.weight, None, rank=rank), zoned)


def _carried(like: Linear, linear: Linear, operator: WeightedOperator, carried: Carried) -> WeightedOperator:
    """The pointwise operator where it stands on the other side."""
    outline = _pointwise(like, linear, carried.factor)
    matrix = carried.matrix(operator.weight.reshape(operator.weight.shape[:2]))
    return WeightedOperator(outline, matrix.reshape(outline.weight_shape), carried.vector(operator.bias))


def _add_image(builder: Builder, analysis: Analysis, pair: _Pair, way: _Way) -> str:
    """Adds the Gemm that makes the convolution's output, and the Reshape behind it."""
    first, second = pair.first.operator(), pair.second.operator()
    shape, written = analysis.fixed_shape(pair.second.linear.node.inputs[0]), analysis.shape(pair.second.y)
    assert shape is not None and written is not None
    sizes = [n or 0 for n in shape[1:]]
    zones = tuple(np.arange(n) for n in sizes[1:])

    def behind(image: Array, bias: Array | None) -> Array:
        zoned = composition.through(
            ZonedMap(image.reshape(sizes).astype(np.float64), zones), second._replace(bias=bias)
        )
        return zoned.expanded().reshape(-1)

    weight = np.stack([behind(column, None) for column in first.weight.T], axis=1)
    ours = np.zeros(first.outline.out_channels) if first.bias is None else first.bias
    y = builder.linear(way.outline.form, pair.first.linear.x, weight, behind(ours, second.bias), rank=2)
    target = builder.constant(np.array([-1, *(n or 0 for n in written[1:])], np.int64), "shape")
    return builder.node("Reshape", [y, target], {}, "/reshape")
