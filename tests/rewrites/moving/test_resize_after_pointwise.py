"""resize_after_pointwise: a 1x1 moves in front of an enlargement, also through a Concat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.builders import Net, check

ONLY: dict[str, Any] = {"only": ["resize_after_pointwise"]}
APPLIED = {"resize_after_pointwise": 1}


def resize(
    net: Net, x: str, scales: Sequence[float], *, sizes: Sequence[int] | None = None, **attrs: Any
) -> str:
    """A Resize or Upsample in the form that the opset has; scales of the spatial axes."""
    factors = np.array([*([] if "axes" in attrs else [1, 1]), *scales], np.float32)
    if net.opset < 9:
        return net.op("Upsample", x, scales=[float(v) for v in factors], **attrs)
    name = net._fresh("scales")
    net.initializers.append(numpy_helper.from_array(factors, name))
    if net.opset < 11:
        return net.op("Upsample" if net.opset == 9 else "Resize", x, name, **attrs)
    if sizes is not None:
        net.initializers.pop()
        return net.op("Resize", x, "", "", net.const(np.array(sizes, np.int64)), **attrs)
    roi = ""
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        roi = net._fresh("roi")
        region = np.array([0, 0, -0.2, 0.1, 1, 1, 1.3, 0.8], np.float32)
        net.initializers.append(numpy_helper.from_array(region, roi))
    return net.op("Resize", x, roi, name, **attrs)


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
    y = resize(net, net.input(shape), scales, **attrs)
    if between == "affine":
        y = net.bn(net.affine("Mul", y, net.per_channel(4)))
    elif between:
        y = net.op(between, y)
    return net.model(net.conv(y, 6, (1,) * len(scales), **(conv or {})))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9, 10, 13, 18])
def test_every_form_of_resizing(opset: int, mode: str) -> None:
    done = check(enlarged(opset, mode=mode), applied=APPLIED, macs_after=4 * 6 * 30, **ONLY)
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
    check(enlarged(18, **attrs), applied=APPLIED, **ONLY)


def test_sizes_computed_at_run_time() -> None:
    """As exporters write them: the batch and the channels of one map, the size of another."""
    net = Net()
    x, other = net.input([1, 4, "h", "w"]), net.input([1, 4, "p", "q"], "other")
    parts = [
        net.op("Slice", net.op("Shape", v), net.const(np.array([a])), net.const(np.array([b])))
        for v, a, b in ((x, 0, 2), (other, 2, 4))
    ]
    y = net.op("Resize", x, "", "", net.op("Concat", *parts, axis=0), mode="linear")
    net.channels[y] = 4
    model = net.model(net.conv(y, 6, (1, 1)))
    check(
        model,
        applied=APPLIED,
        sizes={"h": 3, "w": 4, "p": 7, "q": 9},
        shapes={"x": (1, 4, 3, 4), "other": (1, 4, 7, 9)},
        **ONLY,
    )


@pytest.mark.parametrize("between", ["Relu", "Sigmoid", "affine", "Identity"])
def test_nearest_passes_what_works_pixel_by_pixel(between: str) -> None:
    check(enlarged(between=between, mode="nearest"), applied=APPLIED, macs_after=4 * 6 * 30, **ONLY)


def test_dynamic_sizes_groups_and_other_numbers_of_axes() -> None:
    check(enlarged(shape=("n", 4, "h", "w"), mode="linear"), applied=APPLIED, sizes={"h": 3, "w": 5}, **ONLY)
    check(enlarged(conv={"group": 2}), applied=APPLIED, **ONLY)
    check(enlarged(shape=(1, 4, 5), scales=(3,)), applied=APPLIED, macs_after=4 * 6 * 5, **ONLY)
    check(enlarged(shape=(1, 4, 2, 3, 4), scales=(2, 1, 2)), applied=APPLIED, macs_after=4 * 6 * 24, **ONLY)


# ---------------------------------------------------------------- through a Concat


def neck(
    scales: Sequence[int], *, mode: str = "nearest", behind: str = "", weights: str = "", group: int = 1
) -> onnx.ModelProto:
    """Maps of 12·12 pixels, each enlarged by its own scale, joined, and a 1x1."""
    net = Net()
    parts = []
    for i, scale in enumerate(scales):
        x = net.input([1, 4, 12 // scale, 12 // scale], f"x{i}")
        parts.append(x if scale == 1 else resize(net, x, (scale, scale), mode=mode))
    y = net.op("Concat", *parts, axis=1)
    if behind:
        y = net.op(behind, y)
    net.channels[y] = 4 * len(scales)
    weight: Any = None
    if weights:
        weight = net.input([6, 4 * len(scales), 1, 1], "w")
    return net.model(net.conv(y, 6, (1, 1), weight=weight, group=group))


@pytest.mark.parametrize("scales", [(2, 1), (1, 4, 2), (2, 2, 1), (2, 3, 4, 6), (1, 2, 1)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_parts_of_a_concat(scales: tuple[int, ...], mode: str) -> None:
    """Each part at its own size."""
    expected = sum(4 * 6 * (12 // scale) ** 2 for scale in scales)
    done = check(neck(scales, mode=mode), applied=APPLIED, macs_after=expected, **ONLY)
    assert done.ops["Resize"] == len(set(scales) - {1})


def test_all_parts_enlarged_alike_are_joined_first() -> None:
    done = check(neck((3, 3)), applied=APPLIED, macs_after=2 * 4 * 6 * 16, **ONLY)
    assert done.ops == {"Concat": 1, "Conv": 1, "Resize": 1}


def test_weights_computed_at_run_time() -> None:
    """Their columns are gathered."""
    check(neck((2, 1), weights="w"), applied=APPLIED, **ONLY)


def test_relu_behind_the_concat() -> None:
    check(neck((2, 1), behind="Relu"), applied=APPLIED, macs_after=4 * 6 * (36 + 144), **ONLY)
    done = check(neck((2, 1), behind="Relu", mode="linear"), applied={}, **ONLY)
    assert done.refused("resize_after_pointwise", "is not linear")


def test_a_concat_that_others_read_stays() -> None:
    net = Net()
    x, z = net.input([1, 4, 6, 6]), net.input([1, 4, 12, 12], "z")
    y = net.op("Concat", resize(net, x, (2, 2), mode="nearest"), z, axis=1)
    net.channels[y] = 8
    model = net.model(net.conv(y, 6, (1, 1)), net.op("Relu", y))
    assert check(model, applied=APPLIED, macs_after=4 * 6 * (36 + 144), **ONLY).ops["Resize"] == 2


# ---------------------------------------------------------------- traps


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "linear", "between": "Relu"}, "does not commute"),
        (
            {
                "mode": "linear",
                "coordinate_transformation_mode": "tf_crop_and_resize",
                "extrapolation_value": 3.0,
            },
            "tf_crop",
        ),
        ({"conv": {"pads": [1, 1, 1, 1]}}, "it pads"),
        ({"conv": {"strides": [2, 2]}}, "skips pixels"),
        ({"scales": (0.5, 0.5)}, "makes no more pixels"),
    ],
)
def test_refused(options: dict[str, Any], reason: str) -> None:
    assert check(enlarged(**options), applied={}, **ONLY).refused("resize_after_pointwise", reason)


def test_scaled_channels_stay() -> None:
    net = Net()
    name = net._fresh("scales")
    net.initializers.append(numpy_helper.from_array(np.array([1, 2, 2, 2], np.float32), name))
    y = net.op("Resize", net.input([1, 4, 5, 6]), "", name, mode="nearest")
    net.channels[y] = 8
    done = check(net.model(net.conv(y, 6, (1, 1))), applied={}, **ONLY)
    assert done.refused("resize_after_pointwise", "scales the channels")


def test_groups_across_a_concat_stay() -> None:
    assert check(neck((2, 1), group=1), **ONLY).applied
    net = Net()
    x, z = net.input([1, 4, 6, 6]), net.input([1, 4, 12, 12], "z")
    y = net.op("Concat", resize(net, x, (2, 2), mode="nearest"), z, axis=1)
    net.channels[y] = 8
    done = check(net.model(net.conv(y, 6, (1, 1), group=2)), applied={}, **ONLY)
    assert done.refused("resize_after_pointwise", "2 groups")
