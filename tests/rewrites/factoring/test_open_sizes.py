"""A strided convolution with auto_pad=SAME keeps it in its factors, where the sizes of its map are open."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites import registry as catalogue
from graphopt.types import Rejection
from tests.builders import Net, compare_at_sizes, grid, low_rank, samples
from tests.rewrites.factoring.test_lossless_factors import decoupled, separable

SIZES = grid("H", "W", sizes=(1, 2, 3, 4, 7, 16))
SAME = ("SAME_UPPER", "SAME_LOWER")
BUDGET_FORMS = ("bottleneck", "separable", "depthwise_separable", "inverted_bottleneck")
LOSSLESS: dict[str, Any] = {
    "lossless_bottleneck": lambda net: low_rank(net, 24, 24, (3, 3), rank_in=3),
    "lossless_separable": lambda net: separable(net, 24, 24, (3, 3), 3),
    "lossless_depthwise": lambda net: decoupled(net, 24, 24, (3, 3), 1, last=True),
}


def same(net: Net, weight: Any, mode: str, **attrs: Any) -> onnx.ModelProto:
    x = net.input(["N", weight.shape[1], "H", "W"])
    return net.model(net.conv(x, len(weight), weight=weight, auto_pad=mode, strides=[2, 2], **attrs))


@pytest.mark.parametrize("mode", SAME)
@pytest.mark.parametrize("form", BUDGET_FORMS)
@pytest.mark.parametrize("told", ["calibration", "shapes"])
def test_sizes_are_those_of_the_original_under_a_budget(form: str, mode: str, told: str) -> None:
    net = Net()
    model = same(net, net.weights(24, 16, 3, 3), mode)
    sizes: dict[str, Any] = {"calibration": {"x": samples(24, 16, 10, 10)}, "shapes": {"x": (1, 16, 10, 10)}}
    result = graphopt.optimize(model, {"macs": 0.7}, only=[form], force=True, **{told: sizes[told]})
    assert [item.candidate.rewrite for item in result.report.applied] == [form]
    assert compare_at_sizes(model, ir.to_proto(result.model), SIZES, tolerance=np.inf) == len(SIZES)


@pytest.mark.parametrize("mode", SAME)
@pytest.mark.parametrize("form", LOSSLESS)
def test_nothing_is_lost_at_any_size(form: str, mode: str) -> None:
    net = Net()
    model = same(net, LOSSLESS[form](net), mode)
    result = graphopt.optimize(model, only=[form], shapes={"x": (1, 24, 9, 9)})
    assert [item.candidate.rewrite for item in result.report.applied] == [form]
    assert compare_at_sizes(model, ir.to_proto(result.model), SIZES) == len(SIZES)


def test_fitted_at_its_full_rank_nothing_is_lost_at_other_sizes_than_the_calibrated() -> None:
    net = Net()
    weight = low_rank(net, 16, 16, (3, 3), rank_in=4)
    model = same(net, weight, "SAME_LOWER")
    given = {"x": samples(24, 16, 11, 10)}
    result = graphopt.optimize(model, {"macs": 0.6}, only=["bottleneck"], calibration=given)
    (applied,) = result.report.applied
    assert applied.candidate.error < 1e-6
    assert compare_at_sizes(model, ir.to_proto(result.model), SIZES, tolerance=1e-3) == len(SIZES)


@pytest.mark.parametrize(
    ("op", "pads", "stays"),
    [
        ("ConvTranspose", [0, 0, 0, 0], True),
        ("Conv", [2, 2, 2, 2], True),
        ("Conv", [1, 1, 1, 1], False),  # it makes no pixel of none, so that the original does not run
    ],
)
@pytest.mark.parametrize("form", ["lossless_separable", "lossless_bottleneck", "separable", "bottleneck"])
def test_what_may_be_fed_no_pixel_and_make_some_stays(
    form: str, op: str, pads: list[int], stays: bool
) -> None:
    net = Net()
    low = "bottleneck" in form
    kernel = low_rank(net, 24, 24, (3, 3), rank_in=3) if low else separable(net, 24, 24, (3, 3), 3)
    bounds = [net.const(np.array(pair)) for pair in ([1, 1], [9, 9], [2, 3])]
    cropped = net.op("Slice", net.input(["N", 24, "H", "W"]), *bounds)
    model = net.model(net.op(op, cropped, net.const(kernel), pads=pads))
    analysis = Analysis(ir.from_proto(model), bindings={"x": (1, 24, 9, 9)})
    found = list(catalogue.registry()[form].match(analysis))
    assert (
        any("a map without pixels" in each.reason for each in found if isinstance(each, Rejection)) is stays
    )
