"""Sizes on which models are compared and timed: none that takes too much memory, or that a model does not take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

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


def test_time_is_judged_at_no_size_that_the_model_does_not_take() -> None:
    net = Net()
    x = net.input(["N", "H", 10])
    batch = net.op("Gather", net.op("Shape", x), net.const(np.array([0])), axis=0)
    rows = net.op("Reshape", x, net.op("Concat", batch, net.const(np.array([-1])), axis=0))
    proto = net.model(net.op("Gemm", rows, net.const(np.ones((80, 5), np.float32))))
    found = choice.choose(ir.from_proto(proto))
    assert found.sizes == {"x": (1, 8, 10)}
    assert not found.usual
