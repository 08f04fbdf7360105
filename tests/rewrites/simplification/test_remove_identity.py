"""remove_identity: operators that change nothing go away, and what only seems to change nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from onnx import TensorProto

from tests.builders import NEWEST_OPSET, Net, alone

removed = partial(alone, "remove_identity")
left_alone = partial(removed, number=0)


def ints(net: Net, *values: int) -> str:
    return net.const(np.array(values, np.int64))


NOTHING: dict[str, Callable[[Net, str], str]] = {
    "Identity": lambda n, x: n.op("Identity", x),
    "Dropout": lambda n, x: n.op("Dropout", x),
    "Add": lambda n, x: n.affine("Add", x, np.zeros((1, 4, 1, 1))),
    "Add in front": lambda n, x: n.affine("Add", x, np.zeros((6, 6)), first=True),
    "Sub": lambda n, x: n.affine("Sub", x, np.array(0.0)),
    "Mul": lambda n, x: n.affine("Mul", x, np.ones((2, 4, 6, 6))),
    "Div": lambda n, x: n.affine("Div", x, np.array(1.0)),
    "Pow": lambda n, x: n.affine("Pow", x, np.array(1.0)),
    "Pad": lambda n, x: n.pad(x, [0] * 8),
    "Slice": lambda n, x: n.op("Slice", x, ints(n, 0, 0), ints(n, 2**31, 6), ints(n, 2, -1), ints(n, 1, 1)),
    "Gather": lambda n, x: n.op("Gather", x, ints(n, 0, 1, 2, 3), axis=1),
    "Transpose": lambda n, x: n.op("Transpose", x, perm=[0, 1, 2, 3]),
    "Cast": lambda n, x: n.op("Cast", x, to=TensorProto.FLOAT),
    "Reshape": lambda n, x: n.op("Reshape", x, ints(n, 0, 4, -1, 6)),
    "Expand": lambda n, x: n.op("Expand", x, ints(n, 4, 1, 1)),
    "Tile": lambda n, x: n.op("Tile", x, ints(n, 1, 1, 1, 1)),
    "Concat": lambda n, x: n.op("Concat", x, axis=1),
    "Sum": lambda n, x: n.op("Sum", x),
    "AveragePool": lambda n, x: n.op("AveragePool", x, kernel_shape=[1, 1]),
    "Resize": lambda n, x: n.op("Resize", x, "", n.const(np.ones(4)), mode="linear"),
    "SpaceToDepth": lambda n, x: n.op("SpaceToDepth", x, blocksize=1),
    "twice Relu": lambda n, x: n.op("Relu", n.op("Relu", x)),
    "wider and back": lambda n, x: n.op("Cast", n.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT),
    "Flatten and back": lambda n, x: n.op("Reshape", n.op("Flatten", x), ints(n, 2, 4, 6, 6)),
    "Split and Concat": lambda n, x: n.op("Concat", *n.split(x, 1, 3), axis=1),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_changes_nothing(kind: str) -> None:
    net = Net()
    y = NOTHING[kind](net, net.op("Sigmoid", net.input([2, 4, 6, 6])))
    result = removed(net, net.op("Tanh", y), macs_after=0)
    kept = {"Sigmoid": 1, "Tanh": 1, **({"Relu": 1} if kind == "twice Relu" else {})}
    assert result.ops == kept


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, NEWEST_OPSET])
def test_every_opset(opset: int) -> None:
    net = Net(opset)
    x = net.pad(net.op("Identity", net.op("Relu", net.input([2, 4, 6, 6]))), [0] * 8)
    removed(net, net.conv(net.op("Dropout", x), 3), number=3)


def test_a_chain_between_others_in_one_round() -> None:
    net = Net()
    x = net.conv(net.input(["N", 4, "H", "W"]), 5, pads=[1] * 4)
    for _ in range(3):
        x = net.op("Identity", net.op("Dropout", x))
    y = net.bn(x)
    assert removed(net, net.conv(y, 2), y, number=6, sizes={"H": 7, "W": 8}).ops == {
        "Conv": 2,
        "BatchNormalization": 1,
    }


def test_a_cast_of_sizes_to_the_type_that_sizes_have() -> None:
    net = Net()
    x = net.op("Relu", net.input(["N", 4, "H", "W"]))
    size = net.op("Gather", net.op("Shape", x), ints(net, 0, 2))
    half = net.op("Cast", net.op("Div", size, ints(net, 2, 2)), to=TensorProto.INT64)
    y = net.op("Mul", x, net.op("ReduceMax", net.op("Cast", half, to=TensorProto.FLOAT), keepdims=0))
    assert removed(net, y, sizes={"N": 2, "H": 5, "W": 6}).ops["Cast"] == 1


def test_a_concat_that_only_a_concat_reads_is_a_part_of_it() -> None:
    net = Net()
    x = net.input(["N", 4, "H", "W"])
    a, b, c = (net.op(kind, x) for kind in ("Relu", "Tanh", "Sigmoid"))
    inner = net.op("Concat", net.op("Concat", a, b, axis=1), c, axis=-3)
    y = net.op("Concat", inner, net.op("Neg", x), inner, axis=1, channels=28)
    result = removed(net, net.conv(y, 3), number=2, sizes={"N": 2, "H": 5, "W": 6})
    assert result.ops["Concat"] == 1 and len(result.node("Concat").input) == 7


def test_concats_along_two_axes_or_with_other_readers_stay() -> None:
    net = Net()
    x = net.input([2, 4, 6, 6])
    rows = net.op("Concat", net.op("Relu", x), net.op("Tanh", x), axis=2)
    y = net.op("Concat", rows, net.op("Sigmoid", rows), axis=1, channels=8)
    left_alone(net, net.op("Concat", y, net.op("Neg", y), axis=1, channels=16), macs_after=0)


def test_concat_and_split_back() -> None:
    net = Net()
    x, y = (net.op("Relu", net.input([1, c, 5, 5], f"in{c}")) for c in (3, 2))
    first = net.op("Split", net.op("Concat", x, y, axis=1), ints(net, 3, 2), outputs=2, axis=-3)
    assert removed(net, net.op("Tanh", first), net.op("Tanh", f"{first}_1")).ops == {"Relu": 2, "Tanh": 2}


def test_views_become_one_reshape() -> None:
    net = Net()
    y = net.op("Flatten", net.op("Relu", net.input(["N", 4, 3, 2])))
    y = net.op("Unsqueeze", net.op("Reshape", y, ints(net, -1, 12, 2)), ints(net, 1))
    assert removed(net, net.op("Relu", y), number=2).ops == {"Relu": 2, "Reshape": 1}


# ---------------------------------------------------------------- what stays


TRAPS: dict[str, Callable[[Net, str], str]] = {
    "a sum that widens": lambda n, x: n.affine("Add", x, np.zeros((2, 4, 6, 6))),
    "a rank that rises": lambda n, x: n.affine("Mul", x, np.ones((1, 1, 4, 1, 1))),
    "0 - x": lambda n, x: n.affine("Sub", x, np.array(0.0), first=True),
    "1 / x": lambda n, x: n.affine("Div", x, np.array(1.0), first=True),
    "a narrower type and back": lambda n, x: _there_and_back(n, x, TensorProto.FLOAT16),
    "whole numbers": lambda n, x: _there_and_back(n, x, TensorProto.INT32),
    "backwards": lambda n, x: n.op("Slice", x, ints(n, -1), ints(n, -(2**31)), ints(n, 1), ints(n, -1)),
    "out of order": lambda n, x: n.op("Gather", x, ints(n, 0, 2, 1, 3), axis=1),
    "shifted": lambda n, x: n.pad(x, [0, 0, 1, 0, 0, 0, -1, 0]),
    "Reshape to another shape": lambda n, x: n.op("Reshape", x, ints(n, 1, 4, -1, 12)),
    "crop and resize": lambda n, x: n.op(
        "Resize", x, n.const(np.array([0, 0, 0.2, 0, 1, 1, 0.8, 1])), n.const(np.ones(4)), mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    "parts exchanged": lambda n, x: n.op("Concat", *n.split(x, 2, 2)[::-1], axis=1),
}  # fmt: skip


def _there_and_back(net: Net, x: str, kind: int) -> str:
    return net.op("Cast", net.op("Cast", x, to=kind), to=TensorProto.FLOAT)


@pytest.mark.parametrize("kind", TRAPS)
def test_what_only_seems_to_change_nothing(kind: str) -> None:
    net = Net()
    left_alone(net, net.op("Tanh", TRAPS[kind](net, net.op("Sigmoid", net.input([1, 4, 6, 6])))))


def test_a_reshape_whose_zero_copies_the_size_before_it() -> None:
    net = Net()
    y = net.op("Reshape", net.op("Reshape", net.input([4, 6, 10]), ints(net, 24, 10)), ints(net, 0, 5, 2))
    assert removed(net, net.op("Relu", y)).ops == {"Reshape": 1, "Relu": 1}


def test_two_open_sizes_are_not_taken_for_each_other() -> None:
    net = Net()
    y = net.op("Reshape", net.op("Relu", net.input(["N", "C", 4])), ints(net, -1, 3, 4))
    left_alone(net, net.op("Relu", y), sizes={"C": 3})


def test_a_mask_that_is_read() -> None:
    net = Net()
    y = net.op("Dropout", net.op("Relu", net.input([2, 4])), outputs=2)
    left_alone(net, net.op("Tanh", y), net.op("Cast", f"{y}_1", to=TensorProto.FLOAT))


def test_an_input_that_is_an_output_keeps_its_identity() -> None:
    net = Net()
    because = ("Identity1", "is no result of this graph")
    left_alone(net, net.op("Identity", net.input([2, 4])), because=because)


def test_a_body_that_hands_on_an_outer_value() -> None:
    net = Net()
    x = net.op("Relu", net.input([2, 4]))
    left_alone(net, net.choose(lambda inner: inner.op("Identity", x)))
