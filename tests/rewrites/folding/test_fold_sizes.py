"""fold_sizes: sizes that are the same in every run are stored, and others stay computed."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.builders import NEWEST_OPSET, Checked, Net, alone, check, run

folded = partial(alone, "fold_sizes")
left_alone = partial(folded, number=0)


def ints(net: Net, *values: int) -> str:
    return net.const(np.array(values, np.int64))


def size(net: Net, x: str, axis: int) -> str:
    """The size of a value along an axis as a vector of one, as PyTorch writes it."""
    alone = net.op("Gather", net.op("Shape", x), net.const(np.array(axis)), axis=0)
    return (
        net.op("Unsqueeze", alone, axes=[0]) if net.opset < 13 else net.op("Unsqueeze", alone, ints(net, 0))
    )


def reshaped(net: Net, y: str, *sizes: str) -> str:
    return net.op("Reshape", y, net.op("Concat", *sizes, axis=0))


def shape_of(result: Checked) -> list[int]:
    """The constant shape of the only Reshape."""
    name = result.node("Reshape").input[1]
    (tensor,) = (each for each in result.after.graph.initializer if each.name == name)
    return list(numpy_helper.to_array(tensor))


@pytest.mark.parametrize("opset", [7, 11, 13, 17, NEWEST_OPSET])
def test_a_view_of_known_sizes(opset: int) -> None:
    net = Net(opset)
    y = net.op("Relu", net.input([2, 4, 6, 6]))
    result = folded(net, reshaped(net, y, size(net, y, 0), ints(net, 2), ints(net, -1)))
    assert result.ops == {"Relu": 1, "Reshape": 1} and shape_of(result) == [2, 2, -1]


@pytest.mark.parametrize("opset", [7, 13, NEWEST_OPSET])
def test_one_open_size_follows_from_the_others(opset: int) -> None:
    net = Net(opset)
    y = net.op("Relu", net.input(["N", 4, 6, 6]))
    result = folded(net, reshaped(net, y, size(net, y, 0), ints(net, 2, 72)))
    assert result.ops == {"Relu": 1, "Reshape": 1} and shape_of(result) == [-1, 2, 72]
    empty = {"x": np.zeros((0, 4, 6, 6), np.float32)}
    assert [each.shape for each in run(result.after, empty)] == [(0, 2, 72)]


def test_open_sizes_that_are_those_of_the_input() -> None:
    net = Net()
    x = net.input(["N", 4, "H", "W"])
    y = net.op("Relu", net.conv(x, 6, pads=[1] * 4))
    view = reshaped(net, y, size(net, x, 0), size(net, y, 1), ints(net, -1))
    result = folded(net, view, number=2, sizes={"N": 2, "H": 5, "W": 6})
    assert result.ops == {"Conv": 1, "Relu": 1, "Reshape": 1} and shape_of(result) == [0, 6, -1]


def test_what_the_shape_is_put_together_by() -> None:
    """Slice, Cast and Squeeze hand single sizes on."""
    net = Net()
    y = net.op("Relu", net.input(["N", 4, "H"]))
    whole = net.op("Cast", net.op("Cast", net.op("Shape", y), to=TensorProto.INT32), to=TensorProto.INT64)
    first = net.op("Slice", whole, ints(net, 0), ints(net, 1), ints(net, 0))
    first = net.op("Unsqueeze", net.op("Squeeze", first, ints(net, 0)), ints(net, 0))
    result = folded(net, reshaped(net, y, first, ints(net, 2, 2, -1)), sizes={"N": 2, "H": 3})
    assert shape_of(result) == [0, 2, 2, -1]


@pytest.mark.parametrize("case", ["swapped", "product", "same name", "twice"])
def test_two_open_sizes_that_are_not_the_input_s_stay(case: str) -> None:
    net = Net()
    x = net.input(["N", "C", "N" if case == "twice" else "H"])
    y = net.op("Relu", x)
    if case == "swapped":
        view = reshaped(net, y, size(net, y, 1), ints(net, -1))
    elif case == "product":
        view = reshaped(net, y, size(net, y, 0), net.op("Mul", size(net, y, 1), size(net, y, 2)))
    elif case == "same name":
        view = reshaped(net, y, size(net, net.input(["N", 3], "z"), 0), ints(net, -1))
    else:
        view = reshaped(net, y, size(net, y, 2), ints(net, -1))
    left_alone(net, view, sizes={"N": 2, "C": 2, "H": 4})


def test_sizes_of_a_resize() -> None:
    net = Net()
    x = net.conv(net.input([1, 4, 6, 7]), 5)
    twice = net.op("Mul", net.op("Slice", net.op("Shape", x), ints(net, 2), ints(net, 4)), ints(net, 2))
    sizes = net.op("Concat", ints(net, 1, 5), twice, axis=0)
    result = folded(net, net.op("Resize", x, "", "", sizes, mode="linear"))
    assert result.ops == {"Conv": 1, "Resize": 1}


def test_spatial_sizes_beside_an_open_batch() -> None:
    """A Shape of which only some sizes are known: what is made of the known ones is."""
    net = Net()
    x = net.conv(net.input(["N", 4, 6, 7]), 5)
    spatial = net.op("Slice", net.op("Shape", x), ints(net, 2), ints(net, 4))
    area = net.op("Cast", net.op("ReduceProd", spatial, keepdims=1), to=TensorProto.FLOAT)
    result = folded(net, net.op("Div", x, area))
    assert result.ops == {"Conv": 1, "Div": 1}


def test_open_sizes_stay() -> None:
    net = Net()
    x = net.conv(net.input([1, 4, "H", "W"]), 5)
    area = net.op("Cast", net.op("ReduceProd", net.op("Shape", x), keepdims=1), to=TensorProto.FLOAT)
    left_alone(net, net.op("Div", x, area), sizes={"H": 5, "W": 6})


def test_within_a_body() -> None:
    net = Net()
    x = net.op("Relu", net.input(["N", 4, 6, 6]))
    y = net.choose(lambda inner: reshaped(inner, x, size(inner, x, 0), ints(inner, 144)))
    result = folded(net.model(y), number=2)
    (choice,) = (each for each in result.after.graph.node if each.op_type == "If")
    assert [[each.op_type for each in a.g.node] for a in choice.attribute] == [["Reshape"], ["Reshape"]]


def test_an_output_and_what_is_large_stay() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 4, 6, 6]))
    shape = net.op("Shape", x)
    proto = net.model(x)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(shape, TensorProto.INT64, [4]))
    left_alone(proto)
    net = Net()
    x = net.op("Relu", net.input([1, 4, 6, 6]))
    zeros = net.op("ConstantOfShape", net.op("Concat", ints(net, 9), net.op("Shape", x), axis=0))
    result = folded(net, net.op("Add", x, zeros))
    assert result.ops == {"Relu": 1, "ConstantOfShape": 1, "Add": 1}


def test_a_chain_of_views_ends_as_one() -> None:
    net = Net()
    x = net.op("Relu", net.input(["N", 4, 6, 6]))
    y = reshaped(net, x, size(net, x, 0), ints(net, 4, 36))
    y = reshaped(net, y, size(net, y, 0), ints(net, -1))
    result = check(net.model(net.op("Relu", net.op("Dropout", y))))
    assert result.ops == {"Relu": 2, "Reshape": 1}
