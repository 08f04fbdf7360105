"""The JSON documents: their keys, types and figures, and the names of nodes that have none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.planning import gates, intervals
from graphopt.report import json as documents
from graphopt.verification.verdict import Verdict, Verification
from tests.builders import batch_norm, bn_inputs, classifier, conv_bn, info, model, node, saved, weight
from tests.command import cli

NUMBER = (int, float)


def all_of(kind: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), kind)


TOTALS = all_of(int, "macs flops params weight_bytes nodes")
MODEL = {"path": str, "sha256": str, "bytes": int, "opset": int}
CONV = all_of(str, "name graph op") | all_of(int, "in_channels out_channels group macs flops params runs")
CONV |= all_of([int], "kernel strides pads dilations output_shape") | {"share": float, "pointwise": bool}
CONV |= {"seconds": float, "opportunities": [{"rewrite": str, "exactness": str, "macs_after": int}]}
EVERY = {"schema_version": int, "graphopt": str, "model": MODEL, "uncounted_ops": {}}
EVERY |= all_of([str], "unknown_dims observed_shapes")
SCAN = {**EVERY, "totals": TOTALS, "convs": [CONV], "notes": [str]}
SCAN |= {"seconds": NUMBER, "others": [{"op": str, "number": int, "seconds": float}], "measured": bool}
VERDICT = all_of(str, "scope output value rule note") | all_of(NUMBER, "max_abs max_rel sqnr allowed")
VERDICT |= {"passed": bool, "feeds": int, "informative": bool}
APPLIED = all_of(str, "rewrite exactness") | all_of(int, "macs_before macs_after") | {"nodes": [str]}
APPLIED |= all_of(float, "error_predicted error_measured sensitivity")
APPLIED |= all_of({}, "choice spectra") | all_of(bool, "verified measured")
LEFT = {"rewrite": str, "nodes": [str], "reason": str}
QUALITY = {"agreement": float, "agreement_interval": [float], "sqnr": NUMBER, "samples": int}
QUALITY |= {"sqnr_interval": [float], "confidence": float}
QUALITY |= all_of({}, "measured_by unmeasured groups")
LATENCY = all_of(float, "reference_ms candidate_ms speedup") | all_of(int, "threads repeat")
LATENCY |= {"spread": [float], "interval": [float], "provider": str, "inputs": {}}
LAYER = {"rewrite": str, "nodes": [str], "choice": {}, "error_predicted": float}
POINT = {"costs": {}, "quality": QUALITY, "metric": float, "taken": bool, "layers": [LAYER]}
JUDGED = {"key": str, "limit": float, "measured": float, "interval": [float], "passed": bool}
JUDGED |= {"undecided": bool, "needed": int}
REPORT = EVERY | {"exit_code": int, "quality": QUALITY} | all_of({}, "seconds options")
REPORT |= all_of(TOTALS, "before after") | {"changed": bool, "applied": [APPLIED]}
REPORT |= all_of([LEFT], "declined rejected") | {"verification": {"passed": bool, "checks": [VERDICT]}}
# besides what the design names
REPORT |= all_of([JUDGED], "budget gates") | {"tuning": {}, "curve": [POINT], "unmeasured": bool}
REPORT |= all_of([str], "warnings notes")
REPORT |= {"latency": LATENCY, "metric": {"name": str, "before": float, "after": float}}
VERIFY = {"schema_version": int, "passed": bool, "checks": [VERDICT], "warnings": [str], "notes": [str]}
VERIFY |= {"undecided": bool}
BENCH = {"schema_version": int, **LATENCY}
REWRITES = [{"name": str, "exactness": str, "default": bool, "options": {}, "summary": str}]


def assert_fits(document: Any, schema: Any, where: str = "document", nullable: bool = True) -> None:
    """The document has exactly the schema's keys, and values of its types, or null where a value can be."""
    if document is None:
        assert nullable, where
    elif isinstance(schema, dict):
        assert isinstance(document, dict), where
        if schema:
            assert set(document) == set(schema), where
        for key, part in schema.items():
            assert_fits(document[key], part, f"{where}.{key}", key in NULLABLE)
    elif isinstance(schema, list):
        assert isinstance(document, list), where
        for item in document:
            assert_fits(item, schema[0], f"{where}[]", where.endswith("output_shape"))
    else:
        kinds = schema if isinstance(schema, tuple) else (schema,)
        assert type(document) in kinds, f"{where}: {document!r}"


