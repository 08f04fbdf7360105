"""Operators on maps [N, C, T, H, W], and what they are on T maps [N, C, H, W], one a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attributes import ints
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import ALIKE, WINDOWS, is_standard
from graphopt.analysis.shapes.windows import PoolShape
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.lifting.regions import BROADCAST, leaving
from graphopt.rewrites.patterns.common import attributes_of, is_inference_normalization, is_passthrough
from graphopt.types import AttributeValue

Reads: TypeAlias = tuple[tuple[int, int], ...]
"""What a frame reads: taps, and the frames that they meet."""
Given: TypeAlias = Mapping[str, AttributeValue]
"""The attributes of an operator."""

RANK = 5
"""Axes of a map in frames: by definition, batch, channels, frames, height and width."""
TIME = 2
"""The axis of the frames: by definition."""
MOST = 32
"""Frames that a map has at most, of which each is an operator: measured by paired runs, with 32 of 14x14 a
block takes 0.54 of its time; more were not measured."""
JOINED = {"MaxPool": "Max", "GlobalMaxPool": "Max", "AveragePool": "Mean", "GlobalAveragePool": "Mean"}
"""What makes one frame of several for a pooling."""


@dataclass(frozen=True, slots=True)
class Framed:
    """What an operator is on a tensor a frame.

    Attributes:
        maps: places of its inputs that are maps.
        attributes: those of its form on a frame.
        reads: what each of its frames reads of its maps, of several operands the same.
        squeezed: places of its inputs that are constants to lose their axis of frames.
        join: the operator that makes one frame of what several taps make; "" where each frame reads one.
        op: its operator on a frame; "" for its own.
    """

    maps: tuple[int, ...]
    attributes: Given
    reads: tuple[Reads, ...]
    squeezed: tuple[int, ...] = ()
    join: str = ""
    op: str = ""


def framed(analysis: Analysis, node: ir.Node) -> Framed | str | None:
    """What an operator on maps in frames is on a tensor a frame.

    Args:
        analysis: the snapshot.
        node: the operator.

    Returns:
        Its form; why a convolution has none; None of other operators that have none, or that nobody reads.
    """
    if not is_standard(node) or not node.inputs:
        return None
    if not any(value.uses() or value.is_graph_output() for value in node.outputs):
        return None
    linear = analysis.linear(node)
    if linear is not None:
        return _convolution(analysis, linear) if linear.op == "Conv" and len(linear.kernel) == 3 else None
    given = attributes_of(node)
    if given is None or frames(analysis, node.outputs[0]) is None:
        return None
    if node.op_type in ALIKE or is_passthrough(analysis, node) or is_inference_normalization(analysis, node):
        return _alike(analysis, node, given)
    if node.op_type in WINDOWS:
        return _window(analysis, node, given)
    if node.op_type in JOINED:
        return _whole(analysis, node, given, JOINED[node.op_type])
    if node.op_type == "ReduceMean":
        return _mean(analysis, node, given)
    if node.op_type == "Concat":
        return _concat(analysis, node, given)
    return _broadcast(analysis, node, given) if node.op_type in BROADCAST else None


def forms(analysis: Analysis) -> dict[ir.Node, Framed | str | None]:
    """What each operator of a model is on a tensor a frame; see `framed`."""
    return {node: framed(analysis, node) for node in analysis.nodes.values()}


def needed(analysis: Analysis, region: Sequence[ir.Node]) -> dict[ir.Value, set[int]]:
    """The frames of maps that a region reads, or that leave it.

    Args:
        analysis: the snapshot.
        region: operators with a form on frames, in the order of the model.

    Returns:
        The frames of each map; a stride leaves some out.
    """
    found = {value: set(range(frames(analysis, value) or 0)) for _, value in leaving(analysis, region)}
    for node in reversed(region):
        its = analysis.cached(forms)[node]
        assert isinstance(its, Framed)
        read = {frame for made in found[node.outputs[0]] for _, frame in its.reads[made]}
        for place in its.maps:
            value = node.inputs[place]
            assert value is not None
            found.setdefault(value, set()).update(read if frames(analysis, value) != 1 else {0})
    return found


def frames(analysis: Analysis, value: ir.Value | None) -> int | None:
    """The number of a map's frames, where they are few, and as many and as large in every run.

    Of frames of an open size onnxruntime computes no sums within its convolutions.
    """
    shape = analysis.fixed_shape(value)
    if shape is None or len(shape) != RANK or not all(shape[TIME:]):
        return None
    count = shape[TIME]
    return count if count and count <= MOST else None


def without_time(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A constant operand without its axis of frames, which is of 1."""
    return np.squeeze(array, axis=TIME - RANK)


def _each(count: int) -> tuple[Reads, ...]:
    """Every frame reads that in its place."""
    return tuple(((0, frame),) for frame in range(count))


def _alike(analysis: Analysis, node: ir.Node, given: Given) -> Framed | None:
    count = frames(analysis, node.inputs[0])
    return None if count is None else Framed((0,), given, _each(count))


