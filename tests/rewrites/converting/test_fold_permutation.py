"""fold_permutation: permutations of channels go into the weights around them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.builders import Checked, Net, alone

left_alone = partial(alone, "fold_permutation", number=0)


def folded(net: Net, *outputs: str) -> Checked:
    """Checks a model whose only permutation goes."""
    result = alone("fold_permutation", net, *outputs, together=True)
    assert not {"Gather", "Reshape", "Transpose"} & set(result.ops)
    return result


def shuffle(net: Net, x: str, groups: int, size: int) -> str:
    channels = net.channels[x]
    y = net.op("Reshape", x, net.const(np.array([-1, groups, channels // groups, size, size])))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", y, net.const(np.array([-1, channels, size, size])), channels=channels)


@pytest.mark.parametrize("opset", [7, 13, 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_behind(opset: int, dtype: Any) -> None:
    net = Net(opset, dtype)
    y = net.op("Gather", net.input([2, 4, 6, 6]), net.const(np.array([2, 0, 3, 1])), axis=1)
    folded(net, net.conv(y, 6, pads=[1] * 4), net.conv(y, 3, (1, 1), transpose=True))


def test_duplicates_become_one_channel() -> None:
    net = Net()
    y = net.op("Gather", net.input(["N", 3, 6, 6]), net.const(np.array([2, 0, 1, -1, 2])), axis=1, channels=5)
    assert folded(net, net.conv(y, 6)).macs_after == 16 * 9 * 3 * 6


@pytest.mark.parametrize("behind", [True, False])
def test_shuffle_through_activation_and_depthwise(behind: bool) -> None:
    net = Net()
    x = net.input([2, 8, 6, 6])
    y = x if behind else net.op("Relu", net.conv(net.conv(x, 8, (1, 1)), 8, group=8, pads=[1] * 4))
    y = shuffle(net, y, 2, 6)
    y = net.conv(net.op("Relu", net.conv(y, 8, group=8)), 5, (1, 1)) if behind else y
    folded(net, y)


def test_within_groups() -> None:
    net = Net()
    y = net.op("Gather", net.input([1, 4, 6, 6]), net.const(np.array([1, 0, 3, 2])), axis=1)
    folded(net, net.conv(y, 6, group=2))


def test_what_stays() -> None:
    net = Net()
    y = shuffle(net, net.conv(net.input([1, 8, 6, 6]), 8, (1, 1), group=2), 2, 6)
    left_alone(net, net.conv(y, 8, (1, 1), group=2), because=("no convolution",))
    net = Net()
    y = net.op("Gather", net.input([1, 4, 6, 6]), net.const(np.array([2, 0, 3, 1])), axis=1)
    left_alone(net, net.conv(y, 6), y)