NULLABLE = {
    *(
        "tuning",
        "macs",
        "flops",
        "macs_before",
        "macs_after",
        "share",
        "output_shape",
        "in_channels",
        "out_channels",
    ),
    *("max_abs", "max_rel", "sqnr", "allowed", "error_measured", "quality", "agreement", "path"),
    *(
        "seconds",
        "others",
        "latency",
        "metric",
        "sensitivity",
        "agreement_interval",
        "measured",
        "sqnr_interval",
        "interval",
    ),
    "needed",
}


def strict(text: str) -> Any:
    """The document, if it holds no NaN and no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in a JSON document")

    return json.loads(text, parse_constant=refuse)


def printed(schema: Any, *arguments: object) -> Any:
    """The document that a command prints, which fits the schema."""
    done = cli(*arguments, "--json")
    assert done.err == ""
    document = strict(done.out)
    assert_fits(document, schema)
    return document


# --- the shape of every document ----------------------------------------------------------------------------


def test_scan(scores: Path) -> None:
    document = printed(SCAN, "scan", scores)
    assert document["schema_version"] == 1
    assert document["model"]["path"] == str(scores)
    assert document["model"]["bytes"] == scores.stat().st_size
    assert document["model"]["opset"] == 17
    assert document["uncounted_ops"] == {"BatchNormalization": 1, "GlobalAveragePool": 1, "Relu": 2}
    assert [row["macs"] for row in document["convs"]] == [16 * 64 * 8 * 9, 16 * 16 * 16 * 9, 80]
    assert document["totals"]["macs"] == sum(row["macs"] for row in document["convs"])
    assert document["totals"]["flops"] == 2 * document["totals"]["macs"]
    assert sum(row["share"] for row in document["convs"]) == pytest.approx(1)
    assert document["measured"] is False
    every = [row["seconds"] for row in (*document["convs"], *document["others"])]
    assert document["seconds"] == pytest.approx(sum(every))
    found = {o["rewrite"]: o["exactness"] for row in document["convs"] for o in row["opportunities"]}
    assert found["fold_affine"] == "exact" and found["bottleneck"] == "approximate"


def test_report(scores: Path, inputs: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    asked = ("--budget", "macs=0.6", "--calibration", inputs, "--seed", 5, "--require", "macs<=1")
    document = printed(REPORT, "optimize", scores, "-o", out, *asked, "--report", report)
    assert strict(report.read_text()) == document
    assert document["exit_code"] == 0
    assert document["changed"] and document["verification"]["passed"]
    assert document["after"]["macs"] <= 0.6 * document["before"]["macs"]
    assert {item["exactness"] for item in document["applied"]} == {"exact", "approximate"}
    assert document["quality"]["samples"] == 4
    assert all(seconds >= 0 for seconds in document["seconds"].values()) and document["seconds"]
    options = document["options"]
    assert [item["key"] for item in (*document["budget"], *document["gates"])] == ["macs", "macs"]
    assert options["budget"] == {"macs": 0.6} and options["seed"] == 5 and options["aim"] == "time"
    assert options["rewrites"]["bottleneck"]["min_channels"] == 8
    cut = next(item for item in document["applied"] if item["exactness"] == "approximate")
    assert 0 < cut["error_predicted"] < 1 and 0 < cut["error_measured"] < 1
    assert printed(SCAN, "scan", out)["totals"] == document["after"]


def test_report_of_a_model_in_memory_and_without_inputs() -> None:
    result = graphopt.optimize(classifier(), {"macs": 0.6})
    document = strict(documents.dumps(documents.report(result.report, 0)))
    assert_fits(document, REPORT)
    assert document["model"]["path"] is None
    assert document["quality"] is None and document["unmeasured"] is True
    assert all(item["error_measured"] is None for item in document["applied"])


def test_verify(folded: Path) -> None:
    document = printed(VERIFY, "verify", folded, folded)
    assert document["passed"] is True
    assert [check["scope"] for check in document["checks"]] == ["model", "model, optimised session"]
    assert document["checks"][0]["sqnr"] is None  # infinite: nothing differs


def test_verify_of_a_quality(scores: Path, inputs: Path) -> None:
    asked = ("--calibration", inputs, "--budget", "sqnr=9", "--budget", "agreement=1", "--confidence", "none")
    document = printed(VERIFY, "verify", scores, scores, *asked)
    assert [check["scope"] for check in document["checks"]] == ["agreement", "sqnr"]
    assert [check["feeds"] for check in document["checks"]] == [16, 16]


def test_a_gate_that_the_inputs_are_too_few_for_says_how_many_would_do() -> None:
    few, kept = gates.judge(
        [gates.Gate("agreement", 0.98), gates.Gate("sqnr", 20.0)],
        {"agreement": 1.0, "sqnr": 30.0},
        gates.Known({"agreement": intervals.wilson(1.0, 16, 0.95), "sqnr": (25.0, 35.0)}, 16, 0.95),
    )
    document = strict(documents.dumps([few, kept]))
    assert_fits(document, [JUDGED])
    assert [(each["undecided"], each["needed"]) for each in document] == [(True, 189), (False, None)]


def test_verify_of_another_interface(folded: Path, scores: Path) -> None:
    document = printed(VERIFY, "verify", folded, scores)
    assert document["passed"] is False
    assert document["checks"][0]["scope"] == "interface"


def test_bench(folded: Path) -> None:
    document = printed(BENCH, "bench", folded, folded, "--repeat", 4)
    low, high = document["spread"]
    assert 0 < low <= document["speedup"] <= high
    assert (document["threads"], document["repeat"]) == (1, 4)
    assert document["provider"] == "CPUExecutionProvider"


def test_rewrites() -> None:
    document = printed(REWRITES, "rewrites")
    by_name = {item["name"]: item for item in document}
    assert by_name["fold_affine"]["default"] and not by_name["bottleneck"]["default"]
    assert by_name["bottleneck"]["options"]["min_channels"] == {"type": "int", "default": 8}
    assert all(item["default"] == (item["exactness"] == "exact") for item in document)


def test_figures_without_a_value_are_null() -> None:
    check = Verdict("model", "y", False, math.inf, math.nan, -math.inf, 0.0, 1, "shape")
    document = strict(documents.dumps(documents.verification(Verification((check,)))))
    assert [document["checks"][0][key] for key in ("max_abs", "max_rel", "sqnr")] == [None, None, None]


def test_numpy_figures_are_numbers() -> None:
    text = documents.dumps({"a": np.int64(3), "b": np.float32("nan"), "c": (np.bool_(True),)})
    assert strict(text) == {"a": 3, "b": None, "c": [True]}


# --- what a scan tells --------------------------------------------------------------------------------------


def rows(proto: onnx.ModelProto, **options: Any) -> dict[str, dict[str, Any]]:
    document = documents.scan(graphopt.scan(proto, **options))
    assert_fits(strict(documents.dumps(document)), SCAN)
    return {row["name"]: row for row in document["convs"]}


def test_nodes_without_a_name_of_their_own() -> None:
    names = ("x a", "a b", "b c", "c y once")
    nodes = [node("Conv", f"{x} w", y, *name) for x, y, *name in map(str.split, names)]
    assert list(rows(model(nodes, {"w": weight(8, 8, 1, 1)}))) == ["Conv:a", "Conv:b", "Conv:c", "once"]


def branches(**attributes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """An If without a name, whose branches make `t` and `e` of `x`."""
    graphs = {
        key: helper.make_graph(nodes, key, [], [info(nodes[-1].output[0], None)])
        for key, nodes in attributes.items()
    }
    weights = {"w": weight(8, 8, 1, 1), "flag": np.array(True)}
    return model([node("If", "flag", "i", **graphs), node("Relu", "i", "y")], weights)


def test_bodies_of_an_if() -> None:
    then = [node("Conv", "x w", "t")]
    other = [node("Conv", "x w", "m", "named"), node("Conv", "m w", "e")]
    found = rows(branches(then_branch=then, else_branch=other))
    assert {name: row["graph"] for name, row in found.items()} == {
        "If:i/then_branch/Conv:t": "If:i/then_branch",
        "named": "If:i/else_branch",
        "If:i/else_branch/Conv:e": "If:i/else_branch",
    }
    assert {row["macs"] for row in found.values()} == {8 * 8 * 64}


def test_an_if_in_an_if() -> None:
    inner = branches(then_branch=[node("Conv", "x w", "t")], else_branch=[node("Relu", "x", "e")])
    inner.graph.node[0].output[0] = "j"
    outer = branches(then_branch=[inner.graph.node[0]], else_branch=[node("Relu", "x", "o")])
    assert list(rows(outer)) == ["If:i/then_branch/If:j/then_branch/Conv:t"]


def test_the_body_of_a_loop_counts_for_each_trip() -> None:
    body = helper.make_graph(
        [node("Conv", "state w", "next"), node("Identity", "go", "again")],
        "body",
        [info("i", [], np.int64), info("go", [], np.bool_), info("state", [1, 8, 8, 8])],
        [info("again", [], np.bool_), info("next", [1, 8, 8, 8])],
    )
    weights = {"w": weight(8, 8, 1, 1), "trips": np.array(5)}
    proto = model([node("Loop", "trips - x", "y", "loop", body=body)], weights)
    found = rows(proto)
    assert list(found) == ["loop/body/Conv:next"]
    assert found["loop/body/Conv:next"]["macs"] == 8 * 8 * 64
    assert (found["loop/body/Conv:next"]["runs"], found["loop/body/Conv:next"]["share"]) == (5, 1.0)
    assert graphopt.scan(proto).totals.macs == 5 * 8 * 8 * 64


def test_gemm_and_matmul_have_no_spatial_axes() -> None:
    nodes = [node("MatMul", "x m", "a", "matmul"), node("Gemm", "a g", "y", "gemm", transB=1)]
    proto = model(nodes, {"m": weight(6, 10), "g": weight(4, 10)}, inputs={"x": [3, 6]})
    found = rows(proto)
    for row in found.values():
        assert (row["kernel"], row["strides"], row["pads"], row["dilations"]) == ([], [], [], [])
        assert row["group"] == 1 and row["pointwise"] is True
    assert (found["matmul"]["in_channels"], found["matmul"]["out_channels"]) == (6, 10)
    assert (found["gemm"]["in_channels"], found["gemm"]["out_channels"]) == (10, 4)
    assert [found[name]["macs"] for name in ("matmul", "gemm")] == [180, 120]


def test_a_conv_with_every_attribute() -> None:
    attributes = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 0, 2], "group": 2}
    nodes = [node("Conv", "x w b", "y", "conv", **attributes)]
    row = rows(model(nodes, {"w": weight(6, 4, 3, 3), "b": weight(6)}))["conv"]
    assert {key: row[key] for key in attributes} == attributes
    assert (row["kernel"], row["in_channels"], row["out_channels"]) == ([3, 3], 8, 6)
    assert row["output_shape"] == [1, 6, 4, 8]
    assert row["macs"] == 6 * 4 * 8 * 4 * 9 and row["flops"] == 2 * row["macs"]
    assert row["params"] == 6 * 4 * 9 + 6
    assert row["pointwise"] is False and row["share"] == 1.0


def test_a_transposed_conv_counts_its_input_pixels() -> None:
    proto = model([node("ConvTranspose", "x w", "y", "up", strides=[2, 2])], {"w": weight(8, 5, 2, 2)})
    row = rows(proto)["up"]
    assert (row["op"], row["in_channels"], row["out_channels"]) == ("ConvTranspose", 8, 5)
    assert row["macs"] == 64 * 8 * 5 * 4
    assert row["output_shape"] == [1, 5, 16, 16]


def test_unknown_sizes_are_null_and_named() -> None:
    pool = node("GlobalAveragePool", "a", "p")
    nodes = [node("Conv", "x w", "a", "open"), pool, node("Conv", "p w", "y", "one")]
    proto = model(nodes, {"w": weight(8, 8, 1, 1)}, inputs={"x": ["N", 8, "height", 8]})
    document = strict(documents.dumps(documents.scan(graphopt.scan(proto))))
    found = {row["name"]: row for row in document["convs"]}
    assert found["open"]["macs"] is None and found["open"]["flops"] is None
    assert found["open"]["output_shape"] == [1, 8, None, 8]
    assert found["one"]["macs"] == 64
    assert document["totals"]["macs"] is None and document["totals"]["flops"] is None
    assert all(row["share"] is None for row in document["convs"])
    assert len(document["unknown_dims"]) == 1 and "height" in document["unknown_dims"][0]
    assert rows(proto, shapes={"x": [1, 8, 4, 8]})["open"]["macs"] == 8 * 8 * 32


def test_a_symbolic_batch_counts_as_one() -> None:
    proto = model([node("Conv", "x w", "y", "conv")], {"w": weight(8, 8, 1, 1)}, inputs={"x": ["N", 8, 8, 8]})
    assert rows(proto)["conv"]["output_shape"] == [1, 8, 8, 8]
    assert rows(proto, shapes={"x": [4, 8, 8, 8]})["conv"]["macs"] == 4 * 8 * 8 * 64


def test_shapes_seen_by_running_are_named() -> None:
    # What NonZero returns depends on the content, so nothing but a run can tell the size.
    nodes = [
        node("NonZero", "k", "z"),
        node("Shape", "z", "s"),
        node("Slice", "s one two", "n"),
        node("Concat", "one eight n n", "target", axis=0),
        node("Expand", "x target", "wide"),
        node("Conv", "wide w", "y", "conv"),
    ]
    ints = {"one": [1], "two": [2], "eight": [8]}
    weights = {"w": weight(8, 8, 1, 1), **{k: np.array(v, np.int64) for k, v in ints.items()}}
    proto = model(nodes, weights, inputs={"x": [1, 8, 1, 1], "k": [5]})
    document = documents.scan(graphopt.scan(proto))
    assert document["observed_shapes"]
    assert document["convs"][0]["macs"] == 8 * 8 * 25


def test_parameters_that_two_nodes_share_count_once_in_the_total() -> None:
    nodes = [node("Conv", "x w", "a", "first"), node("Conv", "a w", "y", "second")]
    document = documents.scan(graphopt.scan(model(nodes, {"w": weight(8, 8, 1, 1)})))
    assert [row["params"] for row in document["convs"]] == [64, 64]
    assert document["totals"]["params"] == 64
    assert document["totals"]["weight_bytes"] == 256


def test_every_operator_that_works_and_is_not_counted_is_listed() -> None:
    weights = {"w": weight(8, 8, 1, 1), **batch_norm("bn", 8)}
    nodes = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", bn_inputs("c", "bn"), "b"),
        node("Identity", "b", "i"),
        node("Erf", "i", "n"),
        node("Warp", "n", "y", domain="my.ops"),
    ]
    found = documents.scan(graphopt.scan(model(nodes, weights, domains=["my.ops"])))
    assert found["uncounted_ops"] == {"BatchNormalization": 1, "Erf": 1, "my.ops::Warp": 1}


def test_a_model_without_convolutions(tmp_path: Path) -> None:
    path = saved(model([node("Relu", "x", "y")]), tmp_path / "m.onnx")
    document = printed(SCAN, "scan", path)
    assert document["convs"] == [] and document["totals"]["macs"] == 0
    printed(REPORT, "optimize", path, "--dry-run")
    assert "0 MACs" in cli("scan", path).out


def test_half_and_double_precision(tmp_path: Path) -> None:
    for kind, size in ((np.float16, 2), (np.float64, 8)):
        path = saved(conv_bn(dtype=kind), tmp_path / f"{size}.onnx")
        totals = printed(SCAN, "scan", path)["totals"]
        assert totals["weight_bytes"] == size * totals["params"] == size * (8 * 8 * 9 + 4 * 8)
        printed(REPORT, "optimize", path, "--dry-run")
