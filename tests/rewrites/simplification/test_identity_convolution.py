"""identity_convolution: convolutions that hand their input on go away."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import Array, Net, alone

checked = partial(alone, "identity_convolution")


def dirac(channels: int, taps: tuple[int, ...], at: tuple[int, ...], group: int = 1) -> Array:
    weight = np.zeros((channels, channels // group, *taps))
    for channel in range(channels):
        weight[(channel, channel % (channels // group), *at)] = 1
    return weight


FORMS: dict[str, dict[str, Any]] = {
    "1x1": {"taps": (1, 1), "at": (0, 0)},
    "3x3": {"taps": (3, 3), "at": (1, 1), "pads": [1, 1, 1, 1]},
    "off centre": {"taps": (3, 2), "at": (2, 0), "pads": [2, 0, 0, 1]},
    "dilated": {"taps": (3, 3), "at": (1, 1), "pads": [2, 2, 2, 2], "dilations": [2, 2]},
    "grouped": {"taps": (3, 3), "at": (1, 1), "pads": [1, 1, 1, 1], "group": 2},
    "depthwise": {"taps": (1, 1), "at": (0, 0), "group": 4},
    "transposed": {"taps": (3, 3), "at": (1, 1), "pads": [1, 1, 1, 1], "transpose": True},
    "1d": {"taps": (5,), "at": (2,), "pads": [2, 2]},
}


def build(form: str, bias: bool, **changes: Any) -> onnx.ModelProto:
    options = {**FORMS[form], **changes}
    taps, at = options.pop("taps"), options.pop("at")
    net = Net()
    x = net.op("Relu", net.input(["N", 4, *(6,) * len(taps)]))
    weight = dirac(4, taps, at, options.get("group", 1)) * options.pop("scale", 1)
    return net.model(net.op("Tanh", net.conv(x, 4, taps, weight=weight, bias=bias, **options)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_identities(form: str, bias: bool) -> None:
    result = checked(build(form, bias), macs_after=0)
    assert result.ops == {"Relu": 1, "Tanh": 1, **({"Add": 1} if bias else {})}


@pytest.mark.parametrize(
    "changes",
    [{"scale": 2}, {"pads": [0, 0, 2, 2]}, {"strides": [2, 2]}, {"pads": [0] * 4}, {"at": (0, 1)}],
    ids=str,
)
def test_what_is_none(changes: dict[str, Any]) -> None:
    checked(build("3x3", False, **changes), number=0)


def test_between_an_input_and_an_output() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 5, 5]), 4, (1, 1), weight=dirac(4, (1, 1), (0, 0)), bias=False)
    assert checked(net, y, macs_after=0).ops == {"Identity": 1}


def test_fully_connected() -> None:
    net = Net()
    x = net.op("Relu", net.input([3, 4]))
    y = net.op("Gemm", x, net.const(np.eye(4) * 2), net.const(net.normal(4)), alpha=0.5)
    assert checked(net, net.op("MatMul", y, net.const(np.eye(4))), number=2).ops == {"Relu": 1, "Add": 1}
