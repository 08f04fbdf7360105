"""Layer normalisation in pieces as the operator, from the spellings that exporters write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, assert_same, make_feeds, run
from tests.rewrites.spelling.spelled import exponent, kernels

CHANNELS = 24
SCALE = np.linspace(0.5, 2, CHANNELS, dtype=np.float32)
SHIFT = np.linspace(-1, 1, CHANNELS, dtype=np.float32)
Number = Callable[[Any], str]


class Pieces:
    """The pieces of a normalisation over the last axis of x."""

    def __init__(self, net: Net, x: str, n: Number, axis: int = -1) -> None:
        self.net, self.x, self.n, self.axis = net, x, n, axis
        self.mean = self.average(x)
        self.centred = net.op("Sub", x, self.mean)

    def average(self, value: str) -> str:
        if self.net.opset < 18:
            return self.net.op("ReduceMean", value, axes=[self.axis])
        return self.net.op("ReduceMean", value, self.net.const(np.array([self.axis])))

    def variance(self, *, power: bool = False) -> str:
        d = self.centred
        square = self.net.op("Pow", d, self.n(2)) if power else self.net.op("Mul", d, d)
        return self.net.op("Add", self.average(square), self.n(1e-5))

    def root(self, **options: bool) -> str:
        return self.net.op("Sqrt", self.variance(**options))

    def inverse(self) -> str:
        return self.net.op("Reciprocal", self.root())

    def affine(self, value: str) -> str:
        return self.net.op("Add", self.net.op("Mul", value, self.n(SCALE)), self.n(SHIFT))


def by_square(p: Pieces) -> str:
    return p.affine(p.net.op("Div", p.centred, p.root()))


def by_reciprocal(p: Pieces) -> str:
    return p.affine(p.net.op("Mul", p.inverse(), p.centred))


def by_quotient(p: Pieces) -> str:
    return p.affine(p.net.op("Mul", p.centred, p.net.op("Div", p.n(1), p.root(power=True))))


def by_power(p: Pieces) -> str:
    return p.affine(p.net.op("Mul", p.centred, p.net.op("Pow", p.variance(power=True), p.n(-0.5))))


def apart(p: Pieces) -> str:
    """As TensorFlow writes a normalisation: x·s + (β − mean·s)."""
    s = p.net.op("Mul", p.inverse(), p.n(SCALE))
    rest = p.net.op("Sub", p.n(SHIFT), p.net.op("Mul", p.mean, s))
    return p.net.op("Add", p.net.op("Mul", p.x, s), rest)


def apart_without_scale(p: Pieces) -> str:
    s = p.inverse()
    return p.net.op("Sub", p.net.op("Mul", p.x, s), p.net.op("Mul", p.mean, s))


def scale_first(p: Pieces) -> str:
    return p.net.op("Add", p.net.op("Mul", p.centred, p.net.op("Mul", p.n(SCALE), p.inverse())), p.n(SHIFT))


def plain(p: Pieces) -> str:
    return p.net.op("Mul", p.centred, p.inverse())


SPELLINGS = [by_square, by_reciprocal, by_quotient, by_power, apart, apart_without_scale, scale_first, plain]


def between(write: Callable[[Pieces], str], dtype: Any = np.float32, opset: int = 17, axis: int = -1) -> Any:
    net = Net(opset, dtype)
    x = net.input(["N", 5, CHANNELS])
    return net.model(write(Pieces(net, x, lambda value: net.const(np.asarray(value, dtype)), axis)))


def respelled(before: onnx.ModelProto, aim: Any = "time") -> list[str]:
    result = graphopt.optimize(before, only=["spell_layer_norm"], aim=aim)
    assert not any("verification" in each.reason for each in result.report.declined)
    after = ir.to_proto(result.model)
    for batch in (1, 3):
        feeds = make_feeds(before, {"N": batch})
        assert_same(run(before, feeds), run(after, feeds))
    assert not graphopt.optimize(after, only=["spell_layer_norm"], aim=aim).report.changed
    return [node.op_type for node in after.graph.node]


@pytest.mark.parametrize("opset", [17, 18, 23])
@pytest.mark.parametrize("write", SPELLINGS)
def test_every_spelling_becomes_the_operator(write: Callable[[Pieces], str], opset: int) -> None:
    assert respelled(between(write, opset=opset)) == ["LayerNormalization"]


@pytest.mark.parametrize("opset", [9, 13, 16])
@pytest.mark.parametrize("write", SPELLINGS)
def test_without_the_operator_it_becomes_the_pieces_that_are_fused(
    write: Callable[[Pieces], str], opset: int
) -> None:
    before = between(write, opset=opset)
    if write is not by_quotient:  # onnxruntime tells that, too
        assert "LayerNormalization" not in kernels(before)
    assert "Pow" in respelled(before)
    after = graphopt.optimize(before, only=["spell_layer_norm"]).model
    assert kernels(ir.to_proto(after)) == ["LayerNormalization"]


def test_it_is_found_in_float16() -> None:
    assert respelled(between(by_reciprocal, np.float16)) == ["LayerNormalization"]


@pytest.mark.parametrize("opset", [16, 17])
def test_a_square_by_an_exponent_of_another_type(opset: int) -> None:
    def write(p: Pieces) -> str:
        square = p.net.op("Pow", p.centred, exponent(p.net, 2))
        root = p.net.op("Sqrt", p.net.op("Add", p.average(square), p.n(1e-3)))
        return p.affine(p.net.op("Mul", p.centred, p.net.op("Reciprocal", root)))

    found = respelled(between(write, np.float16, opset))
    assert "Reciprocal" not in found and (found == ["LayerNormalization"]) is (opset == 17)


@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("scale", [None, 2, SCALE])
def test_an_open_axis_stays(scale: Any, opset: int) -> None:
    """γ would be as long at one run alone, and an axis of 1 may meet one of many numbers."""
    net = Net(opset)
    pieces = Pieces(net, net.input(["N", 5, "L"]), lambda value: net.const(np.asarray(value, np.float32)))
    y = plain(pieces)
    before = net.model(y if scale is None else net.op("Mul", y, pieces.n(scale)))
    report = graphopt.optimize(before, only=["spell_layer_norm"]).report
    assert not report.changed and not report.declined


def fused(p: Pieces) -> str:
    return p.affine(p.net.op("Div", p.centred, p.root(power=True)))


def read_in_between(p: Pieces) -> str:
    inverse = p.inverse()
    return p.net.op("Add", p.affine(p.net.op("Mul", p.centred, inverse)), inverse)


def of_another_mean(p: Pieces) -> str:
    return p.affine(p.net.op("Mul", p.net.op("Sub", p.x, p.average(p.net.op("Abs", p.x))), p.inverse()))


def of_the_positions(p: Pieces) -> str:
    return p.net.op("Mul", p.centred, p.inverse())


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (fused, {}),
        (read_in_between, {}),
        (of_another_mean, {}),
        (of_the_positions, {"axis": 1}),
        (by_reciprocal, {"dtype": np.float64}),
    ],
)
def test_others_stay(write: Callable[[Pieces], str], options: dict[str, Any]) -> None:
    before = between(write, **options)
    assert respelled(before) == [node.op_type for node in before.graph.node]


def test_the_aim_macs_leaves_them() -> None:
    before = between(apart)
    assert respelled(before, "macs") == [node.op_type for node in before.graph.node]
