"""collapse_fanout: a linear operator goes into all that read it, through a Split too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.builders import Checked, Net, check


def checked(net: Net, *outputs: str, **options: Any) -> Checked:
    """`check` with this rewrite alone, applied once."""
    options.setdefault("only", ["collapse_fanout"])
    options.setdefault("applied", {"collapse_fanout": 1})
    result = check(net.model(*outputs), **options)
    if options["applied"]:
        assert result.macs_after < result.macs_before
    return result


def split(net: Net, x: str, *sizes: int, axis: int = 1) -> list[str]:
    """A Split into channels of these sizes."""
    if net.opset < 13:
        y = net.op("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))
    else:
        y = net.op("Split", x, net.const(np.array(sizes)), outputs=len(sizes), axis=axis)
    parts = [y, *(f"{y}_{i}" for i in range(1, len(sizes)))]
    net.channels.update(zip(parts, sizes, strict=True))
    return parts


def test_two_readers_of_which_none_pays_alone() -> None:
    net = Net()
    y = net.conv(net.input(["n", 16, 6, 5]), 16, (1, 1))
    checked(net, net.conv(y, 8, (1, 1)), net.conv(y, 4, (3, 3)), macs_after=30 * 16 * 8 + 12 * 9 * 16 * 4)


@pytest.mark.parametrize("opset", [9, 13])
def test_a_split_in_between(opset: int) -> None:
    net = Net(opset)
    y = net.conv(net.input([2, 4, 6, 5]), 40, (1, 1))
    a, b = split(net, y, 30, 10)
    y = net.op(
        "Concat", net.conv(a, 5, (1, 1)), net.conv(net.op("Identity", b), 3, pads=[1, 1, 1, 1]), axis=1
    )
    result = checked(net, y)
    assert result.ops["Split"] == 0 and result.ops["Conv"] == 2


def test_a_part_of_a_split_that_others_read() -> None:
    net = Net()
    a, b = split(net, net.conv(net.input([1, 4, 6, 5]), 40, (1, 1)), 30, 10)
    result = checked(net, net.conv(a, 5, (1, 1)), net.op("Relu", b))
    assert result.macs_after == 30 * (160 + 20) and result.ops["Split"] == 1


def test_matmuls() -> None:
    net = Net()
    y = net.affine("Add", net.matmul(net.input([2, 7, 6]), 6, 48), net.normal(48))
    a, b = split(net, y, 24, 24, axis=-1)
    checked(net, net.matmul(a, 24, 3), net.affine("Add", net.matmul(b, 24, 3), net.normal(3)))


def test_a_bottleneck_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 32, 6, 5]), 2, (1, 1))
    result = checked(net, net.conv(y, 8, (1, 1)), net.conv(y, 8, (1, 1)), applied={})
    assert result.refused("collapse_fanout", "no fewer MACs")


def test_an_output_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 16, 6, 5]), 16, (1, 1))
    checked(net, y, net.conv(y, 8, (1, 1)), net.conv(y, 8, (1, 1)), applied={})


def test_a_split_of_another_axis_and_of_groups_stay() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 5]), 40, (1, 1))
    a, b = split(net, y, 3, 3, axis=2)
    net.channels.update({a: 40, b: 40})
    checked(net, net.conv(a, 2, (1, 1)), net.conv(b, 2, (1, 1)), applied={})
    net = Net()
    a, b = split(net, net.conv(net.input([1, 4, 6, 5]), 40, (1, 1), group=4), 20, 20)
    result = checked(net, net.conv(a, 2, (1, 1)), net.conv(b, 2, (1, 1)), applied={})
    assert result.refused("collapse_fanout", "groups")
