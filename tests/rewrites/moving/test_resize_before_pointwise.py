"""resize_before_pointwise: a 1x1 moves behind a reduction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import onnx
import pytest

from tests.builders import Net, alone, compare_at_sizes, grid

checked = partial(alone, "resize_before_pointwise")
left_alone = partial(checked, number=0)


def reduced(
    opset: int = 18,
    *,
    shape: Sequence[Any] = (1, 4, 9, 12),
    scales: Sequence[float] = (0.5, 0.5),
    between: str = "",
    conv: dict[str, Any] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    net = Net(opset)
    y = net.conv(net.input(shape), 6, (1,) * len(scales), **(conv or {}))
    if between == "affine":
        y = net.affine("Mul", y, net.per_channel(6))
    elif between:
        y = net.op(between, y)
    return net.model(net.resize(y, scales, **attrs))


@pytest.mark.parametrize(
    "attrs",
    [
        {"mode": "nearest"},
        {"mode": "nearest", "between": "Relu"},
        {"mode": "nearest", "between": "Atan"},
        {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "linear"},
        {"mode": "linear", "between": "affine"},
        {"mode": "linear", "antialias": 1},
        {"mode": "cubic", "exclude_outside": 1},
        {"mode": "linear", "sizes": (1, 6, 3, 5)},
        {"mode": "linear", "scales": (0.25, 2.0)},
    ],
)
def test_fewer_pixels_first(attrs: dict[str, Any]) -> None:
    done = checked(reduced(**attrs))
    size = done.after.graph.output[0].type.tensor_type.shape.dim
    assert done.macs_after == 4 * 6 * size[2].dim_value * size[3].dim_value


def test_opset_10_strides_and_dynamic_sizes() -> None:
    checked(reduced(10, mode="nearest"))
    checked(reduced(mode="linear", conv={"strides": [2, 1]}))
    checked(reduced(mode="nearest", shape=(1, 4, 9), scales=(0.4,)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_open_sizes_of_which_a_pixel_is_left(mode: str) -> None:
    """A map of one pixel is halved to none, on which no convolution runs; what is read behind tells more."""
    at = {"h": 9, "w": 6}
    done = left_alone(reduced(mode=mode, shape=("n", 4, "h", "w")), sizes=at, because=("leaves no pixel",))
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 49
    net = Net()
    y = net.resize(net.conv(net.input(["n", 4, "h", "w"]), 6, (1, 1)), (0.5, 0.5), mode=mode)
    done = checked(net, net.op("GlobalMaxPool", net.op("Relu", y)), sizes=at)
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 36
    net = Net()
    x = net.op("Relu", net.pad(net.input(["n", 4, "h", "w"]), (0, 0, 1, 1, 0, 0, 0, 0)))
    done = checked(net, net.resize(net.conv(x, 6, (1, 1)), (0.5, 0.5), mode=mode), sizes=at)
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 49


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"conv": {"pads": [1, 1, 0, 0]}}, "pads"),
        ({"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop"),
    ],
)
def test_refused(options: dict[str, Any], reason: str) -> None:
    left_alone(reduced(**options), because=(reason,))


def test_relu_in_front_of_a_mean_stays() -> None:
    left_alone(reduced(mode="linear", between="Relu"))


def test_enlarging_stays() -> None:
    left_alone(reduced(scales=(2, 2)))


def test_another_reader_keeps_the_convolution() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 8, 8]), 6, (1, 1))
    left_alone(
        net.model(net.resize(y, (0.5, 0.5), mode="nearest"), net.op("Relu", y)), because=("other readers",)
    )
