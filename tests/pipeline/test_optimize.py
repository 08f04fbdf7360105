"""The whole flow: nothing unverified is saved, whatever a rewrite or a model does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import graphopt
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import BudgetError, InputError
from graphopt.numerics.lowrank.moments import Moments
from graphopt.report import json as documents
from graphopt.report.faces import FACES
from graphopt.rewrites import registry
from graphopt.types import Candidate, Cost, Exactness, NewNode, Rejection, Replacement, Site
from tests.builders import (
    classifier,
    conv_bn,
    info,
    initializers,
    model,
    node,
    nothing_to_do,
    run,
    samples,
    saved,
    weight,
)
from tests.command import cli

Statistics = Mapping[str, Moments]


@dataclass(frozen=True)
class Swap:
    """Puts another operator in the place of every Relu."""

    name: ClassVar[str] = "swap"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    op: str = "Abs"
    first: str = ""
    """Another operator for the first Relu alone."""

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """Every Relu."""
        for name, each in analysis.nodes.items():
            if each.op_type == "Relu":
                op = self.first or self.op if name == "relu" else self.op
                yield Candidate(self.name, Site("main", (name,)), Cost(0), Cost(0), choice={"op": op})

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Statistics | None = None
    ) -> Replacement:
        """The operator of the choice."""
        old = analysis.nodes[candidate.site.nodes[0]]
        constants = {
            "Max": {"%low": np.zeros(1, np.float32)},  # what a Relu does
            "Clip": {"%low": np.array(0, np.float32), "%high": np.array(6, np.float32)},  # that, up to 6
        }.get(str(candidate.choice["op"]), {})
        new = NewNode(str(candidate.choice["op"]), (old.inputs[0].name, *constants), ("%y",))
        return Replacement((new,), constants, {old.outputs[0].name: "%y"})


def then(proto: onnx.ModelProto, step: onnx.NodeProto) -> onnx.ModelProto:
    """The model with one more operator behind it."""
    proto.graph.node[-1].output[0] = step.input[0]
    proto.graph.node.append(step)
    return proto


def twice(proto: onnx.ModelProto) -> onnx.ModelProto:
    return then(proto, node("Relu", "first", "y", "relu2"))


def ops(result: graphopt.Result) -> list[str]:
    return [each.op_type for each in result.model.graph]


def reasons(result: graphopt.Result) -> list[str]:
    return [each.reason for each in (*result.report.declined, *result.report.rejected)]


# --- nothing to do ------------------------------------------------------------------------------------------


def test_nothing_to_do_leaves_the_model_alone(same: Path, tmp_path: Path) -> None:
    result = graphopt.optimize(same)
    assert not result and result.report.changed is False
    assert result.report.applied == () and result.report.passed
    assert result.report.before == result.report.after
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == same.read_bytes()


def test_nothing_to_do_copies_external_data_too(tmp_path: Path) -> None:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "in" / "m.onnx"
    saved(nothing_to_do(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graphopt.optimize(path).save(tmp_path / "out" / "other.onnx")
    assert (tmp_path / "out" / "other.onnx").read_bytes() == path.read_bytes()
    data = [tmp_path / folder / "weights.bin" for folder in ("in", "out")]
    assert data[0].read_bytes() == data[1].read_bytes()


def test_a_second_run_finds_nothing(tmp_path: Path) -> None:
    result = graphopt.optimize(conv_bn())
    assert result
    result.save(tmp_path / "once.onnx")
    again = graphopt.optimize(tmp_path / "once.onnx")
    assert not again
    again.save(tmp_path / "twice.onnx")
    assert (tmp_path / "twice.onnx").read_bytes() == (tmp_path / "once.onnx").read_bytes()


def test_a_budget_that_is_kept_already() -> None:
    assert not graphopt.optimize(nothing_to_do(), {"macs": 1.0, "params": 1.0, "bytes": 1.0})


# --- a model that onnxruntime can't load --------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("build", [conv_bn, nothing_to_do])
@pytest.mark.parametrize("budget", [None, {"macs": 0.5}])
def test_a_model_that_onnxruntime_refuses_is_bad_input(
    build: Callable[..., onnx.ModelProto], batch: int | str, budget: dict[str, float] | None, tmp_path: Path
) -> None:
    proto = build(inputs={"x": [batch, 8, 8, 8]}, outputs={"y": None})
    then(proto, node("DepthToSpace", "r", "y", "deep", blocksize=2, mode="none"))
    path = saved(proto, tmp_path / "deep.onnx")
    with pytest.raises(InputError, match=r"deep\.onnx: onnxruntime can't load the model: .*modes.*; repair"):
        graphopt.optimize(path, budget)
    with pytest.raises(InputError, match="onnxruntime can't load the model"):
        graphopt.scan(proto)


@pytest.mark.parametrize("batch", [1, "N"])
def test_nothing_done_to_a_model_that_onnxruntime_has_no_operator_for_is_told_first(
    batch: int | str, tmp_path: Path
) -> None:
    proto = nothing_to_do(domains=["my.ops"], inputs={"x": [batch, 8, 8, 8]}, outputs={"y": None})
    then(proto, node("Warp", "r", "y", "warp", domain="my.ops"))
    result = graphopt.optimize(proto)
    assert not result
    (warning,) = result.report.warnings
    assert "onnxruntime can't load the model" in warning and "my.ops:Warp" in warning
    assert result.report.unchanged == "not verified, as it can't be run: the model is as it was"
    assert graphopt.scan(proto).notes[0] == warning
    done = cli("optimize", saved(proto, tmp_path / "m.onnx"), "-o", tmp_path / "out.onnx").fine()
    assert done.out.startswith("warning: onnxruntime can't load") and "nothing to do" not in done.out
    checked = cli("check", tmp_path / "m.onnx").fine()
    assert "nothing to do" not in checked.out and checked.out.endswith("1 model: 1 can't be run\n")


@pytest.mark.parametrize("size", [8, "S"])
def test_nothing_done_to_a_model_that_fails_at_every_size_is_told_first(
    size: int | str, tmp_path: Path
) -> None:
    shape = ["N", 8, size, size]
    proto = nothing_to_do(inputs={"x": shape}, outputs={"y": None})
    then(proto, node("Gather", "r i", "y", "pick", axis=1))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([99]), "i"))
    result = graphopt.optimize(proto)
    assert not result
    warning = result.report.warnings[0]
    assert "onnxruntime can't run the model" in warning and "out of data bounds" in warning
    assert result.report.unchanged == "not verified, as it can't be run: the model is as it was"
    done = cli("optimize", saved(proto, tmp_path / "m.onnx"), "-o", tmp_path / "out.onnx").fine()
    assert done.out.startswith("warning: onnxruntime can't run the model") and "nothing to do" not in done.out


def test_a_function_that_hands_its_input_through_is_refused_as_onnxruntime_does(tmp_path: Path) -> None:
    proto = nothing_to_do(domains=["own"], outputs={"y": None})
    then(proto, node("Through", "r", "y unread", "through", domain="own"))
    inner = [node("Sigmoid", "a", "b")]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "Through", ["a"], ["b", "a"], inner, opsets))
    with pytest.raises(InputError, match=r"onnxruntime can't load the model.*; repair it"):
        graphopt.optimize(saved(proto, tmp_path / "m.onnx"))


# --- rewrites of third parties ------------------------------------------------------------------------------


def test_a_third_party_rewrite_takes_part() -> None:
    result = graphopt.optimize(conv_bn(), rewrites=[Swap("Max")], skip=["spell_clip"])
    assert ops(result) == ["Conv", "Max"]
    applied = {a.candidate.rewrite: a for a in result.report.applied}
    assert set(applied) == {"fold_affine", "swap"}
    assert applied["swap"].exactness is Exactness.EXACT
    assert graphopt.verify(conv_bn(), result.model)
    assert ops(graphopt.optimize(conv_bn(), rewrites=[Swap("Max")], skip=["swap"])) == ["Conv", "Relu"]


def test_a_class_and_an_instance_will_do() -> None:
    for given in (Swap, Swap("Abs")):
        assert "swap" in {r.name for r in registry.registry([given]).values()}


def test_rewrites_of_the_same_name_clash() -> None:
    @dataclass(frozen=True)
    class Clash(Swap):
        name: ClassVar[str] = "fold_affine"

    with pytest.raises(InputError, match="two rewrites are called 'fold_affine'"):
        graphopt.optimize(conv_bn(), rewrites=[Clash()])
    with pytest.raises(InputError, match="two rewrites are called 'swap'"):
        graphopt.optimize(conv_bn(), rewrites=[Swap(), Swap("Neg")])


def test_what_is_no_rewrite_is_refused() -> None:
    with pytest.raises(InputError, match="is no rewrite"):
        graphopt.optimize(conv_bn(), rewrites=[object()])  # type: ignore[list-item]


def test_options_of_a_third_party_rewrite() -> None:
    result = graphopt.optimize(conv_bn(), rewrites=[Swap()], options={"swap.op": "Neg"})
    assert result.report.options["rewrites"]["swap"]["op"] == "Neg"


def test_installed_packages_add_theirs(monkeypatch: pytest.MonkeyPatch, folded: Path) -> None:
    class Entry:
        name, value, dist = "swap", "acme:Swap", None

        def load(self) -> type[Swap]:
            return Swap

    monkeypatch.setattr(registry, "entry_points", lambda: [Entry()])
    assert "swap" in {item["name"] for item in json.loads(cli("rewrites", "--json").out)}
    done = cli("optimize", folded, "--dry-run", "--json", "--only", "swap", "--set", "swap.op=Identity")
    assert "failed verification" in json.loads(done.out)["declined"][0]["reason"]


def test_a_wrong_rewrite_is_dropped_and_the_rest_is_kept() -> None:
    proto = twice(conv_bn())
    result = graphopt.optimize(proto, rewrites=[Swap("Neg")], only=["swap", "fold_affine"])
    assert ops(result) == ["Conv", "Relu", "Relu"]
    assert {a.candidate.rewrite for a in result.report.applied} == {"fold_affine"}
    declined = {d.site.nodes: d.reason for d in result.report.declined}
    assert set(declined) == {("relu",), ("relu2",)}
    for reason in declined.values():
        assert reason.startswith("failed verification: relative difference")
    x = {"x": samples(1)}
    np.testing.assert_allclose(run(ir.to_proto(result.model), x)[0], run(proto, x)[0], atol=1e-4, rtol=1e-4)


def test_one_site_of_a_rewrite_is_dropped_and_another_is_kept() -> None:
    result = graphopt.optimize(twice(conv_bn()), rewrites=[Swap("ReluAgain", first="Abs")], only=["swap"])
    assert not result  # an operator that does not exist fails as an output that differs does
    assert all("failed verification" in reason for reason in reasons(result))

    result = graphopt.optimize(twice(conv_bn()), rewrites=[Swap("Max", first="Abs")], only=["swap"])
    assert ops(result) == ["Conv", "BatchNormalization", "Relu", "Max"]
    assert [a.candidate.site.nodes for a in result.report.applied] == [("relu2",)]
    assert [d.site.nodes for d in result.report.declined] == [("relu",)]


def large(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model on an input that is multiplied by 100: inner values far beyond any region's inputs."""
    proto.graph.node[0].input[0] = "scaled"
    proto.graph.node.insert(0, node("Mul", "x hundred", "scaled", "scale"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([100], np.float32), "hundred"))
    return proto


