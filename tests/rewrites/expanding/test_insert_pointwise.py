"""insert_pointwise: a layer that changes nothing yet, alone and on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import InputError
from graphopt.types import Exactness
from tests.builders import Array, Net, compare_outputs, counted_macs, make_feeds, run

ASKED: dict[str, Any] = {"only": ["insert_pointwise"], "at": ["first", "*second"]}


def network() -> onnx.ModelProto:
    net = Net()
    y = net.op("Relu", net.conv(net.input(["N", 3, 8, 9]), 6, pads=[1] * 4, name="first"))
    y = net.conv(y, 5, (2, 2), strides=[2, 2], transpose=True, bias=False, name="second")
    return net.model(net.conv(y, 4, pads=[1] * 4, name="third"))


def inputs(samples: int = 40) -> Array:
    return np.random.default_rng(3).standard_normal((samples, 3, 8, 9)).astype(np.float32)


def expanded(model: onnx.ModelProto, tmp_path: Path, **options: Any) -> tuple[onnx.ModelProto, Any]:
    result = graphopt.optimize(model, **{**ASKED, **options})
    result.save(tmp_path / "wider.onnx")
    after = onnx.load(tmp_path / "wider.onnx")
    onnx.checker.check_model(after, full_check=True)
    return after, result.report


@pytest.mark.parametrize("activation", ["prelu", "leaky_relu"])
@pytest.mark.parametrize("mix", [False, True])
def test_the_function_stays(activation: str, mix: bool, tmp_path: Path) -> None:
    model = network()
    options = {"insert_pointwise.activation": activation, "insert_pointwise.mix": mix}
    after, report = expanded(model, tmp_path, options=options)
    feeds = make_feeds(model)
    compare_outputs(model, after, [feeds])
    added = counted_macs(after, feeds) - counted_macs(model, feeds)
    assert added == 72 * 36 + 4 * 72 * 25 == report.after.macs - report.before.macs
    assert [a.exactness for a in report.applied] == [Exactness.EXPANDING] * 2
    assert any(f"raises the MACs by {added:,}" in note for note in report.notes)
    kinds = [node.op_type for node in after.graph.node]
    assert kinds.count("PRelu" if activation == "prelu" else "LeakyRelu") == 2
    assert kinds.count("Conv") + kinds.count("ConvTranspose") == 5


@pytest.mark.parametrize("mix", [False, True])
def test_a_relu_out_of_reach(mix: bool, tmp_path: Path) -> None:
    model, samples = network(), inputs()
    options = {"insert_pointwise.activation": "relu", "insert_pointwise.mix": mix}
    after, report = expanded(model, tmp_path, options=options, calibration=samples)
    compare_outputs(model, after, [{"x": samples}])
    assert any("on the calibration inputs" in note for note in report.notes)
    far = {"x": 100 * samples}
    assert not np.allclose(run(model, far)[0], run(after, far)[0], rtol=1e-2)
    assert [node.op_type for node in after.graph.node].count("Relu") == 3


def test_the_layer_is_kept_apart_from_the_other_rewrites(tmp_path: Path) -> None:
    after, _ = expanded(network(), tmp_path)
    assert {"first/pointwise", "first/activation", "first"} <= {node.name for node in after.graph.node}
    plain = graphopt.optimize(network(), aim="macs")
    assert not any(a.candidate.rewrite == "insert_pointwise" for a in plain.report.applied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"only": ["insert_pointwise", "collapse"]}, "alone"),
        ({"at": []}, "needs at="),
        ({"budget": {"macs": 0.9}}, "keeps no budget=…"),
        ({"options": {"insert_pointwise.activation": "gelu"}}, "prelu, leaky_relu, relu"),
        ({"options": {"insert_pointwise.activation": "relu"}}, "give calibration=…"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        graphopt.optimize(network(), **{**ASKED, **changes})


def test_groups_can_not_be_mixed() -> None:
    net = Net()
    model = net.model(net.conv(net.input([1, 4, 5, 5]), 4, group=2, name="first"))
    report = graphopt.optimize(model, **ASKED, options={"insert_pointwise.mix": True}).report
    assert not report.changed and "2 groups" in report.rejected[0].reason
    assert graphopt.optimize(model, **ASKED).report.changed
