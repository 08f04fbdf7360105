"""Instance normalisation in pieces as the operator, from the spellings that exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from tests.builders import Net
from tests.rewrites.spelling.spelled import Number, between, kernels, respelled

SCALE = np.linspace(0.5, 2, 16).reshape(16, 1, 1)
SHIFT = np.linspace(-1, 1, 16).reshape(1, 16, 1, 1)


def average(net: Net, x: str, axes: tuple[int, ...] = (2, 3), **more: int) -> str:
    if net.opset < 18:
        return net.op("ReduceMean", x, axes=list(axes), **more)
    return net.op("ReduceMean", x, net.const(np.array(axes)), **more)


def pieces(net: Net, x: str, n: Number, how: str = "quotient", axes: tuple[int, ...] = (2, 3)) -> str:
    """The normalisation, its root used in one of several ways."""
    mean = net.op("GlobalAveragePool", x) if how == "pooled" else average(net, x, axes)
    centred = net.op("Sub", x, mean)
    square = net.op("Pow", centred, n(2)) if how == "power" else net.op("Mul", centred, centred)
    root = net.op("Sqrt", net.op("Add", average(net, square, axes), n(1e-3)))
    if how == "apart":
        inverse = net.op("Mul", net.op("Reciprocal", root), n(SCALE))
        shift = net.op("Sub", n(SHIFT), net.op("Mul", mean, inverse))
        return net.op("Add", net.op("Mul", x, inverse), shift)
    if how == "reciprocal":
        y = net.op("Mul", centred, net.op("Div", n(1), root))
    else:
        y = net.op("Div", centred, root)
    return y if how == "plain" else net.op("Add", net.op("Mul", y, n(SCALE)), n(SHIFT))


WAYS = ("quotient", "reciprocal", "power", "pooled", "apart", "plain")


@pytest.mark.parametrize("opset", [7, 13, 17, 18, 21])
@pytest.mark.parametrize("how", WAYS)
def test_every_spelling_becomes_the_operator(how: str, opset: int) -> None:
    proto = between(lambda net, x, n: pieces(net, x, n, how), opset=opset)
    after = respelled("spell_instance_norm", proto)
    assert [node.op_type for node in after.graph.node] == ["Conv", "InstanceNormalization", "Conv"]
    assert "InstanceNormalization" in kernels(after)


def left(proto: onnx.ModelProto) -> None:
    report = graphopt.optimize(proto, only=["spell_instance_norm"]).report
    assert not report.applied


@pytest.mark.parametrize("axes", [(2,), (1, 2, 3), (0, 2, 3), (3,)])
def test_other_axes_stay(axes: tuple[int, ...]) -> None:
    left(between(lambda net, x, n: pieces(net, x, n, axes=axes)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_stay(dtype: Any) -> None:
    def alone(net: Net, x: str) -> str:
        return pieces(net, x, lambda value: net.const(np.asarray(value, dtype)), "quotient")

    net = Net(dtype=dtype)
    left(net.model(alone(net, net.input([2, 16, 5, 5]))))


def test_what_is_read_besides_stays() -> None:
    net = Net()
    x = net.input([2, 16, 5, 5])
    mean = average(net, x)
    centred = net.op("Sub", x, mean)
    variance = average(net, net.op("Mul", centred, centred))
    root = net.op("Sqrt", net.op("Add", variance, net.const(np.float32(1e-3))))
    left(net.model(net.op("Div", centred, root), centred))


def test_scales_along_another_axis_stay_behind_the_operator() -> None:
    def other(net: Net, x: str, n: Number) -> str:
        return net.op("Mul", pieces(net, x, n, "plain"), n(np.linspace(0.5, 2, 6)))

    after = respelled("spell_instance_norm", between(other))
    assert [node.op_type for node in after.graph.node] == ["Conv", "InstanceNormalization", "Mul", "Conv"]
