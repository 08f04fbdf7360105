"""The JSON documents: their keys, types and figures, and the names of nodes that have none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.report import json as documents
from graphopt.verification.verdict import Verdict, Verification
from tests.builders import (
    batch_norm,
    bn_inputs,
    classifier,
    conv_bn,
    info,
    model,
    node,
    samples,
    saved,
    weight,
)
from tests.command import cli

NUMBER = (int, float)
TOTALS = {"macs": int, "flops": int, "params": int, "weight_bytes": int, "nodes": int}
MODEL = {"path": str, "sha256": str, "bytes": int, "opset": int}
CONV = {
    "name": str,
    "graph": str,
    "op": str,
    "kernel": [int],
    "in_channels": int,
    "out_channels": int,
    "group": int,
    "strides": [int],
    "pads": [int],
    "dilations": [int],
    "output_shape": [int],
    "macs": int,
    "flops": int,
    "params": int,
    "share": float,
    "pointwise": bool,
    "opportunities": [{"rewrite": str, "exactness": str, "macs_after": int}],
}
SCAN = {
    "schema_version": int,
    "graphopt": str,
    "model": MODEL,
    "totals": TOTALS,
    "convs": [CONV],
    "uncounted_ops": {},
    "unknown_dims": [str],
    "observed_shapes": [str],
}
VERDICT = {
    "scope": str,
    "output": str,
    "passed": bool,
    "max_abs": NUMBER,
    "max_rel": NUMBER,
    "sqnr": NUMBER,
    "allowed": NUMBER,
    "feeds": int,
    "note": str,
}
APPLIED = {
    "rewrite": str,
    "exactness": str,
    "nodes": [str],
    "macs_before": int,
    "macs_after": int,
    "error_predicted": float,
    "error_measured": float,
    "choice": {},
    "sensitivity": float,
    "spectra": {},
    "verified": bool,
}
LEFT = {"rewrite": str, "nodes": [str], "reason": str}
QUALITY = {"agreement": float, "agreement_interval": [float], "sqnr": NUMBER, "samples": int}
LATENCY = {
    "reference_ms": float,
    "candidate_ms": float,
    "speedup": float,
    "spread": [float],
    "threads": int,
    "repeat": int,
    "provider": str,
}
POINT = {
    "costs": {},
    "quality": QUALITY,
    "metric": float,
    "taken": bool,
    "layers": [{"rewrite": str, "nodes": [str], "choice": {}, "error_predicted": float}],
}
JUDGED = {"key": str, "limit": float, "measured": float, "passed": bool}
REPORT = {
    "schema_version": int,
    "graphopt": str,
    "exit_code": int,
    "model": MODEL,
    "before": TOTALS,
    "after": TOTALS,
    "changed": bool,
    "applied": [APPLIED],
    "declined": [LEFT],
    "rejected": [LEFT],
    "verification": {"passed": bool, "checks": [VERDICT]},
    "quality": QUALITY,
    "uncounted_ops": {},
    "seconds": {},
    "options": {},
    # besides what the design names
    "latency": LATENCY,
    "metric": {"name": str, "before": float, "after": float},
    "budget": [JUDGED],
    "gates": [JUDGED],
    "curve": [POINT],
    "unmeasured": bool,
    "notes": [str],
    "unknown_dims": [str],
    "observed_shapes": [str],
}
VERIFY = {"schema_version": int, "passed": bool, "checks": [VERDICT], "notes": [str]}
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
            can_be_null = key in NULLABLE
            assert_fits(document[key], part, f"{where}.{key}", can_be_null)
    elif isinstance(schema, list):
        assert isinstance(document, list), where
        for item in document:
            assert_fits(item, schema[0], f"{where}[]", where.endswith("output_shape"))
    else:
        kinds = schema if isinstance(schema, tuple) else (schema,)
        assert type(document) in kinds, f"{where}: {document!r}"


NULLABLE = {
    *("macs", "flops", "macs_before", "macs_after", "share", "output_shape", "in_channels", "out_channels"),
    *("max_abs", "max_rel", "sqnr", "allowed", "error_measured", "quality", "agreement", "path"),
    *("latency", "metric", "sensitivity", "agreement_interval", "measured"),
}


def strict(text: str) -> Any:
    """The document, if it holds no NaN and no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in a JSON document")

    return json.loads(text, parse_constant=refuse)


