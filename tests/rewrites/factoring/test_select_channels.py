"""Channels between two dense operators that stay, and the second operator fitted anew to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.model import edit
from graphopt.rewrites.factoring.select_channels import SelectChannels, units_of
from graphopt.types import Change
from tests.builders import Net, counted_macs, initializers, make_feeds, run, samples

WIDTH = 48
ONLY = ["select_channels"]


def inverted(net: Net, *, residual: bool = False, width: int = WIDTH) -> str:
    """1x1 to more channels, depthwise, 1x1 back: half of the channels between are nearly sums of others."""
    x = net.input(["N", 16, 10, 10])
    first = net.weights(width, 16, 1, 1)
    first[width // 2 :] = first[: width // 2] + 0.02 * first[width // 2 :]
    depth = net.weights(width, 1, 3, 3)
    depth[width // 2 :] = depth[: width // 2]
    hidden = net.op("Relu", net.conv(x, width, weight=first))
    hidden = net.op("Relu", net.conv(hidden, width, weight=depth, group=width, pads=[1] * 4))
    y = net.conv(hidden, 16, weight=net.weights(16, width, 1, 1))
    return net.op("Add", y, x) if residual else y


def optimized(proto: onnx.ModelProto, part: float, **options: Any) -> graphopt.Result:
    return graphopt.optimize(proto, {"macs": part}, samples(64, 16, 10, 10), only=ONLY, **options)


@pytest.mark.parametrize("residual", [False, True])
def test_channels_that_others_make_up_for_go_with_all_that_makes_them(residual: bool) -> None:
    net = Net()
    before = net.model(inverted(net, residual=residual))
    result = optimized(before, 0.55)
    after, report = ir.to_proto(result.model), result.report
    (applied,) = report.applied
    assert applied.candidate.rewrite == "select_channels" and report.before.macs is not None
    assert report.after.macs == report.before.macs - applied.candidate.macs_saved
    assert counted_macs(after, make_feeds(after)) == report.after.macs <= 0.55 * (report.before.macs or 0)
    shapes = sorted(array.shape for array in initializers(after).values() if array.ndim == 4)
    assert shapes == [(16, 24, 1, 1), (24, 1, 3, 3), (24, 16, 1, 1)]
    x = {"x": samples(16, 16, 10, 10, seed=5)}
    (exact,), (found,) = run(before, x), run(after, x)
    assert np.square(exact - found).mean() < 0.01 * exact.var()


def test_the_predicted_error_is_the_measured_one() -> None:
    net = Net()
    (first,) = optimized(net.model(inverted(net)), 0.4, force=True).report.applied
    assert first.error_measured == pytest.approx(first.candidate.error, rel=0.3)


def units(proto: onnx.ModelProto) -> list[str]:
    analysis = Analysis(ir.from_proto(proto), bindings={"x": (1, 16, 10, 10)})
    return [node.name or "" for node in units_of(analysis)]


def test_what_something_else_reads_too_stays() -> None:
    net = Net()
    hidden = net.op("Relu", net.conv(net.input(["N", 16, 10, 10]), 32))
    one, other = net.conv(hidden, 8), net.op("GlobalAveragePool", hidden)
    assert units(net.model(one, other)) == []


def test_inputs_and_outputs_of_the_model_stay() -> None:
    net = Net()
    hidden = net.op("Relu", net.conv(net.input(["N", 16, 10, 10]), 32))
    assert units(net.model(net.conv(hidden, 8), hidden)) == []
    alone = Net()
    assert units(alone.model(alone.conv(alone.op("Relu", alone.input(["N", 16, 10, 10])), 8))) == []


def test_pooled_and_flat_channels_are_a_classifiers() -> None:
    net = Net()
    hidden = net.op("Relu", net.conv(net.input(["N", 16, 10, 10]), 64))
    flat = net.op("Flatten", net.op("GlobalAveragePool", hidden))
    result = optimized(net.model(net.gemm(flat, 10)), 0.8)
    shapes = {array.shape for array in initializers(ir.to_proto(result.model)).values() if array.ndim > 1}
    kept = {shape for shape in shapes if 64 not in shape}
    assert len(kept) == len(shapes) == 2


@pytest.mark.parametrize("option", [{"keep": ["Conv1"]}, {"keep": ["Relu1"]}])
def test_operators_that_have_to_stay_stay(option: dict[str, Any]) -> None:
    """Those that make the channels are changed too."""
    net = Net()
    with pytest.raises(graphopt.BudgetError) as failure:
        optimized(net.model(inverted(net)), 0.9, **option)
    assert not failure.value.result.report.changed


def test_a_body_has_no_inputs_to_choose_by() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 16, 10, 10]))
    proto = net.model(net.choose(lambda inner: inner.conv(inner.op("Relu", inner.conv(x, 32)), 8)))
    report = graphopt.optimize(proto, only=ONLY, options={"select_channels.keep": 16}).report
    assert not report.changed
    assert all("nothing is known of what it reads" in left.reason for left in report.rejected)


def test_a_draft_is_as_cheap_as_what_it_stands_for() -> None:
    net = Net()
    proto = net.model(inverted(net))
    rewrite = SelectChannels()
    analysis = Analysis(ir.from_proto(proto), bindings={"x": (1, 16, 10, 10)})
    candidate = next(each for each in rewrite.priced(analysis) if each.choice == {"keep": 24})
    draft = rewrite.draft(anchor(analysis, candidate), candidate)
    assert draft is not None
    after = edit.apply(analysis.model, [Change(candidate, draft)])
    (last,) = (a for a in initializers(ir.to_proto(after)).values() if a.shape == (16, WIDTH, 1, 1))
    assert last[:, :24].any() and not last[:, 24:].any()


def test_of_units_that_overlap_one_is_narrowed() -> None:
    """What one unit's layer makes are the channels of the next unit."""
    net = Net()
    hidden = net.op("Relu", net.conv(net.input(["N", 16, 10, 10]), WIDTH))
    hidden = net.op("Relu", net.conv(hidden, WIDTH))
    proto = net.model(net.conv(hidden, 16))
    options = {"select_channels.keep": 40}
    report = graphopt.optimize(proto, None, samples(64, 16, 10, 10), only=ONLY, options=options).report
    (fitted,) = report.applied
    assert 0 < (fitted.error_measured or 0) < 1
    assert report.after.macs == (report.before.macs or 0) - fitted.candidate.macs_saved


def test_shared_weights_are_no_unit() -> None:
    net = Net()
    shared = net.const(net.weights(16, 16, 3, 3))
    hidden = net.op("Relu", net.conv(net.input(["N", 16, 10, 10]), 16, weight=shared, pads=[1] * 4))
    assert units(net.model(net.conv(hidden, 16, weight=shared))) == []
