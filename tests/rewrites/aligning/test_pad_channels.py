"""Channels that are padded to where depthwise convolutions have a blocked kernel."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from models.architectures import shufflenet_v2
from tests.builders import NEWEST_OPSET, Net, assert_same, counted_macs, initializers, make_feeds, run

NAME = "pad_channels"
SHAPES = {"x": [1, 32, 28, 28]}


def depthwise(net: Net, y: str, **attrs: Any) -> str:
    channels = net.channels[y]
    return net.conv(y, channels, group=channels, **{"pads": [1] * 4, **attrs})


def unit(between: Any = depthwise, channels: int = 58, net: Net | None = None) -> onnx.ModelProto:
    """A 1x1, what is between, and a 1x1, of a model with many other weights."""
    net = net or Net()
    x = net.op("Relu", net.input(["N", 32, "H", "W"]))
    y = between(net, net.conv(x, channels, (1, 1)))
    return net.model(net.op("Relu", net.conv(net.op("Relu", net.conv(y, 64, (1, 1))), 256, (1, 1))))


def optimized(before: onnx.ModelProto, **options: Any) -> tuple[graphopt.Result, onnx.ModelProto]:
    """What becomes of it, the same at several sizes, and again as it is."""
    result = graphopt.optimize(before, shapes=SHAPES, **options)
    after = ir.to_proto(result.model)
    for sizes in ({"N": 1, "H": 28, "W": 28}, {"N": 2, "H": 7, "W": 5}, {"N": 1, "H": 1, "W": 3}):
        feeds = make_feeds(before, sizes)
        assert_same(run(before, feeds), run(after, feeds))
    assert not graphopt.optimize(after, shapes=SHAPES, **options).report.changed
    return result, after


def widths(proto: onnx.ModelProto) -> list[tuple[int, int]]:
    """Output channels and groups of the convolutions."""
    weights = initializers(proto)
    return [
        (len(weights[node.input[1]]), next((a.i for a in node.attribute if a.name == "group"), 1))
        for node in proto.graph.node
        if node.op_type == "Conv"
    ]


def reasons(result: graphopt.Result) -> list[str]:
    left = (*result.report.rejected, *result.report.declined)
    return [each.reason for each in left if each.rewrite == NAME]


def residual(net: Net, y: str) -> str:
    y = net.op("HardSigmoid", net.affine("Add", y, net.per_channel(58)))
    z = net.op("PRelu", depthwise(net, y), net.const(np.linspace(-0.5, 0.5, 58)[:, None, None]))
    return net.op("Add", depthwise(net, net.bn(z)), y)


def squeezed(net: Net, y: str) -> str:
    y = depthwise(net, net.op("Relu", y), strides=[2, 2])
    means = net.op("Relu", net.conv(net.op("GlobalAveragePool", y), 8, (1, 1)))
    return net.op("Mul", y, net.op("Sigmoid", net.conv(means, 58, (1, 1))))


def singular(net: Net, y: str) -> str:
    """What would make no number of zeros."""
    gate = net.affine("Mul", net.op("Sigmoid", depthwise(net, y)), net.per_channel(58))
    return net.op("Reciprocal", gate)


@pytest.mark.parametrize("between", [depthwise, residual, squeezed, singular])
def test_all_that_shares_the_channels_gets_two_more(between: Any) -> None:
    before = unit(between)
    result, after = optimized(before)
    assert [item.candidate.rewrite for item in result.report.applied].count(NAME) == 1
    assert 58 not in {width for width, _ in widths(after)}
    assert {group for _, group in widths(after)} == {1, 60}
    feeds = make_feeds(after, {"N": 1, "H": 28, "W": 28})
    assert result.report.after.macs == counted_macs(after, feeds)


def test_regions_on_both_sides_of_a_convolution_are_padded_at_once() -> None:
    def twice(net: Net, y: str) -> str:
        return depthwise(net, net.conv(depthwise(net, y), 58, (1, 1)))

    assert widths(optimized(unit(twice))[1])[:4] == [(60, 1), (60, 60), (60, 1), (60, 60)]


@pytest.mark.parametrize("opset", [7, 11, 13, NEWEST_OPSET])
def test_at_every_opset(opset: int) -> None:
    net = Net(opset)
    after = optimized(unit(lambda net, y: net.op("Relu", depthwise(net, y)), net=net))[1]
    assert (60, 60) in widths(after)


@pytest.mark.parametrize("channels", [56, 60, 64])
def test_channels_with_a_blocked_kernel_stay(channels: int) -> None:
    result, after = optimized(unit(channels=channels))
    assert widths(after)[0] == (channels, 1) and not reasons(result)


def halves(net: Net, y: str) -> str:
    first, second = net.split(depthwise(net, y), 29, 29)
    return net.op("Concat", net.op("Sigmoid", first), second, axis=1)


def joined(net: Net, y: str) -> str:
    return net.op("Concat", depthwise(net, y), net.op("Sigmoid", y), axis=1)


def softmax(net: Net, y: str) -> str:
    return net.op("Softmax", depthwise(net, y), axis=1)


def grouped(net: Net, y: str) -> str:
    return net.conv(depthwise(net, y), 58, (3, 3), group=29, pads=[1] * 4)


@pytest.mark.parametrize("between", [halves, joined, softmax, grouped])
def test_channels_that_something_needs_as_they_are_stay(between: Any) -> None:
    result, after = optimized(unit(between))
    assert any("needs them as they are" in each for each in reasons(result))
    assert (58, 58) in widths(after)


def test_channels_of_inputs_and_outputs_stay() -> None:
    net = Net()
    x = net.input([1, 58, 28, 28])
    y = depthwise(net, x)
    z = depthwise(net, net.conv(net.op("Relu", net.conv(y, 256, (1, 1))), 58, (1, 1)))
    result = graphopt.optimize(net.model(z))
    assert len(reasons(result)) == 2 and all("inputs or outputs" in each for each in reasons(result))
    assert not result.report.changed


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_stay(dtype: Any) -> None:
    result = graphopt.optimize(unit(net=Net(dtype=dtype)), shapes=SHAPES)
    assert not result.report.changed


def test_shared_weights_are_padded_for_all_that_read_them() -> None:
    def shared(net: Net, y: str) -> str:
        weight = net.const(net.weights(58, 1, 3, 3))
        for _ in range(2):
            y = net.op("Relu", net.conv(y, 58, weight=weight, group=58, pads=[1] * 4))
        return y

    assert [group for _, group in widths(optimized(unit(shared))[1])] == [1, 60, 60, 1, 1]


def test_in_a_body_they_are_padded_too() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 32, 28, 28]))

    def branch(inner: Net) -> str:
        y = inner.conv(depthwise(inner, inner.conv(x, 58, (1, 1))), 64, (1, 1))
        return inner.conv(inner.op("Relu", y), 256, (1, 1))

    result = graphopt.optimize(net.model(net.choose(branch)))
    assert [item.candidate.rewrite for item in result.report.applied].count(NAME) == 2


@pytest.mark.parametrize("options", [{"aim": "macs"}, {"require": ["macs<=1"]}, {"require": ["bytes<=1"]}])
def test_macs_and_bytes_that_are_asked_for_are_not_spent(options: dict[str, Any]) -> None:
    assert widths(optimized(unit(), **options)[1])[0] == (58, 1)


def test_the_aim_macs_takes_them_away_again() -> None:
    before = unit()
    padded = graphopt.optimize(before, shapes=SHAPES)
    assert NAME in {item.candidate.rewrite for item in padded.report.applied}
    pruned = graphopt.optimize(ir.to_proto(padded.model), shapes=SHAPES, aim="macs")
    assert pruned.report.after.macs == padded.report.before.macs


def test_a_whole_network_is_padded_where_it_has_no_blocked_kernels() -> None:
    before = shufflenet_v2(64, units=(2, 1))
    result = graphopt.optimize(before)
    assert Counter(item.candidate.rewrite for item in result.report.applied)[NAME] == 2
    after = ir.to_proto(result.model)
    assert not [width for width, group in widths(after) if group > 1 and width % 4]
    assert_same(run(before, make_feeds(before)), run(after, make_feeds(before)))
    assert not graphopt.optimize(after).report.changed
