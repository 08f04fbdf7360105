"""fold_affine: BatchNormalization and per-channel affine operators into the linear operator before them."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.folding.fold_affine import FoldAffine
from graphopt.types import Candidate, Rejection
from tests.builders import NEWEST_OPSET, Checked, Net, alone, info, low_rank, run

OPSETS = (7, 9, 11, 13, 17, 18, NEWEST_OPSET)
GONE = ("BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg")


checked = partial(alone, "fold_affine")
left_alone = partial(checked, number=0)


def folded(net: Net, *outputs: str, gone: tuple[str, ...] = GONE, **options: Any) -> Checked:
    """Checks a model in which every affine operator folds at unchanged MACs."""
    result = checked(net, *outputs, saves=False, **options)
    assert not any(result.ops[kind] for kind in gone), result.ops
    return result


def convolved(opset: int = 17) -> tuple[Net, str]:
    """A net of one convolution, and its output [2, 6, 7, 7]."""
    net = Net(opset)
    return net, net.conv(net.input([2, 4, 9, 9]), 6)


# ---------------------------------------------------------------- what folds


def test_an_epsilon_that_is_not_said_is_that_of_float32() -> None:
    """1e-5 in float64 is another number, which shows where the variance is small."""
    net = Net(dtype=np.float64)
    y = net.gemm(net.input([2, 4]), 6)
    constants = [net.const(array) for array in (np.ones(6), np.zeros(6), np.zeros(6), np.full(6, 1e-9))]
    result = folded(net, net.op("BatchNormalization", y, *constants))
    x = {"x": np.random.default_rng(0).standard_normal((2, 4))}
    wanted, made = run(result.before, x)[0], run(result.after, x)[0]
    np.testing.assert_allclose(made, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())


FORMS: dict[str, dict[str, Any]] = {
    "1d": {"shape": [2, 4, 11], "kernel": (3,)},
    "2d": {"shape": [2, 4, 9, 10]},
    "3d": {"shape": [1, 4, 5, 6, 7], "kernel": (3, 1, 3)},
    "stride": {"strides": [2, 3]},
    "dilation": {"kernel": (3, 2), "dilations": [2, 3]},
    "pads": {"pads": [0, 1, 2, 3]},
    "same": {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "valid": {"auto_pad": "VALID"},
    "group": {"group": 2},
    "depthwise": {"shape": [1, 6, 9, 10], "group": 6},
    "no bias": {"bias": False},
    "empty bias": {"bias": ""},
    "transpose": {"shape": [1, 4, 5, 6], "transpose": True, "strides": [2, 2]},
    "transpose 1d": {"shape": [1, 4, 5], "kernel": (4,), "transpose": True, "pads": [1, 2]},
    "transpose group": {"shape": [1, 4, 5, 6], "kernel": (2, 2), "transpose": True, "group": 2},
    "transpose added": {
        "shape": [1, 4, 5, 6],
        "transpose": True,
        "strides": [2, 2],
        "pads": [1, 1, 1, 1],
        "output_padding": [1, 1],
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("follower", ["bn", "affine"])
def test_folds_into_every_form_of_convolution(form: str, follower: str) -> None:
    options = {"shape": [1, 4, 9, 10], "kernel": (3, 3), **FORMS[form]}
    shape, axes = options.pop("shape"), len(options["kernel"])
    net = Net()
    y = net.conv(net.input(shape), 6, **options)
    if follower == "bn":
        y = net.bn(y)
    else:
        y = net.affine("Mul", y, net.per_channel(6, axes))
        y = net.affine("Add", y, net.normal(6, *[1] * axes))
    folded(net, y)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_folds_at_every_opset_and_precision(opset: int, dtype: npt.DTypeLike) -> None:
    net = Net(opset, dtype)
    y = net.bn(net.conv(net.input([2, 4, 9, 9]), 6))
    folded(net, net.op("Relu", net.affine("Mul", y, net.per_channel(6))))


@pytest.mark.parametrize(("kind", "first"), [("Mul", False), ("Mul", True), ("Add", False), ("Add", True)])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (6, 1, 1), (1, 1, 1, 1), (1,), ()])
def test_commutative_operators_with_every_shape_of_constant(
    kind: str, first: bool, shape: tuple[int, ...]
) -> None:
    net, y = convolved()
    folded(net, net.affine(kind, y, np.asarray(net.normal(*shape)), first=first))


@pytest.mark.parametrize(("kind", "first"), [("Sub", False), ("Sub", True), ("Div", False)])
def test_operators_that_do_not_commute(kind: str, first: bool) -> None:
    net = Net()
    folded(net, net.affine(kind, net.conv(net.input([2, 4, 9, 9]), 6), net.per_channel(6), first=first))


def test_negation_and_a_long_chain() -> None:
    net = Net()
    y = net.bn(net.op("Identity", net.op("Neg", net.conv(net.input([2, 4, 9, 9]), 6))))
    y = net.affine("Sub", net.op("Dropout", y), net.per_channel(6), first=True)
    assert list(folded(net, net.affine("Div", y, 3.0), gone=(*GONE, "Identity", "Dropout")).ops) == ["Conv"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("scales", [{}, {"alpha": 0.5, "beta": 2.0}])
def test_gemm(dtype: npt.DTypeLike, trans: int, scales: dict[str, float]) -> None:
    net = Net(dtype=dtype)
    y = net.gemm(net.input([5, 8]), 6, trans=trans, **scales)
    assert folded(net, net.affine("Mul", net.bn(y), net.normal(6))).ops == {"Gemm": 1}


@pytest.mark.parametrize("bias", [(), (1,), (6,), (1, 6), (1, 1)])
def test_gemm_with_every_shape_of_bias(bias: tuple[int, ...]) -> None:
    net = Net()
    y = net.gemm(net.input([5, 8]), 6, bias=net.const(np.asarray(net.normal(*bias))), beta=0.5)
    folded(net, net.affine("Mul", y, net.normal(1, 6)))


def test_gemm_without_a_bias() -> None:
    net = Net()
    folded(net, net.bn(net.gemm(net.input([5, 8]), 6, bias=False)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_matmul_of_rank_2_becomes_a_gemm_with_a_bias(dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    y = net.bn(net.matmul(net.input([5, 8]), 8, 6))
    assert folded(net, net.affine("Add", y, net.normal(6))).ops == {"Gemm": 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_behind_a_matmul_of_rank_3(dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    y = net.matmul(net.input([2, 5, 8]), 8, 6)
    assert folded(net, net.affine("Mul", y, net.normal(6))).ops == {"MatMul": 1}


def test_scale_and_shift_behind_a_matmul_of_rank_3_become_one_add() -> None:
    net = Net()
    y = net.affine("Mul", net.matmul(net.input([2, 5, 8]), 8, 6), net.normal(6))
    y = net.affine("Sub", net.affine("Add", y, net.normal(6)), net.normal(1, 1, 6))
    assert checked(net, y).ops == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize(
    ("opset", "attributes"),
    [(7, {"spatial": 1, "momentum": 0.5}), (17, {"epsilon": 0.5}), (17, {"training_mode": 0})],
)
def test_attributes_of_a_batch_normalization(opset: int, attributes: dict[str, Any]) -> None:
    net = Net(opset)
    folded(net, net.bn(net.conv(net.input([2, 4, 9, 9]), 6), **attributes))


def test_weights_that_are_zero_stay_finite() -> None:
    net = Net()
    folded(net, net.bn(net.conv(net.input([2, 4, 9, 9]), 6, weight=np.zeros((6, 4, 3, 3)))))


# ---------------------------------------------------------------- where the weights come from


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_weights_in_constant_nodes(opset: int) -> None:
    net = Net(opset)
    x = net.input([2, 4, 9, 9])
    y = net.conv(
        x, 6, weight=net.constant_node(net.weights(6, 4, 3, 3)), bias=net.constant_node(net.normal(6))
    )
    assert folded(net, net.op("Mul", y, net.constant_node(net.per_channel(6)))).ops == {"Conv": 1}


def through(net: Net, how: str, weight: npt.NDArray[Any]) -> str:
    """The weights as what an operator makes of a constant."""
    if how == "Identity":
        return net.op("Identity", net.const(weight))
    if how == "Transpose":
        return net.op("Transpose", net.const(weight.transpose(2, 3, 1, 0)), perm=[3, 2, 0, 1])
    if how == "Cast":
        stored = numpy_helper.from_array(weight.astype(np.float16), "stored")
        net.initializers.append(stored)
        return net.op("Cast", "stored", to=TensorProto.FLOAT)
    if how == "Reshape":
        return net.op("Reshape", net.const(weight.reshape(6, -1)), net.const(np.array(weight.shape)))
    flat = net.const(weight[..., 0])
    return net.op("Unsqueeze", flat, net.const(np.array([3])))


@pytest.mark.parametrize("how", ["Identity", "Transpose", "Cast", "Reshape", "Unsqueeze"])
def test_weights_behind_an_operator(how: str) -> None:
    net = Net()
    x = net.input([2, 4, 9, 9])
    kernel = (3, 1) if how == "Unsqueeze" else (3, 3)
    weight = through(net, how, net.weights(6, 4, *kernel))
    assert folded(net, net.bn(net.conv(x, 6, kernel, weight=weight))).ops == {"Conv": 1}


def test_caffe_scale_layer_with_unsqueezed_constants() -> None:
    net = Net()
    y = net.bn(net.conv(net.input([2, 4, 9, 9]), 6))
    axes = net.const(np.array([1, 2]))
    for kind in ("Mul", "Add"):
        y = net.op(kind, y, net.op("Unsqueeze", net.const(net.normal(6)), axes))
    assert folded(net, y).ops == {"Conv": 1}


@pytest.mark.parametrize("every", [True, False])
def test_shared_weights_are_folded_into_for_all_that_read_them_or_for_none(every: bool) -> None:
    net = Net()
    x = net.input([2, 4, 9, 9])
    weight, bias = net.const(net.weights(4, 4, 3, 3), "shared"), net.const(net.normal(4), "shared_bias")
    first = net.bn(net.conv(x, 4, weight=weight, bias=bias))
    third = net.conv(x, 4, weight=weight, bias=bias)
    second = net.bn(net.conv(net.op("Relu", first), 4, weight=weight, bias=bias))
    if every:
        folded(net, net.bn(third), second, number=3)
    else:
        left_alone(net, third, second, because=("its weights are shared",))


def test_a_shared_bias_is_copied_and_not_changed() -> None:
    net = Net()
    x, bias = net.input([2, 4, 9, 9]), net.const(net.normal(4), "shared")
    result = folded(net, net.bn(net.conv(x, 4, bias=bias)), net.conv(x, 4, bias=bias))
    before, after = (
        {t.name: t.SerializeToString() for t in each.graph.initializer}
        for each in (result.before, result.after)
    )
    assert after["shared"] == before["shared"]


def test_shared_batch_normalization_parameters() -> None:
    net = Net()
    x = net.input([2, 4, 9, 9])
    parameters = statistics(net)
    outputs = [net.op("BatchNormalization", net.conv(x, 6), *parameters) for _ in range(2)]
    assert len(folded(net, *outputs, number=2).after.graph.initializer) == 4


def test_weights_that_are_a_graph_output_stay() -> None:
    net = Net()
    weight = net.const(net.weights(6, 4, 3, 3), "shown")
    folded(net, net.bn(net.conv(net.input([2, 4, 9, 9]), 6, weight=weight)), net.op("Identity", weight))


# ---------------------------------------------------------------- traps


def test_training_mode_is_left_alone() -> None:
    net, y = convolved()
    parameters = statistics(net)
    net.op("BatchNormalization", y, *parameters, outputs=3, name="trains", training_mode=1)
    left_alone(net, net.nodes[-1].output[0], because=("trains", "training_mode=1"))


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_five_outputs_up_to_opset_13_are_training_mode(opset: int) -> None:
    net, y = convolved(opset)
    y = net.op("BatchNormalization", y, *statistics(net), outputs=5, name="trains")
    left_alone(net, y, because=("trains", "5 outputs, so it normalises by the batch's own statistics"))


def test_running_statistics_that_are_read() -> None:
    net, y = convolved(13)
    y = net.op("BatchNormalization", y, *statistics(net), outputs=5, name="trains")
    model = net.model(y, f"{y}_1")
    before = model.SerializeToString()
    rejected(model, "trains", "5 outputs")
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("attributes", "folds"), [({}, False), ({"is_test": 0}, False), ({"is_test": 1}, True)]
)
def test_up_to_opset_6_is_test_says_whether_it_trains(attributes: dict[str, int], folds: bool) -> None:
    net, y = convolved(6)
    y = net.op("BatchNormalization", y, *statistics(net), name="norm", **attributes)
    (found,) = matches(net.model(y))
    assert isinstance(found, Candidate) if folds else "norm: is_test=0" in found.reason


def statistics(net: Net) -> list[str]:
    """Four positive parameters of six channels."""
    return [net.const(net.random.uniform(0.5, 1.5, 6)) for _ in range(4)]


def matches(model: onnx.ModelProto) -> list[Any]:
    """What the rewrite says of a model that onnxruntime may refuse to load."""
    return list(FoldAffine().match(Analysis(ir.from_proto(model))))


def rejected(model: onnx.ModelProto, *words: str) -> None:
    """The matcher has one thing to say, which is a rejection for this reason."""
    (found,) = matches(model)
    assert isinstance(found, Rejection) and all(word in found.reason for word in words)


@pytest.mark.parametrize(
    ("place", "number", "why"),
    [
        (3, -1.0, "its variance is -1 in a channel"),
        (3, np.nan, "not all finite"),
        (3, np.inf, "not all finite"),
        (0, np.nan, "not all finite"),
        (2, np.inf, "not all finite"),
    ],
)
def test_batch_normalization_by_what_is_no_number(place: int, number: float, why: str) -> None:
    net = Net()
    y = net.conv(net.input([1, 4, 6, 6]), 6)
    parameters = [net.random.uniform(0.5, 1.5, 6) for _ in range(4)]
    parameters[place][2] = number
    names = [net.const(array) for array in parameters]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rejected(net.model(net.op("BatchNormalization", y, *names)), why)


@pytest.mark.parametrize("opset", [7, 8])
def test_batch_normalization_by_position(opset: int) -> None:
    """spatial=0 has parameters [C, H, W]; onnxruntime does not run it, so only the matcher is asked."""
    net = Net(opset)
    y = net.conv(net.input([2, 4, 5, 5]), 6)
    parameters = [net.const(net.random.uniform(0.5, 1.5, (6, 3, 3))) for _ in range(4)]
    y = net.op("BatchNormalization", y, *parameters, name="by_position", spatial=0)
    rejected(net.model(y), "by_position", "spatial=0")


BROADCASTS = {
    "width": ((1, 1, 1, 7), "axis 3"),
    "height": ((7, 1), "axis 2"),
    "pixels": ((7, 7), "axis 2"),
    "channels and width": ((1, 6, 1, 7), "axis 3"),
    "batch": ((2, 1, 1, 1), "axis 0"),
    "batch and channels": ((2, 6, 1, 1), "axis 0"),
    "higher rank": ((1, 1, 6, 1, 1), "raises the output's rank"),
    "higher rank of ones": ((1, 1, 1, 1, 1), "raises the output's rank"),
}


@pytest.mark.parametrize("kind", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("which", BROADCASTS)
def test_constants_that_vary_along_other_axes(kind: str, which: str) -> None:
    shape, words = BROADCASTS[which]
    net = Net()
    y = net.conv(net.op("Relu", net.input([2, 4, 9, 9])), 6)
    y = net.op(kind, y, net.const(np.abs(net.normal(*shape)) + 0.5), name="wide")
    left_alone(net, y, because=("wide", words))


def test_constant_that_widens_one_channel() -> None:
    net = Net()
    y = net.op("Mul", net.conv(net.input([2, 4, 9, 9]), 1), net.const(net.normal(6, 1, 1)), name="wide")
    left_alone(net, y, because=("wide", "does not fit 1 channels"))


def test_constant_of_the_width_that_equals_the_channels() -> None:
    """[6] meets the last axis, also where that is as long as the channel axis."""
    net = Net()
    y = net.op("Mul", net.conv(net.input([2, 4, 8, 8]), 6), net.const(net.normal(6)), name="wide")
    left_alone(net, y, because=("wide", "axis 3"))


def test_gemm_constant_along_the_rows() -> None:
    net = Net()
    y = net.op("Mul", net.gemm(net.input([6, 8]), 6), net.const(net.normal(6, 1)), name="rows")
    left_alone(net, y, because=("rows", "axis 0"))


def test_batch_normalization_behind_a_matmul_of_rank_3_has_another_axis() -> None:
    net = Net()
    y = net.op("BatchNormalization", net.matmul(net.input([2, 6, 8]), 8, 6), *statistics(net), name="axis1")
    left_alone(net, y, because=("axis1", "axis 1", "axis 2"))


def test_shift_alone_behind_a_matmul_of_rank_3_stays() -> None:
    net = Net()
    y = net.affine("Add", net.matmul(net.input([2, 5, 8]), 8, 6), net.normal(6))
    left_alone(net, y, because=("MatMul1", "has no bias"))


def test_constant_divided_by_the_output() -> None:
    net = Net()
    y = net.conv(net.input([2, 4, 9, 9]), 6, bias=net.const(np.full(6, 50.0)))  # far from zero
    y = net.op("Div", net.const(net.per_channel(6)), y, name="quotient")
    left_alone(net, y, because=("quotient", "divided by"))


def test_division_by_zero() -> None:
    net = Net()
    y = net.op("Div", net.conv(net.input([2, 4, 9, 9]), 6), net.const(np.zeros((1, 6, 1, 1))), name="by_zero")
    rejected(net.model(y), "by_zero", "division by zero")


def test_output_that_another_operator_reads() -> None:
    net, y = convolved()
    left_alone(net, net.op("Sigmoid", y), net.bn(y), because=("read elsewhere",))


def test_output_of_the_graph_in_the_middle() -> None:
    net, y = convolved()
    left_alone(net, y, net.bn(y), because=(y, "output of the graph"))


def test_value_in_the_middle_of_a_chain_that_is_an_output() -> None:
    net = Net()
    y = net.bn(net.conv(net.input([2, 4, 9, 9]), 6))
    assert checked(net, y, net.affine("Mul", y, net.per_channel(6))).ops == {"Conv": 1, "Mul": 1}


def test_both_operands_are_the_output() -> None:
    net, y = convolved()
    assert checked(net, net.op("Mul", y, y), number=0).ops == {"Conv": 1, "Mul": 1}


def test_second_operand_computed_at_run_time() -> None:
    net, y = convolved()
    assert checked(net, net.op("Mul", y, net.input([1, 6, 1, 1], "gate")), number=0).ops == {
        "Conv": 1,
        "Mul": 1,
    }


def test_weights_computed_at_run_time() -> None:
    net = Net()
    y = net.bn(net.conv(net.input([2, 4, 9, 9]), 6, weight=net.input([6, 4, 3, 3], "dynamic")))
    left_alone(net, y, because=("Conv1", "dynamic is computed at run time"))


def test_batch_normalization_parameters_computed_at_run_time() -> None:
    net, y = convolved()
    given = [net.input([6], f"p{i}") for i in range(3)]
    variance = net.op("Abs", net.input([6], "p3"))
    y = net.op("BatchNormalization", y, *given, variance, name="dynamic")
    left_alone(net, y, because=("dynamic", "p0 is computed at run time"))


@pytest.mark.parametrize("frozen", [False, True])
def test_overridable_weights(frozen: bool) -> None:
    net = Net()
    x = net.input([2, 4, 9, 9])
    weight = net.const(net.weights(6, 4, 3, 3), "default_weight", overridable=True)
    y = net.op("Relu", net.bn(net.conv(x, 6, weight=weight)))
    if frozen:
        result = checked(net, y, freeze_initializers=True)
        assert result.ops == {"Conv": 1, "Relu": 1}
        assert [value.name for value in result.after.graph.input] == ["x"]
    else:
        left_alone(net, y, because=("Conv1", "default_weight", "freeze_initializers"))


def test_overridable_scale_is_left_alone() -> None:
    net, y = convolved()
    y = net.op("Mul", y, net.const(net.per_channel(6), "default_scale", overridable=True), name="scaled")
    left_alone(net, y, because=("scaled", "default_scale", "freeze_initializers"))


def test_inputs_that_the_format_forced_are_constants() -> None:
    net = Net(7, ir_version=3)
    model = net.model(net.bn(net.conv(net.input([2, 4, 9, 9]), 6)))
    assert len(model.graph.input) == 7
    result = checked(model)
    assert result.after.ir_version >= 4
    assert [value.name for value in result.after.graph.input] == ["x"]


def test_initializers_without_an_input_at_ir_3_opset_in_later_ir() -> None:
    net = Net(7, ir_version=8)
    assert checked(net, net.bn(net.conv(net.input([2, 4, 9, 9]), 6))).after.ir_version == 8


def test_quantised_region_is_left_alone() -> None:
    net = Net()
    y = net.bn(net.conv(net.quantised(net.input([2, 4, 9, 9])), 6, weight=net.const(net.weights(6, 4, 3, 3))))
    left_alone(net, y, because=("Conv1", "quantised region"))


def test_dropout_whose_mask_is_used() -> None:
    net = Net()
    y = net.op("Dropout", net.conv(net.input([2, 4, 9, 9]), 6), outputs=2, channels=6)
    z = net.affine("Mul", y, net.per_channel(6))
    result = checked(net, z, net.op("Cast", f"{y}_1", to=TensorProto.FLOAT), number=0)
    assert result.ops["Dropout"] == 1 and result.ops["Mul"] == 1


def test_dropout_in_training_mode() -> None:
    net, y = convolved()
    ratio, training = net.const(np.array(0.0)), net.const(np.array(True))
    y = net.op("Dropout", y, ratio, training)
    assert checked(net, net.affine("Mul", y, net.per_channel(6)), number=0).ops["Dropout"] == 1


def test_custom_operator_in_between() -> None:
    """A fused activation of onnxruntime's own domain stands for any operator that graphopt does not know."""
    net = Net()
    net.op("Gelu", net.conv(net.input([2, 4, 9, 9]), 6), domain="com.microsoft", channels=6)
    net.affine("Mul", net.nodes[-1].output[0], net.per_channel(6))
    net.nodes[-1].output[0] = "out"
    result = checked(opaque(net), number=0)
    assert result.ops["Gelu"] == 1 and result.ops["Mul"] == 1


