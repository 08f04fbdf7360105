"""collapse_concat: a linear operator over a Concat collapses with its branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import NEWEST_OPSET, Net, alone, compare_at_sizes, grid

checked = partial(alone, "collapse_concat", saves=True)
left_alone = partial(alone, "collapse_concat", number=0)


def concat(net: Net, *parts: str, axis: int = 1, channels: int | None = None) -> str:
    return net.op("Concat", *parts, axis=axis, channels=channels)


@pytest.mark.parametrize("opset", [7, 13, 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_branches_of_two_inputs(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    x, y = net.input([2, 4, 5, 6], "x"), net.input([2, 3, 5, 6], "y")
    z = concat(net, net.conv(x, 32, (1, 1)), net.conv(y, 24, (1, 1)))
    assert checked(net, net.conv(z, 5, (1, 1)), macs_after=2 * 30 * 7 * 5).ops == {"Concat": 1, "Conv": 1}


def test_branches_of_one_input_and_the_input() -> None:
    net = Net()
    x = net.input(["n", 4, 5, 6])
    z = concat(net, net.conv(x, 8, (1, 1)), x, net.conv(x, 8, (1, 1), bias=False))
    result = checked(net, net.conv(z, 5, pads=[1, 1, 1, 1]), macs_after=30 * 9 * 20)
    assert result.ops["Conv"] == 1 and result.ops["Concat"] == 0


def test_a_k_by_k_branch_is_added() -> None:
    net = Net()
    x, y = net.input([1, 4, 8, 6], "x"), net.input([1, 5, 8, 6], "y")
    branch = net.conv(x, 64, pads=[1, 1, 1, 1])
    z = concat(net, branch, net.op("Relu", y), net.conv(y, 3, (1, 1)))
    result = checked(net, net.conv(z, 5, (1, 1), strides=[2, 2]))
    assert result.ops["Conv"] >= 2 and result.ops["Add"] == 1


def test_only_branches_that_pay() -> None:
    net = Net()
    x, y = net.input([1, 32, 8, 6], "x"), net.input([1, 4, 8, 6], "y")
    z = concat(net, net.conv(x, 2, (1, 1)), net.conv(y, 40, (1, 1)))
    result = checked(net, net.conv(z, 32, (1, 1)), macs_after=48 * (64 + (2 + 4) * 32))
    assert result.ops == {"Concat": 1, "Conv": 2}


def test_a_branch_that_others_read_is_bypassed() -> None:
    net = Net()
    x, y = net.input([1, 4, 8, 6], "x"), net.input([1, 4, 8, 6], "y")
    shared = net.conv(x, 40, (1, 1))
    z = concat(net, shared, net.op("Relu", y))
    checked(net, net.op("Relu", shared), net.conv(z, 8, (1, 1)), macs_after=48 * (160 + 8 * 8))


def test_a_value_twice() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 4, 8, 6]))
    checked(net, net.conv(concat(net, x, x), 5, pads=[1, 1, 1, 1]), macs_after=48 * 9 * 20)


def test_nested_concats_and_identities() -> None:
    net = Net()
    x, y = net.input([1, 4, 8, 6], "x"), net.input([1, 4, 8, 6], "y")
    inner = concat(net, net.op("Identity", net.conv(x, 40, (1, 1))), net.op("Relu", y))
    z = concat(net, net.op("Relu", x), inner, axis=-3)
    checked(net, net.conv(z, 8, (3, 3)), macs_after=24 * 9 * 8 * 12)


@pytest.mark.parametrize("rank", [2, 3])
def test_gemms_and_matmuls(rank: int) -> None:
    net = Net()
    shape = [5, 6] if rank == 2 else [2, 5, 6]
    x, y = net.input(shape, "x"), net.input(shape, "y")
    if rank == 2:
        z = concat(net, net.gemm(x, 32), net.matmul(y, 6, 32), channels=64)
        z = net.gemm(z, 4)
    else:
        parts = [net.affine("Add", net.matmul(v, 6, 32), net.normal(32)) for v in (x, y)]
        z = net.affine("Add", net.matmul(concat(net, *parts, axis=-1, channels=64), 64, 4), net.normal(4))
    checked(net, z, macs_after=int(np.prod(shape[:-1])) * 12 * 4)


@pytest.mark.parametrize("kind", ["zero", "even", "map"])
@pytest.mark.parametrize("pads", [0, 1])
def test_constant_branches(kind: str, pads: int) -> None:
    net = Net()
    x = net.input([1, 4, 8, 6])
    values = {"zero": np.zeros((1, 16, 8, 6)), "even": np.ones((1, 16, 8, 6)) * net.normal(1, 16, 1, 1)}
    constant = net.const(values.get(kind, net.normal(1, 16, 8, 6)))
    y = net.conv(concat(net, x, constant), 5, pads=[pads] * 4)
    pixels = (6 + 2 * pads) * (4 + 2 * pads)
    checked(net, y, macs_after=pixels * 9 * 20)


BORDERS: dict[str, Callable[[Net, str], Sequence[str]]] = {
    "beside a branch that stays": lambda net, x: (net.conv(x, 40, (1, 1)), net.op("Relu", x)),
    "beside the input": lambda net, x: (x, net.conv(x, 40, (1, 1))),
    "of two branches of one form": lambda net, x: (net.conv(x, 20, (1, 1)), net.conv(x, 20, (1, 1))),
    "of a branch of several taps": lambda net, x: [
        net.conv(x, 20, (1, 3), pads=[0, 1, 0, 1]),
        net.conv(net.op("Relu", x), 20, (1, 1)),
    ],
    "of stride 2": lambda net, x: [net.conv(x, 20, (1, 1), strides=[2, 2]) for _ in range(2)],
}


@pytest.mark.parametrize("opset", [8, 13, NEWEST_OPSET])
@pytest.mark.parametrize("branches", BORDERS)
def test_a_bias_at_a_border_of_open_size(branches: str, opset: int) -> None:
    net = Net(opset)
    x = net.input(["n", 4, "h", "w"])
    y = net.conv(concat(net, *BORDERS[branches](net, x)), 5, (3, 1), pads=[1, 0, 1, 0])
    found = checked(net, y, sizes={"h": 7, "w": 6}, saves=True)
    assert compare_at_sizes(found.before, found.after, grid("h", "w")) == 49


# ---------------------------------------------------------------- traps


def test_a_constant_that_differs_from_sample_to_sample_stays() -> None:
    net = Net()
    x = net.input([2, 4, 8, 6])
    constant = net.const(net.normal(2, 16, 8, 6))
    left_alone(net, net.conv(concat(net, x, constant), 5))


def test_a_map_at_the_border_of_open_size_stays() -> None:
    net = Net(7)
    x = net.input([1, 4, "h", "w"])
    y = net.conv(concat(net, net.conv(x, 40, (1, 1)), net.op("Relu", x)), 5, pads=[1, 1, 1, 1])
    left_alone(net, y, sizes={"h": 5, "w": 4}, because=("open", "opset 7 has no Expand"))
    net = Net()
    x = net.input([1, 4, "h", "w"])
    y = net.conv(
        concat(net, *(net.conv(x, 40, (1, 1), pads=[0, 1] * 2) for _ in range(2))), 5, (3, 1), pads=[1, 0] * 2
    )
    left_alone(net, y, sizes={"h": 5, "w": 4}, because=("open", "makes its map larger"))


def test_another_axis_stays() -> None:
    net = Net()
    x, y = net.input([1, 4, 8, 6], "x"), net.input([1, 4, 8, 6], "y")
    z = concat(net, net.conv(x, 40, (1, 1)), net.conv(y, 40, (1, 1)), axis=2, channels=40)
    left_alone(net, net.conv(z, 5, (1, 1)), because=())


def test_a_grouped_operator_stays() -> None:
    net = Net()
    x, y = net.input([1, 4, 8, 6], "x"), net.input([1, 4, 8, 6], "y")
    z = concat(net, net.conv(x, 40, (1, 1)), net.conv(y, 40, (1, 1)))
    left_alone(net, net.conv(z, 4, (1, 1), group=2))


def test_branches_with_activations_are_no_site() -> None:
    net = Net()
    x = net.input([1, 4, 8, 6])
    z = concat(net, net.op("Relu", net.conv(x, 8)), net.op("Relu", net.conv(x, 8)))
    left_alone(net, net.conv(z, 4, (1, 1)), because=())
