"""How a model came about: what it records, what stays, and what reads it back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import compose

import graphopt
from graphopt import BudgetError, Candidate, Cost, Exactness, InputError, Site
from graphopt.integrations.ir_pass import GraphOptPass
from graphopt.model import io
from graphopt.report import provenance
from graphopt.report.provenance import Record, Rewritten
from tests.builders import batch_norm, bn_inputs, classifier, conv_bn, model, node, samples, saved, weight
from tests.command import cli, on_80_columns

APART: dict[str, Any] = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
"""Of `saved`: weights in a file beside the model."""


def metadata(path: Path) -> dict[str, str]:
    """The entries of a file; each key once, as ONNX asks for."""
    entries = onnx.load(path, load_external_data=False).metadata_props
    found = {entry.key: entry.value for entry in entries}
    assert len(found) == len(entries)
    return found


def optimized(path: Path, out: Path, *options: object) -> dict[str, str]:
    cli("optimize", path, "-o", out, *options).fine()
    return metadata(out)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def two_folds() -> onnx.ModelProto:
    """Two pairs of Conv and BatchNormalization, so that two runs may take one each."""
    nodes = [
        node("Conv", "x w", "c", "first", pads=[1, 1, 1, 1]),
        node("BatchNormalization", bn_inputs("c", "bn"), "n", "bn1"),
        node("Relu", "n", "r", "relu"),
        node("Conv", "r v", "d", "second", pads=[1, 1, 1, 1]),
        node("BatchNormalization", bn_inputs("d", "bn"), "y", "bn2"),
    ]
    return model(nodes, {"w": weight(8, 8, 3, 3), "v": weight(8, 8, 3, 3, seed=5), **batch_norm("bn", 8)})


# --- what is recorded ---------------------------------------------------------------------------------------


def test_what_a_run_records(scores: Path, tmp_path: Path, inputs: Path) -> None:
    options = ("--budget", "macs=0.6", "--calibration", inputs, "--only", "fold_affine,bottleneck")
    (record,) = provenance.read(optimized(scores, tmp_path / "out.onnx", *options, "--keep", "gemm"))
    assert (record.version, record.input_sha256) == (graphopt.__version__, digest(scores))
    assert record.input_data == {}
    calibration = record.options["calibration"]
    assert isinstance(calibration, dict) and calibration["inputs"] == 16
    assert {key: value for key, value in record.options.items() if key != "calibration"} == {
        "aim": "time",
        "budget": {"macs": 0.6},
        "keep": ["gemm"],
        "only": ["bottleneck", "fold_affine"],
        "seed": 0,
    }
    exact, fitted = record.rewrites
    assert exact == Rewritten("fold_affine", "exact", ("conv2",))
    assert (fitted.rewrite, fitted.exactness) == ("bottleneck", "approximate")
    assert len(fitted.nodes) == len(fitted.choices) > 0
    assert fitted.choices[0].keys() == {"rank_in", "rank_out"}


@pytest.mark.parametrize(("said", "noted"), [("none", 0.0), ("0.99", 0.99), ("0.95", None)])
def test_a_confidence_is_recorded_where_it_is_not_the_usual_one(
    said: str, noted: float | None, folded: Path, tmp_path: Path
) -> None:
    (record,) = provenance.read(optimized(folded, tmp_path / "out.onnx", "--confidence", said))
    assert record.options.get("confidence") == noted


def test_a_record_names_no_path(scores: Path, tmp_path: Path, inputs: Path) -> None:
    options = ("--budget", "macs=0.6", "--calibration", inputs, "--report", tmp_path / "report.json")
    found = optimized(scores, tmp_path / "out.onnx", *options)
    text = " ".join(f"{key} {value}" for key, value in found.items())
    assert not re.search(r"inputs\.npy|report|out\.onnx|scores\.onnx|/", text)


def test_options_are_spelled_one_way(tmp_path: Path) -> None:
    """From the command line or from Python, in any order; a default that is named is a default."""
    path = saved(classifier(batch=1), tmp_path / "m.onnx")
    ranks = ("--set", "bottleneck.rank_in=4", "--set", "bottleneck.rank_out=6")
    only = ("--only", "bottleneck", "--only", "fold_affine", "--aim", "time", "--seed", "0")
    shape = ("--shape", "x=1x8x8x8", "--keep", "gemm", "--keep", "conv1")
    optimized(path, tmp_path / "a.onnx", *ranks, *only, *shape)
    result = graphopt.optimize(
        path,
        only=iter(["fold_affine", "bottleneck"]),
        options={"bottleneck.rank_out": 6, "bottleneck.rank_in": 4},
        shapes={"x": np.array([1, 8, 8, 8])},
        keep=["conv1", "gemm"],
    )
    result.save(tmp_path / "b.onnx")
    (record,) = provenance.read(metadata(tmp_path / "b.onnx"))
    assert record.options["options"] == {"bottleneck.rank_in": 4, "bottleneck.rank_out": 6}
    assert record.options["shapes"] == {"x": [1, 8, 8, 8]}
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_calibration_inputs_are_known_by_what_they_hold(scores: Path, tmp_path: Path) -> None:
    x = samples(16)

    def recorded(calibration: object, seed: int = 0) -> object:
        result = graphopt.optimize(scores, {"macs": 0.7}, calibration, seed=seed)  # type: ignore[arg-type]
        return provenance.read(result.model.metadata_props)[0].options["calibration"]

    np.savez(tmp_path / "inputs.npz", x=x)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "1.npy", x[:5])
    np.save(tmp_path / "folder" / "2.npy", x[5:])
    same = [*map(recorded, (x, tmp_path / "inputs.npz", tmp_path / "folder")), recorded(x, seed=1)]
    assert same[0] and all(each == same[0] for each in same)
    other = x.copy()
    other[3, 0, 0, 0] += 1
    assert recorded(other) != same[0]


def test_external_data_has_digests_of_its_own(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "m.onnx", **APART)
    (record,) = provenance.read(optimized(path, tmp_path / "out.onnx"))
    assert record.input_sha256 == digest(path)
    assert record.input_data == {"weights.bin": digest(tmp_path / "weights.bin")}


def test_a_model_in_memory_is_known_by_its_serialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is the report's, and there is one where the weights don't fit in one file."""
    proto = conv_bn()
    found = graphopt.optimize(proto)
    (record,) = provenance.read(found.model.metadata_props)
    assert record.input_sha256 == hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    assert record.input_sha256 == found.report.source.sha256
    monkeypatch.setattr(io, "INLINE_LIMIT", 1000)
    monkeypatch.setattr(io, "EXTERNAL_FROM", 1000)
    monkeypatch.setattr("graphopt.model.wire_format.FILE_LIMIT", 2500)
    large = [graphopt.optimize(ir.from_proto(conv_bn(**change))) for change in ({}, {}, {"opset": 18})]
    digests = [provenance.read(each.model.metadata_props)[0].input_sha256 for each in large]
    assert digests[0] == digests[1] != digests[2]
    assert large[0].report.source.bytes > 2500


