"""The pass of onnx_ir: in place, honest about what it changed, and harmless when it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

import graphopt
from graphopt import BudgetError, Candidate, Cost, Exactness, NewNode, Replacement, Site, VerificationError
from graphopt.integrations.ir_pass import GraphOptPass
from tests.builders import classifier, conv_bn, model, node, nothing_to_do, samples, weight
from tests.places import MODELS


def content(given: ir.Model) -> bytes:
    return ir.to_proto(given).SerializeToString(deterministic=True)


def overridable() -> onnx.ModelProto:
    return conv_bn(overridable=["w"])


def with_function() -> onnx.ModelProto:
    """A Conv and a BatchNormalization, and a function of the model's own behind them."""
    proto = conv_bn()
    proto.graph.node[2].CopyFrom(node("Own", "n", "y", "own", domain="own"))
    proto.graph.node[2].domain = "own"
    opset = onnx.helper.make_opsetid("", 17)
    body = [node("Relu", "a", "b", "inner")]
    proto.functions.append(onnx.helper.make_function("own", "Own", ["a"], ["b"], body, [opset]))
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
    return proto


def returns_input() -> onnx.ModelProto:
    """An output that is a folded Conv's, and one that is an input."""
    nodes = [
        node("Conv", "x w", "c", "conv"),
        node("Mul", "c s", "y", "scale"),
        node("Identity", "x", "z", "same"),
    ]
    weights = {"w": weight(8, 8, 1, 1), "s": np.float32([3])}
    return model(nodes, weights, outputs={"y": [1, 8, 8, 8], "z": [1, 8, 8, 8]})


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (conv_bn, True),
        (classifier, True),
        (with_function, True),
        (returns_input, True),
        (lambda: nothing_to_do(outputs={"y": [1, 8, 8, 8]}), False),
        (overridable, False),
    ],
)
def test_modified_exactly_when_the_model_changed(build: Callable[[], onnx.ModelProto], changes: bool) -> None:
    given = ir.from_proto(build())
    graph, before = given.graph, content(given)
    result = GraphOptPass()(given)
    assert result.model is given
    assert given.graph is graph
    assert result.modified is changes
    assert (content(given) != before) is changes
    assert result.report.changed is changes
    onnx.checker.check_model(ir.to_proto(given))
    assert graphopt.verify(build(), given)
    again = GraphOptPass()(given)
    assert not again.modified


@pytest.mark.parametrize("name", ["inception-digits", "resnet-digits"])
def test_the_same_as_optimize(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    given = ir.load(path)
    GraphOptPass(keep=["/block1/*"])(given)
    result = graphopt.optimize(ir.load(path), keep=["/block1/*"])
    assert content(given) == content(result.model)
    straight = graphopt.optimize(path, keep=["/block1/*"])  # whose input's digest is that of the file
    for each in (result.model, straight.model):
        each.metadata_props.clear()
    assert content(result.model) == content(straight.model)


def test_between_other_passes() -> None:
    given = ir.load(MODELS / "resnet-digits.onnx")
    result = ir.passes.Sequential(
        common.CommonSubexpressionEliminationPass(),
        GraphOptPass(),
        common.DeduplicateInitializersPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
        common.CheckerPass(),
    )(given)
    assert result.model is given
    assert result.modified
    assert "BatchNormalization" not in {node.op_type for node in given.graph}
    assert graphopt.verify(MODELS / "resnet-digits.onnx", given)


def test_a_manager_stops_when_nothing_changes() -> None:
    given = ir.from_proto(conv_bn())
    runs: list[bool] = []

    class Counted(GraphOptPass):
        def call(self, model: ir.Model) -> Any:
            result = super().call(model)
            runs.append(result.modified)
            return result

    assert ir.passes.PassManager([Counted()], steps=5)(given).modified
    assert runs == [True, False]


def test_as_a_function() -> None:
    given = ir.from_proto(conv_bn())
    before = content(given)
    result = ir.passes.functionalize(GraphOptPass())(given)
    assert result.modified
    assert content(given) == before != content(result.model)


def test_a_budget() -> None:
    given = ir.from_proto(classifier())
    result = GraphOptPass({"macs": 0.8}, samples(40), seed=3)(given)
    before, after = result.report.before.macs, result.report.after.macs
    assert before and after and after <= 0.8 * before
    assert graphopt.scan(given).totals.macs == after


def test_weights_that_nothing_touched_stay_external(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c scale shift mean var", "n", "bn"),
        node("Conv", "n v", "y", "other", pads=[1, 1, 1, 1]),
    ]
    weights = {name: weight(8, 8, 3, 3, seed=seed) for seed, name in enumerate("wv")}
    weights |= {name: np.full(8, 2, np.float32) for name in ("scale", "shift", "mean", "var")}
    path = tmp_path / "model.onnx"
    ir.save(ir.from_proto(model(nodes, weights)), path, external_data="model.data", size_threshold_bytes=100)
    given = ir.load(path)
    mine = given.graph.initializers["v"].const_value
    assert isinstance(mine, ir.ExternalTensor)
    assert GraphOptPass()(given).modified
    assert given.graph.initializers["v"].const_value is mine
    assert not isinstance(given.graph.node("conv").inputs[1].const_value, ir.ExternalTensor)
    assert graphopt.verify(path, given)


@dataclass(frozen=True)
class Wrong:
    """Puts Neg in a Relu's place, and says that it is equal on some inputs."""

    name: ClassVar[str] = "wrong"
    exactness: ClassVar[Exactness] = Exactness.EXPANDING
    condition: ClassVar[str] = "on inputs that nobody gives"

    def match(self, analysis: Any) -> Any:
        for name, found in analysis.nodes.items():
            if found.op_type == "Relu":
                yield Candidate(self.name, Site(analysis.graph_of(found), (name,)), Cost(0), Cost(0))

    def build(self, analysis: Any, candidate: Candidate, statistics: object = None) -> Replacement:
        (relu,) = (analysis.nodes[name] for name in candidate.site.nodes)
        made = NewNode("Neg", (relu.inputs[0].name,), ("negative",))
        return Replacement((made,), {}, {relu.outputs[0].name: "negative"})


def test_a_failed_verification_leaves_the_model_as_it_was() -> None:
    given = ir.from_proto(conv_bn())
    before = content(given)
    wrong = GraphOptPass(rewrites=[Wrong], only=["wrong"], at=["relu"])
    with pytest.raises(ir.passes.PassError, match="differs") as raised:
        wrong(given)
    assert isinstance(raised.value.__cause__, VerificationError)
    assert content(given) == before


def test_a_missed_budget_in_a_sequence() -> None:
    given = ir.from_proto(classifier())
    with pytest.raises(ir.passes.PassError) as raised:
        ir.passes.Sequential(GraphOptPass(), GraphOptPass({"macs": 0.0001}))(given)
    mine = raised.value.__cause__
    assert isinstance(mine, ir.passes.PassError)
    assert isinstance(mine.__cause__, BudgetError)
    assert "BatchNormalization" not in {node.op_type for node in given.graph}  # the first pass stands


def test_a_model_that_makes_no_sense() -> None:
    proto = conv_bn()
    proto.graph.node[0].op_type = "Convv"
    with pytest.raises(ir.passes.PassError, match="Convv") as raised:
        GraphOptPass()(ir.from_proto(proto))
    assert isinstance(raised.value.__cause__, graphopt.InputError)


def test_an_unknown_option_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="budgett"):
        GraphOptPass(budgett={"macs": 0.5})
