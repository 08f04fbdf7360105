"""constant_folding: what is computed of constants alone is stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders import Net, alone, check, info, model, node, weight

checked = partial(alone, "constant_folding")


def shaped(net: Net, x: str, *sizes: int) -> str:
    return net.op("Reshape", x, net.const(np.array(sizes)))


def normalised_by_rows(net: Net) -> str:
    """Weight normalisation on a flat view."""
    unit = net.op("LpNormalization", shaped(net, net.const(net.weights(16, 8, 3, 3)), 16, 72), axis=1, p=2)
    return net.op("Mul", shaped(net, unit, 16, 8, 3, 3), net.const(net.weights(16, 1, 1, 1)))


def spectrally_normalised(net: Net) -> str:
    """w / (uᵀ (W v)), by two products with vectors."""
    w = net.const(net.weights(16, 8, 3, 3))
    u, v = net.const(net.normal(16)), net.const(net.normal(72))
    sigma = net.op("MatMul", u, net.op("MatMul", shaped(net, w, 16, 72), v))
    return net.op("Div", w, sigma)


def by_columns(net: Net) -> str:
    """The same with a row and a column, as others write it."""
    w = net.const(net.weights(16, 8, 3, 3))
    u, v = net.const(net.normal(1, 16)), net.const(net.normal(72, 1))
    sigma = net.op("MatMul", net.op("MatMul", u, shaped(net, w, 16, 72)), v)
    return net.op("Div", w, shaped(net, sigma, 1, 1, 1, 1))


def masked(net: Net) -> str:
    mask = net.const(np.triu(np.ones((3, 3))).astype(np.float32))
    return net.op("Mul", net.const(net.weights(16, 8, 3, 3)), net.op("Trilu", mask, upper=0))


def softened(net: Net) -> str:
    return net.op("Softmax", net.const(net.weights(16, 8, 3, 3)), axis=1)


WEIGHTS: list[Callable[[Net], str]] = [
    normalised_by_rows,
    spectrally_normalised,
    by_columns,
    masked,
    softened,
]


@pytest.mark.parametrize("make", WEIGHTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("behind", ["", "BatchNormalization"])
def test_computed_weights_are_stored(make: Callable[[Net], str], behind: str) -> None:
    net = Net()
    y = net.op("Conv", net.input(["N", 8, "H", "W"]), make(net), channels=16, pads=[1] * 4)
    if behind:
        check(
            net.model(net.bn(y)),
            only=["fold_affine", "constant_folding"],
            applied={"fold_affine": 1},
            sizes={"H": 5, "W": 6},
        )
        return
    result = checked(net, y, sizes={"H": 5, "W": 6})
    assert [node.op_type for node in result.after.graph.node] == ["Conv"]


def test_parts_of_one_constant_are_stored_together() -> None:
    net = Net(opset=18)
    x = net.input([1, 8, 6, 6])
    first, second = net.split(net.const(net.weights(16, 8, 3, 3)), 8, 8, axis=0)
    y = net.op("Concat", *(net.op("Conv", x, w, channels=8) for w in (first, second)), axis=1)
    result = checked(net, y)
    assert [node.op_type for node in result.after.graph.node] == ["Conv", "Conv", "Concat"]


def test_what_would_make_the_file_larger_stays() -> None:
    """float16 behind a Cast, one filter for all channels, and a constant that others read too."""
    half = {"w": weight(64, 8, 3, 3).astype(np.float16)}
    proto = model(
        [node("Cast", "w", "k", to=1), node("Conv", "x k", "y")], half, outputs={"y": [1, 64, 6, 6]}
    )
    checked(proto, number=0, because=["would take 18,432 bytes", "9,216"])
    net = Net()
    wide = net.op("Expand", net.const(net.weights(1, 8, 3, 3)), net.const(np.array([14, 8, 3, 3])))
    many = net.op("Concat", wide, wide, axis=0)
    x = net.input([1, 8, 6, 6])
    y = net.op("Conv", net.conv(x, 8, pads=[1] * 4), many, channels=28)
    checked(net, y, number=0, because=["would take"])
    net = Net()
    w = net.const(net.weights(40, 40, 1, 1))
    y = net.op("Conv", net.input([1, 40, 6, 6]), net.op("Neg", w), channels=40)
    checked(net, net.op("Conv", y, w, channels=40), number=0, because=["would take"])


def pads_of_numbers(net: Net) -> str:
    """The pads of a shortcut that adds channels, as PyTorch writes them."""
    flat = net.op(
        "Concat",
        net.const(np.array([0, 0, 0, 0, 4, 4])),
        net.op("ConstantOfShape", net.const(np.array([2])), value=numpy_helper.from_array(np.array([0]))),
        axis=0,
    )
    rows = net.op(
        "Slice",
        net.op("Reshape", flat, net.const(np.array([-1, 2]))),
        *(net.const(np.array([number])) for number in (-1, np.iinfo(np.int64).min, 0, -1)),
    )
    turned = net.op("Reshape", net.op("Transpose", rows, perm=[1, 0]), net.const(np.array([-1])))
    return net.op("Cast", turned, to=TensorProto.INT64)


def test_pads_that_are_put_together_of_numbers() -> None:
    net = Net()
    x = net.input(["N", 8, "H", "W"])
    y = net.op("Pad", net.op("Relu", x), pads_of_numbers(net), channels=16)
    result = checked(net, y, sizes={"H": 5, "W": 6})
    assert result.ops == {"Relu": 1, "Pad": 1}
    (pads,) = (numpy_helper.to_array(t) for t in result.after.graph.initializer if t.data_type == 7)
    assert pads.tolist() == [0, 4, 0, 0, 0, 4, 0, 0]


def test_an_output_of_constants_keeps_one_operator() -> None:
    net = Net()
    w = net.const(net.weights(4, 4))
    total = net.op("ReduceSum", net.op("Abs", w), keepdims=0)
    alone = net.op("Identity", net.const(net.normal(3)))
    y = net.op("Relu", net.input([1, 4, 6, 6]))
    proto = net.model(y)
    proto.graph.output.extend([info(total, []), info(alone, [3])])
    result = checked(proto)
    assert result.ops == {"Relu": 1, "Identity": 2}


def test_random_numbers_stay() -> None:
    net = Net()
    noise = net.op("RandomUniformLike", net.const(net.weights(1, 4, 1, 1)), seed=1.0)
    scale = net.op("Mul", noise, net.const(np.float32(0)))
    checked(net, net.op("Add", net.input([1, 4, 6, 6]), scale), number=0)


def test_within_a_body() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 8, 6, 6]))
    outer = net.const(net.weights(1, 8, 1, 1))
    y = net.choose(lambda inner: inner.op("Mul", x, inner.op("Exp", outer)))
    result = checked(net.model(y), number=2)
    (choice,) = (each for each in result.after.graph.node if each.op_type == "If")
    bodies = [attribute.g for attribute in choice.attribute]
    assert [[each.op_type for each in body.node] for body in bodies] == [["Mul"], ["Mul"]]


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_in_the_type_that_it_is_written_in(kind: type) -> None:
    net = Net(dtype=kind)
    x = net.input([1, 8, 6, 6])
    scale = net.op("Div", net.const(net.weights(1, 8, 1, 1)), net.const(np.array(3.0)))
    result = checked(net, net.op("Mul", x, scale))
    assert result.ops == {"Mul": 1}
    assert {t.data_type for t in result.after.graph.initializer} == {
        helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    }
