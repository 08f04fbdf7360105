"""propagate_stride: only the positions that are read are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.moving.propagate_stride import PropagateStride
from tests.builders import NEWEST_OPSET, Net, alone, compare_at_sizes, grid

moved = partial(alone, "propagate_stride", saves=True, together=True)
left_alone = partial(alone, "propagate_stride", number=0)


def half(size: int) -> int:
    return -(-size // 2)


def block(net: Net, x: str, axes: int = 2) -> str:
    """conv k3 → Relu → + x → Relu."""
    return net.op("Relu", net.op("Add", net.op("Relu", net.conv(x, 4, (3,) * axes, pads=[1] * 2 * axes)), x))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("opset", [7, 9, 11, 18, NEWEST_OPSET])
def test_residual_block_and_two_readers(axes: int, size: int, opset: int) -> None:
    if opset < 8 and axes == 3:
        pytest.skip("the smallest opsets are covered by fewer axes")
    net = Net(opset)
    y = block(net, net.input([2, 4, *(size + i for i in range(axes))]), axes)
    outputs = [net.conv(y, 6, (1,) * axes, strides=[2] * axes) for _ in range(2)]
    points = 2 * int(np.prod([half(size + i) for i in range(axes)]))
    moved(net, *outputs, macs_after=points * (4 * 4 * 3**axes + 2 * 4 * 6))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_precisions(dtype: Any) -> None:
    net = Net(17, dtype)
    y = block(net, net.input([1, 4, 7, 8]))
    y = net.affine("Mul", y, net.normal(1, 1, 7, 8))  # a constant map is cut in the file
    result = moved(net, net.conv(y, 6, (1, 1), strides=[2, 3]))
    assert max(t.dims[2] for t in result.after.graph.initializer if len(t.dims) == 4) <= 4


def test_symbolic_sizes_and_computed_weights() -> None:
    net = Net()
    x = net.input(["N", 4, "height", "width"])
    y = net.conv(x, 4, weight=net.op("Relu", net.input([4, 4, 3, 3], "w")), pads=[1] * 4)
    y = net.op("Relu", net.op("Add", y, x))
    outputs = [net.conv(y, 6, (1, 1), strides=[2, 2]), net.conv(y, 2, (1, 1), strides=[2, 2])]
    moved(net, *outputs, sizes={"N": 2, "height": 8, "width": 11}, shapes={"x": [2, 4, 8, 11]})


def test_a_whole_stage_of_resnet_v1() -> None:
    net = Net()
    x = net.input([1, 4, 16, 16])
    y = net.op("Relu", net.bn(net.conv(x, 2, (1, 1))))
    y = net.op("Relu", net.bn(net.conv(y, 2, pads=[1] * 4)))
    y = net.op("Relu", net.op("Add", net.bn(net.conv(y, 4, (1, 1))), x))
    z = net.op("Relu", net.conv(y, 2, (1, 1), strides=[2, 2]))
    z = net.conv(net.op("Relu", net.conv(z, 2, pads=[1] * 4)), 8, (1, 1))
    z = net.op("Relu", net.op("Add", z, net.conv(y, 8, (1, 1), strides=[2, 2])))
    z = net.conv(z, 3, (1, 1), strides=[2, 2])
    first = 256 * 8 + 64 * (36 + 8)  # the first 1x1 stays, the 3x3 takes the stride
    second = 64 * 8 + 16 * (36 + 16) + 16 * 32 + 16 * 24  # and so does the next block
    moved(net, z, macs_after=first + second)


@pytest.mark.parametrize("how", ["slice", "pad", "center"])
def test_crops(how: str) -> None:
    net = Net(18)
    y = net.op("Relu", net.conv(net.input([1, 4, 12, 11]), 6, pads=[1] * 4))
    if how == "slice":
        ends = net.const(np.array([-2, 9]))
        z = net.op("Slice", y, net.const(np.array([2, 1])), ends, net.const(np.array([2, 3])))
    elif how == "pad":
        z = net.pad(y, [0, 0, -2, -1, 0, 0, -2, -2])
    else:
        z = net.op("CenterCropPad", y, net.const(np.array([8, 8])), axes=[2, 3])
    moved(net, net.conv(z, 5, (1, 1)), macs_after=64 * (9 * 24 + 30))


def test_crop_at_symbolic_sizes() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, "h", "w"]), 6, pads=[1] * 4)
    ends = net.const(np.array([-3, -1]))
    y = net.op("Slice", y, net.const(np.array([2, 0])), ends, net.const(np.array([2, 3])))
    given = {"sizes": {"h": 9, "w": 10}, "shapes": {"x": [1, 4, 9, 10]}}
    left_alone(net, y, **given)
    done = moved(net, net.op("GlobalMaxPool", y), **given)
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 2 * 6, "where a pixel is left"


def test_crops_of_small_maps() -> None:
    """Where more is cropped than is left, the crop stays behind; a map that can't be so small takes it."""
    net = Net()
    x, both, axes = net.input([1, 4, "h", "w"]), net.const(np.array([1, 1])), net.const(np.array([2, 3]))
    y = net.op("Slice", net.conv(x, 6, pads=[1] * 4), both, net.const(np.array([-1, -1])), axes)
    done = left_alone(net, y, sizes={"h": 6, "w": 6})
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 49
    net = Net()
    x, both, axes = net.input([1, 4, "h", "w"]), net.const(np.array([1, 1])), net.const(np.array([2, 3]))
    y = net.op("Slice", net.conv(x, 6, pads=[2] * 4), both, net.const(np.array([-1, -1])), axes)
    done = moved(net, y, sizes={"h": 6, "w": 6})
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 49


