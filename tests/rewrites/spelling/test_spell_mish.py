"""Mish by Sigmoid, of every spelling."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, run
from tests.rewrites.spelling.spelled import Number, Write, between, kinds, respelled


def tanh_times(net: Net, x: str, soft: str) -> str:
    return net.op("Mul", x, net.op("Tanh", soft))


def logarithm(net: Net, x: str, n: Number, one: float = 1.0) -> str:
    """log(one + exp(x))."""
    return net.op("Log", net.op("Add", n(one), net.op("Exp", x)))


SPELLINGS: dict[str, tuple[Write, int]] = {
    "Mish": (lambda net, x, n: net.op("Mish", x), 18),
    "by Softplus": (lambda net, x, n: tanh_times(net, x, net.op("Softplus", x)), 9),
    "tanh first": (lambda net, x, n: net.op("Mul", net.op("Tanh", net.op("Softplus", x)), x), 17),
    "by logarithm": (lambda net, x, n: tanh_times(net, x, logarithm(net, x, n)), 9),
}
SIZE = 32
"""Pixels a side, so many that six passes take less than a Softplus."""
WRITTEN = sorted(["Sigmoid", "Sub", "Mul", "Sub", "Div", "Mul"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_written_by_sigmoid(name: str, dtype: type) -> None:
    write, opset = SPELLINGS[name]
    assert sorted(kinds(respelled("spell_mish", between(write, dtype, opset, SIZE)))) == WRITTEN


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_aim_macs_leaves_them(name: str) -> None:
    write, opset = SPELLINGS[name]
    before = between(write, opset=opset, size=SIZE)
    assert kinds(respelled("spell_mish", before, "macs")) == kinds(before)


def test_far_below_and_above_zero_it_is_mish() -> None:
    """By float64, where exp would overflow too; an error of Sigmoid's rounding is multiplied by x."""
    net = Net(17)
    x = net.input([1, 1, 1, 4000])
    proto = net.model(tanh_times(net, x, net.op("Softplus", x)))
    after = ir.to_proto(graphopt.optimize(proto, only=["spell_mish"]).model)
    assert sorted(node.op_type for node in after.graph.node) == WRITTEN
    given = np.concatenate([np.linspace(-100, 5, 2000), np.linspace(5, 1e4, 2000)]).astype(np.float32)
    (found,) = run(after, {proto.graph.input[0].name: given.reshape(1, 1, 1, -1)})
    wide = given.astype(np.float64)
    expected = wide * np.tanh(np.logaddexp(0, wide))
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6, atol=4e-6)


def soft_read_twice(net: Net, x: str, n: Number) -> str:
    soft = net.op("Softplus", x)
    return net.op("Add", tanh_times(net, x, soft), soft)


STAYING: dict[str, Write] = {
    "times another value": lambda net, x, n: tanh_times(net, net.op("Neg", x), net.op("Softplus", x)),
    "read in between": soft_read_twice,
    "2 + exp": lambda net, x, n: tanh_times(net, x, logarithm(net, x, n, 2.0)),
    "Softplus alone": lambda net, x, n: net.op("Softplus", x),
    "no Tanh": lambda net, x, n: net.op("Mul", x, net.op("Softplus", x)),
    "its inverse": lambda net, x, n: net.op("Reciprocal", tanh_times(net, x, net.op("Softplus", x))),
}


def cases(spellings: dict[str, Write]) -> Any:
    return pytest.mark.parametrize("write", spellings.values(), ids=[*spellings])


@cases(STAYING)
def test_what_is_no_mish_stays(write: Write) -> None:
    before = between(write, size=SIZE)
    assert kinds(respelled("spell_mish", before)) == kinds(before)


def test_a_map_of_few_pixels_keeps_the_fewer_operators() -> None:
    before = between(SPELLINGS["by Softplus"][0], size=2)
    assert kinds(respelled("spell_mish", before)) == kinds(before)
