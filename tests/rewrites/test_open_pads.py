"""A strided convolution with auto_pad=SAME over a map of open sizes: what does not depend on pads is done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import Net, compare_at_sizes, grid

SIZES = grid("H", "W", sizes=(1, 2, 3, 7, 8))
MODES = ("SAME_UPPER", "SAME_LOWER")


def strided(net: Net, x: str, out: int, mode: str, **attrs: object) -> str:
    return net.conv(x, out, auto_pad=mode, strides=[2, 2], **attrs)  # type: ignore[arg-type]


def opened(net: Net, channels: int = 8, name: str = "x") -> str:
    return net.input(["N", channels, "H", "W"], name)


def affine_behind(net: Net, mode: str) -> list[str]:
    return [net.bn(strided(net, opened(net), 6, mode))]


def chain_behind(net: Net, mode: str) -> list[str]:
    y = net.affine("Mul", strided(net, opened(net), 6, mode, group=2), net.per_channel(6))
    return [net.affine("Sub", net.op("Neg", y), net.per_channel(6))]


def scale_in_front(net: Net, mode: str) -> list[str]:
    return [strided(net, net.affine("Mul", opened(net), net.per_channel(8)), 6, mode)]


def zero_filters(net: Net, mode: str) -> list[str]:
    weight = net.weights(16, 8, 3, 3)
    weight[5:] = 0
    y = net.op("Relu", strided(net, opened(net), 16, mode, weight=weight, bias=False))
    return [strided(net, y, 6, mode)]


def blocks(net: Net, mode: str) -> list[str]:
    weight = np.zeros((16, 16, 3, 3), np.float32)
    weight[:8, :8], weight[8:, 8:] = net.weights(8, 8, 3, 3), net.weights(8, 8, 3, 3)
    return [strided(net, opened(net, 16), 16, mode, weight=weight)]


def siblings(net: Net, mode: str) -> list[str]:
    x = opened(net)
    return [net.op("Relu", strided(net, x, out, mode)) for out in (6, 10)]


def equal_weights_that_are_summed(net: Net, mode: str) -> list[str]:
    weight = net.const(net.weights(6, 8, 3, 3))
    return [net.op("Add", *(strided(net, opened(net, 8, n), 6, mode, weight=weight) for n in "ab"))]


def branches(net: Net, mode: str) -> list[str]:
    parts = net.split(opened(net, 8), 4, 4)
    return [net.op("Concat", *(strided(net, part, 6, mode) for part in parts), axis=1)]


CASES: dict[str, Callable[[Net, str], list[str]]] = {
    "fold_affine": affine_behind,
    "fold_affine chain": chain_behind,
    "fold_affine_before": scale_in_front,
    "prune_channels": zero_filters,
    "block_diagonal": blocks,
    "merge_siblings": siblings,
    "sum_first": equal_weights_that_are_summed,
    "join_split_branches": branches,
}
"""What builds a graph, by the rewrite that is applied to it."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_done_and_equal_at_every_size(case: str, mode: str) -> None:
    net, rewrite = Net(), case.split()[0]
    model = net.model(*CASES[case](net, mode))
    result = graphopt.optimize(model, only=[rewrite], aim="macs")
    assert {item.candidate.rewrite for item in result.report.applied} == {rewrite}
    after = ir.to_proto(result.model)
    modes = {a.s.decode() for n in after.graph.node for a in n.attribute if a.name == "auto_pad"}
    assert modes == {mode}
    assert compare_at_sizes(model, after, SIZES) == len(SIZES)


def test_a_shift_in_front_does_not_reach_the_padding() -> None:
    net = Net()
    y = strided(net, net.affine("Add", opened(net), net.per_channel(8)), 6, "SAME_UPPER")
    assert not graphopt.optimize(net.model(y), only=["fold_affine_before"]).report.applied
