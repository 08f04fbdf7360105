"""merge_branches: parallel linear operators on one input into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import NEWEST_OPSET, Checked, Net, alone, check, taps

checked = partial(alone, "merge_branches")


def merged(
    net: Net, y: str, *, left: int, group: int = 1, shape: tuple[int, int] = (6, 6), **options: Any
) -> Checked:
    """Checks that one operator with so many taps is left, with this rewrite alone and with all."""
    result = checked(net, y, saves=True, together=True, **options)
    assert result.ops in ({"Conv": 1}, {"ConvTranspose": 1}), result.ops
    (weight,) = [t for t in result.after.graph.initializer if len(t.dims) > 1]
    assert int(np.prod(weight.dims)) == shape[0] * shape[1] // group * left
    return result


FORMS: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any], int]] = {
    "1d": ([2, 6, 11], taps(3, pads=[1, 1]), taps(1), 3),
    "2d": ([2, 6, 9, 10], taps(3, 3, pads=[1] * 4), taps(1, 1), 9),
    "3d": ([1, 6, 4, 5, 6], taps(3, 1, 3, pads=[1, 0, 1] * 2), taps(1, 1, 1), 9),
    "stride": (["N", 6, "H", "W"], taps(3, 3, pads=[1] * 4, strides=[2, 2]), taps(1, 1, strides=[2, 2]), 9),
    "5 and 3": ([1, 6, 9, 9], taps(5, 5, pads=[2] * 4), taps(3, 3, pads=[1] * 4), 25),
    "dilated": ([1, 6, 9, 9], taps(3, 3, pads=[2] * 4, dilations=[2, 2]), taps(1, 1), 9),
    "asymmetric": ([1, 6, 9, 9], taps(3, 3, pads=[2, 1, 0, 1]), taps(2, 2, pads=[1, 0, 0, 1]), 9),
    "dilated 2x2 in 3x3": (
        [1, 6, 9, 9],
        taps(3, 3, pads=[1] * 4),
        taps(2, 2, pads=[1] * 4, dilations=[2, 2]),
        9,
    ),
    "same": ([1, 6, "H", "W"], taps(3, 3, auto_pad="SAME_UPPER"), taps(1, 1), 9),
    "strides of known sizes": (
        [1, 6, 8, 10],
        taps(3, 3, pads=[1] * 4, strides=[2, 2]),
        taps(2, 2, strides=[2, 2]),
        9,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    shape, first, second, left = FORMS[form]
    net = Net()
    x = net.input(shape)
    y = net.op("Add", net.conv(x, 6, **second), net.conv(x, 6, **first))
    merged(net, y, left=left, sizes={"H": 7, "W": 8})


@pytest.mark.parametrize("opset", [7, 11, 13, 17, NEWEST_OPSET])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_repvgg_block(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    x = net.input(["N", 6, 9, 9])
    y = net.op("Add", net.conv(x, 6, pads=[1] * 4), net.conv(x, 6, (1, 1), bias=False))
    merged(net, net.op("Add", y, net.bn(x)), left=9)


def test_repvgg_block_with_all_its_normalizations() -> None:
    net = Net()
    x = net.input(["N", 6, 9, 9])
    y = net.op("Add", net.bn(net.conv(x, 6, pads=[1] * 4)), net.bn(net.conv(x, 6, (1, 1))))
    assert check(net.model(net.op("Add", y, net.bn(x)))).ops == {"Conv": 1}


def test_asymmetric_convolutions_join_a_square_one_alone() -> None:
    """ACNet: 1x3 + 3x1 + 3x3; without the 3x3 the two stay (6 taps for 9)."""
    net = Net()
    x = net.input([1, 6, 9, 9])
    row, column = net.conv(x, 6, (1, 3), pads=[0, 1, 0, 1]), net.conv(x, 6, (3, 1), pads=[1, 0, 1, 0])
    merged(net, net.op("Sum", row, column, net.conv(x, 6, pads=[1] * 4)), left=9)
    net = Net()
    x = net.input([1, 6, 9, 9])
    row, column = net.conv(x, 6, (1, 3), pads=[0, 1, 0, 1]), net.conv(x, 6, (3, 1), pads=[1, 0, 1, 0])
    checked(net, net.op("Add", row, column), number=0, because=("Conv1", "Conv2", "as few weights"))


def test_mobileone_block() -> None:
    net = Net()
    x = net.input([1, 6, 9, 9])
    y = net.op("Add", net.conv(x, 6, pads=[1] * 4, group=6), net.conv(x, 6, (1, 1), group=6))
    merged(net, net.op("Add", y, x), left=9, group=6)


def test_groups_that_do_not_nest() -> None:
    net = Net()
    x = net.input([1, 12, 9, 9])
    y = net.op("Add", net.conv(x, 12, group=4), net.conv(x, 12, group=6))
    assert checked(net, y, number=0).ops["Conv"] == 2  # 12·6 weights a tap for 12·(3 + 2)
    net = Net()
    x = net.input([1, 12, 9, 9])
    y = net.op("Add", net.conv(x, 12, (3, 3), group=2), net.conv(x, 12, (3, 3), group=6))
    merged(net, y, left=9, group=2, shape=(12, 12))


def test_nested_sums_differences_and_other_terms() -> None:
    net = Net()
    x, z = net.input([1, 6, 9, 9]), net.input([1, 6, 1, 1], "z")
    inner = net.op("Sub", z, net.conv(x, 6, pads=[1] * 4))
    outer = net.op("Sub", net.op("Add", net.conv(x, 6, (1, 1)), x), inner)
    y = net.op("Add", outer, net.affine("Mul", x, net.per_channel(6)))
    assert checked(net, y, applied=None).ops == {"Conv": 1, "Sub": 1}


def test_sum_of_two_sources() -> None:
    net = Net()
    x, z = net.input([1, 6, 9, 9]), net.input([1, 5, 9, 9], "z")
    terms = [net.conv(v, 6, k, pads=[k[0] // 2] * 4) for v in (x, z) for k in ((3, 3), (1, 1))]
    assert checked(net, net.op("Sum", *terms)).ops == {"Conv": 2, "Add": 1}


def test_a_value_added_twice() -> None:
    net = Net()
    y = net.conv(net.input([1, 6, 9, 9]), 6)
    assert checked(net, net.op("Add", y, y)).ops == {"Conv": 1}


@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
def test_transposed_convolutions(strides: list[int]) -> None:
    net = Net()
    x = net.input([1, 6, 5, 6])
    options: dict[str, Any] = {"transpose": True, "strides": strides}
    big = net.conv(x, 6, (4, 4), pads=[1] * 4, **options)
    small = net.conv(x, 6, (2, 2), **options)
    merged(net, net.op("Add", big, small), left=16)


def test_gemm_and_matmul() -> None:
    net = Net()
    x = net.input([5, 8])
    y = net.op("Add", net.op("Add", net.gemm(x, 8), net.gemm(x, 8, trans=0)), x)
    assert checked(net, y).ops == {"Gemm": 1}
    net = Net()
    x = net.input(["N", 5, 8])
    y = net.op("Add", net.op("Sub", net.matmul(x, 8, 8), net.matmul(x, 8, 8)), x)
    assert checked(net, y).ops == {"MatMul": 1}


# ---------------------------------------------------------------- what stays


def pair(net: Net, x: str, **options: Any) -> tuple[str, str]:
    """A padded 3x3 and a 1x1 on one input."""
    return net.conv(x, 6, pads=[1] * 4, **options), net.conv(x, 6, (1, 1))


STAYS: dict[str, tuple[list[Any], Callable[[Net, str], Sequence[str]]]] = {
    "a branch that is read elsewhere": (
        [1, 6, 9, 9],
        lambda net, x: [net.op("Add", *(both := pair(net, x))), net.op("Sigmoid", both[0])],
    ),
    "a branch that is an output": ([1, 6, 9, 9], lambda net, x: [net.op("Add", *(b := pair(net, x))), b[1]]),
    "a pixel that broadcasts": (
        [1, 6, 3, 3],
        lambda net, x: [net.op("Add", net.conv(x, 6), net.conv(x, 6, (1, 1)))],
    ),
    "a channel that broadcasts": (
        [1, 6, 9, 9],
        lambda net, x: [net.op("Add", net.conv(x, 6, (1, 1)), net.conv(x, 1, (1, 1)))],
    ),
    "different strides": (
        [1, 6, 1, 1],
        lambda net, x: [net.op("Add", net.conv(x, 6, (1, 1), strides=[2, 2]), net.conv(x, 6, (1, 1)))],
    ),
    "open sizes, which are equal for even ones alone": (
        [1, 6, "H", "H"],
        lambda net, x: [
            net.op(
                "Add",
                net.conv(x, 6, pads=[1] * 4, strides=[2, 2]),
                net.conv(x, 6, (2, 2), strides=[2, 2]),
            )
        ],
    ),
    "weights of run time": (
        [1, 6, 9, 9],
        lambda net, x: [net.op("Add", *pair(net, x, weight=net.input([6, 6, 3, 3], "w")))],
    ),
    "a product": ([1, 6, 9, 9], lambda net, x: [net.op("Mul", *pair(net, x))]),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_stays(case: str) -> None:
    shape, build = STAYS[case]
    net = Net()
    checked(net, *build(net, net.input(shape)), number=0, saves=False, sizes={"H": 8})


def test_blocks_in_a_row_in_half_precision() -> None:
    """The second block's input has no declared type: the region must run in float16 all the same."""
    net = Net(dtype=np.float16)
    y = net.input(["N", 6, 9, 9])
    for _ in range(2):
        branches = [net.bn(net.conv(y, 6, pads=[1] * 4)), net.bn(net.conv(y, 6, (1, 1)))]
        y = net.op("Relu", net.op("Add", *branches))
    assert check(net.model(y)).ops == {"Conv": 2, "Relu": 2}
