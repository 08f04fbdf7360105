"""Models that are valid and odd: inputs that no array is made for, empty axes, types that NumPy lacks."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import BudgetError, InputError, RefusedError
from graphopt.runtime import session
from tests.builders import conv_bn, info, initializers, model, node, nothing_to_do, rng, run, samples, weight


def scaled(then: list[onnx.NodeProto], **options: object) -> onnx.ModelProto:
    """A Conv and a Mul that folds into it, and what comes then, from "d" to "y"."""
    nodes = [node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]), node("Mul", "c s", "d", "mul"), *then]
    return model(nodes, {"w": weight(8, 8, 3, 3), "s": weight(8, 1, 1)}, **options)


def with_input(proto: onnx.ModelProto, name: str, kind: onnx.TypeProto) -> onnx.ModelProto:
    proto.graph.input.append(helper.make_value_info(name, kind))
    return proto


def onnx_of(result: graphopt.Result) -> onnx.ModelProto:
    return ir.to_proto(result.model)


def applied(result: graphopt.Result) -> list[str]:
    return [item.candidate.rewrite for item in result.report.applied]


# --- inputs -------------------------------------------------------------------------------------------------


def test_an_optional_tensor_is_fed() -> None:
    proto = scaled([node("OptionalGetElement", "o", "e"), node("Add", "d e", "y")], opset=18)
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 8, 8, 8]))
    result = graphopt.optimize(with_input(proto, "o", kind))
    assert applied(result) == ["fold_affine"] and result.report.notes == ()
    assert graphopt.verify(proto, result.model)


@pytest.mark.parametrize("opset", [15, 17, 18])
@pytest.mark.parametrize("shape", [["n", 16, 8, 8], ["n", 16, "h", "v"]])
def test_an_optional_tensor_of_open_sizes_is_rewritten_and_fitted(opset: int, shape: list[int | str]) -> None:
    nodes = [node("OptionalGetElement", "o", "x"), node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1])]
    weights = {"w": weight(16, 16, 3, 3), "s": weight(16, 1, 1)}
    proto = model([*nodes, node("Mul", "c s", "y")], weights, inputs={}, outputs={"y": None}, opset=opset)
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, shape))
    proto = with_input(proto, "o", kind)
    result = graphopt.optimize(proto)
    assert applied(result) == ["fold_affine"]
    assert graphopt.verify(proto, result.model)
    given = {"o": samples(32, 16, 8, 8)}
    cut = graphopt.optimize(proto, {"macs": 0.7}, given, only=["bottleneck"], force=True)
    assert cut.report.after.macs is not None and cut.report.before.macs is not None
    assert cut.report.after.macs <= 0.7 * cut.report.before.macs


@pytest.mark.parametrize("optional", [False, True])
def test_a_sequence_is_left_unfed(optional: bool) -> None:
    steps = [node("OptionalGetElement", "o", "q")] if optional else [node("Identity", "o", "q")]
    steps += [node("SequenceLength", "q", "n"), node("Cast", "n", "f", to=1), node("Add", "d f", "y")]
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 8]))
    kind = helper.make_optional_type_proto(kind) if optional else kind
    proto = with_input(scaled(steps, opset=18), "o", kind)
    result = graphopt.optimize(proto)
    assert "fold_affine" in applied(result)
    assert any("'o' takes" in text for text in result.report.warnings)
    with pytest.raises(InputError, match=r"'o' takes .*Sequence.*inputs are arrays; exact rewrites"):
        graphopt.optimize(proto, calibration={"x": samples(4), "o": samples(4)})


def test_an_input_without_a_shape_is_asked_for_by_name() -> None:
    proto = scaled([node("Mul", "d z", "y")], inputs={"x": [1, 8, 8, 8], "z": None})
    for call in (lambda: graphopt.verify(proto, proto), lambda: graphopt.bench(proto, proto, repeat=1)):
        with pytest.raises(InputError, match="input 'z' declares no shape: give its sizes"):
            call()
    assert any("'z' declares no shape" in text for text in graphopt.optimize(proto).report.warnings)
    assert graphopt.verify(proto, graphopt.optimize(proto, shapes={"z": [1]}).model, shapes={"z": [1]})


def test_a_budget_names_the_input_whose_size_it_needs() -> None:
    with pytest.raises(InputError, match=r"x\[0\], x\[2\], x\[3\] is unknown"):
        graphopt.optimize(conv_bn(inputs={"x": None}, outputs={"y": None}), {"macs": 0.5})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("budget", [None, {"macs": 0.5}], ids=str)
def test_no_samples_at_all_are_served(budget: dict[str, float] | None) -> None:
    shape = [0, 8, 8, 8]
    result = graphopt.optimize(conv_bn(inputs={"x": shape}, outputs={"y": shape}), budget)
    assert "fold_affine" in applied(result)


@pytest.mark.filterwarnings("error")
def test_weights_that_hardly_are_numbers_make_no_warning() -> None:
    proto = conv_bn()
    (kernel,) = (tensor for tensor in proto.graph.initializer if tensor.name == "w")
    kernel.CopyFrom(numpy_helper.from_array(np.float32(1e-40) * numpy_helper.to_array(kernel), "w"))
    assert applied(graphopt.optimize(proto)) == ["fold_affine"]


def test_a_map_without_pixels_on_which_onnxruntime_runs_no_convolution_is_left() -> None:
    proto = conv_bn(inputs={"x": [1, 8, 0, 8]}, outputs={"y": [1, 8, 0, 8]})
    result = graphopt.optimize(proto)
    assert applied(result) == [] and not result.report.checks


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_empty_input_beside_another(calibrated: bool) -> None:
    steps = [node("ReduceSum", "z", "q", keepdims=0), node("Add", "d q", "y")]
    proto = scaled(steps, inputs={"x": ["N", 8, 8, 8], "z": ["N", 0]})
    given = {"x": samples(8), "z": np.zeros((8, 0), np.float32)} if calibrated else None
    result = graphopt.optimize(proto, {"macs": 0.9}, given)
    assert "fold_affine" in applied(result)


# --- weights ------------------------------------------------------------------------------------------------


def test_a_convolution_to_no_channels_is_left() -> None:
    nodes = [
        node("Conv", "x w", "a", "conv", pads=[1, 1, 1, 1]),
        node("Conv", "x v", "b", "empty", pads=[1, 1, 1, 1]),
        node("Concat", "a b", "y", axis=1),
    ]
    proto = model(nodes, {"w": weight(8, 8, 3, 3), "v": np.zeros((0, 8, 3, 3), np.float32)})
    result = graphopt.optimize(proto)
    found = run(onnx_of(result), {"x": samples(1)})
    np.testing.assert_allclose(found[0], run(proto, {"x": samples(1)})[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("low_rank", [False, True])
def test_bfloat16_weights_are_left(low_rank: bool) -> None:
    proto = conv_bn(inputs=[half("x")], outputs=[half("y")], opset=22, ir_version=10)
    kernel = np.outer(rng(0).standard_normal(8), rng(1).standard_normal(72)).reshape(8, 8, 3, 3)
    for tensor in proto.graph.initializer:
        given = kernel if low_rank and tensor.name == "w" else numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(given.astype(ml_dtypes.bfloat16), tensor.name))
    result = graphopt.optimize(proto)
    assert not [note for note in result.report.notes if "please report" in note]
    assert set(initializers(onnx_of(result))) == set(initializers(proto))


def half(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [1, 8, 8, 8])


def test_open_sizes_in_front_of_a_gemm_are_left() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Flatten", "c", "f"),
        node("Gemm", "f v", "y", transB=1),
    ]
    weights = {"w": weight(4, 3, 3, 3), "v": weight(5, 4 * 7 * 7)}
    result = graphopt.optimize(model(nodes, weights, inputs={"x": ["N", 3, "H", "W"]}))
    assert not [note for note in result.report.notes if "please report" in note]


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub"])
@pytest.mark.parametrize("join", ["Flatten", "Reshape"])
def test_a_constant_of_one_row_a_sample_in_front_of_a_gemm(op: str, join: str) -> None:
    nodes = [
        node(op, "x k", "a"),
        node(join, "a" if join == "Flatten" else "a sizes", "f"),
        node("Gemm", "f v", "y"),
    ]
    weights = {"k": weight(4, 8), "v": weight(8, 5)}
    weights |= {"sizes": np.array([4, 8])} if join == "Reshape" else {}
    proto = model(nodes, weights, inputs={"x": [4, 8]})
    assert graphopt.verify(proto, graphopt.optimize(proto).model)


@pytest.mark.parametrize("batch", ["N", 1, 2])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_three_calibration_inputs_do(batch: str | int, count: int) -> None:
    """Two to fit on, and one to measure on; with a fixed batch as many batches."""
    proto = conv_bn(inputs={"x": [batch, 8, 8, 8]}, outputs={"y": [batch, 8, 8, 8]})
    if count < (4 if batch == 2 else 3):
        with pytest.raises(InputError, match="too few"):
            graphopt.optimize(proto, {"macs": 0.8}, samples(count))
    else:
        with contextlib.suppress(
            BudgetError
        ):  # what so few inputs tell of a layer may not hold on the others
            assert graphopt.optimize(proto, {"macs": 0.8}, samples(count)).report.quality is not None


# --- claims of inner shapes ---------------------------------------------------------------------------------


def saved(result: graphopt.Result, folder: Path) -> onnx.ModelProto:
    result.save(folder / "out.onnx")
    return onnx.load(folder / "out.onnx")


def shapes_of(graph: onnx.GraphProto) -> dict[str, list[int | str | None]]:
    """The shapes that inner values declare, by name; None for a size that may be any."""
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in graph.value_info
    }


def test_sizes_of_an_earlier_export_are_not_written_on(tmp_path: Path) -> None:
    """The input was opened later, and a name was put where it does not hold."""
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Mul", "c s", "d", "mul"),
        node("Relu", "d", "r", "relu"),
        node("Neg", "r", "y", "neg"),
    ]
    weights = {"w": weight(8, 8, 3, 3), "s": weight(8, 1, 1)}
    proto = model(nodes, weights, inputs={"x": ["n", 8, "h", "w"]}, outputs={"y": ["n", 8, 4, 4]})
    proto.graph.value_info.extend(
        [info("c", [1, 8, 4, 4]), info("d", [1, 8, 4, 4]), info("r", ["n", 8, "h", 4])]
    )
    result = graphopt.optimize(proto)
    assert applied(result) == ["fold_affine"]
    written = saved(result, tmp_path)
    assert shapes_of(written.graph) == {name: ["n", 8, None, None] for name in "dr"}
    assert list(written.graph.output) == list(proto.graph.output)  # the interface, whatever it says


def test_claims_that_do_not_hold_are_dropped_before_anything_is_built_on_them(tmp_path: Path) -> None:
    """onnxruntime, told that there is one row, takes that for a constant, and fails at three."""
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c s b m v", "n", "norm"),
        node("Relu", "n", "r", "relu"),
        node("Shape", "r", "all", "shape"),
        node("Gather", "all first", "rows", "rows"),
        node("Concat", "rows rest", "target", "target", axis=0),
        node("Reshape", "r target", "q", "reshape"),
        node("ReduceMean", "q", "y", "mean", axes=[2], keepdims=0),
    ]
    norm = {name: np.full(8, 2.0, np.float32) for name in "sbmv"}
    held = {"w": weight(8, 8, 3, 3), **norm, "first": np.array([0]), "rest": np.array([8, -1])}
    proto = model(nodes, held, inputs={"x": ["n", 8, "h", "w"]}, outputs={"y": ["n", 8]})
    proto.graph.value_info.extend(info(name, [1, 8, 8, 8]) for name in "cnr")
    result = graphopt.optimize(proto)
    assert applied(result) == ["fold_affine", "fold_sizes"]
    (note,) = (note for note in result.report.notes if "earlier export" in note)
    assert "3 inner values (c, …)" in note and note.endswith("left out of the result")
    assert shapes_of(saved(result, tmp_path).graph).keys() <= {"r", "n"}
    assert [1, 8, 8, 8] not in shapes_of(saved(result, tmp_path).graph).values()


def test_claims_in_bodies_are_put_right(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c", "conv"), node("Mul", "c s", "d", "mul"), node("Relu", "d", "e", "relu")]
    branch = model([*nodes, node("Neg", "e", "t", "neg")], outputs={"t": None}).graph
    branch.value_info.append(info("e", [1, 8, 6, 6]))
    del branch.input[:]
    other = model([node("Identity", "x", "o")], outputs={"o": None}).graph
    del other.input[:]
    weights = {"w": weight(8, 8, 3, 3), "s": weight(8, 1, 1)}
    inputs = [info("x", [1, 8, "h", "w"]), info("p", [], bool)]
    outer = [node("If", "p", "y", "if", then_branch=branch, else_branch=other)]
    result = graphopt.optimize(model(outer, weights, inputs=inputs))
    assert applied(result) == ["fold_affine"]
    (body,) = (
        a.g for n in saved(result, tmp_path).graph.node for a in n.attribute if a.g.node[0].op_type == "Conv"
    )
    assert shapes_of(body) == {"e": [1, 8, None, None]}


def test_claims_of_a_model_that_nothing_changes_stay(tmp_path: Path) -> None:
    proto = nothing_to_do(inputs={"x": ["n", 8, "h", "w"]})
    proto.graph.value_info.append(info("c", [1, 8, 8, 8]))
    result = graphopt.optimize(proto)
    assert not result and saved(result, tmp_path) == proto
    assert any(note.endswith("left in the file, which stays as it was") for note in result.report.notes)


def resized(*claimed: onnx.ValueInfoProto) -> onnx.ModelProto:
    """Exact rewrites find nothing in it."""
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("Shape", "x", "s", "shape"),
        helper.make_node("Resize", ["c", "", "", "s"], ["y"], "resize"),
    ]
    proto = model(nodes, {"w": weight(8, 8, 3, 3)}, inputs={"x": ["n", 8, "h", "w"]})
    proto.graph.value_info.extend(claimed)
    return proto


def test_a_model_that_onnxruntime_refuses_for_its_claims_is_written_without_them(tmp_path: Path) -> None:
    """Every command takes it, and says so; what is compared with it is taken as it is."""
    given, out = resized(info("s", [5], np.int64)), tmp_path / "out.onnx"
    onnx.save(given, tmp_path / "in.onnx")
    result = graphopt.optimize(tmp_path / "in.onnx")
    assert result and not result.report.applied
    assert len(result.report.checks) == 2 and result.report.passed
    result.save(out)
    note = "does not follow from its inputs, as if left from an earlier export, and onnxruntime refuses the "
    assert any(note in each and "left out of the result" in each for each in result.report.notes)
    assert any(note in each for each in graphopt.scan(given).notes)
    verified = graphopt.verify(given, out)
    assert verified and any(note in each for each in verified.notes)
    assert not graphopt.verify(given, given)
    assert graphopt.bench(given, out, repeat=1).ratio > 0


def test_a_model_that_onnxruntime_refuses_for_a_type_that_it_declares_is_refused_by_every_command() -> None:
    given = resized(info("c", ["n", 8, "h", "w"], np.float16))
    for call in (graphopt.scan, graphopt.optimize, lambda it: graphopt.verify(it, it)):
        with pytest.raises(InputError, match=r"onnxruntime can't load .*; repair it, or export it again"):
            call(given)


@pytest.mark.parametrize(
    "operator",
    [
        node("Gelu", "x", "m", "custom", domain="com.microsoft"),
        node("QuickGelu", "x", "m", "custom", domain="com.microsoft", alpha=1.7),
        node("FusedConv", "x f", "m", "custom", domain="com.microsoft", activation="Relu", pads=[1] * 4),
    ],
    ids=lambda each: each.op_type,
)
def test_macs_behind_an_operator_without_a_rule_are_those_of_a_run(operator: onnx.NodeProto) -> None:
    """The input was opened later; what is behind the operator was left as it was."""
    weights = {"w": weight(16, 8, 3, 3)}
    if operator.op_type == "FusedConv":
        weights["f"] = weight(8, 8, 3, 3)
    nodes = [operator, node("Conv", "m w", "y", "conv", pads=[1] * 4)]
    proto = model(nodes, weights, inputs={"x": ["n", 8, "h", "w"]}, domains=["com.microsoft"])
    proto.graph.value_info.append(info("m", [1, 8, 112, 112]))
    macs = 8 * 16 * 9 * 6 * 5
    sizes = {"x": (1, 8, 6, 5)}
    assert graphopt.scan(proto, shapes=sizes).totals.macs == macs
    report = graphopt.optimize(proto, shapes=sizes).report
    assert report.before.macs == macs
    assert any("1 inner value (m) does not follow from its inputs" in each for each in report.notes)


@pytest.mark.parametrize("given", [samples(24, 32), None], ids=["inputs", "synthetic inputs"])
def test_matrix_products_of_a_vector_are_left_under_a_budget(given: np.ndarray | None) -> None:
    nodes = [node("MatMul", "x f", "h"), node("Relu", "h", "r"), node("MatMul", "r g", "y")]
    proto = model(nodes, {"f": weight(32, 16), "g": weight(16, 8)}, inputs={"x": [32]})
    with pytest.raises(BudgetError) as missed:
        graphopt.optimize(proto, {"macs": 0.7}, given)
    reasons = [each.reason for each in missed.value.result.report.rejected if each.rewrite == "bottleneck"]
    assert len(reasons) == 2
    assert all(
        "it reads a vector, which has no axis along which samples could lie" in each for each in reasons
    )


def calling(body: str) -> onnx.ModelProto:
    """A model with an operator that nobody knows before its second convolution."""
    function = """<domain: "l", opset_import: ["" : 17, "my" : 1]>
        f (x, w) => (y) { c = Conv <pads = [1, 1, 1, 1]> (x, w) y = my.Foo (c) }"""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "my" : 1, "l" : 1]>
        g (float[n, 8, 6, 6] x) => (float[] y) {{ {body} y = Conv <pads = [1, 1, 1, 1]> (a, w) }}
        {function if "l.f" in body else ""}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(weight(8, 8, 3, 3), "w"))
    return proto


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(
    "body",
    ["c = Conv <pads = [1, 1, 1, 1]> (x, w) a = my.Foo (c)", "a = l.f (x, w)"],
    ids=["graph", "function"],
)
def test_an_operator_that_nobody_knows_is_named(body: str, in_file: bool, tmp_path: Path) -> None:
    """In a function as in the graph, and where its sizes are missed."""
    given: onnx.ModelProto | Path = calling(body)
    if in_file:
        onnx.save(given, tmp_path / "in.onnx")
        given = tmp_path / "in.onnx"
    said = "onnxruntime can't load the model: .*my:Foo.* is not a registered function/op"
    (note,) = (each for each in graphopt.scan(given).notes if "can't load" in each)
    assert re.fullmatch(said, note)
    assert re.fullmatch(said, graphopt.optimize(given).report.unloaded)
    unknown = "MACs need every size, and that of 'a' is unknown: no rule tells it, nor does a run: "
    with pytest.raises(InputError, match=unknown + said):
        graphopt.optimize(given, {"macs": 0.6}, samples(40, 8, 6, 6))


def test_why_a_function_with_an_operator_that_nobody_knows_is_not_loaded_is_the_same_at_each_run() -> None:
    """onnxruntime names all types that may come out, in another order each time."""
    whole = session.structure(ir.from_proto(calling("a = l.f (x, w)")))
    with pytest.raises(InputError, match=r"type inference failed$") as failed:
        session.session(whole, optimised=False)
    assert not isinstance(failed.value, RefusedError)
