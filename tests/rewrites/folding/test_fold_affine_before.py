"""fold_affine_before: BatchNormalization and affine operators into the linear operators behind them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from tests.builders import NEWEST_OPSET, Checked, Net, alone, check

GONE = ("BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg")
OPSETS = (7, 11, 13, 17, NEWEST_OPSET)


left_alone = partial(alone, "fold_affine_before", number=0)


def folded(net: Net, *outputs: str, gone: tuple[str, ...] = GONE, **options: Any) -> Checked:
    """Checks, alone and with all rewrites, that the affine operators go away at unchanged MACs."""
    result = alone("fold_affine_before", net, *outputs, saves=False, **options)
    for each in (result, check(result.before, **options)):
        assert not any(each.ops[kind] for kind in gone), each.ops
    return result


FORMS: dict[str, dict[str, Any]] = {
    "1d": {"shape": [2, 4, 11], "kernel": (3,)},
    "2d": {"shape": [2, 4, 9, 10], "kernel": (3, 2)},
    "3d": {"shape": [1, 4, 5, 6, 7], "kernel": (3, 1, 3)},
    "stride": {"shape": ["N", 4, 9, 10], "kernel": (3, 3), "strides": [2, 3]},
    "dilation": {"shape": [1, 4, 9, 10], "kernel": (3, 2), "dilations": [2, 3]},
    "group": {"shape": [1, 4, 9, 10], "kernel": (3, 3), "group": 2},
    "depthwise": {"shape": [1, 4, 9, 10], "kernel": (3, 3), "group": 4},
    "no bias": {"shape": [1, 4, 9, 10], "kernel": (1, 1), "bias": False},
    "open sizes": {"shape": ["N", 4, "H", "W"], "kernel": (1, 1)},
    "transpose 1x1": {"shape": [1, 4, 5, 6], "kernel": (1, 1), "transpose": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_folds_into_every_form_of_convolution(form: str) -> None:
    options = dict(FORMS[form])
    shape, kernel = options.pop("shape"), options.pop("kernel")
    net = Net()
    x = net.affine("Add", net.bn(net.input(shape)), net.normal(4, *[1] * len(kernel)))
    group = options.get("group", 1)
    folded(net, net.conv(x, 8 if group > 1 else 6, kernel, **options), sizes={"H": 7, "W": 8})


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_opset_and_precision(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    folded(net, net.conv(net.bn(net.input([2, 4, 9, 9])), 6))


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 0, 2, 1]])
def test_scale_alone_folds_into_a_padded_convolution(pads: list[int]) -> None:
    net = Net()
    folded(net, net.conv(net.affine("Div", net.input([1, 4, 9, 9]), net.per_channel(4)), 6, pads=pads))


def test_shift_stays_in_front_of_padding() -> None:
    net = Net()
    x = net.affine("Sub", net.input([1, 3, 9, 9]), net.per_channel(3))
    y = net.conv(net.affine("Div", x, net.per_channel(3)), 6, pads=[1] * 4)
    assert folded(net, y, gone=("Sub", "Div")).ops == {"Add": 1, "Conv": 1}


def test_batch_normalization_in_front_of_padding_stays() -> None:
    net = Net()
    y = net.conv(net.bn(net.input([1, 4, 9, 9])), 6, pads=[1] * 4)
    left_alone(net, y, because=("BatchNormalization1", "as many operators"))


def test_shift_that_a_zero_scale_hides_stays() -> None:
    net = Net()
    scale = net.per_channel(4)
    scale[0, 1] = 0
    x = net.affine("Add", net.affine("Mul", net.input([1, 4, 9, 9]), scale), net.per_channel(4))
    left_alone(net, net.conv(x, 6, pads=[1] * 4), because=("pads with zeros",))


def test_shift_in_front_of_a_strided_transpose_stays() -> None:
    net = Net()
    x = net.affine("Add", net.input([1, 4, 5, 5]), net.per_channel(4))
    left_alone(net, net.conv(x, 6, transpose=True, strides=[2, 2]), because=("as many operators",))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_gemm_and_matmul(dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    x = net.affine("Mul", net.affine("Add", net.input([5, 8]), net.normal(8)), net.normal(1, 8))
    folded(net, net.gemm(x, 6, alpha=0.5, beta=2.0), net.matmul(x, 8, 6))


def test_scale_in_front_of_a_matmul_of_rank_3() -> None:
    net = Net()
    folded(net, net.matmul(net.affine("Mul", net.input(["N", 5, 8]), net.normal(8)), 8, 6))


def test_constant_along_the_rows_of_a_matmul() -> None:
    net = Net()
    x = net.affine("Mul", net.input([2, 5, 8]), net.normal(5, 1))
    left_alone(net, net.matmul(x, 8, 6), because=("not those of its input channels",))


@pytest.mark.parametrize("shape", [(1, 1, 9, 9), (2, 1, 1, 1), (9,)])
def test_constants_that_vary_along_other_axes(shape: tuple[int, ...]) -> None:
    net = Net()
    x = net.affine("Mul", net.input([2, 4, 9, 9]), net.normal(*shape))
    left_alone(net, net.conv(x, 6), because=("not those of its input channels",))


def test_constant_that_widens_its_input() -> None:
    net = Net()
    x = net.affine("Mul", net.input([2, 1, 9, 9]), net.per_channel(4))
    net.channels[x] = 4
    assert check(net.model(net.conv(x, 6)), applied={}).ops == {"Mul": 1, "Conv": 1}


# ---------------------------------------------------------------- through operators


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Abs", {}),
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
        ("Identity", {}),
    ],
)
def test_positive_scale_passes(kind: str, attributes: dict[str, Any]) -> None:
    net = Net()
    x = net.op(kind, net.affine("Mul", net.input([1, 4, 9, 9]), net.per_channel(4)), **attributes)
    folded(net, net.conv(x, 6, pads=[1] * 4))


def test_positive_scale_passes_prelu_and_transpose() -> None:
    net = Net()
    x = net.affine("Mul", net.input([1, 4, 9, 9]), net.per_channel(4))
    x = net.op("Transpose", net.op("PRelu", x, net.const(net.normal(4, 1, 1))), perm=[0, 2, 3, 1])
    folded(net, net.matmul(x, 4, 6))


@pytest.mark.parametrize("kind", ["Relu", "MaxPool"])
def test_negative_scale_does_not_pass(kind: str) -> None:
    net = Net()
    x = net.affine("Mul", net.input([1, 4, 9, 9]), -net.per_channel(4))
    y = net.op(kind, x, **({"kernel_shape": [2, 2]} if kind == "MaxPool" else {}))
    assert check(net.model(net.conv(y, 6)), applied={}).ops["Mul"] == 1


def test_shift_does_not_pass_relu_but_passes_pooling() -> None:
    net = Net()
    x = net.input([1, 4, 9, 9])
    y = net.conv(net.op("Relu", net.affine("Add", x, net.per_channel(4))), 6)
    assert check(net.model(y), applied={}).ops["Add"] == 1
    net = Net()
    x = net.affine("Add", net.input([1, 4, 9, 9]), net.per_channel(4))
    folded(net, net.conv(net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4), 6))


def test_shift_does_not_pass_an_average_that_counts_padding() -> None:
    net = Net()
    x = net.affine("Add", net.input([1, 4, 9, 9]), net.per_channel(4))
    y = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    assert left_alone(net, net.conv(y, 6)).ops["Add"] == 1


def test_through_concat_flatten_and_several_readers() -> None:
    net = Net()
    x, z = net.input([1, 4, 6, 6]), net.input([1, 3, 6, 6], "z")
    y = net.bn(x)
    joined = net.op("Concat", z, y, axis=1)
    flat = net.op("Flatten", y, channels=144)
    folded(net, net.conv(joined, 5), net.gemm(flat, 5), net.conv(y, 6, (1, 1)))


def test_another_reader_or_a_graph_output_keeps_it() -> None:
    net = Net()
    y = net.bn(net.input([1, 4, 9, 9]))
    left_alone(net, net.conv(y, 6), net.op("Sigmoid", y), because=("Sigmoid1", "no linear operator"))
    net = Net()
    y = net.bn(net.input([1, 4, 9, 9]))
    left_alone(net, net.conv(y, 6), y, because=("output of the graph",))


def test_shared_weights_are_folded_into_for_all_that_read_them_or_for_none() -> None:
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.const(net.weights(6, 4, 3, 3))
    left_alone(
        net,
        net.conv(net.bn(x), 6, weight=weight),
        net.conv(x, 6, weight=weight),
        because=("its weights are shared",),
    )
    net = Net()
    x, weight = net.input([1, 4, 9, 9]), net.const(net.weights(6, 4, 3, 3))
    outputs = [net.conv(net.bn(x), 6, weight=weight) for _ in range(2)]
    assert "BatchNormalization" not in alone("fold_affine_before", net, *outputs, number=2).ops


def test_training_mode_stays() -> None:
    net = Net(15)
    y = net.bn(net.input([2, 4, 9, 9]))
    net.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    net.nodes[-1].output.extend(["mean", "variance"])
    assert check(net.model(net.conv(y, 6)), applied={}).ops["BatchNormalization"] == 1


def test_five_outputs_up_to_opset_13_stay() -> None:
    net = Net(9)
    y = net.bn(net.input([2, 4, 9, 9]), outputs=5)
    assert check(net.model(net.conv(y, 6)), applied={}).ops["BatchNormalization"] == 1


# ---------------------------------------------------------------- fold_affine, backwards through operators


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Relu", {}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ],
)
def test_scale_goes_back_through_operators(kind: str, attributes: dict[str, Any]) -> None:
    net = Net()
    y = net.op(kind, net.conv(net.input([1, 4, 9, 9]), 6), **attributes)
    y = net.op("Sigmoid", net.affine("Mul", y, net.per_channel(6)))
    assert alone("fold_affine", net, y).ops == {"Conv": 1, kind: 1, "Sigmoid": 1}


def test_shift_goes_back_through_an_average() -> None:
    net = Net()
    y = net.op("GlobalAveragePool", net.conv(net.input([1, 4, 9, 9]), 6))
    assert alone("fold_affine", net, net.bn(y)).ops == {"Conv": 1, "GlobalAveragePool": 1}


@pytest.mark.parametrize("kind", ["Relu", "MaxPool"])
def test_negative_scale_does_not_go_back(kind: str) -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 9, 9]), 6)
    y = net.op(kind, y, **({"kernel_shape": [2, 2]} if kind == "MaxPool" else {}))
    assert check(net.model(net.affine("Mul", y, -net.per_channel(6))), applied={}).ops["Mul"] == 1
