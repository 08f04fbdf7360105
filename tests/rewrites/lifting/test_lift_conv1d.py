"""Regions along a line as regions of maps with one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from tests.builders import NEWEST_OPSET, Net, compare_at_sizes, compare_outputs, counted_macs, make_feeds

CHANNELS = 64
LENGTH = 200


def deep(net: Net, x: str, taps: int = 31, **attrs: Any) -> str:
    """A depthwise convolution that keeps the length: with a row it takes a fraction of its time."""
    return net.conv(x, CHANNELS, (taps,), group=CHANNELS, **{"pads": [taps // 2] * 2, **attrs})


def chain(add: Callable[[Net, str], str], opset: int = 17, **sizes: Any) -> onnx.ModelProto:
    """Operators between two depthwise convolutions, at an open batch and length."""
    net = Net(opset)
    x = net.input([sizes.get("batch", "N"), CHANNELS, sizes.get("length", "L")])
    y = add(net, deep(net, x))
    return net.model(deep(net, y) if net.channels.get(y) == CHANNELS else y)


def lifted(before: onnx.ModelProto, **options: Any) -> tuple[graphopt.Result, onnx.ModelProto]:
    """The model, optimized for a likely length, and compared at others."""
    shapes = {"x": [1, CHANNELS, LENGTH]}
    result = graphopt.optimize(before, **{"shapes": shapes, "only": ["lift_conv1d"], **options})
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    sizes = ({"N": n, "L": length} for n, length in ((1, LENGTH), (3, 41), (2, 64)))
    compare_outputs(before, after, [make_feeds(before, each) for each in sizes])
    return result, after


def kinds(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def ranks(proto: onnx.ModelProto) -> set[int]:
    """Those of the convolutions' weights."""
    weights = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    return {weights[n.input[1]] for n in proto.graph.node if n.op_type in ("Conv", "ConvTranspose")}


def _gated(net: Net, x: str) -> str:
    means = net.op("GlobalAveragePool", x)
    return net.op("Mul", x, net.op("Sigmoid", net.conv(means, CHANNELS, (1,))))


def _glu(net: Net, x: str) -> str:
    first, second = net.split(net.conv(x, 2 * CHANNELS, (1,)), CHANNELS, CHANNELS)
    return net.op("Mul", first, net.op("Sigmoid", second))