def opaque(net: Net) -> onnx.ModelProto:
    """The model of a net whose output "out" is [2, 6, 7, 7], which onnx can't infer."""
    model = net.model()
    model.graph.output.append(info("out", [2, 6, 7, 7]))
    return model


def test_operators_of_the_same_name_in_another_domain() -> None:
    net, y = convolved()
    net.nodes.append(
        helper.make_node("Mul", [y, net.const(net.per_channel(6))], ["out"], name="other", domain="my.domain")
    )
    net.domains.append("my.domain")
    assert matches(opaque(net)) == []


@pytest.mark.parametrize("kind", ["BatchNormalization", "Identity", "Dropout"])
def test_look_alikes_in_another_domain(kind: str) -> None:
    net, y = convolved()
    parameters = statistics(net)
    inputs = [y, *parameters] if kind == "BatchNormalization" else [y]
    net.nodes.append(helper.make_node(kind, inputs, ["z"], name="other", domain="my.domain"))
    net.nodes.append(helper.make_node("Mul", ["z", net.const(net.per_channel(6))], ["out"], name="mul"))
    net.domains.append("my.domain")
    assert matches(opaque(net)) == []


def test_double_convolutions_are_not_taken_unverified() -> None:
    """onnxruntime has no Conv for doubles, so nothing about one can be verified."""
    net = Net(dtype=np.float64)
    model = net.model(net.bn(net.conv(net.input([2, 4, 9, 9]), 6)))
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        ort.InferenceSession(model.SerializeToString())
    result = graphopt.optimize(model, aim="macs")
    assert not result.report.changed
    (left,) = [item for item in result.report.declined if item.rewrite == "fold_affine"]
    assert left.site.nodes[0] == "Conv1" and "onnxruntime has no Conv of double" in left.reason


