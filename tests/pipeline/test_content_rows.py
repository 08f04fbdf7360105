"""Budgets where layers read rows that depend on content: other rows in each batch, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt import BudgetError
from graphopt.report.results import Report
from graphopt.report.text import optimize as text
from graphopt.rewrites import registry
from graphopt.rewrites.base import ApproximateRewrite
from tests.builders import info, model, parsed, samples, weight

BY_INPUT = ("s = ReduceMax <axes=[1, 2, 3], keepdims=0> (x)", "g = Greater (s, limit)")
BY_LAYERS = (
    "b0 = Conv (r, w0)",
    "s = ReduceMean <axes=[1, 2, 3], keepdims=0> (b0)",
    "g = Greater (s, limit)",
)
BEHIND = ("k = Compress <axis=0> (r, g)", "z = Conv <pads=[1, 1, 1, 1]> (k, w2)")
INPUTS = samples(48, 4, 6, 6, seed=3)


def picked(*lines: str, limit: float = 0.0, outputs: Any = None, **options: Any) -> onnx.ModelProto:
    """Two layers, of which the second reads the samples that a condition picks."""
    nodes = parsed("c = Conv <pads=[1, 1, 1, 1]> (x, w1)", "r = Relu (c)", *lines)
    weights = {
        "w1": weight(24, 4, 3, 3),
        "w2": weight(24, 24, 3, 3, seed=1),
        "w0": weight(1, 24, 1, 1, seed=2),
    }
    weights["limit"] = np.float32(limit)
    read = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in weights.items() if name in read}
    out = outputs or [info("z", ["k", 24, 6, 6])]
    return model(nodes, kept, inputs={"x": ["n", 4, 6, 6]}, outputs=out, **options)


def cut(proto: onnx.ModelProto, inputs: Any = INPUTS, budget: Any = None) -> Report:
    """The report of what a budget makes, reached or not."""
    try:
        return graphopt.optimize(proto, budget or {"macs": 0.6}, inputs, only=["bottleneck"]).report
    except BudgetError as failure:
        return failure.result.report


def test_a_batch_without_rows_is_left_out_of_the_fit() -> None:
    small = np.concatenate([0.1 * INPUTS, INPUTS])
    report = cut(picked(*BY_INPUT, *BEHIND, limit=1.5), small)
    assert report.quality is not None and report.quality.sqnr is not None and report.quality.sqnr > 3
    (item,) = report.approximate
    assert item.candidate.site.nodes[0] == "Conv:z"
    assert item.error_measured == pytest.approx(item.candidate.error, rel=0.5)


def test_a_layer_that_never_has_a_row_is_left_with_that_reason() -> None:
    report = cut(picked(*BY_INPUT, *BEHIND, limit=1.5), 0.1 * INPUTS)
    assert not any("z" in item.candidate.site.nodes[0] for item in report.approximate)
    (reason,) = {left.reason for left in report.rejected if left.site.nodes == ("Conv:z",)}
    assert reason.endswith("it reads rows that depend on content, and the inputs to fit on give it none")


def test_layers_behind_a_condition_are_fitted_to_the_rows_of_the_original() -> None:
    """Where what decides is compressed too, other samples would pass."""
    report = cut(picked(*BY_LAYERS, *BEHIND))
    assert report.quality is not None and report.quality.sqnr is not None and report.quality.sqnr > 3
    assert set(report.quality.measured_by["z"]) >= {"z", "s"}
    for item in report.approximate:
        assert item.error_measured == pytest.approx(item.candidate.error, rel=0.5)


# --- what no measure sees, and how it is told ---------------------------------------------------------------


def half_measured() -> onnx.ModelProto:
    """Two outputs, of which one is a place that a body decides on, by a layer of its own."""
    lines = ("y = GlobalAveragePool (r)", "k = Conv <pads=[1, 1, 1, 1]> (r, w2)")
    outputs = [info("y", ["n", 24, 1, 1]), info("z", None, np.int64)]
    proto = picked(*lines, "s = ReduceMax <keepdims=0> (x)", "g = Greater (s, limit)", outputs=outputs)
    bodies = [
        helper.make_graph(
            parsed(f"{name}c = Conv (k, w0)", f"{name} = ArgMax <axis=2> ({name}c)"),
            name, [], [info(name, None, np.int64)],
        )
        for name in ("then", "else")
    ]  # fmt: skip
    proto.graph.node.append(
        helper.make_node("If", ["g"], ["z"], then_branch=bodies[0], else_branch=bodies[1])
    )
    proto.graph.initializer.append(numpy_helper.from_array(weight(1, 24, 1, 1, seed=2), "w0"))
    return proto


def test_a_layer_whose_error_nothing_measures_is_cut_by_force_alone() -> None:
    report = cut(half_measured())
    assert not report.approximate
    (reason,) = {left.reason for left in report.rejected if left.site.nodes == ("Conv:k",)}
    assert reason == "Conv:k: an error in it is not measured, as output 'z' is not"
    forced = graphopt.optimize(half_measured(), {"macs": 0.6}, INPUTS, only=["bottleneck"], force=True).report
    assert [item.candidate.site.nodes for item in forced.approximate] == [("Conv:k",)]
    counted = graphopt.optimize(half_measured(), {"macs": 0.6}, INPUTS, only=["bottleneck"], outputs=["y"])
    assert counted.report.approximate  # who does not count an output gives it away


def test_a_missed_budget_tells_first_what_could_have_kept_it(capsys: pytest.CaptureFixture[str]) -> None:
    proto = half_measured()
    with pytest.raises(BudgetError) as failure:
        graphopt.optimize(proto, {"macs": 0.6}, INPUTS)
    report = failure.value.result.report
    known = registry.registry()
    approximate = {name for name, rewrite in known.items() if isinstance(rewrite, ApproximateRewrite)}
    kinds = [left.rewrite in approximate for left in report.rejected]
    assert kinds == sorted(kinds, reverse=True) and any(kinds) and not all(kinds)
    text.report(report, None)
    printed = capsys.readouterr().out
    assert "too few to reduce" in printed.split("rejected:")[1]
    assert "quality on" not in printed  # of a model that is as it was


def test_an_agreement_that_some_inputs_give_none_of_is_missed() -> None:
    """A map at times, class scores at others."""
    layers = {"w1": weight(24, 4, 3, 3), "w2": weight(6, 24, 3, 3, seed=1)}
    nodes = parsed("c = Conv <pads=[1, 1, 1, 1]> (x, w1)", "y = Conv <strides=[6, 6]> (c, w2)")
    proto = model(nodes, layers, inputs={"x": ["n", 4, "h", "w"]}, outputs={"y": None})
    given = [{"x": samples(1, 4, size, size, seed=seed)} for size in (6, 12) for seed in range(8)]
    with pytest.raises(BudgetError, match="agreement not measured, at least"):
        graphopt.optimize(proto, {"macs": 0.9, "agreement": 0.5}, given, only=["bottleneck"])
    (check,) = graphopt.verify(proto, proto, given, budget={"agreement": 0.5}).checks
    assert not check and check.note == "agreement not measured on 16 inputs, at least 0.5 asked for"