def _slice(net: Net, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
    if net.opset < 10:
        return net.op("Slice", x, starts=[start], ends=[end], axes=[axis])
    numbers = ([start], [end], [axis], [step])
    return net.op("Slice", x, *(net.const(np.array(each, np.int64)) for each in numbers))


def _mean(net: Net, x: str, **attrs: Any) -> str:
    if net.opset < 18:
        return net.op("Mul", x, net.op("ReduceMean", x, axes=[-1], **attrs))
    return net.op("Mul", x, net.op("ReduceMean", x, net.const(np.array([2])), **attrs))


def _concat(net: Net, x: str) -> str:
    both = net.op("Concat", x, net.op("Relu", x), axis=1)
    return net.conv(both, CHANNELS, (1,))


def _along(net: Net, x: str) -> str:
    return net.op("Concat", x, net.op("Neg", x), axis=-1)


def _prelu(net: Net, x: str) -> str:
    return net.op("PRelu", x, net.const(net.normal(CHANNELS, 1)))


TWINS: dict[str, Callable[[Net, str], str]] = {
    "residual": lambda net, x: net.op("Add", net.op("Relu", deep(net, x, 3)), x),
    "pointwise": lambda net, x: net.conv(x, CHANNELS, (1,)),
    "strided": lambda net, x: net.conv(x, CHANNELS, (5,), strides=[2], pads=[1, 3]),
    "dilated": lambda net, x: net.conv(x, CHANNELS, (3,), dilations=[5], pads=[4, 6], group=2),
    "same_upper": lambda net, x: net.conv(x, CHANNELS, (4,), strides=[3], auto_pad="SAME_UPPER"),
    "same_lower": lambda net, x: net.conv(x, CHANNELS, (4,), auto_pad="SAME_LOWER", bias=False),
    "valid": lambda net, x: net.conv(x, CHANNELS, (4,), auto_pad="VALID"),
    "transposed": lambda net, x: net.conv(
        x, CHANNELS, (4,), transpose=True, strides=[3], pads=[1, 0], output_padding=[2]
    ),
    "maxima": lambda net, x: net.op("MaxPool", x, kernel_shape=[3], strides=[2], pads=[1, 0]),
    "hanging": lambda net, x: net.op("MaxPool", x, kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1),
    "means": lambda net, x: net.op("AveragePool", x, kernel_shape=[4], pads=[1, 2], count_include_pad=1),
    "counted": lambda net, x: net.op("AveragePool", x, kernel_shape=[4], strides=[2], auto_pad="SAME_UPPER"),
    "norms": lambda net, x: net.op("LpPool", x, kernel_shape=[3], p=2),
    "normalised": lambda net, x: net.bn(x),
    "instance": lambda net, x: net.op(
        "InstanceNormalization", x, *(net.const(net.normal(CHANNELS)) for _ in range(2))
    ),
    "gated": _gated,
    "split": _glu,
    "mean": _mean,
    "channels": _concat,
    "along": _along,
    "slopes": _prelu,
    "number": lambda net, x: net.affine("Sub", x, 2.5, first=True),
    "per_channel": lambda net, x: net.affine("Div", x, net.per_channel(CHANNELS, 1)),
    "of_two_axes": lambda net, x: net.affine("Mul", x, net.normal(CHANNELS, 1)),
    "whole": lambda net, x: net.affine("Add", x, net.normal(1, CHANNELS, 1)),
    "power": lambda net, x: net.affine("Pow", net.op("Abs", x), 1.5),
    "sum": lambda net, x: net.op("Sum", x, net.op("Tanh", x), net.op("Relu", x)),
    "larger": lambda net, x: net.op("Max", x, net.const(net.normal(CHANNELS, 1)), net.const(0.1)),
    "leaky": lambda net, x: net.op("LeakyRelu", x, alpha=0.2),
    "idle": lambda net, x: net.op("Dropout", net.op("Identity", x)),
    "padded": lambda net, x: net.pad(x, (0, 0, 2, 0, 0, 1), 0.5),
    "mirrored": lambda net, x: net.pad(x, (0, 0, 4, 0, 0, 3), mode="reflect"),
    "held": lambda net, x: net.pad(x, (0, 0, 4, 0, 0, 3), mode="edge"),
    "cropped": lambda net, x: net.pad(x, (0, 0, -1, 0, 0, 2)),
    "sliced": lambda net, x: _slice(net, x, 1, -2, 2),
    "from_behind": lambda net, x: _slice(net, x, 2, 2**31 - 1, -1),
}


@pytest.mark.parametrize("opset", [8, 13, NEWEST_OPSET])
@pytest.mark.parametrize("name", [name for name in TWINS if name != "hanging"])
def test_the_twin_computes_the_same_at_every_size(name: str, opset: int) -> None:
    before = chain(TWINS[name], opset)
    result, after = lifted(before)
    assert ranks(after) == {4}
    assert kinds(after) == kinds(before) + Counter(["Squeeze", "Unsqueeze"])
    assert result.report.after.macs == counted_macs(after, make_feeds(after, {"N": 1, "L": LENGTH}))
    assert result.report.after.weight_bytes <= result.report.before.weight_bytes + 200


@pytest.mark.parametrize("opset", [10, 17])
def test_a_pooling_whose_last_window_hangs_over(opset: int) -> None:
    assert ranks(lifted(chain(TWINS["hanging"], opset))[1]) == {4}


@pytest.mark.parametrize("name", ["transposed", "means", "mean", "hanging", "sliced", "mirrored"])
def test_small_and_empty_maps(name: str) -> None:
    before = chain(TWINS[name])
    after = lifted(before)[1]
    sizes = [{"N": n, "L": length} for n in (0, 1, 2) for length in (1, 2, 3, 5, 17)]
    assert compare_at_sizes(before, after, sizes)


# ---------------------------------------------------------------- the region


def test_the_whole_pipeline_leaves_nothing_for_a_second_run() -> None:
    before = chain(lambda net, x: net.op("Add", net.op("Relu", net.bn(deep(net, x, 33))), x))
    result, after = lifted(before, only=[])
    assert [item.candidate.rewrite for item in result.report.applied] == ["fold_affine", "lift_conv1d"]
    assert not graphopt.optimize(after, shapes={"x": [1, CHANNELS, LENGTH]}).report.changed


def test_operators_keep_their_names_and_tell_where_they_came_from() -> None:
    before = chain(TWINS["residual"])
    after = lifted(before)[1]
    names = {node.name: {p.key: p.value for p in node.metadata_props} for node in after.graph.node}
    for node in before.graph.node:
        assert names[node.name]["graphopt.from"] == node.name
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]