# ---------------------------------------------------------------- subgraphs


@pytest.mark.parametrize("own_weights", [True, False])
def test_inside_if_bodies_that_capture_outer_values(own_weights: bool) -> None:
    net = Net()
    x = net.op("Relu", net.input([2, 4, 9, 9]))
    weight = None if own_weights else net.const(net.weights(6, 4, 3, 3), "outer_weight")
    result = checked(net, net.choose(lambda n: n.bn(n.conv(x, 6, weight=weight))), number=2)
    for attribute in result.node("If").attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv"]
    graphs = sorted(a.candidate.site.graph for a in result.report.applied)
    assert graphs == ["choice/else_branch", "choice/then_branch"]


def test_output_that_an_if_body_captures() -> None:
    net, y = convolved()
    chosen = net.choose(lambda n: n.op("Relu", y), lambda n: n.op("Neg", y))
    left_alone(net, net.bn(y), chosen, because=(y, "read elsewhere"))


def test_affine_operator_inside_a_body_on_an_outer_convolution() -> None:
    """The convolution runs whichever branch is taken, so the branch's operator is none of its own."""
    net = Net()
    y, scale = net.conv(net.input([2, 4, 9, 9]), 6), net.const(net.per_channel(6))
    other = net.constant_node(np.ones((2, 6, 7, 7)))
    checked(net, net.choose(lambda n: n.op("Mul", y, scale), lambda n: n.op("Identity", other)), number=0)


