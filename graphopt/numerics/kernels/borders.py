"""What a constant shift of a convolution's input does to its output near zero padding, in plain NumPy.

A per-channel constant v that is added to the input in front of zero padding reaches output position q as

    Σ over i, and over the taps t that land on the input, of W[o, i, t] · v[i],

which is one number per output channel only where every tap lands. On one axis, tap t of position q lands
when 0 ≤ q·stride − pad_begin + t·dilation < size. Positions with the same landing taps form a zone: for a 3x3
with pads 1 and stride 1 there are three an axis (first, interior, last), so 3·3 numbers a channel hold a map
of any size.

    reads = [conv_reads(size, 3, pad_begin=1, pad_end=1) for size in (20, 20)]
    small = ZonedMap.uniform_map(shift, (20, 20)).convolved(weight, reads)  # values [out_channels, 3, 3]
    full = small.expanded()                                                 # [out_channels, 20, 20]

`ZonedMap` carries such a constant through any chain of Conv and ConvTranspose, and counts zones by itself;
`landing` serves poolings too. Everything returns float64, bool or int64, and raises ValueError for sizes that
do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.types import Array, Float64


def conv_reads(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    pad_begin: int = 0,
    pad_end: int = 0,
    dilation: int = 1,
    outputs: int | None = None,
) -> npt.NDArray[np.int64]:
    """Return the input position that each tap reads, ``[outputs, kernel]``, −1 for padding, for one axis.

    Args:
        size: input positions.
        kernel: taps.
        stride: step between two output positions.
        pad_begin: zeros in front of the input.
        pad_end: zeros behind it.
        dilation: distance between two taps.
        outputs: number of output positions; None for those of a Conv. (A pooling in ceil mode has others.)

    Returns:
        ``[outputs, kernel]``: positions of the input, and −1 where a tap reads padding.

    Raises:
        ValueError: a size is not positive, or the kernel does not fit the padded input.
    """
    if min(size, kernel, stride, dilation) < 1:
        raise ValueError(f"size {size}, kernel {kernel}, stride {stride}, dilation {dilation}: all from 1 on")
    if outputs is None:
        outputs = (size + pad_begin + pad_end - dilation * (kernel - 1) - 1) // stride + 1
    if outputs < 1:
        raise ValueError(f"{kernel} taps at dilation {dilation} do not fit {size} positions with their pads")
    read = np.arange(outputs)[:, None] * stride - pad_begin + np.arange(kernel)[None, :] * dilation
    return np.where((read >= 0) & (read < size), read, -1)


def transpose_reads(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    pad_begin: int = 0,
    pad_end: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> npt.NDArray[np.int64]:
    """Return what `conv_reads` does for a ConvTranspose, whose pads crop; −1 where a tap reads nothing.

    Args:
        size: input positions.
        kernel: taps.
        stride: output positions between two input positions.
        pad_begin: outputs that are cropped in front.
        pad_end: outputs that are cropped behind.
        dilation: distance between two taps in the output.
        output_padding: positions added behind the output.

    Returns:
        ``[outputs, kernel]``: positions of the input, and −1 where a tap reads nothing.

    Raises:
        ValueError: a size is not positive, or no output is left.
    """
    outputs = (size - 1) * stride + dilation * (kernel - 1) + 1 - pad_begin - pad_end + output_padding
    if min(size, kernel, stride, dilation, outputs) < 1:
        raise ValueError(f"no output of {size} positions, {kernel} taps, pads {pad_begin} and {pad_end}")
    steps = np.arange(outputs)[:, None] + pad_begin - np.arange(kernel)[None, :] * dilation
    lands = (steps % stride == 0) & (steps >= 0) & (steps // stride < size)
    return np.where(lands, steps // stride, -1)


def conv_reads_per_axis(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> list[npt.NDArray[np.int64]]:
    """Return `conv_reads` of every axis of a Conv; `pads` has (begin…, end…) as in ONNX.

    Args:
        sizes: input positions per spatial axis.
        kernel: taps per spatial axis.
        strides: step between two output positions, per axis.
        pads: zeros around the input, (begin…, end…).
        dilations: distance between two taps, per axis.

    Returns:
        For each axis ``[outputs, kernel]``.

    Raises:
        ValueError: the numbers of axes differ.
    """
    axes = len(kernel)
    if not len(sizes) == len(strides) == len(dilations) == axes or len(pads) != 2 * axes:
        raise ValueError(f"sizes {sizes}, strides {strides}, dilations {dilations}, pads {pads}: {axes} axes")
    return [
        conv_reads(
            sizes[a],
            kernel[a],
            stride=strides[a],
            pad_begin=pads[a],
            pad_end=pads[a + axes],
            dilation=dilations[a],
        )
        for a in range(axes)
    ]


class ZonedMap(NamedTuple):
    """A constant map whose values repeat along each axis, stored once a zone.

    Attributes:
        values: ``[channels, *zones]``, float64.
        zones: for each axis ``[size]``, the zone of each position.
    """

    values: Float64
    zones: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def uniform_map(cls, values: Array, sizes: Sequence[int]) -> ZonedMap:
        """Return one value a channel, ``[channels]``, at every position."""
        first = values.astype(np.float64).reshape(-1, *(1,) * len(sizes))
        return cls(first, tuple(np.zeros(size, np.int64) for size in sizes))

    @property
    def uniform(self) -> bool:
        """Whether each channel has one value everywhere."""
        flat = self.values.reshape(self.values.shape[0], -1)
        return bool(np.all(flat == flat[:, :1]))

    def shifted(self, bias: Array | None) -> ZonedMap:
        """Return the map plus one number a channel."""
        if bias is None:
            return self
        return self._replace(values=self.values + bias.reshape(-1, *(1,) * len(self.zones)))

    def plus(self, other: ZonedMap) -> ZonedMap:
        """Return the sum of two maps of one size, with zones in which neither changes."""
        mine, theirs, zones = self.values, other.values, []
        for axis, pair in enumerate(zip(self.zones, other.zones, strict=True), start=1):
            table, index = np.unique(np.stack(pair, axis=1), axis=0, return_inverse=True)
            mine, theirs = np.take(mine, table[:, 0], axis), np.take(theirs, table[:, 1], axis)
            zones.append(index.reshape(-1).astype(np.int64))
        return ZonedMap(mine + theirs, tuple(zones))

    def convolved(self, kernel: Array, reads: Sequence[npt.NDArray[np.int64]], group: int = 1) -> ZonedMap:
        """Return the map behind a convolution, biases aside.

        Args:
            kernel: ``[out_channels, in_channels / group, *taps]``.
            reads: for each axis what `conv_reads` or `transpose_reads` says.
            group: number of groups.

        Returns:
            The map of ``[out_channels]`` values a zone, with zones counted anew.

        Raises:
            ValueError: the kernel does not fit the map's channels, or the reads do not fit the kernel.
        """
        out_channels, per_group, *taps = kernel.shape
        if self.values.shape[0] != per_group * group or [r.shape[1] for r in reads] != taps:
            raise ValueError(f"a kernel {kernel.shape} with {group} groups on {self.values.shape}")
        tables, index = [], []
        for read, zone in zip(reads, self.zones, strict=True):
            origin = np.where(read >= 0, zone[read], -1)
            table, inverse = np.unique(origin, axis=0, return_inverse=True)
            tables.append(table)
            index.append(inverse.reshape(-1).astype(np.int64))
        shape = [len(table) for table in tables]
        padded = np.pad(self.values, [(0, 0), *[(0, 1)] * len(tables)])  # position −1 holds 0
        blocks = kernel.astype(np.float64).reshape(group, out_channels // group, per_group, *taps)
        result = np.zeros((group, out_channels // group, math.prod(shape)))
        for tap in np.ndindex(*taps):
            met = padded
            for axis, (table, t) in enumerate(zip(tables, tap, strict=True), start=1):
                met = np.take(met, table[:, t], axis=axis)
            result += blocks[(slice(None),) * 3 + tap] @ met.reshape(group, per_group, -1)
        return ZonedMap(result.reshape(out_channels, *shape), tuple(index))

    def expanded(self) -> Float64:
        """Return the map in full, ``[channels, *sizes]``."""
        values = self.values
        for axis, index in enumerate(self.zones, start=1):
            values = np.take(values, index, axis=axis)
        return values


def landing(size: int, kernel: int, **options: int | None) -> npt.NDArray[np.bool_]:
    """Return which taps land on the input, ``[outputs, kernel]``, for one axis; arguments: `conv_reads`.

    Args:
        size: input positions.
        kernel: taps.
        **options: stride, pads, dilation and outputs, as `conv_reads` takes them.

    Returns:
        ``[outputs, kernel]``: whether a tap of an output position reads the input, not padding.
    """
    lands: npt.NDArray[np.bool_] = conv_reads(size, kernel, **options) >= 0  # type: ignore[arg-type]
    return lands
