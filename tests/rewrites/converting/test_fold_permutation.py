"""fold_permutation: permutations of channels go into the weights around them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.builders import NEWEST_OPSET, Checked, Net, alone

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


@pytest.mark.parametrize("opset", [7, 13, NEWEST_OPSET])
@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("way", ["pixels in one axis", "channels last", "three axes of channels"])
def test_shuffles_in_other_spellings(way: str, batch: int | str, opset: int) -> None:
    net = Net(opset)
    y = net.op("Relu", net.conv(net.input([batch, 12, 6, 5]), 12, (1, 1)))

    def shaped(y: str, *sizes: int) -> str:
        return net.op("Reshape", y, net.const(np.array(sizes)))

    if way == "pixels in one axis":
        y = net.op("Transpose", shaped(y, -1, 3, 4, 30), perm=[0, 2, 1, 3])
    elif way == "channels last":
        y = shaped(net.op("Transpose", y, perm=[0, 2, 3, 1]), -1, 6, 5, 3, 4)
        y = shaped(net.op("Transpose", y, perm=[0, 1, 2, 4, 3]), -1, 6, 5, 12)
        y = net.op("Transpose", y, perm=[0, 3, 1, 2], channels=12)
    else:
        y = net.op("Transpose", shaped(y, -1, 2, 3, 2, 6, 5), perm=[0, 3, 1, 2, 4, 5])
    y = y if way == "channels last" else shaped(y, -1, 12, 6, 5)
    net.channels[y] = 12
    assert folded(net, net.conv(y, 4, pads=[1] * 4)).ops == {"Conv": 2, "Relu": 1}


@pytest.mark.parametrize("perm", [[0, 2, 1, 3, 4], [0, 1, 2, 4, 3], [1, 0, 2, 3, 4]])
def test_what_moves_pixels_or_samples_is_no_shuffle(perm: list[int]) -> None:
    """The first alone moves channels, of a map of 4 x 6 x 6; the sizes are those of one in each case."""
    net = Net()
    y = net.op("Reshape", net.input([2, 4, 6, 6]), net.const(np.array([2, 2, 2, 6, 6])))
    y = net.op("Reshape", net.op("Transpose", y, perm=perm), net.const(np.array([2, 4, 6, 6])), channels=4)
    y = net.conv(y, 3)
    if perm == [0, 2, 1, 3, 4]:
        folded(net, y)
    else:
        left_alone(net, y, because=())


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