def loop(*, carried_scale: bool) -> onnx.ModelProto:
    """A Loop whose body convolves and scales its state, by a constant or by what the loop carries."""
    outer = Net()
    x = outer.input([2, 4, 9, 9])
    outer.input([], "trips", TensorProto.INT64)
    keep = outer.const(np.array(True), "keep")
    inner = outer.inside(3)
    inner.channels["state"] = 4
    y = inner.conv("state", 4, pads=[1, 1, 1, 1])
    scale = "scale_state" if carried_scale else inner.const(inner.per_channel(4))
    y = inner.op("Mul", y, scale, name="scaled")
    going, scale_out = inner.op("Identity", "going"), inner.op("Identity", "scale_state")
    states = {"state": [2, 4, 9, 9], "scale_state": [1, 4, 1, 1]}
    body = inner.body(
        "body",
        inputs=[
            info("iteration", [], np.int64),
            info("going", [], np.bool_),
            *map(info, states, states.values()),
        ],
        infos=[info(going, [], np.bool_), *map(info, (y, scale_out), states.values())],
    )
    initial = outer.const(outer.per_channel(4), "initial")
    return outer.model(outer.op("Loop", "trips", keep, x, initial, outputs=2, body=body, name="loop"))


def test_inside_a_loop_body() -> None:
    assert checked(loop(carried_scale=False)).report.applied[0].candidate.site.graph == "loop/body"


