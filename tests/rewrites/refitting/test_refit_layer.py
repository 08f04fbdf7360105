"""Layers that keep their form, fitted anew behind those that a budget made cheaper."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.report.text import optimize as text
from graphopt.types import Array
from tests.builders import Net, initializers, run, samples

CUT = ["select_channels"]


def unit(net: Net, x: str) -> str:
    """1x1 to more channels, depthwise, 1x1 back, in a sum: what is lost between, the other side tells."""
    hidden = net.op("Relu", net.conv(x, 48, (1, 1)))
    hidden = net.op("Relu", net.conv(hidden, 48, group=48, pads=[1] * 4))
    return net.op("Add", net.conv(hidden, 16, (1, 1), name="cut"), x)


def network(behind: Any) -> onnx.ModelProto:
    """A unit, and what stands behind it."""
    net = Net()
    return net.model(behind(net, unit(net, net.input(["N", 16, 8, 8]))))


def inputs(count: int, seed: int) -> Array:
    """Sixteen channels that hang together: what is lost of one, the others tell."""
    mix = np.random.default_rng(0).standard_normal((16, 4))
    return np.einsum("oc,nchw->nohw", mix, samples(count, 4, 8, 8, seed=seed)).astype(np.float32) / 2


def dense(net: Net, x: str) -> str:
    return net.conv(x, 16, (1, 1), name="behind")


def optimized(proto: onnx.ModelProto, **options: Any) -> graphopt.Result:
    options = {"only": ["select_channels", "refit_layer"], "at": ["cut", "behind"], "force": True, **options}
    few = {"select_channels.min_channels": 32}
    return graphopt.optimize(proto, {"macs": 0.5}, inputs(256, 1), options=few, **options)


def lost(before: onnx.ModelProto, result: graphopt.Result) -> float:
    x = {"x": inputs(64, 2)}
    (exact,), (found,) = run(before, x), run(ir.to_proto(result.model), x)
    return float(np.square(exact - found).mean() / exact.var())


BEHIND = {
    "dense": dense,
    "depthwise": lambda net, x: net.conv(x, 16, group=16, pads=[1] * 4, name="behind"),
    "groups": lambda net, x: net.conv(x, 16, group=4, pads=[1] * 4, name="behind"),
    "transposed": lambda net, x: net.conv(x, 8, (2, 2), transpose=True, strides=[2, 2], name="behind"),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_stands_behind_a_cut_makes_up_for_some_of_it(behind: Any) -> None:
    before = network(behind)
    plain, along = optimized(before, skip=["refit_layer"]), optimized(before)
    assert along.report.after == plain.report.after
    fitted = {item.candidate.rewrite: item for item in along.report.along}
    assert set(fitted) == {"refit_layer"} and fitted["refit_layer"].error_measured is not None
    assert lost(before, along) < 0.98 * lost(before, plain)


def test_what_stands_before_or_beside_the_cut_stays_as_it_is() -> None:
    net = Net()
    x = net.input(["N", 16, 8, 8])
    first = net.op("Relu", net.conv(x, 16, (1, 1), name="first"))
    beside = net.conv(net.op("Sigmoid", x), 4, (1, 1), name="beside")
    before = net.model(net.conv(unit(net, first), 4, (1, 1), name="behind"), beside)
    result = optimized(before, at=["*"])
    assert [item.candidate.site.nodes[0] for item in result.report.along] == ["behind"]
    old, new = (
        {node.name: initializers(each)[node.input[1]] for node in each.graph.node if node.op_type == "Conv"}
        for each in (before, ir.to_proto(result.model))
    )
    assert all(np.array_equal(old[name], new[name]) for name in ("first", "beside"))


def test_weights_that_others_read_too_stay_as_they_are() -> None:
    net = Net()
    x, kernel = net.input(["N", 16, 8, 8]), net.const(net.weights(16, 16, 1, 1))
    y = net.conv(unit(net, x), 16, (1, 1), weight=kernel, name="behind")
    before = net.model(y, net.conv(net.op("Sigmoid", x), 16, (1, 1), weight=kernel))
    result = optimized(before)
    assert result.report.applied and not result.report.along
    (reason,) = [each.reason for each in result.report.rejected if each.site.nodes == ("behind",)]
    assert "others read its weights" in reason


def test_what_is_kept_stays() -> None:
    result = optimized(network(dense), keep=["behind"])
    assert result.report.applied and not result.report.along


def test_a_report_tells_what_came_along_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    text.report(optimized(network(dense)).report, None)
    shown = capsys.readouterr().out
    assert "1 layer behind them fitted anew, errors 0.0039 to 0.0039" in shown
    assert "behind  " not in shown
