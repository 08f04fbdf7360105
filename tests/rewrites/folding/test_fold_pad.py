"""fold_pad: a zero Pad into the convolutions that read it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.folding.fold_pad import FoldPad
from graphopt.types import Rejection
from tests.builders import NEWEST_OPSET, OLD_RUNTIME, Checked, Net, alone, info

OPSETS = (7, 9, 11, 13, 17, 18, NEWEST_OPSET)
RING = (0, 0, 1, 1, 0, 0, 1, 1)


checked = partial(alone, "fold_pad")
left_alone = partial(checked, number=0)


def folded(net: Net, y: str, pads: list[int], **options: Any) -> Checked:
    """Checks a model whose only Pad folds into its only Conv."""
    result = checked(net, y, saves=False, **options)
    assert "Pad" not in result.ops
    assert result.attributes("Conv")["pads"] == pads
    return result


FORMS: dict[str, dict[str, Any]] = {
    "1d": {"shape": [2, 4, 9], "kernel": (3,), "amounts": (0, 0, 2, 0, 0, 1), "expected": [2, 1]},
    "2d": {"shape": [2, 4, 8, 9], "amounts": (0, 0, 1, 2, 0, 0, 3, 0), "expected": [1, 2, 3, 0]},
    "3d": {
        "shape": [1, 4, 5, 6, 7],
        "kernel": (3, 1, 3),
        "amounts": (0, 0, 1, 0, 1, 0, 0, 0, 2, 1),
        "expected": [1, 0, 1, 0, 2, 1],
    },
    "stride": {"strides": [2, 3]},
    "dilation": {"dilations": [2, 3]},
    "group": {"group": 2},
    "depthwise": {"shape": [1, 6, 8, 9], "group": 6},
    "no bias": {"bias": False},
    "empty bias": {"bias": ""},
    "valid": {"auto_pad": "VALID"},
    "pointwise": {"kernel": (1, 1)},
    "pads add up": {
        "kernel": (5, 5),
        "pads": [1, 0, 0, 2],
        "amounts": (0, 0, 1, 1, 0, 0, 0, 2),
        "expected": [2, 1, 0, 4],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_folds_into_every_form_of_convolution(form: str) -> None:
    usual = {"shape": [1, 4, 8, 9], "kernel": (3, 3), "amounts": RING, "expected": [1] * 4}
    options = {**usual, **FORMS[form]}
    shape, amounts, expected = (options.pop(key) for key in ("shape", "amounts", "expected"))
    net = Net()
    folded(net, net.conv(net.pad(net.input(shape), amounts), 6, **options), expected)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [None, 0.0])
def test_folds_at_every_opset_and_precision(opset: int, dtype: npt.DTypeLike, value: float | None) -> None:
    if OLD_RUNTIME and opset == 7 and dtype is np.float16:
        pytest.skip("onnxruntime before 1.24 has no Pad for float16 at opset 7")
    net = Net(opset, dtype)
    folded(net, net.conv(net.pad(net.input([2, 4, 8, 9]), RING, value, mode="constant"), 6), [1, 1, 1, 1])


def pad_axes(net: Net, x: str, amounts: list[int], axes: list[int], value: str = "") -> str:
    """A Pad of some axes (opset 18)."""
    return net.op("Pad", x, net.const(np.array(amounts)), value, net.const(np.array(axes)), name="pad")


@pytest.mark.parametrize("opset", [18, NEWEST_OPSET])
@pytest.mark.parametrize(
    ("amounts", "axes", "pads"),
    [
        ([1, 2, 3, 4], [2, 3], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [3, 2], [2, 1, 4, 3]),
        ([1, 2], [-1], [0, 1, 0, 2]),
        ([2, 1, 0, 0], [-2, 1], None),
        ([0, 1, 0, 1], [0, 2], [1, 0, 1, 0]),
    ],
)
def test_pads_of_some_axes(opset: int, amounts: list[int], axes: list[int], pads: list[int] | None) -> None:
    net = Net(opset)
    x = pad_axes(net, net.input([2, 4, 8, 9]), amounts, axes)
    net.channels[x] = 5 if pads is None else 4
    y = net.conv(x, 6)
    if pads is None:
        left_alone(net, y, because=("pad", "batch or the channels"))
    else:
        folded(net, y, pads)


def test_amounts_computed_from_constants_and_shapes() -> None:
    net = Net()
    x = net.input([2, 4, 8, 9])
    half = net.op("Concat", net.const(np.array([0, 0])), net.const(np.array([1, 2])), axis=0)
    amounts = net.op("Concat", half, half, axis=0)
    assert folded(net, net.conv(net.op("Pad", x, amounts, channels=4), 6), [1, 2, 1, 2]).ops == {"Conv": 1}


def test_amounts_in_a_constant_node_and_weights_behind_operators() -> None:
    net = Net(13)
    x = net.input([2, 4, 8, 9])
    y = net.op("Pad", x, net.constant_node(np.array(RING)), net.constant_node(np.array(0.0)), channels=4)
    weight = net.op("Transpose", net.const(net.weights(6, 4, 3, 3).transpose(1, 0, 2, 3)), perm=[1, 0, 2, 3])
    folded(net, net.conv(y, 6, weight=weight), [1, 1, 1, 1])


def test_a_pad_of_nothing_folds() -> None:
    net = Net()
    folded(net, net.conv(net.pad(net.input([2, 4, 8, 9]), [0] * 8), 6), [0, 0, 0, 0])


def test_two_pads_in_a_row() -> None:
    net = Net()
    y = net.pad(net.pad(net.input([2, 4, 8, 9]), RING), (0, 0, 0, 1, 0, 0, 1, 0))
    assert checked(net, net.conv(y, 6), number=2).attributes("Conv")["pads"] == [1, 2, 2, 1]


def test_two_convolutions_that_read_one_pad() -> None:
    net = Net()
    y = net.pad(net.input([2, 4, 8, 9]), RING)
    assert checked(net, net.conv(y, 6), net.conv(y, 5, (2, 3)), number=2).ops == {"Conv": 2}


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_shared_weights_stay_shared(between: bool, bias: bool) -> None:
    net = Net()
    x = net.input([2, 4, 8, 9])
    shared = {"weight": net.const(net.weights(4, 4, 3, 3)), "bias": bias}
    y = net.conv(net.pad(x, RING), 4, **shared)
    report = checked(net, net.conv(net.op("Relu", net.pad(y, RING) if between else y), 4, **shared)).report
    assert report.after.params == report.before.params


def test_pad_then_convolution_then_bn_all_fold() -> None:
    net = Net()
    y = net.bn(net.conv(net.pad(net.input(["N", 4, 8, 9]), RING), 6))
    both = {"fold_pad": 1, "fold_affine": 1}
    assert checked(net, y, applied=both, only=list(both)).ops == {"Conv": 1}


def test_open_height_and_width() -> None:
    net = Net()
    y = net.conv(net.pad(net.input(["N", 4, "H", "W"]), RING), 6)
    assert checked(net, y, sizes={"H": 8, "W": 9}).ops == {"Conv": 1}


# ---------------------------------------------------------------- traps


@pytest.mark.parametrize(
    ("opset", "mode"),
    [(19, "wrap"), *((opset, mode) for opset in (7, 11, 17) for mode in ("reflect", "edge"))],
)
def test_other_modes(opset: int, mode: str) -> None:
    net = Net(opset)
    left_alone(net, net.conv(net.pad(net.input([2, 4, 8, 9]), RING, mode=mode), 6), because=("Pad1", mode))


@pytest.mark.parametrize("opset", [7, 11, 17])
@pytest.mark.parametrize("value", [1.0, -0.5])
def test_other_values(opset: int, value: float) -> None:
    net = Net(opset)
    y = net.conv(net.pad(net.input([2, 4, 8, 9]), RING, value), 6)
    left_alone(net, y, because=("Pad1", f"{value:g}"))


@pytest.mark.parametrize("opset", [7, 17])
@pytest.mark.parametrize("amounts", [(0, 0, -1, -1, 0, 0, -1, -1), (0, 0, 1, 1, 0, 0, 1, -1)])
def test_negative_amounts(opset: int, amounts: tuple[int, ...]) -> None:
    net = Net(opset)
    left_alone(net, net.conv(net.pad(net.input([2, 4, 8, 9]), amounts), 6), because=("Pad1", "crops"))


def test_negative_amount_that_the_convolution_pads_back() -> None:
    """Cropping and padding the same border is not nothing."""
    net = Net()
    y = net.conv(net.pad(net.input([2, 4, 8, 9]), (0, 0, -1, 0, 0, 0, 0, 0)), 6, pads=[1, 0, 0, 0])
    left_alone(net, y, because=("Pad1", "crops"))


@pytest.mark.parametrize(
    "amounts", [(0, 1, 1, 1, 0, 0, 1, 1), (0, 0, 1, 1, 0, 2, 1, 1), (1, 0, 1, 1, 0, 0, 1, 1)]
)
def test_channels_and_batch(amounts: tuple[int, ...]) -> None:
    net = Net()
    y = net.pad(net.input([2, 4, 8, 9]), amounts)
    net.channels[y] = 4 + amounts[1] + amounts[5]
    left_alone(net, net.conv(y, 6), because=("Pad1", "batch or the channels"))


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_auto_pad_same_depends_on_the_padded_size(mode: str) -> None:
    net = Net()
    y = net.conv(net.pad(net.input([2, 4, 8, 9]), RING), 6, auto_pad=mode, strides=[2, 2])
    left_alone(net, y, because=("Pad1", "Conv1", mode))


def test_one_reader_that_cannot_take_the_pad_keeps_it_for_all() -> None:
    net = Net()
    y = net.pad(net.input([2, 4, 8, 9]), RING)
    outputs = net.conv(y, 6), net.conv(y, 6, auto_pad="SAME_UPPER", strides=[2, 2])
    left_alone(net, *outputs, because=("Pad1", "Conv2"))


@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
def test_pools_read_the_pad_too(pool: str) -> None:
    net = Net()
    y = net.pad(net.input([2, 4, 8, 9]), RING)
    left_alone(net, net.conv(y, 6), net.op(pool, y, kernel_shape=[3, 3]), because=("Pad1", f"{pool}1 reads"))


@pytest.mark.skipif(OLD_RUNTIME, reason="onnxruntime before 1.24 itself folds such a Pad wrongly")
def test_a_pad_in_front_of_a_pool_alone_stays() -> None:
    net = Net()
    y = net.op("MaxPool", net.pad(net.input([2, 4, 8, 9]), RING), kernel_shape=[3, 3])
    assert checked(net, y, number=0).ops == {"Pad": 1, "MaxPool": 1}


def test_padded_value_that_is_an_output() -> None:
    net = Net()
    y = net.pad(net.input([2, 4, 8, 9]), RING)
    left_alone(net, net.conv(y, 6), y, because=("Pad1", y, "output of the graph"))


def test_transposed_convolutions_crop_with_their_pads() -> None:
    net = Net()
    y = net.conv(net.pad(net.input([2, 4, 8, 9]), RING), 6, transpose=True)
    assert checked(net, y, number=0).ops == {"Pad": 1, "ConvTranspose": 1}


def test_amounts_computed_at_run_time() -> None:
    net = Net()
    amounts = net.input([8], "amounts", TensorProto.INT64)
    y = net.op("Pad", net.input([2, 4, 8, 9]), amounts, name="pad")
    conv = helper.make_node("Conv", [y, net.const(net.weights(6, 4, 3, 3))], ["out"], name="conv")
    net.nodes.append(conv)
    model = net.model()
    model.graph.output.append(info("out", [None, 6, None, None]))
    onnx.checker.check_model(model, full_check=True)
    (found,) = list(FoldPad().match(Analysis(ir.from_proto(model))))
    assert isinstance(found, Rejection) and "amounts is computed at run time" in found.reason


def test_value_computed_at_run_time() -> None:
    net = Net()
    y = net.op(
        "Pad",
        net.input([2, 4, 8, 9]),
        net.const(np.array(RING)),
        net.input([], "fill"),
        name="pad",
        channels=4,
    )
    left_alone(net, net.conv(y, 6), because=("pad", "fill is computed at run time"))


@pytest.mark.parametrize("frozen", [False, True])
def test_overridable_amounts(frozen: bool) -> None:
    net = Net()
    x = net.input([2, 4, 8, 9])
    y = net.op("Pad", x, net.const(np.array(RING), "default_pads", overridable=True), name="pad", channels=4)
    y = net.conv(y, 6)
    if frozen:
        folded(net, y, [1, 1, 1, 1], freeze_initializers=True)
    else:
        left_alone(net, y, because=("pad", "default_pads", "freeze_initializers"))


@pytest.mark.parametrize("frozen", [False, True])
def test_overridable_weights(frozen: bool) -> None:
    net = Net()
    y = net.pad(net.input([2, 4, 8, 9]), RING)
    y = net.conv(y, 6, weight=net.const(net.weights(6, 4, 3, 3), "default_weight", overridable=True))
    if frozen:
        folded(net, y, [1, 1, 1, 1], freeze_initializers=True)
    else:
        left_alone(net, y, because=("Pad1", "Conv1", "default_weight", "freeze_initializers"))


def test_quantised_region() -> None:
    net = Net()
    y = net.quantised(net.conv(net.pad(net.input([2, 4, 8, 9]), RING), 6))
    left_alone(net, y, because=("Pad1", "Conv1", "quantised region"))


def test_pad_of_another_domain() -> None:
    net = Net()
    x, amounts = net.input([2, 4, 8, 9]), net.const(np.array(RING))
    net.nodes.append(helper.make_node("Pad", [x, amounts], ["padded"], name="pad", domain="my.domain"))
    conv = helper.make_node("Conv", ["padded", net.const(net.weights(6, 4, 3, 3))], ["out"], name="conv")
    net.nodes.append(conv)
    net.domains.append("my.domain")
    model = net.model()
    model.graph.output.append(info("out", [2, 6, 8, 9]))
    assert list(FoldPad().match(Analysis(ir.from_proto(model)))) == []


# ---------------------------------------------------------------- subgraphs


def test_inside_if_bodies() -> None:
    net = Net()
    x = net.op("Relu", net.input([2, 4, 8, 9]))
    result = checked(net, net.choose(lambda n: n.conv(n.pad(x, RING), 6)), number=2)
    for attribute in result.node("If").attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv"]


def test_a_pad_outside_of_the_body_that_reads_it_stays() -> None:
    net = Net()
    x = net.pad(net.op("Relu", net.input([2, 4, 8, 9])), RING)
    assert checked(net, net.choose(lambda n: n.conv(x, 6)), number=0).ops == {"Relu": 1, "Pad": 1, "If": 1}


@pytest.mark.parametrize("inner", ["Conv", "Relu"])
def test_a_pad_that_a_body_reads_too_stays(inner: str) -> None:
    net = Net()
    padded = net.pad(net.input([2, 4, 8, 9]), RING)
    inputs = [padded, *([net.const(net.weights(4, 4, 1, 1))] if inner == "Conv" else [])]
    chosen = net.choose(lambda n: n.op(inner, *inputs))
    left_alone(net, net.conv(padded, 6), chosen, because=(f"Pad1: {inner}201", "reads"))
