"""sum_first: the inputs of linear operators that share their weights are added, instead of their outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.builders import Net, alone

checked = partial(alone, "sum_first")


def shared(net: Net, y: str, **options: Any) -> None:
    """Checks, alone and with all rewrites, that one operator is left."""
    result = checked(net, y, saves=True, together=True, **options)
    assert sum(result.ops[kind] for kind in ("Conv", "ConvTranspose", "Gemm", "MatMul")) == 1


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum"])
def test_convolutions(same: bool, kind: str) -> None:
    net = Net()
    x, z = net.input(["N", 4, 9, 9]), net.input(["N", 4, 9, 9], "z")
    weight = net.weights(6, 4, 3, 3)
    first = net.const(weight)
    a = net.conv(x, 6, weight=first, pads=[1, 0, 0, 2], strides=[2, 1])
    b = net.conv(z, 6, weight=first if same else weight, pads=[1, 0, 0, 2], strides=[2, 1])
    shared(net, net.op(kind, a, b))


def test_three_of_four_terms_with_signs() -> None:
    net = Net()
    inputs = [net.input([1, 4, 9, 9], name) for name in "abc"]
    rest, weight = net.input([1, 6, 1, 1], "rest"), net.const(net.weights(6, 4, 3, 3))
    y = rest
    for value in inputs:
        y = net.op("Sub", y, net.conv(value, 6, weight=weight))
    assert checked(net, y).ops == {"Conv": 1, "Add": 3}


def test_symbolic_sizes_of_one_name() -> None:
    net = Net()
    x, z = net.input(["N", 4, "H", "W"]), net.input(["N", 4, "H", "W"], "z")
    weight = net.const(net.weights(6, 4, 3, 3))
    y = net.op("Add", net.conv(x, 6, weight=weight), net.conv(z, 6, weight=weight))
    shared(net, y, sizes={"H": 7, "W": 9})


def test_matmul_and_transposed_convolution() -> None:
    net = Net()
    x, z = net.input(["N", 5, 8]), net.input(["N", 5, 8], "z")
    weight = net.const(net.weights(8, 6))
    shared(net, net.op("Add", net.op("MatMul", x, weight), net.op("MatMul", z, weight)))
    net = Net()
    x, z = net.input([1, 4, 5, 5]), net.input([1, 4, 5, 5], "z")
    weight = net.const(net.weights(4, 6, 2, 2))
    parts = [net.conv(v, 6, weight=weight, transpose=True, strides=[2, 2]) for v in (x, z)]
    shared(net, net.op("Add", *parts))


@pytest.mark.parametrize("why", ["weights", "pads", "size", "open", "read", "run time"])
def test_what_stays(why: str) -> None:
    net = Net()
    sizes: list[int | str] = ["H", 9] if why == "open" else [9, 9]
    others = [1, 1] if why == "size" else ["V" if why == "open" else 9, 9]
    x, z = net.input([1, 4, *sizes]), net.input([1, 4, *others], "z")
    weight = net.weights(6, 4, 3, 3)
    first = net.input([6, 4, 3, 3], "w") if why == "run time" else net.const(weight)
    other = net.const(weight + np.eye(3)) if why == "weights" else first
    a = net.conv(x, 6, weight=first, pads=[1] * 4)
    pads = [0, 2, 2, 0] if why == "pads" else [1] * 4
    b = net.conv(z, 6, weight=other, pads=pads)
    y = net.op("Add", a, b)
    outputs = [y, a] if why == "read" else [y]
    assert checked(net, *outputs, number=0, sizes={"H": 9, "V": 9}).ops["Conv"] == 2
