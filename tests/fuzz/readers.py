"""Mutated files for whatever graphopt reads: each ends in a result or one line, within bounds of memory."""

from __future__ import annotations

import io
import random
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

import graphopt
from graphopt.calibration import inputs
from graphopt.calibration.images import Images
from graphopt.calibration.preprocessing import preset
from graphopt.errors import InputError, as_argument, told
from graphopt.jobs import recipe
from graphopt.model import io as models
from graphopt.report import provenance
from graphopt.runtime.operator_times import Stopwatch
from tests.builders import conv_bn, node
from tests.builders import model as made
from tests.fuzz.checking import Finding, HangError, limited, place

SECONDS = 20
"""Of the processor, that reading a file of some kilobytes may take."""
CEILING = 512 << 20
"""Bytes of memory that it may take: files here are of some kilobytes, and nothing in them asks for more."""

Files: TypeAlias = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """Something that is read from files.

    Attributes:
        files: valid ones, by name; those whose names are in `mutated` are changed.
        mutated: which.
        read: reads them from their folder.
    """

    files: Callable[[], Files]
    mutated: tuple[str, ...]
    read: Callable[[Path], object]


# ---------------------------------------------------------------- files as they should be


def _model() -> Files:
    return {"model.onnx": conv_bn().SerializeToString()}


def _body() -> Files:
    """A model with an If, functions, and weights in typed fields instead of raw bytes."""
    inner = helper.make_graph([node("Relu", "x", "r")], "body", [], [onnx.ValueInfoProto(name="r")])
    proto = made([node("If", "flag", "y", then_branch=inner, else_branch=inner)], outputs={"y": None})
    proto.graph.input.append(helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    proto.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 3], np.arange(6.0)))
    proto.graph.node.append(node("Add", "w w", "unread"))
    call = helper.make_function(
        "local", "f", ["a"], ["b"], [node("Neg", "a", "b")], [helper.make_opsetid("", 17)]
    )
    proto.functions.append(call)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return {"model.onnx": proto.SerializeToString()}


def _external() -> Files:
    proto, data = conv_bn(), b""
    for tensor in proto.graph.initializer:
        content = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", "data.bin"),
            ("offset", str(len(data))),
            ("length", str(len(content))),
        ):
            tensor.external_data.add(key=key, value=value)
        data += content
    return {"model.onnx": proto.SerializeToString(), "data.bin": data}


def _arrays(save: Callable[..., None]) -> Files:
    buffer = io.BytesIO()
    save(buffer, np.zeros((4, 8, 8, 8), np.float32))
    return {"inputs.npz" if save is not np.save else "inputs.npy": buffer.getvalue()}


RECIPE = """#:schema recipe.schema.json
[defaults]
calibration = "inputs.npz"
budget = { macs = 0.7, agreement = 0.98 }
require = ["agreement>=0.95", "bytes<=1.0"]
out = "smaller/{stem}.onnx"
aim = "macs"
seed = 3
shapes = { x = [1, 3, 8, 8] }
set.bottleneck.rank_in = 16

[[models]]
model = "classifier.onnx"
only = ["bottleneck", "collapse"]
memory = "2GiB"
"""
PREPROCESS = """scale = 0.00392
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
channels = "RGB"
layout = "NCHW"
size = [8, 8]
crop = 0.875
interpolation = "bilinear"
"""


def _changed() -> Files:
    result = graphopt.optimize(conv_bn())
    return {"model.onnx": ir.to_proto(result.model).SerializeToString()}


def _image() -> Files:
    """A picture in the simplest of formats, which needs no library to be made."""
    return {"photos/a.ppm": b"P6 6 6 255\n" + bytes(range(108))}


@cache
def _reference() -> ir.Model:
    return ir.from_proto(conv_bn(inputs={"x": ["N", 8, 8, 8]}))


@cache
def _pictures() -> ir.Model:
    return ir.from_proto(made([node("Relu", "x", "y")], inputs={"x": ["N", 3, 8, 8]}))


def _provenance(folder: Path) -> object:
    return provenance.read(models.metadata(folder / "model.onnx"))


