"""Where the time of a model goes, as a scan expects and measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.report.results import Scan
from graphopt.runtime import profiling
from tests.builders import Array, batch_norm, bn_inputs, conv_bn, info, model, node, saved, weight
from tests.command import cli


def prelus(channels: int = 64, size: int | str = 32, dtype: Any = np.float32) -> onnx.ModelProto:
    """Conv → PRelu → Conv → PRelu: what takes the time is not what takes the MACs."""
    weights: dict[str, Array] = {}
    nodes: list[onnx.NodeProto] = []
    value = "x"
    for number in range(2):
        weights[f"w{number}"] = weight(channels, channels, 1, 1, seed=number)
        weights[f"s{number}"] = np.full((channels, 1, 1), 0.1, np.float32)
        last = "y" if number else "p0"
        nodes += [
            node("Conv", f"{value} w{number}", f"c{number}", f"conv{number}"),
            node("PRelu", f"c{number} s{number}", last, f"prelu{number}"),
        ]
        value = last
    weights = {name: array.astype(dtype) for name, array in weights.items()}
    return model(nodes, weights, inputs={"x": [1, channels, size, size]}, dtype=dtype)


def residual(channels: int = 16) -> onnx.ModelProto:
    """Relu(BN(Conv) + Conv): two kernels of convolutions do the work of five operators."""
    weights = {"a": weight(channels, channels, 3, 3), "b": weight(channels, channels, 1, 1)}
    nodes = [
        node("Conv", "x a", "c", "first", pads=[1, 1, 1, 1]),
        node("BatchNormalization", bn_inputs("c", "bn"), "n", "bn"),
        node("Conv", "x b", "d", "second"),
        node("Add", "n d", "s", "add"),
        node("Relu", "s", "y", "relu"),
    ]
    return model(nodes, weights | batch_norm("bn", channels), inputs={"x": [1, channels, 16, 16]})


def by_op(scan: Scan) -> dict[str, tuple[int, float]]:
    return {row.op: (row.number, row.seconds) for row in scan.others or ()}


def seconds(scan: Scan) -> dict[str, float | None]:
    return {row.linear.name: row.seconds for row in scan.rows}


# --- expected -----------------------------------------------------------------------------------------------


def test_operators_without_macs_take_their_part_of_the_time() -> None:
    scan = graphopt.scan(prelus())
    assert not scan.measured and scan.seconds is not None
    number, taken = by_op(scan)["PRelu"]
    assert number == 2 and taken > 0.3 * scan.seconds
    assert scan.seconds == pytest.approx(sum(row.seconds or 0.0 for row in scan.rows) + taken)


def test_what_runs_in_a_convolution_takes_no_time_of_its_own() -> None:
    assert by_op(graphopt.scan(residual())) == {}
    assert by_op(graphopt.scan(conv_bn())) == {}


def test_more_of_a_kind_take_more() -> None:
    nodes = [node("Conv", "x w", "c"), node("Erf", "c", "e"), node("Erf", "e", "f"), node("Cos", "f", "y")]
    found = by_op(graphopt.scan(model(nodes, {"w": weight(8, 8, 1, 1)})))
    assert list(found) == ["Erf", "Cos"]
    assert found["Erf"][0] == 2 and found["Erf"][1] == pytest.approx(2 * found["Cos"][1])


def test_operators_of_shapes_and_views_take_none() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Shape", "c", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n rest", "to", axis=0),
        node("Reshape", "c to", "y"),
    ]
    weights = {"w": weight(8, 8, 1, 1), "zero": np.array([0]), "rest": np.array([-1])}
    assert by_op(graphopt.scan(model(nodes, weights))) == {}


def test_a_reduction_takes_as_long_as_what_it_reads() -> None:
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "p"), node("Erf", "c", "y")]
    proto = model(
        nodes, {"w": weight(8, 8, 1, 1)}, inputs={"x": [1, 8, 256, 256]}, outputs={"p": None, "y": None}
    )
    found = by_op(graphopt.scan(proto))
    assert 0.4 < found["GlobalAveragePool"][1] / found["Erf"][1] < 0.6


def test_what_a_loop_repeats_counts_as_often() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 8, 8, 8] x, float[8, 8, 1, 1] w) => (float[] y) <int64 trips = {5}> {
        y = Loop <body = b (int64 i, bool go, float[1, 8, 8, 8] s) => (bool on, float[1, 8, 8, 8] next)
            { on = Identity (go)  c = Conv (s, w)  next = Erf (c) }> (trips, , x)
    }"""
    proto = onnx.parser.parse_model(text)
    scan = graphopt.scan(proto)
    alone = graphopt.scan(model([node("Conv", "x w", "c"), node("Erf", "c", "y")], {"w": weight(8, 8, 1, 1)}))
    assert by_op(scan)["Erf"][1] == pytest.approx(5 * by_op(alone)["Erf"][1])
    assert [row.seconds for row in scan.rows] == [pytest.approx(5 * (alone.rows[0].seconds or 0.0))]


