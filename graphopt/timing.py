"""A static model of onnxruntime's time: no clock, so that a decision by it is the same on every run.

One operator takes as long as its arithmetic or its memory traffic needs, whichever is longer, and an
overhead for being called. Convolution kernels compute whole blocks of channels, so channels count rounded up.
"""

from __future__ import annotations

OUT_BLOCK = 16
"""Output channels that a convolution kernel computes at once (float32, AVX-512; 8 on AVX2)."""
IN_BLOCK = 8
"""Input channels that it reads at once, where there are more than `OUT_BLOCK`."""
DENSE_MACS_PER_SECOND = 57e9
"""Of a float32 convolution at one thread, whole blocks, measured by benchmarks/time_model.py."""
DEPTHWISE_MACS_PER_SECOND = 19e9
"""Of a depthwise convolution, measured by the same."""
BYTES_PER_SECOND = 20e9
"""Of reading and writing activations that are in the cache, measured by the same."""
SECONDS_PER_CALL = 2e-6
"""Overhead of one operator, measured by the same."""


def seconds(macs: int, out_channels: int, in_channels_per_group: int, group: int, moved_bytes: int) -> float:
    """Expected seconds of one operator at one thread.

    Args:
        macs: its multiply-accumulates; 0 for operators that only pass over their input.
        out_channels: output channels.
        in_channels_per_group: input channels that one output channel reads.
        group: number of groups.
        moved_bytes: bytes of its input and output.
    """
    if group > 1 and in_channels_per_group == 1:
        arithmetic = macs / DEPTHWISE_MACS_PER_SECOND
    else:
        padding = _rounded_up(max(out_channels // group, 1), OUT_BLOCK)
        if in_channels_per_group > OUT_BLOCK:
            padding *= _rounded_up(in_channels_per_group, IN_BLOCK)
        arithmetic = macs * padding / DENSE_MACS_PER_SECOND
    return max(arithmetic, moved_bytes / BYTES_PER_SECOND) + SECONDS_PER_CALL


def _rounded_up(channels: int, block: int) -> float:
    """How many times more channels are computed than asked for."""
    return -(-channels // block) * block / channels