def test_a_rewrite_that_fools_its_region_is_found_and_dropped() -> None:
    result = graphopt.optimize(large(conv_bn()), rewrites=[Swap("Clip")], only=["swap", "fold_affine"])
    assert ops(result) == ["Mul", "Conv", "Relu"] and result.report.passed
    assert [a.candidate.rewrite for a in result.report.applied] == ["fold_affine"]
    (dropped,) = result.report.declined
    assert dropped.rewrite == "swap" and "with it the whole model differs" in dropped.reason


@pytest.mark.usefixtures("differing")
def test_the_command_when_no_single_change_is_guilty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Max(Swap):
        op: str = "Max"

    monkeypatch.setattr(registry, "BUILTIN", (Max,))
    path, out = saved(large(nothing_to_do()), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    out.write_bytes(b"older")
    done = cli("optimize", path, "-o", out, "--report", tmp_path / "report.json")
    done.one_line("graphopt: the rewritten model differs")
    assert "verification failed" in done.out and "wrote" not in done.out
    assert out.read_bytes() == b"older"
    report = json.loads((tmp_path / "report.json").read_text())
    assert done.code == report["exit_code"] == 1 and report["verification"]["passed"] is False


@dataclass(frozen=True)
class Failing(Swap):
    """Raises at one node while it matches, or while it builds; at none that can be told where `at` is ""."""

    name: ClassVar[str] = "failing"
    op: str = "Max"
    at: str = "relu"
    in_match: bool = False

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        if not self.at:
            raise KeyError("oops")
        for each in analysis.nodes.values():
            name = analysis.name(each)
            if self.in_match and name == self.at:
                raise KeyError("oops")
            yield from (found for found in super().match(analysis) if found.site.nodes[0] == name)

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Statistics | None = None
    ) -> Replacement:
        if self.at in candidate.site.nodes:
            raise IndexError("no such axis")
        return super().build(analysis, candidate)


