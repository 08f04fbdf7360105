"""Loading and saving models: files, external data and fidelity. Nothing here changes what a graph computes.

What a file held is there again after `load` and `save`, with these exceptions, none of which a runtime can
see: value_info of values that no node makes or that repeats an output, checksums of external data (it is
written anew), the order of metadata entries, and the spelling of the standard domain ("" for "ai.onnx"). A
model that would lose more is refused.

Weights are mapped, not read: the large initializers of a file, and external data, become arrays over a memory
map. So a file must not be overwritten in place while its model is in use; `save` renames, which is safe, and
refuses to go on when it finds that the input has changed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import onnx
import onnx_ir as ir

from graphopt.errors import InputError
from graphopt.files import (
    CHUNK,
    Content,
    PathLike,
    Stamp,
    check_output,
    copy_files,
    data_path,
    kind_of,
    map_file,
    reason,
    same_content,
    same_file,
    show,
    staged,
    stamp_of,
)
from graphopt.model import external_data as external
from graphopt.model import serde, wire_format
from graphopt.model.carried import stored_bytes
from graphopt.model.external_data import EXTERNAL_FROM
from graphopt.model.traversal import graphs
from graphopt.model.validation import check_metadata, check_proto
from graphopt.model.wire_format import FILE_LIMIT, MAPPED_FROM

__all__ = [
    "EXTERNAL_FROM",
    "FILE_LIMIT",
    "INLINE_LIMIT",
    "MAPPED_FROM",
    "ExternalData",
    "PathLike",
    "Source",
    "check_output",
    "copy",
    "data_path",
    "load",
    "metadata",
    "save",
    "written_bytes",
]

ExternalData: TypeAlias = Literal["auto", "always", "never"]

INLINE_LIMIT = FILE_LIMIT - 2**24
"""Bytes of weights from which `save` moves them out of the file: the limit less room for the graph."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model as it was given.

    Attributes:
        model: the model to work on; a copy of its own, whose weights may be shared with what was given.
        path: its file; None when it was given in memory.
        data_files: its external data, relative to the folder of `path`.
        given: what was given in memory; None when it was a file.
        left: the functions whose calls are still in the model, with the reason.
        uninlined: the model with all its calls, where `model` has bodies in their place; None where not.
        disclaimed: the inner values of which both declare another shape by now, as what they declared does
            not follow from the inputs.
        refused: whether onnxruntime refuses what was given for that.
    """

    model: ir.Model = field(repr=False)
    path: Path | None
    data_files: tuple[str, ...] = ()
    given: onnx.ModelProto | ir.Model | None = field(default=None, repr=False)
    _stamps: Mapping[Path, Stamp] = field(default_factory=dict, repr=False)
    left: Mapping[ir.OperatorIdentifier, str] = field(default_factory=dict)
    uninlined: ir.Model | None = field(default=None, repr=False)
    disclaimed: tuple[str, ...] = ()
    refused: bool = False

    @property
    def whole(self) -> ir.Model:
        """The model as it was given, with all its calls."""
        return self.model if self.uninlined is None else self.uninlined

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and its external data: what an output must not overwrite."""
        return tuple(self._stamps)

    @property
    def opset(self) -> int | None:
        """The version of the standard operators; None where the model uses none."""
        return self.model.opset_imports.get("")

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file without external data; of the serialisation for a model in memory."""
        if self.path is None:
            return self._digest.sha256
        return _digest_of(self.path)

    @functools.cached_property
    def data_sha256(self) -> Mapping[str, str]:
        """Of each file of external data; empty for a model in memory, whose digest has the weights in it."""
        if self.path is None:
            return {}
        return {location: _digest_of(self.path.parent / location) for location in self.data_files}

    @functools.cached_property
    def bytes(self) -> int:
        """Size of the file including external data; of the serialisation for a model in memory."""
        if self.path is None:
            return self._digest.size
        return sum(stamp[0] for stamp in self._stamps.values() if stamp)

    @functools.cached_property
    def _digest(self) -> _Digest:
        digest = _Digest()
        if isinstance(self.given, onnx.ModelProto):
            digest.write(wire_format.serialized(self.given))
        elif self.given is not None:
            model = load(self.given).model
            apart = external.write(_apart(model, "auto", None) or [], digest, "model.onnx.data")
            _write(model, digest, apart)
        return digest

    def check_unchanged(self) -> None:
        """Raise `InputError` when a file of the model has changed since it was loaded."""
        for path, stamp in self._stamps.items():
            if stamp_of(path) != stamp:
                raise InputError(f"{show(path)}: changed while it was in use; run again")


def _digest_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InputError: it can't be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{show(path)}: can't be read: {reason(error)}") from error
    return digest.hexdigest()


class _Digest:
    """A sink that keeps the hash and the size of what it is given."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview, /) -> None:
        self._hash.update(data)
        self.size += len(data)

    def tell(self) -> int:
        return self.size


