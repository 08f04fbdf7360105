"""pool_first: an average moves in front of the convolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from tests.builders import NEWEST_OPSET, OLD_RUNTIME, Net, alone, check, compare_at_sizes, grid
from tests.places import LIGHT

checked = partial(alone, "pool_first")
left_alone = partial(checked, number=0)


def pooled(
    kernel: Sequence[int] = (1, 1),
    pool: str = "AveragePool",
    *,
    opset: int = 17,
    dtype: Any = np.float32,
    shape: Sequence[Any] = (1, 8, 12, 12),
    bias: bool = True,
    conv: dict[str, Any] | None = None,
    between: str = "",
    **attrs: Any,
) -> onnx.ModelProto:
    net = Net(opset, dtype)
    y = net.conv(net.input(shape), 6, kernel, bias=bias, **(conv or {}))
    if between == "affine":
        for kind in ("Mul", "Add"):
            y = net.affine(kind, y, net.per_channel(6, len(kernel)))
    elif between:
        y = net.op(between, y)
    return net.model(net.op(pool, y, **attrs))


DENSENET = LIGHT / "light_densenet121.onnx"
WINDOW = {"kernel_shape": [2, 2], "strides": [2, 2]}
OPEN = ("n", 8, "h", "w")


@pytest.mark.parametrize("opset", [7, 11, 17, 22])
def test_pointwise_then_window(opset: int) -> None:
    """A quarter of the positions, a quarter of the MACs; one operator for one."""
    done = checked(pooled(opset=opset, **WINDOW), macs_after=6 * 8 * 36)
    assert [node.op_type for node in done.after.graph.node] == ["AveragePool", "Conv"]


@pytest.mark.parametrize("between", ["Identity", "affine", "Neg"])
def test_through_what_is_affine(between: str) -> None:
    checked(pooled(between=between, **WINDOW), macs_after=6 * 8 * 36)


@pytest.mark.parametrize(
    ("attrs", "outputs"),
    [
        ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 36),
        ({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, 36),
        ({"kernel_shape": [3, 3], "strides": [5, 5], "ceil_mode": 1}, 9),
        ({"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}, 24),
    ],
)
def test_pads_of_the_window(attrs: dict[str, Any], outputs: int) -> None:
    """Where padding does not count the bias passes; where it counts the border gets less of it."""
    done = checked(pooled(**attrs), applied=None)
    if attrs.get("ceil_mode"):
        assert done.refused("pool_first", "on padding alone")
    else:
        assert done.macs_after == 6 * 8 * outputs
    checked(pooled(bias=False, **attrs))


COUNTED: dict[str, dict[str, Any]] = {
    "pads": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "one side": {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 0, 0]},
    "auto_pad": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "ceil_mode": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    "none": WINDOW,
}


@pytest.mark.parametrize("conv", [{}, {"strides": [2, 2]}])
@pytest.mark.parametrize("opset", [10, 17, NEWEST_OPSET])
@pytest.mark.parametrize("window", COUNTED)
def test_counted_padding_at_open_sizes(window: str, opset: int, conv: dict[str, Any]) -> None:
    """What lands of each window is the average of ones; a window larger than the map hangs over it too."""
    attrs = {**COUNTED[window], "count_include_pad": 1}
    model = pooled(shape=OPEN, opset=opset, conv=conv, **attrs)
    done = checked(model, sizes={"h": 9, "w": 12})
    assert done.ops["Conv"] == 1 and done.ops["AveragePool"] == 2
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) >= 36


def test_counted_padding_at_open_sizes_needs_expand() -> None:
    attrs = {**COUNTED["pads"], "count_include_pad": 1}
    sizes = {"h": 9, "w": 12}
    left_alone(pooled(shape=OPEN, opset=7, **attrs), sizes=sizes, because=("opset 7 has no Expand",))
    checked(pooled(shape=OPEN, opset=7, bias=False, **attrs), sizes=sizes)


@pytest.mark.parametrize("conv", [{}, {"strides": [2, 2]}, {"group": 2}])
@pytest.mark.parametrize(
    ("pool", "attrs"),
    [
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"axes": [2, 3]}),
        ("ReduceMean", {"axes": [-1], "keepdims": 0}),
        ("ReduceMean", {"axes": [0, 2, 3], "keepdims": 0}),
    ],
)
def test_pointwise_then_whole_axes(pool: str, attrs: dict[str, Any], conv: dict[str, Any]) -> None:
    checked(pooled(pool=pool, conv=conv, shape=(2, 8, "h", 7), **attrs), sizes={"h": 9})


def test_axes_as_an_input() -> None:
    """ReduceMean from opset 18."""
    net = Net(18)
    y = net.conv(net.input([1, 8, 5, 6]), 6, (1, 1))
    checked(
        net.model(net.op("ReduceMean", y, net.const(np.array([2, 3], np.int64)), keepdims=0)),
        macs_after=48,
    )


def test_sum_without_bias() -> None:
    """A sum would count the bias once a position."""
    for bias in (False, True):
        net = Net(12)
        y = net.conv(net.input([1, 8, 5, 6]), 6, (1, 1), bias=bias)
        done = checked(net.model(net.op("ReduceSum", y, axes=[2, 3])), applied=None)
        assert done.refused("pool_first", "counts the bias") if bias else done.macs_after == 48


@pytest.mark.parametrize("pads", [[0] * 4, [1] * 4, [0, 1, 2, 1]])
@pytest.mark.parametrize("strides", [[2, 2], [1, 3]])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 2]])
def test_taps_then_window(pads: list[int], strides: list[int], dilations: list[int]) -> None:
    """An average at stride 1, then the convolution with the pooling's stride: nine taps, not sixteen."""
    if OLD_RUNTIME and max(pads) > 1:
        pytest.skip("onnxruntime before 1.24 refuses a pooling whose pads are as wide as its window")
    done = checked(
        pooled((3, 3), conv={"pads": pads, "dilations": dilations}, kernel_shape=[2, 2], strides=strides),
    )
    output = done.after.graph.output[0].type.tensor_type.shape.dim
    assert done.macs_after == 9 * 8 * 6 * output[2].dim_value * output[3].dim_value


