"""collapse: two linear operators in a row become one where that is cheaper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto

from graphopt.rewrites.collapsing.collapse import LONGEST
from tests.builders import (
    NEWEST_OPSET,
    Net,
    alone,
    check,
    compare_at_sizes,
    compare_outputs,
    grid,
    info,
    make_feeds,
    taps,
)

OPSETS = (7, 9, 11, 13, 17, 18, NEWEST_OPSET)


checked = partial(alone, "collapse")
collapsed = partial(checked, saves=True)
left_alone = partial(checked, number=0, because=())


# ---------------------------------------------------------------- convolutions


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False), (False, False), ("", "")])
def test_pointwise_pairs(axes: int, biases: tuple[bool | str, bool | str]) -> None:
    net = Net()
    y = net.conv(net.input([2, 4, *(5, 6, 3)[:axes]]), 16, (1,) * axes, bias=biases[0])
    y = net.conv(y, 5, (1,) * axes, bias=biases[1])
    pixels = int(np.prod((5, 6, 3)[:axes]))
    assert collapsed(net, y, macs_after=2 * 4 * 5 * pixels).ops == {"Conv": 1}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_opset_and_precision(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    collapsed(net, net.conv(net.conv(net.input([2, 4, 6, 6]), 24, (1, 1)), 5), macs_after=2 * 16 * 9 * 4 * 5)


up = partial(taps, transpose=True)
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1x1 then 3x3": (taps(1, 1), taps(3, 3)),
    "3x3 then 1x1": (taps(3, 3), taps(1, 1)),
    "3x3 with pads then 1x1": (taps(3, 3, pads=[1, 0, 2, 1]), taps(1, 1)),
    "3x3 with pads then 2x2": (taps(3, 3, pads=[1] * 4), taps(2, 2)),
    "3x3 then 3x3": (taps(3, 3), taps(3, 3)),
    "1x3 then 3x1": (taps(1, 3), taps(3, 1)),
    "1x3 then 3x1 with pads on its own axis": (taps(1, 3, bias=False), taps(3, 1, pads=[1, 0, 2, 0])),
    "1x3 with pads then 3x1 with pads": (
        taps(1, 3, pads=[0, 1, 0, 1], bias=False),
        taps(3, 1, pads=[1, 0, 1, 0]),
    ),
    "1x1 without bias then padded 3x3": (taps(1, 1, bias=False), taps(3, 3, pads=[1] * 4)),
    "strided 1x1 without bias then padded 3x3": (
        taps(1, 1, strides=[2, 3], bias=False),
        taps(3, 3, pads=[1, 0, 2, 1]),
    ),
    "1x1 then strided padded 3x3": (taps(1, 1, bias=False), taps(3, 3, pads=[0, 1, 1, 1], strides=[2, 2])),
    "strides on both": (taps(2, 2, strides=[2, 2]), taps(2, 1, strides=[1, 2])),
    "stride 3 then 2": (taps(3, 1, strides=[3, 1]), taps(2, 2, strides=[2, 2])),
    "pads and stride then stride": (taps(3, 3, pads=[1] * 4, strides=[2, 2]), taps(1, 1, strides=[2, 2])),
    "dilations": (taps(3, 3, dilations=[2, 2]), taps(2, 2, dilations=[2, 2])),
    "a dilation then a pointwise stride": (taps(3, 3, dilations=[2, 1]), taps(1, 1, strides=[2, 2])),
    "VALID then VALID": (taps(1, 1, auto_pad="VALID"), taps(3, 3, auto_pad="VALID")),
    "SAME then 1x1": (taps(3, 3, auto_pad="SAME_LOWER", strides=[2, 2]), taps(1, 1)),
    "1x1 then SAME": (taps(1, 1, bias=False), taps(3, 3, auto_pad="SAME_UPPER", strides=[2, 2])),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [(11, 12), (12, 15)])
def test_kernels_strides_dilations_and_pads_compose(pair: str, size: tuple[int, int]) -> None:
    first, second = PAIRS[pair]
    net = Net()
    y = net.conv(net.conv(net.input([1, 3, *size]), 40, **first), 3, **second)
    assert collapsed(net, y).ops == {"Conv": 1}


@pytest.mark.parametrize(("axes", "sizes"), [(1, (15,)), (3, (7, 6, 8))])
def test_other_numbers_of_axes(axes: int, sizes: tuple[int, ...]) -> None:
    net = Net()
    y = net.conv(net.input([1, 3, *sizes]), 40, (2,) * axes, strides=[2] * axes)
    assert collapsed(net, net.conv(y, 3, (2,) * axes)).ops == {"Conv": 1}


@pytest.mark.parametrize(
    ("groups", "left"), [((4, 4), 4), ((2, 4), 2), ((4, 2), 2), ((4, 1), 1), ((1, 4), 1)]
)
def test_groups_compose(groups: tuple[int, int], left: int) -> None:
    net = Net()
    y = net.conv(net.input([2, 8, 6, 6]), 128, (1, 1), group=groups[0])
    result = collapsed(net, net.conv(y, 8, (1, 1), group=groups[1]), macs_after=2 * 36 * 8 * 8 // left)
    assert result.attributes("Conv")["group"] == left


def test_depthwise_in_between_of_pointwise() -> None:
    net = Net()
    y = net.conv(net.conv(net.input([1, 1, 9, 9]), 64, (1, 1)), 64, (3, 3), group=64)
    assert collapsed(net, net.conv(y, 2, (1, 1)), macs_after=49 * 9 * 2).ops == {"Conv": 1}


def test_chain_of_any_length() -> None:
    net = Net()
    y = net.input([1, 4, 6, 6])
    for channels in (32, 24, 40, 4):
        y = net.conv(y, channels, (1, 1))
    assert collapsed(net, y, macs_after=36 * 16).ops == {"Conv": 1}


def test_a_chain_longer_than_one_application_joins() -> None:
    net = Net()
    y = net.input([1, 6, 5, 7])
    for _ in range(2 * LONGEST + 3):
        y = net.conv(y, 6, (1, 1))
    result = check(net.model(y), applied=None, only=["collapse"])
    assert result.ops == {"Conv": 1} and result.macs_after == 6 * 6 * 5 * 7
    assert result.report.applied[0].candidate.macs_saved == (LONGEST - 1) * 6 * 6 * 5 * 7


def test_weights_shared_between_both() -> None:
    net = Net()
    weight = net.const(net.weights(6, 6, 1, 1))
    y = net.conv(net.conv(net.input([1, 6, 5, 5]), 6, weight=weight), 6, weight=weight)
    collapsed(net, y, macs_after=25 * 36)


def test_weights_behind_operators() -> None:
    net = Net()
    first = net.op("Transpose", net.const(net.weights(4, 32, 1, 1)), perm=[1, 0, 2, 3])
    second = net.op("Identity", net.constant_node(net.weights(4, 32, 1, 1)))
    y = net.conv(net.conv(net.input([1, 4, 5, 5]), 32, weight=first), 4, weight=second)
    assert collapsed(net, y, macs_after=25 * 16).ops == {"Conv": 1}


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_identity_and_dropout_in_between(opset: int) -> None:
    net = Net(opset)
    y = net.op("Identity", net.op("Dropout", net.conv(net.input([1, 4, 5, 5]), 32, (1, 1))))
    assert collapsed(net, net.conv(y, 4, (1, 1)), macs_after=25 * 16).ops == {"Conv": 1}


def test_dropout_with_a_ratio_and_inference_mode() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 5, 5]), 32, (1, 1))
    y = net.op("Dropout", y, net.const(np.array(0.5)), net.const(np.array(False)))
    assert collapsed(net, net.conv(y, 4, (1, 1))).ops == {"Conv": 1}


def test_a_bias_of_zeros_is_no_bias() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 48, (1, 1), bias=net.const(np.zeros(48)))
    collapsed(net, net.conv(y, 4, pads=[1, 1, 1, 1]), macs_after=36 * 9 * 16)


def test_a_middle_that_others_read_is_bypassed() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 48, (1, 1))
    assert collapsed(net, net.op("Relu", y), net.conv(y, 4, (1, 1)), macs_after=36 * (4 * 48 + 16)).ops == {
        "Conv": 2,
        "Relu": 1,
    }


def test_a_middle_that_is_an_output_is_bypassed() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 48, (1, 1))
    collapsed(net, y, net.conv(y, 4, (1, 1)), macs_after=36 * (4 * 48 + 16))


def test_two_consumers_that_both_collapse_leave_nothing_of_the_first() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 48, (1, 1))
    assert collapsed(net, net.conv(y, 4, (1, 1)), net.conv(y, 3, (1, 1)), number=2).macs_after == 36 * 4 * 7


# ---------------------------------------------------------------- Gemm and MatMul


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("scales", [{}, {"alpha": 0.5, "beta": 2.0}])
def test_gemms(dtype: npt.DTypeLike, trans: tuple[int, int], scales: dict[str, float]) -> None:
    net = Net(dtype=dtype)
    y = net.gemm(net.input([5, 6]), 32, trans=trans[0], **scales)
    assert collapsed(net, net.gemm(y, 4, trans=trans[1], **scales), macs_after=5 * 6 * 4).ops == {"Gemm": 1}


@pytest.mark.parametrize("opset", OPSETS)
def test_gemms_at_every_opset(opset: int) -> None:
    net = Net(opset)
    collapsed(net, net.gemm(net.gemm(net.input(["N", 6]), 32), 4), macs_after=6 * 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [[5, 6], [2, 5, 6], [2, 3, 5, 6]])
def test_matmuls(dtype: npt.DTypeLike, shape: list[int]) -> None:
    net = Net(dtype=dtype)
    y = net.matmul(net.matmul(net.input(shape), 6, 32), 32, 4)
    assert collapsed(net, y, macs_after=int(np.prod(shape)) * 4).ops == {"MatMul": 1}


# ---------------------------------------------------------------- where one operator would not be cheaper


PAIR = "Conv1 → Conv2"
STAYS: dict[str, tuple[Callable[[Net], Sequence[str]], tuple[str, ...]]] = {
    "a bottleneck": (
        lambda net: [net.conv(net.conv(net.input([1, 32, 5, 5]), 4, (1, 1)), 32, (1, 1))],
        (PAIR, "25,600", "6,400"),
    ),
    "64 → 32 → 64, which costs as much as 64 → 64": (
        lambda net: [net.conv(net.conv(net.input([1, 64, 5, 5]), 32, (1, 1)), 64, (1, 1))],
        (PAIR, "102,400", "not less"),
    ),
    "a cheap middle that others read": (
        lambda net: [
            net.op("Relu", net.conv(net.input([1, 32, 5, 5]), 16, (1, 1))),
            net.conv("t1", 32, (1, 1)),
        ],
        (PAIR, "12,800 saved"),
    ),
    "depthwise, then pointwise": (
        lambda net: [net.conv(net.conv(net.input([1, 16, 9, 9]), 16, group=16), 16, (1, 1))],
        (PAIR, "not less"),
    ),
    "a dilation that would fill the kernel: 3x3 at dilation 2, then 3x3 are 7x7": (
        lambda net: [net.conv(net.conv(net.input([1, 4, 14, 14]), 6, dilations=[2, 2]), 4)],
        (PAIR, "not less"),
    ),
    "padding of the second on an axis of the first": (
        lambda net: [net.conv(net.conv(net.input([1, 4, 9, 9]), 96, bias=False), 4, pads=[0, 1, 0, 0])],
        (PAIR, "pads axis 1", "more than one tap"),
    ),
    "padding of the second behind padding of the first": (
        lambda net: [
            net.conv(net.conv(net.input([1, 4, 9, 9]), 96, (1, 1), bias=False, pads=[1] * 4), 4, pads=[1] * 4)
        ],
        (PAIR, "pads axis 0", "pads too"),
    ),
    "SAME padding behind a 3x3": (
        lambda net: [net.conv(net.conv(net.input([1, 4, 9, 9]), 96, bias=False), 4, auto_pad="SAME_UPPER")],
        (PAIR, "pads axis 0"),
    ),
    "something in between that is not linear": (
        lambda net: [net.conv(net.op("Relu", net.conv(net.input([1, 4, 6, 6]), 48, (1, 1))), 4, (1, 1))],
        (),
    ),
    "a quantised region": (
        lambda net: [net.quantised(net.conv(net.conv(net.input([1, 4, 6, 6]), 48, (1, 1)), 4, (1, 1)))],
        ("Conv2", "quantised region"),
    ),
    "a transposed input of Gemm": (
        lambda net: [
            net.gemm(
                net.op("Gemm", net.input([6, 5]), net.const(net.weights(6, 32)), transA=1, channels=32), 4
            )
        ],
        ("Gemm1", "transA=1"),
    ),
    "a bias of Gemm that varies by row": (
        lambda net: [net.gemm(net.gemm(net.input([5, 6]), 32, bias=net.const(net.normal(5, 1), "rows")), 4)],
        ("Gemm1", "rows", "no bias per channel"),
    ),
    "a MatMul by a stack of matrices": (
        lambda net: [
            net.matmul(
                net.op("MatMul", net.input([2, 5, 6]), net.const(net.normal(2, 6, 32), "stack")), 32, 4
            )
        ],
        ("MatMul1", "stack is no matrix"),
    ),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_stays(case: str) -> None:
    build, because = STAYS[case]
    net = Net()
    left_alone(net, *build(net), because=because)


# ---------------------------------------------------------------- traps


@pytest.mark.parametrize(
    "second",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 2, 1, 0]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"pads": [1, 1, 1, 1], "strides": [2, 3]},
        taps(5, 1, pads=[2, 1, 2, 0]),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
@pytest.mark.parametrize("size", [(9, 8), (2, 3), (31, 30)])
def test_a_bias_that_meets_zero_padding(second: dict[str, Any], size: tuple[int, int]) -> None:
    net = Net()
    y = net.conv(net.input([2, 4, *size]), 48, (1, 1), strides=[1, 1])
    wider = {"pads": [3, 3, 3, 3]} if size == (2, 3) and "dilations" in second else {}
    result = collapsed(net, net.conv(y, 4, **{**second, **wider}))
    assert result.ops["Conv"] == 1 and result.ops["Add"] <= 1
    assert result.after.ByteSize() < result.before.ByteSize()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bias_that_meets_zero_padding_of_open_sizes(stride: int) -> None:
    net = Net()
    y = net.conv(net.input(["n", 8, "h", "w"]), 96, (1, 1), strides=[stride, stride])
    result = collapsed(net, net.conv(net.conv(y, 8, pads=[1, 1, 1, 1]), 6, (1, 1)), sizes={"h": 9, "w": 8})
    assert result.ops["Conv"] == 2
    again = [make_feeds(result.before, {"n": n, "h": h, "w": w}) for n, h, w in ((3, 1, 2), (1, 20, 7))]
    compare_outputs(result.before, result.after, again)


@pytest.mark.parametrize("opset", [8, 13, NEWEST_OPSET])
@pytest.mark.parametrize(
    "row",
    [
        taps(1, 3, pads=[0, 1, 0, 1]),
        taps(1, 3),
        taps(1, 4, pads=[0, 2, 0, 0], dilations=[1, 2]),
        taps(1, 3, pads=[0, 1, 0, 1], strides=[2, 2]),
    ],
)
def test_a_bias_behind_a_row_of_taps_meets_a_border_of_open_size(opset: int, row: dict[str, Any]) -> None:
    net = Net(opset)
    y = net.conv(net.conv(net.input([1, 4, "h", "w"]), 24, **row), 4, (3, 1), pads=[1, 0, 1, 0])
    result = collapsed(net, net.conv(y, 3, (1, 1)), sizes={"h": 9, "w": 8})
    assert result.ops["Conv"] == 2
    assert compare_at_sizes(result.before, result.after, grid("h", "w")) >= 20


def test_a_map_that_grows_in_front_of_a_border_of_open_size_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 4, "h", "w"]), 24, (1, 3), pads=[0, 2, 0, 2])
    y = net.conv(y, 4, (3, 1), pads=[1, 0, 1, 0])
    left_alone(net, y, sizes={"h": 5, "w": 4}, because=("Conv1 → Conv2", "makes its map larger"))


def test_open_sizes_need_expand() -> None:
    net = Net(7)
    y = net.conv(net.input([1, 8, "h", "w"]), 96, (1, 1))
    left_alone(net, net.conv(y, 8, pads=[1, 1, 1, 1]), because=("Conv1 → Conv2", "opset 7 has no Expand"))


def test_a_bias_through_borders_and_on() -> None:
    net = Net()
    y = net.conv(net.conv(net.input([1, 4, 9, 9]), 48, (1, 1)), 48, (1, 3), pads=[0, 1, 0, 1])
    y = net.conv(net.conv(y, 24, (3, 1), pads=[1, 0, 1, 0], group=2), 4, (2, 2), strides=[2, 2])
    assert collapsed(net, y).ops["Conv"] == 1


def test_a_norm_behind_folds_before_the_border_map() -> None:
    net = Net()
    y = net.bn(net.conv(net.conv(net.input([1, 4, 9, 9]), 48, (1, 1)), 4, pads=[1, 1, 1, 1]))
    applied = {"collapse": 1, "fold_affine": 1, "constant_folding": 1}
    assert "BatchNormalization" not in check(net.model(y), applied=applied).ops


# ---------------------------------------------------------------- transposed convolutions


@pytest.mark.parametrize(
    "pads",
    [{}, {"pads": [1, 1, 1, 1]}, *({"auto_pad": mode} for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"))],
)
@pytest.mark.parametrize("wanted", [[12, 14], [11, 13], [9, 11], [14, 16]])
@pytest.mark.parametrize("added", [0, 1])
def test_pads_that_an_output_shape_decides(pads: dict[str, Any], wanted: list[int], added: int) -> None:
    net = Net()
    y = net.conv(net.input(["N", 4, 6, 7]), 40, (1, 1))
    attrs: dict[str, Any] = {"output_shape": wanted, "output_padding": [added] * 2, "strides": [2, 2]}
    y = net.conv(y, 3, (3, 3), transpose=True, **attrs, **pads)
    assert collapsed(net, y).ops["ConvTranspose"] == 1


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("taps", [(3, 3), (4, 2), (1, 5)])
def test_pads_of_a_transposed_convolution_that_keeps_its_ratio(auto_pad: str, taps: tuple[int, int]) -> None:
    net = Net()
    y = net.conv(net.input(["N", 4, "h", "w"]), 40, (1, 1), bias=False)
    y = net.conv(y, 3, taps, transpose=True, strides=[2, 2], auto_pad=auto_pad)
    result = collapsed(net, y, sizes={"h": 5, "w": 6})
    assert compare_at_sizes(result.before, result.after, grid("h", "w")) == 49


def test_an_output_shape_of_an_open_size_stays() -> None:
    net = Net()
    y = net.conv(net.input(["N", 4, "h", "w"]), 40, (1, 1), bias=False)
    y = net.conv(y, 3, (3, 3), transpose=True, strides=[2, 2], output_shape=[12, 12])
    left_alone(net, y, sizes={"h": 6, "w": 6}, because=("output_shape", "open"))


TRANSPOSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1x1, then k=s": (taps(1, 1), up(2, 2, strides=[2, 2])),
    "1x1, then overlapping": (taps(1, 1), up(4, 3, strides=[2, 2], pads=[1, 0, 1, 1])),
    "1x1, then added rows": (taps(1, 1), up(3, 3, strides=[2, 2], output_padding=[1, 1])),
    "3x3 with pads, then k=s": (taps(3, 3, pads=[1, 0, 1, 2]), up(2, 2, strides=[2, 2])),
    "k=1 with stride, then 1x1": (up(1, 1, strides=[2, 2]), taps(1, 1)),
    "cropped, then 1x1": (up(4, 4, strides=[2, 2], pads=[1, 1, 1, 0]), taps(1, 1)),
    "cropped, then 2x2": (up(4, 4, strides=[2, 2], pads=[1] * 4), taps(2, 2)),
    "k=s, then padded 3x3": (up(2, 2, strides=[2, 2]), taps(3, 3, pads=[1] * 4)),
    "added rows, then a padded dilated 2x3": (
        up(3, 3, strides=[2, 2], output_padding=[1, 0]),
        taps(2, 3, pads=[1, 1, 0, 2], dilations=[1, 2]),
    ),
    "twice": (up(2, 3, strides=[2, 2]), up(3, 2, strides=[2, 2], pads=[1, 0, 1, 1])),
    "twice, added rows first": (
        up(3, 3, strides=[2, 2], pads=[0, 0, 0, 0], output_padding=[1, 1]),
        up(2, 2, strides=[2, 2]),
    ),
    "twice, cropped first": (up(3, 3, strides=[2, 2], pads=[1, 1, 1, 0]), up(2, 2, strides=[2, 2])),
    "stride 1": (up(3, 3), taps(3, 3, pads=[2, 1, 0, 1])),
}


@pytest.mark.parametrize("biases", [(False, True), (True, False)])
@pytest.mark.parametrize("pair", TRANSPOSED)
def test_transposed_convolutions_compose(pair: str, biases: tuple[bool, bool]) -> None:
    first, second = TRANSPOSED[pair]
    net = Net()
    y = net.conv(net.input([2, 3, 6, 5]), 60, bias=biases[0], **first)
    result = collapsed(net, net.conv(y, 3, bias=biases[1], **second))
    assert result.ops["Conv"] + result.ops["ConvTranspose"] == 1
    assert result.after.ByteSize() < result.before.ByteSize()


def test_transposed_convolutions_with_groups() -> None:
    net = Net()
    y = net.conv(net.input([2, 4, 6]), 60, (1,), group=2)
    y = net.conv(y, 4, (2,), strides=[2], group=2, transpose=True)
    assert collapsed(net, y).attributes("ConvTranspose")["group"] == 2


@pytest.mark.parametrize(
    ("first", "second", "because"),
    [
        (up(4, 4, strides=[2, 2], pads=[1] * 4), taps(3, 3, pads=[1] * 4), "crops"),
        (taps(3, 3, pads=[1] * 4), up(3, 3, strides=[2, 2]), "overlap"),
        (taps(1, 1, strides=[2, 2]), up(2, 2), "stride 2 in front"),
        (up(2, 2), taps(1, 1, strides=[2, 2]), "stride 2 behind"),
        (up(3, 3, strides=[2, 2], pads=[1] * 4), up(3, 3, strides=[2, 2]), "would read what the first crops"),
    ],
)
def test_transposed_convolutions_that_do_not_compose(
    first: dict[str, Any], second: dict[str, Any], because: str
) -> None:
    net = Net()
    y = net.conv(net.conv(net.input([1, 3, 6, 6]), 60, **first), 3, **second)
    left_alone(net, y, because=(because,))


def test_dropout_whose_mask_is_used_and_dropout_in_training_mode() -> None:
    net = Net()
    y = net.op("Dropout", net.conv(net.input([1, 4, 6, 6]), 48, (1, 1)), outputs=2, channels=48)
    left_alone(net, net.conv(y, 4, (1, 1)), net.op("Cast", f"{y}_1", to=TensorProto.FLOAT))
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 48, (1, 1))
    y = net.op("Dropout", y, net.const(np.array(0.0)), net.const(np.array(True)))
    left_alone(net, net.conv(y, 4, (1, 1)))


def test_custom_operator_in_between() -> None:
    net = Net()
    y = net.op("Gelu", net.conv(net.input([1, 4, 6, 6]), 48, (1, 1)), domain="com.microsoft")
    assert left_alone(net, net.conv(y, 4, (1, 1))).ops == {"Conv": 2, "Gelu": 1}


@pytest.mark.parametrize("which", [0, 1])
def test_dynamic_weights(which: int) -> None:
    net = Net()
    x = net.input([1, 4, 6, 6])
    shapes = ([48, 4, 1, 1], [4, 48, 1, 1])
    weights: list[str | None] = [None, None]
    weights[which] = net.input(shapes[which], "dynamic")
    y = net.conv(net.conv(x, 48, (1, 1), weight=weights[0]), 4, (1, 1), weight=weights[1])
    left_alone(net, y, because=(f"Conv{which + 1}: dynamic is computed at run time",))


@pytest.mark.parametrize("frozen", [False, True])
def test_overridable_weights(frozen: bool) -> None:
    net = Net()
    x = net.input([1, 4, 6, 6])
    bias = net.const(net.normal(48), "default_bias", overridable=True)
    y = net.conv(net.conv(x, 48, (1, 1), bias=bias), 4, (1, 1))
    if frozen:
        result = collapsed(net, y, freeze_initializers=True)
        assert [value.name for value in result.after.graph.input] == ["x"]
    else:
        left_alone(net, y, because=("Conv1", "default_bias", "freeze_initializers"))


def test_matmul_of_a_vector() -> None:
    net = Net()
    assert checked(net, net.matmul(net.matmul(net.input([6]), 6, 32), 32, 4), number=0).ops == {"MatMul": 2}


def pair(net: Net, x: str) -> str:
    return net.conv(net.conv(x, 48, (1, 1)), 4, (1, 1))


def test_inside_if_bodies() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 4, 6, 6]))
    result = checked(
        net, net.choose(lambda inner: pair(inner, x)), number=2, macs_after=36 * 16
    )  # one of them runs
    for attribute in result.node("If").attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv"]


def test_not_across_the_border_of_a_body() -> None:
    net = Net()
    x = net.conv(net.op("Relu", net.input([1, 4, 6, 6])), 48, (1, 1))
    y = net.choose(lambda inner: inner.conv(x, 4, (1, 1)))
    left_alone(net, y, because=("Conv1 → Conv101", "different graphs"))


def test_inside_a_loop_body() -> None:
    outer = Net()
    x = outer.input([1, 4, 6, 6])
    trips, keep = outer.const(np.array(2), "trips"), outer.const(np.array(True), "keep")
    inner = outer.inside(3)
    inner.channels["state"] = 4
    y, going = pair(inner, "state"), inner.op("Identity", "going")
    body = inner.body(
        "body",
        inputs=[info("iteration", [], np.int64), info("going", [], np.bool_), info("state", [1, 4, 6, 6])],
        infos=[info(going, [], np.bool_), info(y, [1, 4, 6, 6])],
    )
    checked(outer.model(outer.op("Loop", trips, keep, x, body=body, name="loop")), macs_after=2 * 36 * 16)


# ---------------------------------------------------------------- the whole


def test_symbolic_batch_and_open_sizes() -> None:
    net = Net()
    y = net.conv(net.conv(net.input(["N", 4, "H", "W"]), 48, (1, 1)), 4)
    assert collapsed(net, y, sizes={"H": 9, "W": 8}).ops == {"Conv": 1}


def test_bn_in_between_folds_first() -> None:
    net = Net()
    y = net.bn(net.conv(net.input([1, 4, 6, 6]), 48, (1, 1)))
    both = {"fold_affine": 2, "collapse": 1}
    y = net.bn(net.conv(y, 4, (1, 1)))
    assert checked(net, y, applied=both, only=list(both), macs_after=36 * 16).ops == {"Conv": 1}
