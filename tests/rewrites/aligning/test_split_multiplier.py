"""Depthwise convolutions with several filters a channel as several with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import NEWEST_OPSET, Net, assert_same, counted_macs, make_feeds, run

NAME = "split_multiplier"


def multiplied(
    times: int = 2, channels: int = 16, between: Any = None, net: Net | None = None, **attrs: Any
) -> onnx.ModelProto:
    """A map, a depthwise convolution of several filters a channel, what is between, and a 1x1."""
    net = net or Net()
    x = net.op("Relu", net.input(["N", channels, "H", "W"]))
    y = net.conv(x, times * channels, group=channels, **{"pads": [1] * 4, **attrs})
    y = y if between is None else between(net, y)
    return net.model(net.op("Relu", net.conv(y, 8, (1, 1))))


def optimized(before: onnx.ModelProto, **options: Any) -> tuple[graphopt.Result, onnx.ModelProto]:
    """What becomes of it, the same at several sizes, and again as it is."""
    result = graphopt.optimize(before, shapes={"x": [1, before_channels(before), 40, 40]}, **options)
    after = ir.to_proto(result.model)
    for sizes in ({"N": 1, "H": 20, "W": 20}, {"N": 2, "H": 7, "W": 5}, {"N": 1, "H": 3, "W": 1}):
        feeds = make_feeds(before, sizes)
        assert_same(run(before, feeds), run(after, feeds))
    again = graphopt.optimize(after, shapes={"x": [1, before_channels(before), 40, 40]}, **options)
    assert not again.report.changed
    return result, after


def before_channels(proto: onnx.ModelProto) -> int:
    return proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value


def groups(proto: onnx.ModelProto) -> list[int]:
    return [
        next((a.i for a in node.attribute if a.name == "group"), 1)
        for node in proto.graph.node
        if node.op_type == "Conv"
    ]


def reasons(result: graphopt.Result) -> list[str]:
    return [each.reason for each in result.report.rejected if each.rewrite == NAME]


def silu(net: Net, y: str) -> str:
    return net.op("Mul", y, net.op("Sigmoid", y))


def slopes(net: Net, y: str) -> str:
    return net.op("PRelu", y, net.const(np.linspace(-0.5, 0.5, net.channels[y])[:, None, None]))


def scaled(net: Net, y: str) -> str:
    """Two operators on one map, their product with numbers of channels, and pooled."""
    gate = net.affine("Add", net.op("Tanh", y), net.per_channel(net.channels[y]))
    return net.op("MaxPool", net.op("Mul", gate, y), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("between", [None, silu, slopes, scaled])
def test_each_filter_has_its_own_operators_and_its_part_of_the_1x1(times: int, between: Any) -> None:
    before = multiplied(times, between=between)
    result, after = optimized(before)
    assert NAME in [item.candidate.rewrite for item in result.report.applied]
    assert groups(after).count(16) >= times and groups(after).count(1) == times
    feeds = make_feeds(after, {"N": 1, "H": 40, "W": 40})
    assert result.report.after.macs == counted_macs(after, feeds)


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": [2, 1], "pads": [0, 2, 1, 0]},
        {"dilations": [2, 2], "pads": [2] * 4},
        {"auto_pad": "SAME_LOWER", "pads": None, "strides": [2, 2]},
        {"kernel": (5, 1), "pads": [2, 0, 2, 0]},
        {"bias": False},
    ],
)
def test_whatever_its_form(attrs: dict[str, Any]) -> None:
    attrs = {"pads": [1] * 4, **attrs}
    attrs = {key: value for key, value in attrs.items() if value is not None}
    net = Net()
    x = net.op("Relu", net.input(["N", 16, "H", "W"]))
    y = net.conv(x, 48, attrs.pop("kernel", (3, 3)), group=16, **attrs)
    before = net.model(net.conv(y, 8, (1, 1)))
    assert groups(optimized(before)[1]).count(16) == 3


def test_a_larger_kernel_and_several_readers_read_their_parts_too() -> None:
    net = Net()
    x = net.op("Relu", net.input(["N", 16, "H", "W"]))
    y = net.op("Relu", net.conv(x, 32, group=16, pads=[1] * 4))
    first = net.conv(y, 8, (3, 3), pads=[1] * 4)
    second = net.conv(net.op("Sigmoid", y), 8, (1, 1), bias=False)
    before = net.model(net.op("Mul", first, net.op("Tanh", second)))
    assert groups(optimized(before)[1]) == [16, 1, 1, 16, 1, 1]


@pytest.mark.parametrize("opset", [7, 11, 13, NEWEST_OPSET])
def test_at_every_opset(opset: int) -> None:
    before = multiplied(between=lambda net, y: net.op("Relu", y), net=Net(opset))
    assert groups(optimized(before)[1]).count(16) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_stay(dtype: Any) -> None:
    result = graphopt.optimize(multiplied(net=Net(dtype=dtype)), shapes={"x": [1, 16, 20, 20]})
    assert any("float32" in each for each in reasons(result))
    assert groups(ir.to_proto(result.model)) == [16, 1]


def outside(net: Net, y: str) -> str:
    other = net.op("Exp", net.input(["N", 32, "H", "W"], "z"))
    return net.op("Mul", y, other)


def mixed(net: Net, y: str) -> str:
    return net.op("Softmax", y, axis=1)


def grouped(net: Net, y: str) -> str:
    return net.conv(net.op("Sigmoid", y), 32, (3, 3), group=8, pads=[1] * 4)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (outside, "reads another map of as many channels"),
        (mixed, "is neither on each channel nor dense"),
        (grouped, "is neither on each channel nor dense"),
    ],
)
def test_what_is_not_on_each_channel_keeps_it(between: Any, reason: str) -> None:
    before = multiplied(between=between)
    shapes = {each.name: [1, 32 if each.name == "z" else 16, 20, 20] for each in before.graph.input}
    result = graphopt.optimize(before, shapes=shapes)
    assert any(reason in each for each in reasons(result))
    assert 16 in groups(ir.to_proto(result.model))


def test_an_output_of_the_graph_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 16, 20, 20]), 32, group=16)
    result = graphopt.optimize(net.model(y, net.conv(y, 4, (1, 1))))
    assert any("leaves the graph" in each for each in reasons(result))


def test_channels_without_a_blocked_kernel_stay() -> None:
    result = graphopt.optimize(multiplied(channels=18), shapes={"x": [1, 18, 20, 20]})
    assert any("no blocked kernel for 18 channels" in each for each in reasons(result))


def test_weights_that_a_caller_may_override_stay() -> None:
    net = Net()
    weight = net.const(net.weights(32, 1, 3, 3), overridable=True)
    y = net.conv(net.input([1, 16, 20, 20]), 32, weight=weight, group=16)
    before = net.model(net.conv(y, 4, (1, 1)))
    result = graphopt.optimize(before)
    assert groups(ir.to_proto(result.model)) == [16, 1]


def test_in_a_body_it_is_split_too() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 16, 20, 20]))

    def branch(inner: Net) -> str:
        return inner.conv(inner.conv(x, 32, group=16), 4, (1, 1))

    result = graphopt.optimize(net.model(net.choose(branch)))
    assert [item.candidate.rewrite for item in result.report.applied].count(NAME) == 2


def test_the_aim_macs_leaves_it() -> None:
    assert groups(optimized(multiplied(), aim="macs")[1]) == [16, 1]
