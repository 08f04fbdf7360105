"""What quality is measured on where an output tells nothing of it: rows picked by content, orders, texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import BudgetError, InputError
from graphopt.calibration import inputs as calibration_inputs
from graphopt.model import io
from graphopt.report.results import Report
from graphopt.runtime import session
from graphopt.types import Quality
from graphopt.verification import quality
from graphopt.verification.outputs import class_scores
from tests.builders import Array, info, model, parsed, samples, weight

LAYERS = (
    "c1 = Conv <pads=[1, 1, 1, 1]> (x, w1)",
    "r1 = Relu (c1)",
    "c2 = Conv <pads=[1, 1, 1, 1]> (r1, w2)",
    "r2 = Relu (c2)",
)
SCORES = ("p = GlobalAveragePool (r2)", "f = Flatten (p)", "scores = Gemm <transB=1> (f, wg)")
MAP = ("c3 = Conv (r2, wh)", "s = Reshape (c3, flat)")
INPUTS = samples(24, 4, 8, 8, seed=3)
NUMBERS = {"flat": np.array([-1]), "limit": np.float32(0.1), "two": np.array([2]), "three": np.array([3])}


def network(
    *lines: str,
    outputs: Mapping[str, Any] | list[onnx.ValueInfoProto],
    weights: Mapping[str, Array] | None = None,
    batch: int | str = 1,
    **options: Any,
) -> onnx.ModelProto:
    """Two layers that can be cut, and the operators of the text behind them."""
    layers = {"w1": weight(24, 4, 3, 3), "w2": weight(24, 24, 3, 3, seed=1)}
    heads = {"wg": weight(6, 24, seed=2), "wh": weight(1, 24, 1, 1, seed=4), **NUMBERS, **(weights or {})}
    nodes = parsed(*LAYERS, *lines)
    read = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in {**layers, **heads}.items() if name in read}
    return model(nodes, kept, inputs={"x": [batch, 4, 8, 8]}, outputs=outputs, **options)


def cut(proto: onnx.ModelProto, inputs: Any = INPUTS, **options: Any) -> Report:
    """The report of a network of fewer MACs."""
    return graphopt.optimize(proto, {"macs": 0.8}, inputs, only=["bottleneck"], **options).report


def sqnr(report: Report) -> float:
    """What was measured of a network that the budget asked for."""
    assert report.quality is not None and report.quality.sqnr is not None
    assert report.after.macs is not None and report.after.macs <= 0.8 * (report.before.macs or 0)
    return report.quality.sqnr


def off(proto: onnx.ModelProto, name: str = "w2", part: float = 0.05) -> onnx.ModelProto:
    """The same with weights that are a little off."""
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    tensor = next(each for each in found.graph.initializer if each.name == name)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(array + part * weight(*array.shape, seed=9), name))
    return found


def measured(one: onnx.ModelProto, other: onnx.ModelProto, *, scores: bool = False) -> Quality:
    first, second = (io.load(proto).model for proto in (one, other))
    given = calibration_inputs.whole(INPUTS, first)
    return quality.measure(first, second, given, given.held_out, scores=scores)


PICKED = {
    "NonZero": ("m = Greater (s, limit)", "i = NonZero (m)", "t = Transpose (i)", "y = GatherND (s, t)"),
    "Compress": ("m = Greater (s, limit)", "y = Compress (s, m)"),
    "Where of a mask": ("m = Greater (s, limit)", "n = NonZero (m)", "y = Cast <to=1> (n)"),
    "TopK": ("y, i = TopK (s, three)",),
    "places of TopK": ("v, i = TopK (s, three)", "y = Identity (i)"),
    "a mask": ("y = Greater (s, limit)",),
    "ArgMax": ("y = ArgMax <axis=0, keepdims=0> (s)",),
    "Unique": ("q = Round (s)", "y = Unique (q)"),
}


@pytest.mark.parametrize("name", PICKED)
def test_what_is_picked_by_content_is_measured_before_it_is(name: str) -> None:
    lines = PICKED[name]
    kind = {"a mask": np.bool_, "ArgMax": np.int64, "places of TopK": np.int64}.get(name, np.float32)
    proto = network(*MAP, *lines, outputs=[info("y", None, kind)])
    found = measured(proto, off(proto))
    assert found.measured_by == {"y": ("s",)} and not found.unmeasured
    assert found.sqnr is not None and 15 < found.sqnr < 40
    assert measured(proto, proto).sqnr == np.inf


def test_a_budget_on_picked_rows_is_measured() -> None:
    report = cut(network(*MAP, *PICKED["NonZero"], outputs={"y": None}))
    assert 5 < sqnr(report) < 80
    assert "quality: output 'y' is measured by what it is made of: s" in report.notes


def boxes() -> tuple[str, ...]:
    """Boxes and scores of 64 places, and those of them that overlap least."""
    return (
        "h = Conv (r2, wb)",
        "a = Reshape (h, five)",
        "b, o = Split <axis=1> (a, parts)",
        "e = Transpose <perm=[0, 2, 1]> (b)",
        "i = NonMaxSuppression (e, o, most, overlap, limit)",
        "j = Slice (i, two, three, one)",
        "k = Squeeze (j, one)",
        "g = Squeeze (e, zero)",
        "y = Gather (g, k)",
    )


DETECTOR = {
    "wb": weight(5, 24, 1, 1, seed=5),
    "five": np.array([1, 5, 64]),
    "parts": np.array([4, 1]),
    "most": np.array([10]),
    "overlap": np.array([0.5], np.float32),
    "limit": np.array([0.0], np.float32),
    "one": np.array([1]),
    "zero": np.array([0]),
}


def test_boxes_and_scores_are_measured_before_some_are_suppressed() -> None:
    proto = network(*boxes(), outputs={"y": ["k", 4]}, weights=DETECTOR)
    found = measured(proto, off(proto))
    assert set(found.measured_by["y"]) == {"g", "e", "o"}
    assert found.sqnr is not None and 15 < found.sqnr < 40


def test_layers_behind_a_decision_are_measured_on_the_rows_of_the_original() -> None:
    """A detector of two stages: the second reads what the first picks."""
    lines = (*MAP, "v, i = TopK (s, three)", "t = Unsqueeze (i, zero)", "q = Reshape (r2, rows)")
    lines += (
        "z = Transpose (q)",
        "k = Squeeze (t, zero)",
        "n = Gather (z, k)",
        "y = Gemm <transB=1> (n, wg)",
    )
    extra = {"zero": np.array([0]), "rows": np.array([24, 64])}
    proto = network(*lines, outputs={"y": [3, 6]}, weights=extra)
    found = measured(proto, off(proto))
    assert set(found.measured_by["y"]) == {"y", "s", "z"}
    assert found.sqnr is not None and 15 < found.sqnr < 40  # of other rows little would be left
    picked = measured(proto, off(proto, "wh", 2.0))
    assert picked.sqnr is not None and picked.sqnr < 0  # what it picks by counts too
    assert 5 < sqnr(cut(proto)) < 80


COUNTED = ("m = Greater (s, limit)", "c = Cast <to=7> (m)", "k = ReduceSum <keepdims=1> (c)")
ROWS = {
    "Compress": ("m = Greater (s, limit)", "v = Compress (s, m)"),
    "Compress of several": (
        "m1 = Greater (s, limit)",
        "m2 = Less (s, three)",
        "m3 = And (m1, m2)",
        "m = Not (m3)",
        "v = Compress (s, m)",
    ),
    "NonZero": ("m = Greater (s, limit)", "i = NonZero (m)", "t = Transpose (i)", "v = GatherND (s, t)"),
    "TopK": (*COUNTED, "v, i = TopK (s, k)"),
    "Slice": (*COUNTED, "v = Slice (s, zero, k)"),
    "Range": (*COUNTED, "q = Squeeze (k)", "r = Range (none, q, once)", "v = Cast <to=1> (r)"),
    "Where": (
        "m = Greater (s, limit)",
        "c = Where (m, once, none)",
        "k = ReduceSum <keepdims=1> (c)",
        "v = Slice (s, zero, k)",
    ),
    "a rounded number": (
        "e = ReduceMax <keepdims=1> (s)",
        "f = Ceil (e)",
        "k = Cast <to=7> (f)",
        "v = Slice (s, zero, k)",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_layers_behind_a_condition_are_measured_on_the_rows_of_the_original(name: str) -> None:
    """A threshold that sizes depend on decides, whatever layers follow."""
    lines = (*MAP, *ROWS[name], "n = Reshape (v, column)", "y = MatMul (n, wc)")
    extra = {"wc": weight(1, 6, seed=6), "column": np.array([-1, 1]), "zero": np.array([0])}
    extra |= {"none": np.array(0), "once": np.array(1), "three": np.float32(3.0)}
    proto = network(*lines, outputs={"y": ["k", 6]}, weights=extra)
    found = measured(proto, off(proto, part=0.2))
    assert {"y", "e" if name == "a rounded number" else "s"} <= set(found.measured_by["y"])
    assert found.sqnr is not None and 5 < found.sqnr < 40


def test_a_condition_of_what_is_run_decides() -> None:
    bodies = [
        helper.make_graph(parsed(f"{name} = MatMul (n, w{name})"), name, [], [info(name, None)])
        for name in ("then", "else")
    ]
    lines = (*MAP, "e = ReduceMean <keepdims=0> (s)", "m = Greater (e, limit)", "n = Reshape (s, column)")
    proto = network(*lines, outputs={"y": [64, 6]}, weights={"column": np.array([-1, 1])})
    proto.graph.node.append(
        helper.make_node("If", ["m"], ["y"], then_branch=bodies[0], else_branch=bodies[1])
    )
    for number, body in enumerate(bodies):
        tensor = numpy_helper.from_array(weight(1, 6, seed=number), f"w{body.name}")
        proto.graph.initializer.append(tensor)
    assert set(measured(proto, off(proto)).measured_by["y"]) == {"y", "e"}


@pytest.mark.parametrize("going", ["Greater (less, zero)", "Less (number, most)"])
def test_a_loop_that_content_ends_decides(going: str) -> None:
    """It makes as many rows as it runs; one that runs by number alone decides nothing."""
    lines = ("half = Constant <value_float=0.5> ()", "zero = Constant <value_float=0.0> ()")
    lines += ("most = Constant <value_int=3> ()", "less = Sub (sum, half)", f"goes = {going}")
    state = [info("number", [], np.int64), info("gone", [], np.bool_), info("sum", [])]
    made = [info("goes", [], np.bool_), info("less", []), info("row", [])]
    body = helper.make_graph(parsed(*lines, "row = Identity (less)"), "body", state, made)
    extra = {
        "trips": np.array(10),
        "go": np.array(True),
        "column": np.array([-1, 1]),
        "wc": weight(1, 6, seed=6),
    }
    proto = network(*MAP, "e = ReduceMax <keepdims=0> (s)", outputs={"y": ["k", 6]})
    proto.graph.node.append(helper.make_node("Loop", ["trips", "go", "e"], ["last", "rows"], body=body))
    proto.graph.node.extend(parsed("n = Reshape (rows, column)", "y = MatMul (n, wc)"))
    for name, array in extra.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    found = measured(proto, off(proto))
    assert found.measured_by == ({"y": ("y", "e")} if "Greater" in going else {})
    assert found.sqnr is not None and 10 < found.sqnr < 50


def test_other_rows_than_in_the_original_are_nothing_in_common() -> None:
    """Of an output as of what it is made of, in some batches or in all."""
    lines = (*SCORES, "y = Slice (scores, none, rows)")
    ends = [{"none": np.array([0]), "rows": np.array([count])} for count in (20, 4, 0)]
    one, other, empty = (network(*lines, outputs={"y": ["k", 6]}, weights=end, batch=24) for end in ends)
    for candidate in (other, empty):
        found = measured(one, candidate, scores=True)
        assert found.sqnr == -np.inf and found.agreement is not None and found.agreement < 0.9
    assert measured(one, empty, scores=True).agreement == 0
    same = measured(one, one, scores=True)
    assert (same.agreement, same.sqnr, same.samples, same.ranked) == (1.0, np.inf, 24, 20)


def test_an_output_without_rows_on_all_inputs_is_not_kept() -> None:
    lines = (
        *MAP,
        "m = Greater (s, limit)",
        "v = Compress (s, m)",
        "n = Reshape (v, column)",
        "y = MatMul (n, wc)",
    )
    extra = {"wc": weight(1, 6, seed=6), "column": np.array([-1, 1]), "limit": np.float32(1e6)}
    proto = network(*lines, outputs={"y": ["k", 6]}, weights=extra)
    found = measured(proto, off(proto))
    assert found.measured_by == {"y": ("s",)}
    assert found.unmeasured == {"y": "in part, y has no finite number on these inputs"}


@pytest.mark.parametrize("axis", [0, -2, 1, -1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin", "TopK", "Hardmax"])
def test_the_agreement_is_that_along_the_axis_of_the_ranking(op: str, axis: int) -> None:
    """Of scores that stand in columns; of those of a row where the model takes all samples at once."""
    ranked = f"y = {op} <axis={axis}> (t)" if op != "TopK" else f"v, y = TopK <axis={axis}> (t, once)"
    lines = (*SCORES, "t = Transpose <perm=[1, 0]> (scores)", ranked)
    extra = {"once": np.array([1])}
    out = info("y", None, np.float32 if op == "Hardmax" else np.int64)
    columns = axis in (0, -2)
    proto = network(*lines, outputs=[out], weights=extra, batch="n" if columns else 24)
    other = off(proto, "wg", 0.5)
    first, second = (run(each, "scores") for each in (proto, other))
    best = np.argmin if op == "ArgMin" else np.argmax
    places = 1 if columns else 0
    ours, theirs = (best(each, axis=places) for each in (first, second))
    found = measured(proto, other)
    if len(set(ours)) == 1:
        assert found.agreement is None and len(found.alike) == 1
    else:
        assert found.agreement == pytest.approx(float((ours == theirs).mean()))
        assert found.ranked == (24 if columns else 6)
    assert class_scores.may_agree(io.load(proto).model)


def run(proto: onnx.ModelProto, name: str) -> Array:
    """A value of a model."""
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    del found.graph.output[:]
    found.graph.output.append(info(name, None))
    return session.run(
        session.session(session.structure(io.load(found).model), optimised=True), {"x": INPUTS}
    )[0]


def test_the_agreement_of_a_segmentation_is_that_of_its_pixels() -> None:
    lines = ("h = Conv (r2, wk)", "y = ArgMax <axis=1> (h)")
    out = info("y", None, np.int64)
    proto = network(*lines, outputs=[out], weights={"wk": weight(6, 24, 1, 1, seed=5)}, batch="n")
    other = off(proto)
    same = run(proto, "h").argmax(axis=1) == run(other, "h").argmax(axis=1)
    assert measured(proto, other).agreement == pytest.approx(float(same.mean()))
    with pytest.raises(BudgetError, match=r"agreement 0\.\d+, at least 1 asked for"):
        graphopt.optimize(proto, {"macs": 0.5, "agreement": 1.0}, INPUTS, only=["bottleneck"])


LABELS = helper.make_tensor("names", TensorProto.STRING, [6], [f"kind {i}".encode() for i in range(6)])


def labelled(*outputs: str) -> onnx.ModelProto:
    """A classifier that makes the label's text."""
    made = [info("scores", ["n", 6]), helper.make_tensor_value_info("label", TensorProto.STRING, ["n"])]
    lines = (*SCORES, "i = ArgMax <axis=1, keepdims=0> (scores)", "label = Gather (names, i)")
    proto = network(*lines, outputs=[each for each in made if each.name in outputs], batch="n")
    proto.graph.initializer.append(LABELS)
    return proto