def test_what_a_loop_carries_is_no_constant() -> None:
    checked(loop(carried_scale=True), number=0)


# ---------------------------------------------------------------- the whole


def test_symbolic_batch_stays() -> None:
    net = Net()
    result = folded(net, net.bn(net.conv(net.input(["N", 4, 9, 9]), 6)))
    assert result.after.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_open_height_and_width_stay() -> None:
    net = Net()
    y = net.bn(net.conv(net.input(["N", 4, "H", "W"]), 6, pads=[1, 1, 1, 1]))
    assert checked(net, y, sizes={"H": 9, "W": 10}).ops == {"Conv": 1}


def test_names_of_outputs_and_nodes_survive() -> None:
    net = Net()
    y = net.bn(net.conv(net.input([2, 4, 9, 9]), 6, name="stem"))
    conv = folded(net, y).node("Conv")
    assert conv.name == "stem" and list(conv.output) == [y]
    assert {p.key: p.value for p in conv.metadata_props} == {
        "graphopt.from": "stem,BatchNormalization1",
        "graphopt.rewrite": "fold_affine",
    }


def test_a_bn_before_a_lossless_bottleneck() -> None:
    net = Net()
    x = net.input([1, 32, 9, 9])
    y = net.bn(net.conv(x, 32, weight=low_rank(net, 32, 32, (3, 3), rank_in=4), pads=[1, 1, 1, 1]))
    both = {"fold_affine": 1, "lossless_bottleneck": 1}
    assert checked(net, y, applied=both, only=list(both)).ops == {"Conv": 2}