def _convolution(analysis: Analysis, linear: Linear) -> Framed | str:
    if linear.obstacle:
        return linear.obstacle
    if linear.dtype != np.float32:
        return f"its weights are {linear.dtype}, for which onnxruntime has no blocked kernel"
    given = attributes_of(linear.node)
    count = frames(analysis, linear.node.inputs[0])
    made = frames(analysis, linear.node.outputs[0])
    if given is None or count is None or made is None:
        return f"its frames are more than {MOST}, or not as many and as large in every run"
    form = linear.form
    reads = _meeting(count, made, linear.kernel[0], form.strides[0], form.pads[0], form.dilations[0])
    if not all(reads):
        return "one of its frames reads zero frames alone"
    return Framed((0,), _flat(given), reads, join="Add")


def _meeting(count: int, made: int, taps: int, stride: int, pad: int, dilation: int) -> tuple[Reads, ...]:
    """What each frame that a window makes reads; zero frames in front and behind are left out."""
    return tuple(
        tuple(
            (tap, frame)
            for tap in range(taps)
            if 0 <= (frame := position * stride + tap * dilation - pad) < count
        )
        for position in range(made)
    )


def _flat(given: Given) -> dict[str, AttributeValue]:
    """Attributes of a window over frames, for one frame."""
    found = dict(given)
    for name, value in given.items():
        if name == "pads" and isinstance(value, tuple):
            found[name] = (*value[1:3], *value[4:6])
        elif name in ("kernel_shape", "strides", "dilations") and isinstance(value, tuple):
            found[name] = value[1:]
    return found


def _window(analysis: Analysis, node: ir.Node, given: Given) -> Framed | None:
    window, count = PoolShape.of(node), frames(analysis, node.inputs[0])
    made = frames(analysis, node.outputs[0])
    if window is None or count is None or made is None or len(window.kernel) != RANK - 2:
        return None
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):  # indices of maxima
        return None
    taps, begin, end = window.kernel[0], window.explicit[0], window.explicit[RANK - TIME]
    if taps == 1 and not begin and not end:  # whatever auto_pad says
        reads = _meeting(count, made, 1, window.strides[0], 0, 1)
        return Framed((0,), _flat(given), reads) if all(reads) else None
    reads = _meeting(count, made, taps, window.strides[0], begin, window.dilations[0])
    fewest = taps if node.op_type == "AveragePool" else 1
    unknown = window.auto_pad != "NOTSET" or node.op_type not in JOINED
    if unknown or min(map(len, reads)) < fewest:
        return None
    return Framed((0,), _flat(given), _one_tap(reads), join=JOINED[node.op_type])


def _one_tap(reads: Sequence[Reads]) -> tuple[Reads, ...]:
    """Reads whose taps do the same."""
    return tuple(tuple((0, frame) for _, frame in each) for each in reads)


def _whole(analysis: Analysis, node: ir.Node, given: Given, join: str) -> Framed | None:
    """Of all positions of a map."""
    count = frames(analysis, node.inputs[0])
    if count is None:
        return None
    return Framed((0,), given, (tuple((0, frame) for frame in range(count)),), join=join)


def _mean(analysis: Analysis, node: ir.Node, given: Given) -> Framed | None:
    """The mean of all positions, as poolings of whole maps make it."""
    axes = ints(node, "axes", 1, analysis.constant)
    if axes is None or {axis % RANK for axis in axes} != {2, 3, 4} or not given.get("keepdims", 1):
        return None
    found = _whole(analysis, node, {}, "Mean")
    return None if found is None else replace(found, op="GlobalAveragePool")


def _concat(analysis: Analysis, node: ir.Node, given: Given) -> Framed | None:
    """Of maps along their channels."""
    axis, counts = given.get("axis", 1), {frames(analysis, value) for value in node.inputs}
    if not isinstance(axis, int) or axis % RANK != 1 or len(counts) != 1 or None in counts:
        return None
    if any(analysis.constants.is_constant(value) for value in node.inputs):
        return None
    count = next(iter(counts))
    assert count is not None
    return Framed(tuple(range(len(node.inputs))), {"axis": 1}, _each(count))


def _broadcast(analysis: Analysis, node: ir.Node, given: Given) -> Framed | None:
    maps, squeezed, counts = list[int](), list[int](), set[int | None]()
    for place, value in enumerate(node.inputs):
        shape = analysis.shape(value)
        if value is None or shape is None or len(shape) > RANK:
            return None
        if analysis.constants.is_constant(value):
            if len(shape) >= RANK - TIME:
                if shape[TIME - RANK] != 1:
                    return None
                squeezed.append(place)
        elif len(shape) == RANK:
            maps.append(place)
            counts.add(frames(analysis, value))
        else:
            return None
    if not maps or None in counts or len(counts - {1}) > 1:
        return None
    return Framed(tuple(maps), given, _each(max(n or 0 for n in counts)), tuple(squeezed))