def test_values_that_others_read_leave_with_their_three_axes() -> None:
    net = Net()
    x = net.input(["N", CHANNELS, "L"])
    inner = net.op("Relu", deep(net, x))
    turned = net.op("Transpose", inner, perm=[0, 2, 1])
    after = lifted(net.model(deep(net, inner), inner, turned))[1]
    assert kinds(after)["Squeeze"] == 2 and kinds(after)["Unsqueeze"] == 1


def test_a_way_out_of_the_region_and_back_into_it() -> None:
    net = Net()
    y = deep(net, net.input(["N", CHANNELS, "L"]))
    mixed = net.matmul(net.op("Transpose", y, perm=[0, 2, 1]), CHANNELS, CHANNELS)
    back = net.op("Transpose", net.op("Softmax", mixed, axis=-1), perm=[0, 2, 1])
    after = lifted(net.model(deep(net, net.op("Mul", y, back))))[1]
    assert ranks(after) == {4}
    assert kinds(after)["Squeeze"] == kinds(after)["Unsqueeze"] == 2


def test_a_region_in_a_body_and_one_that_it_reads() -> None:
    net = Net()
    y = deep(net, net.input(["N", CHANNELS, "L"]))
    before = net.model(net.choose(lambda inner: deep(inner, inner.op("Relu", y))))
    result, _ = lifted(before)
    assert len(result.report.applied) == 3


def test_shared_weights_are_written_once() -> None:
    net = Net()
    y, weight = net.input(["N", CHANNELS, "L"]), net.const(net.weights(CHANNELS, 1, 31))
    for _ in range(2):
        y = net.op("Relu", deep(net, y, weight=weight))
    result, after = lifted(net.model(y))
    assert [len(tensor.dims) for tensor in after.graph.initializer].count(4) == 1
    assert result.report.after.params == result.report.before.params


def test_a_fused_kernel_stays_whole() -> None:
    def gelu(net: Net, x: str) -> str:
        erf = net.op("Erf", net.affine("Div", x, np.sqrt(2)))
        return net.affine("Mul", net.op("Mul", x, net.affine("Add", erf, 1.0)), 0.5)

    def over_channels(net: Net, x: str) -> str:
        """A LayerNormalization in pieces, whose means have no twin here."""
        x = net.op("Transpose", x, perm=[0, 2, 1])
        gap = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
        square = net.op("ReduceMean", net.affine("Pow", gap, 2.0), axes=[-1])
        y = net.op("Div", gap, net.op("Sqrt", net.affine("Add", square, 1e-5)))
        y = net.affine("Add", net.affine("Mul", y, net.normal(CHANNELS)), net.normal(CHANNELS))
        return net.op("Transpose", y, perm=[0, 2, 1])

    assert kinds(lifted(chain(gelu))[1])["Squeeze"] == 1
    assert kinds(lifted(chain(over_channels))[1])["Squeeze"] == 2


