"""What counts: outputs or inner values, each with the axis of its channels where somebody says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt import BudgetError, InputError
from graphopt.calibration import inputs as calibration_inputs
from graphopt.integrations.ir_pass import GraphOptPass
from graphopt.model import io
from graphopt.types import Quality
from graphopt.verification import interface, quality
from tests.builders import Net, saved, weight
from tests.command import cli
from tests.verification.test_measured_outputs import INPUTS, network, off

LINES = ("h = Conv (r2, wd)", "s = Sigmoid (h)", "y = Transpose <perm=[0, 2, 3, 1]> (s)")


def heads(*more: str, **outputs: Any) -> onnx.ModelProto:
    """Scores of seven classes on a map, channels last, and what they are made of."""
    return network(
        *LINES,
        *more,
        outputs=outputs or {"y": ["N", 8, 8, 7]},
        weights={"wd": weight(7, 24, 1, 1, seed=5), "two": np.array([2]), "order": np.array([0, -1, 7])},
        batch="N",
    )


def cut(*outputs: str, **options: Any) -> graphopt.Result:
    return graphopt.optimize(heads(), {"macs": 0.8}, INPUTS, only=["bottleneck"], outputs=outputs, **options)


def names(proto: ir.Model) -> list[str | None]:
    return [value.name for value in proto.graph.outputs]


@pytest.mark.parametrize("name", ["h", "r2", "s"])
def test_an_inner_value_counts_alone_and_is_no_output_of_the_result(name: str) -> None:
    result = cut(name)
    found = result.report.quality
    assert names(result.model) == ["y"] and result.report.options["outputs"] == (name,)
    assert found is not None and found.sqnr is not None and 5 < found.sqnr < 60
    assert not set(found.groups) - {name, "h"}
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)


def test_what_counts_is_measured_in_the_result() -> None:
    """The value that the original has and the one of the result, which is no output there."""
    result = cut("h")
    found = result.report.quality
    assert found is not None
    whole, other = heads(y=["N", 8, 8, 7], h=["N", 7, 8, 8]), ir.to_proto(result.model)
    other.graph.output.append(whole.graph.output[1])
    first, second = (io.load(proto).model for proto in (whole, other))
    given = calibration_inputs.load(INPUTS, first, 0)
    assert found == quality.measure(first, second, given, given.held_out, ("h",))


def test_a_layer_that_leads_to_no_value_that_counts_is_left() -> None:
    with pytest.raises(BudgetError, match="budget was not reached") as failure:
        cut("r1")
    (reason,) = {each.reason for each in failure.value.result.report.rejected if "leads" in each.reason}
    assert reason == "Conv:c2: an error in it is not measured, as it leads to no value that counts"
    assert cut("r1", force=True).report.approximate


def test_exact_rewrites_leave_an_inner_value_as_it_is(tmp_path: Path) -> None:
    net = Net()
    y = net.bn(net.conv(net.input([1, 4, 8, 8]), 6))
    proto = net.model(net.op("Relu", y))
    free, bound = (graphopt.optimize(proto, outputs=each) for each in ((), (y,)))
    kinds = [[node.op_type for node in result.model.graph] for result in (free, bound)]
    assert kinds == [["Conv", "Relu"], ["Conv", "Relu"]]
    assert graphopt.verify(proto, bound.model, outputs=[y]) and names(bound.model) == names(free.model)


def test_a_model_to_which_nothing_is_done_stays_as_it_was(tmp_path: Path) -> None:
    path, out = saved(heads(), tmp_path / "model.onnx"), tmp_path / "out.onnx"
    result = graphopt.optimize(path, only=["fold_affine"], outputs=["h"])
    assert not result and names(result.model) == ["y"]
    result.save(out)
    assert out.read_bytes() == path.read_bytes()


def test_two_models_are_compared_by_an_inner_value() -> None:
    one = heads()
    assert graphopt.verify(one, heads(), outputs=["r1"]) and graphopt.verify(one, off(one), outputs=["r1"])
    assert not graphopt.verify(one, off(one), outputs=["h"])
    (check,) = graphopt.verify(one, off(one), INPUTS, budget={"sqnr": 1}, outputs=["h"]).checks
    assert check.output == "h" and 5 < check.sqnr < 60
    lacking = graphopt.optimize(one, only=["fold_affine"]).model
    lacking.graph[-3].outputs[0].name = "g"
    with pytest.raises(InputError, match=r"outputs='h': the rewritten model has no value of this name"):
        graphopt.verify(one, lacking, outputs=["h"])


# ---------------------------------------------------------------- the axis of channels


def loud() -> onnx.ModelProto:
    """Maps of four channels, the first of which is a thousand times louder."""
    loud = np.array([1000, 1, 1, 1], np.float32).reshape(1, 4, 1, 1)
    extra = {"w4": weight(4, 24, 1, 1, seed=5), "loud": loud}
    lines = ("c = Conv (r2, w4)", "y = Mul (c, loud)")
    return network(*lines, outputs={"y": ["N", 4, 8, 8]}, weights=extra, batch="N")


def measured(proto: onnx.ModelProto, *outputs: str) -> Quality:
    first, second = (io.load(each).model for each in (proto, off(proto)))
    counts = interface.counted(first, outputs)
    given = calibration_inputs.whole(INPUTS, first)
    return quality.measure(first, second, given, given.held_out, counts, axes=counts.axes)


def test_channels_are_on_the_axis_that_is_said() -> None:
    """Over other axes the loud channel alone counts."""
    plain, same, other = (measured(loud(), *each) for each in ((), ("y:1",), ("y:3",)))
    assert plain.sqnr == same.sqnr and plain.sqnr is not None and other.sqnr is not None
    assert abs(plain.sqnr - other.sqnr) > 0.1
    assert measured(loud(), "y:-1").sqnr == other.sqnr


def test_what_a_softmax_reads_has_the_axis_of_what_it_makes() -> None:
    proto = network("h = Conv (r2, wd)", "y = Sigmoid (h)", outputs={"y": ["N", 7, 8, 8]},
                    weights={"wd": weight(7, 24, 1, 1, seed=5)}, batch="N")  # fmt: skip
    plain, other = measured(proto, "y:1"), measured(proto, "y:3")
    assert plain.groups == measured(proto).groups
    assert set(other.groups) == {"y", "h"} and other.groups["h"] != plain.groups["h"]


def test_a_name_with_a_colon_is_one_name() -> None:
    proto = network("o = Identity (r2)", outputs={"o": ["N", 24, 8, 8]}, batch="N")
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "y:0"
    found = io.load(proto).model
    for asked, axes, inner in (
        (["y:0"], {}, ()),
        (["y:0:1"], {"y:0": 1}, ()),
        (["r2:1", "r2"], {"r2": 1}, ("r2",)),
    ):
        counts = interface.counted(found, asked)
        assert counts == (inner or ("y:0",)) and (counts.axes, counts.inner) == (axes, inner)


# ---------------------------------------------------------------- what can't count


def odd() -> onnx.ModelProto:
    """With a text, a sequence, a decision and a body inside."""
    names = helper.make_tensor("names", TensorProto.STRING, [7], [b"a"] * 7)
    more = (
        "i = ArgMax <axis=1> (h)",
        "label = Gather (names, i)",
        "rows = SplitToSequence (h)",
        "c = ReduceMax <keepdims=0> (s)",
        "k = Greater (c, limit)",
    )
    proto = heads(*more)
    proto.graph.initializer.append(names)
    branch = helper.make_graph([helper.make_node("Relu", ["s"], ["inside"])], "b", [],
                               [helper.make_tensor_value_info("inside", 1, None)])  # fmt: skip
    proto.graph.node.append(helper.make_node("If", ["k"], ["v"], then_branch=branch, else_branch=branch))
    return proto


REFUSED = {
    "h1": "the model's outputs are y; did you mean h",
    "nothing like it": "the model's outputs are y$",
    "x": "is given to the model",
    "w1": "is given to the model",
    "label": "holds texts",
    "rows": "is a sequence or a map",
    "inside": "stands in the body of a branch or loop",
    "y:4": r"there is no such axis: its shape is \[\?, 8, 8, 7\]",
    "y:-5": "there is no such axis",
    "y:0": "axis 0 has an open size, as that of samples has",
    "h:-4": "axis 0 has an open size, as that of samples has",
    "y:": "'' is no number of an axis",
    "h:channels": "'channels' is no number of an axis",
    "i:1": "is measured by what it is made of, h: name that",
}


def test_a_value_whose_channels_are_said_to_lie_on_two_axes_is_refused() -> None:
    with pytest.raises(InputError, match="outputs='h:2': its channels lie on axis 1, as is said besides"):
        interface.counted(io.load(heads()).model, ["h:1", "h:2"])
    assert interface.counted(io.load(heads()).model, ["h:1", "h", "h:-3"]).axes == {"h": 1}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_count_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]) as failure:
        graphopt.optimize(odd(), outputs=[name])
    assert "\n" not in str(failure.value)


def test_a_batch_of_one_sample_is_no_axis_of_channels() -> None:
    proto = network("y = Conv (r2, wd)", outputs={"y": [1, 7, 8, 8]},
                    weights={"wd": weight(7, 24, 1, 1, seed=5)}, batch=1)  # fmt: skip
    with pytest.raises(InputError, match="axis 0 has the size 1, as that of samples has"):
        interface.counted(io.load(proto).model, ["y:0"])


def test_every_way_to_ask_takes_the_same(tmp_path: Path) -> None:
    path, out = saved(heads(), tmp_path / "model.onnx"), tmp_path / "out.onnx"
    np.savez(tmp_path / "inputs.npz", x=INPUTS)
    asked = ("--calibration", tmp_path / "inputs.npz", "--budget", "macs=0.8", "--only", "bottleneck")
    cli("optimize", path, "-o", out, *asked, "--output", "h:1", "--report", tmp_path / "report.json")
    assert '"h:1"' in (tmp_path / "report.json").read_text()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[[models]]\nmodel = "model.onnx"\nout = "again.onnx"\ncalibration = "inputs.npz"\n'
        'budget.macs = 0.8\nonly = ["bottleneck"]\noutputs = ["h:1"]\n'
    )
    cli("run", recipe)
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    model = ir.load(path)
    passed = GraphOptPass({"macs": 0.8}, INPUTS, only=["bottleneck"], outputs=["h:1"])(model)
    assert passed.modified and names(model) == ["y"]
