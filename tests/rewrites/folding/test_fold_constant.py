"""fold_constant: a linear operator of constants becomes what it computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import Net, alone

checked = partial(alone, "fold_constant")


@pytest.mark.parametrize("opset", [7, 13, 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_convolution_of_a_constant(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    x, constant = net.input(["n", 4, 8, 6]), net.const(net.normal(1, 4, 8, 6))
    result = checked(net, net.op("Add", x, net.conv(constant, 4, pads=[1, 1, 1, 1])), macs_after=0)
    assert result.ops == {"Add": 1}


@pytest.mark.parametrize("options", [{"group": 2, "strides": [2, 1]}, {"transpose": True, "strides": [2, 2]}])
def test_forms_and_samples(options: dict[str, Any]) -> None:
    net = Net()
    constant = net.constant_node(net.normal(3, 4, 5, 6))
    net.channels[constant] = 4
    checked(net, net.op("Sub", net.conv(constant, 4, **options), net.input([1])), macs_after=0)


def test_a_gemm_of_a_constant_that_is_an_output() -> None:
    net = Net()
    net.input([1])
    constant = net.const(net.normal(3, 4))
    checked(net, net.gemm(constant, 5, alpha=0.5), net.op("Relu", "x"), macs_after=0)


def test_an_output_that_would_make_the_file_grow_stays() -> None:
    net = Net()
    constant = net.const(net.normal(1, 1, 64, 64))
    y = net.op("Add", net.conv(constant, 8, (1, 1)), net.input([1]))
    checked(net, y, number=0, because=("32,768", "4,112"))


def test_an_input_is_no_constant() -> None:
    net = Net()
    checked(net, net.conv(net.input([1, 3, 5, 5]), 2), number=0, because=())