@pytest.mark.parametrize("outputs", [("scores", "label"), ("label",)])
def test_the_scores_stand_for_the_text_of_a_label(outputs: tuple[str, ...]) -> None:
    proto = labelled(*outputs)
    found = measured(proto, off(proto))
    assert found.sqnr is not None and 10 < found.sqnr < 60 and found.agreement is not None
    assert found.measured_by == {"label": ("scores",)} and not found.unmeasured


def test_a_budget_on_a_label_and_its_scores() -> None:
    report = cut(labelled("label", "scores"))
    assert sqnr(report) > 5 and report.quality is not None and report.quality.agreement is not None


@pytest.mark.parametrize("names", [{"classlabels_int64s": [*range(6)]}, {"classlabels_strings": [*"abcdef"]}])
def test_the_scores_stand_for_a_map_of_them(names: dict[str, Any]) -> None:
    out = onnx.ValueInfoProto(name="y")
    kind = out.type.sequence_type.elem_type.map_type
    kind.key_type = TensorProto.INT64 if "classlabels_int64s" in names else TensorProto.STRING
    kind.value_type.tensor_type.elem_type = TensorProto.FLOAT
    proto = network(*SCORES, outputs=[out], batch="n", domains=["ai.onnx.ml"])
    proto.graph.node.append(helper.make_node("ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", **names))
    found = measured(proto, off(proto))
    assert found.measured_by == {"y": ("scores",)} and found.agreement is not None
    assert found.sqnr is not None and 10 < found.sqnr < 60
    assert class_scores.may_agree(io.load(proto).model)


