"""Every bad input ends in one line that names the file, from the library and from the command."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import InputError
from graphopt.model import io
from graphopt.model.validation import validate
from tests.builders import info, model
from tests.command import COMMAND, Ran

# --- models -------------------------------------------------------------------------------------------------


def weight(name: str, *dims: int) -> TensorProto:
    return numpy_helper.from_array(np.arange(np.prod(dims), dtype=np.float32).reshape(dims), name)


tensor = functools.partial(TensorProto, name="w", data_type=TensorProto.FLOAT)


def build(
    nodes: list[onnx.NodeProto], weights: Sequence[TensorProto] = (), *, outputs: str = "y", **options: Any
) -> onnx.ModelProto:
    """A model on an input x; weights are tensors, so that they may be wrong."""
    proto = model(
        nodes, inputs=options.pop("inputs", {"x": [1, 4, 8, 8]}), outputs={outputs: None}, **options
    )
    proto.graph.initializer.extend(weights)
    return proto


def conv(**changes: Any) -> onnx.ModelProto:
    """One convolution in a file of some KiB; `dims` and `bias` size its weights, the rest is attributes."""
    dims, bias = changes.pop("dims", (8, 4, 7, 7)), changes.pop("bias", 8)
    op = changes.pop("op", "Conv")
    node = helper.make_node(op, ["x", "w", "b"], ["y"], name="conv", **changes)
    return build([node], [weight("w", *dims), weight("b", bias)])


def edited(proto: Any, edit: Callable[[Any], Any]) -> Any:
    edit(proto)
    return proto


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op.lower()}_{outputs}", **attributes)


def if_model(then_nodes: list[onnx.NodeProto], then_output: str) -> onnx.ModelProto:
    then = helper.make_graph(then_nodes, "then", [], [info(then_output, None)])
    other = helper.make_graph([node("Abs", "x", "o")], "else", [], [info("o", None)])
    flag = numpy_helper.from_array(np.array(True), "flag")
    branches = node("If", "flag", "i", then_branch=then, else_branch=other)
    return build([node("Neg", "x", "a"), branches, node("Add", "i a", "y")], [flag])


def sparse(place: int = 0, dims: Sequence[int] = (4,), kind: Any = np.float32) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.ones(1, kind), "sparse")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([place], np.int64), "i"), dims)


def with_sparse(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    return edited(conv(), lambda p: p.graph.sparse_initializer.append(tensor))


def outside(tensor: onnx.SparseTensorProto) -> onnx.SparseTensorProto:
    onnx.external_data_helper.set_external_data(tensor.values, "w.bin")
    return tensor


def untyped_attribute() -> onnx.ModelProto:
    proto = build([node("Softmax", "x", "y", axis=1)])
    proto.graph.node[0].attribute[0].ClearField("type")
    return proto


def function_model(body: list[onnx.NodeProto], output: str = "b") -> onnx.ModelProto:
    function = helper.make_function("my", "Block", ["a"], [output], body, [helper.make_opsetid("", 17)])
    proto = build([helper.make_node("Block", ["x"], ["y"], domain="my")], domains=["my"])
    proto.functions.append(function)
    return proto


# What the protobuf form holds that can't be carried. Each with a part of its message.
UNCARRIED: dict[str, tuple[onnx.ModelProto, str]] = {
    "no graph": (onnx.ModelProto(ir_version=8, producer_name="somebody"), "not an ONNX model"),
    "no IR version": (edited(conv(), lambda p: p.ClearField("ir_version")), "no IR version"),
    "new IR version": (edited(conv(), lambda p: setattr(p, "ir_version", 99)), "IR version 99"),
    "training info": (edited(conv(), lambda p: p.training_info.add()), "training_info"),
    "sparse element out of place": (
        with_sparse(sparse(4)),
        "sparse_initializer 'sparse' is damaged: it has places outside of dims [4]",
    ),
    "sparse elements without a place": (
        with_sparse(edited(sparse(), lambda t: t.ClearField("indices"))),
        "sparse_initializer 'sparse' is damaged",
    ),
    "sparse tensor of negative size": (with_sparse(sparse(0, [-4])), "its dims are [-4]"),
    "sparse tensor of endless size": (with_sparse(sparse(0, [2**40])), "has dims [1099511627776], and"),
    "sparse tensor elsewhere": (with_sparse(outside(sparse())), "'sparse' is in external data"),
    "sparse texts": (with_sparse(sparse(kind=np.str_)), "'sparse' has no type of numbers"),
    "sparse initializer twice": (
        edited(with_sparse(sparse()), lambda p: p.graph.sparse_initializer.append(sparse())),
        "'sparse' is defined twice, the second time as initializer",
    ),
    "sparse attribute": (
        build([node("Relu", "x", "y", sparse_value=sparse())]),
        "'relu_y': attribute 'sparse_value' is a sparse tensor",
    ),
    "sparse constant out of place": (
        build([node("Constant", "", "y", sparse_value=sparse(-1))]),
        "'constant_y': attribute 'sparse_value' is damaged",
    ),
    "untyped attribute": (untyped_attribute(), "attribute 'axis' is of no type"),
    "two opsets": (edited(conv(), lambda p: p.opset_import.add(version=9)), "versions 17 and 9"),
    "attribute twice": (
        edited(conv(pads=[3] * 4), lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])),
        "node 'conv' has attribute 'pads' twice",
    ),
    "no outputs": (edited(conv(pads=[3] * 4), lambda m: m.graph.ClearField("output")), "it has no outputs"),
    "input twice": (
        build([node("Relu", "x", "y")], inputs=[info("x", [1]), info("x", [1])]),
        "'x' is defined twice, the second time as input",
    ),
    "initializer twice": (
        build([node("Add", "x w", "y")], [weight("w", 1), weight("w", 1)]),
        "'w' is defined twice, the second time as initializer",
    ),
    "nameless initializer": (build([node("Relu", "x", "y")], [weight("", 1)]), "no name"),
    "output twice": (
        build([node("Relu", "x", "y"), node("Neg", "x", "y")]),
        "'y' is defined twice, the second time as output of node 'neg_y'",
    ),
    "output of the name of an input": (build([node("Relu", "x", "x")], outputs="x"), "'x' is defined twice"),
    "function twice": (
        edited(function_model([node("Relu", "a", "b")]), lambda p: p.functions.append(p.functions[0])),
        "function 'Block' of domain 'my' is defined twice",
    ),
    "function output that nothing makes": (
        function_model([node("Relu", "a", "c")]),
        "function 'Block' produces its output 'b'",
    ),
    "element type that does not exist": (
        edited(conv(), lambda p: setattr(p.graph.initializer[1], "data_type", 99)),
        "99 is not a valid DataType",
    ),
}

LOOP = [node("Add", "x c", "a"), node("Neg", "a", "b"), node("Abs", "b", "c")]

# What only the graph as a whole shows.
INVALID: dict[str, tuple[onnx.ModelProto, str]] = {
    "cycle": (build([*LOOP, node("Relu", "c", "y")]), "graph 'net' is cyclic: "),
    "cycle of one": (build([node("Add", "x y", "y")]), "is cyclic: 'add_y' → 'add_y'"),
    "cycle through a subgraph": (if_model([node("Neg", "y", "t")], "t"), "cyclic: "),
    "undefined input": (
        build([node("Add", "x ghost", "y")]),
        "node 'add_y' reads value 'ghost', which no node, input or initializer defines",
    ),
    "undefined in a subgraph": (if_model([node("Neg", "ghost", "t")], "t"), "reads value 'ghost'"),
    "undefined in a function": (function_model([node("Add", "a ghost", "b")]), "value 'ghost'"),
    "value of the other branch": (if_model([node("Neg", "o", "t")], "t"), "reads value 'o'"),
    "shadowed value": (if_model([node("Neg", "x", "a")], "a"), "'a', an output of node 'neg_a'"),
    "outer value as the output of a branch": (if_model([], "x"), "graph 'then' produces its output 'x'"),
    "output that nothing makes": (
        build([node("Relu", "x", "z")]),
        "nothing in graph 'net' produces its output 'y'",
    ),
    "no opset": (edited(conv(), lambda p: p.ClearField("opset_import")), "imports no opset"),
    "new opset": (build([node("Relu", "x", "y")], opset=99), "uses opset 99"),
    "opset 0": (build([node("Relu", "x", "y")], opset=0), "version 0"),
    "domain without import": (
        build([helper.make_node("Foo", ["x"], ["y"], domain="my")]),
        "'Foo:y' is of domain 'my'",
    ),
    "unknown operator": (build([node("Convolve", "x", "y")]), "no operator 'Convolve' in opset 17"),
    "operator of a later opset": (build([node("Gelu", "x", "y")]), "no operator 'Gelu' in opset 17"),
    "operator that is gone": (build([node("Upsample", "x w", "y")], [weight("w", 4)]), "gone since opset 10"),
    "too few inputs": (build([node("Add", "x", "y")]), "'add_y' (Add): has 1 inputs"),
    "too many outputs": (build([node("Relu", "x", "y z")]), "has 2 outputs"),
    "left out input": (build([helper.make_node("Add", ["", "x"], ["y"], name="add")]), "input 0 is left out"),
    "unknown attribute": (build([node("Relu", "x", "y", slope=1.0)]), "no attribute 'slope'"),
    "attribute of another kind": (build([node("Softmax", "x", "y", axis=1.0)]), "must be INT"),
    "missing attribute": (build([node("Cast", "x", "y")]), "attribute 'to' is missing"),
    "initializer with too little data": (
        edited(conv(), lambda p: setattr(p.graph.initializer[0], "raw_data", b"1234" * 1500)),
        "initializer 'w' has dims [8, 4, 7, 7], 6272 bytes, but holds 6000",
    ),
    "initializer with too few values": (
        build([node("Add", "x w", "y")], [tensor(dims=[3], float_data=[1.0, 2.0])]),
        "initializer 'w' has dims [3], 3 values, but holds 2",
    ),
    "initializer of negative size": (
        build([node("Add", "x w", "y")], [tensor(dims=[-1])]),
        "negative dims [-1]",
    ),
    "constant with too little data": (
        build([node("Constant", "", "y", value=tensor(dims=[4], raw_data=b"1234"))]),
        "'constant_y': attribute 'value' has dims [4]",
    ),
    "weight without spatial dims": (conv(dims=(8, 4)), "'conv': its weight has dims [8, 4]"),
    "group that doesn't divide": (conv(group=3), "group 3 doesn't divide 8"),
    "group 0": (conv(group=0), "group 0"),
    "bias of another size": (conv(bias=7), "its bias has dims [7], and should have [8]"),
    "bias of a transposed convolution": (conv(op="ConvTranspose", group=4), "should have [16]"),
    "kernel shape of another size": (conv(kernel_shape=[3, 3]), "kernel_shape is [3, 3]"),
    "strides of another rank": (conv(strides=[1, 1, 1]), "strides [1, 1, 1] should have 2"),
    "stride 0": (conv(strides=[0, 1]), "should be at least 1"),
    "pads of another rank": (conv(pads=[1, 1]), "pads [1, 1] should have 4"),
    "auto_pad beside pads": (
        conv(auto_pad="SAME_UPPER", pads=[3] * 4),
        "node 'conv': has auto_pad=SAME_UPPER beside pads=[3, 3, 3, 3], which onnxruntime refuses",
    ),
    "auto_pad beside pads of zeros": (conv(auto_pad="VALID", pads=[0] * 4), "auto_pad=VALID beside pads"),
    "auto_pad beside pads of a transposed convolution": (
        conv(op="ConvTranspose", dims=(4, 8, 7, 7), auto_pad="SAME_LOWER", pads=[0] * 4),
        "auto_pad=SAME_LOWER beside pads",
    ),
    "Gemm weight of three dims": (
        build([node("Gemm", "x w", "y")], [weight("w", 2, 2, 2)]),
        "should have two",
    ),
}


# --- files --------------------------------------------------------------------------------------------------


def no_model_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no model, and a part of their message."""
    whole = conv().SerializeToString()
    contents = {
        "empty": (b"", "is empty"),
        "text": (b"<html>\nnot a model\n</html>\n" * 40, "is a text file"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        "zip": (b"PK\x03\x04" + bytes(100), "zip archive"),
        "zeros": (bytes(5000), "not an ONNX model"),
        "noise": (np.random.default_rng(0).bytes(5000), "not an ONNX model"),
        "trailing": (whole + b"\x07junk", "not an ONNX model"),
    }
    files = {}
    for name, (data, message) in contents.items():
        files[name] = folder / f"{name}.onnx", message
        files[name][0].write_bytes(data)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        path = folder / f"cut{share}.onnx"
        path.write_bytes(whole[: max(1, int(len(whole) * share))])
        files[path.stem] = path, ""
    (folder / "folder.onnx").mkdir()
    os.mkfifo(folder / "pipe.onnx")
    files["absent"] = folder / "absent.onnx", "no such file"
    files["under a file"] = folder / "text.onnx" / "m.onnx", "can't be read"
    files["folder"] = folder / "folder.onnx", "is a folder"
    files["pipe"] = folder / "pipe.onnx", "not a regular file"
    return files


def external(path: Path, location: str, **entries: Any) -> Path:
    """A model whose weight is in another file: 48 bytes of it."""
    proto = build([node("Add", "x w", "y")], [weight("w", 12)])
    tensor = proto.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.ClearField("raw_data")
    path.write_bytes(proto.SerializeToString())
    return path


def external_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Models whose external data is missing, short or elsewhere, and a part of their message."""
    home, away = folder / "home", folder / "away"
    (home / "real").mkdir(parents=True)
    away.mkdir()
    for path in (home / "w.bin", away / "w.bin", home / "real" / "w.bin", away / "linked.bin"):
        path.write_bytes(bytes(48))
    (home / "short.bin").write_bytes(bytes(47))
    (home / "link.bin").symlink_to(away / "w.bin")
    (home / "dir").symlink_to(away)
    (home / "dangling.bin").symlink_to(home / "nowhere")
    os.link(away / "linked.bin", home / "hard.bin")
    os.mkfifo(home / "pipe.bin")
    cases: dict[str, tuple[str, dict[str, Any], str]] = {
        "absolute": (str(home / "w.bin"), {}, "absolute path"),
        "drive": ("C:\\w.bin", {}, "absolute path"),
        "parent": ("../away/w.bin", {}, "leaves the model's folder"),
        "parent and back": ("real/../w.bin", {}, "leaves the model's folder"),
        "backslash": ("..\\away\\w.bin", {}, "leaves the model's folder"),
        "link": ("link.bin", {}, "link out of the model's folder"),
        "linked folder": ("dir/w.bin", {}, "link out of the model's folder"),
        "dangling link": ("dangling.bin", {}, "no file 'dangling.bin'"),
        "hard link": ("hard.bin", {}, "2 hard links"),
        "missing": ("gone.bin", {}, "no file 'gone.bin'"),
        "no name": ("", {}, "names no file"),
        "null": ("w.bin\0", {}, "names no file"),
        "folder": ("real", {}, "not a regular file"),
        "pipe": ("pipe.bin", {}, "not a regular file"),
        "short": ("short.bin", {}, "needs bytes 0 to 48 of 'short.bin', which has 47"),
        "offset past the end": ("w.bin", {"offset": 1}, "needs bytes 1 to 49"),
        "huge offset": ("w.bin", {"offset": 2**70}, "needs bytes"),
        "negative offset": ("w.bin", {"offset": -1}, "has offset '-1'"),
        "negative length": ("w.bin", {"length": -48}, "has length '-48'"),
        "length past the end": ("w.bin", {"length": 49}, "has length 49"),
        "length that is too short": ("w.bin", {"length": 47}, "has length 47"),
        "offset that is no number": ("w.bin", {"offset": "ten"}, "'ten'"),
    }
    files = {}
    for i, (name, (location, entries, message)) in enumerate(cases.items()):
        files[name] = external(home / f"m{i}.onnx", location, **entries), message
    return files


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        validate(io.load(path).model, path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("case", [*UNCARRIED, *INVALID])
def test_a_bad_model_is_refused(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proto, part = {**UNCARRIED, **INVALID}[case]
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    assert part in refusal(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("case", [*UNCARRIED, *INVALID])
def test_a_bad_model_in_memory_is_refused(case: str) -> None:
    proto, part = {**UNCARRIED, **INVALID}[case]
    part = part.replace("not an ONNX model", "holds no graph")
    with pytest.raises(InputError) as caught:
        validate(io.load(proto).model, None)
    assert part in str(caught.value)
    assert str(caught.value).startswith("the model: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", INVALID)
def test_a_bad_onnx_ir_model_is_refused(case: str) -> None:
    proto, part = INVALID[case]
    with pytest.raises(InputError) as caught:
        validate(io.load(ir.from_proto(proto)).model, None)
    assert part in str(caught.value)


@pytest.mark.parametrize("call", [graphopt.scan, graphopt.optimize])
def test_an_operator_that_does_not_fit_its_inputs_is_told_with_the_file(
    call: Callable[[Any], Any], tmp_path: Path
) -> None:
    proto = build([node("MatMul", "x w", "y")], [weight("w", 5, 3)])
    proto.graph.input[0].CopyFrom(info("x", [2, 4]))
    onnx.save(proto, tmp_path / "odd.onnx")
    with pytest.raises(InputError, match=r"odd\.onnx: matmul_y \(MatMul\): .*check the model, or the sizes"):
        call(tmp_path / "odd.onnx")


def test_the_cycle_is_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(INVALID["cycle"][0].SerializeToString())
    nodes = refusal(path).partition("is cyclic: ")[2].split(" → ")
    assert nodes[0] == nodes[-1]
    assert set(nodes) == {"'add_a'", "'neg_b'", "'abs_c'"}


def test_files_that_are_no_model(tmp_path: Path) -> None:
    for path, part in no_model_files(tmp_path).values():
        assert part in refusal(path)


def test_a_cut_at_every_kind_of_place(tmp_path: Path) -> None:
    whole = conv().SerializeToString()
    path = tmp_path / "cut.onnx"
    for end in [*range(1, 300, 7), *range(300, len(whole), 211), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refusal(path)


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_file_is_refused_or_read(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(if_model([node("Neg", "x", "t")], "t").SerializeToString())
    for _ in range(random.integers(1, 4)):
        data[random.integers(len(data))] = random.integers(256)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    try:
        validate(io.load(path).model, path)
    except InputError as error:
        assert "\n" not in str(error)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(conv().SerializeToString())

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "can't be read: Permission denied" in refusal(path)


def test_a_name_with_a_null_character() -> None:
    with pytest.raises(InputError, match="can't be read"):
        io.load("m\0.onnx")


def test_external_data_that_is_refused(tmp_path: Path) -> None:
    for path, part in external_files(tmp_path).values():
        message = refusal(path)
        assert part in message, message
        assert "'w'" in message


def test_external_data_of_constants_subgraphs_and_functions_is_checked(tmp_path: Path) -> None:
    def outside(name: str) -> TensorProto:
        tensor = TensorProto(name=name, dims=[1], data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")
        return tensor

    (tmp_path / "secret").write_bytes(bytes(4))
    (tmp_path / "in").mkdir()
    in_branch = if_model([node("Add", "x deep", "t")], "t")
    in_branch.graph.node[1].attribute[0].g.initializer.append(outside("deep"))
    branches = {
        "constant": build([node("Constant", "", "y", value=outside("deep"))]),
        "branch": in_branch,
        "constant in a branch": if_model([node("Constant", "", "t", value=outside("deep"))], "t"),
        "function": function_model([node("Constant", "", "b", value=outside("deep"))]),
    }
    for name, proto in branches.items():
        path = tmp_path / "in" / f"{name}.onnx"
        path.write_bytes(proto.SerializeToString())
        assert "tensor 'deep' leaves the model's folder by '../secret'" in refusal(path)


def test_external_data_of_a_proto_without_a_folder(tmp_path: Path) -> None:
    proto = onnx.load(external(tmp_path / "m.onnx", "w.bin"), load_external_data=False)
    constant = build([node("Constant", "", "y", value=proto.graph.initializer[0])])
    for given in (proto, constant):
        with pytest.raises(InputError, match="give the path of the file"):
            io.load(given)


def test_external_data_of_a_model_in_memory_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    (tmp_path / "in").mkdir()
    given = ir.load(external(tmp_path / "in" / "m.onnx", "../secret"))
    with pytest.raises(InputError, match="leaves the model's folder"):
        io.load(given)


def test_names_can_not_break_the_line_or_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m.onnx"
    proto = build([helper.make_node("Add", ["x", "gh\nost\x1b[31m"], ["y"], name="a\nb")])
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError) as caught:
        validate(io.load(path).model, path)
    assert str(caught.value).isprintable()


# --- what is fine -------------------------------------------------------------------------------------------


def test_what_looks_odd_but_runs_is_accepted() -> None:
    scaler = node("ImageScaler", "x", "y", scale=1.0, bias=[0.0])
    custom = helper.make_node("Anything", ["x", ""], ["y"], domain="my", level="high")
    named = edited(conv(), lambda p: setattr(p.opset_import[0], "domain", "ai.onnx"))
    dropout = build([helper.make_node("Dropout", ["x"], ["y", ""])])
    loose = edited(conv(), lambda p: p.graph.ClearField("name"))
    mark = helper.make_attribute("__mark", 1)
    internal = edited(conv(), lambda p: p.graph.node[0].attribute.append(mark))
    referring = function_model([node("Softmax", "a", "b")])
    referring.functions[0].attribute.append("axis")
    axis = AttributeProto(name="axis", ref_attr_name="axis", type=AttributeProto.INT)
    referring.functions[0].node[0].attribute.append(axis)
    both = conv(group=2, dims=(8, 2, 3, 3), pads=[-1, 0, 0, 0]), if_model([node("Neg", "a", "t")], "t")
    built = build([scaler], opset=7), build([custom], domains=["my"])
    for proto in (*built, named, dropout, loose, internal, referring, *both):
        validate(io.load(proto).model, None)


def test_standard_domain_has_one_spelling_after_loading() -> None:
    proto = edited(conv(), lambda p: setattr(p.opset_import[0], "domain", "ai.onnx"))
    assert io.load(proto).model.opset_imports == {"": 17}


def test_validation_is_quick_on_large_graphs() -> None:
    import time

    count = 20_000
    names = [f"v{i}" for i in range(count)]
    chain = [helper.make_node("Relu", [a], [b]) for a, b in zip(["x", *names], [*names, "y"], strict=True)]
    source = io.load(build(chain))
    start = time.process_time()
    validate(source.model, None)
    assert time.process_time() - start < 2  # 0.1 s here; a quadratic walk takes minutes


# --- the command --------------------------------------------------------------------------------------------


def command(*arguments: object) -> Ran:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    return Ran(done.returncode, done.stdout, done.stderr)


COMMAND_CASES = ["cycle", "undefined input", "unknown operator", "sparse element out of place", "new opset"]


@pytest.mark.parametrize("turn", [0, 1])
def test_the_command_answers_bad_input_in_one_line(turn: int, tmp_path: Path) -> None:
    files = [path for path, _ in no_model_files(tmp_path).values()]
    files = [path for path in files if path.stem in ("absent", "empty", "text", "cut0.5", "folder")]
    for case in COMMAND_CASES:
        proto, _ = {**UNCARRIED, **INVALID}[case]
        files.append(tmp_path / f"{case.replace(' ', '_')}.onnx")
        files[-1].write_bytes(proto.SerializeToString())
    bad_data = external_files(tmp_path)
    files += [bad_data[name][0] for name in ("parent", "link", "short")]
    out = tmp_path / "out.onnx"
    for i, path in enumerate(files[turn::2]):  # half a second each, so not every file with every command
        older = b"older" if i % 2 else None
        if older is not None:
            out.write_bytes(older)
        done = command("optimize", path, "-o", out) if i % 4 < 2 else command("scan", path)
        done.refused(str(path))
        assert (out.read_bytes() if out.exists() else None) == older
        out.unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["marked", "weights.bin"])
def test_text_that_is_not_utf8(text: str, tmp_path: Path) -> None:
    """protobuf hands it out as bytes, in the metadata as in the name of an external file."""
    proto = conv(pads=[3] * 4)
    helper.set_model_props(proto, {"note": "marked"})
    far = proto.graph.initializer.add(name="far", dims=[1], data_type=TensorProto.FLOAT)
    far.data_location = TensorProto.EXTERNAL
    far.external_data.add(key="location", value="weights.bin")
    content = proto.SerializeToString().replace(text.encode(), b"\xff" * len(text))
    (tmp_path / "odd.onnx").write_bytes(content)
    with pytest.raises(InputError, match="is not UTF-8; the file is damaged"):
        io.load(tmp_path / "odd.onnx")
    if text == "marked":
        with pytest.raises(InputError, match="is not UTF-8; the file is damaged"):
            io.metadata(tmp_path / "odd.onnx")