@pytest.mark.parametrize(
    ("rewrite", "reason", "bug"),
    [
        (Failing(), "rewrite failing failed at relu: internal error in", "IndexError: no such axis"),
        (
            Failing(in_match=True),
            "relu: rewrite failing failed to match: internal error in",
            "KeyError: 'oops'",
        ),
        (Failing(at=""), "", "KeyError: 'oops'"),
    ],
    ids=["in build", "in match", "at no node"],
)
def test_a_rewrite_that_raises_costs_its_site_alone(rewrite: Failing, reason: str, bug: str) -> None:
    result = graphopt.optimize(conv_bn(), rewrites=[rewrite])
    assert ops(result) == ["Conv", "Relu"]
    (note,) = [note for note in result.report.notes if "please report" in note]
    assert note.startswith("rewrite failing was left out where it fails") and note.endswith(bug)
    assert any(each.startswith(reason) for each in reasons(result)) or not reason
    assert set(graphopt.scan(conv_bn(), rewrites=[rewrite]).notes) <= {note}


@pytest.mark.parametrize("in_match", [True, False])
def test_a_rewrite_that_raises_at_one_site_is_applied_at_others(in_match: bool) -> None:
    nodes = [node("Relu", "x", "a", "first"), node("Neg", "a", "b"), node("Relu", "b", "c", "second")]
    proto = model([*nodes, node("Neg", "c", "d"), node("Relu", "d", "y", "third")])
    failing = Failing(at="second", in_match=in_match)
    result = graphopt.optimize(proto, rewrites=[failing], skip=["spell_clip"])
    assert [item.candidate.site.nodes for item in result.report.applied] == [("first",), ("third",)]


