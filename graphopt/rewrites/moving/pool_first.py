"""Pool before the convolution instead of behind it.

What
    A convolution whose output is averaged by an AveragePool, a GlobalAveragePool or a ReduceMean is moved
    behind the average, where there are fewer positions.

        x ─ 1x1 ─ AveragePool(2x2, stride 2) ─ y     x ─ AveragePool(2x2, stride 2) ─ 1x1 ─ y
        x ─ 3x3 ─ AveragePool(2x2, stride 2) ─ y     x ─ AveragePool(2x2, stride 1) ─ 3x3, stride 2 ─ y
        x ─ 3x3 ─ GlobalAveragePool ─ y              x ─ the 3·3 means that its taps see ─ 3x3 ─ y

Maths
    An average is Σ_j a_j · y[q·s₂ + j], and y[p] = b + Σ_t W_t x[p·s₁ + t·d]. Both sums change places:
    b · Σ_j a_j + Σ_t W_t (Σ_j a_j x[q·s₁s₂ + j·s₁ + t·d]). The inner sum is the average of x on a window
    that starts anywhere, so one average of x at stride 1 (or at the greatest common divisor of s₁s₂ and d)
    serves all taps; the convolution then has stride s₁s₂. A pointwise convolution has one tap: the very same
    average does. Over a whole axis, tap t averages the positions that it meets: k means an axis, on which a
    convolution without padding gives one position. 3x3 on n·n positions: 9 products a channel pair, not 9n².

When it applies
    1. The weights may be anything, also computed at run time. Nobody else reads the convolution's output.
    2. BatchNormalization and per-channel Mul, Add, Sub, Div and Neg may stand in between, where the average's
       weights sum to 1.
    3. With a bias, Σ_j a_j has to be 1. With count_include_pad=1 it is less at the border: the bias is then
       added times the part of each window that lands, a constant or, at open sizes, the average of ones.
    4. A convolution of more than one tap, or with padding, needs a pooling without pads: beyond its output
       the pooling reads zeros, where the convolution would not be zero.
    5. Where sizes are open, no run pools a map to nothing, nor, at several taps, one that is smaller than the
       window.
    6. ReduceMean leaves the channels alone; ReduceSum moves past a 1x1 without bias, and both past a MatMul.

Exactness
    Exact: sums change their order.

Cost
    MACs fall by as much as positions do. A window at stride 1 has as many outputs as x, each a few additions.
    Over whole axes of open size it takes an operator or more for each tap: it has to be faster on a small map
    too, where that counts most.

References:
    DenseNet's transitions (Huang et al. 2017, arXiv 1608.06993, section 3) are 1x1 → AveragePool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import default_opset
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.moving.pool_taps import box, box_dilations, box_form, box_shape, whole, whole_form
from graphopt.rewrites.moving.pooling import Pool, PoolWindow, pool_of
from graphopt.rewrites.patterns.chains import no_image, ones_like, pass_over
from graphopt.rewrites.patterns.common import (
    UNKNOWN,
    attributes_of,
    cheaper,
    is_passthrough,
    propose,
)
from graphopt.rewrites.patterns.least_sizes import MAY_BE_EMPTY, LeastSizes
from graphopt.rewrites.patterns.pixelwise import dying, operators_before, pass_cost, replay, subsampled
from graphopt.types import Candidate, Cost, Float64, Rejection, Replacement, Shape

DILATED_POOLING = 19
"""The opset from which AveragePool has dilations."""
SMALL_MAP = 4
"""Pixels of the smallest likely map on an axis of open size: derived, of a patch of 64, the least usual size,
behind a stride of 16."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A pooling behind a linear operator.

    Attributes:
        pool: the pooling.
        linear: the linear operator.
        chain: the operators in between, first one first.
    """

    pool: Pool
    linear: Linear
    chain: tuple[ir.Node, ...]

    @property
    def shifts(self) -> bool:
        """Whether a constant is added in front of the pooling."""
        inputs = self.linear.node.inputs
        return (len(inputs) > 2 and inputs[2] is not None) or any(
            node.op_type not in ("Identity", "Dropout") for node in self.chain
        )

    @property
    def keeps_positions(self) -> bool:
        """Whether the linear operator reads one position, and never padding."""
        return self.linear.pointwise and not self.linear.form.padded

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes of the site, the pooling first."""
        return [self.pool.node, self.linear.node, *self.chain]


