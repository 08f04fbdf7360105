"""Chains of linear operators in a graph: who follows whom, and what the one operator of a part would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.operators import AFFINE, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import composition
from graphopt.rewrites.patterns.border_map import add_map
from graphopt.rewrites.patterns.common import (
    DISPUTED,
    is_inference_normalization,
    is_passthrough,
)
from graphopt.rewrites.patterns.composition import Outline, WeightedOperator
from graphopt.types import Array, Cost, Shape

MIN_OPSET_OF_EXPAND = 8
"""The first opset that has Expand."""


class Step(Protocol):
    """One operator of a chain: its outline, its weights, and its place in the graph."""

    @property
    def name(self) -> str:
        """The operator's name."""

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The operator, and what belongs to it."""

    @property
    def x(self) -> ir.Value:
        """What it reads."""

    @property
    def y(self) -> ir.Value:
        """What it makes."""

    def bias(self) -> Array | None:
        """The bias, [out] in float64, or None."""

    def outline(self) -> Outline:
        """The operator without its weights."""

    def operator(self) -> WeightedOperator:
        """The operator with its weights in float64."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A linear operator with what belongs to it.

    Attributes:
        linear: the operator.
        nodes: the operator, then the Add that is a MatMul's bias, where there is one.
        y: the value behind them.
        added: the constant of that Add.
        rows: the output channels that are meant, where a Split takes only those.
    """

    linear: Linear
    nodes: tuple[ir.Node, ...]
    y: ir.Value
    added: Array | None = None
    rows: slice | None = None

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.linear.name

    @property
    def x(self) -> ir.Value:
        """What it reads."""
        value = self.linear.node.inputs[0]
        assert value is not None
        return value

    def bias(self) -> Array | None:
        """The bias, [out] in float64, or None."""
        ours = self.linear.bias()
        bias = self.added if ours is None else ours if self.added is None else ours + self.added
        return bias if bias is None or self.rows is None else bias[self.rows]

    def outline(self) -> Outline:
        """The operator without its weights."""
        whole = composition.outline(self.linear)
        if self.rows is None:
            return whole
        return replace(whole, out_channels=self.rows.stop - self.rows.start)

    def operator(self) -> WeightedOperator:
        """The operator with its weights in float64."""
        weight = self.linear.weight()
        return WeightedOperator(
            self.outline(), weight if self.rows is None else weight[self.rows], self.bias()
        )


def stage(analysis: Analysis, linear: Linear) -> Stage:
    """The operator, and the Add behind it where that is the bias of a MatMul."""
    alone = Stage(linear, (linear.node,), linear.node.outputs[0])
    if linear.op != "MatMul" or linear.obstacle or linear.rank is None or linear.rank < 2:
        return alone
    reader = analysis.sole_consumer(alone.y)
    if reader is None or reader.op_type != "Add" or not is_standard(reader):
        return alone
    others = [value for value in reader.inputs if value is not alone.y]
    if (
        len(others) != 1
        or reader.graph is not linear.node.graph
        or not analysis.constants.is_constant(others[0])
    ):
        return alone
    shape = analysis.shape(others[0]) or ()
    if len(shape) > linear.rank or math.prod(n or 0 for n in shape) != (shape[-1] if shape else 1):
        return alone
    constant = analysis.constant(others[0])
    if constant is None or constant.size not in (1, linear.out_channels) or constant.dtype.kind not in "fV":
        return alone
    assert linear.out_channels is not None
    added = np.broadcast_to(constant.reshape(-1).astype(np.float64), (linear.out_channels,))
    return Stage(linear, (linear.node, reader), reader.outputs[0], added)


def stage_before(analysis: Analysis, value: ir.Value | None) -> tuple[Stage | None, list[ir.Node]]:
    """The stage that makes a value, and the nodes in between that hand it on unchanged, the last first."""
    between: list[ir.Node] = []
    while value is not None and (producer := value.producer()) is not None:
        if not is_passthrough(analysis, producer):
            break
        between.append(producer)
        value = producer.inputs[0]
    producer = value.producer() if value is not None else None
    linear = analysis.linear(producer)
    if linear is not None:
        return stage(analysis, linear), between
    if producer is not None and producer.op_type == "Add" and is_standard(producer):
        for each in producer.inputs:
            linear = analysis.linear(each.producer()) if each is not None else None
            found = stage(analysis, linear) if linear is not None else None
            if found is not None and found.y is value:
                return found, between
    return None, between


# ---------------------------------------------------------------- what the one operator is


def refusal(analysis: Analysis, stages: Sequence[Stage]) -> str:
    """Why none of the operators in a row may be read and replaced together; "" when they may."""
    last = stages[-1].linear
    for each in stages:
        if each.linear.node.graph is not last.node.graph:
            return "they are in different graphs"
        if each.linear.obstacle:
            return f"{each.name}: {each.linear.obstacle}"
        if each.linear.in_channels is None or each.linear.out_channels is None:
            return f"{each.name}: its channels are unknown"
        if each.linear.form.auto_pad:
            return f"{each.name}: the pads of its auto_pad depend on the size of its input, which is open"
        if each.linear.dtype != last.dtype:
            return f"their types differ ({each.linear.dtype}, {last.dtype})"
        if each.linear.op == "MatMul" and (each.linear.rank is None or each.linear.rank < 2):
            return f"the rank of the input of {each.name} is unknown or 1"
    return ""


def affine_behind(analysis: Analysis, last: Stage) -> str:
    """The name of the affine operator that alone reads the stage and folds into it; "" when there is none."""
    reader = analysis.sole_consumer(last.y)
    if reader is None or reader.op_type not in AFFINE or not is_standard(reader):
        return ""
    if reader.op_type == "BatchNormalization":
        return analysis.name(reader) if is_inference_normalization(analysis, reader) else ""
    others = [value for value in reader.inputs if value is not None and value is not last.y]
    sizes = [analysis.constants.size(value) for value in others]
    return analysis.name(reader) if sizes in ([1], [last.linear.out_channels]) else ""


@dataclass(frozen=True, slots=True)
class UnevenBias:
    """A bias that an operator behind it does not pass on evenly.

    Attributes:
        start: the operator that has it, by its place in the chain.
        later: the one that makes the border.
        sizes: spatial sizes of the output of the former; None where they do not hold for every run.
        ones: then the operator that makes the border from an image of ones.
    """

    start: int
    later: int
    sizes: tuple[int, ...] | None = None
    ones: Outline | None = None

    def zoned(self, operators: Sequence[WeightedOperator]) -> ZonedMap:
        """What the biases make of the chain's output, where sizes are known."""
        assert self.sizes is not None
        return composition.constant_term(operators, self.start, self.sizes)


