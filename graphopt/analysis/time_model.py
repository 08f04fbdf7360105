"""A static model of onnxruntime's time: no clock, so that a decision by it is the same on every run.

One operator takes as long as its arithmetic or its memory traffic needs, whichever is longer, and an
overhead for being called. onnxruntime has two kernels for convolutions. The blocked one computes whole blocks
of channels, so channels count rounded up; it asks for channel counts that fit (nchwc_transformer.cc). All
others write the taps that each output reads as one column of a matrix (a ConvTranspose: the taps that each
input makes), which is moved as well, and between blocked ones their input and output change layout. A
convolution of one spatial axis is always computed so; as one of two, on a map of one row, it is blocked.
"""

from __future__ import annotations

BLOCK = 16
"""Channels that a blocked kernel computes, and reads, at once: derived, float32 in a register of AVX-512 (8
on AVX2)."""
ALIGNMENT = 4
"""Input channels from `BLOCK` on that are no multiple of this have no blocked kernel; measured by
benchmarks.thresholds: ALIGNMENT, onnxruntime has none for 18 and 22, and one for 20 and 24."""
DENSE_MACS_PER_SECOND = 57e9
"""Of a float32 convolution at one thread, whole blocks, measured by benchmarks/time_model.py."""
LINE_MACS_PER_SECOND = 50e9
"""Of one along a line, as a product of matrices, measured by the same: 0.72 to 0.90 of the blocked kernel's
speed, of one tap, 32 to 512 channels and 100 to 2,000 samples."""
DEPTHWISE_MACS_PER_SECOND = 19e9
"""Of a depthwise convolution, measured by the same."""
BYTES_PER_SECOND = 20e9
"""Of reading and writing activations that are in the cache, measured by the same."""
COLUMN_BYTES_PER_SECOND = 12e9
"""Of the matrix of columns, written and read again, measured by the same."""
LINE_COLUMN_BYTES_PER_SECOND = 20e9
"""Of that matrix along a line, whose rows are copied whole: measured by the same."""
INTERLEAVED_BYTES_PER_SECOND = 4.5e9
"""Of reading and writing in DepthToSpace, which moves single elements, measured by benchmarks/aim_time.py."""
SLOW_SECONDS = {"Log": 2.5e-9, "Mish": 15e-9, "PRelu": 4.2e-9, "Softplus": 14e-9}
"""Of an element in operators whose kernels have no vectors, beside the passes: measured by
benchmarks/aim_time.py, PRelu 4.1 to 4.6, Softplus 14 to 15 between two convolutions of 16 to 256 channels;
onnxruntime runs Mish as Softplus, Tanh and Mul."""
LOOKED_UP_SECONDS = 1.4e-9
"""Of an element in a nearest Resize that has no kernel, beside the pass: measured by benchmarks/aim_time.py,
1.1 to 1.4 alone and 1.9 to 2.4 between two convolutions of 16 to 64 channels."""
EDGE = 2.5
"""Times as long as others take outputs of a row whose window leaves the map, since the blocked kernel
computes them one by one: measured by the same, 1.7 to 3.2 with 9 to 512 taps, 2.4 to 2.7 depthwise."""
LONG_WINDOW = 7
"""Taps from which on that shows: measured by the same, 1.0 to 1.2 with 3 and 5."""
SECONDS_PER_CALL = 2e-6
"""Overhead of one operator, measured by the same."""


def seconds(
    macs: int,
    out_channels: int,
    in_channels_per_group: int,
    group: int,
    moved_bytes: int,
    *,
    column_bytes: int = 0,
    planar: bool = True,
    line: bool = False,
    edge: float = 0.0,
) -> float:
    """Expected seconds of one operator at one thread.

    Args:
        macs: its multiply-accumulates; 0 for operators that only pass over their input.
        out_channels: output channels.
        in_channels_per_group: input channels that one output channel reads.
        group: number of groups.
        moved_bytes: bytes of its input and output.
        column_bytes: bytes of the matrix that it makes where no blocked kernel fits.
        planar: whether it is a convolution of two spatial axes; only those are blocked.
        line: whether it is a convolution of one spatial axis.
        edge: part of its outputs whose window leaves the map along a row, where that shows.

    Returns:
        Seconds on the processor that the constants were measured on.
    """
    if not planar or not blocked(out_channels, in_channels_per_group, group):
        speed = LINE_MACS_PER_SECOND if line else DENSE_MACS_PER_SECOND
        copying = LINE_COLUMN_BYTES_PER_SECOND if line else COLUMN_BYTES_PER_SECOND
        arithmetic = macs / speed + column_bytes / copying
        arithmetic += planar * moved_bytes / BYTES_PER_SECOND
    elif group > 1 and in_channels_per_group == 1:
        arithmetic = macs / DEPTHWISE_MACS_PER_SECOND * (1 + edge * (EDGE - 1))
    else:
        padding = _rounded_up(out_channels // group)
        if in_channels_per_group > BLOCK:
            padding *= _rounded_up(in_channels_per_group)
        arithmetic = macs * padding / DENSE_MACS_PER_SECOND * (1 + edge * (EDGE - 1))
    return max(arithmetic, moved_bytes / BYTES_PER_SECOND) + SECONDS_PER_CALL


def blocked(out_channels: int, in_channels_per_group: int, group: int) -> bool:
    """Whether onnxruntime has a blocked kernel for these channels.

    Args:
        out_channels: output channels.
        in_channels_per_group: input channels that one output channel reads.
        group: number of groups.

    Returns:
        Whether it has.
    """
    if group == 1:
        return in_channels_per_group < BLOCK or in_channels_per_group % ALIGNMENT == 0
    if in_channels_per_group == 1 and out_channels == group:
        return out_channels % ALIGNMENT == 0
    return in_channels_per_group % BLOCK == 0 and out_channels // group % BLOCK == 0


def reorder_seconds(bytes_: int) -> float:
    """Expected seconds of a change of layout of so many bytes, into blocks of channels or out of them."""
    return 2 * bytes_ / BYTES_PER_SECOND + SECONDS_PER_CALL


def _rounded_up(channels: int) -> float:
    """How many times more channels are computed than asked for."""
    return -(-channels // BLOCK) * BLOCK / channels if channels else 1.0
