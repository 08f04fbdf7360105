"""The logistic function by exp as Sigmoid, alone and as a factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.builders import Net
from tests.rewrites.spelling.spelled import Number, Write, between, kernels, kinds, respelled


def plus(net: Net, x: str, n: Number, scale: float = -1.0) -> str:
    """1 + exp(scale·x)."""
    scaled = x if scale == 1 else net.op("Neg", x) if scale == -1 else net.op("Mul", x, n(scale))
    return net.op("Add", net.op("Exp", scaled), n(1))


SPELLINGS: dict[str, tuple[Write, list[str]]] = {
    "x/(1 + exp(−x))": (lambda net, x, n: net.op("Div", x, plus(net, x, n)), ["Sigmoid", "Mul"]),
    "1/(1 + exp(−x))": (lambda net, x, n: net.op("Div", n(1), plus(net, x, n)), ["Sigmoid"]),
    "by Reciprocal": (lambda net, x, n: net.op("Reciprocal", plus(net, x, n)), ["Sigmoid"]),
    "1 in front": (
        lambda net, x, n: net.op("Div", n(1), net.op("Add", n(1), net.op("Exp", net.op("Neg", x)))),
        ["Sigmoid"],
    ),
    "times −1": (
        lambda net, x, n: net.op("Div", x, net.op("Add", net.op("Exp", net.op("Mul", n(-1), x)), n([[1]]))),
        ["Sigmoid", "Mul"],
    ),
    "over −1": (
        lambda net, x, n: net.op("Div", x, net.op("Add", net.op("Exp", net.op("Div", x, n(-1))), n(1))),
        ["Sigmoid", "Mul"],
    ),
    "of a multiple": (
        lambda net, x, n: net.op("Div", x, plus(net, x, n, -1.702)),
        ["Mul", "Sigmoid", "Mul"],
    ),
    "falling": (lambda net, x, n: net.op("Div", n(1), plus(net, x, n, 1)), ["Neg", "Sigmoid"]),
    "another value over it": (
        lambda net, x, n: net.op("Div", net.op("Tanh", x), plus(net, x, n)),
        ["Tanh", "Sigmoid", "Mul"],
    ),
    "another number over it": (
        lambda net, x, n: net.op("Div", n(2), plus(net, x, n)),
        ["Sigmoid", "Mul"],
    ),
}
FUSED = ("x/(1 + exp(−x))", "of a multiple", "times −1", "over −1")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_a_sigmoid(name: str, opset: int, dtype: type) -> None:
    write, expected = SPELLINGS[name]
    before = between(write, dtype, opset)
    after = respelled("spell_silu", before)
    assert sorted(kinds(after)) == sorted(expected)
    if dtype is np.float32:
        assert len(kernels(after)) < len(kernels(before))
        if name in FUSED:
            assert kernels(after) == ["Conv", "QuickGelu", "Conv"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_aim_macs_leaves_them(name: str) -> None:
    before = between(SPELLINGS[name][0])
    assert kinds(respelled("spell_silu", before, "macs")) == kinds(before)


def read_in_between(net: Net, x: str, n: Number) -> str:
    below = plus(net, x, n)
    return net.op("Add", net.op("Div", x, below), below)


def under(*kinds: str) -> Write:
    """An operator, or several one behind the other, of the logistic function."""

    def write(net: Net, x: str, n: Number) -> str:
        y = net.op("Div", n(1), plus(net, x, n))
        for kind in kinds:
            y = net.op(kind, y, n(0.5)) if kind in ("Mul", "Add") else net.op(kind, y)
        return y

    return write


STAYING: dict[str, Write] = {
    "read in between": read_in_between,
    "2 + exp": lambda net, x, n: net.op("Div", x, net.op("Add", net.op("Exp", net.op("Neg", x)), n(2))),
    "the other way round": lambda net, x, n: net.op("Div", plus(net, x, n), x),
    "no operator less": lambda net, x, n: net.op("Div", x, plus(net, x, n, 1)),
    "its logarithm": under("Log"),
    "the logarithm of half of it": under("Mul", "Log"),
    "the root of it and more": under("Add", "Abs", "Sqrt"),
    "the inverse, laid out anew": under("Transpose", "Reciprocal", "Transpose"),
    "its root": under("Sqrt"),
    "its inverse": under("Reciprocal"),
    "over it": lambda net, x, n: net.op("Div", x, net.op("Div", n(1), plus(net, x, n))),
}


def cases(spellings: dict[str, Write]) -> Any:
    return pytest.mark.parametrize("write", spellings.values(), ids=[*spellings])


@cases(STAYING)
def test_what_is_no_logistic_function_or_asks_for_small_parts_stays(write: Write) -> None:
    before = between(write)
    assert kinds(respelled("spell_silu", before)) == kinds(before)