# ---------------------------------------------------------------- pads that follow from sizes


PADS_BY_SIZE: list[dict[str, Any]] = [
    {"output_shape": [20, 22]},
    {"output_shape": [20, 22], "auto_pad": "SAME_UPPER"},
    {"output_shape": [21, 23], "output_padding": [1, 1]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
]


@pytest.mark.parametrize("given", [(9, 10), ("H", "W")])
@pytest.mark.parametrize("attributes", PADS_BY_SIZE, ids=str)
def test_channels_of_a_transposed_convolution_are_scaled_whatever_its_pads(
    attributes: dict[str, Any], given: tuple[int | str, ...]
) -> None:
    """Behind it with a shift, and in front of it without; pads that hold for every run are written out."""
    attributes = {"strides": [2, 2], "channels": 6, **attributes}
    sizes = {"H": 9, "W": 10}

    def inputs(net: Net) -> list[str]:
        x = net.op("Relu", net.input(["N", 8, *given]))
        return [x, net.const(net.weights(8, 6, 4, 4)), net.const(net.normal(6))]

    net = Net()
    y = net.op("ConvTranspose", *inputs(net), **attributes)
    result = alone("fold_affine", net, net.op("Relu", net.bn(y)), sizes=sizes)
    (node,) = [node for node in result.after.graph.node if node.op_type == "ConvTranspose"]
    kept = {each.name for each in node.attribute}
    if "output_shape" in attributes and given == ("H", "W"):
        assert attributes.keys() - {"channels"} <= kept and "pads" not in kept
    else:
        assert "pads" in kept and kept.isdisjoint({"output_shape", "auto_pad"})

    net = Net()
    x, *weights = inputs(net)
    y = net.op("ConvTranspose", net.affine("Mul", x, net.per_channel(8)), *weights, **attributes)
    alone("fold_affine_before", net, y, sizes=sizes)
    net = Net()
    x, *weights = inputs(net)
    y = net.op("ConvTranspose", net.affine("Add", x, net.per_channel(8)), *weights, **attributes)
    alone("fold_affine_before", net, y, number=0, sizes=sizes)
