"""remove_duplicates: what is computed twice is computed once."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.builders import Checked, Net, alone

checked = partial(alone, "remove_duplicates", applied=None)


def once(net: Net, *outputs: str) -> Checked:
    """Checks, alone and with all rewrites, that MACs are halved."""
    result = checked(net, *outputs, together=True)
    assert result.macs_after * 2 == result.macs_before
    return result


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_convolutions_of_shared_and_of_equal_weights(same: bool, dtype: type) -> None:
    net = Net(dtype=dtype)
    x, weight, bias = net.input([1, 4, 9, 9]), net.weights(6, 4, 3, 3), net.normal(6)
    first = net.const(weight)
    a = net.conv(x, 6, weight=first, bias=net.const(bias))
    b = net.conv(x, 6, weight=first if same else weight, bias=net.const(bias))
    once(net, net.op("Relu", a), net.op("Sigmoid", b))


def test_whole_chains_at_once() -> None:
    net = Net()
    x = net.input(["N", 4, 9, 9])
    weights, outputs = [net.weights(4, 4, 3, 3) for _ in range(4)], []
    for kind in ("Sigmoid", "Tanh"):
        y = x
        for weight in weights:
            y = net.op("Relu", net.conv(y, 4, weight=weight, bias=False, pads=[1] * 4))
        outputs.append(net.op(kind, y))
    result = once(net, *outputs)
    assert len(result.report.applied) == 1 and result.ops["Conv"] == 4


def test_duplicates_that_are_outputs() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.const(net.weights(6, 4, 3, 3))
    outputs = [net.conv(x, 6, weight=weight, bias=False) for _ in range(2)]
    once(net, *outputs)


def test_weights_of_run_time_are_one_value() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.input([6, 4, 3, 3], "w")
    once(net, *(net.op(k, net.conv(x, 6, weight=weight, bias=False)) for k in ("Relu", "Sigmoid")))


def test_several_outputs_of_a_split() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.const(net.weights(6, 2, 3, 3))
    outputs = []
    for kind in ("Relu", "Sigmoid"):
        _, part = net.split(x, 2, 2)
        outputs.append(net.op(kind, net.conv(part, 6, weight=weight, bias=False)))
    assert once(net, *outputs).ops["Split"] == 1


different = partial(checked, applied={}, saves=False)


def test_different_attributes_weights_or_signs_of_zero() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.weights(6, 4, 3, 3)
    a = net.conv(x, 6, weight=weight, bias=False, pads=[1] * 4)
    b = net.conv(x, 6, weight=weight, bias=False, pads=[0, 0, 2, 2])
    c = net.conv(x, 6, weight=weight * 2, bias=False, pads=[1] * 4)
    different(net, *(net.op("Relu", y) for y in (a, b, c)))


def test_random_operators_stay() -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    a, b = (net.op("RandomNormalLike", x) for _ in range(2))
    different(net, net.op("Add", net.op("Mul", a, x), net.op("Neg", net.op("Mul", b, x))), compare=False)


def test_dropout_in_training_stays() -> None:
    net = Net(13)
    x = net.input([1, 4, 9, 9])
    ratio, training = net.const(np.array(0.5)), net.const(np.array(True))
    a, b = (net.op("Dropout", x, ratio, training) for _ in range(2))
    different(net, net.op("Relu", a), net.op("Sigmoid", b), compare=False)


def test_custom_operators_and_quantisation_stay() -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    a, b = (net.quantised(x) for _ in range(2))
    different(net, net.op("Relu", a), net.op("Sigmoid", b))


def test_operators_of_different_graphs_stay() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.const(net.weights(4, 4, 1, 1), "shared")

    def convolved(inner: Net) -> str:
        return inner.conv(x, 4, (1, 1), weight=weight, bias=False)

    chosen = net.choose(lambda inner: inner.op("Relu", convolved(inner)))
    different(net, net.op("Sigmoid", convolved(net)), chosen)
