"""drop_ceil_mode: where it adds no window, and onnx and onnxruntime tell the size in two ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, alone, check, compare_at_sizes

TRIMMED = {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}
"""Of 5 pixels it makes 2; with a window that starts behind them, as onnx's rule up to opset 21 has it, 3."""


def behind(net: Net, x: str, *, pool: str = "MaxPool", **attrs: Any) -> str:
    """A pooling, a 1x1 with a bias and a padded 3x3, whose size nobody declares."""
    y = net.op(pool, x, **{**TRIMMED, **attrs})
    return net.op("ReduceSum", net.conv(net.conv(y, 24, (1, 1)), 6, pads=[1] * 4), keepdims=0)


@pytest.mark.parametrize("size", [5, 11])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_convolutions_behind_it_collapse(pool: str, size: int) -> None:
    net = Net()
    found = check(net.model(behind(net, net.input(["N", 8, size, size]), pool=pool)))
    assert found.applied == {"drop_ceil_mode": 1, "collapse": 1}


@pytest.mark.parametrize("counts", [0, 1])
def test_an_average_stays_the_same(counts: int) -> None:
    net = Net()
    y = behind(net, net.input([1, 4, 5, 11]), pool="AveragePool", count_include_pad=counts)
    alone("drop_ceil_mode", net, y)


LEFT: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "it adds a window": ([1, 4, 6, 6], {"pads": [0] * 4, "strides": [2, 2]}, 17),
    "one axis gains a window": ([1, 4, 5, 7], {"pads": [1, 0, 1, 0], "strides": [3, 3]}, 17),
    "the sizes are open": ([1, 4, "H", "W"], {}, 17),
    "all rules agree": ([1, 4, 5, 5], {}, 22),
    "no rest": ([1, 4, 7, 7], {}, 17),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_alone(case: str) -> None:
    shape, attrs, opset = LEFT[case]
    net = Net(opset=opset)
    pool = net.op("MaxPool", net.input(shape), **{**TRIMMED, **attrs})
    alone(
        "drop_ceil_mode",
        net,
        net.op("GlobalMaxPool", net.conv(pool, 4, (1, 1))),
        number=0,
        sizes={"H": 5, "W": 5},
    )


def unreachable(net: Net, *others: str) -> onnx.ModelProto:
    """A model that is not run as a whole, since nobody tells the shape of its second input."""
    model = net.model(*others)
    model.graph.input[1].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize(
    "before",
    [
        lambda net, x: net.op("MaxPool", x, **TRIMMED),
        lambda net, x: net.op("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER"),
        lambda net, x: net.resize(x, (10 / 3, 10 / 3), mode="linear"),
    ],
    ids=["ceil_mode", "dilated SAME", "scales in single precision"],
)
def test_no_map_is_stored_for_a_size_that_is_told_in_two_ways(before: Any) -> None:
    """onnxruntime checks a constant against the size that it infers, and adds it to the one that it makes."""
    net = Net()
    x, z = net.input([1, 8, 3, 11]), net.input([1, 1, 1, 1], "z")
    y = net.conv(net.conv(before(net, x), 24, (1, 1)), 16, pads=[1] * 4)
    zero = net.conv(before(net, x), 16, weight=np.zeros((16, 8, 3, 3)), pads=[1] * 4)
    model = unreachable(net, net.op("ReduceSum", net.op("Mul", net.op("Add", y, zero), z), keepdims=0))
    result = graphopt.optimize(model, aim="macs", skip=["drop_ceil_mode"])
    whole = onnx.ModelProto()
    whole.CopyFrom(ir.to_proto(result.model))
    for each in (model, whole):
        each.graph.input[1].type.tensor_type.shape.dim.add(dim_value=1)
    assert compare_at_sizes(model, whole, [{}], tolerance=1e-4) == 1