def test_strided_taps_then_window() -> None:
    """The average then skips positions, which AveragePool can from opset 19."""
    model = pooled((3, 3), opset=19, shape=(1, 8, 17, 17), conv={"strides": [2, 2]}, **WINDOW)
    checked(model)
    model = pooled((3, 3), shape=(1, 8, 17, 17), conv={"strides": [2, 2]}, **WINDOW)
    left_alone(model, because=("from opset 19",))


@pytest.mark.parametrize("size", [(7, 7), ("h", "w")])
@pytest.mark.parametrize("conv", [{}, {"pads": [1, 1, 1, 1]}, {"pads": [2, 1, 0, 1], "strides": [2, 1]}])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_taps_then_whole_axes(pool: str, conv: dict[str, Any], size: tuple[Any, Any]) -> None:
    """One mean a tap, at static sizes by AveragePool, else by slices."""
    attrs = {"axes": [2, 3], "keepdims": 0} if pool == "ReduceMean" else {}
    done = checked(pooled((3, 3), pool, conv=conv, shape=("n", 8, *size), **attrs), sizes={"h": 7, "w": 9})
    assert done.macs_after == 9 * 8 * 6


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_axes(axes: int) -> None:
    shape = (1, 8, *(6, 7, 5)[:axes])
    checked(
        pooled((1,) * axes, kernel_shape=[2] * axes, strides=[2] * axes, shape=shape),
    )
    checked(pooled((3,) * axes, "GlobalAveragePool", shape=shape))


def test_half_precision() -> None:
    checked(pooled((3, 3), "GlobalAveragePool", dtype=np.float16))


def test_product_with_a_matrix() -> None:
    """A mean over tokens in front of the product."""
    net = Net()
    y = net.matmul(net.input([2, 9, 8]), 8, 6)
    checked(
        net.model(net.op("ReduceMean", y, axes=[1], keepdims=0)),
        macs_after=96,
    )


# ---------------------------------------------------------------- traps


def test_a_maximum_stays() -> None:
    left_alone(pooled(pool="MaxPool", **WINDOW))


def test_a_relu_in_between_stays() -> None:
    left_alone(pooled(between="Relu", **WINDOW))


def test_pads_behind_taps_stay() -> None:
    """Beyond the convolution's output the pooling reads zeros, the convolution would not give zero."""
    model = pooled((3, 3), conv={"pads": [1] * 4}, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    left_alone(model, because=("beyond the convolution's output",))


def test_a_mean_over_the_channels_stays() -> None:
    left_alone(pooled(pool="ReduceMean", axes=[1, 2, 3]), because=("over the channels",))


def test_another_reader_keeps_the_convolution() -> None:
    """Pooling first would come on top."""
    net = Net()
    y = net.conv(net.input([1, 8, 12, 12]), 6, (1, 1))
    left_alone(net.model(net.op("AveragePool", y, **WINDOW), net.op("Relu", y)), because=("not less than",))


def test_no_fewer_positions_no_change() -> None:
    left_alone(pooled(kernel_shape=[1, 1], strides=[1, 1]))


# ---------------------------------------------------------------- weights that are no constants


@pytest.mark.skipif(not DENSENET.exists(), reason="this onnx wheel has no light models")
def test_densenet_transitions() -> None:
    """Weights from ConstantOfShape; 2.834 G MACs become 2.603 G."""
    result = graphopt.optimize(DENSENET, aim="macs", only=["pool_first"])
    assert result.report.before.macs == 2_834_161_664
    assert result.report.after.macs == 2_602_950_656
    assert [item.candidate.rewrite for item in result.report.applied] == ["pool_first"] * 3


def test_all_rewrites_together() -> None:
    done = check(pooled(between="affine", **WINDOW))
    assert done.macs_after == 6 * 8 * 36 and done.ops["Mul"] == done.ops["Add"] == 0


# ---------------------------------------------------------------- maps of a few pixels


@pytest.mark.parametrize(
    ("kernel", "attrs", "reason"),
    [
        ((3, 3), {**WINDOW, "conv": {"pads": [1] * 4}}, "smaller than its window"),
        ((1, 1), {"kernel_shape": [3, 3]}, "leaves no pixel"),
    ],
    ids=["the rest hangs over", "no output"],
)
def test_windows_larger_than_the_map(kernel: Any, attrs: dict[str, Any], reason: str) -> None:
    """onnxruntime lets a window hang over by less than a stride; one that is larger makes an empty map."""
    model = pooled(kernel, shape=OPEN, **attrs)
    done = left_alone(model, sizes={"h": 9, "w": 9}, because=(reason,))
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) >= 36