def test_freezing_alone_is_recorded(tmp_path: Path) -> None:
    proto = model([node("Conv", "x w", "y")], {"w": weight(8, 8, 3, 3)}, overridable=["w"])
    path = saved(proto, tmp_path / "m.onnx")
    (record,) = provenance.read(optimized(path, tmp_path / "out.onnx", "--freeze-initializers"))
    assert record.options["freeze_initializers"] is True and record.rewrites == ()


def test_an_expanding_rewrite_is_recorded(scores: Path, tmp_path: Path) -> None:
    options = ("--only", "insert_pointwise", "--at", "conv1")
    (record,) = provenance.read(optimized(scores, tmp_path / "out.onnx", *options))
    assert [(item.rewrite, item.exactness) for item in record.rewrites] == [("insert_pointwise", "expanding")]


def test_the_best_that_was_found_is_recorded_too(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as failure:
        graphopt.optimize(conv_bn(), {"params": 0.01})
    failure.value.result.save(tmp_path / "best.onnx")
    (record,) = provenance.read(metadata(tmp_path / "best.onnx"))
    assert record.options["budget"] == {"params": 0.01}


# --- the bytes ----------------------------------------------------------------------------------------------

RUNS = """
import sys
from graphopt.__main__ import main
folder = sys.argv[1]
for name in ("inline", "external"):
    for kind, options in {
        "exact": [],
        "budget": ["--budget", "macs=0.6", "--calibration", f"{folder}/inputs.npy"],
    }.items():
        files = [f"{folder}/{name}.onnx", "-o", f"{folder}/{name}-{kind}.onnx"]
        sys.argv = ["graphopt", "optimize", *files, *options]
        assert main() == 0
"""


def test_the_same_bytes_whatever_the_hash_seed_and_the_folder(tmp_path: Path) -> None:
    written = []
    for seed in ("0", "1", "2"):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        saved(classifier(), folder / "inline.onnx")
        saved(classifier(), folder / "external.onnx", **APART)
        np.save(folder / "inputs.npy", samples(16))
        call, seeded = [sys.executable, "-c", RUNS, str(folder)], {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(call, env=seeded, stdout=subprocess.DEVNULL, check=True)
        made = [*folder.glob("*-exact.onnx*"), *folder.glob("*-budget.onnx*")]
        written.append({file.name: file.read_bytes() for file in made})
        assert all(provenance.read(metadata(file)) for file in made if file.suffix == ".onnx")
    assert len(written[0]) == 6  # four models, two with a file of weights beside them
    assert written[0] == written[1] == written[2]


def test_the_bytes_of_the_record_count(tmp_path: Path) -> None:
    """A budget of the bytes that a model would have without a record is not kept."""
    nodes = [node("Conv", "x w", "c", "conv"), node("BatchNormalization", bn_inputs("c", "bn"), "y", "bn")]
    path = saved(model(nodes, {"w": weight(99, 8, 1, 1), **batch_norm("bn", 99)}), tmp_path / "m.onnx")
    only = ("--only", "fold_affine")
    found = optimized(path, tmp_path / "out.onnx", *only)
    size, before = (tmp_path / "out.onnx").stat().st_size, path.stat().st_size
    record = sum(len(key) + len(value) for key, value in found.items())
    for asked, code in ((size - record / 2, 3), (size + 100, 0)):
        budget = ("--budget", f"bytes={asked / before}")
        done = cli("optimize", path, "-o", tmp_path / "kept.onnx", *only, *budget)
        assert done.code == code, done


@pytest.mark.parametrize("part", [0.56, 0.6, 0.66])
def test_a_budget_of_bytes_is_planned_with_the_record(tmp_path: Path, part: float) -> None:
    path = saved(classifier(channels=32), tmp_path / "m.onnx")
    result = graphopt.optimize(path, {"bytes": part}, samples(16))
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size <= part * path.stat().st_size


def test_a_thousand_rewrites_take_little_room() -> None:
    names = [f"/layer4/layer4.{i}/conv2/Conv" for i in range(1000)]
    folds = [Candidate("fold_affine", Site("main", (n, f"{n}/bn")), Cost(1), Cost(1)) for n in names]
    done = provenance.rewritten([(fold, Exactness.EXACT) for fold in folds])
    entries = provenance.entries(Record("0.1.0", "0" * 64, {"aim": "time", "seed": 0}, done), ())
    assert provenance.size(entries) < sum(map(len, names)) + 4000
    proto = with_metadata(onnx.ModelProto(), entries)
    assert proto.ByteSize() == pytest.approx(provenance.size(entries), abs=20)


# --- what stays ---------------------------------------------------------------------------------------------


def described() -> onnx.ModelProto:
    """A model in which everything that may have metadata or a doc string has some."""
    proto = two_folds()
    proto.graph.node.append(node("Relu", "y", "z", "last"))
    proto.graph.output[0].name = "z"
    proto.doc_string, proto.graph.doc_string = "a model", "a graph"
    proto.ir_version = 10
    parts = [proto, proto.graph, *proto.graph.node, *proto.graph.output]
    for number, part in enumerate(parts):
        part.metadata_props.add(key="own", value=f"part {number}")
        part.doc_string = part.doc_string or f"doc {number}"
    proto.metadata_props.add(key="author", value="someone")
    return proto


def kept(part: object) -> tuple[str, dict[str, str]]:
    """Doc string and metadata that are no record and no stamp."""
    props = {entry.key: entry.value for entry in part.metadata_props}  # type: ignore[attr-defined]
    own = {key: value for key, value in props.items() if not key.startswith("graphopt.")}
    return part.doc_string, own  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["command", "python", "onnx_ir"])
def test_metadata_and_doc_strings_stay(tmp_path: Path, way: str) -> None:
    path, out = saved(described(), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    if way == "command":
        optimized(path, out)
    elif way == "python":
        graphopt.optimize(onnx.load(path)).save(out, external_data="always")
    else:
        loaded = ir.load(path)
        GraphOptPass()(loaded)
        ir.save(loaded, out)
    before, after = onnx.load(path), onnx.load(out)
    assert [n.op_type for n in after.graph.node] == ["Conv", "Relu", "Conv", "Relu"]
    assert kept(after) == ("a model", {"own": "part 0", "author": "someone"}) == kept(before)
    assert kept(after.graph) == kept(before.graph)
    assert kept(after.graph.output[0]) == kept(before.graph.output[0])
    old = {n.name: n for n in before.graph.node}
    for each in after.graph.node:  # also a node that was made anew keeps what stood at the one it replaces
        assert kept(each) == kept(old[each.name])
    assert len(provenance.read(metadata(out))) == 1


def test_a_second_run_adds_to_the_first(tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    path = saved(two_folds(), tmp_path / "m.onnx")
    first = optimized(path, once, "--keep", "second")
    second = optimized(once, twice)
    assert first.items() < second.items()
    records = provenance.read(second)
    assert [record.input_sha256 for record in records] == [digest(path), digest(once)]
    assert [item.nodes for record in records for item in record.rewrites] == [("first",), ("second",)]
    assert optimized(twice, tmp_path / "thrice.onnx") == second  # which had nothing to do
    assert (tmp_path / "thrice.onnx").read_bytes() == twice.read_bytes()


def test_the_same_run_twice_in_a_row_has_two_keys(tmp_path: Path) -> None:
    made = Record("0.1.0", "0" * 64, {}, ())
    found: dict[str, str] = {}
    for number in range(1, 12):
        entries = provenance.entries(made, found)
        assert not entries.keys() & found.keys()
        found |= entries
        assert len(provenance.read(found)) == number


def test_two_rewritten_models_can_be_merged(tmp_path: Path) -> None:
    """`onnx.compose` refuses two values of one key."""
    parts = []
    for name, seed in (("a", 1), ("b", 2)):
        proto = conv_bn()
        proto.graph.initializer[0].raw_data = weight(8, 8, 3, 3, seed=seed).tobytes()
        graphopt.optimize(proto).save(tmp_path / f"{name}.onnx")
        parts.append(compose.add_prefix(onnx.load(tmp_path / f"{name}.onnx"), name))
    merged = compose.merge_models(*parts, io_map=[("ay", "bx")])
    saved(merged, tmp_path / "merged.onnx")
    records = provenance.read(metadata(tmp_path / "merged.onnx"))
    assert len({record.input_sha256 for record in records}) == 2


def test_onnxruntime_shows_it(folded: Path, tmp_path: Path) -> None:
    found = optimized(folded, tmp_path / "out.onnx")
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert provenance.read(session.get_modelmeta().custom_metadata_map) == provenance.read(found)


# --- entries of others --------------------------------------------------------------------------------------

OTHERS = {
    "graphopt": "a tool of this name",
    "graphopt.version": "not JSON {",
    "graphopt.options": "{",
    "graphopt.rewrites": "[[[[",
    "graphopt.7.note": "written by hand",
    f"graphopt.{'9' * 5000}.version": "a long number",
    "graphopt.١.00000000.version": "a digit of another script",
    "graphopt.2.0000000g.version": "no digest",
}


def with_metadata(proto: onnx.ModelProto, entries: dict[str, str]) -> onnx.ModelProto:
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def test_entries_of_others_are_passed_over_and_kept(tmp_path: Path) -> None:
    path = saved(with_metadata(conv_bn(), OTHERS), tmp_path / "m.onnx")
    assert cli("provenance", path, "--json").out == "[]\n"
    found = optimized(path, tmp_path / "out.onnx")
    assert OTHERS.items() < found.items()
    assert all(key.startswith("graphopt.1.") for key in found.keys() - OTHERS.keys())
    assert len(provenance.read(found)) == 1


VALID = provenance.entries(Record("0.1.0", "0" * 64, {"aim": "time"}, (Rewritten("r", "exact", ("n",)),)), ())


def damaged(**values: str) -> dict[str, str]:
    """A record with other values and the ID that fits them."""
    made = {key.rsplit(".", 1)[1]: value for key, value in VALID.items()} | values
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:8]
    return {f"graphopt.1.{digest}.{name}": value for name, value in made.items()}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({key: value for key, value in VALID.items() if "options" not in key}, "options is missing"),
        ({key: value.replace("time", "macs") for key, value in VALID.items()}, "was changed"),
        ({key: value.replace("{", "[") for key, value in VALID.items()}, "was changed"),
        ({"graphopt.1.00000000.options": "{"}, "version is missing"),
        (damaged(options="{"), "is no record"),
        (damaged(options="[]"), "is no record"),
        (damaged(rewrites="[1]"), "is no record"),
        (damaged(rewrites="3"), "is no record"),
        (damaged(rewrites='[{"rewrite":"r"}]'), "is no record"),
        (damaged(rewrites='[{"rewrite":"r","exactness":"exact","nodes":"conv"}]'), "is no record"),
        (damaged(options="[" * 100_000), "is no record"),
    ],
    ids=["incomplete", "changed", "corrupt", "foreign", *map(str, range(7))],
)
def test_a_damaged_record_is_one_clear_line(tmp_path: Path, entries: dict[str, str], said: str) -> None:
    path = saved(with_metadata(conv_bn(), entries), tmp_path / "m.onnx")
    cli("provenance", path).refused(f"graphopt: {path}: metadata graphopt.1.", said)
    found = optimized(path, tmp_path / "out.onnx")  # writing goes on, and adds
    assert entries.items() < found.items()
    assert any(key.startswith("graphopt.2.") for key in found)
    assert provenance.read({key: value for key, value in found.items() if key not in entries})