def test_a_rewrite_for_which_memory_is_short_has_no_bug() -> None:
    @dataclass(frozen=True)
    class Greedy(Failing):
        def build(self, *_: Any) -> Replacement:
            raise MemoryError

    with pytest.raises(MemoryError):
        graphopt.optimize(conv_bn(), rewrites=[Greedy()])


def test_with_a_traceback_wanted_a_rewrite_that_raises_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_TRACEBACK", "1")
    with pytest.raises(IndexError, match="no such axis"):
        graphopt.optimize(conv_bn(), rewrites=[Failing()])


def test_a_rewrite_that_never_ends_is_stopped() -> None:
    @dataclass(frozen=True)
    class Restless(Swap):
        op: str = "Relu"

    result = graphopt.optimize(nothing_to_do(), rewrites=[Restless()])
    assert any("stopped after 20 rounds" in note for note in result.report.notes)


# --- models that are hard to verify -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_weights_without_a_rank_are_refused(value: float) -> None:
    proto = conv_bn()
    weights = initializers(proto)["w"].copy()
    weights[0, 0, 0, 0] = value
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    with pytest.raises(graphopt.BudgetError) as missed:
        graphopt.optimize(proto, {"macs": 0.5})
    exact, best = (
        {(left.rewrite, left.reason) for left in result.report.rejected}
        for result in (graphopt.optimize(proto), missed.value.result)
    )
    reason = "conv: its weights are not finite, or their squares are not"
    assert {("lossless_bottleneck", reason), ("lossless_separable", reason)} <= exact
    assert ("bottleneck", reason) in best


