"""collapse_fanout: a linear operator goes into all that read it, through a Split too."""

from __future__ import annotations

from functools import partial

import pytest

from tests.builders import Net, alone

checked = partial(alone, "collapse_fanout", saves=True)
left_alone = partial(alone, "collapse_fanout", number=0)


def test_two_readers_of_which_none_pays_alone() -> None:
    net = Net()
    y = net.conv(net.input(["n", 16, 6, 5]), 16, (1, 1))
    checked(net, net.conv(y, 8, (1, 1)), net.conv(y, 4, (3, 3)), macs_after=30 * 16 * 8 + 12 * 9 * 16 * 4)


@pytest.mark.parametrize("opset", [9, 13])
def test_a_split_in_between(opset: int) -> None:
    net = Net(opset)
    y = net.conv(net.input([2, 4, 6, 5]), 40, (1, 1))
    a, b = net.split(y, 30, 10)
    y = net.op(
        "Concat", net.conv(a, 5, (1, 1)), net.conv(net.op("Identity", b), 3, pads=[1, 1, 1, 1]), axis=1
    )
    result = checked(net, y)
    assert result.ops["Split"] == 0 and result.ops["Conv"] == 2


def test_a_part_of_a_split_that_others_read() -> None:
    net = Net()
    a, b = net.split(net.conv(net.input([1, 4, 6, 5]), 40, (1, 1)), 30, 10)
    result = checked(net, net.conv(a, 5, (1, 1)), net.op("Relu", b))
    assert result.macs_after == 30 * (160 + 20) and result.ops["Split"] == 1


def test_matmuls() -> None:
    net = Net()
    y = net.affine("Add", net.matmul(net.input([2, 7, 6]), 6, 48), net.normal(48))
    a, b = net.split(y, 24, 24, axis=-1)
    checked(net, net.matmul(a, 24, 3), net.affine("Add", net.matmul(b, 24, 3), net.normal(3)))


def test_a_bottleneck_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 32, 6, 5]), 2, (1, 1))
    left_alone(net, net.conv(y, 8, (1, 1)), net.conv(y, 8, (1, 1)), because=("no fewer MACs",))


def test_an_output_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 16, 6, 5]), 16, (1, 1))
    left_alone(net, y, net.conv(y, 8, (1, 1)), net.conv(y, 8, (1, 1)))


def test_a_split_of_another_axis_and_of_groups_stay() -> None:
    net = Net()
    a, b = net.split(net.conv(net.input([1, 4, 6, 5]), 40, (1, 1)), 3, 3, axis=2)
    net.channels.update({a: 40, b: 40})
    left_alone(net, net.conv(a, 2, (1, 1)), net.conv(b, 2, (1, 1)))
    net = Net()
    a, b = net.split(net.conv(net.input([1, 4, 6, 5]), 40, (1, 1), group=4), 20, 20)
    left_alone(net, net.conv(a, 2, (1, 1)), net.conv(b, 2, (1, 1)), because=("groups",))
