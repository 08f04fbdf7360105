"""Regions of three-dimensional convolutions as regions of a tensor a frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import graphopt
from models.architectures import r3d_18
from tests.builders import NEWEST_OPSET, Net, compare_outputs, counted_macs, initializers, make_feeds

CHANNELS = 32
FRAMES = 4
SIZE = 14
SIZES = (FRAMES, SIZE, SIZE)


def whole(net: Net, x: str, out: int = CHANNELS, **attrs: Any) -> str:
    """A convolution of 3x3x3 that keeps the sizes: with a tensor a frame it takes a fraction of its time."""
    return net.conv(x, out, (3, 3, 3), **{"pads": [1] * 6, **attrs})


def chain(add: Callable[[Net, str], str], opset: int = 17, sizes: Any = SIZES) -> onnx.ModelProto:
    """Operators behind a convolution, at an open batch."""
    net = Net(opset)
    return net.model(add(net, whole(net, net.input(["N", CHANNELS, *sizes]))))


def split(before: onnx.ModelProto, **options: Any) -> tuple[graphopt.Result, onnx.ModelProto]:
    """The model, optimized, and compared at several batches."""
    result = graphopt.optimize(before, **{"only": ["split_frames"], **options})
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    compare_outputs(before, after, [make_feeds(before, {"N": n}) for n in (1, 3)])
    return result, after


def kinds(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def ranks(proto: onnx.ModelProto) -> set[int]:
    """Those of the convolutions' weights."""
    weights = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    return {weights[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"}


def _gated(net: Net, x: str) -> str:
    means = net.op("GlobalAveragePool", x)
    return net.op("Mul", x, net.op("Sigmoid", net.conv(means, CHANNELS, (1, 1, 1))))


def _mean(net: Net, x: str) -> str:
    x = net.op("Relu", whole(net, net.op("Relu", x)))
    if net.opset < 18:
        return net.op("ReduceMean", x, axes=[-3, -2, -1])
    return net.op("ReduceMean", x, net.const(np.array([2, 3, 4])), keepdims=1)


def _clip(net: Net, x: str) -> str:
    if net.opset < 11:
        return net.op("Clip", x, min=-0.5, max=1.0)
    return net.op("Clip", x, net.const(np.array(-0.5)), net.const(np.array(1.0)))


def _windows(kind: str, **attrs: Any) -> Callable[[Net, str], str]:
    return lambda net, x: net.op(kind, x, **attrs)


def _conv(*taps: int, out: int = CHANNELS, **attrs: Any) -> Callable[[Net, str], str]:
    return lambda net, x: net.conv(x, out, taps, **attrs)


FORMS: dict[str, Callable[[Net, str], str]] = {
    "residual": lambda net, x: net.op("Relu", net.op("Add", whole(net, net.op("Relu", x)), x)),
    "residual_of_two": lambda net, x: net.op("Add", whole(net, x), _conv(1, 1, 1)(net, net.op("Relu", x))),
    "doubled": lambda net, x: net.op("Add", x, x),
    "within_frames": _conv(1, 3, 3, pads=[0, 1, 2] * 2),
    "along_time": _conv(3, 1, 1, pads=[1, 0, 0] * 2, bias=False),
    "pointwise": _conv(1, 1, 1),
    "strided": _conv(3, 3, 3, strides=[2, 2, 1], pads=[1, 1, 1, 0, 1, 2]),
    "shortcut": _conv(1, 1, 1, strides=[2, 2, 2]),
    "dilated": _conv(2, 3, 3, dilations=[3, 2, 1], pads=[1, 2, 1, 0, 1, 1]),
    "grouped": _conv(3, 3, 3, group=2, pads=[0, 1, 1, 2, 1, 1]),
    "depthwise": _conv(3, 3, 3, group=CHANNELS, pads=[1] * 6),
    "same_upper": _conv(4, 3, 4, strides=[3, 2, 2], auto_pad="SAME_UPPER"),
    "same_lower": _conv(4, 3, 4, auto_pad="SAME_LOWER", bias=False),
    "valid": _conv(2, 3, 3, auto_pad="VALID"),
    "padded_far": _conv(3, 3, 3, pads=[2, 1, 1, 2, 1, 1]),
    "normalised": lambda net, x: net.op("Relu", net.bn(x)),
    "maxima": _windows("MaxPool", kernel_shape=[1, 3, 3], strides=[2, 2, 2], pads=[0, 1, 1] * 2),
    "hanging": _windows("MaxPool", kernel_shape=[1, 3, 3], strides=[1, 2, 2], ceil_mode=1),
    "same_maxima": _windows("MaxPool", kernel_shape=[1, 3, 3], strides=[1, 2, 2], auto_pad="SAME_LOWER"),
    "maxima_in_time": _windows("MaxPool", kernel_shape=[3, 2, 2], strides=[1, 2, 2], pads=[1, 0, 0] * 2),
    "means": _windows("AveragePool", kernel_shape=[1, 2, 2], pads=[0, 1, 1] * 2, count_include_pad=1),
    "means_in_time": _windows("AveragePool", kernel_shape=[2, 3, 3], strides=[2, 1, 1], pads=[0, 1, 1] * 2),
    "norms": _windows("LpPool", kernel_shape=[1, 3, 3], p=2),
    "mean_of_all": lambda net, x: net.op("GlobalAveragePool", x),
    "maximum_of_all": lambda net, x: net.op("GlobalMaxPool", x),
    "reduced": _mean,
    "gated": _gated,
    "channels": lambda net, x: net.op("Concat", net.op("Relu", x), x, axis=1),
    "slopes": lambda net, x: net.op("PRelu", x, net.const(net.normal(CHANNELS, 1, 1, 1))),
    "number": lambda net, x: net.affine("Sub", x, 2.5, first=True),
    "per_channel": lambda net, x: net.affine("Div", x, net.per_channel(CHANNELS, 3)),
    "per_place": lambda net, x: net.affine("Mul", x, net.normal(SIZE, SIZE)),
    "sum": lambda net, x: net.op("Sum", x, net.op("Tanh", x), net.op("Relu", x)),
    "larger": lambda net, x: net.op("Max", x, net.op("Neg", x)),
    "clipped": _clip,
    "leaky": lambda net, x: net.op("LeakyRelu", x, alpha=0.2),
    "idle": lambda net, x: net.op("Dropout", net.op("Identity", x)),
}


@pytest.mark.parametrize("opset", [8, 13, NEWEST_OPSET])
@pytest.mark.parametrize("name", [name for name in FORMS if name != "hanging"])
def test_frames_compute_the_same_at_every_batch(name: str, opset: int) -> None:
    before = chain(FORMS[name], opset)
    result, after = split(before)
    assert ranks(after) == {4}
    assert kinds(after)["Gather"] == FRAMES
    assert result.report.after.macs == counted_macs(after, make_feeds(after, {"N": 1}))
    (applied,) = result.report.applied
    assert applied.candidate.macs_after == result.report.after.macs
    assert result.report.after.weight_bytes <= result.report.before.weight_bytes + 200


def test_a_pooling_whose_last_window_hangs_over() -> None:
    assert ranks(split(chain(FORMS["hanging"]))[1]) == {4}


@pytest.mark.parametrize("sizes", [(1, 9, 16), (2, 13, 1), (FRAMES, 1, 28)])
@pytest.mark.parametrize("name", ["residual", "gated", "along_time", "maxima_in_time"])
def test_few_frames_and_narrow_ones(name: str, sizes: tuple[int, int, int]) -> None:
    before = chain(FORMS[name] if sizes[-1] > 1 or name != "maxima_in_time" else whole, sizes=sizes)
    split(before, only=["split_frames", "fold_affine"])


# ---------------------------------------------------------------- the region


def test_kernels_are_stored_once_a_tap_and_those_on_zero_frames_alone_are_left_out() -> None:
    net = Net()
    x = net.input([1, CHANNELS, 2, SIZE, SIZE])
    weight = net.const(net.weights(CHANNELS, CHANNELS, 5, 3, 3))
    pads = [2, 1, 1] * 2
    y = net.op("Relu", net.conv(x, CHANNELS, weight=weight, pads=pads))
    before = net.model(net.conv(y, CHANNELS, weight=weight, pads=pads))
    result, after = split(before)
    assert kinds(after)["Conv"] == 8
    kernels = [array for array in initializers(after).values() if array.ndim == 4]
    assert len(kernels) == 3
    assert result.report.after.params == result.report.before.params - 2 * kernels[0].size


def test_sums_and_activations_are_computed_within_the_blocked_kernels(tmp_path: Any) -> None:
    after = split(chain(FORMS["residual"]))[1]
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(after.SerializeToString(), options)
    found = kinds(onnx.load(tmp_path / "optimized.onnx"))
    assert found["Add"] == 0 and found["Relu"] <= FRAMES
    assert found["ReorderInput"] == found["ReorderOutput"] == FRAMES


def test_the_whole_pipeline_leaves_nothing_for_a_second_run() -> None:
    before = r3d_18(4, 32, 16)
    result, after = split(before, only=[])
    counts = Counter(item.candidate.rewrite for item in result.report.applied)
    assert counts["fold_affine"] == 20 and counts["split_frames"] == 1
    assert ranks(after) == {4} and kinds(after)["Concat"] == 0
    assert not graphopt.optimize(after).report.changed


def test_an_approximate_plan_sees_the_convolutions() -> None:
    before = chain(FORMS["residual"], sizes=(2, SIZE, SIZE))
    result = graphopt.optimize(before, budget={"macs": 0.8})
    names = [item.candidate.rewrite for item in result.report.applied]
    assert names[-1] == "split_frames" and len(names) > 1


def test_values_that_others_read_leave_with_all_their_frames() -> None:
    net = Net()
    inner = net.op("Relu", whole(net, net.input(["N", CHANNELS, *SIZES])))
    turned = net.op("Transpose", inner, perm=[0, 2, 1, 3, 4])
    after = split(net.model(whole(net, inner), inner, turned))[1]
    assert kinds(after)["Concat"] == 2 and kinds(after)["Gather"] == FRAMES


def test_what_nobody_reads_ends_the_region() -> None:
    net = Net()
    inner = whole(net, net.input(["N", CHANNELS, *SIZES]))
    net.op("Sub", inner, inner)
    after = split(net.model(whole(net, inner)))[1]
    assert ranks(after) == {4}


def test_a_region_in_a_body_and_one_that_it_reads() -> None:
    net = Net()
    y = whole(net, net.input(["N", CHANNELS, *SIZES]))
    before = net.model(net.choose(lambda inner: whole(inner, inner.op("Relu", y))))
    assert len(split(before)[0].report.applied) == 3


def test_the_parts_that_gain_are_split_where_the_whole_does_not() -> None:
    net = Net()
    y = net.op("Relu", whole(net, net.input([1, CHANNELS, *SIZES])))
    for _ in range(12):
        y = net.op("Relu", net.conv(y, 20, (1, 1, 1)))
    after = split(net.model(y))[1]
    assert ranks(after) == {4, 5}
    assert not graphopt.optimize(after, only=["split_frames"]).report.changed


# ---------------------------------------------------------------- what stays


def refused(before: onnx.ModelProto, **options: Any) -> str:
    """The reasons against frames."""
    result = graphopt.optimize(before, **{"only": ["split_frames"], **options})
    assert not result.report.changed
    return "; ".join(item.reason for item in result.report.rejected)


def test_small_convolutions_stay() -> None:
    net = Net()
    before = net.model(net.conv(net.input([1, CHANNELS, 4, 3, 3]), CHANNELS, (1, 1, 1)))
    assert "a tensor a frame is not expected to be clearly faster" in refused(before)


@pytest.mark.parametrize("sizes", [("T", SIZE, SIZE), (FRAMES, "H", SIZE), (33, SIZE, SIZE)])
def test_open_sizes_and_many_frames_stay(sizes: tuple[Any, ...]) -> None:
    net = Net()
    before = net.model(whole(net, net.input([1, CHANNELS, *sizes])))
    shape = [size if isinstance(size, int) else 16 for size in sizes]
    reasons = refused(before, shapes={"x": [1, CHANNELS, *shape]})
    assert "its frames are more than 32, or not as many and as large in every run" in reasons


def test_frames_that_read_zeros_alone_stay() -> None:
    net = Net()
    before = net.model(whole(net, net.input([1, CHANNELS, *SIZES]), pads=[3, 1, 1, 1, 1, 1]))
    assert "one of its frames reads zero frames alone" in refused(before)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_stay(dtype: Any) -> None:
    net = Net(dtype=dtype)
    assert f"its weights are {np.dtype(dtype)}" in refused(
        net.model(whole(net, net.input([1, CHANNELS, *SIZES])))
    )


def test_weights_that_are_no_constants_stay() -> None:
    net = Net()
    x, shape = net.input([1, CHANNELS, *SIZES]), (CHANNELS, CHANNELS, 3, 3, 3)
    computed = whole(net, x, weight=net.input(shape, "w"))
    given = whole(net, x, weight=net.const(net.weights(*shape), overridable=True))
    reasons = refused(net.model(computed, given))
    assert "is computed at run time" in reasons and "a caller may override" in reasons


def test_quantised_regions_stay() -> None:
    net = Net()
    before = net.model(whole(net, net.quantised(net.input([1, CHANNELS, *SIZES]))))
    assert "quantised region" in refused(before)


ENDS: dict[str, Callable[[Net, str], str]] = {
    "other_in_each_frame": lambda net, x: net.affine("Add", x, net.normal(FRAMES, 1, 1)),
    "counted_padding": _windows("AveragePool", kernel_shape=[3, 3, 3], pads=[1] * 6),
    "same_in_time": _windows("MaxPool", kernel_shape=[2, 2, 2], auto_pad="SAME_UPPER"),
    "norms_in_time": _windows("LpPool", kernel_shape=[2, 2, 2]),
    "along_channels": lambda net, x: net.op("ReduceMean", x, axes=[1]),
    "without_axes": lambda net, x: net.op("ReduceMean", x, axes=[2, 3, 4], keepdims=0),
    "in_a_row": lambda net, x: net.op("Concat", x, x, axis=2),
    "instance": lambda net, x: net.op(
        "InstanceNormalization", x, *(net.const(net.normal(CHANNELS)) for _ in range(2))
    ),
    "transposed": lambda net, x: net.conv(x, CHANNELS, (2, 2, 2), transpose=True, strides=[2, 2, 2]),
}


@pytest.mark.parametrize("name", ENDS)
def test_operators_without_a_form_on_frames_end_the_region(name: str) -> None:
    after = split(chain(ENDS[name]))[1]
    assert [node.op_type for node in after.graph.node][-2] == "Concat"


def test_indices_of_maxima_end_the_region() -> None:
    net = Net()
    y = net.op("MaxPool", whole(net, net.input(["N", CHANNELS, *SIZES])), kernel_shape=[1, 2, 2], outputs=2)
    after = split(net.model(y, net.op("Cast", f"{y}_1", to=onnx.TensorProto.FLOAT)))[1]
    assert after.graph.node[-3].op_type == "Concat"


def test_the_aim_macs_leaves_it() -> None:
    assert not graphopt.optimize(chain(FORMS["leaky"]), aim="macs").report.changed