def test_weights_that_a_caller_may_override_are_noted() -> None:
    proto = conv_bn(overridable=["w", "bn/scale"])
    note = '1 site has weights that a caller may override: "freeze_initializers" makes them constants'
    assert note in graphopt.optimize(proto).report.notes and note in graphopt.scan(proto).notes
    assert graphopt.optimize(proto, freeze_initializers=True).report.notes == ()


def test_a_random_model_is_named_in_the_notes() -> None:
    proto = conv_bn()
    proto.graph.node[-1].input[0] = "noisy"
    proto.graph.node.insert(2, node("RandomNormalLike", "n", "noise", "random"))
    proto.graph.node.insert(3, node("Add", "n noise", "noisy", "add"))
    result = graphopt.optimize(proto)
    assert [a.candidate.rewrite for a in result.report.applied] == ["fold_affine"]
    assert result.report.passed
    assert any("random there: y" in note for note in result.report.notes)


def test_custom_operators_are_opaque() -> None:
    proto = then(conv_bn(domains=["my.ops"]), node("Warp", "r", "y", "warp", domain="my.ops"))
    result = graphopt.optimize(proto)
    assert ops(result) == ["Conv", "Relu", "Warp"]
    assert [check.scope for check in result.report.checks] == ["region conv"]
    (first,) = result.report.warnings
    assert first.startswith("the whole model was not run, its regions were: ")
    assert documents.report(result.report, 0)["warnings"] == [first]
    faces = [face(result, "", 0) for face in (FACES["markdown"], FACES["junit"])]
    assert all("whole model was not run" in face for face in faces)
    assert result.report.uncounted_ops["my.ops::Warp"] == 1
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert graphopt.optimize(proto).report.before.macs == 64 * 8 * 8 * 9  # an open batch counts as 1


def test_a_custom_operator_with_open_sizes() -> None:
    proto = conv_bn(domains=["my.ops"], inputs={"x": ["N", 8, "H", "W"]}, outputs={"y": None})
    result = graphopt.optimize(then(proto, node("Warp", "r", "y", "warp", domain="my.ops")))
    assert ops(result) == ["Conv", "Relu", "Warp"]
    assert sum("the whole model was not run" in text for text in result.report.warnings) == 1


@pytest.mark.parametrize(("elements", "runs"), [(8 * 7 * 11, True), (7 * 11, False)])
def test_sizes_at_which_a_model_runs_are_found_where_there_are_any(elements: int, runs: bool) -> None:
    proto = conv_bn(inputs={"x": ["N", 8, "H", "W"]}, outputs={"y": None})
    then(proto, node("Reshape", "r shape", "y", "reshape"))
    target = np.array([1, elements], np.int64)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(target, "shape"))
    report = graphopt.optimize(proto).report
    assert [item.candidate.rewrite for item in report.applied] == ["fold_affine"]
    assert report.before.macs is None, "which of several is a guess"
    assert any("the whole model was not run" in text for text in report.warnings) is not runs
    assert ({check.scope for check in report.checks} > {"model"}) is runs


