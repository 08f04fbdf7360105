"""The patches that a linear operator reads, and the outputs that belong to them, at sampled positions.

Where rows depend on content an input may have none; then there are no patches either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.analysis.linear import Linear
from graphopt.analysis.shapes.windows import same_pads

Activations: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = npt.NDArray[np.float32]
Index: TypeAlias = npt.NDArray[np.intp]


def positions(linear: Linear, x: Activations, most: int, rng: np.random.Generator) -> Index:
    """Output positions to sample from an input, ascending; all where there are no more than ``most``.

    Args:
        linear: the operator.
        x: its input, [N, C, *sizes]; of a Gemm or MatMul [N, *positions, C].
        most: how many to take at the most.
        rng: chooses among them.

    Returns:
        Flat positions on a map, the same for every sample.
    """
    count = math.prod(_output_sizes(linear, x))
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def inputs(linear: Linear, x: Activations, at: Index) -> list[Rows]:
    """The patches of each group at output positions, [samples, d], channel-major, then tap.

    Args:
        linear: the operator.
        x: its input, as `positions` takes it.
        at: flat output positions.

    Returns:
        For each group [samples, d], one sample after the other.
    """
    if not linear.kernel:
        return [_rows(x, at)]
    padded = _channels_last(linear, x)
    taps = _taps(linear, x, at, padded.shape[1:-1])
    inside = padded.shape[-1] // linear.group
    flat = padded.reshape(len(x), math.prod(padded.shape[1:-1]), padded.shape[-1])
    groups = []
    for group in range(linear.group):
        own = flat if linear.group == 1 else flat[:, :, group * inside : (group + 1) * inside]
        found = np.take(own, taps.ravel(), axis=1).reshape(len(x), *taps.shape, inside)  # [N, P, T, C]
        if taps.shape[1] > 1:
            found = found.swapaxes(2, 3)
        groups.append(np.ascontiguousarray(found).reshape(-1, inside * taps.shape[1]))
    return groups


def outputs(linear: Linear, y: Activations, at: Index) -> Rows:
    """The outputs [samples, out_channels] at the same positions, in the same order as `inputs`.

    Args:
        linear: the operator.
        y: its output, [N, out_channels, *sizes]; of a Gemm or MatMul [N, *positions, out_channels].
        at: flat output positions.

    Returns:
        [samples, out_channels], in float32.
    """
    if not linear.kernel:
        return _rows(y, at)
    flat = y.reshape(*y.shape[:2], math.prod(y.shape[2:]))[:, :, at]
    return np.ascontiguousarray(flat.swapaxes(1, 2), np.float32).reshape(-1, y.shape[1])


def _rows(x: Activations, at: Index) -> Rows:
    """Rows of a matrix for each sample."""
    samples = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])[:, at]
    return np.ascontiguousarray(samples, np.float32).reshape(-1, x.shape[-1])


def _output_sizes(linear: Linear, x: Activations) -> tuple[int, ...]:
    if not linear.kernel:
        return x.shape[1:-1]
    return linear.form.output_sizes(x.shape[2:], linear.kernel)


def _pads(linear: Linear, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The zeros around an input of these sizes."""
    form = linear.form
    if not form.auto_pad:
        return form.pads
    extents = [d * (k - 1) + 1 for k, d in zip(linear.kernel, form.dilations, strict=True)]
    return same_pads(extents, form.strides, sizes, upper=form.auto_pad == "SAME_UPPER") or form.pads


def _channels_last(linear: Linear, x: Activations) -> Rows:
    """The input with its zeros around it, [N, *sizes, C]; for a ConvTranspose also those between its pixels.

    A tap of an output channel of all pixels in a row is then one copy, not one for each input channel.
    """
    form, axes, pads = linear.form, len(linear.kernel), _pads(linear, x.shape[2:])
    sizes: list[int] = []
    places: list[slice] = []
    for axis, size in enumerate(x.shape[2:]):
        if form.op == "ConvTranspose":
            reach, step = form.dilations[axis] * (linear.kernel[axis] - 1), form.strides[axis]
            inner = (size - 1) * step + 1
            sizes.append(inner + 2 * reach + (form.output_padding[axis] if form.output_padding else 0))
            places.append(slice(reach, reach + inner, step))
        else:
            begin, end = pads[axis], pads[axis + axes]
            sizes.append(size + begin + end)
            places.append(slice(begin, begin + size))
    padded = np.zeros((len(x), *sizes, x.shape[1]), np.float32)
    padded[(slice(None), *places)] = np.moveaxis(x, 1, -1)
    return padded


def _taps(linear: Linear, x: Activations, at: Index, sizes: Sequence[int]) -> Index:
    """Where each tap of each output position reads, [P, T], as flat positions of a padded input.

    Tap t of a Conv reads q·stride + t·dilation of the padded input for output q. Output q of a ConvTranspose
    gets what input i gives to tap t where i·stride + t·dilation − pad_begin = q.
    """
    form = linear.form
    where = np.unravel_index(at, _output_sizes(linear, x))
    flat = np.zeros((len(at), *linear.kernel), np.intp)
    for axis, (extent, size) in enumerate(zip(linear.kernel, sizes, strict=True)):
        steps = np.arange(extent) * form.dilations[axis]
        if form.op == "ConvTranspose":
            index = where[axis][:, None] + form.pads[axis] + (steps[-1] - steps)[None, :]
        else:
            index = where[axis][:, None] * form.strides[axis] + steps[None, :]
        shape = [len(at), *(1,) * len(linear.kernel)]
        shape[1 + axis] = extent
        flat = flat * size + index.reshape(shape)
    return flat.reshape(len(at), -1)