def uneven_bias(analysis: Analysis, steps: Sequence[Step]) -> UnevenBias | str | None:
    """The bias of a chain that meets a border; None where there is none, or why it can't be kept apart."""
    outlines = [each.outline() for each in steps]
    found = composition.first_uneven(outlines, [each.bias() for each in steps])
    if found is None:
        return None
    start, later = found
    sizes = fixed_sizes(analysis.fixed_shape(steps[start].y))
    if sizes is not None:
        return UnevenBias(start, later, sizes)
    ones = composition.ones_outline(outlines, later)
    reason = no_image(analysis, steps[0].x) or (ones if isinstance(ones, str) else "")
    if reason or isinstance(ones, str):
        return (
            f"the bias of {steps[start].name} meets the border that {steps[later].name} makes, "
            f"the spatial sizes are open, and {reason}"
        )
    return UnevenBias(start, later, ones=ones)


def no_image(analysis: Analysis, x: ir.Value) -> str:
    """Why no image of ones can have the size of a map; "" when it can."""
    opset = analysis.model.opset_imports.get("", 0)
    if opset < MIN_OPSET_OF_EXPAND:
        return f"opset {opset} has no Expand"
    return DISPUTED if analysis.disputed(x) else ""


def border_cost(read: Shape | None, made: Shape | None, ones: Outline | None, itemsize: int) -> Cost:
    """What a bias costs that meets a border.

    Args:
        read: the shape of what the one operator reads.
        made: that of what it makes.
        ones: the operator that makes the border from an image of ones; None where a constant is added.
        itemsize: bytes of one number.

    Returns:
        The cost.
    """
    cost = pass_over(made, itemsize)
    if ones is None:
        return cost
    image = None if read is None else (1, 1, *read[2:])
    return cost + linear_cost(ones.form, ones.weight_shape, image, itemsize, bias=False)


@dataclass(frozen=True, slots=True)
class ChainSegment:
    """Operators in a row as one.

    Attributes:
        stages: the operators.
        outline: that of the one operator.
        uneven: the bias that meets a border; None where there is none.
        cost: what the one operator costs, with what its bias needs at borders.
    """

    stages: tuple[Stage, ...]
    outline: Outline
    uneven: UnevenBias | None
    cost: Cost


def part(analysis: Analysis, stages: Sequence[Stage], outline: Outline) -> ChainSegment | str:
    """The operators in a row as one with the given outline; or why the bias keeps them apart.

    Args:
        analysis: the snapshot.
        stages: the operators.
        outline: what they are together.

    Returns:
        The one operator and its cost with what its bias needs at borders, or the reason.
    """
    first = stages[0].linear
    cost = linear_cost(outline.form, outline.weight_shape, first.input_shape, first.itemsize)
    uneven = uneven_bias(analysis, stages)
    if isinstance(uneven, str):
        return uneven
    if uneven is not None:
        made = analysis.shape(stages[-1].y)
        cost += border_cost(first.input_shape, made, uneven.ones, first.itemsize)
    return ChainSegment(tuple(stages), outline, uneven, cost)


