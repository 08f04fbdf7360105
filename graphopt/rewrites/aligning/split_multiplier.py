"""Write a depthwise convolution with several filters a channel as several with one, each read by its part.

What
    onnxruntime has a blocked kernel for depthwise convolutions of one filter a channel, and none for more.

        x ─ depthwise 3x3 (32→64) ─ Relu ─ 1x1 (64→24) ─ y

        x ─┬─ depthwise 3x3 (32→32) ─ Relu ─ 1x1 (32→24) ─┬─ Add ─ y
           └─ depthwise 3x3 (32→32) ─ Relu ─ 1x1 (32→24) ─┘

Maths
    With m filters a channel, output m·c + j is filter j of channel c. What works on each channel by itself
    does so on all filters j = 0, …, m − 1 apart, and a dense convolution sums over channels:
    W y = Σⱼ W[:, j::m] y[j::m]. The bias goes to the first of the sum.

When it applies
    1. Weights are constant, float32, and the maps have two spatial axes.
    2. The channels that it reads have a blocked kernel one by one.
    3. What it makes is read by dense convolutions alone, at once or behind operators on each channel by
       itself: activations, poolings, arithmetic with constants and with each other.
    4. The static time model expects it to be faster.

Exactness
    Exact. Products are summed in another order.

Cost
    Same MACs and weights. The sums are computed in the convolutions. Measured in onnxruntime at one thread
    with AVX2, between two 1x1: 3x3 0.48 to 0.76 of the time, 5x5 0.35 to 0.40. No convolution with several
    filters a channel is left, so there is an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.aligning.channelwise import written
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.channel_roles import Own, Roles
from graphopt.rewrites.patterns.common import UNKNOWN, attributes_of, propose
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class SplitMultiplier(ExactRewrite):
    """Writes depthwise convolutions with several filters a channel as several with one."""

    name: ClassVar[str] = "split_multiplier"
    stage: ClassVar[Stage] = Stage.FINAL
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each such convolution, with what stands between it and its readers."""
        for linear in analysis.linears:
            if linear.op != "Conv" or not linear.depthwise or linear.out_channels in (None, linear.group):
                continue
            found = _refusal(linear) or _region(analysis, linear)
            if isinstance(found, str):
                yield propose(self.name, analysis, [linear.node], linear.name, found)
            else:
                costs = _costs(analysis, found)
                yield propose(self.name, analysis, found.nodes, linear.name, costs)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The region once for each filter of a channel, and the sums of what its readers make."""
        region = _region(analysis, anchor(analysis, candidate))
        assert not isinstance(region, str)
        builder = Builder(region.first.dtype)
        sums: dict[str, str] = {}
        for j in range(region.times):
            for reader, made in zip(region.readers, _part(analysis, builder, region, j), strict=True):
                so_far = sums.get(reader.y)
                sums[reader.y] = made if so_far is None else builder.node("Add", [made, so_far], {}, "/sum")
        return builder.replacement(sums)


class _Region(NamedTuple):
    """A depthwise convolution, operators on each channel by itself in their order, and dense convolutions."""

    first: Linear
    between: tuple[ir.Node, ...]
    readers: tuple[Linear, ...]

    @property
    def nodes(self) -> list[ir.Node]:
        """All of them, the depthwise convolution first."""
        return [self.first.node, *self.between, *(reader.node for reader in self.readers)]

    @property
    def times(self) -> int:
        """Filters a channel."""
        return (self.first.out_channels or 0) // self.first.group


def _refusal(linear: Linear) -> str:
    """Why a convolution stays, whatever reads it; "" where nothing is against it."""
    if linear.obstacle:
        return linear.obstacle
    if linear.dtype != np.float32 or len(linear.kernel) != 2:
        return "onnxruntime's blocks of channels are of float32 maps of two spatial axes"
    if not time_model.blocked(linear.group, 1, linear.group):
        return f"onnxruntime has no blocked kernel for {linear.group} channels one by one"
    return ""


def _region(analysis: Analysis, first: Linear) -> _Region | str:
    """What a depthwise convolution makes, up to the dense convolutions that read it; or what else does."""
    roles = analysis.cached(Roles)
    found: dict[ir.Node, None] = {}
    readers: dict[ir.Node, Linear] = {}
    pending, inside = [first.node.outputs[0]], {first.node.outputs[0]}
    while pending:
        value = pending.pop()
        if value.is_graph_output() or not analysis.consumers(value):
            return "what it makes leaves the graph"
        for node in analysis.consumers(value):
            linear, role = analysis.linear(node), roles.get(node)
            if node.graph is not first.node.graph:
                return f"{analysis.name(node)} reads what it makes from a body"
            if linear is not None and linear.op == "Conv" and linear.group == 1 and not linear.obstacle:
                readers[node] = linear
            elif isinstance(role, Own) and is_standard(node) and attributes_of(node) is not None:
                if node not in found:
                    found[node] = None
                    inside.add(node.outputs[0])
                    pending.append(node.outputs[0])
            else:
                return f"{analysis.name(node)} reads what it makes, and is neither on each channel nor dense"
    between = tuple(sorted(found, key=analysis.position))
    for node in between:
        role = roles.get(node)
        assert isinstance(role, Own)
        if {value for _, value in role.maps(node)} != inside.intersection(node.inputs):
            return f"{analysis.name(node)} reads another map of as many channels"
    if any(linear.node.inputs[0] not in inside for linear in readers.values()):
        return "what it makes is a weight of what reads it"
    return _Region(first, between, tuple(sorted(readers.values(), key=lambda r: analysis.position(r.node))))


# ---------------------------------------------------------------- cost


def _costs(analysis: Analysis, region: _Region) -> tuple[Cost, Cost] | str:
    """What a region costs before and after; why that is not known."""
    before, first, times = analysis.cost(region.nodes), region.first, region.times
    if before.macs is None:
        return UNKNOWN
    channels = first.group
    kernel = (channels, 1, *first.kernel)
    split = linear_cost(first.form, kernel, first.input_shape, first.itemsize, bool(first.bias_elements))
    calls = time_model.SECONDS_PER_CALL * len(region.between)
    after = replace(analysis.cost(region.between), seconds=0.0)
    seconds = analysis.cost(region.between).seconds + (times - 1) * calls
    for j in range(times):
        after += split
        for reader in region.readers:
            after += _reader_cost(reader, channels, bias=j == 0)
        if channels < time_model.BLOCK:  # a whole block is computed, and read plain by dense convolutions
            seconds += (time_model.BLOCK / channels - 1) * split.seconds
            seconds += time_model.reorder_seconds(split.activation_bytes)
    for reader in region.readers:
        seconds += _unfused(analysis, reader)
    return before, replace(after, seconds=after.seconds + seconds)


def _reader_cost(reader: Linear, channels: int, *, bias: bool) -> Cost:
    """What a dense convolution costs that reads so many of its channels."""
    shape = reader.input_shape
    read = None if shape is None else (shape[0], channels, *shape[2:])
    weights = (reader.out_channels or 0, channels, *reader.kernel)
    return linear_cost(reader.form, weights, read, reader.itemsize, bias and bool(reader.bias_elements))


def _unfused(analysis: Analysis, reader: Linear) -> float:
    """Seconds of a sum that was computed in a convolution, which computes another one now."""
    node = analysis.sole_consumer(reader.node.outputs[0])
    if node is None or node.op_type not in ("Add", "Sum"):
        return 0.0
    written = int(np.prod([size or 1 for size in reader.output_shape or ()]))
    return pass_cost(reader.itemsize, 2 * written, written).seconds


# ---------------------------------------------------------------- build


def _part(analysis: Analysis, builder: Builder, region: _Region, j: int) -> Sequence[str]:
    """Filter j of each channel, up to what the readers make of it."""
    first, times, roles = region.first, region.times, analysis.cached(Roles)
    part = slice(j, None, times)
    bias = first.bias()
    y = builder.linear(first.form, first.x, first.weight()[part], None if bias is None else bias[part])
    names = {first.node.outputs[0]: y}
    index = np.arange(j, times * first.group, times)
    for node in region.between:
        role = roles.get(node)
        assert isinstance(role, Own)
        names[node.outputs[0]] = written(analysis, builder, node, role, index, names)
    made = []
    for reader in region.readers:
        value, weight = reader.node.inputs[0], reader.weight()[:, part]
        assert value is not None
        made.append(builder.linear(reader.form, names[value], weight, reader.bias() if j == 0 else None))
    return made
