"""A static model of onnxruntime's time: no clock, so that a decision by it is the same on every run.

One operator takes as long as its arithmetic or its memory traffic needs, whichever is longer, and an
overhead for being called. Convolution kernels compute whole blocks of channels, so channels count rounded up.
"""

from __future__ import annotations

CHANNEL_BLOCK = 16
"""Channels that a convolution kernel computes at once (float32, AVX-512; 8 on AVX2)."""
MACS_PER_SECOND = 30e9
"""Of a dense float32 convolution at one thread, measured (benchmarks/time_model.py)."""
BYTES_PER_SECOND = 8e9
"""Of reading and writing activations at one thread, measured (benchmarks/time_model.py)."""
SECONDS_PER_CALL = 3e-6
"""Overhead of one operator, measured (benchmarks/time_model.py)."""


def seconds(macs: int, out_channels: int, in_channels_per_group: int, group: int, moved_bytes: int) -> float:
    """Expected seconds of one linear operator at one thread.

    Args:
        macs: its multiply-accumulates.
        out_channels: output channels.
        in_channels_per_group: input channels that one output channel reads.
        group: number of groups.
        moved_bytes: bytes of its input and output.
    """
    per_group = max(out_channels // group, 1)
    padding = _blocks(per_group) * _blocks(in_channels_per_group) if group == 1 else 1.0
    return max(macs * padding / MACS_PER_SECOND, moved_bytes / BYTES_PER_SECOND) + SECONDS_PER_CALL


def _blocks(channels: int) -> float:
    """How many times more channels are computed than asked for."""
    return -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK / channels
