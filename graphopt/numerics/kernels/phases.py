"""Convolutions on a map whose pixels are repeated, as convolutions on the map itself; plain NumPy.

Repeating each pixel s times puts pixel ⌊y / s⌋ at position y (nearest-neighbour upsampling). A convolution
behind it reads at output position q and tap t

    position q·stride + t·dilation − pad_begin,   pixel ⌊(q·stride + t·dilation − pad_begin) / s⌋,

and padding exactly where that pixel is outside of the map. Position q = r + period·i with
period = s / gcd(s, stride) is in phase r, whose taps read fixed distances around pixel i·step,
step = stride / gcd(s, stride). Taps that read the same pixel add up. For a 3x3 behind ×2 each phase reads
two pixels an axis: four 2x2 kernels, 16 taps where there were 36. Where s is larger than the kernel, phases
in the middle of a pixel are the same: ×8 has 3 distinct ones an axis with 2, 1 and 2 pixels, 25 taps for 576.

With stride 1, all phases together are one transposed convolution of stride s whose kernel is the full
convolution of s ones with the mirrored kernel: s + dilation·(k − 1) taps an axis.

Kernels are ``[out_channels, in_channels / group, *taps]`` as in `numerics.kernels.algebra`.
Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?" (arXiv 1609.07009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from graphopt.types import Array, Float64


class Phase(NamedTuple):
    """What one phase reads along one axis, in pixels relative to the one at ``i · step``.

    Attributes:
        reads: the pixel that each tap of the convolution reads.
    """

    reads: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first pixel."""
        return min(self.reads)

    @property
    def last(self) -> int:
        """The last pixel."""
        return max(self.reads)

    @property
    def dilation(self) -> int:
        """The distance between two taps on the map."""
        return math.gcd(*(read - self.first for read in self.reads)) or 1

    @property
    def taps(self) -> int:
        """The extent on the map, in taps."""
        return (self.last - self.first) // self.dilation + 1


class Axis(NamedTuple):
    """One axis of a convolution on a repeated map.

    Attributes:
        scale: how often each pixel is repeated.
        step: pixels between two outputs of the same phase.
        phases: one a phase; as many as there are outputs before the pattern repeats.
        pad_end: for each phase, zeros that its convolution needs behind the map.
        surplus: outputs that the phases together make too many, at the end.
    """

    scale: int
    step: int
    phases: tuple[Phase, ...]
    pad_end: tuple[int, ...]
    surplus: int

    @property
    def period(self) -> int:
        """The number of phases."""
        return len(self.phases)

    @property
    def distinct(self) -> tuple[Phase, ...]:
        """The phases that differ, in the order of their first."""
        return tuple(dict.fromkeys(self.phases))

    @property
    def taps(self) -> int:
        """Taps of all distinct phases together."""
        return sum(phase.taps for phase in self.distinct)

    def positions(self, size: int) -> int:
        """How many outputs one phase has on a map of this size."""
        phase, pad_end = self.phases[0], self.pad_end[0]
        return (size - phase.first + pad_end - (phase.last - phase.first) - 1) // self.step + 1


