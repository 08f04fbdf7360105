"""prune_channels: channels that make no difference go, through the whole graph at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import graphopt
from tests.builders import NEWEST_OPSET, Net, alone, check, compare_at_sizes, grid

pruned = partial(alone, "prune_channels", together=True)


def zeros(net: Net, out: int, inside: int, taps: tuple[int, ...], count: int) -> np.ndarray[Any, Any]:
    """Weights whose first filters are 0."""
    weight = net.weights(out, inside, *taps)
    weight[:count] = 0
    return weight


@pytest.mark.parametrize("kind", ["slice", "gather", "split", "unsorted"])
@pytest.mark.parametrize("opset", [9, 13, 18])
def test_output_channels_that_nobody_reads(kind: str, opset: int) -> None:
    net = Net(opset)
    y = net.op("Relu", net.conv(net.input(["N", 4, 6, 6]), 8))
    if kind == "slice" and opset > 9:
        y = net.op("Slice", y, *(net.const(np.array([v])) for v in (2, 6, 1)))
    elif kind == "slice":
        y = net.op("Slice", y, starts=[2], ends=[6], axes=[1])
    elif kind == "split":
        y = net.op("Split", y, outputs=2, axis=1, **({"num_outputs": 2} if opset == 18 else {}))
    else:
        y = net.op(
            "Gather", y, net.const(np.array([1, 3, 4, 7] if kind == "gather" else [7, 1, 4, 3])), axis=1
        )
    result = pruned(net, y, macs_after=16 * 9 * 4 * 4)
    assert sum(result.ops[k] for k in ("Slice", "Split", "Gather")) == (kind == "unsorted")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_zero_filters(dtype: Any, pads: int, axes: int) -> None:
    net, taps = Net(17, dtype), (3,) * axes
    x = net.input([2, 4, *[6] * axes])
    y = net.conv(x, 8, taps, weight=zeros(net, 8, 4, taps, 3), bias=False, pads=[1] * 2 * axes)
    y = net.conv(net.op("Relu", y), 6, taps, pads=[pads] * 2 * axes)
    after = 2 * 3**axes * (6**axes * 4 * 5 + (4 + 2 * pads) ** axes * 5 * 6)
    pruned(net, y, macs_after=after)


@pytest.mark.parametrize(("pads", "left"), [(0, 5), (1, 6)])
def test_constant_channels(pads: int, left: int) -> None:
    """Without padding they go into the bias; under padding one channel stands for all of them."""
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 8, weight=zeros(net, 8, 4, (3, 3), 3), pads=[1] * 4)
    y = net.conv(net.op("Sigmoid", y), 6, pads=[pads] * 4)
    pruned(net, y, macs_after=9 * (36 * 4 * left + (4 + 2 * pads) ** 2 * left * 6))


@pytest.mark.parametrize("opset", [7, 13, NEWEST_OPSET])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_through_instance_normalization(opset: int, dtype: Any) -> None:
    """Of 8 channels two are not read, one has γ = 0, and the filters of two are 0."""
    net = Net(opset, dtype)
    gamma, weight = net.random.uniform(0.5, 1.5, 8), net.weights(5, 8, 1, 1)
    gamma[2], weight[:, :2] = 0, 0
    filters = zeros(net, 8, 4, (3, 3), 2)[::-1]
    y = net.conv(net.input(["N", 4, "h", "w"]), 8, weight=filters, bias=False)
    y = net.op("InstanceNormalization", y, net.const(gamma), net.const(net.normal(8)))
    found = pruned(net, net.conv(net.op("Relu", y), 5, (1, 1), weight=weight), sizes={"h": 6, "w": 5})
    assert found.macs_after == 12 * (9 * 4 * 3 + 3 * 5)
    assert compare_at_sizes(found.before, found.after, grid("h", "w")) >= 16


def test_an_instance_normalization_of_a_constant_that_is_not_0_stays() -> None:
    """What rounding leaves of x − mean is divided by √ε: near 0, and not 0."""
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 8, weight=zeros(net, 8, 4, (3, 3), 2))
    y = net.op("InstanceNormalization", y, net.const(net.normal(8)), net.const(net.normal(8)))
    pruned(net, net.conv(y, 6, (1, 1)), number=0)


def test_slimmed_residual_network() -> None:
    """Channels of a sum go where both operands are dead; others stay."""
    net = Net()

    def normalised(y: str, dead: list[int]) -> str:
        gamma, beta = net.random.uniform(0.5, 1.5, 8), net.normal(8)
        gamma[dead] = 0
        beta[dead] = -np.abs(beta[dead])
        mean, variance = net.const(net.normal(8)), net.const(net.random.uniform(0.5, 1.5, 8))
        return net.op("BatchNormalization", y, net.const(gamma), net.const(beta), mean, variance)

    x = net.op("Relu", normalised(net.conv(net.input([1, 4, 6, 6]), 8, pads=[1] * 4), [0, 1, 2]))
    y = net.op("Relu", normalised(net.conv(x, 8, pads=[1] * 4), [3, 4, 5, 6]))
    y = net.op("Add", x, net.op("Relu", normalised(net.conv(y, 8, pads=[1] * 4), [1, 2, 7])))
    pruned(net, net.conv(y, 5), macs_after=9 * 36 * (4 * 6 + 5 * 4 + 4 * 6) + 9 * 16 * 6 * 5)


def test_channels_of_a_normalisation_in_training_mode_stay() -> None:
    net = Net(9)
    y = net.conv(net.input([1, 4, 6, 6]), 8, pads=[1] * 4)
    gamma = np.arange(8.0) % 2
    parameters = [net.const(each) for each in (gamma, -np.ones(8), np.zeros(8), np.ones(8))]
    y = net.op("Relu", net.op("BatchNormalization", y, *parameters, outputs=5))
    result = check(net.model(net.conv(y, 5)), applied={})
    assert result.ops == {"Conv": 2, "BatchNormalization": 1, "Relu": 1}


def test_duplicate_filters() -> None:
    net = Net()
    weight, bias = net.weights(8, 4, 3, 3), net.normal(8)
    weight[[3, 5]], bias[[3, 5]] = weight[1], bias[1]
    y = net.op(
        "Relu", net.conv(net.input([1, 4, 6, 6]), 8, weight=weight, bias=net.const(bias), pads=[1] * 4)
    )
    pruned(net, net.conv(y, 6, pads=[1] * 4), macs_after=9 * 36 * (4 * 6 + 6 * 6))


def test_depthwise_pools_concat_and_a_dense_head() -> None:
    net = Net()
    x = net.input(["N", 4, 6, 6])
    a = net.op("Relu", net.conv(x, 8, (1, 1), weight=zeros(net, 8, 4, (1, 1), 2), bias=False))
    a = net.conv(a, 8, group=8, pads=[1] * 4, bias=False)
    b = net.op("AveragePool", net.conv(x, 4, (1, 1)), kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    y = net.op("MaxPool", net.op("Concat", a, b, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Flatten", y, channels=12 * 9)
    weight = net.weights(5, 108)
    weight[:, 10 * 9 :] = 0  # the head ignores two channels
    y = net.op("Gemm", y, net.const(weight), net.const(net.normal(5)), transB=1)
    pruned(net, y, macs_after=36 * (4 * 6 + 9 * 6 + 4 * 2) + 8 * 9 * 5)


def test_grouped_convolutions_keep_equal_groups() -> None:
    net = Net()
    y = net.op(
        "Relu", net.conv(net.input([1, 4, 6, 6]), 8, (1, 1), weight=zeros(net, 8, 4, (1, 1), 5), bias=False)
    )
    y = net.conv(y, 8, group=4, pads=[1] * 4, bias=False)
    result = alone("prune_channels", net, net.conv(y, 6, (1, 1)), applied=None)
    assert result.macs_after == 36 * (4 * 4 + 2 * 2 * 2 * 9 + 4 * 6)


def test_convolution_that_ignores_inputs_and_zero_parts_of_a_concat() -> None:
    net = Net()
    weight = net.weights(6, 4, 3, 3)
    weight[:, [0, 3]] = 0
    pruned(net, net.conv(net.input([1, 4, 6, 6]), 6, weight=weight), macs_after=16 * 9 * 2 * 6)
    net = Net()
    y = net.op("Concat", net.input([1, 4, 6, 6]), net.const(np.zeros((1, 3, 6, 6))), axis=1)
    assert "Concat" not in pruned(net, net.conv(y, 6, pads=[1] * 4), macs_after=36 * 9 * 4 * 6).ops


def test_what_has_to_stay() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 8, weight=zeros(net, 8, 4, (3, 3), 3))
    alone("prune_channels", net, y, net.op("Softmax", y, axis=1), number=0)
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 8, weight=net.input([8, 4, 3, 3], "w"))
    y = net.op("Slice", y, *(net.const(np.array([v])) for v in (2, 6, 1)))
    alone("prune_channels", net, y, number=0)


# ---------------------------------------------------------------- constant maps

MAP_READERS: dict[str, Callable[[Net, str], str]] = {
    "Split": lambda net, k: net.split(k, 8, 8)[1],
    "Split in two": lambda net, k: net.op("Add", *net.split(k, 8, 8)),
    "Slice": lambda net, k: net.op("Slice", k, *(net.const(np.array([n])) for n in (4, 12, 1)), channels=8),
    "Slice of a Relu": lambda net, k: MAP_READERS["Slice"](net, net.op("Relu", k)),
    "Gather": lambda net, k: net.op("Gather", k, net.const(np.arange(15, -1, -2)), axis=1, channels=8),
    "BatchNormalization": lambda net, k: net.split(net.bn(k), 8, 8)[0],
    "MaxPool": lambda net, k: net.split(net.op("MaxPool", k, kernel_shape=[1, 1]), 8, 8)[0],
    "Concat": lambda net, k: net.split(net.op("Concat", k, k, axis=1), 8, 24)[0],
    "Sum of two": lambda net, k: net.op("Mul", *net.split(net.op("Exp", k), 8, 8)),
}
"""What reads a constant map of 16 channels and makes 8 of it."""


@pytest.mark.parametrize("reader", MAP_READERS)
def test_constant_maps_lose_the_channels_that_nobody_reads(reader: str) -> None:
    net = Net()
    last = net.weights(4, 8, 1, 1)
    last[:, 3:] = 0
    net.channels["k"] = 16
    part = MAP_READERS[reader](net, net.const(net.normal(1, 16, 40, 40), "k"))
    y = net.op("Add", net.conv(net.input([1, 8, 40, 40]), 8, pads=[1] * 4), part)
    result = alone("prune_channels", net, net.conv(y, 4, (1, 1), weight=last), saves=True)
    read = {name for node in result.after.graph.node for name in node.input}
    assert read.issuperset(tensor.name for tensor in result.after.graph.initializer)
    assert not [item for item in result.report.declined if "verification" in item.reason]


def test_a_constant_without_elements_is_none_of_channels() -> None:
    net = Net()
    x = net.conv(net.input([1, 4, 1, 1]), 6, (1, 1))
    empty = net.op("Add", x, net.const(np.zeros((6, 0, 1))))
    report = graphopt.optimize(net.model(net.conv(x, 3, (1, 1)), empty), only=["prune_channels"]).report
    assert not any("internal error" in note for note in report.notes)
