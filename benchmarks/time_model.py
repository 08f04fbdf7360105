"""Measures what the static time model (`graphopt/timing.py`) predicts: single operators in onnxruntime.

Prints the constants that the measurements give on this machine, and the predicted against the measured time
of each operator. One thread; the fastest of many runs counts, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from graphopt import timing


@dataclass(frozen=True, slots=True)
class Case:
    """One convolution: in → out channels, square kernel, square map, groups."""

    in_channels: int
    out_channels: int
    kernel: int
    size: int
    group: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates at stride 1 with padding that keeps the size."""
        return self.out_channels * self.in_channels // self.group * self.kernel**2 * self.size**2

    @property
    def moved_bytes(self) -> int:
        """Bytes of input and output."""
        return 4 * (self.in_channels + self.out_channels) * self.size**2

    @property
    def predicted(self) -> float:
        """Seconds by the static model."""
        per_group = self.in_channels // self.group
        return timing.seconds(self.macs, self.out_channels, per_group, self.group, self.moved_bytes)

    def __str__(self) -> str:
        groups = f" g{self.group}" if self.group > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.in_channels}→{self.out_channels} on {self.size}²{groups}"


CASES = (
    *(
        Case(c, c, k, s)
        for c, s in ((16, 56), (32, 56), (64, 56), (128, 28), (256, 14), (512, 7))
        for k in (1, 3)
    ),
    *(Case(64, r, 1, 28) for r in (8, 16, 24, 33, 48)),
    *(Case(64, r, 3, 28) for r in (8, 16, 24, 33, 48)),
    *(Case(r, 64, 3, 28) for r in (3, 8, 16, 33, 48)),
    *(Case(c, c, 3, 28, c) for c in (32, 64, 128)),
    *(Case(128, 128, 3, 28, g) for g in (2, 4, 8, 32)),
)


def measure(case: Case, seconds: float) -> float:
    """The fastest run of the operator alone, in seconds; the session's own overhead included."""
    rng = np.random.default_rng(0)
    shape = (case.out_channels, case.in_channels // case.group, case.kernel, case.kernel)
    weight = rng.standard_normal(shape, np.float32)
    pad = case.kernel // 2
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[pad] * 4, group=case.group)
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, case.in_channels, case.size, case.size])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(weight, "w")],
    )
    return fastest(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), seconds
    )


def fastest(model: onnx.ModelProto, seconds: float) -> float:
    """The fastest run of a model at one thread within about so many seconds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    shape = session.get_inputs()[0].shape
    feed = {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - start)
    return float(best)


def elementwise(channels: int, size: int, seconds: float) -> float:
    """The fastest run of one Sigmoid-free elementwise operator (Neg), in seconds."""
    shape = [1, channels, size, size]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return fastest(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), seconds
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each operator")
    arguments = parser.parse_args(argv)
    overhead = elementwise(1, 1, arguments.seconds)
    large = elementwise(256, 112, arguments.seconds) - overhead
    print(
        f"session and call {overhead * 1e6:.1f} µs; {2 * 4 * 256 * 112**2 / large / 1e9:.1f} GB/s elementwise"
    )
    ratios = []
    print(f"{'operator':26}{'measured µs':>14}{'model µs':>12}{'GMAC/s':>10}{'ratio':>8}")
    for case in CASES:
        measured = measure(case, arguments.seconds) - overhead
        ratios.append(case.predicted / measured)
        speed = case.macs / measured / 1e9
        print(f"{case!s:26}{measured * 1e6:14.1f}{case.predicted * 1e6:12.1f}{speed:10.1f}{ratios[-1]:8.2f}")
    low, high = np.percentile(ratios, [10, 90])
    print(f"model over measured: median {statistics.median(ratios):.2f}, 10–90 % {low:.2f}–{high:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
