"""Models with convolutions in functions, and in bodies that run several times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import graphopt
from graphopt.model.inlining import Inlined, inlined
from tests.builders import compare_outputs, info, make_feeds, model, node, samples, saved, weight
from tests.command import cli

ONE = 16 * 16 * 8 * 8 * 9
"""MACs of one of the convolutions."""


def block(domain: str = "layers", name: str = "Block", opset: int = 17) -> onnx.FunctionProto:
    nodes = [node("Conv", "x w", "c", "conv", pads=[1] * 4), node("Relu", "c", "y", "relu")]
    return helper.make_function(domain, name, ["x", "w"], ["y"], nodes, [helper.make_opsetid("", opset)])


def of_functions(function: onnx.FunctionProto | None = None) -> onnx.ModelProto:
    """Two calls with a convolution each, and a classifier."""
    function = function or block()
    calls = [
        helper.make_node(function.name, inputs.split(), [name], name=name, domain=function.domain)
        for inputs, name in (("x v", "a"), ("a w", "b"))
    ]
    rest = [node("GlobalAveragePool", "b", "p"), node("Flatten", "p", "f")]
    rest.append(node("Gemm", "f k", "y", "classifier"))
    weights = {"v": weight(16, 16, 3, 3), "w": weight(16, 16, 3, 3, seed=1), "k": weight(16, 10)}
    made = model([*calls, *rest], weights, inputs={"x": ["N", 16, 8, 8]}, outputs={"y": ["N", 10]})
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid(function.domain, 1))
    made.metadata_props.add(key="by", value="hand")
    return made


def test_convolutions_in_functions_are_counted_and_cut_to_a_budget() -> None:
    proto = of_functions()
    assert graphopt.scan(proto).totals.macs == 2 * ONE + 160
    assert [row.linear.name for row in graphopt.scan(proto).rows] == ["a/conv", "b/conv", "classifier"]
    given = {"x": samples(32, 16, 8, 8)}
    result = graphopt.optimize(proto, {"macs": 0.7}, given, at=["b/*"], floor="off")
    assert {item.candidate.site.nodes[0] for item in result.report.applied} == {"b/conv"}
    assert result.report.after.macs <= 0.7 * (2 * ONE + 160)


def test_what_a_caller_meets_and_the_metadata_stay(tmp_path: Path) -> None:
    proto = of_functions()
    batch_norm = [node("BatchNormalization", "c s s s s", "n", "norm"), node("Relu", "n", "y", "relu")]
    del proto.functions[0].node[1]
    proto.functions[0].input.append("s")
    proto.functions[0].node.extend(batch_norm)
    for call in proto.graph.node[:2]:
        call.input.append("s")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full(16, 2, np.float32), "s"))
    result = graphopt.optimize(saved(proto, tmp_path / "given.onnx"))
    assert [item.candidate.rewrite for item in result.report.applied] == ["fold_affine"] * 2
    result.save(tmp_path / "made.onnx")
    made = onnx.load(tmp_path / "made.onnx")
    assert (made.graph.input, made.graph.output) == (proto.graph.input, proto.graph.output)
    assert {each.key: each.value for each in made.metadata_props}["by"] == "hand"
    assert not made.functions
    compare_outputs(proto, made, [make_feeds(proto, {"N": 2})])


def test_a_model_of_functions_in_which_nothing_is_to_do_is_written_as_it_was(tmp_path: Path) -> None:
    given = saved(of_functions(), tmp_path / "given.onnx")
    run = cli("optimize", given, "-o", tmp_path / "made.onnx")
    assert run.code == 0
    assert (tmp_path / "made.onnx").read_bytes() == given.read_bytes()


@pytest.mark.parametrize("external_data", ["auto", "always", "never"])
def test_a_model_in_which_nothing_is_to_do_is_handed_out_with_its_functions(
    tmp_path: Path, external_data: Literal["auto", "always", "never"]
) -> None:
    proto = of_functions()
    result = graphopt.optimize(proto)
    assert not result
    assert [name[1] for name in result.model.functions] == ["Block"]
    assert [each.op_type for each in result.model.graph][:2] == ["Block", "Block"]
    result.save(tmp_path / "made.onnx", external_data=external_data)
    made = onnx.load(tmp_path / "made.onnx")
    assert (made.graph.node, made.functions) == (proto.graph.node, proto.functions)


def rectified(opset: int = 17, slope: float = 1.0) -> onnx.ModelProto:
    """The same with an Identity in the function, which can go, and a PRelu of a constant slope."""
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1] * 4),
        node("Constant", "", "s", value=onnx.numpy_helper.from_array(np.array([slope], np.float32))),
        node("Identity", "c", "i", "identity"),
        node("PRelu", "i s", "y", "relu"),
    ]
    return of_functions(
        helper.make_function("layers", "Block", ["x", "w"], ["y"], nodes, [helper.make_opsetid("", opset)])
    )


def unfit(model: ir.Model) -> Inlined:
    """Bodies of another function in the place of the calls."""
    return inlined(ir.from_proto(rectified(slope=0.5)))


def unloadable(model: ir.Model) -> Inlined:
    """Bodies in the place of the calls that onnxruntime can't load."""
    made = inlined(model)
    next(each for each in made.model.graph if each.op_type == "PRelu").op_type = "NoSuch"
    return made


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [(unfit, "without its calls output y differs"), (unloadable, "without its calls onnxruntime can't load")],
)
def test_functions_stay_where_the_model_computes_something_else_without_their_calls(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[ir.Model], Inlined], reason: str
) -> None:
    assert graphopt.optimize(rectified())
    monkeypatch.setattr("graphopt.pipeline.opening.inlined", wrong)
    result = graphopt.optimize(rectified())
    assert not result
    for notes in (result.report.notes, graphopt.scan(rectified()).notes):
        assert any(f"function Block is left as it is: {reason}" in note for note in notes), notes
    assert [each.op_type for each in result.model.graph][:2] == ["Block", "Block"]