def test_open_sizes_have_no_expected_time(tmp_path: Path) -> None:
    path = saved(prelus(size="side"), tmp_path / "open.onnx")
    scan = graphopt.scan(path)
    assert scan.seconds is None and scan.others is None
    assert [row.seconds for row in scan.rows] == [None, None]
    assert "ms" not in cli("scan", path).fine().out
    told = cli("scan", path, "--shape", "x=1x64x32x32").fine().out
    assert "≈ms" in told and "2 PRelu" in told


# --- measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_measured_time_is_that_of_all_kernels(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[profiling.Kernel] = []
    kernels = profiling.kernels

    def kept(*given: Any) -> list[profiling.Kernel]:
        ran.extend(kernels(*given))
        return ran

    monkeypatch.setattr(profiling, "kernels", kept)
    scan = graphopt.scan(prelus(dtype=dtype), measure=True)
    assert scan.measured and scan.seconds == pytest.approx(sum(kernel.seconds for kernel in ran))
    assert all(row.seconds for row in scan.rows)
    found = by_op(scan)
    if dtype is np.float32:  # of float16 it is several operators
        assert found["PRelu"][0] == 2 and found["PRelu"][1] > 0
        assert set(found) <= {"PRelu", "changes of layout"}
    assert [row.seconds or 0.0 for row in scan.rows] == sorted(
        (row.seconds or 0.0 for row in scan.rows), reverse=True
    )


@pytest.mark.parametrize("channels", [16, 18], ids=["blocked", "not blocked"])
def test_a_fused_kernel_is_its_convolutions(channels: int) -> None:
    scan = graphopt.scan(residual(channels), measure=True)
    found = seconds(scan)
    assert set(found) == {"first", "second"} and None not in found.values()
    assert not {"Conv", "FusedConv", "BatchNormalization"} & set(by_op(scan))


def test_a_gemm_of_two_operators_is_its_products() -> None:
    nodes = [
        node("MatMul", "x w", "m", "product"),
        node("Add", "m b", "a", "add"),
        node("Relu", "a", "y", "relu"),
    ]
    proto = model(nodes, {"w": weight(64, 64), "b": weight(64)}, inputs={"x": [32, 64]})
    scan = graphopt.scan(proto, measure=True)
    assert seconds(scan)["product"] is not None
    assert set(by_op(scan)) <= {"Relu"}


def test_kernels_of_several_operators_have_their_own_kind() -> None:
    nodes = [node("Conv", "x w", "c", "conv"), node("Sigmoid", "c", "s"), node("Mul", "c s", "y")]
    scan = graphopt.scan(model(nodes, {"w": weight(8, 8, 1, 1)}), measure=True)
    assert seconds(scan)["conv"] is not None
    assert by_op(scan)["QuickGelu"][0] == 1


def test_a_branch_that_is_not_taken_has_no_time() -> None:
    bodies = {
        key: onnx.helper.make_graph([node("Conv", "x w", key, f"conv_{key}")], key, [], [info(key, None)])
        for key in ("then_branch", "else_branch")
    }
    flag = onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.FLOAT, [1])
    nodes = [
        node("Cast", "flag", "taken", to=onnx.TensorProto.BOOL),
        node("If", "taken", "y", "if", **bodies),
    ]
    proto = model(nodes, {"w": weight(8, 8, 1, 1)}, inputs=[info("x", [1, 8, 8, 8]), flag])
    found = seconds(graphopt.scan(proto, measure=True))
    assert sorted(taken is None for taken in found.values()) == [False, True]


def test_open_sizes_are_measured_at_those_that_were_found(tmp_path: Path) -> None:
    path = saved(prelus(size="side"), tmp_path / "open.onnx")
    scan = graphopt.scan(path, measure=True)
    assert scan.seconds and any("measured with x 1x64x" in note for note in scan.notes)
    told = graphopt.scan(path, measure=True, shapes={"x": (1, 64, 16, 16)})
    assert told.seconds and not any("measured with" in note for note in told.notes)


def test_a_model_without_convolutions_is_measured_too(tmp_path: Path) -> None:
    path = saved(model([node("Erf", "x", "y")]), tmp_path / "erf.onnx")
    assert "1 Erf" in cli("scan", path, "--measure").fine().out


