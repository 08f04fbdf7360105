"""PRelu as LeakyRelu, or as a sum of two depthwise 1x1."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, assert_same, counted_macs, make_feeds, run

SLOPES = np.linspace(-0.2, 0.4, 16, dtype=np.float32)


def activated(slopes: Any, channels: int = 16, *, between: bool = True, size: int = 20) -> onnx.ModelProto:
    net = Net()
    x = net.input(["N", channels, size, size])
    x = net.conv(x, channels, pads=[1] * 4) if between else net.op("Sigmoid", x)
    y = net.op("PRelu", x, net.const(np.asarray(slopes, np.float32)))
    return net.model(net.conv(y, 4, (1, 1)) if between else net.op("Sigmoid", y))


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def optimized(before: onnx.ModelProto, **options: Any) -> tuple[graphopt.Result, onnx.ModelProto]:
    result = graphopt.optimize(before, **options)
    after = ir.to_proto(result.model)
    feeds = make_feeds(before, {"N": 2})
    assert_same(run(before, feeds), run(after, feeds))
    return result, after


@pytest.mark.parametrize("shape", [(16, 1, 1), (1, 16, 1, 1)])
def test_slopes_of_channels_become_two_depthwise_convolutions(shape: tuple[int, ...]) -> None:
    result, after = optimized(activated(SLOPES.reshape(shape)))
    assert kinds(after) == ["Conv", "Conv", "Relu", "Conv", "Relu", "Add", "Conv"]
    assert result.report.after.macs == counted_macs(after, make_feeds(after))
    assert result.report.after.macs == (result.report.before.macs or 0) + 2 * 16 * 20 * 20
    assert not graphopt.optimize(after).report.changed


def test_whatever_the_slope_it_is_the_same_to_the_bit() -> None:
    """Where s·x + (1 − s)·max(x, 0) would cancel."""
    net = Net()
    x = net.input([1, 16, 20, 20])
    slopes = np.where(np.arange(16) == 3, -1e6, SLOPES).reshape(16, 1, 1)
    y = net.op("PRelu", net.conv(x, 16, pads=[1] * 4), net.const(slopes.astype(np.float32)))
    before = net.model(y)
    result = graphopt.optimize(before, only=["split_prelu"])
    assert result.report.changed
    feeds = make_feeds(before)
    np.testing.assert_array_equal(run(before, feeds)[0], run(ir.to_proto(result.model), feeds)[0])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("between", [True, False])
def test_one_slope_is_a_leaky_relu(shape: tuple[int, ...], between: bool) -> None:
    result, after = optimized(activated(np.full(shape, 0.3), between=between))
    assert "LeakyRelu" in kinds(after) and "PRelu" not in kinds(after)
    assert result.report.after.macs == result.report.before.macs


def test_equal_slopes_of_all_channels_are_one() -> None:
    assert "LeakyRelu" in kinds(optimized(activated(np.full((16, 1, 1), 0.1)))[1])


@pytest.mark.parametrize(
    ("slopes", "options", "reason"),
    [
        (np.linspace(0, 1, 18).reshape(18, 1, 1), {"channels": 18}, "no blocked kernel for 18 channels"),
        (SLOPES.reshape(16, 1, 1), {"between": False}, "no convolution makes its map or reads it"),
        (np.linspace(0, 1, 20), {}, "not those of channels"),
        (np.full((16, 1, 1), np.inf), {}, "not finite"),
        (np.full((1, 1, 1, 1, 1), 0.3), {"between": False}, "make the map larger"),
        (np.full((3, 1, 1), 0.3), {"channels": 1, "between": False}, "make the map larger"),
    ],
)
def test_others_stay(slopes: Any, options: dict[str, Any], reason: str) -> None:
    result = graphopt.optimize(activated(slopes, **options))
    assert "PRelu" in kinds(ir.to_proto(result.model))
    assert any(reason in each.reason for each in result.report.rejected if each.rewrite == "split_prelu")


def test_a_small_map_on_which_more_operators_take_longer_stays() -> None:
    result = graphopt.optimize(activated(SLOPES.reshape(16, 1, 1), size=2))
    assert "PRelu" in kinds(ir.to_proto(result.model))


def test_the_aim_macs_leaves_it() -> None:
    assert "PRelu" in kinds(optimized(activated(SLOPES.reshape(16, 1, 1)), aim="macs")[1])
