"""What runs in the kernel of a convolution, against the kernels that onnxruntime runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.analysis.fusions.convolutions import absorbed
from graphopt.analysis.snapshot import Analysis
from graphopt.pipeline.scanning.times import measured
from graphopt.runtime.profiling import kernels
from tests.builders import batch_norm, make_feeds, model, node, weight

BEHIND = {
    "batch norm": "n = BatchNormalization (c, bn/scale, bn/shift, bn/mean, bn/var)  y = Relu (n)",
    "shift and scale": "s = Add (c, one)  m = Mul (s, one)  y = Sigmoid (m)",
    "relu": "y = Relu (c)",
    "leaky relu": "y = LeakyRelu (c)",
    "clip": "y = Clip (c, low, high)",
    "tanh": "y = Tanh (c)",
    "hard sigmoid": "y = HardSigmoid (c)",
    "another activation": "y = Erf (c)",
    "prelu": "y = PRelu (c, one)",
    "two readers": "r = Relu (c)  t = Tanh (c)  y = Mul (r, t)",
    "after the activation": "r = Relu (c)  y = Mul (r, one)",
    "sum": "d = Conv (x, v)  s = Add (c, d)  y = Relu (s)",
    "sum of two sums": "d = Conv (x, v)  s = Add (c, d)  t = Add (s, d)  y = Relu (t)",
    "product": "d = Conv (x, v)  y = Mul (c, d)",
    "batch norm at the end": "r = Relu (c)  y = BatchNormalization (r, bn/scale, bn/shift, bn/mean, bn/var)",
    "sum with itself": "y = Add (c, c)",
}


def built(behind: str, channels: int, overridable: str = "") -> onnx.ModelProto:
    shapes = {"w": (channels, channels, 3, 3), "v": (channels, channels, 1, 1)}
    weights = {name: weight(*shape) for name, shape in shapes.items()}
    weights |= {"one": np.full((channels, 1, 1), 1.5, np.float32), **batch_norm("bn", channels)}
    weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = [node("Conv", "x w", "c", pads=[1, 1, 1, 1])]
    for part in filter(None, behind.split("  ")):
        output, call = part.split(" = ")
        op, read = call.rstrip(")").split(" (")
        nodes.append(node(op, read.replace(",", ""), output))
    used = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in weights.items() if name in used}
    return model(nodes, kept, inputs={"x": [1, channels, 8, 8]}, overridable=overridable.split())


@pytest.mark.parametrize("channels", [16, 18], ids=["blocked", "not blocked"])
@pytest.mark.parametrize("behind", BEHIND)
def test_what_onnxruntime_runs_no_kernel_for(behind: str, channels: int) -> None:
    agrees(built(BEHIND[behind], channels))


@pytest.mark.parametrize("overridable", ["w", "bn/mean", "w bn/scale bn/shift bn/mean bn/var"])
def test_what_a_caller_may_override_is_taken_in_by_no_weights(overridable: str) -> None:
    agrees(built(BEHIND["batch norm"], 18, overridable))


def agrees(proto: onnx.ModelProto) -> None:
    """The operators that take a pass of their own are those that onnxruntime runs kernels for."""
    analysis = Analysis(ir.from_proto(proto))
    others = measured(analysis, kernels(analysis.model, make_feeds(proto))).others or ()
    ran = {row.op: row.number for row in others if row.op != "changes of layout"}
    taken = absorbed(analysis)
    assert ran == Counter(
        each.op_type for each in analysis.model.graph if each.op_type != "Conv" and each not in taken
    )