def printed(*arguments: object) -> Any:
    done = cli(*arguments, "--json")
    assert done.err == ""
    return strict(done.out)


# --- the shape of every document ----------------------------------------------------------------------------


def test_scan(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    document = printed("scan", path)
    assert_fits(document, SCAN)
    assert document["schema_version"] == 1
    assert document["model"]["path"] == str(path)
    assert document["model"]["bytes"] == path.stat().st_size
    assert document["model"]["opset"] == 17
    assert document["uncounted_ops"] == {"BatchNormalization": 1, "GlobalAveragePool": 1, "Relu": 2}
    assert [row["macs"] for row in document["convs"]] == [16 * 64 * 8 * 9, 16 * 16 * 16 * 9, 80]
    assert document["totals"]["macs"] == sum(row["macs"] for row in document["convs"])
    assert document["totals"]["flops"] == 2 * document["totals"]["macs"]
    assert sum(row["share"] for row in document["convs"]) == pytest.approx(1)
    found = {o["rewrite"]: o["exactness"] for row in document["convs"] for o in row["opportunities"]}
    assert found["fold_affine"] == "exact" and found["bottleneck"] == "approximate"


def test_report(tmp_path: Path) -> None:
    path, out = saved(classifier(), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    np.save(tmp_path / "inputs.npy", samples(12))
    report = tmp_path / "report.json"
    budget = ("--budget", "macs=0.6", "--calibration", tmp_path / "inputs.npy")
    document = printed(
        "optimize", path, "-o", out, *budget, "--report", report, "--seed", 5, "--require", "macs<=1"
    )
    assert_fits(document, REPORT)
    assert strict(report.read_text()) == document
    assert document["exit_code"] == 0
    assert document["changed"] and document["verification"]["passed"]
    assert document["after"]["macs"] <= 0.6 * document["before"]["macs"]
    assert {item["exactness"] for item in document["applied"]} == {"exact", "approximate"}
    assert document["quality"]["samples"] == 3
    assert all(seconds >= 0 for seconds in document["seconds"].values()) and document["seconds"]
    options = document["options"]
    assert [item["key"] for item in (*document["budget"], *document["gates"])] == ["macs", "macs"]
    assert options["budget"] == {"macs": 0.6} and options["seed"] == 5 and options["aim"] == "time"
    assert options["rewrites"]["bottleneck"]["min_channels"] == 8
    cut = next(item for item in document["applied"] if item["exactness"] == "approximate")
    assert 0 < cut["error_predicted"] < 1 and 0 < cut["error_measured"] < 1
    recount = printed("scan", out)
    assert recount["totals"] == document["after"]


def test_report_of_a_model_in_memory_and_without_inputs() -> None:
    result = graphopt.optimize(classifier(), {"macs": 0.6})
    document = strict(documents.dumps(documents.report(result.report, 0)))
    assert_fits(document, REPORT)
    assert document["model"]["path"] is None
    assert document["quality"] is None and document["unmeasured"] is True
    assert all(item["error_measured"] is None for item in document["applied"])


def test_verify(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "m.onnx")
    document = printed("verify", path, path)
    assert_fits(document, VERIFY)
    assert document["passed"] is True
    assert [check["scope"] for check in document["checks"]] == ["model", "model, optimised session"]
    assert document["checks"][0]["sqnr"] is None  # infinite: nothing differs


def test_verify_of_a_quality(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    np.save(tmp_path / "inputs.npy", samples(6))
    given = ("--calibration", tmp_path / "inputs.npy")
    document = printed("verify", path, path, *given, "--budget", "sqnr=9", "--budget", "agreement=1")
    assert_fits(document, VERIFY)
    assert [check["scope"] for check in document["checks"]] == ["agreement", "sqnr"]
    assert [check["feeds"] for check in document["checks"]] == [6, 6]


def test_verify_of_another_interface(tmp_path: Path) -> None:
    first, second = saved(conv_bn(), tmp_path / "a.onnx"), saved(classifier(), tmp_path / "b.onnx")
    document = printed("verify", first, second)
    assert_fits(document, VERIFY)
    assert document["passed"] is False
    assert document["checks"][0]["scope"] == "interface"


def test_bench(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "m.onnx")
    document = printed("bench", path, path, "--repeat", 4)
    assert_fits(document, BENCH)
    low, high = document["spread"]
    assert 0 < low <= document["speedup"] <= high
    assert (document["threads"], document["repeat"]) == (1, 4)
    assert document["provider"] == "CPUExecutionProvider"


def test_rewrites() -> None:
    document = printed("rewrites")
    assert_fits(document, REWRITES)
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
    nodes = [
        node("Conv", "x w", "a"),
        node("Conv", "a w", "b", "twice"),
        node("Conv", "b w", "c", "twice"),
        node("Conv", "c w", "y", "once"),
    ]
    proto = model(nodes, {"w": weight(8, 8, 1, 1)})
    assert list(rows(proto)) == ["Conv:a", "Conv:b", "Conv:c", "once"]


def branches(**attributes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """An If without a name, whose branches make `t` and `e` of `x`."""
    graphs = {
        key: helper.make_graph(nodes, key, [], [info(nodes[-1].output[0], None)])
        for key, nodes in attributes.items()
    }
    flag = numpy_helper.from_array(np.array(True), "flag")
    proto = model([node("If", "flag", "i", **graphs), node("Relu", "i", "y")], {"w": weight(8, 8, 1, 1)})
    proto.graph.initializer.append(flag)
    return proto


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
    inner = branches(then_branch=[node("Conv", "x w", "t")], else_branch=[node("Relu", "x", "e")]).graph.node[
        0
    ]
    inner.output[0] = "j"
    outer = branches(then_branch=[inner], else_branch=[node("Relu", "x", "o")])
    assert list(rows(outer)) == ["If:i/then_branch/If:j/then_branch/Conv:t"]


def test_the_body_of_a_loop_counts_once() -> None:
    body = helper.make_graph(
        [node("Conv", "state w", "next"), node("Identity", "go", "again")],
        "body",
        [info("i", [], np.int64), info("go", [], np.bool_), info("state", [1, 8, 8, 8])],
        [info("again", [], np.bool_), info("next", [1, 8, 8, 8])],
    )
    proto = model([node("Loop", "trips - x", "y", "loop", body=body)], {"w": weight(8, 8, 1, 1)})
    proto.graph.initializer.append(numpy_helper.from_array(np.array(5), "trips"))
    found = rows(proto)
    assert list(found) == ["loop/body/Conv:next"]
    assert found["loop/body/Conv:next"]["macs"] == 8 * 8 * 64


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
    proto = model(
        [node("Conv", "x w b", "y", "conv", **attributes)], {"w": weight(6, 4, 3, 3), "b": weight(6)}
    )
    row = rows(proto)["conv"]
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
    nodes = [
        node("Conv", "x w", "a", "open"),
        node("GlobalAveragePool", "a", "p"),
        node("Conv", "p w", "y", "one"),
    ]
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
    custom = helper.make_node("Warp", ["n"], ["y"], domain="my.ops")
    weights = {"w": weight(8, 8, 1, 1), **batch_norm("bn", 8)}
    nodes = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", bn_inputs("c", "bn"), "b"),
        node("Identity", "b", "i"),
        node("Erf", "i", "n"),
        custom,
    ]
    found = documents.scan(graphopt.scan(model(nodes, weights, domains=["my.ops"])))
    assert found["uncounted_ops"] == {"BatchNormalization": 1, "Erf": 1, "my.ops::Warp": 1}


def test_a_model_without_convolutions(tmp_path: Path) -> None:
    path = saved(model([node("Relu", "x", "y")]), tmp_path / "m.onnx")
    document = printed("scan", path)
    assert document["convs"] == [] and document["totals"]["macs"] == 0
    assert_fits(printed("optimize", path, "--dry-run"), REPORT)
    assert "0 MACs" in cli("scan", path).out


def test_half_and_double_precision(tmp_path: Path) -> None:
    for kind, size in ((np.float16, 2), (np.float64, 8)):
        path = saved(conv_bn(dtype=kind), tmp_path / f"{size}.onnx")
        totals = printed("scan", path)["totals"]
        assert totals["weight_bytes"] == size * totals["params"] == size * (8 * 8 * 9 + 4 * 8)
        assert_fits(printed("optimize", path, "--dry-run"), REPORT)