def test_random_functions_are_put_in_place_though_no_two_runs_are_alike() -> None:
    proto = rectified()
    proto.functions[0].node[3].CopyFrom(node("RandomNormalLike", "i", "y"))
    assert not any("is left" in note for note in graphopt.scan(proto).notes)


def test_files_are_compared_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("graphopt.pipeline.opening.inlined", unfit)  # the same model for both
    one, other = rectified(), rectified(slope=0.25)
    assert graphopt.verify(one, one)
    assert not graphopt.verify(one, other)
    inputs = {"x": samples(32, 16, 8, 8)}
    assert not graphopt.verify(one, other, inputs)
    assert graphopt.verify(one, one, inputs, budget={"sqnr": 100})
    assert not graphopt.verify(one, other, inputs, budget={"sqnr": 100})


def test_calls_of_functions_with_other_bodies_are_not_taken_for_the_same() -> None:
    """Also where the output tells too little, so that values before it would be compared."""

    def constant(number: float) -> onnx.ModelProto:
        nodes = [
            node("Constant", "", "n", value=onnx.numpy_helper.from_array(np.array([number], np.float32))),
            node("Softmax", "x", "p"),
            node("Ceil", "p", "o"),
            node("Mul", "o n", "y"),
        ]
        function = helper.make_function("layers", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 12)])
        calls = [node("Conv", "x w", "c"), helper.make_node("F", ["c"], ["y"], domain="layers")]
        made = model(
            calls, {"w": weight(4, 3, 1, 1)}, inputs={"x": [1, 3, 4, 4]}, outputs={"y": [1, 4, 4, 4]}
        )
        made.functions.append(function)
        made.opset_import.append(helper.make_opsetid("layers", 1))
        return made

    assert graphopt.verify(constant(1), constant(1))
    assert not graphopt.verify(constant(1), constant(2))


def test_a_function_that_has_to_stay_is_told_and_no_budget_counts_without_it() -> None:
    proto = of_functions(block("com.microsoft", "FusedConv"))
    scan = graphopt.scan(proto)
    assert scan.totals.macs is None
    assert scan.notes == (
        "function FusedConv is left as it is: onnxruntime has an operator of this name, and runs that; "
        "its 1 convolution or matrix product is not counted",
    )
    inputs = {"x": samples(32, 16, 8, 8)}
    for asked in ({"macs": 0.6}, {"sqnr": 20}):
        with pytest.raises(graphopt.InputError, match="function 'FusedConv' is not looked into"):
            graphopt.optimize(proto, asked, inputs)


def test_no_budget_counts_a_loop_that_runs_nobody_knows_how_often(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Conv", "state v", "next", pads=[1] * 4), node("Identity", "go", "again")],
        "body",
        [info("i", [], np.int64), info("go", [], np.bool_), info("state", [1, 16, 8, 8])],
        [info("again", [], np.bool_), info("next", [1, 16, 8, 8])],
    )
    nodes = [node("Loop", "trips - x", "l", "loop", body=body), node("Conv", "l w", "y", pads=[1] * 4)]
    weights = {"v": weight(16, 16, 3, 3), "w": weight(16, 16, 3, 3, seed=1)}
    proto = model(nodes, weights, inputs={"x": [1, 16, 8, 8]}, outputs={"y": [1, 16, 8, 8]})
    proto.graph.input.append(info("trips", [], np.int64))
    run = cli("scan", saved(proto, tmp_path / "given.onnx"))
    assert "how often the body of Loop 'loop' runs is unknown" in " ".join(run.out.split())
    run = cli("optimize", tmp_path / "given.onnx", "--budget", "macs=0.7", "--dry-run")
    run.refused("how often the body of Loop 'loop' runs is unknown")
