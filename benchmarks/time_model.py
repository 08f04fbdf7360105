"""Measures what `graphopt/analysis/time_model.py` predicts: single operators in onnxruntime.

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

from graphopt.analysis.linear import Form, linear_cost
from graphopt.types import Cost


@dataclass(frozen=True, slots=True)
class Case:
    """One convolution: in → out channels, square kernel, square map, groups; transposed where it has a scale.

    A transposed one is as in an upsampling: the map grows by the scale, the kernel by one more than that. One
    along a line has one axis, or two of which the first is one row.
    """

    in_channels: int
    out_channels: int
    kernel: int
    size: int
    group: int = 1
    scale: int = 0
    along: str = ""

    @property
    def taps(self) -> tuple[int, ...]:
        """Its kernel."""
        return {"": (self.kernel,) * 2, "line": (self.kernel,), "row": (1, self.kernel)}[self.along]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its map."""
        return {"": (self.size,) * 2, "line": (self.size,), "row": (1, self.size)}[self.along]

    @property
    def form(self) -> Form:
        """Its strides and pads."""
        if self.scale:
            pad = (self.kernel - self.scale) // 2
            return Form("ConvTranspose", self.group, (self.scale,) * 2, (pad,) * 4, (1, 1), (0, 0))
        ones = (1,) * len(self.taps)
        return Form("Conv", self.group, ones, tuple(k // 2 for k in self.taps) * 2, ones)

    @property
    def cost(self) -> Cost:
        """What graphopt counts for it."""
        weights = (self.out_channels, self.in_channels // self.group, *self.taps)
        return linear_cost(self.form, weights, (1, self.in_channels, *self.sizes), 4)

    def __str__(self) -> str:
        groups = f" g{self.group}" if self.group > 1 else ""
        groups += f" transposed ×{self.scale}" if self.scale else ""
        taps, sizes = ("x".join(map(str, numbers)) for numbers in (self.taps, self.sizes))
        return f"{taps} {self.in_channels}→{self.out_channels} on {sizes}{groups}"


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
    *(Case(64, 64, 1, 28, g) for g in (2, 8, 32)),
    *(Case(c, 64, 3, 28) for c in (20, 61, 62)),
    *(Case(c, m * c, 3, 28, c) for c, m in ((61, 1), (64, 2), (64, 3), (128, 2))),
    *(Case(c, o, 4, s, scale=2) for c, o, s in ((32, 32, 56), (128, 64, 28), (256, 128, 14))),
    Case(64, 64, 4, 28, 64, scale=2),
    Case(64, 64, 3, 28, scale=1),
    *(
        Case(i, o, k, size, along=along)
        for i, o, k, size in (
            *((64, 64, 1, 500), (128, 128, 1, 1000), (256, 256, 1, 400), (512, 512, 1, 100)),
            *((64, 64, 3, 1000), (256, 256, 3, 256), (64, 64, 11, 2048), (16, 16, 7, 4096)),
            *((64, 64, 31, 124), (64, 64, 63, 128), (128, 16, 63, 128), (16, 16, 63, 64)),
        )
        for along in ("line", "row")
    ),
    *(Case(256, 256, k, 200, 256, along=along) for k in (3, 15, 33) for along in ("line", "row")),
)


def measure(case: Case, seconds: float) -> float:
    """The fastest run of the operator alone, in seconds; the session's own overhead included."""
    rng = np.random.default_rng(0)
    channels, form = (case.out_channels, case.in_channels), case.form
    first, second = reversed(channels) if case.scale else channels
    weight = rng.standard_normal((first, second // case.group, *case.taps), np.float32)
    node = helper.make_node(
        form.op, ["x", "w"], ["y"], pads=form.pads, strides=form.strides, group=form.group
    )
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, case.in_channels, *case.sizes])],
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
    print(f"{'operator':32}{'measured µs':>14}{'model µs':>12}{'GMAC/s':>10}{'ratio':>8}")
    for case in CASES:
        measured = measure(case, arguments.seconds) - overhead
        cost = case.cost
        ratios.append(cost.seconds / measured)
        speed = (cost.macs or 0) / measured / 1e9
        print(f"{case!s:32}{measured * 1e6:14.1f}{cost.seconds * 1e6:12.1f}{speed:10.1f}{ratios[-1]:8.2f}")
    low, high = np.percentile(ratios, [10, 90])
    print(f"model over measured: median {statistics.median(ratios):.2f}, 10–90 % {low:.2f}–{high:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
