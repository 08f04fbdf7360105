"""resize_after_pointwise: a 1x1 moves in front of an enlargement, also through a Concat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import Net, alone

checked = partial(alone, "resize_after_pointwise")
left_alone = partial(checked, number=0)


def enlarged(
    opset: int = 17,
    *,
    shape: Sequence[Any] = (1, 4, 5, 6),
    scales: Sequence[float] = (2, 2),
    between: str = "",
    conv: dict[str, Any] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    net = Net(opset)
    y = net.resize(net.input(shape), scales, **attrs)
    if between == "affine":
        y = net.bn(net.affine("Mul", y, net.per_channel(4)))
    elif between:
        y = net.op(between, y)
    return net.model(net.conv(y, 6, (1,) * len(scales), **(conv or {})))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9, 10, 13, 18])
def test_every_form_of_resizing(opset: int, mode: str) -> None:
    done = checked(enlarged(opset, mode=mode), macs_after=4 * 6 * 30)
    assert done.after.graph.node[0].op_type == "Conv"


@pytest.mark.parametrize(
    "attrs",
    [
        {"mode": "cubic", "cubic_coeff_a": -0.5},
        {"mode": "cubic", "exclude_outside": 1},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "nearest", "nearest_mode": "ceil"},
        {"mode": "linear", "sizes": (1, 4, 11, 13)},
        {"mode": "nearest", "sizes": (11, 13), "axes": [2, 3]},
        {"mode": "linear", "axes": [2, 3]},
        {"mode": "linear", "axes": [3, 2], "scales": (1.5, 3)},
        {"mode": "linear", "antialias": 1},
    ],
)
def test_attributes(attrs: dict[str, Any]) -> None:
    """The resizing keeps its attributes; sizes that name the channels get the new number."""
    checked(enlarged(18, **attrs))


def test_sizes_computed_at_run_time() -> None:
    """As exporters write them: the batch and the channels of one map, the size of another."""
    net = Net()
    x, other = net.input([1, 4, "h", "w"]), net.input([1, 4, "p", "q"], "other")
    parts = [
        net.op("Slice", net.op("Shape", v), net.const(np.array([a])), net.const(np.array([b])))
        for v, a, b in ((x, 0, 2), (other, 2, 4))
    ]
    y = net.op("Resize", x, "", "", net.op("Concat", *parts, axis=0), mode="linear", channels=4)
    model = net.model(net.conv(y, 6, (1, 1)))
    checked(
        model,
        sizes={"h": 3, "w": 4, "p": 7, "q": 9},
        shapes={"x": (1, 4, 3, 4), "other": (1, 4, 7, 9)},
    )


@pytest.mark.parametrize("between", ["Relu", "Sigmoid", "affine", "Identity"])
def test_nearest_passes_what_works_pixel_by_pixel(between: str) -> None:
    checked(enlarged(between=between, mode="nearest"), macs_after=4 * 6 * 30)


def test_dynamic_sizes_groups_and_other_numbers_of_axes() -> None:
    checked(enlarged(shape=("n", 4, "h", "w"), mode="linear"), sizes={"h": 3, "w": 5})
    checked(enlarged(conv={"group": 2}))
    checked(enlarged(shape=(1, 4, 5), scales=(3,)), macs_after=4 * 6 * 5)
    checked(enlarged(shape=(1, 4, 2, 3, 4), scales=(2, 1, 2)), macs_after=4 * 6 * 24)


# ---------------------------------------------------------------- through a Concat


def neck(
    scales: Sequence[int], *, mode: str = "nearest", behind: str = "", weights: str = "", group: int = 1
) -> onnx.ModelProto:
    """Maps of 12·12 pixels, each enlarged by its own scale, joined, and a 1x1."""
    net = Net()
    parts = []
    for i, scale in enumerate(scales):
        x = net.input([1, 4, 12 // scale, 12 // scale], f"x{i}")
        parts.append(x if scale == 1 else net.resize(x, (scale, scale), mode=mode))
    y = net.op("Concat", *parts, axis=1)
    if behind:
        y = net.op(behind, y, channels=4 * len(scales))
    weight: Any = None
    if weights:
        weight = net.input([6, 4 * len(scales), 1, 1], "w")
    return net.model(net.conv(y, 6, (1, 1), weight=weight, group=group))


@pytest.mark.parametrize("scales", [(2, 1), (1, 4, 2), (2, 2, 1), (2, 3, 4, 6), (1, 2, 1)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_parts_of_a_concat(scales: tuple[int, ...], mode: str) -> None:
    """Each part at its own size."""
    expected = sum(4 * 6 * (12 // scale) ** 2 for scale in scales)
    done = checked(neck(scales, mode=mode), macs_after=expected)
    assert done.ops["Resize"] == len(set(scales) - {1})


def test_all_parts_enlarged_alike_are_joined_first() -> None:
    done = checked(neck((3, 3)), macs_after=2 * 4 * 6 * 16)
    assert done.ops == {"Concat": 1, "Conv": 1, "Resize": 1}


def test_weights_computed_at_run_time() -> None:
    """Their columns are gathered."""
    checked(neck((2, 1), weights="w"))


def test_relu_behind_the_concat() -> None:
    checked(neck((2, 1), behind="Relu"), macs_after=4 * 6 * (36 + 144))
    left_alone(neck((2, 1), behind="Relu", mode="linear"), because=("is not linear",))


def test_a_concat_that_others_read_stays() -> None:
    net = Net()
    x, z = net.input([1, 4, 6, 6]), net.input([1, 4, 12, 12], "z")
    y = net.op("Concat", net.resize(x, (2, 2), mode="nearest"), z, axis=1)
    model = net.model(net.conv(y, 6, (1, 1)), net.op("Relu", y))
    assert checked(model, macs_after=4 * 6 * (36 + 144)).ops["Resize"] == 2


# ---------------------------------------------------------------- traps

CROPPED = {"coordinate_transformation_mode": "tf_crop_and_resize"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "linear", "between": "Relu"}, "does not commute"),
        ({**CROPPED, "mode": "linear", "extrapolation_value": 3.0}, "tf_crop"),
        ({"conv": {"pads": [1, 1, 1, 1]}}, "it pads"),
        ({"conv": {"strides": [2, 2]}}, "skips pixels"),
        ({"scales": (0.5, 0.5)}, "makes no more pixels"),
    ],
)
def test_refused(options: dict[str, Any], reason: str) -> None:
    left_alone(enlarged(**options), because=(reason,))


def test_scaled_channels_stay() -> None:
    net = Net()
    y = net.op("Resize", net.input([1, 4, 5, 6]), "", net.scales(1, 2, 2, 2), mode="nearest", channels=8)
    left_alone(net.model(net.conv(y, 6, (1, 1))), because=("scales the channels",))


def test_groups_across_a_concat_stay() -> None:
    checked(neck((2, 1), group=1))
    net = Net()
    x, z = net.input([1, 4, 6, 6]), net.input([1, 4, 12, 12], "z")
    y = net.op("Concat", net.resize(x, (2, 2), mode="nearest"), z, axis=1)
    left_alone(net.model(net.conv(y, 6, (1, 1), group=2)), because=("2 groups",))