def test_the_agreement_of_classes_is_asked_for_where_only_they_are_an_output() -> None:
    lines = (*SCORES, "y = ArgMax <axis=1, keepdims=0> (scores)")
    proto = network(*lines, outputs=[info("y", ["n"], np.int64)], batch="n")
    asked = {"macs": 0.9, "agreement": 0.5}
    found = graphopt.optimize(proto, asked, INPUTS, only=["bottleneck"], confidence=0).report
    assert found.quality is not None and (found.quality.agreement or 0) >= 0.5
    with pytest.raises(InputError, match="no output holds class scores"):
        graphopt.optimize(network(*MAP, "y = Greater (s, limit)", outputs=[info("y", None, np.bool_)]),
                          {"agreement": 0.5}, INPUTS)  # fmt: skip


def test_sequences_and_optional_outputs_are_measured_by_what_they_hold() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    kinds = {
        "SequenceConstruct": helper.make_sequence_type_proto,
        "Optional": helper.make_optional_type_proto,
    }
    for op, kind in kinds.items():
        proto = network(*MAP, f"y = {op} (s)", outputs=[helper.make_value_info("y", kind(tensor))])
        found = measured(proto, off(proto))
        assert found.sqnr is not None and 15 < found.sqnr < 40
        assert found.measured_by == {"y": ("s",)}


