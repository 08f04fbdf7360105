"""Where the channels of a value lie, and what lies side by side on their axis."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.analysis.channels import Channels
from graphopt.analysis.snapshot import Analysis
from tests.builders import model, node, weight

CONV = node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1])


def channels(proto: onnx.ModelProto) -> tuple[Channels, ir.Value]:
    analysis = Analysis(ir.from_proto(proto))
    found = Channels(analysis.model, analysis.shape, analysis.constant)
    return found, analysis.model.graph.outputs[0]


def behind(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """Operators behind a convolution of 6 channels on maps of 10 by 10."""
    weights = {"w": weight(6, 4, 3, 3), **constants}
    return model([CONV, *nodes], weights, inputs={"x": ["N", 4, 10, 10]})


CASES = {
    "a convolution": ([node("Relu", "c", "y")], 1),
    "channels last": ([node("Transpose", "c", "y", perm=[0, 2, 3, 1])], 3),
    "channels first again": (
        [node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("Transpose", "t", "y", perm=[0, 3, 1, 2])],
        1,
    ),
    "one row of places": ([node("Reshape", "c s", "y")], 1),
    "pooled and flat": ([node("GlobalAveragePool", "c", "p"), node("Flatten", "p", "y")], 1),
    "a constant before": ([node("Mul", "k c", "y")], 1),
    "a mean over places": ([node("ReduceMean", "c", "y", axes=[2, 3], keepdims=0)], 1),
    "a mean over the first": (
        [node("Transpose", "c", "t", perm=[2, 0, 1, 3]), node("ReduceMean", "t", "y", axes=[0], keepdims=0)],
        1,
    ),
    "a matrix": ([node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("MatMul", "t v", "y")], 3),
    "a softmax over places": ([node("Reshape", "c s", "r"), node("Softmax", "r", "y", axis=2)], 2),
}


@pytest.mark.parametrize("name", CASES)
def test_the_axis_is_followed_from_the_layer(name: str) -> None:
    nodes, expected = CASES[name]
    constants = {
        "s": np.array([0, 6, -1]),
        "k": np.full(1, 2, np.float32),
        "v": weight(6, 5),
    }
    read = {each for one in nodes for each in one.input}
    found, output = channels(behind(*nodes, **{k: v for k, v in constants.items() if k in read}))
    assert found.axis(output) == expected


@pytest.mark.parametrize(("shape", "axis"), [([1, -1, 5], 2), ([1, 5, -1], 1), ([-1], None), ([5, -1], 1)])
def test_where_nothing_tells_there_are_fewer_channels_than_places(shape: list[int], axis: int | None) -> None:
    found, output = channels(
        model(
            [CONV, node("Reshape", "c s", "y")],
            {"w": weight(6, 4, 3, 3), "s": np.array(shape)},
            inputs={"x": [1, 4, 10, 10]},
        )
    )
    assert found.axis(output) == axis


def detector(*, axis: int = 1) -> onnx.ModelProto:
    """Boxes and probabilities of classes side by side, as detectors return them."""
    return behind(
        node("Split", "c sizes", "boxes logits", axis=1),
        node("Sigmoid", "logits", "scores"),
        node("Mul", "boxes k", "pixels"),
        node("Concat", "pixels scores", "j", axis=axis),
        node("Transpose", "j", "y", perm=[0, 2, 3, 1]),
        sizes=np.array([4, 2] if axis == 1 else [3, 3]),
        k=np.full(1, 320, np.float32),
    )


def test_what_is_side_by_side_on_the_channels_axis_is_compared_apart() -> None:
    found, output = channels(detector())
    assert found.axis(output) == 3
    parts = [(part.source.name, part.start, part.stop) for part in found.parts(output)]
    assert parts == [("pixels", 0, 4), ("scores", 4, 6)]
    signals = [(signal.name, signal.axis, signal.common) for signal in found.signals(output)]
    assert signals == [("pixels", 1, False), ("logits", 1, False), ("scores", 1, True)]


def test_maps_side_by_side_are_one() -> None:
    found, output = channels(detector(axis=2))
    assert [part.source for part in found.parts(output)] == [output]


@pytest.mark.parametrize("opset", [11, 13])
def test_a_softmax_means_the_axis_that_it_meant_in_its_time(opset: int) -> None:
    proto = model(
        [node("Softmax", "x", "y")],
        {},
        inputs={"x": ["N", 5, 1, 1]},
        opset=opset,
        outputs={"y": ["N", 5, 1, 1]},
    )
    found, output = channels(proto)
    assert found.axis(output) == (1 if opset < 13 else 3)
