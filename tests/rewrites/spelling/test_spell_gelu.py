"""GELUs in the orders that exporters write, as onnxruntime runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, assert_same, make_feeds, run
from tests.rewrites.spelling.spelled import between, exponent, kernels, kinds, respelled

ROOT, TANH = 2**0.5, (2 / np.pi) ** 0.5


def plus_erf(net: Net, number: Any, scaled: str) -> str:
    return net.op("Add", number(1), net.op("Erf", scaled))


def half_inside(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", x, number(1 / ROOT)))
    return net.op("Mul", x, net.op("Mul", plus, number(0.5)))


def halved_by_two(net: Net, x: str, number: Any) -> str:
    return net.op("Div", net.op("Mul", plus_erf(net, number, net.op("Div", x, number(ROOT))), x), number(2))


def half_first_and_scaled(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", number(1 / ROOT), x))
    return net.op("Mul", plus, net.op("Mul", number(0.5), x))


def by_tanh(net: Net, x: str, number: Any) -> str:
    cube = net.op("Mul", net.op("Mul", x, x), x)
    total = net.op("Add", net.op("Mul", cube, number(0.044715)), x)
    tanh = net.op("Tanh", net.op("Mul", number(TANH), total))
    return net.op("Mul", net.op("Mul", number(0.5), net.op("Add", tanh, number(1))), x)


SPELLINGS = [half_inside, halved_by_two, half_first_and_scaled, by_tanh]


def fused(proto: onnx.ModelProto) -> int:
    return sum(kind in ("Gelu", "FastGelu") for kind in kernels(proto))


@pytest.mark.parametrize("write", SPELLINGS)
def test_every_order_becomes_one_kernel(write: Any) -> None:
    before = between(write)
    result = graphopt.optimize(before)
    after = ir.to_proto(result.model)
    assert [item.candidate.rewrite for item in result.report.applied] == ["spell_gelu"]
    assert (fused(before), fused(after)) == (0, 1)
    feeds = make_feeds(before, {"N": 3})
    assert_same(run(before, feeds), run(after, feeds))
    assert not graphopt.optimize(after).report.changed


@pytest.mark.parametrize("write", SPELLINGS)
def test_in_float16_too_a_second_run_finds_nothing(write: Any) -> None:
    after = respelled("spell_gelu", between(write, np.float16))
    assert kinds(after)[-1] == "Mul"


def test_an_exponent_of_another_type() -> None:
    def write(net: Net, x: str, number: Any) -> str:
        cube = net.op("Pow", x, exponent(net, 3))
        total = net.op("Add", net.op("Mul", cube, number(0.044715)), x)
        plus = net.op("Add", net.op("Tanh", net.op("Mul", number(TANH), total)), number(1))
        return net.op("Mul", net.op("Mul", number(0.5), plus), x)

    report = graphopt.optimize(between(write, np.float16), only=["spell_gelu"]).report
    assert report.changed and not report.declined


@pytest.mark.parametrize("write", SPELLINGS)
def test_the_aim_macs_leaves_them(write: Any) -> None:
    applied = graphopt.optimize(between(write), aim="macs").report.applied
    assert "spell_gelu" not in [item.candidate.rewrite for item in applied]


def other_scale(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", x, number(0.7)))
    return net.op("Mul", x, net.op("Mul", plus, number(0.5)))


def other_half(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", x, number(1 / ROOT)))
    return net.op("Mul", x, net.op("Mul", plus, number(0.25)))


def other_value(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", net.op("Relu", x), number(1 / ROOT)))
    return net.op("Mul", x, net.op("Mul", plus, number(0.5)))


def of_more_axes(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", x, number(1 / ROOT)))
    y = net.op("Mul", x, net.op("Mul", plus, number([[[[[0.5]]]]])))
    return net.op("Reshape", y, net.const(np.array([-1, 16, 6, 6])))


def read_between(net: Net, x: str, number: Any) -> str:
    plus = plus_erf(net, number, net.op("Mul", x, number(1 / ROOT)))
    return net.op("Add", net.op("Mul", x, net.op("Mul", plus, number(0.5))), plus)


@pytest.mark.parametrize("write", [other_scale, other_half, other_value, of_more_axes, read_between])
def test_what_is_no_gelu_or_read_in_between_stays(write: Any) -> None:
    before = between(write)
    assert kinds(respelled("spell_gelu", before)) == kinds(before)
