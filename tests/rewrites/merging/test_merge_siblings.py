"""merge_siblings: several linear operators on one input as one wide operator and a Split."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import NEWEST_OPSET, Net, alone, check

checked = partial(alone, "merge_siblings")


def widened(net: Net, *outputs: str, ops: Mapping[str, int], **options: Any) -> None:
    """Checks the operators that are left, at unchanged MACs."""
    result = checked(net, *outputs, saves=False, **options)
    assert result.ops == ops, result.ops


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, NEWEST_OPSET])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_heads_with_activations(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    x = net.input(["N", 4, 9, 9])
    heads = [net.op("Relu", net.conv(x, n, pads=[1] * 4, bias=n != 6)) for n in (5, 6, 7)]
    widened(net, *heads, ops={"Conv": 1, "Relu": 1, "Split": 1})


@pytest.mark.parametrize("op", ["Atan", "Shrink", "Swish"])
def test_functions_that_know_no_channel(op: str) -> None:
    net = Net(24)
    x = net.input([1, 4, 9, 9])
    widened(net, *(net.op(op, net.conv(x, n)) for n in (5, 6, 7)), ops={"Conv": 1, op: 1, "Split": 1})


def test_open_sizes_and_axes() -> None:
    for shape, kernel in ((["N", 4, "H"], (3,)), (["N", 4, "H", "H", "H"], (2, 1, 2))):
        net = Net()
        x = net.input(shape)
        heads = [net.conv(x, n, kernel) for n in (5, 6, 7)]
        widened(net, *heads, ops={"Conv": 1, "Split": 1}, sizes={"H": 6})


def test_projections_with_biases() -> None:
    net = Net()
    x = net.input(["N", 5, 8])
    heads = [net.affine("Add", net.matmul(x, 8, n), net.normal(n), first=n == 7) for n in (7, 7, 7)]
    widened(net, *heads, ops={"MatMul": 1, "Add": 1, "Split": 1})


def test_gemm_and_transposed_convolution() -> None:
    net = Net()
    x = net.input([5, 8])
    widened(net, *(net.gemm(x, n, trans=n % 2, alpha=0.5) for n in (5, 6, 7)), ops={"Gemm": 1, "Split": 1})
    net = Net()
    x = net.input([1, 4, 5, 5])
    heads = [net.conv(x, n, transpose=True, strides=[2, 2]) for n in (5, 6, 7)]
    widened(net, *heads, ops={"ConvTranspose": 1, "Split": 1})


def test_several_followers_with_operands() -> None:
    net = Net()
    x, heads = net.input([1, 4, 9, 9]), []
    for n in (5, 6):
        y = net.affine("Sub", net.conv(x, n), net.per_channel(n), first=True)
        y = net.op("PRelu", y, net.const(net.normal(n, 1, 1)))
        heads.append(net.op("Clip", y, net.const(np.array(-0.5)), net.const(np.array(0.5))))
    widened(net, *heads, ops={"Conv": 1, "Sub": 1, "PRelu": 1, "Clip": 1, "Split": 1})


def test_those_that_are_followed_alike_alone() -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    heads = [net.op("Relu", net.conv(x, 5)) for _ in range(4)] + [net.op("Sigmoid", net.conv(x, 5))]
    widened(net, *heads, ops={"Conv": 2, "Relu": 1, "Split": 1, "Sigmoid": 1})


def test_common_followers_up_to_where_they_part() -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    heads = [net.op(kind, net.op("Relu", net.conv(x, 5))) for kind in ("Sigmoid", "Tanh", "Neg")]
    widened(net, *heads, ops={"Conv": 1, "Relu": 1, "Split": 1, "Sigmoid": 1, "Tanh": 1, "Neg": 1})


@pytest.mark.parametrize("why", ["two", "strides", "group", "input", "run time"])
def test_what_stays(why: str) -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    heads = []
    for i in range(2 if why == "two" else 3):
        source = net.op("Relu", x) if why == "input" and i else x
        weight = net.input([6, 4, 3, 3], f"v{i}") if why == "run time" else None
        strides = [1, i + 1] if why == "strides" else [1, 1]
        group = 2 if why == "group" else 1
        heads.append(net.conv(source, 6, weight=weight, strides=strides, group=group))
    assert "Split" not in checked(net, *heads, number=0).ops


def test_duplicates_are_removed_before_siblings_merge() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.const(net.weights(6, 4, 3, 3))
    heads = [net.op("Relu", net.conv(x, 6, weight=weight)) for _ in range(1)]
    heads += [net.op("Sigmoid", net.conv(x, 6, weight=weight, bias=False)) for _ in range(2)]
    result = check(net.model(*(net.op("Abs", head) for head in heads)))
    assert result.macs_after * 3 == result.macs_before * 2