# --- loading ------------------------------------------------------------------------------------------------


def load(model: PathLike | onnx.ModelProto | ir.Model) -> Source:
    """Load a model without reading its weights.

    The argument is never changed: an `onnx_ir.Model` is cloned, and a file or `onnx.ModelProto` deserialised.
    Nodes out of topological order are sorted. Takes only what `model.validation.check_proto` accepts;
    whether the graph makes sense is for `model.validation.validate` to say.

    Args:
        model: a binary ONNX file, or a model in memory.

    Raises:
        InputError: the file can't be read, or is no ONNX model; the model holds what a round trip would lose;
            external data is missing, short, or outside the model's folder (by an absolute path, ``..``, a
            symbolic link, or a hard link, as `onnx` has it).
    """
    if isinstance(model, onnx.ModelProto):
        check_proto(model, "the model")
        loaded = serde.from_proto(model, "the model")
        serde.replace_tensors(loaded, _without_folder)
        return Source(loaded, None, given=model)
    if isinstance(model, ir.Model):
        loaded, data = serde.clone(model), external.DataFiles("the model")
        serde.replace_tensors(loaded, data.tensor)
        return Source(loaded, None, data.locations, model, data.stamps)
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(
            "a model is a path, an onnx.ModelProto or an onnx_ir.Model, and not " + type(model).__name__
        )
    path = Path(model)
    where = show(path)
    stamp, content = stamp_of(path), _open(path, where)
    proto, offsets = wire_format.read(content, where)
    check_proto(proto, where)
    loaded, data = serde.from_proto(proto, where), external.DataFiles(where, path)
    inline = {loaded.graph.initializers[name].const_value: offset for name, offset in offsets.items()}

    def attached(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        return external.mapped(tensor, content, inline[tensor]) if tensor in inline else data.tensor(tensor)

    serde.replace_tensors(loaded, attached)
    return Source(loaded, path, data.locations, None, {path: stamp, **data.stamps})


def metadata(path: PathLike) -> dict[str, str]:
    """The metadata of a model file. Neither its graph nor its weights have to be of any use.

    Raises:
        InputError: the file can't be read, or is no ONNX model, or its metadata is no text.
    """
    file = Path(path)
    proto, _ = wire_format.read(_open(file, show(file)), show(file))
    check_metadata(proto, show(file))
    return {entry.key: entry.value for entry in proto.metadata_props}


def _without_folder(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Any tensor but an external one, as it is."""
    if isinstance(tensor, ir.ExternalTensor):
        raise InputError(
            f"the model: tensor {tensor.name!r} is in external data, and an onnx.ModelProto doesn't "
            "know its folder; give the path of the file, or load the proto with its external data"
        )
    return tensor


def _open(path: Path, where: str) -> Content:
    """The bytes of a model file."""
    try:
        status = path.stat()  # before opening: opening a named pipe would wait
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{where}: is a folder; name a model file in it")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{where}: is not a regular file; copy the model to one")
        if status.st_size == 0:
            raise InputError(f"{where}: is empty; export or download the model again")
        if status.st_size > wire_format.FILE_LIMIT:
            raise InputError(f"{where}: is over 2 GiB, which protobuf can't hold; save it with external data")
        return map_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{where}: can't be read: {reason(error)}") from error


# --- saving -------------------------------------------------------------------------------------------------


def save(
    model: ir.Model,
    path: PathLike,
    *,
    external_data: ExternalData = "auto",
    source: Source | None = None,
) -> None:
    """Write a model: complete or not at all, and the same bytes for the same model.

    An older file stays as it is until the new one is complete. A symbolic link is replaced itself.

    Args:
        model: the model; the same after the call as before.
        path: the file to write.
        external_data: whether weights of `EXTERNAL_FROM` bytes or more go to ``OUT.data`` beside OUT;
            ``auto``: as the source has it, and always when one file can't hold them.
        source: what the model was made from.

    Raises:
        InputError: `check_output` refuses the path; the file can't be written; the source's file
            has changed; ``never`` with more weights than a file can hold.
    """
    out = Path(path)
    check_output(out, source.files if source is not None else ())
    if source is not None:
        source.check_unchanged()
    large = _apart(model, external_data, source)
    if large is None:
        raise InputError(f"{show(out)}: the weights don't fit in one file of 2 GiB; allow external data")
    if not large:
        with staged(out) as (file,):
            _write(model, file)
        return
    data = data_path(out)
    if kind_of(data) == "folder":
        raise InputError(f"{show(data)}: is a folder, and the weights go to a file of that name; remove it")
    with staged(data, out) as (data_file, file):
        _write(model, file, external.write(large, data_file, data.name))


def write(
    model: ir.Model,
    source: Source,
    path: PathLike,
    *,
    changed: bool,
    external_data: ExternalData,
    others: Iterable[Path] = (),
) -> None:
    """Write what was made of a model: as it was given, byte by byte, where nothing was changed.

    Args:
        model: what was made.
        source: what it was made from.
        path: the file to write.
        changed: whether the one is another than the other.
        external_data: as for `save`; a model that was not changed is copied with ``auto`` alone.
        others: files that were read besides the source's.

    Raises:
        InputError: as for `save` and `copy`; the path is one of the others.
    """
    check_output(path, (*source.files, *others))
    if not changed and external_data == "auto":
        copy(source, path)
    else:
        save(model, path, external_data=external_data, source=source)


def written_bytes(model: ir.Model, source: Source) -> int:
    """Size of what `save` writes by default, external data included, for a file called ``model.onnx``."""
    file, data = _Digest(), _Digest()
    _write(model, file, external.write(_apart(model, "auto", source) or [], data, "model.onnx.data"))
    return file.size + data.size


def _apart(model: ir.Model, external_data: ExternalData, source: Source | None) -> list[ir.Value] | None:
    """The initializers that go to an external file; None when they don't fit and have to be in one file."""
    values = [value for graph in graphs(model) for value in graph.initializers.values()]
    fits = sum(stored_bytes(v.const_value) for v in values if v.const_value is not None) <= INLINE_LIMIT
    if external_data == "auto":
        external_data = "always" if not fits or (source is not None and source.data_files) else "never"
    if external_data == "never":
        return [] if fits else None
    return [value for value in values if external.is_large(value, EXTERNAL_FROM)]


def _write(
    model: ir.Model, file: wire_format.Sink, external_data: Mapping[ir.Value, ir.ExternalTensor] | None = None
) -> None:
    """Write the model, its large initializers straight from their arrays, without a copy in protobuf form.

    Args:
        model: the model; the same after the call as before.
        file: where to write.
        external_data: stand-ins for the initializers that are in an external file.
    """
    stand_ins = dict(external_data or {})
    payloads = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and value not in stand_ins and _is_payload(value):
            payloads[value.name or ""] = tensor
            stand_ins[value] = external.reference(value)
    wire_format.write(serde.to_proto(model, stand_ins), payloads, file)


def _is_payload(value: ir.Value) -> bool:
    """Whether to write an initializer's data apart; if external, always, lest a reference dangles."""
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        return True
    typed = isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data")
    return not typed and external.is_large(value, MAPPED_FROM)


def copy(source: Source, path: PathLike) -> None:
    """Write the model as it was given: byte by byte, its external data under the same relative names.

    In the model's own folder, the copy shares the data files. Elsewhere they are copied; one of that name
    which is there already is kept when it holds the same bytes, and refused otherwise: it may be another
    model's.

    Args:
        source: the model.
        path: the file to write.

    Raises:
        InputError: `check_output` refuses the path, or a file can't be written; the source's file has
            changed; another data file is in the way.
    """
    out = Path(path)
    check_output(out, source.files)
    source.check_unchanged()
    if source.path is None:
        if isinstance(source.given, onnx.ModelProto):
            with staged(out) as (file,):
                file.write(wire_format.serialized(source.given))
        else:
            save(load(source.given).model if source.given is not None else source.model, out, source=source)
        return
    beside = same_file(out.parent, source.path.parent)
    copy_files([*([] if beside else _data_to_copy(source, out)), (source.path, out)])


def _data_to_copy(source: Source, out: Path) -> list[tuple[Path, Path]]:
    """Which data files to copy, and where to."""
    assert source.path is not None
    moved = []
    for location in source.data_files:
        origin, target = source.path.parent / location, out.parent / location
        if target == out:
            raise InputError(f"{show(out)}: is the name of the model's external data; name another output")
        if not kind_of(target):
            moved.append((origin, target))
        elif not same_content(origin, target):
            raise InputError(
                f"{show(target)}: is in the way of the model's external data; write to another folder"
            )
    return moved
