"""resize_phases: k×k behind repeated pixels is done on the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import pytest

from tests.builders import Net, check
from tests.rewrites.moving.test_resize_after_pointwise import resize

ONLY: dict[str, Any] = {"only": ["resize_phases"]}
APPLIED = {"resize_phases": 1}


def repeated(
    kernel: Sequence[int] = (3, 3),
    *,
    opset: int = 17,
    shape: Sequence[Any] = (1, 4, 4, 5),
    scales: Sequence[float] = (2, 2),
    between: str = "",
    conv: dict[str, Any] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    net = Net(opset)
    y = resize(net, net.input(shape), scales, **{"mode": "nearest", **attrs})
    if between:
        y = net.op(between, y)
    return net.model(net.conv(y, 6, kernel, **(conv or {})))


SAME = {"pads": [1, 1, 1, 1]}


@pytest.mark.parametrize("opset", [7, 9, 10, 13, 22])
def test_doubled_pixels_are_one_transposed_convolution(opset: int) -> None:
    """Sixteen taps a pixel where there were 36."""
    done = check(repeated(opset=opset, conv=SAME), applied=APPLIED, macs_after=16 * 4 * 6 * 20, **ONLY)
    assert done.ops == {"ConvTranspose": 1}


@pytest.mark.parametrize("scale", [4, 8])
def test_equal_phases_are_done_once(scale: int) -> None:
    """25 taps a pixel, whatever the factor."""
    done = check(
        repeated(scales=(scale, scale), conv=SAME), applied=APPLIED, macs_after=25 * 4 * 6 * 20, **ONLY
    )
    assert done.ops == {"Conv": 9, "Concat": 1, "DepthToSpace": 1}


@pytest.mark.parametrize("pads", [[0] * 4, [1, 0, 0, 2], [2, 2, 2, 2], [3, 1, 1, 3]])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 1]])
@pytest.mark.parametrize("scales", [(2, 2), (5, 5), (3, 2)])
def test_pads_and_dilations(pads: list[int], dilations: list[int], scales: tuple[int, int]) -> None:
    """Borders, odd surplus outputs, padding wider than the kernel."""
    check(repeated(scales=scales, conv={"pads": pads, "dilations": dilations}), applied=APPLIED, **ONLY)


@pytest.mark.parametrize(("strides", "applied"), [([2, 2], 1), ([4, 2], 1), ([1, 2], 1), ([3, 3], 0)])
def test_strides(strides: list[int], applied: int) -> None:
    """A stride that divides the factor or is a multiple of it keeps fewer phases."""
    model = repeated(scales=(4, 4), shape=(1, 4, 5, 3), conv={"strides": strides, **SAME})
    done = check(model, applied={"resize_phases": 1} if applied else {}, **ONLY)
    assert applied or done.refused("resize_phases", "no common period")


def test_one_phase_needs_no_interleaving() -> None:
    """A stride equal to the factor: 2x2 taps of stride 1."""
    done = check(
        repeated(conv={"strides": [2, 2], **SAME}), applied=APPLIED, macs_after=4 * 4 * 6 * 20, **ONLY
    )
    assert done.ops == {"Conv": 1}


@pytest.mark.parametrize(
    "attrs",
    [
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
        {"coordinate_transformation_mode": "pytorch_half_pixel"},
        {"sizes": (1, 4, 8, 10)},
    ],
)
def test_equivalent_modes(attrs: dict[str, Any]) -> None:
    check(repeated(conv=SAME, **attrs), applied=APPLIED, macs_after=16 * 4 * 6 * 20, **ONLY)


@pytest.mark.parametrize(
    "attrs",
    [
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"},
        {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"},
        {"coordinate_transformation_mode": "align_corners"},
        {"coordinate_transformation_mode": "tf_crop_and_resize"},
        {"mode": "linear"},
        {"scales": (1.5, 2)},
    ],
)
def test_other_mappings_stay(attrs: dict[str, Any]) -> None:
    done = check(repeated(conv=SAME, **attrs), applied={}, **ONLY)
    assert done.reasons("resize_phases")


def test_relu_groups_dynamic_sizes_and_other_numbers_of_axes() -> None:
    check(repeated(between="Relu", conv=SAME), applied=APPLIED, macs_after=16 * 4 * 6 * 20, **ONLY)
    check(repeated(conv={"group": 2, **SAME}), applied=APPLIED, macs_after=16 * 2 * 6 * 20, **ONLY)
    for scales in ((2, 2), (4, 4), (2, 3)):
        model = repeated(shape=("n", 4, "h", "w"), scales=scales, conv=SAME)
        check(model, applied=APPLIED, sizes={"h": 3, "w": 5}, **ONLY)
    check(
        repeated((3,), shape=(1, 4, 5), scales=(6,), conv={"pads": [1, 1]}),
        applied=APPLIED,
        macs_after=600,
        **ONLY,
    )
    check(repeated((2, 1, 3), shape=(1, 4, 2, 3, 4), scales=(2, 2, 4)), applied=APPLIED, **ONLY)


def head(scales: Sequence[int], kernel: int = 3, **conv: Any) -> onnx.ModelProto:
    """A text-detection head: maps of several sizes, enlarged to one, joined, and a k×k."""
    net = Net()
    parts = []
    for i, scale in enumerate(scales):
        x = net.input([1, 4, 16 // scale, 16 // scale], f"x{i}")
        parts.append(x if scale == 1 else resize(net, x, (scale, scale), mode="nearest"))
    y = net.op("Concat", *parts, axis=1)
    net.channels[y] = 4 * len(scales)
    return net.model(net.conv(y, 6, (kernel, kernel), pads=[kernel // 2] * 4, **conv))


@pytest.mark.parametrize("scales", [(8, 4, 2, 1), (1, 2), (2, 2), (4, 1, 2, 1)])
def test_parts_of_a_concat(scales: tuple[int, ...]) -> None:
    """Each part at its own size: nine taps, or 16, or 25 a small pixel."""
    taps = {1: 9, 2: 16, 4: 25, 8: 25}
    expected = sum(taps[scale] * 4 * 6 * (16 // scale) ** 2 for scale in scales)
    check(head(scales), applied=APPLIED, macs_after=expected, **ONLY)


def test_groups_across_a_concat_stay() -> None:
    assert check(head((2, 1), group=2), applied={}, **ONLY).refused("resize_phases", "2 groups")


def test_all_rewrites_together() -> None:
    check(head((8, 4, 2, 1)))
    check(repeated(conv=SAME, between="Relu"))