POINTWISE = [node("Conv", "x w", "y")], {"w": weight(8, 8, 1, 1)}
RESHAPE = [node("Reshape", "x to", "y")], {"to": np.array([7, 7])}
UNRUN = {
    "no shape": (model(*POINTWISE, inputs={"x": None}), "no shape"),
    "no such operator": (model([node("No", "x", "y", domain="no.such")], domains=["no.such"]), "can't load"),
    "no such kernel": (
        model([node("Erf", "x", "y", "wide")], inputs={"x": [2]}, dtype=np.float64),
        "name 'wide'",
    ),
    "fails": (model(*RESHAPE, inputs={"x": ["n", 8]}), "can't run"),
}


@pytest.mark.parametrize("case", UNRUN)
def test_what_cannot_be_run_is_refused(case: str, tmp_path: Path) -> None:
    proto, said = UNRUN[case]
    cli("scan", saved(proto, tmp_path / "m.onnx"), "--measure").refused("m.onnx can't be measured: ", said)


# --- told ---------------------------------------------------------------------------------------------------


def parts(table: str) -> list[tuple[str, str]]:
    """Operator and part of the time in each line of a table."""
    lines = table.split("\n\n")[0].splitlines()[1:]
    return [
        (line.split("  ")[0], next(w for w in line.split() if w.endswith("%")))
        for line in lines
        if "%" in line
    ]


def test_expected_times_are_marked_and_follow_the_macs(tmp_path: Path) -> None:
    out = cli("scan", saved(prelus(), tmp_path / "m.onnx")).fine().out
    assert "≈ms  time" in out.splitlines()[0] and "ms expected at one thread" in out
    assert [name for name, _ in parts(out)] == ["conv0", "conv1", "2 PRelu"]
    assert sum(float(part.rstrip("%")) for _, part in parts(out)) == pytest.approx(100, abs=2)


def test_what_takes_next_to_nothing_is_told_together(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c", "conv"),
        node("GlobalAveragePool", "c", "p"),
        node("Erf", "p", "e"),
        node("Cos", "e", "y"),
    ]
    proto = model(nodes, {"w": weight(256, 64, 3, 3)}, inputs={"x": [1, 64, 64, 64]})
    path = saved(proto, tmp_path / "m.onnx")
    assert [name for name, _ in parts(cli("scan", path).fine().out)] == [
        "conv",
        "1 GlobalAveragePool",
        "2 others",
    ]
    del proto.graph.node[3]
    proto.graph.output[0].name = "e"
    saved(proto, path)
    assert [name for name, _ in parts(cli("scan", path).fine().out)][-1] == "1 other"


def test_measured_times_come_first_that_are_longest(tmp_path: Path) -> None:
    path = saved(prelus(), tmp_path / "m.onnx")
    out = cli("scan", path, "--measure").fine().out
    assert "≈ms" not in out and "ms measured at one thread" in out
    shown = [float(part.rstrip("%")) for _, part in parts(out)]
    assert shown == sorted(shown, reverse=True) and sum(shown) == pytest.approx(100, abs=3)
    assert "2 PRelu" in {name for name, _ in parts(out)}


def test_the_document_of_a_measured_scan(tmp_path: Path) -> None:
    path = saved(prelus(), tmp_path / "m.onnx")
    document: Mapping[str, Any] = json.loads(cli("scan", path, "--measure", "--json").fine().out)
    others: Sequence[Mapping[str, Any]] = document["others"]
    assert document["measured"] is True
    assert {"op": "PRelu", "number": 2} in [
        {k: v for k, v in row.items() if k != "seconds"} for row in others
    ]
    every = [row["seconds"] for row in (*document["convs"], *others)]
    assert sum(every) == pytest.approx(document["seconds"]) and min(every) >= 0


def test_measuring_changes_no_other_figure() -> None:
    proto = prelus()
    plain, measured = graphopt.scan(proto), graphopt.scan(ir.from_proto(proto), measure=True)
    assert plain.totals == measured.totals and plain.uncounted_ops == measured.uncounted_ops
    assert {r.linear.name: r.opportunities for r in plain.rows} == {
        r.linear.name: r.opportunities for r in measured.rows
    }


def test_a_model_that_answers_in_words() -> None:
    """Of text nothing tells how long an element is."""
    labels = onnx.helper.make_tensor("labels", onnx.TensorProto.STRING, [4], [b"cat", b"dog", b"emu", b"fox"])
    nodes = [
        node("Conv", "x w", "c", "conv"),
        onnx.helper.make_node("ArgMax", ["c"], ["best"], axis=1, keepdims=0),
        onnx.helper.make_node("Gather", ["labels", "best"], ["y"], name="word"),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "words",
        [info("x", [1, 8, 6, 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, None)],
        [onnx.numpy_helper.from_array(weight(4, 8, 3, 3), "w"), labels],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    scan = graphopt.scan(proto)
    assert scan.totals.macs == 4 * 8 * 9 * 16
