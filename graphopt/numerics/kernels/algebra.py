"""The algebra of convolution kernels, in plain NumPy, for any number of spatial axes.

A kernel is laid out as ONNX ``Conv`` has it, ``[out_channels, in_channels / group, *taps]``; a ``Gemm`` is
the case without spatial axes. As in ONNX nothing is flipped: the operator is a cross-correlation,

    y[o, q] = Σ over i, t of W[o, i, t] · x[i, q · stride + t · dilation].

Two of them in a row are one: output position q of the second reads the middle at q·s₂ + t₂·d₂, which reads
the input at (q·s₂ + t₂·d₂)·s₁ + t₁·d₁. So the stride of the whole is s₁·s₂, and its kernel is the full
convolution of the second, dilated by s₁·d₂, with the first, dilated by d₁:

    W[o, i] = Σ over m of W₂[o, m] ∗ W₁[m, i].

Padding is not known here. The composition is exact where the second operator reads no padding of the middle.

Functions that compute return float64; functions that only move weights keep the dtype. All raise ValueError
for shapes that do not fit each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.types import Array, Float64

_AT_ONCE = 1 << 16
"""Elements that are held in float64 at a time: derived, 512 KB, which a cache holds; no result depends on
it."""


class Composed(NamedTuple):
    """The kernel of two convolutions in a row.

    Attributes:
        kernel: ``[out_channels, in_channels / group, *taps]``, float64.
        group: number of groups.
        dilation: distance between taps in input pixels, per spatial axis.
    """

    kernel: Float64
    group: int
    dilation: tuple[int, ...]


class ComposedShape(NamedTuple):
    """What `compose` makes of the channels and taps of two kernels, known without their weights.

    Attributes:
        group: number of groups.
        taps: extent of the kernel per spatial axis, in taps.
        dilation: distance between taps in input pixels, per spatial axis.
    """

    group: int
    taps: tuple[int, ...]
    dilation: tuple[int, ...]


def composed_shape(
    taps_first: Sequence[int],
    taps_second: Sequence[int],
    *,
    groups: tuple[int, int] = (1, 1),
    stride_first: Sequence[int] | None = None,
    dilation_first: Sequence[int] | None = None,
    dilation_second: Sequence[int] | None = None,
) -> ComposedShape:
    """Return group, extent and dilation of ``second ∘ first``.

    The dilation is the largest that loses no tap: the greatest common divisor of the steps of both kernels,
    where an extent of 1 makes no step. The group is the greatest common divisor of both groups, the most
    blocks that generic weights leave apart.

    Args:
        taps_first: extent of the first kernel per spatial axis, in taps.
        taps_second: extent of the second.
        groups: groups of the first and of the second.
        stride_first: stride of the first per spatial axis; None for all ones, here and below.
        dilation_first: dilation of the first.
        dilation_second: dilation of the second.

    Returns:
        Group, extent and dilation of the kernel that `compose` gives.

    Raises:
        ValueError: the numbers of spatial axes differ.
    """
    if len(taps_first) != len(taps_second):
        raise ValueError(f"kernels of {len(taps_first)} and {len(taps_second)} spatial axes do not compose")
    step_first, step_second = _steps(len(taps_first), stride_first, dilation_first, dilation_second)
    taps, dilation = [], []
    for k1, a, k2, b in zip(taps_first, step_first, taps_second, step_second, strict=True):
        step = math.gcd(a if k1 > 1 else 0, b if k2 > 1 else 0) or 1
        taps.append(((k1 - 1) * a + (k2 - 1) * b) // step + 1)
        dilation.append(step)
    return ComposedShape(math.gcd(*groups), tuple(taps), tuple(dilation))


def compose(
    first: Array,
    second: Array,
    *,
    group_first: int = 1,
    group_second: int = 1,
    stride_first: Sequence[int] | None = None,
    dilation_first: Sequence[int] | None = None,
    dilation_second: Sequence[int] | None = None,
) -> Composed:
    """Return the kernel of ``second ∘ first``, biases aside.

    Its group, extent and dilation are those of `composed_shape`. The caller multiplies the strides.

    Args:
        first: ``[middle_channels, in_channels / group_first, *taps]``, applied first.
        second: ``[out_channels, middle_channels / group_second, *taps]``.
        group_first: groups of `first`.
        group_second: groups of `second`.
        stride_first: stride of `first` per spatial axis; None for all ones, here and below.
        dilation_first: dilation of `first`.
        dilation_second: dilation of `second`.

    Returns:
        The kernel ``[out_channels, in_channels / group, *taps]``, its group and its dilation.

    Raises:
        ValueError: the channels, groups or spatial axes do not fit each other.
    """
    _check_groups(first, group_first, "first")
    _check_groups(second, group_second, "second")
    if first.ndim != second.ndim or first.shape[0] != second.shape[1] * group_second:
        raise ValueError(
            f"kernels {first.shape} and {second.shape} (group {group_second}) do not follow each other: "
            f"{first.shape[0]} channels come out, {second.shape[1] * group_second} go in"
        )
    group, taps, dilation = composed_shape(
        first.shape[2:],
        second.shape[2:],
        groups=(group_first, group_second),
        stride_first=stride_first,
        dilation_first=dilation_first,
        dilation_second=dilation_second,
    )
    step_first, step_second = _steps(len(taps), stride_first, dilation_first, dilation_second)
    if group not in (group_first, group_second):  # blocks that overlap without nesting: coarsen one side
        second, group_second = regroup(second, group_second, group), group
    blocks_first, blocks_second = _middle_blocks(first, group_first, second, group_second)
    products = np.zeros((*taps, *blocks_second.shape[1:3], blocks_first.shape[-1]))
    for tap_second, block_second in zip(np.ndindex(*second.shape[2:]), blocks_second, strict=True):
        for tap_first, block_first in zip(np.ndindex(*first.shape[2:]), blocks_first, strict=True):
            terms = zip(tap_first, step_first, tap_second, step_second, dilation, strict=True)
            position = tuple((i * a + j * b) // step for i, a, j, b, step in terms)
            products[position] += block_second @ block_first
    return Composed(_join_blocks(products, group_first, group_second), group, dilation)


def compose_bias(
    bias_first: Array | None, second: Array, bias_second: Array | None, group_second: int = 1
) -> Float64 | None:
    """Return the bias of ``second ∘ first``, Σ over taps of second · bias_first + bias_second.

    It holds where `second` reads no padding. Where it does the result differs, unless `bias_first` is zero.

    Args:
        bias_first: ``[middle_channels]``; None for no bias.
        second: ``[out_channels, middle_channels / group_second, *taps]``.
        bias_second: ``[out_channels]``; None for no bias.
        group_second: groups of `second`.

    Returns:
        The bias ``[out_channels]``, or None where neither operator has one.

    Raises:
        ValueError: a bias has another length than the kernel says.
    """
    _check_groups(second, group_second, "second")
    out_channels, per_group = second.shape[:2]
    if bias_second is not None and bias_second.shape != (out_channels,):
        raise ValueError(f"bias_second has shape {bias_second.shape}, the kernel {out_channels} outputs")
    if bias_first is None:
        return None if bias_second is None else bias_second.astype(np.float64)
    if bias_first.shape != (per_group * group_second,):
        raise ValueError(
            f"bias_first has shape {bias_first.shape}, the kernel {per_group * group_second} inputs"
        )
    response: Float64 = second.astype(np.float64).sum(axis=tuple(range(2, second.ndim)))
    blocks = response.reshape(group_second, out_channels // group_second, per_group)
    bias = (blocks @ bias_first.astype(np.float64).reshape(group_second, per_group, 1)).reshape(out_channels)
    return bias if bias_second is None else bias + bias_second


def scale_outputs(kernel: Array, scale: Array, dtype: npt.DTypeLike = np.float64) -> Array:
    """Return the kernel of ``scale · (kernel ∘ x)`` for a `scale` of ``[out_channels]``.

    Products are taken in float64 and rounded once to `dtype`, some channels at a time, so that no large array
    is made in between.

    Args:
        kernel: ``[out_channels, in_channels / group, *taps]``.
        scale: ``[out_channels]``.
        dtype: of the result.

    Returns:
        A kernel of the same shape.

    Raises:
        ValueError: `scale` has another length than the kernel has outputs.
    """
    if scale.shape != kernel.shape[:1]:
        raise ValueError(f"scale has shape {scale.shape}, the kernel {kernel.shape[0]} outputs")
    factors = _over_axes(scale.astype(np.float64), kernel.ndim - 1)
    scaled = np.empty(kernel.shape, dtype)
    channels = max(1, _AT_ONCE // max(1, kernel[:1].size))
    products = np.empty((min(channels, len(kernel)), *kernel.shape[1:]))
    for start in range(0, len(kernel), channels):
        part = slice(start, start + channels)
        scaled[part] = np.multiply(kernel[part], factors[part], out=products[: len(kernel) - start])
    return scaled


def scale_inputs(kernel: Array, scale: Array, group: int = 1) -> Float64:
    """Return the kernel of ``kernel ∘ (scale · x)`` for a `scale` of ``[in_channels]``.

    Args:
        kernel: ``[out_channels, in_channels / group, *taps]``.
        scale: ``[in_channels]``.
        group: number of groups.

    Returns:
        A kernel of the same shape.

    Raises:
        ValueError: `scale` has another length than the kernel has inputs.
    """
    _check_groups(kernel, group, "kernel")
    out_channels, per_group = kernel.shape[:2]
    if scale.shape != (per_group * group,):
        raise ValueError(f"scale has shape {scale.shape}, the kernel {per_group * group} inputs")
    rows = np.repeat(scale.astype(np.float64).reshape(group, per_group), out_channels // group, axis=0)
    return kernel.astype(np.float64) * _over_axes(rows, kernel.ndim - 2)


def regroup(kernel: Array, group: int, new_group: int) -> Array:
    """Return the same operator with fewer groups: zeros between the old blocks.

    Args:
        kernel: ``[out_channels, in_channels / group, *taps]``.
        group: groups of `kernel`.
        new_group: groups of the result, a divisor of `group`.

    Returns:
        ``[out_channels, in_channels / new_group, *taps]``.

    Raises:
        ValueError: `new_group` does not divide `group`.
    """
    _check_groups(kernel, group, "kernel")
    if new_group < 1 or group % new_group:
        raise ValueError(f"{group} groups cannot be joined into {new_group}")
    joined = group // new_group
    out_channels, per_group, *taps = kernel.shape
    blocks = kernel.reshape(new_group, joined, out_channels // group, per_group, *taps)
    wide = np.zeros((new_group, joined, out_channels // group, joined, per_group, *taps), kernel.dtype)
    for k in range(joined):
        wide[:, k, :, k] = blocks[:, k]
    return wide.reshape(out_channels, joined * per_group, *taps)


def to_dense(kernel: Array, group: int) -> Array:
    """Return the same operator with one group, ``[out_channels, in_channels, *taps]``."""
    return regroup(kernel, group, 1)


def transpose_layout(kernel: Array, group: int = 1) -> Array:
    """Exchange the channel axes within each group; taps stay as they are, so it undoes itself.

    It leads from the layout of ``ConvTranspose``, ``[in_channels, out_channels / group, *taps]``, to that of
    ``Conv``, ``[out_channels, in_channels / group, *taps]``, and back. At stride 1 a ``ConvTranspose`` is a
    ``Conv`` of this kernel with all taps reversed; the reversal is left to the caller.
    """
    _check_groups(kernel, group, "kernel")
    rows, columns, *taps = kernel.shape
    blocks = kernel.reshape(group, rows // group, columns, *taps).swapaxes(1, 2)
    return blocks.reshape(group * columns, rows // group, *taps)


def _middle_blocks(
    first: Array, group_first: int, second: Array, group_second: int
) -> tuple[Float64, Float64]:
    """Cut both kernels along the middle channels into the blocks of the finer grouping.

    One group divides the other, so a block belongs to one group on either side, and only its own rows of
    `first` and columns of `second` are multiplied: a depthwise kernel is never blown up to a dense one.

    Returns:
        ``[taps, blocks, middle, in]`` and ``[taps, blocks, out, middle]`` with the sizes of one block.
    """
    blocks = max(group_first, group_second)
    middle, out = first.shape[0] // blocks, second.shape[0] // group_second
    rows = first.astype(np.float64).reshape(blocks, middle, first.shape[1], -1)
    columns = second.astype(np.float64).reshape(group_second, out, blocks // group_second, middle, -1)
    columns = columns.swapaxes(1, 2).reshape(blocks, out, middle, -1)
    return (
        np.ascontiguousarray(np.moveaxis(rows, -1, 0)),
        np.ascontiguousarray(np.moveaxis(columns, -1, 0)),
    )


def _join_blocks(products: Float64, group_first: int, group_second: int) -> Float64:
    """Lay block products ``[*taps, blocks, out, in]`` out as a kernel of the coarser grouping."""
    *taps, _, out, in_ = products.shape
    group = min(group_first, group_second)
    side_by_side = group_first // group  # blocks that share outputs and differ in inputs
    on_top = group_second // group  # blocks that share inputs and differ in outputs
    nested = products.reshape(*taps, group * on_top, side_by_side, out, in_).swapaxes(-3, -2)
    kernel = nested.reshape(*taps, group * on_top * out, side_by_side * in_)
    return np.ascontiguousarray(np.moveaxis(kernel, (-2, -1), (0, 1)))


def _steps(
    axes: int,
    stride_first: Sequence[int] | None,
    dilation_first: Sequence[int] | None,
    dilation_second: Sequence[int] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input pixels from tap to tap of either kernel: those of the second lie a stride of the first apart."""
    stride = _per_axis(stride_first, axes, "stride_first")
    second = _per_axis(dilation_second, axes, "dilation_second")
    step_second = tuple(s * d for s, d in zip(stride, second, strict=True))
    return _per_axis(dilation_first, axes, "dilation_first"), step_second


def _over_axes(values: Float64, axes: int) -> Float64:
    """Append `axes` axes of size 1."""
    return values.reshape(*values.shape, *(1,) * axes)


def _per_axis(values: Sequence[int] | None, axes: int, name: str) -> tuple[int, ...]:
    if values is None:
        return (1,) * axes
    if len(values) != axes or any(v < 1 for v in values):
        raise ValueError(f"{name} is {list(values)}: expected {axes} positive numbers")
    return tuple(int(v) for v in values)


def _check_groups(kernel: npt.NDArray[Any], group: int, name: str) -> None:
    if kernel.ndim < 2 or group < 1 or kernel.shape[0] % group:
        raise ValueError(f"{name} of shape {kernel.shape} cannot have {group} groups")


def blocks(weight: Array, group: int) -> list[Array]:
    """The weights of each group, [out/group, in/group, *kernel]."""
    return np.split(weight, group)