NAMES = st.text(min_size=1, max_size=8)
VALUES = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False), NAMES, st.lists(NAMES, max_size=3)
)


@given(
    options=st.dictionaries(NAMES, VALUES, max_size=4),
    rewrites=st.lists(
        st.builds(
            Rewritten,
            NAMES,
            st.sampled_from([kind.value for kind in Exactness]),
            st.lists(NAMES, max_size=4).map(tuple),
            st.lists(st.dictionaries(NAMES, st.integers(), max_size=2), max_size=2).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    data=st.dictionaries(NAMES, NAMES, max_size=2),
)
def test_what_is_written_is_what_is_read(
    options: dict[str, object], rewrites: tuple[Rewritten, ...], data: dict[str, str]
) -> None:
    record = Record("0.1.0", "0" * 64, options, rewrites, data)
    proto = with_metadata(onnx.ModelProto(), provenance.entries(record, ()))
    again = onnx.ModelProto.FromString(proto.SerializeToString())
    assert provenance.read({entry.key: entry.value for entry in again.metadata_props}) == (record,)


def test_names_that_are_no_valid_text(folded: Path, tmp_path: Path) -> None:
    """A file name's bytes that are no UTF-8 come as lone surrogates, which protobuf does not take."""
    (record,) = provenance.read(optimized(folded, tmp_path / "out.onnx", "--keep", "\udcff"))
    assert record.options["keep"] == ["\udcff"]
    assert r"keep   \udcff" in cli("provenance", tmp_path / "out.onnx").out


def test_values_of_every_kind() -> None:
    """What a rewrite of others may have as an option; never an object's text, which holds its address."""
    values = {"a": np.float32(0.5), "b": np.arange(3), "c": object(), "d": (np.int64(1), "x"), "e": None}
    record = Record("0.1.0", "0" * 64, values, ())
    (read,) = provenance.read(provenance.entries(record, ()))
    assert read.options == {"a": 0.5, "b": "ndarray", "c": "object", "d": [1, "x"], "e": None}


def test_runs_are_in_order_and_their_number_has_an_end() -> None:
    others = {"graphopt.999999999.00000000.note": "of somebody else"}
    found = provenance.entries(Record("0.1.0", "0" * 64, {}, ()), others)
    assert len(provenance.read(found)) == 1


# --- the command --------------------------------------------------------------------------------------------


def test_a_model_without_a_record(same: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert optimized(same, out) == {}
    assert out.read_bytes() == same.read_bytes()
    assert cli("provenance", out).fine().out == f"{out}: graphopt has recorded nothing in it\n"
    assert cli("provenance", out, "--json").out == "[]\n"


def test_the_command_prints_every_run(tmp_path: Path, inputs: Path) -> None:
    path, once, twice = (tmp_path / name for name in ("m.onnx", "once.onnx", "twice.onnx"))
    proto = two_folds()
    for each in proto.graph.node:
        each.name = f"/a/path/of/modules/as/exporters/write/it/that/is/longer/than/a/line/{each.name}"
    saved(proto, path, **APART)
    optimized(path, once, "--keep", "*/second", "--external-data", "never")
    optimized(once, twice, "--calibration", inputs, "--budget", "macs=0.9")
    done = cli("provenance", twice).fine()
    assert all(len(line) <= 80 for line in on_80_columns("provenance", twice).splitlines())
    shown = done.out.split()
    for wanted in ("fold_affine", "approximate", "macs=0.9", "inputs=16", "*/second", "weights.bin"):
        assert wanted in shown
    for run in json.loads(cli("provenance", twice, "--json").out):
        assert run["input_sha256"] in shown  # in one piece
        assert set(run) == {"run", "version", "input_sha256", "input_data", "options", "rewrites"}
    assert done.out.index(digest(path)) < done.out.index(digest(once))


def test_a_digest_stays_in_one_piece_beside_a_long_name(tmp_path: Path) -> None:
    path, out = saved(conv_bn(overridable=["w"]), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    optimized(path, out, "--freeze-initializers")
    assert digest(path) in cli("provenance", out).out.split()


def test_many_places_are_cut(tmp_path: Path) -> None:
    record = Record("0.1.0", "0" * 64, {}, (Rewritten("r", "exact", tuple(f"n{i}" for i in range(1000))),))
    entries = provenance.entries(record, ())
    path = saved(with_metadata(conv_bn(), entries), tmp_path / "m.onnx")
    lines = cli("provenance", path).out.splitlines()
    assert len(lines) < 12 and "… 995 more, which --json lists" in lines[-1]
    assert len(json.loads(cli("provenance", path, "--json").out)[0]["rewrites"][0]["nodes"]) == 1000


def test_reading_needs_no_weights(folded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    optimized(folded, out, "--external-data", "always")
    expected = cli("provenance", out, "--json").out
    data = io.data_path(out)
    assert data.exists()
    data.unlink()
    assert cli("provenance", out, "--json").out == expected != "[]\n"


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_no_model(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    cli("provenance", path).refused(str(path))


def test_the_input_is_found_among_the_runs(tmp_path: Path) -> None:
    path, once, twice = (tmp_path / name for name in ("m.onnx", "once.onnx", "twice.onnx"))
    saved(two_folds(), path, **APART)
    optimized(path, once, "--keep", "second", "--external-data", "never")
    optimized(once, twice)
    for number, original in enumerate((path, once), start=1):
        done = cli("provenance", twice, "--input", original).fine()
        assert done.out.endswith(f"run {number} read {original}\n")
    done = cli("provenance", twice, "--input", twice, "--json")
    assert done.code == 1 and len(json.loads(done.out)) == 2
    assert done.err == f"graphopt: {twice}: no run recorded in it read {twice}\n"
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    assert cli("provenance", twice, "--input", path).code == 1


def test_an_input_that_goes_away_is_one_clear_line(folded: Path) -> None:
    source = io.load(folded)
    folded.unlink()
    with pytest.raises(InputError, match=r"folded\.onnx: can't be read"):
        _ = source.sha256


def test_a_files_name_stays_on_one_line(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "two\nlines.onnx")
    done = cli("provenance", path)
    assert (done.code, done.out.count("\n")) == (0, 1)
    done = cli("provenance", path, "--input", path)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "two\\nlines.onnx" in done.err