@dataclass(frozen=True)
class PoolFirst(ExactRewrite):
    """Pools before the convolution instead of behind it."""

    name: ClassVar[str] = "pool_first"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each pooling behind a linear operator."""
        for node in analysis.nodes.values():
            place = _place(analysis, node)
            if place is None:
                continue
            dearer = "{after:,} MACs behind the pooling, not less than the {before:,} saved"
            found = _refusal(analysis, place) or cheaper(_costs(analysis, place), dearer)
            if not isinstance(found, str):
                found = _on_small_maps(analysis, place, found)
            behind = "" if found == UNKNOWN else f" → {analysis.name(node)}"
            yield propose(self.name, analysis, place.nodes, place.linear.name + behind, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The average of the input, and the linear operator on it."""
        place = _place(analysis, analysis.nodes[candidate.site.nodes[0]])
        assert place is not None
        linear, pool = place.linear, place.pool
        builder = Builder(linear.dtype)
        if place.keeps_positions:
            y = _pointwise(analysis, builder, place)
        elif pool.window is not None:
            x = box(analysis, builder, linear, pool.window)
            y = builder.like(linear, box_form(linear, pool.window), x)
        else:
            x = whole(analysis, builder, linear, pool.axes)
            y = builder.like(linear, whole_form(linear, pool.axes), x)
        y = replay(builder, place.chain, linear.node.outputs[0], y)
        if not pool.keeps_axes:
            y = _without_axes(analysis, builder, y, pool.axes)
        return builder.replacement({pool.y.name or "": y})


def _place(analysis: Analysis, node: ir.Node) -> _Place | None:
    pool = pool_of(analysis, node)
    if pool is None:
        return None
    value, chain = operators_before(analysis, pool.x, node.graph, mixing=True)
    linear = analysis.linear(value.producer())
    if linear is None or linear.node.graph is not node.graph or linear.op == "Gemm":
        return None
    if linear.op == "MatMul" and not all(is_passthrough(analysis, link) for link in chain):
        return None
    return _Place(pool, linear, tuple(chain))


# ---------------------------------------------------------------- whether


def _refusal(analysis: Analysis, place: _Place) -> str:
    """Why the two may not change places, whatever it costs; "" when they may."""
    pool, linear = place.pool, place.linear
    if linear.blocked:
        return linear.blocked
    if linear.channel_axis is None or linear.channel_axis in pool.axes:
        return "it averages over the channels"
    if linear.op == "MatMul":
        weight = analysis.shape(linear.node.inputs[1])
        if pool.window is not None or weight is None or len(weight) != 2:
            return "only a mean over other axes moves past a product with one matrix"
    if linear.op == "ConvTranspose" and (not place.keeps_positions or linear.form.strided):
        return "it is a ConvTranspose of several taps or of a stride"
    if pool.sums and (place.shifts or not place.keeps_positions):
        return "a sum counts the bias, or the border, of every position"
    if pool.window is not None and analysis.cached(LeastSizes).may_be_empty(pool.y):
        return MAY_BE_EMPTY
    if not place.keeps_positions:
        return _why_not_taps(analysis, place)
    if pool.window is not None and _needs_border(analysis, place):
        return _why_no_map(analysis, place, pool.window)
    return ""


def _is_mean(analysis: Analysis, pool: Pool, window: PoolWindow) -> bool:
    """Whether the weights of each window sum to 1."""
    inside = window.plain and _fits(analysis, pool, window)
    return inside or (not window.counts_padding and window.always_lands())


def _fits(analysis: Analysis, pool: Pool, window: PoolWindow) -> bool:
    """Whether no run pools a map that is smaller than the window, of which the rest would hang over."""
    extents = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    least = analysis.cached(LeastSizes).of(pool.x)
    return all(size >= extent for size, extent in zip(least, extents, strict=True))


def _why_no_map(analysis: Analysis, place: _Place, window: PoolWindow) -> str:
    """Why the bias can't be added as a map; "" when it can."""
    if not window.counts_padding:
        return "a window may lie on padding alone"
    if any(node.op_type not in ("Identity", "Dropout") for node in place.chain):
        return "padding counts in its mean, and operators stand in between"
    reason = "" if _landing(analysis, place.pool, window) is not None else no_image(analysis, place.pool.x)
    return f"padding counts in its mean, and where that is can't be told: {reason}" if reason else ""


