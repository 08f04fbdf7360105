"""Sizes on which models are compared: none at which what is inside takes more memory than that is worth."""

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
