"""Operators on maps [N, C, L], and their twins on [N, C, 1, L]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attributes import ints
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import ALIKE, POOLS, REDUCTIONS, WINDOWS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.lifting.regions import BROADCAST
from graphopt.rewrites.patterns.common import attributes_of, is_inference_normalization, is_passthrough
from graphopt.types import AttributeValue

Given: TypeAlias = Mapping[str, AttributeValue]
"""The attributes of an operator."""

RANK = 3
"""Axes of a map along a line: by definition, batch, channels and length."""
ROW = 2
"""The axis of the one row: by definition, that in front of the length."""


@dataclass(frozen=True, slots=True)
class Twin:
    """What an operator is on maps of one row.

    Attributes:
        maps: places of its inputs that are maps.
        attributes: all of its attributes.
        rows: places of its inputs that are constants to get a row.
        numbers: other pads and axes, by the place of the input that they take.
    """

    maps: tuple[int, ...]
    attributes: Given
    rows: tuple[int, ...] = ()
    numbers: Mapping[int, npt.NDArray[np.generic]] = field(default_factory=dict)


def twin(analysis: Analysis, node: ir.Node) -> Twin | str | None:
    """The twin of an operator along a line.

    Args:
        analysis: the snapshot.
        node: the operator.

    Returns:
        The twin; why a convolution has none; None of other operators that have none.
    """
    if not is_standard(node) or any(not is_map(analysis, value) for value in node.outputs if value.name):
        return None
    linear = analysis.linear(node)
    if linear is not None:
        return _convolution(analysis, linear) if linear.op in ("Conv", "ConvTranspose") else None
    given = attributes_of(node)
    if given is None:
        return None
    if node.op_type in ALIKE or is_passthrough(analysis, node) or is_inference_normalization(analysis, node):
        return _on_first(analysis, node, given)
    if node.op_type in WINDOWS:
        indices = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
        return None if indices else _on_first(analysis, node, _widened(given))
    if node.op_type in POOLS | {"InstanceNormalization"}:
        return _on_first(analysis, node, given)
    makers = {
        **dict.fromkeys(BROADCAST, _broadcast),
        **dict.fromkeys(REDUCTIONS, _reduction),
        "Concat": _concat,
        "Split": _split,
        "Pad": _pad,
        "Slice": _slice,
    }
    make = makers.get(node.op_type)
    return None if make is None else make(analysis, node, given)


def is_map(analysis: Analysis, value: ir.Value | None) -> bool:
    """Whether a value has the axes of a map along a line."""
    shape = analysis.shape(value)
    return shape is not None and len(shape) == RANK


def _on_first(
    analysis: Analysis,
    node: ir.Node,
    given: Given,
    numbers: Mapping[int, npt.NDArray[np.generic]] = MappingProxyType({}),
) -> Twin | None:
    """Of an operator on one map, whatever else it reads."""
    return Twin((0,), given, (), numbers) if is_map(analysis, node.inputs[0]) else None


def _convolution(analysis: Analysis, linear: Linear) -> Twin | str | None:
    if len(linear.kernel) != 1:
        return None
    if linear.obstacle:
        return linear.obstacle
    if linear.dtype != np.float32:
        return f"its weights are {linear.dtype}, for which onnxruntime has no blocked kernel"
    given = attributes_of(linear.node)
    if given is None or not is_map(analysis, linear.node.inputs[0]):
        return "the axes of what it reads are not known"
    return Twin((0,), _widened(given), (1,))


def _widened(given: Given) -> dict[str, AttributeValue]:
    """Attributes of a window along a line, for one row."""
    found = dict(given)
    for name, value in given.items():
        if not isinstance(value, tuple):
            continue
        if name == "pads":
            found[name] = (0, value[0], 0, value[1])
        elif name == "output_padding":
            found[name] = (0, value[0])
        elif name in ("kernel_shape", "strides", "dilations"):
            found[name] = (1, value[0])
    return found


def with_row(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """An array with an axis of 1 in front of its last."""
    return np.expand_dims(array, array.ndim - 1)


def _broadcast(analysis: Analysis, node: ir.Node, given: Given) -> Twin | None:
    maps, rows = list[int](), list[int]()
    for place, value in enumerate(node.inputs):
        shape = analysis.shape(value)
        if value is None or shape is None or len(shape) > RANK:
            return None
        if len(shape) < 2:  # it goes along the length, or is a number
            continue
        if analysis.constants.is_constant(value):
            rows.append(place)
        elif len(shape) == RANK:
            maps.append(place)
        else:
            return None
    return Twin(tuple(maps), given, tuple(rows)) if maps else None


def _concat(analysis: Analysis, node: ir.Node, given: Given) -> Twin | None:
    if not all(is_map(analysis, value) for value in node.inputs):
        return None
    its = _broadcast(analysis, node, given)
    return None if its is None else replace(its, attributes=_moved(given, 1))


def _split(analysis: Analysis, node: ir.Node, given: Given) -> Twin | None:
    return _on_first(analysis, node, _moved(given, 0))


def _moved(given: Given, default: int) -> Given:
    """Attributes with their axis where it is with a row."""
    axis = given.get("axis", default)
    assert isinstance(axis, int)
    return {**given, "axis": _lifted_axis(axis)}


def _lifted_axis(axis: int) -> int:
    """The place of an axis of a map where there is a row in front of the last."""
    axis %= RANK
    return axis + (axis >= ROW)


def _pad(analysis: Analysis, node: ir.Node, given: Given) -> Twin | None:
    pads = ints(node, "pads", 1, analysis.constant)
    axes = ints(node, "axes", 3, analysis.constant, range(RANK))
    if pads is None or axes is None:
        return None
    amounts = np.zeros((2, RANK + 1), np.int64)
    for place, axis in enumerate(axes):
        amounts[:, _lifted_axis(axis)] = pads[place :: len(axes)]
    if "pads" in given:
        return _on_first(analysis, node, {**given, "pads": tuple(int(n) for n in amounts.ravel())})
    named = {3: np.arange(RANK + 1)} if len(node.inputs) > 3 and node.inputs[3] is not None else {}
    return _on_first(analysis, node, given, {1: amounts.ravel(), **named})


def _slice(analysis: Analysis, node: ir.Node, given: Given) -> Twin | None:
    starts = ints(node, "starts", 1, analysis.constant)
    axes = ints(node, "axes", 3, analysis.constant, None if starts is None else range(len(starts)))
    if axes is None:
        return None
    lifted = [_lifted_axis(axis) for axis in axes]
    if "starts" in given:
        return _on_first(analysis, node, {**given, "axes": tuple(lifted)})
    own = (analysis.constant(node.inputs[place]) for place in (3, 1) if place < len(node.inputs))
    kind = next(array.dtype for array in own if array is not None)
    return _on_first(analysis, node, given, {3: np.array(lifted, kind)})


def _reduction(analysis: Analysis, node: ir.Node, given: Given) -> Twin | None:
    axes = ints(node, "axes", 1, analysis.constant)
    if not axes or not given.get("keepdims", 1):
        return None
    lifted = [_lifted_axis(axis) for axis in axes]
    if "axes" in given:
        return _on_first(analysis, node, {**given, "axes": tuple(lifted)})
    return _on_first(analysis, node, given, {1: np.array(lifted, np.int64)})