def test_the_parts_that_gain_are_lifted_where_the_whole_does_not() -> None:
    """The depthwise convolution of a Conformer, between narrow pointwise ones."""
    net = Net()
    y = net.op("Relu", deep(net, _glu(net, net.input(["N", CHANNELS, "L"])), 15))
    before = net.model(net.conv(y, CHANNELS, (1,)))
    after = lifted(before)[1]
    assert ranks(after) == {3, 4}
    options = {"shapes": {"x": [1, CHANNELS, LENGTH]}, "only": ["lift_conv1d"]}
    assert not graphopt.optimize(after, **options).report.changed


# ---------------------------------------------------------------- what stays


def refused(before: onnx.ModelProto, **options: Any) -> str:
    """The reasons against lifting."""
    result = graphopt.optimize(before, **{"only": ["lift_conv1d"], **options})
    assert not result.report.changed
    return "; ".join(item.reason for item in result.report.rejected)


def test_long_kernels_on_short_lines_stay() -> None:
    net = Net()
    y = net.input([1, 32, 64])
    for _ in range(3):
        y = net.op("Relu", net.conv(y, 32, (63,), pads=[31, 31]))
    assert "with one row it is not expected to be clearly faster" in refused(net.model(y))


def test_one_pointwise_convolution_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 256, 400]), 256, (1,))
    assert "with one row it is not expected to be clearly faster" in refused(net.model(y))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_stay(dtype: Any) -> None:
    net = Net(dtype=dtype)
    before = net.model(deep(net, net.input([1, CHANNELS, LENGTH])))
    assert f"its weights are {np.dtype(dtype)}" in refused(before)


def test_weights_that_are_no_constants_stay() -> None:
    net = Net()
    x = net.input([1, CHANNELS, LENGTH])
    computed = net.conv(x, CHANNELS, weight=net.input([CHANNELS, 1, 31], "w"), group=CHANNELS)
    weight = net.const(net.weights(CHANNELS, 1, 31), overridable=True)
    given = net.conv(x, CHANNELS, weight=weight, group=CHANNELS)
    reasons = refused(net.model(computed, given))
    assert "is computed at run time" in reasons and "a caller may override" in reasons


def test_quantised_regions_stay() -> None:
    net = Net()
    before = net.model(deep(net, net.quantised(net.input([1, CHANNELS, LENGTH]))))
    assert "quantised region" in refused(before)


@pytest.mark.parametrize("attrs", [{"axes": [1]}, {"axes": [2], "keepdims": 0}])
def test_operators_without_a_twin_end_the_region(attrs: dict[str, Any]) -> None:
    net = Net()
    y = net.op("ReduceMax", deep(net, net.input(["N", CHANNELS, "L"])), **attrs)
    after = lifted(net.model(y))[1]
    assert after.graph.node[-2].op_type == ("Squeeze" if "keepdims" in attrs else "ReduceMax")


def test_indices_of_maxima_end_the_region() -> None:
    net = Net()
    y = net.op("MaxPool", deep(net, net.input(["N", CHANNELS, "L"])), kernel_shape=[2], outputs=2)
    places = net.op("Cast", f"{y}_1", to=onnx.TensorProto.FLOAT)
    after = lifted(net.model(y, places))[1]
    assert after.graph.node[-3].op_type == "Squeeze"


def test_amounts_that_are_computed_end_the_region() -> None:
    net = Net()
    y = deep(net, net.input(["N", CHANNELS, "L"]))
    after = lifted(net.model(net.op("Pad", y, net.input([6], "pads", onnx.TensorProto.INT64))))[1]
    assert after.graph.node[-2].op_type == "Squeeze"


def test_the_aim_macs_leaves_it() -> None:
    before = chain(TWINS["residual"])
    assert not graphopt.optimize(before, aim="macs", shapes={"x": [1, CHANNELS, LENGTH]}).report.changed
