"""The words that reports share."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.analysis.snapshot import Analysis
from graphopt.report.wording import layer_form
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
