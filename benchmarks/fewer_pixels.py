"""Latency of the rewrites that move a convolution to fewer pixels, against what the static model expects.

    python -m benchmarks.fewer_pixels [--repeat 15]

Prints, for realistic shapes, microseconds at one thread before and after under ``--aim macs``, the model's
figures, and whether the default ``--aim time`` takes the rewrite. It never should where that is slower.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import onnx
import onnx_ir as ir

import graphopt
from tests.builders import Net, make_feeds, session
from tests.rewrites.moving.test_resize_after_pointwise import resize

REWRITES = ["pool_first", "resize_after_pointwise", "resize_before_pointwise", "resize_phases"]


def joined(
    scales: Sequence[int], channels: int, out: int, size: int, kernel: int, mode: str = "nearest"
) -> onnx.ModelProto:
    """Maps enlarged to one size, joined, and a convolution: a neck (1x1) or a text-detection head (3x3)."""
    net = Net()
    parts = []
    for i, scale in enumerate(scales):
        x = net.input([1, channels, size // scale, size // scale], f"x{i}")
        parts.append(x if scale == 1 else resize(net, x, (scale, scale), mode=mode))
    y = parts[0] if len(parts) == 1 else net.op("Concat", *parts, axis=1)
    net.channels[y] = channels * len(scales)
    return net.model(net.conv(y, out, (kernel, kernel), pads=[kernel // 2] * 4))


def pooled(
    channels: int, out: int, size: int, kernel: int, group: int = 1, whole: bool = False
) -> onnx.ModelProto:
    """A convolution and an average over 2x2 windows, or over the whole map."""
    net = Net()
    x = net.input([1, channels, size, size])
    y = net.conv(x, out, (kernel, kernel), pads=[kernel // 2] * 4, group=group)
    if whole:
        return net.model(net.op("GlobalAveragePool", y))
    return net.model(net.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2]))


CASES: dict[str, onnx.ModelProto] = {
    "1x1, 2x2 average (DenseNet)": pooled(256, 128, 28, 1),
    "1x1 to few channels, 2x2 average": pooled(512, 16, 28, 1),
    "3x3, 2x2 average": pooled(64, 64, 56, 3),
    "depthwise 3x3, 2x2 average": pooled(64, 64, 56, 3, 64),
    "3x3, global average": pooled(512, 512, 7, 3, whole=True),
    "x4 linear, 1x1 to classes": joined((4,), 64, 21, 64, 1, "linear"),
    "x2 linear, 1x1 to many channels": joined((2,), 16, 256, 40, 1, "linear"),
    "x2 and x1 joined, 1x1 (YOLO neck)": joined((2, 1), 128, 128, 40, 1),
    "the same, few channels in": joined((2, 1), 32, 256, 40, 1),
    "x2, 3x3": joined((2,), 64, 64, 56, 3),
    "x2 and x1 joined, 3x3 (U-Net)": joined((2, 1), 64, 64, 56, 3),
    "x8, x4, x2, x1 joined, 3x3 (DB head)": joined((8, 4, 2, 1), 64, 64, 80, 3),
}


def microseconds(models: Sequence[onnx.ModelProto], repeat: int) -> list[float]:
    """Median run times, taken in turn."""
    sessions = [session(model, optimised=True) for model in models]
    feeds = make_feeds(models[0])
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repeat):
        for running, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            running.run(None, feeds)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1e6 for taken in times]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeat", type=int, default=15)
    repeat = parser.parse_args().repeat
    print(f"{'case':40s} {'before':>8s} {'after':>8s}   model before → after   default")
    for name, model in CASES.items():
        moved = graphopt.optimize(model, aim="macs", only=REWRITES)
        taken = graphopt.optimize(model, only=REWRITES).report.changed
        before, after = microseconds([model, ir.to_proto(moved.model)], repeat)
        costs = [(item.candidate.before, item.candidate.after) for item in moved.report.applied]
        expected = [sum(cost.seconds for cost in side) * 1e6 for side in zip(*costs, strict=True)]
        print(
            f"{name:40s} {before:8.0f} {after:8.0f}   {expected[0]:8.0f} → {expected[1]:8.0f}   "
            f"{'taken' if taken else 'left'}{'  SLOWER' if taken and after > 1.03 * before else ''}"
        )


if __name__ == "__main__":
    main()
