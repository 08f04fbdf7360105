"""block_diagonal: weights that fall into blocks become groups, or one operator each."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels import blocks
from tests.builders import NEWEST_OPSET, Array, Net, alone, check

grouped = partial(alone, "block_diagonal")


def diagonal(net: Net, parts: list[tuple[int, int]], *taps: int) -> Array:
    """Weights of blocks [out, in] along the diagonal."""
    weight = np.zeros((sum(o for o, _ in parts), sum(i for _, i in parts), *taps))
    row = column = 0
    for o, i in parts:
        weight[row : row + o, column : column + i] = net.weights(o, i, *taps)
        row, column = row + o, column + i
    return weight


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [7, 11, 13, NEWEST_OPSET])
def test_equal_blocks(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    x = net.input(["N", 12, 7, 6])
    y = net.conv(x, 6, (3, 1), weight=diagonal(net, [(2, 4)] * 3, 3, 1), strides=[2, 1], pads=[1, 0, 0, 0])
    assert grouped(net, y, macs_after=6 * 4 * 3 * 3 * 6).attributes("Conv")["group"] == 3


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("transpose", [False, True])
def test_depthwise_in_disguise(axes: int, multiplier: int, transpose: bool) -> None:
    net, taps = Net(), (3,) * axes
    weight = diagonal(net, [(multiplier, 1)] * 5, *taps)
    weight = weight.swapaxes(0, 1) if transpose else weight
    y = net.conv(net.input([1, 5, *(6,) * axes]), 5 * multiplier, taps, weight=weight, transpose=transpose)
    result = grouped(net, y)
    assert result.ops == {("ConvTranspose" if transpose else "Conv"): 1}
    assert result.macs_after * 5 == result.macs_before


def test_groups_that_have_groups() -> None:
    net = Net()
    weight = np.concatenate([diagonal(net, [(2, 2), (2, 2)], 1, 1) for _ in range(3)])
    result = grouped(net, net.conv(net.input([1, 12, 4, 4]), 12, (1, 1), weight=weight, group=3))
    assert result.attributes("Conv")["group"] == 6


@pytest.mark.parametrize("sides", ["in", "out", "both"])
def test_mixed_channels(sides: str) -> None:
    net = Net()
    weight = diagonal(net, [(2, 3)] * 4, 3, 3)
    if sides != "in":
        weight = weight[net.random.permutation(8)]
    if sides != "out":
        weight = weight[:, net.random.permutation(12)]
    result = grouped(net, net.conv(net.input([1, 12, 6, 6]), 8, weight=weight), macs_after=16 * 8 * 3 * 9)
    assert result.ops["Conv"] == 1 and result.ops["Gather"] >= 1


def test_unequal_blocks() -> None:
    net = Net()
    weight = diagonal(net, [(2, 6), (5, 1), (3, 3)], 3, 3)[net.random.permutation(10)]
    result = grouped(net, net.conv(net.input([2, 10, 6, 6]), 10, weight=weight))
    assert result.macs_after == 2 * 16 * 9 * (12 + 5 + 9) and result.ops["Concat"] == 1


@pytest.mark.parametrize("kind", ["gemm", "matmul"])
def test_fully_connected_blocks(kind: str) -> None:
    net = Net()
    weight = diagonal(net, [(3, 4), (5, 4)])
    if kind == "gemm":
        y = net.op(
            "Gemm", net.input([3, 8]), net.const(weight), net.const(net.normal(8)), transB=1, alpha=0.5
        )
    else:
        y = net.op("MatMul", net.input(["N", 3, 8]), net.const(weight.T))
    assert grouped(net, y, macs_after=3 * 32).ops["Concat"] == 1


def test_a_permuted_depthwise_composes_with_the_rest() -> None:
    net = Net()
    weight = np.zeros((16, 16, 3, 3))
    weight[np.arange(16), net.random.permutation(16)] = net.normal(16, 3, 3)
    y = net.bn(net.conv(net.input([1, 16, 8, 8]), 16, weight=weight, pads=[1] * 4))
    assert check(net.model(net.op("Relu", y))).macs_after == 64 * 16 * 9


# ---------------------------------------------------------------- what stays


@pytest.mark.parametrize("case", ["dense", "one number couples", "dynamic"])
def test_no_blocks(case: str) -> None:
    net = Net()
    weight: Array | str = net.weights(8, 8, 1, 1) if case == "dense" else diagonal(net, [(4, 4)] * 2, 1, 1)
    if case == "one number couples":
        weight[7, 0] = 1e-6  # type: ignore[index]
    if case == "dynamic":
        weight = net.input([8, 8, 1, 1], "weight")
    grouped(net, net.conv(net.input([1, 8, 5, 5]), 8, (1, 1), weight=weight), number=0)


def test_many_unequal_blocks() -> None:
    net = Net()
    weight = diagonal(net, [(1, 2), (2, 1)] * 5, 1, 1)
    result = grouped(net, net.conv(net.input([1, 15, 5, 5]), 15, (1, 1), weight=weight), applied=None)
    assert result.applied in ({}, {"block_diagonal": 1})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(0, 2**31),
)
def test_components_are_the_blocks(parts: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    owner_out = random.permutation(np.repeat(np.arange(len(parts)), [o for o, _ in parts]))
    owner_in = random.permutation(np.repeat(np.arange(len(parts)), [i for _, i in parts]))
    found = blocks.components(owner_out[:, None] == owner_in[None])
    expected = {
        (tuple(np.flatnonzero(owner_out == k).tolist()), tuple(np.flatnonzero(owner_in == k).tolist()))
        for k in range(len(parts))
    }
    assert {tuple(block) for block in found} == expected
