"""shrink_kernel: kernels without the taps that do nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.builders import Net, alone, compare_at_sizes, grid


def shrunk(net: Net, y: str, taps: int, whole: int, **options: Any) -> None:
    """Checks a model whose only convolution keeps so many of its taps."""
    result = alone("shrink_kernel", net, y, together=True, **options)
    assert result.macs_after * whole == result.macs_before * taps


def kept(net: Net, shape: tuple[int, ...], index: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """Weights that are 0 apart from some taps."""
    weight = np.zeros(shape)
    where = (slice(None), slice(None), *index)
    weight[where] = net.normal(*shape)[where]
    return weight


FORMS: dict[str, tuple[tuple[int, ...], tuple[Any, ...], int, dict[str, Any]]] = {
    "ring": ((6, 4, 5, 5), (slice(1, 4), slice(1, 4)), 9, {"pads": [2] * 4}),
    "centre": ((6, 4, 3, 3), (1, 1), 1, {"pads": [1] * 4, "strides": [2, 2]}),
    "column": ((6, 4, 3, 3), (slice(None), 2), 3, {"pads": [1] * 4}),
    "dilated": ((6, 4, 5, 5), (slice(0, 5, 2), slice(0, 5, 2)), 9, {"pads": [2] * 4, "dilations": [1, 2]}),
    "shifted tap": ((6, 4, 3, 3), (0, 2), 1, {"pads": [1] * 4}),
    "no pads": ((6, 4, 3, 3), (slice(1, 3), 2), 2, {"strides": [2, 1]}),
    "groups": ((6, 2, 3, 3), (1, slice(None)), 3, {"pads": [1, 0, 2, 1], "group": 2}),
    "same": ((6, 4, 3, 3), (1, 1), 1, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "1d": ((6, 4, 7), (slice(1, 6, 2),), 3, {"pads": [3, 3]}),
    "3d": ((6, 4, 3, 3, 3), (1, slice(0, 2), 1), 2, {"pads": [1] * 6}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [7, 17])
def test_zero_taps(form: str, dtype: Any, opset: int) -> None:
    shape, index, taps, options = FORMS[form]
    net = Net(opset, dtype)
    x = net.input([2, 4, *(9 + i for i in range(len(shape) - 2))])
    y = net.conv(x, 6, shape[2:], weight=kept(net, shape, index), **options)
    shrunk(net, y, taps, int(np.prod(shape[2:])))


@pytest.mark.parametrize("form", ["ring", "column", "shifted tap", "dilated"])
def test_symbolic_sizes(form: str) -> None:
    shape, index, taps, options = FORMS[form]
    net = Net()
    y = net.conv(net.input(["N", 4, "h", "w"]), 6, shape[2:], weight=kept(net, shape, index), **options)
    shrunk(net, y, taps, int(np.prod(shape[2:])), sizes={"h": 10, "w": 12}, shapes={"x": [1, 4, 10, 12]})


@pytest.mark.parametrize(
    ("index", "taps", "options"),
    [
        ((slice(1, 2), slice(1, 2)), 1, {"pads": [1] * 4, "strides": [2, 2]}),
        ((slice(0, 3, 2), slice(None)), 6, {"strides": [3, 2]}),
        ((slice(0, 2), slice(0, 2)), 4, {"strides": [2, 2], "pads": [1] * 4}),
        ((slice(1, 3), slice(1, 3)), 4, {"pads": [1] * 4}),
    ],
)
def test_transposed(index: tuple[Any, ...], taps: int, options: dict[str, Any]) -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 5, 6]), 6, weight=kept(net, (4, 6, 3, 3), index), transpose=True, **options)
    shrunk(net, y, taps, 9)


@pytest.mark.parametrize(
    ("sizes", "kernel", "options", "taps"),
    [
        ([1, 1], (3, 3), {"pads": [1] * 4}, 1),
        ([2, 2], (3, 3), {"pads": [1] * 4, "strides": [2, 2]}, 4),
        ([7, 7], (3, 3), {"pads": [12] * 4, "dilations": [12, 12]}, 1),
        ([7, 3], (3, 3), {"pads": [2, 4] * 2, "dilations": [2, 4]}, 3),
    ],
)
def test_taps_that_never_land(
    sizes: list[int], kernel: tuple[int, ...], options: dict[str, Any], taps: int
) -> None:
    net = Net()
    shrunk(net, net.conv(net.input(["N", 4, *sizes]), 6, kernel, **options), taps, 9)


def test_what_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, "h", "w"]), 6, pads=[12] * 4, dilations=[12, 12])
    alone("shrink_kernel", net, y, number=0, sizes={"h": 7, "w": 7}, shapes={"x": [1, 4, 7, 7]})
    net, same = Net(), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
    y = net.conv(net.input([1, 4, "h", "w"]), 6, weight=kept(net, (6, 4, 3, 3), (1, 1)), **same)
    sizes = {"sizes": {"h": 7, "w": 8}, "shapes": {"x": [1, 4, 7, 8]}}
    alone("shrink_kernel", net, y, number=0, because=("auto_pad",), **sizes)


@pytest.mark.parametrize("place", [(0, 0), (4, 4), (0, 4), (0, 2), (1, 3)])
@pytest.mark.parametrize("opset", [7, 17])
def test_maps_smaller_than_what_is_cropped(place: tuple[int, int], opset: int) -> None:
    """Of one pixel two can't be cropped: a Pad that crops and pads keeps the size."""
    net = Net(opset)
    y = net.conv(net.input(["N", 4, "h", "w"]), 6, weight=kept(net, (6, 4, 5, 5), place), pads=[2] * 4)
    done = alone("shrink_kernel", net, y, sizes={"h": 6, "w": 6})
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 49
