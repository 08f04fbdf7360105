"""The words that reports share."""

from __future__ import annotations

import math

import onnx_ir as ir
import pytest

from graphopt.analysis.snapshot import Analysis
from graphopt.report.wording import in_sight, layer_form
from tests.builders import Net


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        ({}, "3x3 4→6"),
        ({"strides": [2, 2]}, "3x3/2 4→6"),
        ({"strides": [2, 1]}, "3x3/2x1 4→6"),
        ({"strides": [1, 2], "dilations": [2, 3]}, "3x3/1x2 d2x3 4→6"),
        ({"dilations": [2, 2], "group": 2}, "3x3 d2 g2 4→6"),
    ],
)
def test_a_layer_tells_what_differs_from_axis_to_axis(attributes: dict[str, list[int]], shown: str) -> None:
    net = Net()
    proto = net.model(net.conv(net.input([1, 4, 16, 16]), 6, **attributes))  # type: ignore[arg-type]
    (linear,) = Analysis(ir.from_proto(proto)).linears
    assert layer_form(linear) == shown


def test_what_is_equal_up_to_rounding_does_not_squash_the_others() -> None:
    assert in_sight([132.0, 34.0, 24.0]) == [35.0, 34.0, 24.0]
    assert in_sight([math.inf, 34.0, 24.0]) == [35.0, 34.0, 24.0]
    assert in_sight([34.0, 24.0]) == [34.0, 24.0]
    assert in_sight([132.0, math.inf]) == [132.0, 132.0]
    assert in_sight([math.inf, 20.0]) == [22.0, 20.0]
    assert in_sight([math.inf, -5.0]) == [-4.5, -5.0]
