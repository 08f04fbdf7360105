"""What each operator does to the positions of a map: the three kinds that fewer positions pass through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.attributes import FAR, ints, slice_ranges
from graphopt.analysis.constants import default_opset
from graphopt.analysis.operators import BROADCASTING, UNARY, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.lattice import EVERYTHING, Lattice, Window
from graphopt.rewrites.patterns.common import (
    attributes_of,
    is_inference_normalization,
    is_passthrough,
)
from graphopt.rewrites.patterns.least_sizes import LeastSizes

Grid: TypeAlias = tuple[Lattice, ...]
"""Positions of a map, one lattice a spatial axis."""


@dataclass(frozen=True, slots=True)
class Windowed:
    """A convolution or pool: one window a spatial axis."""

    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Which axes of which inputs have the output's positions: by input number, one flag a spatial axis."""

    follows: Mapping[int, tuple[bool, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A Slice: the positions that it takes, and its start, end and step on other axes, by axis."""

    grid: Grid
    others: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)


PositionRole: TypeAlias = Windowed | Pointwise | Sample


def role_of(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    """The operator's kind; None for an opaque one."""
    if not is_standard(node) or not node.inputs or node.inputs[0] is None or len(node.outputs) == 0:
        return None
    shape = analysis.fixed_shape(node.outputs[0])
    if shape is None or len(shape) < 3 or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return None
    given = analysis.fixed_shape(node.inputs[0])
    if given is None or attributes_of(node) is None:
        return None
    if is_passthrough(analysis, node) or node.op_type in UNARY or _per_channel(analysis, node):
        return Pointwise({0: (True,) * (len(shape) - 2)})
    if node.op_type in BROADCASTING:
        return _broadcasting(analysis, node, shape)
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(analysis, node)


def _per_channel(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the operator mixes the channels of a position at most."""
    if node.op_type in ("Softmax", "LogSoftmax"):  # up to opset 12 it flattens all axes from this one on
        return default_opset(analysis.model) >= 13 and node.attributes.get_int("axis", -1) == 1
    return node.op_type == "LRN" or is_inference_normalization(analysis, node)


def _broadcasting(analysis: Analysis, node: ir.Node, shape: Sequence[int | None]) -> Pointwise | None:
    """Which inputs have the output's positions; None where that may depend on a size."""
    rank, follows = len(shape), {}
    keys = [_size_keys(analysis, value) for value in node.inputs if value is not None]
    longest = max((k for k in keys if k is not None), key=len, default=())
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        keys_here = _size_keys(analysis, value)
        if keys_here is None:
            return None
        aligned = (1,) * (rank - len(keys_here)) + keys_here
        axes = []
        for axis in range(2, rank):
            mine, theirs = (
                aligned[axis],
                [k[axis - rank + len(k)] for k in keys if k is not None and axis - rank + len(k) >= 0],
            )
            if mine == 1:
                axes.append(False)  # broadcast, or there is one position only
            elif all(other in (1, mine) for other in theirs):
                axes.append(True)
            else:
                return None
        if any(axes) and len(keys_here) < rank and analysis.constant(value) is None:
            return None
        follows[index] = tuple(axes)
    return Pointwise(follows) if len(longest) == rank else None


def _size_keys(analysis: Analysis, value: ir.Value) -> tuple[object, ...] | None:
    """What stands for the sizes of a value: equal ones are equal at every run."""
    shape = analysis.fixed_shape(value)
    if shape is None:
        return None
    return tuple(
        _axis_key(analysis, value, axis) if size is None else size for axis, size in enumerate(shape)
    )


def _axis_key(analysis: Analysis, value: ir.Value, axis: int) -> object:
    """What an unknown size follows from: an input's symbol, or a value's axis, and the windows on the way."""
    steps: list[tuple[int, int]] = []
    while True:
        node = value.producer()
        shape = analysis.fixed_shape(value)
        if node is None or shape is None or axis < 2 or not is_standard(node) or node.inputs[0] is None:
            break
        before = node.inputs[0]
        window = _window_of(analysis, node, axis - 2)
        if window is not None:
            slack = window.begin + window.end - window.dilation * (window.taps - 1)
            if (slack, window.stride) != (0, 1):
                steps.append((slack, window.stride))
        elif node.op_type in BROADCASTING:
            source = _wide_input(analysis, node, axis, len(shape))
            if source is None:
                break
            before = source
        elif not (is_passthrough(analysis, node) or node.op_type in UNARY or _per_channel(analysis, node)):
            break
        value = before
    declared = value.shape[axis] if value.shape is not None and value.is_graph_input() else None
    symbol = declared.value if isinstance(declared, ir.SymbolicDim) else None
    return (symbol or (value, axis), tuple(steps))


def _wide_input(analysis: Analysis, node: ir.Node, axis: int, rank: int) -> ir.Value | None:
    """The only input of a broadcasting operator that can be wider than 1 along an axis, else the first."""
    wide = []
    for value in node.inputs:
        shape = analysis.fixed_shape(value)
        if value is None or shape is None:
            continue
        aligned = axis - rank + len(shape)
        if aligned >= 0 and shape[aligned] != 1:
            wide.append((value, len(shape) == rank))
    if len(wide) == 1 and wide[0][1]:
        return wide[0][0]
    # Of several, all must agree for the operator to have a role at all; that is tested where they meet.
    return None


def _window_of(analysis: Analysis, node: ir.Node, axis: int) -> Window | None:
    rule = _RULES.get(node.op_type)
    role = rule(analysis, node) if rule in (_conv, _pool) and rule is not None else None
    return role.windows[axis] if isinstance(role, Windowed) else None


def _conv(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    linear = analysis.linear(node)
    if linear is None or linear.op != "Conv" or linear.blocked or not linear.kernel or 0 in linear.kernel:
        return None
    if linear.out_channels is None or linear.form.auto_pad:
        return None
    return _windowed(linear.kernel, linear.form.strides, linear.form.dilations, linear.form.pads)


def _pool(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    attributes = node.attributes
    if "kernel_shape" not in attributes or node.attributes.get_int("ceil_mode", 0) != 0:
        return None
    if attributes.get_string("auto_pad", "NOTSET") not in ("", "NOTSET", "VALID"):
        return None
    kernel = tuple(attributes["kernel_shape"].as_ints())
    axes = len(kernel)
    strides, dilations = (attributes.get_ints(name, (1,) * axes) for name in ("strides", "dilations"))
    role = _windowed(kernel, strides, dilations, attributes.get_ints("pads", (0,) * 2 * axes))
    least = analysis.cached(LeastSizes).of(node.inputs[0])
    if role is None or any(not window.fits(size) for window, size in zip(role.windows, least, strict=True)):
        return None  # what hangs over makes an output too, unless it is a stride or more
    return role


def _windowed(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> Windowed | None:
    if min(pads, default=0) < 0:
        return None
    axes = len(kernel)
    return Windowed(tuple(map(Window, kernel, strides, dilations, pads[:axes], pads[axes:])))


def _concat(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    shapes = [analysis.fixed_shape(value) for value in node.inputs]
    axis = node.attributes.get_int("axis", 1)
    rank = len(shapes[0] or ())
    if axis % max(rank, 1) > 1 or any(shape is None or len(shape) != rank for shape in shapes):
        return None
    return Pointwise(dict.fromkeys(range(len(node.inputs)), (True,) * (rank - 2)))


def _slice(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    shape = analysis.fixed_shape(node.inputs[0])
    ranges = slice_ranges(node, analysis.constant)
    if shape is None or ranges is None:
        return None
    grid, others = [EVERYTHING] * (len(shape) - 2), {}
    for axis, (start, end, step) in ranges.items():
        axis %= len(shape)
        if axis < 2:
            others[axis] = (start, end, step)
            continue
        lattice = _lattice(start, end, step, shape[axis])
        if lattice is None:
            return None
        grid[axis - 2] = lattice
    return Sample(tuple(grid), others)


def _lattice(start: int, end: int, step: int, size: int | None) -> Lattice | None:
    """The positions of a range; None where they run backwards, are none, or depend on the size."""
    if step < 1:
        return None
    if size is not None:
        first, last, _ = slice(start, end, step).indices(size)
        lattice = Lattice(first, step, max(size - last, 0))
        return lattice.canonical(size) if lattice.count(size) else None
    if start < 0 or 0 <= end < FAR or (end < 0 and step > 1):
        return None
    return Lattice(start, step, max(-end, 0))


def _crop(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    """A Pad that only crops spatial axes."""
    shape, amounts = analysis.fixed_shape(node.inputs[0]), ints(node, "pads", 1, analysis.constant)
    if shape is None or amounts is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    rank = len(shape)
    begin, end = amounts[:rank], amounts[rank:]
    if max(amounts) > 0 or any(begin[:2]) or any(end[:2]):
        return None
    grid = [Lattice(-b, 1, -e) for b, e in zip(begin[2:], end[2:], strict=True)]
    sizes = shape[2:]
    if any(size is not None and not g.count(size) for g, size in zip(grid, sizes, strict=True)):
        return None
    return Sample(tuple(g.canonical(size) for g, size in zip(grid, sizes, strict=True)))


def _center_crop(analysis: Analysis, node: ir.Node) -> PositionRole | None:
    """A CenterCropPad that only crops, of known sizes."""
    before, after = (analysis.fixed_shape(v) for v in (node.inputs[0], node.outputs[0]))
    if before is None or after is None or None in before[2:] or None in after[2:] or before[:2] != after[:2]:
        return None
    grid = []
    for size, kept in zip(before[2:], after[2:], strict=True):
        assert size is not None and kept is not None
        if not 0 < kept <= size:
            return None
        start = (size - kept) // 2
        grid.append(Lattice(start, 1, size - kept - start).canonical(size))
    return Sample(tuple(grid))


_RULES: dict[str, Callable[[Analysis, ir.Node], PositionRole | None]] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _crop,
    "CenterCropPad": _center_crop,
}