def test_a_macs_budget_needs_the_sizes() -> None:
    proto = nothing_to_do(inputs={"x": ["N", 8, "H", "W"]})
    with pytest.raises(InputError, match="give shapes=…"):
        graphopt.optimize(proto, {"macs": 0.5})
    result = graphopt.optimize(proto, {"macs": 0.5}, shapes={"x": [1, 8, 16, 16]})
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert graphopt.verify(proto, proto)  # the open sizes stay open
    assert [str(d) for d in result.model.graph.inputs[0].shape] == ["N", "8", "H", "W"]


# --- initializers that are inputs too -----------------------------------------------------------------------

OVERRIDABLE = ["w", "bn/scale", "bn/shift", "bn/mean", "bn/var"]


def test_up_to_ir_3_they_are_constants(tmp_path: Path) -> None:
    proto = conv_bn(overridable=OVERRIDABLE, ir_version=3, opset=7)
    result = graphopt.optimize(proto)
    assert ops(result) == ["Conv", "Relu"]
    result.save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert written.ir_version >= 4
    assert [value.name for value in written.graph.input] == ["x"]
    assert graphopt.verify(proto, written)


def test_what_was_an_input_for_the_format_is_none_though_no_rewrite_replaced_it() -> None:
    """onnxruntime takes no such input up to IR version 3; in the newer one of the result it would."""
    proto = conv_bn(overridable=OVERRIDABLE, ir_version=3, opset=7)
    then(proto, node("Max", "r s", "y", "max"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([2]), "s"))
    proto.graph.input.append(info("s", [1]))
    result = graphopt.optimize(proto)
    assert [value.name for value in result.model.graph.inputs] == ["x"]
    assert "s" in result.model.graph.initializers


@pytest.mark.parametrize("names", [["w"], ["bn/scale"], OVERRIDABLE])
def test_from_ir_4_they_are_left_alone(names: list[str]) -> None:
    proto = conv_bn(overridable=names, ir_version=8)
    result = graphopt.optimize(proto)
    assert not result
    assert any(names[0] in reason and "freeze_initializers" in reason for reason in reasons(result))


@pytest.mark.parametrize("names", [["w"], OVERRIDABLE])
def test_frozen_they_are_constants(names: list[str]) -> None:
    proto = conv_bn(overridable=names, ir_version=8)
    result = graphopt.optimize(proto, freeze_initializers=True)
    assert ops(result) == ["Conv", "Relu"]
    assert [value.name for value in result.model.graph.inputs] == ["x"]
    assert not graphopt.verify(proto, result.model)
    assert graphopt.verify(proto, result.model, freeze_initializers=True)
    assert len(proto.graph.input) == 1 + len(names)


# --- budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["macs", "params", "bytes"])
def test_each_cost_key_is_reached(key: str, scores: Path, tmp_path: Path) -> None:
    result = graphopt.optimize(scores, {key: 0.6}, samples(16))
    result.save(tmp_path / "out.onnx")

    def cost(path: Path) -> int:
        return path.stat().st_size if key == "bytes" else getattr(graphopt.scan(path).totals, key)

    assert cost(tmp_path / "out.onnx") <= 0.6 * cost(scores)
    assert any(a.exactness is Exactness.APPROXIMATE for a in result.report.applied)


def test_several_cost_keys_at_once() -> None:
    report = graphopt.optimize(classifier(), {"macs": 0.7, "params": 0.5}, samples(16)).report
    assert report.after.macs <= 0.7 * report.before.macs
    assert report.after.params <= 0.5 * report.before.params


def test_a_tighter_budget_costs_quality() -> None:
    parts = (0.9, 0.6, 0.2)
    found = [graphopt.optimize(classifier(), {"macs": p}, samples(40), force=True).report for p in parts]
    ratios = [report.after.macs / report.before.macs for report in found]
    quality = [report.quality.sqnr for report in found if report.quality is not None]
    assert ratios == sorted(ratios, reverse=True)
    assert quality == sorted(quality, reverse=True) and len(set(quality)) == 3


