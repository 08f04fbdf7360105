"""collapse_layout: linear operators become one across Transpose, Reshape, Flatten and pixel shuffles."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import Net, alone, compare_outputs, make_feeds

checked = partial(alone, "collapse_layout", saves=True)
left_alone = partial(alone, "collapse_layout", number=0)


def moved(net: Net, kind: str, x: str, channels: int, *inputs: str, **attributes: Any) -> str:
    """An operator that moves elements, and the channels behind it."""
    return net.op(kind, x, *inputs, channels=channels, **attributes)


# ---------------------------------------------------------------- Transpose and views


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_convolution_then_matmul_per_pixel(kernel: tuple[int, int], dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    y = net.conv(net.input(["n", 5, "h", "w"]), 32, kernel)
    y = net.affine("Add", net.matmul(moved(net, "Transpose", y, 32, perm=[0, 2, 3, 1]), 32, 4), net.normal(4))
    result = checked(net, y, sizes={"h": 7, "w": 6}, macs_after=None)
    assert result.ops == {"Conv": 1, "Transpose": 1}
    compare_outputs(result.before, result.after, [make_feeds(result.before, {"n": 3, "h": 4, "w": 9})])


def test_matmul_per_pixel_then_a_padded_convolution() -> None:
    """The bias of the MatMul meets the zero padding."""
    net = Net()
    y = net.affine("Add", net.matmul(net.input([2, 9, 8, 5]), 5, 32), net.normal(32))
    result = checked(net, net.conv(moved(net, "Transpose", y, 32, perm=[0, 3, 1, 2]), 4, pads=[1, 1, 1, 1]))
    assert result.ops["MatMul"] == 0 and result.ops["Conv"] == 1


@pytest.mark.parametrize("open_batch", [False, True])
def test_patch_embedding_then_projection(open_batch: bool) -> None:
    net = Net()
    y = net.conv(net.input(["n" if open_batch else 2, 3, 16, 16]), 96, (4, 4), strides=[4, 4])
    y = net.op("Reshape", y, net.const(np.array([0, 96, 16])))
    result = checked(net, net.matmul(moved(net, "Transpose", y, 96, perm=[0, 2, 1]), 96, 24))
    assert result.ops == {"Conv": 1, "Reshape": 1, "Transpose": 1}


@pytest.mark.parametrize("target", [[0, 0, -1], [0, 96, -1]])
def test_open_sizes_that_a_reshape_copies(target: list[int]) -> None:
    net = Net()
    y = net.conv(net.input(["n", 3, "h", "w"]), 96, (4, 4), strides=[4, 4])
    y = net.op("Reshape", y, net.const(np.array(target)))
    checked(net, net.matmul(moved(net, "Transpose", y, 96, perm=[0, 2, 1]), 96, 24), sizes={"h": 16, "w": 20})


@pytest.mark.parametrize("opset", [9, 13])
def test_squeeze_and_unsqueeze(opset: int) -> None:
    net = Net(opset)
    axes: dict[str, Any] = {} if opset >= 13 else {"axes": [2]}
    inputs = [net.const(np.array([2]))] if opset >= 13 else []
    y = moved(net, "Squeeze", net.conv(net.input([2, 4, 1, 9]), 40, (1, 3)), 40, *inputs, **axes)
    assert checked(net, net.conv(y, 3, (1,))).ops == {"Conv": 1, "Squeeze": 1}


def test_a_squeeze_without_axes_stays_when_it_could_drop_the_channels() -> None:
    net = Net()
    y = moved(net, "Squeeze", net.conv(net.input([2, 4, 1, 9]), 40, (1, 3)), 40)
    left_alone(net, net.conv(y, 1, (1,)))


def test_1x1_on_one_pixel_then_flatten_then_gemm() -> None:
    net = Net()
    y = net.conv(net.op("GlobalAveragePool", net.input(["n", 6, "h", "w"])), 64, (1, 1))
    result = checked(net, net.gemm(moved(net, "Flatten", y, 64), 5), sizes={"h": 5, "w": 4})
    assert result.macs_after == 6 * 5
    assert result.ops == {"GlobalAveragePool": 1, "Conv": 1, "Flatten": 1}


# ---------------------------------------------------------------- covering and images


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 1, 0]])
@pytest.mark.parametrize("strides", [[1, 1], [2, 1]])
def test_a_convolution_then_flatten_then_gemm(pads: list[int], strides: list[int]) -> None:
    net = Net()
    y = net.conv(net.input(["n", 3, 7, 6]), 128, pads=pads, strides=strides)
    h, w = ((n + pads[a] + pads[a + 2] - 3) // strides[a] + 1 for a, n in enumerate((7, 6)))
    assert checked(net, net.gemm(moved(net, "Flatten", y, 128 * h * w), 2)).ops == {"Conv": 1, "Flatten": 1}


@pytest.mark.parametrize("transpose", [False, True])
def test_a_gemm_whose_output_becomes_a_map(transpose: bool) -> None:
    net = Net()
    y = moved(net, "Reshape", net.gemm(net.input(["n", 3]), 64 * 12), 64, net.const(np.array([-1, 64, 4, 3])))
    if transpose:
        y = net.conv(y, 4, (2, 2), transpose=True, strides=[2, 2], group=2)
    else:
        y = net.conv(y, 4, pads=[1, 1, 1, 1])
    assert checked(net, y).ops == {"Gemm": 1, "Reshape": 1}


# ---------------------------------------------------------------- pixel shuffles


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixel_shuffle_then_1x1(mode: str) -> None:
    net = Net()
    y = net.conv(net.input([2, 4, 5, 6]), 72, pads=[1, 1, 1, 1])
    y = moved(net, "DepthToSpace", y, 8, blocksize=3, mode=mode)
    result = checked(net, net.conv(y, 2, (1, 1)), macs_after=2 * 30 * 9 * 4 * 18)
    assert result.ops == {"Conv": 1, "DepthToSpace": 1}


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_1x1_then_space_to_depth(pads: list[int]) -> None:
    net = Net()
    y = moved(net, "SpaceToDepth", net.conv(net.input([2, 4, 10, 6]), 32, (1, 1)), 128, blocksize=2)
    result = checked(net, net.conv(y, 4, pads=pads))
    assert result.ops["Conv"] == 1 and result.ops["SpaceToDepth"] == 1


# ---------------------------------------------------------------- traps


def test_a_middle_that_others_read_is_bypassed() -> None:
    net = Net()
    t = moved(net, "Transpose", net.conv(net.input([1, 4, 6, 6]), 48, (1, 1)), 48, perm=[0, 2, 3, 1])
    assert checked(net, net.op("Relu", t), net.matmul(t, 48, 3)).macs_after == 36 * (4 * 48 + 4 * 3)


def test_an_operator_on_another_axis_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 6, (1, 1))
    left_alone(
        net,
        net.matmul(moved(net, "Transpose", y, 6, perm=[0, 1, 3, 2]), 6, 2),
        because=(
            "Conv1 → MatMul1",
            "carried",
        ),
    )


def test_a_reshape_that_splits_the_channels_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 48, (1, 1))
    y = moved(net, "Reshape", y, 24, net.const(np.array([1, 24, 12, 6])))
    left_alone(net, net.conv(y, 2, (1, 1)))


def test_a_bottleneck_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 32, 6, 6]), 2, (1, 1))
    y = net.matmul(moved(net, "Transpose", y, 2, perm=[0, 2, 3, 1]), 2, 32)
    left_alone(net, y, because=("not less",))


def test_a_1x1_in_front_of_a_pixel_shuffle_that_mixes_stays_there() -> None:
    """A padded k×k behind DepthToSpace can't go in front of it."""
    net = Net()
    y = moved(net, "DepthToSpace", net.conv(net.input([1, 4, 6, 6]), 64, (1, 1)), 16, blocksize=2)
    left_alone(net, net.conv(y, 2, pads=[1, 1, 1, 1]))