@pytest.mark.parametrize(
    ("kernel", "attrs"),
    [
        ((3, 3), {**WINDOW, "conv": {"pads": [2] * 4}}),
        ((1, 1), WINDOW),
        ((1, 1), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ((3, 3), {"pool": "GlobalAveragePool", "conv": {"pads": [1] * 4}}),
    ],
    ids=["the map is never smaller", "a mean of what is there", "padding makes up for it", "the whole map"],
)
def test_every_size_at_which_the_original_runs(kernel: Any, attrs: dict[str, Any]) -> None:
    done = checked(pooled(kernel, shape=OPEN, **attrs), sizes={"h": 9, "w": 9})
    assert compare_at_sizes(done.before, done.after, grid("h", "w")) == 49


def test_what_is_read_behind_tells_how_small_a_map_can_be() -> None:
    """A 3x3 without padding behind a pooling needs 6 pixels in front of it: no window hangs over."""
    net = Net()
    y = net.op("AveragePool", net.conv(net.input(OPEN), 6, pads=[1] * 4), **WINDOW)
    done = checked(net, net.conv(net.op("Relu", y), 4), sizes={"h": 9, "w": 9})
    assert compare_at_sizes(done.before, done.after, grid("h", "w", sizes=(1, 4, 5, 6, 7))) == 4


@pytest.mark.parametrize(("size", "stays"), [(14, True), (28, True), (56, False)])
def test_many_small_operators_are_no_saving_of_time(size: int, stays: bool) -> None:
    """A strided convolution in front of a global pooling: 20 operators with 3 % of its MACs."""
    conv = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    net = Net()
    y = net.op("GlobalAveragePool", net.conv(net.input([1, 16, size, size]), 32, (3, 3), **conv))
    proto = net.model(y)
    by_time, by_macs = (graphopt.optimize(proto, aim=aim) for aim in ("time", "macs"))
    assert "pool_first" in [item.candidate.rewrite for item in by_macs.report.applied]
    assert bool(by_time.report.applied) is not stays
    if stays:
        (left,) = (left for left in by_time.report.declined if left.rewrite == "pool_first")
        assert left.reason.startswith("expected to be slower")


@pytest.mark.parametrize("shrink", [1, 4])
def test_an_open_size_has_to_pay_on_a_small_map_too(shrink: int) -> None:
    """A large map pays for the many operators; nobody says that this one will be."""
    net = Net()
    x = net.input(["N", 16, "H", "W"])
    if shrink > 1:
        x = net.op("AveragePool", x, kernel_shape=[shrink] * 2, strides=[shrink] * 2)
    y = net.op("GlobalAveragePool", net.conv(x, 32, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
    proto = net.model(y)
    given = {size * shrink: {"x": (1, 16, size * shrink, size * shrink)} for size in (16, 56)}
    small, large, open_ = (
        graphopt.optimize(proto, shapes=shapes).report for shapes in (*given.values(), None)
    )
    taken = [[item.candidate.rewrite for item in each.applied] for each in (small, large, open_)]
    assert ["pool_first" in names for names in taken] == [False, True, False]
    (left,) = (left for left in open_.declined if left.rewrite == "pool_first")
    assert "expected to be slower" in left.reason and "the aim macs takes it" in left.reason


def test_a_wide_convolution_pays_on_a_small_map() -> None:
    net = Net()
    conv = net.conv(net.input(["N", 256, "H", "W"]), 512, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    report = graphopt.optimize(net.model(net.op("GlobalAveragePool", conv))).report
    assert [item.candidate.rewrite for item in report.applied] == ["pool_first"]