def _landing(analysis: Analysis, pool: Pool, window: PoolWindow) -> Float64 | None:
    """The part of each window that lands on the input, ``[*outputs]``, where that holds for every run."""
    sizes, outputs = _static_sizes(analysis, pool.x), _static_sizes(analysis, pool.y)
    return None if sizes is None or outputs is None else window.coverage(sizes, outputs)


def _why_not_taps(analysis: Analysis, place: _Place) -> str:
    """Why a convolution of several taps, or with padding, can't follow; "" when it can."""
    pool, form = place.pool, place.linear.form
    if place.linear.form.auto_pad:
        return "auto_pad=SAME with a stride, and the size is not static"
    if pool.window is None:
        if pool.axes[0] < 2:
            return "it averages over the batch too"
        needs_steps = any(form.strides[a - 2] != 1 for a in pool.axes)
        return (
            "its strides need Slice with steps, from opset 10"
            if needs_steps and default_opset(analysis.model) < 10
            else ""
        )
    if not pool.window.plain:
        return "its windows reach beyond the convolution's output (pads or ceil_mode)"
    if not _fits(analysis, pool, pool.window):
        return "the convolution's output may be smaller than its window, which then hangs over"
    dilated = any(d != 1 for d in box_dilations(place.linear, pool.window))
    if dilated and default_opset(analysis.model) < DILATED_POOLING:
        return f"it would need an AveragePool with dilations, which there is from opset {DILATED_POOLING}"
    return ""


def _static_sizes(analysis: Analysis, value: ir.Value | None) -> list[int] | None:
    """The spatial sizes that hold for every run."""
    shape = analysis.fixed_shape(value)
    sizes = None if shape is None else [size for size in shape[2:] if size is not None]
    return sizes if sizes is not None and shape is not None and len(sizes) == len(shape) - 2 else None


# ---------------------------------------------------------------- what it costs


def _costs(analysis: Analysis, place: _Place) -> tuple[Cost, Cost]:
    pool, linear = place.pool, place.linear
    unknown = Cost(None)
    read, middle, written = (
        linear.input_shape,
        analysis.shape(pool.x),
        _kept_shape(analysis, pool),
    )
    weight = analysis.shape(linear.node.inputs[1])
    if any(s is None or None in s for s in (read, middle, written, weight)):
        return unknown, unknown
    assert read is not None and middle is not None and written is not None
    gone = [node for node in dying(analysis, place.nodes) if node is not pool.node]
    before = analysis.cost(gone) + pass_cost(linear.itemsize, _size(middle), _size(written))
    channels, taps = linear.in_channels or 1, linear.kernel
    if linear.op == "MatMul":
        form, pooled = linear.form, (*written[:-1], channels)
    elif place.keeps_positions:
        form, pooled = _without_stride(linear.form), (written[0], channels, *written[2:])
    elif pool.window is not None:
        form, pooled = box_form(linear, pool.window), box_shape(linear, pool.window)
    else:
        form = whole_form(linear, pool.axes)
        sizes = tuple(taps[a - 2] if a in pool.axes else read[a] for a in range(2, len(read)))
        pooled = (read[0], channels, *sizes)
    window = math.prod(pool.window.kernel) if pool.window is not None else 1
    additions = max(_size(read), _size(pooled) * window)
    cost = linear_cost(form, _weight_shape(linear), pooled, linear.itemsize, linear.bias_elements > 0)
    kept = replace(cost, params=linear.params, weight_bytes=linear.params * linear.itemsize)
    after = kept + pass_cost(linear.itemsize, additions, _size(pooled))
    if place.keeps_positions and _needs_border(analysis, place):
        after += pass_over(written, linear.itemsize)
    return before, after


