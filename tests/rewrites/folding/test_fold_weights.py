"""fold_weights: weights that are computed from constants are stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tests.builders import Net, alone, check, model, node, weight

checked = partial(alone, "fold_weights")


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
            only=["fold_affine", "fold_weights"],
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
    half = {"w": weight(8, 8, 3, 3).astype(np.float16)}
    proto = model([node("Cast", "w", "k", to=1), node("Conv", "x k", "y")], half, outputs={"y": [1, 8, 6, 6]})
    checked(proto, number=0, because=["would take 2,304 bytes", "1,152"])
    net = Net()
    wide = net.op("Expand", net.const(net.weights(1, 8, 3, 3)), net.const(np.array([16, 8, 3, 3])))
    checked(net, net.op("Conv", net.input([1, 8, 6, 6]), wide, channels=16), number=0, because=["would take"])
    net = Net()
    w = net.const(net.weights(8, 8, 1, 1))
    y = net.op("Conv", net.input([1, 8, 6, 6]), net.op("Neg", w), channels=8)
    checked(net, net.op("Conv", y, w, channels=8), number=0, because=["would take"])