# --- where nothing can be measured --------------------------------------------------------------------------


def unmeasurable(count: str = "y") -> onnx.ModelProto:
    """A model whose values are all beyond the range of their type where it ends, and another output."""
    lines = (*MAP, "e = Mul (s, big)", "l = Mul (e, big)", "n = Sub (l, l)", "y = Identity (n)")
    outputs = {"y": [64], "s": [64]} if count == "both" else {"y": [64]}
    return network(*lines, outputs=outputs, weights={"big": np.float32(3e38)})


def test_a_budget_ends_where_no_output_can_be_measured() -> None:
    with pytest.raises(InputError, match="makes nothing finite of them"):
        cut(unmeasurable())


def texts() -> onnx.ModelProto:
    """A model whose only output is a text that a layer's body decides on."""
    body = helper.make_graph(
        parsed("bc = Conv (r2, wh)", "bp = GlobalMaxPool (bc)", "bq = Reshape (bp, flat)", "bi = ArgMax (bq)",
               "bl = Gather (names, bi)"),
        "body", [], [helper.make_tensor_value_info("bl", TensorProto.STRING, None)],
    )  # fmt: skip
    nodes = parsed("a = ReduceMax <keepdims=0> (x)", "t = Greater (a, limit)")
    nodes.append(helper.make_node("If", ["t"], ["y"], then_branch=body, else_branch=body))
    out = helper.make_tensor_value_info("y", TensorProto.STRING, None)
    proto = network(outputs=[out], weights={"wh": weight(1, 24, 1, 1, seed=4)})
    proto.graph.node.extend(nodes)
    wanted = {"wh": weight(1, 24, 1, 1, seed=4), "flat": NUMBERS["flat"], "limit": NUMBERS["limit"]}
    for name, array in wanted.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    proto.graph.initializer.append(LABELS)
    return proto


