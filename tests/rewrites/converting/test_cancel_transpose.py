"""cancel_transpose: Transposes cancel through what lies between, and MatMul per pixel becomes a 1x1."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import Net, alone, check

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


cancelled = partial(alone, "cancel_transpose")
left_alone = partial(cancelled, number=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_matmul_per_pixel(axes: int, dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    order = [0, *range(2, 2 + axes), 1]
    x = net.op("Transpose", net.input(["N", 6, *(5, 4, 3)[:axes]]), perm=order)
    y = net.affine("Add", net.matmul(x, 6, 8), net.normal(8))
    y = net.op("Transpose", y, perm=np.argsort(order).tolist())
    pixels = int(np.prod((5, 4, 3)[:axes]))
    result = cancelled(net, y, macs_after=pixels * 48)
    assert result.ops == {"Conv": 1, "Add": 1}
    assert check(result.before, macs_after=pixels * 48).ops == {"Conv": 1}


def test_matmul_of_a_type_that_has_no_convolution() -> None:
    net = Net(dtype=np.float64)
    x = net.op("Transpose", net.input([2, 6, 5, 4]), perm=LAST)
    y = net.op("Transpose", net.matmul(x, 6, 8), perm=FIRST)
    left_alone(net, y, because=["onnxruntime has no Conv of double"])


def test_a_block_with_a_residual_and_a_gate() -> None:
    """x + MLP(x) and an activation written out, so that a value is read twice."""
    net = Net()
    x = net.op("Transpose", net.input([2, 6, 5, "W"]), perm=LAST)
    y = net.affine("Add", net.matmul(x, 6, 12), net.normal(12))
    y = net.op("Mul", y, net.affine("Mul", net.op("Sigmoid", y), np.array(0.7)))
    y = net.op("Add", net.affine("Mul", net.matmul(y, 12, 6), net.normal(6)), x)
    result = cancelled(net, net.op("Transpose", net.op("Concat", y, x, axis=-1), perm=FIRST), sizes={"W": 7})
    assert "Transpose" not in result.ops and result.ops["Conv"] == 2


@pytest.mark.parametrize("op", ["Atan", "Shrink", "Swish"])
def test_functions_that_know_no_place(op: str) -> None:
    net = Net(24)
    x = net.op("Transpose", net.input([2, 3, 4, 5]), perm=LAST)
    assert cancelled(net, net.op("Transpose", net.op(op, x), perm=FIRST)).ops == {op: 1}


def test_several_transposes_behind_and_in_front() -> None:
    net = Net()
    a, b = (net.op("Transpose", net.input([2, 3, 4, 5], name), perm=LAST) for name in "ab")
    y = net.op("Add", net.op("Relu", a), b)
    first = net.op("Transpose", y, perm=FIRST)
    second = net.op("Transpose", net.op("Tanh", y), perm=FIRST)
    assert cancelled(net, first, second).ops == {"Relu": 1, "Add": 1, "Tanh": 1}


def test_adjacent_ones_and_the_one_that_is_left() -> None:
    net = Net()
    x = net.op("Transpose", net.input([2, 3, 4, 4]), perm=LAST)
    assert cancelled(net, net.op("Relu", net.op("Transpose", x, perm=LAST))).ops == {
        "Transpose": 1,
        "Relu": 1,
    }
    net = Net()
    x = net.op("Transpose", net.op("Relu", net.input([2, 3, 4, 4])))
    assert cancelled(net, net.op("Transpose", x)).ops == {"Relu": 1}


def test_constants_of_every_shape_move() -> None:
    net = Net()
    y = net.op("Transpose", net.input([2, 3, 4, 5]), perm=LAST)
    for shape in ((3,), (5, 1), (4, 1, 1), (2, 4, 5, 3), ()):
        y = net.affine("Add", y, net.normal(*shape), first=len(shape) == 2)
    y = net.op("Clip", y, net.const(np.array(-1.0)), net.const(np.array(2.0)))
    y = net.op("PRelu", y, net.const(net.normal(3)))
    result = cancelled(net, net.op("Transpose", net.op("Softmax", y, axis=-2), perm=FIRST))
    assert "Transpose" not in result.ops


# ---------------------------------------------------------------- what stays


def test_a_value_between_that_is_read_elsewhere() -> None:
    net = Net()
    y = net.op("Relu", net.op("Transpose", net.input([2, 3, 4, 5]), perm=LAST))
    left_alone(
        net,
        net.op("Transpose", y, perm=FIRST),
        net.op("Tanh", y),
        because=(
            "Tanh1",
            "too",
        ),
    )


def test_a_value_between_that_is_an_output() -> None:
    net = Net()
    y = net.op("Relu", net.op("Transpose", net.input([2, 3, 4, 5]), perm=LAST))
    left_alone(net, net.op("Transpose", y, perm=FIRST), y, because=("is an output of the graph",))


def test_operators_that_know_the_layout() -> None:
    net = Net()
    y = net.op("ReduceMean", net.op("Transpose", net.input([2, 3, 4, 5]), perm=LAST), axes=[2], keepdims=1)
    left_alone(net, net.op("Transpose", y, perm=FIRST))


def test_matmul_in_another_layout() -> None:
    net = Net()
    y = net.op("Transpose", net.input([2, 3, 4, 5]), perm=[0, 1, 3, 2])
    y = net.op("Transpose", net.matmul(y, 4, 4), perm=[0, 1, 3, 2])
    left_alone(net, y, because=("does not put the channels behind",))


def test_no_gain_where_the_first_stays_and_does_not_cancel() -> None:
    net = Net()
    x = net.op("Transpose", net.input([2, 3, 4, 4]), perm=LAST)
    left_alone(
        net,
        net.op("Transpose", net.op("Relu", x), perm=LAST),
        net.op("Tanh", x),
        because=("read elsewhere too",),
    )


def test_different_layouts_that_meet() -> None:
    net = Net()
    a = net.op("Transpose", net.input([2, 4, 4, 4], "a"), perm=LAST)
    b = net.op("Transpose", net.input([2, 4, 4, 4], "b"), perm=FIRST)
    left_alone(net, net.op("Transpose", net.op("Add", a, b), perm=FIRST))