def test_the_best_that_was_found_comes_with_the_error() -> None:
    with pytest.raises(BudgetError, match=r"macs 0\.\d+ of the input's, 0\.001 asked for") as caught:
        graphopt.optimize(classifier(), {"macs": 0.001}, samples(16), force=True)
    best = caught.value.result
    assert best and best.report.after.macs < 0.2 * best.report.before.macs
    assert best.report.quality is not None


def test_keep_holds_a_budget_back() -> None:
    with pytest.raises(BudgetError) as caught:
        graphopt.optimize(classifier(), {"macs": 0.3}, samples(16), keep=["conv1"])
    nodes = {each.name: each for each in caught.value.result.model.graph}
    assert "conv1" in nodes
    original, kept = (initializers(p)["w1"] for p in (classifier(), ir.to_proto(caught.value.result.model)))
    np.testing.assert_array_equal(original, kept)


def test_the_same_weights_in_a_branch_are_counted_and_kept() -> None:
    conv = helper.make_graph([node("Conv", "x w", "t", "inner")], "then", [], [info("t", None)])
    relu = helper.make_graph([node("Relu", "x", "e", "e")], "else", [], [info("e", None)])
    branches = node("If", "flag", "y", "if", then_branch=conv, else_branch=relu)
    proto = model([branches], {"w": weight(8, 8, 1, 1), "flag": np.array(True)})
    result = graphopt.optimize(proto)
    assert not result
    assert result.report.before.macs == 64 * 64


def test_steps_are_timed() -> None:
    report = graphopt.optimize(classifier(), {"macs": 0.6}, samples(8), force=True).report
    seconds: dict[str, Any] = dict(report.seconds)
    assert {"analyse", "propose", "build", "commit", "verify", "calibrate", "measure"} <= set(seconds)


def test_the_latency_gate_times_regions_with_large_weights() -> None:
    result = graphopt.optimize(classifier(), {"macs": 0.6}, samples(8), gate="latency", force=True)
    assert result.report.options["gate"] == "latency"
    folded = {a.candidate.site.nodes for a in result.report.applied if a.candidate.rewrite == "fold_affine"}
    slower = {d.site.nodes for d in result.report.declined if "measured slower" in d.reason}
    assert ("conv2", "bn") in folded | slower


def test_a_quantised_model_is_told_that_it_comes_too_late(tmp_path: Path) -> None:
    pair = [node("QuantizeLinear", "x scale zero", "q"), node("DequantizeLinear", "q scale zero", "d")]
    weights = {"w": weight(8, 8, 3, 3), "scale": np.float32(0.05), "zero": np.int8(0)}
    quantised = model([*pair, node("Conv", "d w", "y", "conv")], weights, inputs={"x": [1, 8, 9, 9]})
    path = saved(quantised, tmp_path / "m.onnx")
    operators = "1 DequantizeLinear, 1 QuantizeLinear"
    said = f"the model is quantised ({operators}), and graphopt runs before quantisation"
    assert said in " ".join(cli("scan", path).out.split())
    assert said in " ".join(cli("optimize", path, "--dry-run").out.split())
    assert any(said in note for note in graphopt.optimize(path).report.notes)
    assert not any("quantis" in note for note in graphopt.optimize(conv_bn()).report.notes)


def test_a_result_is_shown_in_a_line(tmp_path: Path) -> None:
    given, path = conv_bn(), saved(conv_bn(), tmp_path / "m.onnx")
    assert repr(graphopt.optimize(given)) == "<Result of a model: 1 rewrites, MACs 36864 → 36864>"
    assert repr(graphopt.optimize(path)).startswith(f"<Result of {path}: 1 rewrites")
    assert repr(graphopt.optimize(nothing_to_do())) == "<Result of a model: unchanged>"
    assert len(repr(graphopt.optimize(path).report.source)) < 200
