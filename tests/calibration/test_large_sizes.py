"""Sizes on which models are compared: none at which what is inside takes more memory than that is worth."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration.test_inputs import choice, feeder
from tests.builders import Net


def sizes(times: int) -> set[int]:
    """The lengths on which a model is run that repeats its input so many times."""
    net = Net()
    x = net.op("Tile", net.input([1, 2, "L"]), net.const(np.array([1, 1, times])), channels=2)
    model = ir.from_proto(net.model(net.conv(x, 4, (3,))))
    return {feed["x"].shape[2] for feed in choice.choose(model).feeds}


def test_a_size_that_takes_too_much_inside_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sizes(2)
    assert sizes(64) == usual
    monkeypatch.setattr(feeder, "MOST_BYTES", 4 * 64 * 6 * (max(usual) - 1))
    assert sizes(64) < usual and max(sizes(64)) < max(usual)
