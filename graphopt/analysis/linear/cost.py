"""What a linear operator of a given form costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.analysis.linear.form import Form
from graphopt.analysis.time_model import LONG_WINDOW, seconds
from graphopt.types import Cost, Shape


def linear_cost(
    form: Form, weight_shape: Sequence[int], input_shape: Shape | None, itemsize: int, bias: bool = True
) -> Cost:
    """The cost of a linear operator with weights [out, in/group, *kernel] on an input of this shape.

    MACs are None where a size of the input is unknown. The seconds come from the static time model.

    Args:
        form: strides, pads and groups.
        weight_shape: ``[out, in / group, *kernel]``.
        input_shape: of the input with its batch; None where unknown.
        itemsize: bytes of one number.
        bias: whether it has one.

    Returns:
        MACs, parameters, bytes of weights and of the output, and seconds.
    """
    params = math.prod(weight_shape) + (weight_shape[0] if bias else 0)
    if input_shape is None or any(size is None for size in input_shape):
        return Cost(None, params, params * itemsize)
    sizes = [size for size in input_shape if size is not None]
    kernel = tuple(weight_shape[2:])
    if not kernel:  # Gemm and MatMul: all axes but the last are positions
        read = written = math.prod(sizes[:-1])
    else:
        read = sizes[0] * math.prod(sizes[2:])
        written = sizes[0] * math.prod(form.output_sizes(sizes[2:], kernel))
    macs = (read if form.op == "ConvTranspose" else written) * math.prod(weight_shape)
    out, inside = weight_shape[0], weight_shape[1]
    moved = (read * inside * form.group + written * out) * itemsize
    expected = seconds(
        *(macs, out, inside, form.group, moved),
        column_bytes=_columns(form, weight_shape, read, written) * itemsize,
        planar=form.op == "Conv" and len(kernel) == 2,
        line=form.op == "Conv" and len(kernel) == 1,
        edge=_edge(form, sizes, kernel),
    )
    return Cost(macs, params, params * itemsize, written * out * itemsize, expected)


def _edge(form: Form, sizes: Sequence[int], kernel: Sequence[int]) -> float:
    """The part of the outputs whose window leaves a map of one row; 0 of other maps and short windows."""
    on_row = form.op == "Conv" and len(kernel) == 2 and (sizes[2], kernel[0]) == (1, 1)
    if not on_row or kernel[1] < LONG_WINDOW:
        return 0.0
    outputs = form.output_sizes(sizes[2:], kernel)[1]
    step, first, extent = form.strides[1], form.pads[1], form.dilations[1] * (kernel[1] - 1) + 1
    before = -(-first // step)
    after = outputs - max(0, (sizes[3] + first - extent) // step + 1)
    return min(1.0, (max(before, 0) + max(after, 0)) / max(outputs, 1))


def _columns(form: Form, weight_shape: Sequence[int], read: int, written: int) -> int:
    """Elements of the matrix of taps: what outputs read, or what a ConvTranspose's inputs make."""
    taps = math.prod(weight_shape[2:])
    if form.op == "ConvTranspose":
        return read * weight_shape[0] * taps
    if taps == 1 and not form.strided and not form.padded:  # the input is that matrix
        return 0
    return written * weight_shape[1] * form.group * taps