def test_a_budget_whose_quality_has_no_figure_says_so_first_and_makes_no_network() -> None:
    with pytest.raises(
        BudgetError, match=r"^the quality can't be measured: output 'y': .*texts.*force"
    ) as failure:
        cut(texts())
    assert failure.value.exit_code == 3
    report = failure.value.result.report
    assert report.after.macs == report.before.macs and not report.approximate
    assert report.quality is not None and report.quality.sqnr is None


def test_it_is_taken_by_force_with_a_warning() -> None:
    report = cut(texts(), force=True)
    assert report.approximate and report.quality is not None and report.quality.sqnr is None
    assert report.warnings[0].startswith("the quality is not measured: output 'y'")


def test_a_quality_that_was_asked_for_is_missed_by_force_too() -> None:
    with pytest.raises(BudgetError, match="sqnr not measured, at least 20 asked for"):
        graphopt.optimize(texts(), {"sqnr": 20.0, "macs": 0.8}, INPUTS, only=["bottleneck"], force=True)


def test_other_outputs_tell_where_one_is_nothing_finite() -> None:
    proto = unmeasurable("both")
    found = measured(proto, off(proto))
    assert found.sqnr is not None and 15 < found.sqnr < 40
    assert "quality: output 'y' is not measured: it holds no finite number" in found.notes[0]
