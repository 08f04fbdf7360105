"""Max and Min as Clip, Relu and LeakyRelu, which onnxruntime puts into the convolution before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, run
from tests.rewrites.spelling.spelled import Number, Write, between, kernels, kinds, respelled

SPELLINGS: dict[str, tuple[Write, str]] = {
    "a least number": (lambda net, x, n: net.op("Max", x, n(-0.4)), "Clip"),
    "a largest one, in front": (lambda net, x, n: net.op("Min", n(0.4), x), "Clip"),
    "both": (lambda net, x, n: net.op("Min", net.op("Max", n(-1), x), n(2)), "Clip"),
    "the largest first": (lambda net, x, n: net.op("Max", net.op("Min", x, n(2)), n(-1)), "Clip"),
    "behind a Relu": (lambda net, x, n: net.op("Min", net.op("Relu", x), n(1)), "Clip"),
    "in front of a Relu": (lambda net, x, n: net.op("Relu", net.op("Min", x, n(1))), "Clip"),
    "zero": (lambda net, x, n: net.op("Max", x, n(0)), "Relu"),
    "of one element with axes": (lambda net, x, n: net.op("Max", x, n([[[0.1]]])), "Clip"),
    "the larger of s·x": (lambda net, x, n: net.op("Max", x, net.op("Mul", n(0.1), x)), "LeakyRelu"),
    "of x/s, in front": (lambda net, x, n: net.op("Max", net.op("Div", x, n(5)), x), "LeakyRelu"),
    "the smaller of more": (lambda net, x, n: net.op("Min", x, net.op("Mul", x, n(3))), "LeakyRelu"),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [10, 11, 17])
@pytest.mark.parametrize("write", [each for each, _ in SPELLINGS.values()], ids=[*SPELLINGS])
def test_every_spelling_becomes_one_operator(write: Write, opset: int, dtype: type) -> None:
    expected = next(kind for each, kind in SPELLINGS.values() if each is write)
    before = between(write, dtype, opset)
    after = respelled("spell_clip", before)
    assert kinds(after) == [expected]
    if dtype is np.float32:
        assert len(kernels(before)) > 2 and kernels(after) == ["Conv", "Conv"]


@pytest.mark.parametrize("write", [each for each, _ in SPELLINGS.values()], ids=[*SPELLINGS])
def test_the_aim_macs_leaves_them(write: Write) -> None:
    before = between(write)
    assert kinds(respelled("spell_clip", before, "macs")) == kinds(before)


def read_in_between(net: Net, x: str, n: Number) -> str:
    least = net.op("Max", x, n(-1))
    return net.op("Add", net.op("Min", least, n(1)), least)


def test_what_is_read_in_between_stays_and_each_is_a_clip() -> None:
    assert kinds(respelled("spell_clip", between(read_in_between))) == ["Clip", "Clip", "Add"]


STAYING: dict[str, Write] = {
    "one number alone is left": lambda net, x, n: net.op("Clip", net.op("Clip", x, n(0), n(1)), n(2), n(3)),
    "two maps": lambda net, x, n: net.op("Max", x, net.op("Sigmoid", x)),
    "three operands": lambda net, x, n: net.op("Max", x, n(0), n(1)),
    "a number a channel": lambda net, x, n: net.op("Max", x, n(net.per_channel(16))),
    "of more axes": lambda net, x, n: net.op("Reshape", net.op("Max", x, n([[[[[0.1]]]]])), shape(net)),
    "the larger of 2·x": lambda net, x, n: net.op("Max", x, net.op("Mul", x, n(2))),
    "the smaller of x/2": lambda net, x, n: net.op("Min", x, net.op("Mul", x, n(0.5))),
    "the larger of −x/2": lambda net, x, n: net.op("Max", x, net.op("Mul", x, n(-0.5))),
    "of s·z": lambda net, x, n: net.op("Max", x, net.op("Mul", net.op("Sigmoid", x), n(0.5))),
}


def shape(net: Net) -> str:
    return net.const(np.array([-1, 16, 6, 6]))


@pytest.mark.parametrize("write", STAYING.values(), ids=[*STAYING])
def test_what_is_no_clip_stays(write: Write) -> None:
    before = between(write)
    assert kinds(respelled("spell_clip", before)) == kinds(before)


def test_bounds_of_other_types_stay() -> None:
    net = Net(dtype=np.float64)
    before = net.model(
        net.op("Sigmoid", net.op("Max", net.op("Sigmoid", net.input(["N", 4])), net.const(0.5)))
    )
    assert kinds(respelled("spell_clip", before)) == ["Max"]


def test_bounds_that_leave_one_number_stay_two() -> None:
    before = between(lambda net, x, n: net.op("Min", net.op("Max", x, n(2)), n(1)))
    assert kinds(respelled("spell_clip", before)) == ["Clip", "Clip"]


@pytest.mark.parametrize("opset", [8, 17])
@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_what_is_infinite_stays_so(kind: str, opset: int) -> None:
    """As a mask is, where one side has no bound."""
    net = Net(opset)
    x = net.input([1, 2, 3, 4])
    before = net.model(net.op(kind, x, net.const(np.float32(1))))
    after = ir.to_proto(graphopt.optimize(before, only=["spell_clip"]).model)
    assert [node.op_type for node in after.graph.node] == ["Clip"]
    given = np.linspace(-3, 3, 24, dtype=np.float32).reshape(1, 2, 3, 4)
    given[0, 0, 0], given[0, 1, 1] = -np.inf, np.inf
    np.testing.assert_array_equal(run(after, {"x": given})[0], run(before, {"x": given})[0])


@pytest.mark.parametrize("opset", [10, 17])
def test_an_infinite_number_is_clipped_by_a_bound_that_is_not_given(opset: int) -> None:
    net = Net(opset)
    x = net.input([4])
    least = net.op("Clip", x, min=0.0) if opset < 11 else net.op("Clip", x, net.const(0.0))
    before = net.model(net.op("Max", least, net.const(0.1)))
    result = graphopt.optimize(before, only=["spell_clip"])
    assert result.report.changed
    feeds = {x: np.array([np.inf, -np.inf, 0, 1], np.float32)}
    np.testing.assert_array_equal(run(ir.to_proto(result.model), feeds)[0], run(before, feeds)[0])