READERS: Mapping[str, Reader] = {
    "model": Reader(_model, ("model.onnx",), lambda f: graphopt.scan(f / "model.onnx")),
    "bodies": Reader(_body, ("model.onnx",), lambda f: graphopt.scan(f / "model.onnx")),
    "external data": Reader(_external, ("model.onnx", "data.bin"), lambda f: graphopt.scan(f / "model.onnx")),
    "npz": Reader(
        lambda: _arrays(np.savez), ("inputs.npz",), lambda f: inputs.whole(f / "inputs.npz", _reference())
    ),
    "npy": Reader(
        lambda: _arrays(np.save), ("inputs.npy",), lambda f: inputs.whole(f / "inputs.npy", _reference())
    ),
    "recipe": Reader(
        lambda: {"recipe.toml": RECIPE.encode()}, ("recipe.toml",), lambda f: recipe.read(f / "recipe.toml")
    ),
    "preprocessing": Reader(
        lambda: {"p.toml": PREPROCESS.encode()}, ("p.toml",), lambda f: preset(f / "p.toml")
    ),
    "provenance": Reader(_changed, ("model.onnx",), _provenance),
    "images": Reader(_image, ("photos/a.ppm",), lambda f: Images(f / "photos", "imagenet").load(_pictures())),
    "times": Reader(
        lambda: {"times.json": b'{"a": 0.001, "b": 1e-05, "c": 3}'},
        ("times.json",),
        lambda f: Stopwatch(f / "times.json"),
    ),
}
"""What graphopt reads, by name."""


# ---------------------------------------------------------------- files as they should not be

NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"[]", b'""', b"true", b"{}", b"null")
VARINTS = (b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x10", b"\x00", b"\x7f")


def mutated(content: bytes, dice: random.Random) -> bytes:
    """A file with a few changes: bytes, pieces and numbers moved, lost, repeated or made extreme."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            return bytes(dice.randbytes(dice.randint(0, 40)))
        at = dice.randrange(len(data))
        if dice.random() < 0.5:  # where the structure is, rather than in the weights
            at = at % min(len(data), 400)
        until = min(len(data), at + dice.choice((1, 1, 2, 4, 16, 100)))
        kind = dice.randrange(9)
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif kind == 2:
            del data[at:until]
        elif kind == 3:
            data[at:at] = data[at:until]
        elif kind == 4:
            data[at:until] = dice.randbytes(until - at)
        elif kind == 5:
            data[at:at] = dice.choice(VARINTS)
        elif kind == 6:
            data[at : at + dice.choice((0, 1, 3))] = dice.choice(NUMBERS)
        elif kind == 7:
            del data[at:]
        else:
            other = dice.randrange(len(data))
            data[at:until] = data[other : other + until - at]
    return bytes(data)


def check(case: int, folder: Path) -> Finding:
    """What came of reading a mutated file.

    Args:
        case: decides about the reader and the changes.
        folder: where the files are written.
    """
    names = tuple(READERS)
    name = names[case % len(names)]
    dice = random.Random(case)
    change = dice.choice(READERS[name].mutated)
    return checked(name, {change: mutated(valid(name)[change], dice)}, folder)


def checked(name: str, changed: Files, folder: Path) -> Finding:
    """What came of reading files of which some are changed.

    Args:
        name: of the reader.
        changed: what is written in the place of its valid files, by name.
        folder: where the files are written.
    """
    for path, content in {**valid(name), **changed}.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    with suppress(OSError):  # the peak so far is forgotten, where Linux lets it be
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with limited(SECONDS):
            READERS[name].read(folder)
        kind = "read"
    except HangError:
        return Finding("hang", f"{name}: no end within {SECONDS} s")
    except InputError as error:
        code, line = told(error, as_argument)
        kind = "refused"
        if code != 2 or "\n" in line or not line:
            return Finding("internal", f"{name}: exit code {code}: {line}")
    except BaseException as error:
        return Finding("internal", f"{name}: {place(error)}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > CEILING:
        return Finding("internal", f"{name}: {grown >> 20} MiB of memory")
    return Finding("right", applied={f"{name}, {kind}": 1})


@cache
def valid(name: str) -> Files:
    """The files of a reader as they should be."""
    return READERS[name].files()