def axis(
    scale: int, taps: int, *, stride: int = 1, dilation: int = 1, pad_begin: int = 0, pad_end: int = 0
) -> Axis | None:
    """Return the phases along one axis; None unless one of stride and scale is a multiple of the other.

    Args:
        scale: how often each pixel is repeated.
        taps: of the convolution.
        stride: of the convolution.
        dilation: of the convolution.
        pad_begin: zeros in front of the repeated map.
        pad_end: zeros behind it.

    Returns:
        The phases, or None.

    Raises:
        ValueError: a number is not positive, or a pad negative.
    """
    if min(scale, taps, stride, dilation) < 1 or min(pad_begin, pad_end) < 0:
        raise ValueError(f"scale {scale}, {taps} taps, stride {stride}, pads {pad_begin} and {pad_end}")
    if stride % scale and scale % stride:
        return None
    period = scale // math.gcd(scale, stride)
    phases = tuple(
        Phase(tuple((stride * r + t * dilation - pad_begin) // scale for t in range(taps)))
        for r in range(period)
    )
    room = pad_begin + pad_end - dilation * (taps - 1) - 1  # where the last window starts, less scale · size
    if period == 1:
        return Axis(scale, stride // scale, phases, (room // scale + phases[0].last + 1,), 0)
    added = room // stride + 1  # outputs, less period · size
    ends = tuple(-(-added // period) + phase.last for phase in phases)
    return Axis(scale, 1, phases, ends, -added % period)


def phase_kernel(kernel: Array, phases: Sequence[Phase]) -> Float64:
    """Return the kernel of one phase: taps that read the same pixel are added.

    Args:
        kernel: the kernel on the repeated map.
        phases: what each axis reads.

    Returns:
        ``[out_channels, in_channels / group, *taps]``: `Phase.taps` taps an axis, `Phase.dilation` apart.
    """
    result: Float64 = kernel.astype(np.float64)
    for number, phase in enumerate(phases, start=2):
        places = [(read - phase.first) // phase.dilation for read in phase.reads]
        adding = np.zeros((phase.taps, len(places)))
        adding[places, range(len(places))] = 1.0
        result = np.moveaxis(np.moveaxis(result, number, -1) @ adding.T, -1, number)
    return np.ascontiguousarray(result)


def transposed_kernel(
    kernel: Array, scales: Sequence[int], dilations: Sequence[int]
) -> tuple[Float64, tuple[int, ...]]:
    """Return the kernel of the one transposed convolution, and its dilations.

    Its stride is the scale, its pads are ``dilation · (taps − 1) − pad`` at either end. Only for stride 1.

    Args:
        kernel: the kernel on the repeated map.
        scales: how often each pixel is repeated, per axis.
        dilations: of the convolution, per axis.

    Returns:
        ``[out_channels, in_channels / group, *taps]``, and the distance between its taps.
    """
    result: Float64 = kernel.astype(np.float64)
    kept = []
    for number, (scale, dilation) in enumerate(zip(scales, dilations, strict=True), start=2):
        taps = result.shape[number]
        spacing = dilation if scale > 1 else 1
        spread = np.zeros((scale + spacing * (taps - 1), taps))
        for t in range(taps):
            spread[spacing * (taps - 1 - t) : spacing * (taps - 1 - t) + scale, t] = 1.0
        result = np.moveaxis(np.moveaxis(result, number, -1) @ spread.T, -1, number)
        kept.append(1 if scale > 1 else dilation)
    return np.ascontiguousarray(result), tuple(kept)


def repeats(scale: int, transformation: str, nearest_mode: str) -> bool:
    """Whether nearest-neighbour resizing by a whole factor puts pixel ⌊y / scale⌋ at position y.

    Args:
        scale: the factor.
        transformation: `coordinate_transformation_mode` of ONNX Resize.
        nearest_mode: `nearest_mode` of ONNX Resize.

    Returns:
        False for modes that are not known.
    """
    if scale == 1 and transformation == "align_corners":
        return True
    places = np.arange(2 * scale, 4 * scale)  # away from the border, where pixels are clamped
    match transformation:
        case "asymmetric":
            doubled = 2 * places  # everything times 2·scale, in whole numbers
        case "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric":
            doubled = 2 * places + 1 - scale
        case "tf_half_pixel_for_nn":
            doubled = 2 * places + 1
        case _:  # align_corners depends on the size, tf_crop_and_resize on a region
            return False
    unit = 2 * scale
    match nearest_mode:
        case "floor":
            found = doubled // unit
        case "ceil":
            found = -(-doubled // unit)
        case "round_prefer_floor":
            found = -((scale - doubled) // unit)
        case "round_prefer_ceil":
            found = (doubled + scale) // unit
        case _:
            return False
    # A pixel in front of the map is clamped to the first one, where ⌊y / scale⌋ is that one too.
    return bool(np.array_equal(found, places // scale))