def _on_small_maps(analysis: Analysis, place: _Place, costs: tuple[Cost, Cost]) -> tuple[Cost, Cost]:
    """The costs, with the times on a small map where nobody gave the sizes: there least is saved."""
    linear, axes = place.linear, place.pool.axes
    small = _small(analysis, linear, axes)
    if small is None or place.keeps_positions or place.pool.window is not None:
        return costs
    biased, weight = linear.bias_elements > 0, _weight_shape(linear)
    taps = tuple(linear.kernel[a - 2] if a in axes else size for a, size in enumerate(small))
    once = linear_cost(linear.form, weight, small, linear.itemsize, biased)
    then = linear_cost(whole_form(linear, axes), weight, taps, linear.itemsize, biased)
    pooling = pass_cost(linear.itemsize, once.activation_bytes // linear.itemsize, 0)
    averages = pass_cost(linear.itemsize, _size(small), _size(taps))
    before, after = costs
    return (
        replace(before, seconds=once.seconds + pooling.seconds),
        replace(after, seconds=then.seconds + averages.seconds),
    )


def _small(analysis: Analysis, linear: Linear, axes: tuple[int, ...]) -> Shape | None:
    """The shape of a small map that a convolution may read; None where its size on these axes was given."""
    fixed, read = analysis.fixed_shape(linear.node.inputs[0]), linear.input_shape
    open_ = [axis for axis in axes if axis >= 2 and (fixed is None or fixed[axis] is None)]
    if not analysis.guessed or not open_ or read is None:
        return None
    small, form, count = list(read), linear.form, len(linear.kernel)
    for axis in open_:
        a = axis - 2
        extent = form.dilations[a] * (linear.kernel[a] - 1) + 1 - sum(form.pads[a::count])
        small[axis] = min(read[axis] or 0, max(SMALL_MAP, extent))
    return tuple(small)


def _size(shape: Shape) -> int:
    return math.prod(size or 0 for size in shape)


def _weight_shape(linear: Linear) -> tuple[int, ...]:
    return (linear.out_channels or 1, (linear.in_channels or 1) // linear.group, *linear.kernel)


def _kept_shape(analysis: Analysis, pool: Pool) -> Shape | None:
    """The pooling's output as it would be with all axes."""
    shape = analysis.shape(pool.x)
    if pool.window is not None:
        return analysis.shape(pool.y)
    return None if shape is None else tuple(1 if a in pool.axes else n for a, n in enumerate(shape))


# ---------------------------------------------------------------- a pointwise operator


def _without_stride(form: Form) -> Form:
    return replace(form, strides=(1,) * len(form.strides), dilations=(1,) * len(form.strides))


def _pointwise(analysis: Analysis, builder: Builder, place: _Place) -> str:
    """The very same pooling on the input, then the operator at stride 1, less what the border takes away.

    Without its bias; that is added times the part of each window that lands, which the pooling makes of ones.
    """
    pool, linear = place.pool, place.linear
    x = subsampled(analysis, builder, linear.x, linear.form.strides)
    given = attributes_of(pool.node) or {}
    if "keepdims" in given:
        given["keepdims"] = 1
    others = [None if value is None else value.name for value in pool.node.inputs[1:]]
    pooled = builder.node(pool.node.op_type, [x, *others], given, "/pool")
    if linear.op == "MatMul":
        weight = linear.node.inputs[1]
        assert weight is not None
        return builder.node("MatMul", [pooled, weight.name])
    form = _without_stride(linear.form)
    if not _needs_border(analysis, place):
        return builder.like(linear, form, pooled)
    assert pool.window is not None
    lands, axes = _landing(analysis, pool, pool.window), len(linear.kernel)
    if lands is not None:
        landed = builder.constant(lands[None, None], "lands")
    else:
        landed = builder.node("AveragePool", [ones_like(builder, x, axes)], given, "/border/pool")
    bias = linear.node.inputs[2]
    assert bias is not None
    column = builder.constant(np.array([1, -1, *(1,) * axes], np.int64), "column")
    per_channel = builder.node("Reshape", [bias.name, column], {}, "/bias")
    scaled = builder.node("Mul", [per_channel, landed], {}, "/border")
    y = builder.like(linear, form, pooled, bias=False)
    return builder.node("Add", [y, scaled], {}, "/shift")


def _needs_border(analysis: Analysis, place: _Place) -> bool:
    """Whether less of the bias comes out at the border, where padding counts in the mean."""
    window = place.pool.window
    return window is not None and place.shifts and not _is_mean(analysis, place.pool, window)


def _without_axes(analysis: Analysis, builder: Builder, y: str, axes: tuple[int, ...]) -> str:
    if default_opset(analysis.model) < 13:
        return builder.node("Squeeze", [y], {"axes": axes}, "/squeeze")
    return builder.node("Squeeze", [y, builder.constant(np.array(axes, np.int64), "axes")], {}, "/squeeze")