def joined_part(
    analysis: Analysis, stages: Sequence[Stage], outline: Outline | None = None
) -> ChainSegment | str:
    """The operators in a row as one; or why not.

    Args:
        analysis: the snapshot.
        stages: the operators.
        outline: that of all but the last, where it is known.

    Returns:
        The one operator and its cost, or the reason.
    """
    reason = refusal(analysis, stages)
    if reason:
        return reason
    if outline is None:
        outline = stages[0].outline()
        for each in stages[1:-1]:
            before = composition.join(outline, each.outline())
            if isinstance(before, str):
                return before
            outline = before
    joined = composition.join(outline, stages[-1].outline())
    if isinstance(joined, str):
        return joined
    found = part(analysis, stages, joined)
    if isinstance(found, str):
        return found
    if found.cost.macs is None or any(each.linear.macs is None for each in stages):
        return "their sizes are unknown"
    affine = affine_behind(analysis, stages[-1]) if found.uneven is not None else ""
    if affine:
        return f"{affine} folds into {stages[-1].name} first, which a border map would keep it from"
    return found


def add_part(builder: Builder, found: ChainSegment, x: str) -> str:
    """Adds the one operator, and what its bias needs at borders, and returns the output's local name.

    Args:
        builder: collects the nodes.
        found: the operators in a row.
        x: what the first reads.

    Returns:
        The output's local name.
    """
    operators = [each.operator() for each in found.stages]
    one = composition.joined(operators)
    rank = found.stages[-1].linear.rank
    if found.uneven is None:
        return builder.linear(one.outline.form, x, one.weight, one.bias, rank=rank)
    if found.uneven.sizes is not None:
        zoned = found.uneven.zoned(operators)
        if zoned.uniform:
            bias = zoned.values.reshape(zoned.values.shape[0], -1)[:, 0]
            return builder.linear(one.outline.form, x, one.weight, bias, rank=rank)
        y = builder.linear(one.outline.form, x, one.weight, None, rank=rank)
        return add_map(builder, y, zoned)
    ones = composition.ones_operator(operators, found.uneven.later)
    y = builder.linear(one.outline.form, x, one.weight, ones.bias, rank=rank)
    return add_border(builder, y, ones.outline.form, ones.weight, x)


def add_border(builder: Builder, y: str, form: Form, weight: Array, x: str) -> str:
    """Adds ``y + border``, where the border comes from one channel of ones of the size of x.

    Args:
        builder: collects the nodes.
        y: the map to add to.
        form: of the operator on ones.
        weight: its weights, ``[out, 1, *taps]``.
        x: the map whose size the ones have.

    Returns:
        The sum's local name.
    """
    image = ones_like(builder, x, axes=weight.ndim - 2)
    border = builder.linear(form, image, weight, None, name="/border")
    return builder.node("Add", [y, border], {}, "/border/add")


def ones_like(builder: Builder, x: str, axes: int) -> str:
    """One image with one channel of ones, as large as x.

    Args:
        builder: collects the nodes.
        x: a map, ``[batch, channels, *sizes]``.
        axes: its number of spatial axes.

    Returns:
        The image's local name.
    """
    shape = builder.node("Shape", [x], {}, "/border/shape")
    spatial = builder.constant(np.arange(2, 2 + axes, dtype=np.int64), "axes")
    sizes = builder.node("Gather", [shape, spatial], {"axis": 0}, "/border/sizes")
    single = builder.constant(np.ones(2, np.int64), "single")
    whole = builder.node("Concat", [single, sizes], {"axis": 0}, "/border/image")
    one = builder.constant(np.ones((1,) * (2 + axes)), "one")
    return builder.node("Expand", [one, whole], {}, "/border/ones")


def sole(value: ir.Value) -> bool:
    """Whether one operator reads the value, and no caller of the model."""
    return len({usage.node for usage in value.uses()}) == 1 and not value.is_graph_output()


def fixed_sizes(shape: Shape | None) -> tuple[int, ...] | None:
    """The spatial sizes, where all are known."""
    if shape is None or any(size is None for size in shape[2:]):
        return None
    return tuple(size for size in shape[2:] if size is not None)


def pass_over(shape: Shape | None, itemsize: int) -> Cost:
    """One elementwise operator with two inputs and an output of this shape."""
    size = itemsize * math.prod(n or 0 for n in shape) if shape is not None else 0
    return Cost(0, 0, 0, size, time_model.seconds(0, 1, 1, 1, 3 * size))
