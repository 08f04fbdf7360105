"""Budgets of models whose layers stand in bodies: what runs several times, in one branch only, or never."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import BudgetError
from graphopt.report.results import Report
from tests.builders import Array, rng, samples, weight

X = samples(32)
FIRST = np.arange(32) % 2 == 0
IDLE = "an error in it is not measured, as no held-out input is known to run the branch or loop"


def low_rank(taps: int, seed: int) -> Array:
    """A kernel that two channels of eight nearly make up."""
    random = rng(seed)
    kernel = random.standard_normal((8, 2)) @ random.standard_normal((2, 8 * taps * taps))
    kernel = kernel.reshape(8, 8, taps, taps) / np.sqrt(16 * taps * taps)
    return (kernel + 0.05 * weight(8, 8, taps, taps, seed=seed)).astype(np.float32)


def text(graph: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {graph}')
    kernels = {"v": low_rank(3, 1), "w": low_rank(3, 2), "u": low_rank(5, 3)}
    read = {name for name in kernels if f", {name})" in graph}
    proto.graph.initializer.extend(numpy_helper.from_array(kernels[name], name) for name in sorted(read))
    return proto


STEPS = text("""(float[5, n, 8, 8, 8] x, float[n, 8, 8, 8] h)
    => (float[n, 8, 8, 8] z, float[5, n, 8, 8, 8] y) {
    z, y = Scan <num_scan_inputs = 1, body = b (float[n, 8, 8, 8] s, float[n, 8, 8, 8] t)
        => (float[n, 8, 8, 8] next, float[n, 8, 8, 8] out) {
            c = Conv <pads = [1, 1, 1, 1]> (t, v)  d = Conv <pads = [1, 1, 1, 1]> (s, w)
            e = Add (c, d)  next = Tanh (e)  out = Identity (next) }> (h, x) }""")
TRIPS = text("""(float[n, 8, 8, 8] x) => (float[n, 8, 8, 8] y) <int64 trips = {4}, bool go = {1}> {
    a = Conv <pads = [1, 1, 1, 1]> (x, v)
    y = Loop (trips, go, a) <body = b (int64 i, bool more, float[n, 8, 8, 8] s)
        => (bool again, float[n, 8, 8, 8] t) {
            again = Identity (more)  c = Conv <pads = [1, 1, 1, 1]> (s, w)  t = Tanh (c) }> }""")


def choice(condition: str = "flag") -> onnx.ModelProto:
    return text(f"""(float[n, 8, 8, 8] x, bool flag) => (float[n, 8, 8, 8] y) {{
        no = Not (flag)
        y = If ({condition}) <
            then_branch = t () => (float[n, 8, 8, 8] p) {{ p = Conv <pads = [1, 1, 1, 1]> (x, v) }},
            else_branch = e () => (float[n, 8, 8, 8] q) {{ q = Conv <pads = [1, 1, 1, 1]> (x, w) }}> }}""")


NESTED = text("""(float[n, 8, 8, 8] x, bool flag, bool other) => (float[n, 8, 8, 8] y) {
    y = If (flag) <
        then_branch = t () => (float[n, 8, 8, 8] p) { p = If (other) <
            then_branch = i () => (float[n, 8, 8, 8] r) { r = Conv <pads = [1, 1, 1, 1]> (x, v) },
            else_branch = j () => (float[n, 8, 8, 8] s) { s = Conv <pads = [1, 1, 1, 1]> (x, w) }> },
        else_branch = e () => (float[n, 8, 8, 8] q) { q = Conv <pads = [2, 2, 2, 2]> (x, u) }> }""")


def cut(
    proto: onnx.ModelProto, budget: dict[str, float], inputs: Mapping[str, Array], *, force: bool = False
) -> Report:
    """The report of a run with bottlenecks alone, whether it reaches the budget or not."""
    try:
        return graphopt.optimize(proto, budget, dict(inputs), only=["bottleneck"], force=force).report
    except BudgetError as failure:
        return failure.result.report


def part(report: Report) -> float:
    assert report.before.macs and report.after.macs is not None
    return report.after.macs / report.before.macs


def graphs(report: Report) -> set[str]:
    return {item.candidate.site.graph.rpartition("/")[2] for item in report.approximate}


def idle(report: Report) -> set[str]:
    """The last parts of the graphs of layers that no input runs."""
    return {left.site.graph.rpartition("/")[2] for left in report.rejected if IDLE in left.reason}


@pytest.mark.parametrize(
    ("proto", "inputs"),
    [
        (STEPS, {"x": samples(160).reshape(5, 32, 8, 8, 8), "h": X}),
        (TRIPS, {"x": X}),
    ],
    ids=["Scan", "Loop"],
)
def test_what_runs_several_times_saves_several_times(
    proto: onnx.ModelProto, inputs: dict[str, Array]
) -> None:
    report = cut(proto, {"macs": 0.7}, inputs)
    assert 0.55 < part(report) <= 0.7
    saved = sum((item.macs_before or 0) - (item.macs_after or 0) for item in report.approximate)
    assert report.before.macs is not None and report.before.macs - saved == report.after.macs


def test_a_budget_that_is_reachable_is_reached_in_every_branch() -> None:
    report = cut(choice(), {"macs": 0.6}, {"x": X, "flag": FIRST})
    assert part(report) <= 0.6
    assert graphs(report) == {"then_branch", "else_branch"}


@pytest.mark.parametrize(
    ("condition", "flags", "taken"),
    [
        ("flag", np.ones(32, bool), "then_branch"),
        ("flag", np.zeros(32, bool), "else_branch"),
        ("no", np.ones(32, bool), "else_branch"),
    ],
)
def test_a_branch_that_no_input_takes_is_cut_by_force_alone(condition: str, flags: Array, taken: str) -> None:
    report = cut(choice(condition), {"params": 0.6}, {"x": X, "flag": flags})
    assert graphs(report) == {taken}
    assert idle(report) == {"then_branch", "else_branch"} - {taken}
    forced = cut(choice(condition), {"params": 0.6}, {"x": X, "flag": flags}, force=True)
    assert graphs(forced) == {"then_branch", "else_branch"}


def test_a_branch_within_a_branch_is_left_where_nothing_tells_whether_it_is_taken() -> None:
    inputs = {"x": X, "flag": FIRST, "other": np.arange(32) % 4 < 2}
    report = cut(NESTED, {"params": 0.5}, inputs)
    assert (graphs(report), idle(report)) == ({"else_branch"}, {"then_branch", "else_branch"})
    sites = {left.site.graph.count("/") for left in report.rejected if IDLE in left.reason}
    assert sites == {3}
