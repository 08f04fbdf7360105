"""Sizes on which models are compared and timed: none that takes too much memory, or that does not run."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.test_inputs import choice, feeder
from tests.builders import Net


def sizes() -> set[int]:
    """The lengths on which a model is run that repeats its input 64 times."""
    net = Net()
    x = net.op("Tile", net.input([1, 2, "L"]), net.const(np.array([1, 1, 64])), channels=2)
    model = ir.from_proto(net.model(net.conv(x, 4, (3,))))
    return {feed["x"].shape[2] for feed in choice.choose(model).feeds}


def test_a_size_that_takes_too_much_inside_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sizes()
    largest = max(usual)
    monkeypatch.setattr(feeder, "MOST_BYTES", 4 * 64 * 6 * (largest - 1))
    assert sizes() == usual - {largest}


@pytest.mark.parametrize(("features", "sizes"), [(80, {"x": (1, 8, 10)}), (81, {})])
def test_sizes_that_a_gemm_does_not_take_are_none_to_judge_by(
    features: int, sizes: dict[str, tuple[int, ...]]
) -> None:
    proto = onnx.parser.parse_model("""<ir_version: 6, opset_import: ["": 11]>
        g (float[N, H, 10] x) => (float[a, 5] y) <int64[1] first = {0}, int64[1] rest = {-1}> {
            s = Shape (x)
            n = Gather (s, first)
            rows = Concat <axis = 0> (n, rest)
            flat = Reshape (x, rows)
            y = Gemm (flat, w)
        }""")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((features, 5), np.float32), "w"))
    found = choice.choose(ir.from_proto(proto))
    assert (found.sizes, found.usual) == (sizes, {})


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [0, 0, 0, 1]])
def test_windows_fit_into_padded_maps(pads: list[int]) -> None:
    net = Net()
    y = net.conv(net.input([1, 3, "H", 2]), 4, (1, 3), pads=pads, strides=[2, 2])
    assert Analysis(ir.from_proto(net.model(y))).fits == (sum(pads) > 0)
