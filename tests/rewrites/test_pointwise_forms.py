"""conv_to_gemm, transpose_to_conv and join_split_branches: other forms of the same operator."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import NEWEST_OPSET, Net, alone, check

OPSETS = (7, 11, 13, NEWEST_OPSET)


gemm = partial(alone, "conv_to_gemm")
straight = partial(alone, "transpose_to_conv")
joined = partial(alone, "join_split_branches")


# ---------------------------------------------------------------- conv_to_gemm


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("taps", [(4,), (5, 3), (1, 4), (2, 3, 2)])
def test_a_kernel_that_covers_its_input(opset: int, bias: bool, taps: tuple[int, ...]) -> None:
    net = Net(opset)
    y = net.conv(net.input(["N", 3, *taps]), 6, taps, bias=bias)
    assert "Conv" not in gemm(net, y, macs_after=6 * 3 * int(np.prod(taps))).ops


def test_the_reshape_behind_merges_with_a_flatten() -> None:
    net = Net()
    y = net.op("Flatten", net.conv(net.input([2, 3, 4, 4]), 6, (4, 4)))
    assert check(net.model(net.op("Relu", y))).ops == {"Flatten": 1, "Gemm": 1, "Relu": 1}


def test_affine_operators_fold_before() -> None:
    net = Net()
    y = net.bn(net.conv(net.input([2, 3, 4, 4]), 6, (4, 4)))
    assert check(net.model(net.op("Relu", y))).ops == {"Flatten": 1, "Gemm": 1, "Reshape": 1, "Relu": 1}


@pytest.mark.parametrize(("batch", "number"), [(8, 1), (1, 0)])
def test_the_aim_of_time_takes_it_for_several_samples(batch: int, number: int) -> None:
    net = Net()
    gemm(net, net.conv(net.input([batch, 64, 7, 7]), 64, (7, 7)), number=number, aim="time")


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ([1, 4, 5, 5], {"kernel": (4, 4)}),
        ([1, 4, "H", "W"], {"kernel": (4, 4)}),
        ([1, 4, 4, 4], {"kernel": (4, 4), "pads": [1, 1, 1, 1]}),
        ([1, 4, 4, 4], {"kernel": (4, 4), "group": 2}),
        ([1, 4, 1, 1], {"kernel": (1, 1)}),
    ],
)
def test_what_stays_a_convolution(shape: list[int | str], options: dict[str, Any]) -> None:
    net = Net()
    gemm(net, net.conv(net.input(shape), 6, **options), number=0, sizes={"H": 4, "W": 4})


# ---------------------------------------------------------------- transpose_to_conv


@pytest.mark.parametrize(
    ("taps", "options"),
    [
        ((1, 1), {}),
        ((1,), {}),
        ((3, 3), {"pads": [1, 1, 1, 1]}),
        ((3, 2), {"pads": [2, 0, 0, 1]}),
        ((3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        ((3, 3), {"pads": [1, 2, 2, 1], "group": 2}),
        ((1, 3, 3), {"pads": [0, 1, 1, 0, 1, 1]}),
    ],
)
def test_stride_one(taps: tuple[int, ...], options: dict[str, Any]) -> None:
    net = Net()
    y = net.conv(net.input(["N", 4, *(7, "W", 5)[: len(taps)]]), 6, taps, transpose=True, **options)
    result = straight(net, y, sizes={"W": 6})
    assert result.ops == {"Conv": 1} and result.macs_after <= result.macs_before


@pytest.mark.parametrize(
    ("taps", "options", "words"),
    [
        ((3, 3), {}, "MACs"),
        ((1, 1), {"pads": [1, 1, 1, 1]}, "crops more"),
        ((2, 2), {"strides": [2, 2]}, ""),
    ],
)
def test_what_stays_transposed(taps: tuple[int, ...], options: dict[str, Any], words: str) -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 6, taps, transpose=True, **options)
    straight(net, y, number=0, because=(words,) if words else None)


# ---------------------------------------------------------------- join_split_branches


def branches(net: Net, parts: int = 2, **options: Any) -> list[str]:
    """A Split of 4 channels each, and a convolution on every part."""
    x = net.input(["N", 4 * parts, 6, 6])
    return [net.conv(value, 6, **options) for value in net.split(x, *[4] * parts)]


def concat(net: Net, values: list[str], axis: int = 1) -> str:
    return net.op("Concat", *values, axis=axis)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_branches_become_groups(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    parts = branches(net, 3, strides=[2, 1], pads=[1, 0, 1, 2])
    result = joined(net, concat(net, parts))
    assert result.ops == {"Conv": 1} and result.macs_after == result.macs_before
    assert result.attributes("Conv")["group"] == 3


@pytest.mark.parametrize("transpose", [False, True])
def test_several_layers_with_activations_and_groups(transpose: bool) -> None:
    net = Net()
    made = [net.op("LeakyRelu", y, alpha=0.2) for y in branches(net, 2, group=2, transpose=transpose)]
    made = [net.op("Relu", net.conv(y, 3, (1, 1), bias=i == 0)) for i, y in enumerate(made)]
    assert sum(joined(net, concat(net, made)).ops.values()) == 4


@pytest.mark.parametrize("case", ["order", "axis", "forms", "slopes", "shared", "output"])
def test_branches_that_differ(case: str) -> None:
    net = Net()
    a, b = branches(net)
    extra = []
    if case == "forms":
        b = net.conv(b, 6, pads=[1] * 4)
        a = net.conv(a, 6, (1, 1))
        a, b = net.op("Relu", a), net.op("Relu", b)
        a = net.pad(a, [0, 0, 1, 1, 0, 0, 1, 1])
        b = net.pad(b, [0, 0, 1, 1, 0, 0, 1, 1])
    if case == "slopes":
        a, b = net.op("LeakyRelu", a, alpha=0.1), net.op("LeakyRelu", b, alpha=0.2)
    if case == "shared":
        extra = [net.op("Tanh", a)]
    if case == "output":
        extra = [a]
    y = concat(net, [b, a] if case == "order" else [a, b], 2 if case == "axis" else 1)
    joined(net, y, *extra, number=0)
