"""Loading and saving: fidelity, external data, atomic writes, determinism."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphopt.errors import InputError
from graphopt.model import io, wire_format
from graphopt.model.validation import validate
from tests.builders import info, model, parsed
from tests.places import DATA, LIGHT

FILES = sorted([*(DATA / "models").glob("*.onnx"), *LIGHT.glob("*.onnx")])


def small_model(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions, with all that a file may hold besides nodes and weights."""
    random = np.random.default_rng(seed)
    arrays = {
        "w1": random.standard_normal((16, 8, 3, 3)).astype(np.float32),
        "b1": random.standard_normal(16).astype(np.float32),
        "w2": random.standard_normal((8, 16, 5, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1] * 4, doc_string="of two"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"], name="second", pads=[2] * 4),
        helper.make_node("If", ["flag"], ["y"], then_branch=_branch("Neg"), else_branch=_branch("Abs")),
    ]
    nodes[0].metadata_props.add(key="from", value="test")
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", [1, 8, "H", 12])],
        [info("y", [1, 8, "H", 12])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        doc_string="a graph",
        value_info=[info("a", [1, 16, "H", 12]), info("w1", [16, 8, 3, 3])],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    graph.initializer[0].doc_string = "the first weight"
    graph.initializer[0].metadata_props.add(key="kind", value="weight")
    graph.initializer[1].metadata_props.add(key="kind", value="bias")
    graph.metadata_props.add(key="g", value="1")
    graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="b1"
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10, producer_name="test"
    )
    proto.metadata_props.add(key="author", value="someone")
    proto.doc_string, proto.model_version, proto.domain = "a model", 3, "org.example"
    return proto


def _branch(op: str) -> onnx.GraphProto:
    weight = numpy_helper.from_array(np.full((1, 8, 1, 64), 0.5, np.float32), f"scale_{op}")
    nodes = [
        helper.make_node("ReduceMean", [f"scale_{op}"], [f"mean_{op}"], axes=[3]),
        helper.make_node("Mul", ["c", f"mean_{op}"], [f"scaled_{op}"]),
        helper.make_node(op, [f"scaled_{op}"], [f"out_{op}"]),
    ]
    return helper.make_graph(nodes, op, [], [info(f"out_{op}", None)], [weight])


def write(proto: onnx.ModelProto, path: Path, *, external: bool = False, **options: Any) -> Path:
    if external:
        # Not the flag: onnxruntime 1.32 doesn't find the condition of an If in external data.
        options = {"location": "weights.bin", "size_threshold": 64, **options}
        onnx.save(copy_of(proto), path, save_as_external_data=True, **options)
    else:
        path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(proto.SerializeToString())


def unsorted() -> onnx.ModelProto:
    """The model with its nodes in the reverse order."""
    proto = small_model()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def kept(path: Path, out: Path) -> io.Source:
    """What is read from a file, which is written as it stands there."""
    source = io.load(path)
    validate(source.model, path)
    io.save(source.model, out, source=source)
    assert plain(onnx.load(out)) == plain(_told_once(onnx.load(path)))
    return source


def _told_once(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without value_info that repeats an output."""
    outputs = {value.name: value for value in proto.graph.output}
    told = [value for value in proto.graph.value_info if value != outputs.get(value.name)]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(told)
    return proto


def run(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, 8, 7, 12)).astype(np.float32)
    (y,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return y


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def plain(message: Any, *, name: str = "") -> Any:
    """A message as plain data, without explicit defaults and the order of lists that have none."""
    found = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            repeated = not isinstance(value, str | bytes | int | float)
            value = list(value) if repeated else value
        elif isinstance(value, type(message)) or hasattr(value, "ListFields"):
            value = plain(value, name=field.name)
        else:
            value = [plain(entry, name=field.name) for entry in value]
            if field.name in ("value_info", "metadata_props", "quantization_annotation"):
                value = sorted(value, key=str)
        if field.name == "domain" and value == "ai.onnx":
            value = ""
        # A shape with no dims is a scalar's, which differs from none.
        if value not in ("", b"", 0, []) or name == "attribute":
            found[field.name] = value
    return found


# --- fidelity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_round_trip_keeps_everything_in_real_models(path: Path, tmp_path: Path) -> None:
    kept(path, tmp_path / "out.onnx")


def test_real_models_are_there() -> None:
    if not (DATA / "models").exists():
        pytest.skip("the folder of real models is not there; only those of the onnx wheel are tested")
    assert len(list((DATA / "models").glob("*.onnx"))) >= 10


def test_round_trip_keeps_everything_and_writes_as_protobuf_does(tmp_path: Path) -> None:
    proto = small_model()
    path = write(proto, tmp_path / "in.onnx")
    io.save(io.load(path).model, tmp_path / "out.onnx")
    out = onnx.load(tmp_path / "out.onnx")
    assert plain(out) == plain(proto)
    assert (tmp_path / "out.onnx").read_bytes() == out.SerializeToString(deterministic=True)
    assert len(out.graph.value_info) == 2  # none for the initializers that had none


def test_round_trip_keeps_functions_overridable_weights_strings_and_odd_types(tmp_path: Path) -> None:
    function = helper.make_function(
        "my",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
        ["unused"],
    )
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xff"])
    weights = [
        words,
        numpy_helper.from_array(np.ones(4000, np.float32), "w"),
        helper.make_tensor("typed", TensorProto.FLOAT, [2000], np.ones(2000)),
        helper.make_tensor("half", TensorProto.BFLOAT16, [3000], b"\x01\x02" * 3000, raw=True),
        helper.make_tensor("packed", TensorProto.INT4, [9001], b"\x12" * 4501, raw=True),
        helper.make_tensor("none", TensorProto.FLOAT, [0, 3], b"", raw=True),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Twice", ["x"], ["t"], domain="my"),
            helper.make_node("Add", ["t", "w"], ["y"]),
            helper.make_node("Fused", ["y", "", "words"], ["z", "", "zz"], domain="other", level=3),
        ],
        "g",
        [info("x", [4000]), info("w", [4000])],
        [info("y", [4000])],
        weights,
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1), helper.make_opsetid("other", 1)]
    proto = helper.make_model(graph, opset_imports=domains, functions=[function], ir_version=10)
    source = kept(write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert source.model.graph.inputs[1].is_initializer()


def test_the_weights_are_those_of_the_file(tmp_path: Path) -> None:
    proto = small_model()
    for external in (False, True):
        source = io.load(write(proto, tmp_path / f"{external}.onnx", external=external))
        tensor = source.model.graph.initializers["w2"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), numpy_helper.to_array(proto.graph.initializer[2]))
        assert not isinstance(tensor, ir.ExternalTensor)
        assert not tensor.numpy().flags.owndata


def test_unsorted_nodes_are_sorted(tmp_path: Path) -> None:
    path = write(unsorted(), tmp_path / "in.onnx")
    source = io.load(path)
    validate(source.model, path)
    assert [node.op_type for node in source.model.graph] == ["Conv", "Relu", "Conv", "If"]


def test_a_function_that_passes_a_graph_on(tmp_path: Path) -> None:
    choice = helper.make_node("If", ["a"], ["b"])
    for name in ("then_branch", "else_branch"):
        choice.attribute.append(AttributeProto(name=name, ref_attr_name=name, type=AttributeProto.GRAPH))
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("my", "Choice", ["a"], ["b"], [choice], opsets, [])
    function.attribute.extend(["then_branch", "else_branch"])
    call = helper.make_node(
        "Choice", ["x"], ["y"], domain="my", then_branch=_constant(1.0), else_branch=_constant(2.0)
    )
    graph = helper.make_graph([call], "g", [info("x", [], np.bool_)], [info("y", [1])])
    opsets.append(helper.make_opsetid("my", 1))
    proto = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    kept(write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx")


def _constant(number: float) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], ["k"], value_floats=[number])
    return helper.make_graph([node], "branch", [], [info("k", [1])])


def test_several_graph_fields_are_merged_as_protobuf_does(tmp_path: Path) -> None:
    proto = small_model()
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.CopyFrom(proto)
    second.graph.initializer.append(first.graph.initializer.pop())
    path = tmp_path / "in.onnx"
    path.write_bytes(first.SerializeToString() + second.SerializeToString())
    io.save(io.load(path).model, tmp_path / "out.onnx")
    assert plain(onnx.load(tmp_path / "out.onnx")) == plain(proto)


# --- what is given ------------------------------------------------------------------------------------------


def test_a_proto_is_not_changed(tmp_path: Path) -> None:
    proto = small_model()
    before = proto.SerializeToString(deterministic=True)
    source = io.load(proto)
    io.save(source.model, tmp_path / "out.onnx", source=source)
    assert plain(onnx.load(tmp_path / "out.onnx")) == plain(proto)
    source.model.graph.remove(source.model.graph.node(3), safe=False)
    assert proto.SerializeToString(deterministic=True) == before
    assert source.path is None
    assert source.sha256 == hashlib.sha256(before).hexdigest()
    assert source.bytes == len(before)


@pytest.mark.parametrize("external", [False, True])
def test_a_model_is_cloned(tmp_path: Path, external: bool) -> None:
    path = write(small_model(), tmp_path / "in.onnx", external=external)
    given = ir.load(path)
    source = io.load(given)
    assert source.model is not given
    assert source.bytes > 10_000
    assert source.sha256 == io.load(given).sha256
    io.save(source.model, tmp_path / "out.onnx", source=source, external_data="never")
    expected = onnx.load(path)
    assert expected.graph.value_info.pop().name == "w1"  # says no more than the weight itself
    assert plain(onnx.load(tmp_path / "out.onnx"))["graph"] == plain(expected)["graph"]
    source.model.graph.node(0).name = "renamed"
    assert given.graph.node(0).name == "first"
    if external:
        assert isinstance(given.graph.initializers["w1"].const_value, ir.ExternalTensor)


def test_an_unsorted_model_in_memory_is_sorted_in_the_copy() -> None:
    given = ir.from_proto(unsorted())
    assert next(iter(io.load(given).model.graph)).name == "first"
    assert next(iter(given.graph)).op_type == "If"


def test_hash_and_size_of_a_file(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "in.onnx", external=True)
    source = io.load(path)
    data = tmp_path / "weights.bin"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.bytes == path.stat().st_size + data.stat().st_size
    assert set(source.files) == {path, data}


# --- external data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["inline", "external"])
@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_external_data_modes_into_another_folder(tmp_path: Path, given: str, mode: Any) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = write(small_model(), tmp_path / "in" / "m.onnx", external=given == "external")
    source, out = io.load(path), tmp_path / "out" / "n.onnx"
    io.save(source.model, out, external_data=mode, source=source)
    expected = run(path)
    external = mode == "always" or (mode == "auto" and given == "external")
    assert sorted(content(out.parent)) == (["n.onnx", "n.onnx.data"] if external else ["n.onnx"])
    for file in (tmp_path / "in").iterdir():
        file.unlink()  # nothing may refer to them
    np.testing.assert_array_equal(run(out), expected)
    onnx.checker.check_model(str(out))
    assert io.load(out).data_files == (("n.onnx.data",) if external else ())
    plain_model = onnx.load(out)
    assert plain(plain_model)["graph"]["node"] == plain(small_model())["graph"]["node"]


def test_only_large_weights_leave_the_file_and_they_start_on_a_page(tmp_path: Path) -> None:
    source = io.load(small_model())
    io.save(source.model, tmp_path / "m.onnx", external_data="always")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in proto.graph.initializer
    }
    assert places["b1"] == {} and places["flag"] == {}
    assert int(places["w2"]["offset"]) % 4096 == 0
    branch = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.node[3].attribute[0].g
    assert branch.initializer[0].data_location == TensorProto.EXTERNAL
    assert source.model.graph.initializers["w1"].const_value is not None
    assert not isinstance(source.model.graph.initializers["w1"].const_value, ir.ExternalTensor)


def test_always_without_large_weights_makes_no_data_file(tmp_path: Path) -> None:
    io.save(io.load(tiny()).model, tmp_path / "m.onnx", external_data="always")
    assert sorted(content(tmp_path)) == ["m.onnx"]


def tiny() -> onnx.ModelProto:
    return model(parsed("y = Relu (x)"), inputs={"x": [1]}, outputs={"y": [1]})


def test_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "INLINE_LIMIT", 10_000)
    source = io.load(small_model())
    io.save(source.model, tmp_path / "auto.onnx")
    assert (tmp_path / "auto.onnx.data").exists()
    with pytest.raises(InputError, match=r"never\.onnx: the weights don't fit") as caught:
        io.save(source.model, tmp_path / "never.onnx", external_data="never")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "never.onnx").exists()


def test_a_model_that_outgrows_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_format, "FILE_LIMIT", 10_000)
    with pytest.raises(InputError, match="2 GiB"):
        io.save(io.load(small_model()).model, tmp_path / "m.onnx", external_data="never")
    assert content(tmp_path) == {}


def test_external_constants_and_functions_are_found(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.arange(2000, dtype=np.float32), "value")
    value.metadata_props.add(key="kind", value="constant")
    constant = helper.make_node("Constant", [], ["k"], value=value)
    body = [constant, helper.make_node("Add", ["a", "k"], ["b"])]
    function = helper.make_function("my", "AddK", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    graph = helper.make_graph(
        [constant, helper.make_node("AddK", ["k"], ["y"], domain="my")], "g", [], [info("y", [2000])]
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    proto = helper.make_model(graph, opset_imports=domains, functions=[function], ir_version=10)
    data = numpy_helper.to_array(value).tobytes()
    (tmp_path / "k.bin").write_bytes(data)
    for node in (proto.graph.node[0], proto.functions[0].node[0]):
        onnx.external_data_helper.set_external_data(node.attribute[0].t, "k.bin")
        node.attribute[0].t.ClearField("raw_data")
    path = write(proto, tmp_path / "m.onnx")
    source = io.load(path)
    assert source.data_files == ("k.bin",)
    (tmp_path / "out").mkdir()
    io.save(source.model, tmp_path / "out" / "m.onnx", source=source)
    out = onnx.load(tmp_path / "out" / "m.onnx")
    for node in (out.graph.node[0], out.functions[0].node[0]):
        assert node.attribute[0].t.raw_data == data
        assert len(node.attribute[0].t.metadata_props) == 1


def test_loading_reads_no_weights(tmp_path: Path) -> None:
    size = 3 << 30  # a hole: takes no space
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(size)
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size // 4])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="big.bin")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [info("x", [1])], [info("y", None)], [weight]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = write(proto, tmp_path / "m.onnx")
    code = (
        "import resource, sys\nfrom graphopt.model import io, validation\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "source = io.load(sys.argv[1])\nvalidation.validate(source.model, source.path)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 60_000  # KiB


def test_links_within_the_folder_and_of_the_whole_model_are_followed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    write(small_model(), store / "m.onnx", external=True)
    (store / "weights.bin").rename(store / "blob")
    (store / "weights.bin").symlink_to("blob")
    assert io.load(store / "m.onnx").data_files == ("weights.bin",)
    # The cache of Hugging Face: the model and its data are links into one folder of blobs.
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "m.onnx").symlink_to(store / "m.onnx")
    (snapshot / "weights.bin").symlink_to(store / "blob")
    assert io.load(snapshot / "m.onnx").data_files == ("weights.bin",)


# --- atomic writes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("mode", ["never", "always"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_failing_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, mode: Any, after: int
) -> None:
    source = io.load(small_model())
    for name in ("m.onnx", "m.onnx.data"):
        (tmp_path / name).write_bytes(b"older")
    calls = itertools.count()
    genuine = wire_format.write_data

    def failing(*arguments: Any) -> None:
        if next(calls) == min(after, 1 if mode == "never" else 2):
            raise failure
        genuine(*arguments)

    monkeypatch.setattr(wire_format, "write_data", failing)
    expected = InputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        io.save(source.model, tmp_path / "m.onnx", external_data=mode)
    assert content(tmp_path) == {"m.onnx": b"older", "m.onnx.data": b"older"}
    assert isinstance(source.model.graph.initializers["w1"].const_value, ir.serde.TensorProtoTensor)


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("failing_move", [0, 1])
def test_a_failing_rename_puts_back_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, failing_move: int
) -> None:
    source = io.load(small_model())
    before = {"m.onnx": b"older", "m.onnx.data": b"data"} if older else {}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    genuine, calls = os.replace, itertools.count()

    def failing(origin: Any, target: Any) -> None:
        if next(calls) == failing_move:
            raise KeyboardInterrupt
        genuine(origin, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        io.save(source.model, tmp_path / "m.onnx", external_data="always")
    assert content(tmp_path) == before


def test_a_save_replaces_file_and_data_and_keeps_the_mode(tmp_path: Path) -> None:
    source = io.load(small_model())
    out = tmp_path / "m.onnx"
    out.write_bytes(b"older")
    out.chmod(0o640)
    io.save(source.model, out, external_data="always")
    assert sorted(content(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "m.onnx.data").stat().st_mode) == 0o666 & ~umask


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "m.onnx").symlink_to("other")
    io.save(io.load(tiny()).model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").is_symlink()
    assert (tmp_path / "other").read_bytes() == b"other"


def test_a_source_that_changed_is_noticed(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "in.onnx", external=True)
    source = io.load(path)
    replacement = tmp_path / "new.bin"
    replacement.write_bytes((tmp_path / "weights.bin").read_bytes())
    os.replace(replacement, tmp_path / "weights.bin")
    for act in (io.save, io.copy):
        with pytest.raises(InputError, match=r"weights\.bin: changed while it was in use"):
            if act is io.save:
                io.save(source.model, tmp_path / "out.onnx", source=source)
            else:
                io.copy(source, tmp_path / "out.onnx")


# --- determinism --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["never", "always"])
def test_the_same_bytes_in_every_process(tmp_path: Path, mode: str) -> None:
    path = write(small_model(), tmp_path / "in.onnx")
    code = (
        "import sys\nfrom graphopt.model import io\nsource = io.load(sys.argv[1])\n"
        "io.save(source.model, sys.argv[2], external_data=sys.argv[3], source=source)"
    )
    results = []
    for seed in ("0", "1", "random"):
        out = tmp_path / seed
        out.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, path, out / "m.onnx", mode], env=environment, check=True)
        results.append(content(out))
    assert results[0] == results[1] == results[2]


# --- copy ---------------------------------------------------------------------------------------------------


def test_copy_is_byte_for_byte(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "in.onnx")
    (tmp_path / "out").mkdir()
    io.copy(io.load(path), tmp_path / "out" / "m.onnx")
    assert content(tmp_path / "out") == {"m.onnx": path.read_bytes()}


def test_copy_takes_external_data_along(tmp_path: Path) -> None:
    (tmp_path / "in" / "parts").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    path = write(small_model(), tmp_path / "in" / "m.onnx", external=True, location="parts/w.bin")
    data = (tmp_path / "in" / "parts" / "w.bin").read_bytes()
    source, out = io.load(path), tmp_path / "out" / "n.onnx"
    io.copy(source, out)
    assert content(out.parent) == {"n.onnx": path.read_bytes(), "parts/w.bin": data}
    io.copy(source, out)  # what is there already is the same
    io.copy(source, path.with_name("beside.onnx"))
    np.testing.assert_array_equal(run(path.with_name("beside.onnx")), run(path))
    (out.parent / "parts" / "w.bin").write_bytes(b"another model's")
    before = content(out.parent)
    with pytest.raises(InputError, match=r"w\.bin: is in the way"):
        io.copy(source, out)
    assert content(out.parent) == before


def test_a_failing_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "parts").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    path = write(small_model(), tmp_path / "in" / "m.onnx", external=True, location="parts/w.bin")

    def failing(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", failing)
    with pytest.raises(KeyboardInterrupt):
        io.copy(io.load(path), tmp_path / "out" / "n.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_copy_of_a_model_in_memory(tmp_path: Path) -> None:
    proto = small_model()
    io.copy(io.load(proto), tmp_path / "p.onnx")
    assert (tmp_path / "p.onnx").read_bytes() == proto.SerializeToString(deterministic=True)
    io.copy(io.load(ir.from_proto(proto)), tmp_path / "i.onnx")
    assert proto.graph.value_info.pop().name == "w1"  # says no more than the weight itself
    assert plain(onnx.load(tmp_path / "i.onnx")) == plain(proto)


# --- output paths -------------------------------------------------------------------------------------------


def test_output_paths_that_are_refused(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "in.onnx")
    os.symlink("in.onnx", tmp_path / "soft.onnx")
    os.link(path, tmp_path / "hard.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused = {
        "in.onnx": "is the input",
        "./in.onnx": "is the input",
        "soft.onnx": "is the input",
        "hard.onnx": "is the input",
        "absent/out.onnx": "does not exist",
        "in.onnx/out.onnx": "not a folder",
        ".": "is a folder",
        "new/": "is a folder",
        "pipe.onnx": "not a regular file",
    }
    for name, reason in refused.items():
        with pytest.raises(InputError, match=reason) as caught:
            io.check_output(f"{tmp_path}/{name}", [path])
        assert "\n" not in str(caught.value)
    io.check_output(tmp_path / "out.onnx", [path])


def test_output_data_that_would_replace_the_input_is_refused(tmp_path: Path) -> None:
    path = write(small_model(), tmp_path / "in.onnx", external=True, location="out.onnx.data")
    source = io.load(path)
    for act in (
        lambda: io.check_output(tmp_path / "out.onnx", source.files),
        lambda: io.save(source.model, tmp_path / "out.onnx", source=source),
    ):
        with pytest.raises(InputError, match=r"would replace the input .*out\.onnx\.data"):
            act()
    with pytest.raises(InputError, match="is the input"):
        io.check_output(tmp_path / "out.onnx.data", source.files)