def test_a_crop_of_what_was_resized_by_its_aspect_ratio() -> None:
    """The larger one side of the map, the fewer pixels the other gets: down to none that a crop leaves."""
    net = Net(18)
    x, sizes = net.input([1, 4, "h", "w"]), net.const(np.array([8, 8]))
    y = net.op("Resize", x, "", "", sizes, axes=[2, 3], keep_aspect_ratio_policy="not_larger")
    every = [net.const(np.array([each])) for each in (3, 2**31 - 1, 3)]
    y = net.op("Slice", net.conv(y, 64, (1, 1)), *every)
    result = graphopt.optimize(net.model(y), shapes={"x": [1, 4, 64, 64]}, aim="macs")
    sides = [{"h": h, "w": w} for h in (64, 100) for w in (10, 30, 64)]
    assert compare_at_sizes(net.model(y), ir.to_proto(result.model), sides) == 6


def test_what_a_far_crop_of_a_pool_needs_is_found_at_once() -> None:
    net = Net()
    y = net.op("MaxPool", net.conv(net.input([1, 4, "h", "w"]), 4, (1, 1)), kernel_shape=[2, 2])
    every = [net.const(np.array([each])) for each in (10**12, 2**62, 2)]
    result = graphopt.optimize(net.model(net.conv(net.op("Slice", y, *every), 4, (1, 1))))
    assert result.report.before.macs is None


@pytest.mark.parametrize("taps", [2, 3])
def test_pools_larger_than_their_map(taps: int) -> None:
    """onnxruntime gives one output to a window that hangs over by less than a stride, at one stride only."""
    net = Net()
    y = net.op("Relu", net.conv(net.input([1, 4, "h", "w"]), 4, pads=[1] * 4))
    y = net.op("MaxPool", y, kernel_shape=[taps] * 2, strides=[1, 1])
    every = [net.const(np.array(each)) for each in ([0, 0], [2**31 - 1] * 2, [2, 3], [2, 2])]
    y = net.op("Slice", y, *every)
    done = left_alone(net, y, sizes={"h": 6, "w": 6})
    assert compare_at_sizes(done.before, done.after, grid("h", "w"))
    done = moved(net, net.op("GlobalMaxPool", y), sizes={"h": 6, "w": 6}, saves=False)
    assert compare_at_sizes(done.before, done.after, grid("h", "w")), "no pixel is refused there"


def test_dilated_readers_and_pools_of_kernel_1() -> None:
    net = Net()
    y = net.op("Sigmoid", net.conv(net.input([1, 4, 9, 10]), 4, pads=[1] * 4))
    a = net.conv(y, 6, strides=[2, 2], dilations=[2, 2], pads=[2] * 4)
    b = net.op("MaxPool", y, kernel_shape=[1, 1], strides=[2, 2])
    assert "MaxPool" not in moved(net, a, b, macs_after=25 * (9 * 16 + 9 * 24)).ops


def test_gate_that_is_broadcast() -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", x), 4, (1, 1)))
    y = net.op("Mul", net.conv(x, 4, pads=[1] * 4), gate)
    moved(net, net.conv(y, 6, (1, 1), strides=[2, 2]), macs_after=16 + 25 * (9 * 16 + 24))


TRAPS: dict[str, Callable[[Net, str], Sequence[str]]] = {
    "one reader of all": lambda net, y: [net.conv(y, 6, (1, 1), strides=[2, 2]), net.conv(y, 6, (1, 1))],
    "an output": lambda net, y: [net.conv(y, 6, (1, 1), strides=[2, 2]), y],
    "a dense reader": lambda net, y: [net.conv(y, 6, strides=[2, 2], pads=[1] * 4)],
    "flipped": lambda net, y: [net.op("Slice", y, *(net.const(np.array([v])) for v in (-1, -9, 2, -2)))],
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_stay(trap: str) -> None:
    net = Net()
    y = net.op("Relu", net.conv(net.input([1, 4, 8, 8]), 4, pads=[1] * 4))
    alone("propagate_stride", net, *TRAPS[trap](net, y), number=0)


def test_a_possible_broadcast_of_unknown_size_stays() -> None:
    net = Net()
    x, other = net.input([1, 4, 8, "w"]), net.input([1, 4, 8, "v"], "other")
    model = net.model(net.conv(net.op("Add", net.conv(x, 4, pads=[1] * 4), other), 6, (1, 1), strides=[2, 2]))
    assert not list(PropagateStride().match(Analysis(ir.from_proto(model))))
