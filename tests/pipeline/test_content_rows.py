"""Budgets where layers read rows that depend on content: other rows in each batch, or none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import BudgetError
from graphopt.report.results import Report
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
