"""Weights that the model computes from constants: folded whatever their size, and no larger a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import graphopt
from graphopt.analysis.evaluation import SMALL_SIZE
from tests.builders import Checked, Net, check

SHAPE = (24, 24, 3, 3)
assert np.prod(SHAPE) > SMALL_SIZE


def stored(net: Net, *shape: int) -> str:
    """Weights of a convolution of 24 channels, as an initializer."""
    return net.const(net.normal(*(shape or SHAPE)) / 15)


def normalised(net: Net) -> str:
    weight = stored(net)
    norm = net.op("ReduceL2", weight, axes=[1, 2, 3], keepdims=1)
    return net.op("Mul", net.op("Div", weight, norm), net.const(net.random.uniform(0.5, 2, (24, 1, 1, 1))))


def normalised_by_power(net: Net) -> str:
    weight = stored(net)
    square = net.op("Pow", weight, net.const(2.0))
    norm = net.op("Sqrt", net.op("ReduceSum", square, net.const(np.array([1, 2, 3])), keepdims=1))
    return net.op("Div", weight, norm)


def standardised(net: Net) -> str:
    weight = stored(net)
    centred = net.op("Sub", weight, net.op("ReduceMean", weight, axes=[1, 2, 3]))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes=[1, 2, 3])
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))
    return net.op("Mul", net.op("Div", centred, deviation), net.const(0.1))


def standardised_as_instances(net: Net) -> str:
    rows = net.op("Reshape", stored(net), net.const(np.array([1, 24, -1])))
    rows = net.op("InstanceNormalization", rows, net.const(np.full(24, 0.1)), net.const(np.zeros(24)))
    return net.op("Reshape", rows, net.const(np.array(SHAPE)))


def scaled(net: Net) -> str:
    return net.op("Mul", stored(net), net.const(0.5))


def product(net: Net) -> str:
    flat = net.op("MatMul", stored(net, 24, 64), stored(net, 64, 216))
    return net.op("Reshape", flat, net.const(np.array(SHAPE)))


def sliced(net: Net) -> str:
    return net.op("Slice", stored(net, 48, 24, 3, 3), net.const(np.array([24])), net.const(np.array([48])))


FORMS = [normalised, normalised_by_power, standardised, standardised_as_instances, scaled, product, sliced]


def convolved(net: Net, weight: str, bias: str | bool = False) -> str:
    net.channels[weight] = 24
    x = net.input(["N", 24, 7, 7])
    return net.conv(x, 24, weight=weight, bias=bias, pads=[1] * 4, name="conv")


@pytest.mark.parametrize("form", FORMS)
def test_a_computed_weight_is_folded_into_and_what_computed_it_goes(form: Callable[[Net], str]) -> None:
    net = Net(17)
    y = net.op("Relu", net.bn(convolved(net, form(net))))
    result = check(net.model(y), applied={"fold_affine": 1})
    assert result.ops == {"Conv": 1, "Relu": 1}
    assert result.report.after.weight_bytes <= result.report.before.weight_bytes


@pytest.mark.parametrize("form", [normalised, standardised])
def test_a_budget_reaches_computed_weights(form: Callable[[Net], str]) -> None:
    net = Net(17)
    model = net.model(net.op("Relu", convolved(net, form(net))))
    result = graphopt.optimize(model, {"macs": 0.6})
    assert (result.report.after.macs or 0) <= 0.6 * (result.report.before.macs or 0)
    (row,) = graphopt.scan(model).rows
    assert row.linear.params == np.prod(SHAPE) and not row.linear.obstacle


def test_one_constant_that_is_split_into_several_weights() -> None:
    net = Net(17)
    both = stored(net, 48, 24, 3, 3)
    first = net.op("Split", both, net.const(np.array([24, 24])), outputs=2, axis=0)
    x = net.input(["N", 24, 7, 7])
    halves = []
    for weight in (first, f"{first}_1"):
        net.channels[weight] = 24
        halves.append(net.op("Relu", net.bn(net.conv(x, 24, weight=weight, bias=False))))
    result = check(net.model(net.op("Add", *halves)), only=["fold_affine"], applied={"fold_affine": 2})
    assert result.ops == {"Conv": 2, "Relu": 2, "Add": 1}
    assert result.report.after.weight_bytes <= result.report.before.weight_bytes


def test_a_bias_of_zeros_as_large_as_the_weight_says() -> None:
    net = Net(18)
    weight = stored(net)
    zero = net.op("CastLike", net.const(np.array(0)), "x")
    bias = net.op("Expand", zero, net.op("Shape", weight, start=0, end=1))
    y = net.op("Relu", net.bn(convolved(net, weight, bias)))
    assert check(net.model(y), applied={"fold_affine": 1}).ops == {"Conv": 1, "Relu": 1}


def like(net: Net, source: str, weight: str) -> str:
    """A bias of zeros of the type that another value has."""
    return net.op(
        "Expand", net.op("CastLike", net.const(np.array(0)), source), net.op("Shape", weight, end=1)
    )


def test_a_bias_of_zeros_of_the_type_that_a_cast_makes() -> None:
    net = Net(18)
    weight = stored(net)
    net.channels[weight] = 24
    x = net.op(
        "Cast", net.op("Cast", net.input(["N", 24, 7, 7]), to=TensorProto.DOUBLE), to=TensorProto.FLOAT
    )
    y = net.op("Relu", net.bn(net.conv(x, 24, weight=weight, bias=like(net, x, weight))))
    assert check(net.model(y), only=["fold_affine"], applied={"fold_affine": 1}).ops["Conv"] == 1


def test_a_type_that_nothing_tells_is_not_taken_for_something_computed_at_run_time() -> None:
    net = Net(18)
    weight = stored(net)
    x = net.choose(lambda inner: inner.op("Relu", "x"), lambda inner: inner.op("Neg", "x"))
    net.input(["N", 24, 7, 7])
    net.channels[weight] = net.channels[x] = 24
    bias = like(net, x, weight)
    y = net.op("Relu", net.bn(net.conv(x, 24, weight=weight, bias=bias)))
    result = check(net.model(y), only=["fold_affine"], applied={})
    result.refused("fold_affine", f"{bias} is computed from constants by CastLike, in a way that is not")


def half(net: Net) -> str:
    """Weights that are stored as float16 and cast to float32."""
    held = net.const(net.normal(*SHAPE) / 15)
    tensor = net.initializers[-1]
    tensor.data_type, tensor.raw_data = (
        TensorProto.FLOAT16,
        np.frombuffer(tensor.raw_data, np.float32).astype(np.float16).tobytes(),
    )
    return net.op("Cast", held, to=TensorProto.FLOAT)


def of_half_weights(**options: Any) -> Checked:
    net = Net(17)
    y = net.op("Relu", net.bn(convolved(net, half(net))))
    return check(net.model(y), **options)


def test_weights_that_are_stored_as_float16_stay_so_where_no_macs_are_saved() -> None:
    result = of_half_weights(aim="time", applied={})
    assert result.ops == {"Cast": 1, "Conv": 1, "BatchNormalization": 1, "Relu": 1}
    result.refused("fold_affine", "stored in fewer bytes than they are computed in", "to save 0 MACs")
    assert result.report.before.weight_bytes == 2 * np.prod(SHAPE) + 4 * 4 * 24


def test_weights_that_are_stored_as_float16_and_grow_are_told() -> None:
    result = of_half_weights(aim="macs", applied={"fold_affine": 1})
    assert any(
        "the weights grow from 10.75 kB to 20.83 kB: some were stored" in note for note in result.report.notes
    )


def test_a_weight_of_another_size_than_anything_in_the_file_is_not_computed() -> None:
    net = Net(17)
    weight = net.op("Expand", net.const(np.ones((1, 1, 1, 1))), net.const(np.array(SHAPE)))
    y = net.op("Relu", net.bn(convolved(net, weight)))
    result = check(net.model(y), applied={})
    result.refused("fold_affine", f"{weight} is computed from constants by Expand, in a way that is not")


def test_a_weight_that_depends_on_the_input_is_computed_at_run_time() -> None:
    net = Net(17)
    weight = stored(net)
    x = net.input(["N", 24, 7, 7])
    scale = net.op("ReduceMean", x, keepdims=0)
    net.channels[weight] = 24
    made = net.op("Mul", weight, scale)
    net.channels[made] = 24
    result = check(net.model(net.op("Relu", net.bn(net.conv(x, 24, weight=made)))), applied={})
    result.refused("fold_affine", f"{made} is computed at run time")
