"""merge_branches: parallel linear operators on one input into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import NEWEST_OPSET, Checked, Net, alone, check, compare_at_sizes, grid, taps

checked = partial(alone, "merge_branches")


def merged(
    net: Net,
    y: str,
    *,
    left: int,
    group: int = 1,
    shape: tuple[int, int] = (6, 6),
    saves: bool = True,
    **options: Any,
) -> Checked:
    """Checks that one operator with so many taps is left, with this rewrite alone and with all."""
    result = checked(net, y, saves=saves, together=True, **options)
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


@pytest.mark.parametrize("opset", [7, 8])
def test_a_sum_that_broadcasts_has_a_sum_operator_from_opset_8_on(opset: int) -> None:
    net = Net(opset)
    x, z = net.input([1, 6, 9, 9]), net.input([1, 6, 1, 1], "z")
    terms = [net.conv(x, 6, pads=[1] * 4), net.conv(x, 6, (1, 1))]
    y = net.op("Add", net.op("Add", net.op("Sum", *terms), z), net.op("Relu", x))
    found = checked(net, y)
    assert found.ops == {"Conv": 1, "Relu": 1, **({"Sum": 1} if opset > 7 else {"Add": 2})}


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


# ---------------------------------------------------------------- branches of several operators


def edges(net: Net, x: str, bias: bool = True, taps: Sequence[int] = (3, 3)) -> str:
    """A 1x1, and a depthwise convolution behind it (ECB)."""
    pads = [size // 2 for size in taps] * 2
    y = net.conv(x, 6, [1] * len(taps), bias=bias)
    return net.conv(y, 6, taps, group=6, pads=pads)


def averaged(net: Net, x: str, bias: bool = True, **attrs: Any) -> str:
    """A 1x1, and an average of 3x3 behind it (DBB)."""
    attrs = {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1, **attrs}
    return net.op("AveragePool", net.conv(x, 6, (1, 1), bias=bias), **attrs)


def square(net: Net, x: str, **attrs: Any) -> str:
    """The 3x3 beside them."""
    return net.conv(x, 6, **{"pads": [1] * 4, **attrs})


LONGER: dict[str, tuple[list[Any], Callable[[Net, str], str], int]] = {
    "edges": ([2, 6, 9, 10], lambda net, x: net.op("Add", square(net, x), edges(net, x, False)), 9),
    "edges of open sizes": (
        [2, 6, "H", "W"],
        lambda net, x: net.op("Add", square(net, x), edges(net, x, False)),
        9,
    ),
    "edges on a line": (
        [2, 6, 9],
        lambda net, x: net.op("Sub", net.conv(x, 6, (5,), pads=[2, 2]), edges(net, x, False, (3,))),
        5,
    ),
    "padded in front": (
        [1, 6, "H", "W"],
        lambda net, x: net.op(
            "Add", net.conv(net.conv(x, 6, (1, 1), bias=False, pads=[1] * 4), 6, group=6), square(net, x)
        ),
        9,
    ),
    "a thin 3x3, then a 1x1": (
        [1, 6, "H", "W"],
        lambda net, x: net.op("Add", net.conv(net.conv(x, 2, pads=[1] * 4), 6, (1, 1)), square(net, x)),
        9,
    ),
    "an average": (
        [1, 6, "H", "W"],
        lambda net, x: net.op("Add", square(net, x), averaged(net, x, False)),
        9,
    ),
    "an average without pads": (
        [1, 6, "H", "W"],
        lambda net, x: net.op(
            "Add",
            net.conv(x, 6, strides=[2, 2]),
            averaged(net, x, pads=[0] * 4, strides=[2, 2], count_include_pad=0),
        ),
        9,
    ),
    "an average in front": (
        [1, 6, "H", "W"],
        lambda net, x: net.op(
            "Add",
            net.conv(x, 6, (4, 4), strides=[2, 2], pads=[1] * 4),
            net.conv(net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 6, (1, 1)),
        ),
        16,
    ),
    "an average alone": (
        [1, 6, "H", "W"],
        lambda net, x: net.op(
            "Sub",
            square(net, x),
            net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        ),
        9,
    ),
    "without anything beside": (
        [1, 6, "H", "W"],
        lambda net, x: net.op("Sum", *(net.conv(net.conv(x, 2, (1, 1)), 6, (1, 1)) for _ in range(2))),
        1,
    ),
    "through an Identity": (
        [1, 6, "H", "W"],
        lambda net, x: net.op(
            "Add", square(net, x), net.conv(net.op("Identity", net.conv(x, 2, (1, 1))), 6, (1, 1))
        ),
        9,
    ),
}


@pytest.mark.parametrize("branch", LONGER)
def test_branches_of_several_operators(branch: str) -> None:
    shape, build, left = LONGER[branch]
    net = Net()
    y = build(net, net.input(shape))
    merged(net, y, left=left, saves=branch != "an average alone", sizes={"H": 7, "W": 8})


@pytest.mark.parametrize("opset", [8, 11, 13, 17, NEWEST_OPSET])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_biases_of_branches_meet_borders(opset: int, dtype: npt.DTypeLike) -> None:
    """One map serves those of all branches, of sizes known and open."""
    for shape, made in (
        ([2, 6, 9, 10], {"Conv": 1, "Gather": 2, "Add": 1}),
        (["N", 6, "H", "W"], {"Conv": 2, "Shape": 1, "Gather": 1, "Concat": 1, "Expand": 1, "Add": 1}),
    ):
        net = Net(opset, dtype)
        x = net.input(shape)
        terms = [square(net, x), edges(net, x), averaged(net, x), edges(net, x, False)]
        y = net.op("Sub", net.op("Sum", *terms), edges(net, x))
        found = checked(net, y, sizes={"H": 7, "W": 8}, saves=True, together=True)
        assert found.ops == made


def test_small_maps_of_open_size() -> None:
    net = Net()
    x = net.input([1, 6, "H", "W"])
    found = checked(net, net.op("Add", net.op("Add", square(net, x), edges(net, x)), averaged(net, x)))
    assert compare_at_sizes(found.before, found.after, grid("H", "W")) == 49


def test_adapters_of_low_rank() -> None:
    """LoRA: two thin factors beside the weight, with a scale behind them."""
    net = Net()
    x = net.input(["N", 5, 8])
    net.channels[x] = 8
    update = net.affine("Mul", net.matmul(net.matmul(x, 8, 2), 2, 8), np.array(0.5))
    y = net.op("Add", net.op("Add", net.matmul(x, 8, 8), net.const(net.normal(8))), update)
    assert check(net.model(y), saves=True).ops == {"MatMul": 1, "Add": 1}
    net = Net()
    x = net.input(["N", 8])
    y = net.op("Add", net.gemm(x, 6), net.gemm(net.gemm(x, 2, bias=False), 6, bias=False))
    assert checked(net, y, saves=True).ops == {"Gemm": 1}


def test_a_first_operator_that_others_read_stays() -> None:
    net = Net()
    x = net.input([1, 6, 9, 9])
    y = net.conv(x, 6, (1, 1), bias=False)
    total = net.op("Add", square(net, x), net.conv(y, 6, group=6, pads=[1] * 4))
    found = checked(net, total, net.op("Sigmoid", y), saves=True)
    assert found.ops == {"Conv": 2, "Sigmoid": 1} and found.macs_after == (9 + 1) * 36 * 81


def test_branches_in_a_body() -> None:
    net = Net()
    x = net.input([1, 6, "H", "W"])
    y = net.choose(lambda inner: inner.op("Add", square(inner, x), edges(inner, x)))
    checked(net, y, number=2, saves=True, sizes={"H": 5, "W": 4})


def test_half_a_branch_outside_of_a_body_stays() -> None:
    net = Net()
    x = net.input([1, 6, 9, 9])
    y = net.conv(x, 6, (1, 1))
    both = net.choose(
        lambda inner: inner.op("Add", square(inner, x), inner.conv(y, 6, group=6, pads=[1] * 4))
    )
    checked(net, both, number=0)


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
    "a bottleneck beside a thin kernel": (
        [1, 6, 9, 9],
        lambda net, x: [net.op("Add", edges(net, x), net.conv(x, 6, (1, 1)))],
    ),
    "an average that does not count its padding": (
        [1, 6, 9, 9],
        lambda net, x: [net.op("Add", square(net, x), averaged(net, x, count_include_pad=0))],
    ),
    "an average whose last window may hang over": (
        [1, 6, "H", "H"],
        lambda net, x: [
            net.op(
                "Add",
                net.conv(x, 6, (2, 2), strides=[2, 2]),
                averaged(net, x, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4, ceil_mode=1),
            )
        ],
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


def test_why_branches_of_several_operators_stay() -> None:
    net = Net()
    x = net.input([1, 6, 9, 9])
    y = net.op("Add", edges(net, x), net.conv(x, 6, (1, 1)))
    checked(net, y, number=0, because=("Conv1 → Conv2", "dearer"))
    net = Net(7)
    x = net.input([1, 6, "H", "W"])
    y = net.op("Add", square(net, x), edges(net, x))
    checked(net, y, number=0, because=("bias of Conv2", "opset 7 has no Expand"), sizes={"H": 5, "W": 6})
