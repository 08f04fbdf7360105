"""Hard swish and hard sigmoid in pieces, which onnxruntime puts into the convolution before as operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.builders import Net
from tests.rewrites.spelling.spelled import Number, Write, between, kernels, kinds, respelled


def clip(net: Net, x: str, n: Number, low: float = 0, high: float = 6) -> str:
    """Clip in the form of the opset."""
    if net.opset < 11:
        return net.op("Clip", x, min=float(low), max=float(high))
    return net.op("Clip", x, n(low), n(high))


def plus(net: Net, x: str, n: Number) -> str:
    return clip(net, net.op("Add", n(3), x), n)


SWISH: dict[str, Write] = {
    "(x·clip)/6": lambda net, x, n: net.op("Div", net.op("Mul", x, plus(net, x, n)), n(6)),
    "x·(clip/6)": lambda net, x, n: net.op("Mul", net.op("Div", plus(net, x, n), n(6)), x),
    "x·(⅙·clip)": lambda net, x, n: net.op("Mul", x, net.op("Mul", n(1 / 6), plus(net, x, n))),
    "(x/6)·clip": lambda net, x, n: net.op("Mul", net.op("Div", x, n(6)), plus(net, x, n)),
    "(⅙·x)·clip": lambda net, x, n: net.op("Mul", plus(net, x, n), net.op("Mul", n(1 / 6), x)),
    "x − (−3)": lambda net, x, n: net.op(
        "Mul", x, net.op("Div", clip(net, net.op("Sub", x, n(-3)), n), n([6]))
    ),
    "by Min and Max": lambda net, x, n: net.op(
        "Div", net.op("Mul", x, net.op("Min", net.op("Max", net.op("Add", x, n(3)), n(0)), n(6))), n(6)
    ),
    "by Relu and Min": lambda net, x, n: net.op(
        "Div", net.op("Mul", x, net.op("Min", net.op("Relu", net.op("Add", x, n(3))), n(6))), n(6)
    ),
    "clip(x/6 + ½, 0, 1)·x": lambda net, x, n: net.op(
        "Mul", clip(net, net.op("Add", net.op("Mul", x, n(1 / 6)), n(0.5)), n, 0, 1), x
    ),
}
SIGMOID: dict[str, Write] = {
    "clip/6": lambda net, x, n: net.op("Div", plus(net, x, n), n(6)),
    "⅙·clip": lambda net, x, n: net.op("Mul", plus(net, x, n), n(1 / 6)),
    "clip(0.2·x + ½, 0, 1)": lambda net, x, n: clip(
        net, net.op("Add", net.op("Mul", n(0.2), x), n(0.5)), n, 0, 1
    ),
    "clip(½ + x/5, 0, 1)": lambda net, x, n: clip(
        net, net.op("Add", n(0.5), net.op("Div", x, n(5))), n, 0, 1
    ),
    "clip(x, 0, 6)/6": lambda net, x, n: net.op("Div", clip(net, x, n), n(6)),
}


def cases(spellings: dict[str, Write]) -> Any:
    return pytest.mark.parametrize("write", spellings.values(), ids=[*spellings])


@cases(SWISH)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [9, 13, 17])
def test_hard_swish_in_every_order_is_one_operator_or_two(write: Write, opset: int, dtype: type) -> None:
    before = between(write, dtype, opset)
    after = respelled("spell_hard_swish", before)
    assert kinds(after) == (["HardSwish"] if opset >= 14 else ["HardSigmoid", "Mul"])
    if dtype is np.float32:
        assert len(kernels(before)) > 2 and kernels(after) == ["Conv", "Conv"]


@cases(SIGMOID)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [9, 17])
def test_hard_sigmoid_in_every_order_is_one_operator(write: Write, opset: int, dtype: type) -> None:
    before = between(write, dtype, opset)
    after = respelled("spell_hard_swish", before)
    assert kinds(after) == ["HardSigmoid"]
    if dtype is np.float32:
        assert len(kernels(before)) > 2 and kernels(after) == ["Conv", "Conv"]


def test_hard_swish_by_other_numbers_is_x_times_a_hard_sigmoid() -> None:
    before = between(lambda net, x, n: net.op("Mul", x, SIGMOID["clip(0.2·x + ½, 0, 1)"](net, x, n)))
    assert kinds(respelled("spell_hard_swish", before)) == ["HardSigmoid", "Mul"]


def test_what_else_multiplies_the_result_stays_behind_it() -> None:
    before = between(lambda net, x, n: net.op("Mul", SWISH["(x·clip)/6"](net, x, n), n(2)))
    assert kinds(respelled("spell_hard_swish", before)) == ["HardSwish", "Mul"]
    before = between(lambda net, x, n: net.op("Mul", SIGMOID["clip/6"](net, x, n), net.op("Tanh", x)))
    assert kinds(respelled("spell_hard_swish", before)) == ["HardSigmoid", "Tanh", "Mul"]


@cases(SWISH | SIGMOID)
def test_the_aim_macs_leaves_them(write: Write) -> None:
    before = between(write)
    assert kinds(respelled("spell_hard_swish", before, "macs")) == kinds(before)


def read_in_between(net: Net, x: str, n: Number) -> str:
    bounded = plus(net, x, n)
    return net.op("Add", net.op("Div", net.op("Mul", x, bounded), n(6)), bounded)


STAYING: dict[str, Write] = {
    "read in between": read_in_between,
    "other height": lambda net, x, n: net.op("Div", plus(net, x, n), n(5)),
    "other lower bound": lambda net, x, n: net.op("Div", clip(net, net.op("Add", x, n(3)), n, -1, 6), n(6)),
    "nothing but bounds": lambda net, x, n: clip(net, x, n, 0, 1),
    "x times bounds": lambda net, x, n: net.op("Mul", x, clip(net, x, n, 0, 1)),
    "a number a channel": lambda net, x, n: clip(net, net.op("Add", x, n(net.per_channel(16))), n, 0, 1),
    "a number that adds axes": lambda net, x, n: net.op(
        "Reshape",
        net.op("Div", plus(net, x, n), n([[[[[6]]]]])),
        net.const(np.array([-1, 16, 6, 6])),
    ),
}


@cases(STAYING)
def test_what_is_neither_or_read_in_between_stays(write: Write) -> None:
    before = between(write)
    assert kinds(respelled("spell_hard_swish", before)) == kinds(before)


def test_a_value_that_is_added_to_and_read_elsewhere_stays() -> None:
    def write(net: Net, x: str, n: Number) -> str:
        shifted = net.op("Add", x, n(3))
        return net.op("Add", net.op("Div", clip(net, shifted, n), n(6)), shifted)

    after = respelled("spell_hard_swish", between(write))
    assert kinds(after) == ["Add", "HardSigmoid", "Add"]
