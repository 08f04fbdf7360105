"""A Resize that repeats pixels, in the way that has a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, assert_same, make_feeds, run

FAST = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor", "mode": b"nearest"}


def repeating(
    scales: tuple[float, ...] = (2, 2), *, opset: int = 17, sizes: list[int] | None = None, **attrs: Any
) -> onnx.ModelProto:
    net = Net(opset)
    x = net.conv(net.input([1, 4, 8, 8] if sizes else ["N", 4, "H", "W"]), 8, (1, 1))
    y = net.resize(x, scales, sizes=sizes, mode="nearest", **attrs)
    net.channels[y] = 8
    return net.model(net.conv(y, 4, (3, 3), pads=[1] * 4))


def attributes(proto: onnx.ModelProto) -> Mapping[str, Any]:
    (node,) = (node for node in proto.graph.node if node.op_type == "Resize")
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def respelled(before: onnx.ModelProto, aim: str = "time") -> onnx.ModelProto:
    result = graphopt.optimize(before, only=["spell_resize"], aim=aim)
    assert not any("verification" in each.reason for each in result.report.declined)
    after = ir.to_proto(result.model)
    for sizes in ({"N": 2, "H": 5, "W": 3}, {"N": 1, "H": 2, "W": 3}, {"N": 3, "H": 16, "W": 31}):
        feeds = make_feeds(before, sizes)
        assert_same(run(before, feeds), run(after, feeds), 0)
    assert not graphopt.optimize(after, only=["spell_resize"], aim=aim).report.changed
    return after


WAYS: dict[str, dict[str, Any]] = {
    "as the standard says by default": {},
    "half a pixel": {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    "PyTorch's": {"coordinate_transformation_mode": "pytorch_half_pixel"},
    "symmetric": {"coordinate_transformation_mode": "half_pixel_symmetric", "opset": 19},
    "asymmetric, rounded": {
        "coordinate_transformation_mode": "asymmetric",
        "scales": (2, 2),
        "nearest_mode": "round_prefer_floor",
    },
    "one axis alone": {"scales": (1, 4)},
    "sizes": {"sizes": [1, 8, 24, 16], "scales": (3, 2)},
    "axes": {"axes": [2, 3], "opset": 18},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_repeats_pixels_is_written_by_floor(way: str) -> None:
    after = respelled(repeating(**{"scales": (3, 2), **WAYS[way]}))
    found = attributes(after)
    assert FAST.items() <= found.items()


STAYING: dict[str, dict[str, Any]] = {
    "written so": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "no whole factor": {"scales": (2.5, 2)},
    "smaller": {"scales": (0.5, 0.5)},
    "corners": {"coordinate_transformation_mode": "align_corners"},
    "asymmetric, rounded, by 3": {"coordinate_transformation_mode": "asymmetric", "scales": (3, 3)},
    "the pixel above": {"nearest_mode": "ceil"},
}


@pytest.mark.parametrize("way", STAYING)
def test_what_picks_other_pixels_stays(way: str) -> None:
    before = repeating(**{"scales": (2, 2), **STAYING[way]})
    assert attributes(respelled(before)) == attributes(before)


def test_scales_that_are_computed_stay() -> None:
    net = Net(17)
    x, scales = net.input(["N", 4, "H", "W"]), net.input([4], "scales")
    before = net.model(net.op("Resize", x, "", scales, mode="nearest"))
    assert not graphopt.optimize(before, only=["spell_resize"]).report.changed


@pytest.mark.parametrize("samples", [0.5, 2, 1.5])
def test_a_resize_of_samples_stays(samples: float) -> None:
    net = Net(17)
    x, scales = net.input([4, 4, 8, 8]), net.const(np.array([samples, 1, 2, 2], np.float32))
    before = net.model(net.op("Resize", x, "", scales, mode="nearest", nearest_mode="round_prefer_ceil"))
    report = graphopt.optimize(before, only=["spell_resize"]).report
    assert not report.changed and not report.declined


def test_a_size_for_open_samples_stays() -> None:
    net = Net(17)
    x, sizes = net.input(["N", 4, 8, 8]), net.const(np.array([4, 4, 16, 16]))
    before = net.model(net.op("Resize", x, "", "", sizes, mode="nearest", nearest_mode="round_prefer_ceil"))
    report = graphopt.optimize(before, only=["spell_resize"]).report
    assert not report.changed and not report.declined


def test_the_aim_macs_leaves_it() -> None:
    before = repeating()
    assert attributes(respelled(before, "macs")) == attributes(before)
