"""Loading and saving models: files, external data and fidelity. Nothing here changes what a graph computes.

What a file held is there again after `load` and `save`, with these exceptions, none of which a runtime can
see: value_info of values that no node makes, checksums of external data (it is written anew), the order of
metadata entries, and the spelling of the standard domain ("" for "ai.onnx"). A model that would lose more is
refused.

Weights are mapped, not read: the large initializers of a file, and external data, become arrays over a memory
map. So a file must not be overwritten in place while its model is in use; `save` renames, which is safe, and
refuses to go on when it finds that the input has changed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import mmap
import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, Literal, Protocol, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from graphopt.errors import GraphOptError, InputError
from graphopt.order import subgraphs
from graphopt.validate import check_proto, printable, validate

PathLike: TypeAlias = "str | os.PathLike[str]"
ExternalData: TypeAlias = Literal["auto", "always", "never"]

FILE_LIMIT = 2**31 - 1
"""Bytes that a protobuf file may have."""
INLINE_LIMIT = FILE_LIMIT - 2**24
"""Bytes of weights from which `save` moves them out of the file: the limit less room for the graph."""
EXTERNAL_FROM = 1024
"""Bytes from which a weight goes to the external file; as in `onnx.save`. The small ones may be shapes."""
MAPPED_FROM = 4096
"""Bytes from which an initializer is neither read nor held in the protobuf form."""
_CHUNK = 1 << 18
"""Bytes that are copied at a time: they stay in the cache, and the pages behind them can go."""
_PAGE = 4096
"""Larger tensors start on a page in the external file, as the ONNX standard advises for memory mapping."""

_DECLARED = "graphopt.value_info"
"""In `Value.meta` of an initializer: the file describes it in value_info too, so keep that."""


# --- loading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """A model as it was given.

    Attributes:
        model: the model to work on; a copy of its own, whose weights may be shared with what was given.
        path: its file; None when it was given in memory.
        data_files: its external data, relative to the folder of `path`.
        given: what was given in memory; None when it was a file.
    """

    model: ir.Model
    path: Path | None
    data_files: tuple[str, ...] = ()
    given: onnx.ModelProto | ir.Model | None = None
    _stamps: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and its external data: what an output must not overwrite."""
        return tuple(self._stamps)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file without external data; of the serialisation for a model in memory."""
        if self.path is None:
            return self._digest.sha256
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    @functools.cached_property
    def bytes(self) -> int:
        """Size of the file including external data; of the serialisation for a model in memory."""
        if self.path is None:
            return self._digest.size
        return sum(_size(stamp) for stamp in self._stamps.values())

    @functools.cached_property
    def _digest(self) -> _Digest:
        digest = _Digest()
        if isinstance(self.given, onnx.ModelProto):
            digest.write(_serialized(self.given, "the model"))
        elif self.given is not None:
            _write_model(load(self.given).model, digest)
        return digest

    def check_unchanged(self) -> None:
        """Raise `InputError` when a file of the model has changed since it was loaded."""
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise InputError(f"{_show(path)}: changed while it was in use; run again")


def load(model: PathLike | onnx.ModelProto | ir.Model) -> Source:
    """Load a model without reading its weights.

    The argument is never changed: an `onnx_ir.Model` is cloned, and a file or `onnx.ModelProto` deserialised.
    Nodes out of topological order are sorted. Takes only what `graphopt.validate.check_proto` accepts;
    whether the graph makes sense is for `graphopt.validate.validate` to say.

    Args:
        model: a binary ONNX file, or a model in memory.

    Raises:
        InputError: the file can't be read, or is no ONNX model; the model holds what a round trip would lose;
            external data is missing, short, or outside the model's folder (by an absolute path, ``..``, a
            symbolic link, or a hard link, as `onnx` has it).
    """
    if isinstance(model, ir.Model):
        copied = _clone(model)
        _keep_metadata_single(copied)
        data = _DataFiles("the model", None)
        data.attach(copied)
        return _source(copied, None, data, {}, given=model)
    if isinstance(model, onnx.ModelProto):
        check_proto(model, "the model")
        loaded = _deserialize(model, "the model")
        _refuse_external(loaded)
        return Source(loaded, None, given=model)
    path = Path(model)
    where = _show(path)
    content, stamp = _map_file(path, where)
    proto, payloads = _parse(content, where)
    check_proto(proto, where)
    blobs = _detach(proto, payloads, content)
    loaded = _deserialize(proto, where)
    for name, (offset, length) in blobs.items():
        value = loaded.graph.initializers[name]
        value.const_value = _mapped(value.const_value, content, offset, length)
    data = _DataFiles(where, path)
    data.attach(loaded)
    return _source(loaded, path, data, {path: stamp})


def _source(
    model: ir.Model,
    path: Path | None,
    data: _DataFiles,
    stamps: Mapping[Path, tuple[int, ...]],
    given: ir.Model | None = None,
) -> Source:
    files = {file: _stamp(file) for file, _ in data.found.values()}
    return Source(model, path, tuple(data.found), given, {**stamps, **files})


def _refuse_external(model: ir.Model) -> None:
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                raise InputError(
                    f"the model: tensor {value.name!r} is in external data, and an onnx.ModelProto doesn't "
                    "know its folder; give the path of the file, or load the proto with its external data"
                )


def _map_file(path: Path, where: str) -> tuple[mmap.mmap | bytes, tuple[int, ...]]:
    """The file's bytes, mapped where the file system can, and its stamp."""
    try:
        status = path.stat()  # before opening: opening a named pipe would wait
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{where}: is a folder; name a model file in it")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{where}: is not a regular file; copy the model to one")
        if status.st_size == 0:
            raise InputError(f"{where}: is empty; export or download the model again")
        if status.st_size > FILE_LIMIT:
            raise InputError(f"{where}: is over 2 GiB, which protobuf can't hold; save it with external data")
        return _map_content(path), _stamp_of(status)
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{where}: can't be read: {_reason(error)}") from error


def _map_content(path: Path) -> mmap.mmap | bytes:
    """The bytes of a file, read only where the file system can't map them."""
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: an empty file
            return file.read()


def _parse(content: mmap.mmap | bytes, where: str) -> tuple[onnx.ModelProto, list[tuple[int, int] | None]]:
    """The model without the data of its large initializers, and where that is in the file, by initializer."""
    try:
        slim, payloads = _split(content)
    except ValueError:  # not what a writer of ONNX would write, so let protobuf judge it
        slim, payloads = bytes(content), []
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(slim)
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: {_guess(content[:512])}") from error
    if not proto.HasField("graph"):
        raise InputError(f"{where}: {_guess(content[:512])}")
    return proto, payloads


def _guess(head: bytes) -> str:
    """What a file that is no ONNX model probably is."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`"
    if head.startswith(b"PK\x03\x04"):
        return "is a zip archive (perhaps a PyTorch checkpoint), not an ONNX model; export it to ONNX"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is a text file, not a binary ONNX model"
    return "is not an ONNX model, or was cut short or damaged; export or download it again"


def _detach(
    proto: onnx.ModelProto, payloads: Sequence[tuple[int, int] | None], content: mmap.mmap | bytes
) -> dict[str, tuple[int, int]]:
    """By initializer, the data that stays in the file; data of an odd type or size goes back where it was."""
    blobs = {}
    for tensor, payload in zip(proto.graph.initializer, payloads, strict=False):
        if payload is None:
            continue
        offset, length = payload
        if _mappable(tensor) and length == _byte_size(ir.DataType(tensor.data_type), tensor.dims):
            blobs[tensor.name] = payload
        else:
            tensor.raw_data = content[offset : offset + length]
    return blobs


def _mappable(tensor: onnx.TensorProto) -> bool:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return False
    plain = dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING) and dtype.bitwidth % 8 == 0
    odd = tensor.HasField("segment") or tensor.data_location == onnx.TensorProto.EXTERNAL
    return plain and not odd and all(size >= 0 for size in tensor.dims)


def _byte_size(dtype: ir.DataType, dims: Iterable[int]) -> int:
    return -(-math.prod(dims) * dtype.bitwidth // 8)


def _deserialize(proto: onnx.ModelProto, where: str) -> ir.Model:
    """The in-memory form, sorted, with what `onnx_ir` would lose noted on its values."""
    declared = set(_declared(proto.graph))
    with _quiet():
        try:
            model = ir.from_proto(proto)
        except Exception as error:  # onnx_ir raises of every kind; whatever it is, the model caused it
            raise InputError(f"{where}: onnx_ir can't hold the model: {_reason(_root(error))}") from error
    for body in (model.graph, *(function.graph for function in model.functions.values())):
        imports = body.opset_imports
        if "ai.onnx" in imports:
            imports[""] = imports.pop("ai.onnx")
        _sort(body)
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.name in declared:
                value.meta[_DECLARED] = True
    _keep_metadata_single(model)
    return model


def _keep_metadata_single(model: ir.Model) -> None:
    """Have `onnx_ir` write a tensor's metadata once: it writes the proto's own and those of its view."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.serde.TensorProtoTensor) and tensor.metadata_props:
                value.const_value = ir.serde.TensorProtoTensor(tensor.raw)
                value.const_value.metadata_props.clear()


def _declared(graph: onnx.GraphProto) -> Iterator[str]:
    """The names in value_info, also of subgraphs."""
    for info in graph.value_info:
        yield info.name
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _declared(attribute.g)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what `onnx_ir` logs of bad models off standard error; `validate` says it in one line."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _sort(graph: ir.Graph) -> None:
    """Bring the nodes into topological order, if they aren't; a cycle is left for `validate` to name."""
    if not _is_sorted(graph, set()):
        with contextlib.suppress(ValueError):
            graph.sort()


def _is_sorted(graph: ir.Graph, done: set[ir.Node]) -> bool:
    for node in graph:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in done:
                return False
        if not all(_is_sorted(inner, done) for inner in subgraphs(node)):
            return False
        done.add(node)
    return True


def _clone(model: ir.Model) -> ir.Model:
    try:
        return model.clone()
    except Exception:
        # A clone needs a sound, sorted graph. `validate` names what is unsound; unsorted nodes are fine.
        validate(model, None)
        with _quiet():
            return _deserialize(ir.to_proto(model), "the model")


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Every graph of the model: the main one, the functions' bodies, and the subgraphs of both."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from graph.subgraphs()


# --- external data ------------------------------------------------------------------------------------------


class _DataFiles:
    """The external data of one model: checks each reference, and maps each file once.

    Args:
        where: what to call the model in a message.
        path: the model's file; None when it was given in memory and its tensors know their folders.
    """

    def __init__(self, where: str, path: Path | None) -> None:
        self.where = where
        self.path = path
        self.found: dict[str, tuple[Path, mmap.mmap | bytes]] = {}
        """By location as the model spells it (joined to the tensor's own folder when it has one)."""

    def attach(self, model: ir.Model) -> None:
        """Put arrays over the mapped files in the place of all external tensors."""
        for graph in _graphs(model):
            for value in graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    value.const_value = self._tensor(value.const_value)
            for node in graph:
                for name, attribute in node.attributes.items():
                    replaced = self._attribute(attribute)
                    if replaced is not None:
                        node.attributes[name] = replaced

    def _attribute(self, attribute: ir.Attr) -> ir.Attr | None:
        if attribute.is_ref() or attribute.value is None:
            return None
        if attribute.type is ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if isinstance(tensor, ir.ExternalTensor):
                return ir.AttrTensor(attribute.name, self._tensor(tensor), doc_string=attribute.doc_string)
        elif attribute.type is ir.AttributeType.TENSORS:
            tensors = attribute.as_tensors()
            if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
                mapped = [self._tensor(t) if isinstance(t, ir.ExternalTensor) else t for t in tensors]
                return ir.AttrTensors(attribute.name, mapped, doc_string=attribute.doc_string)
        return None

    def _tensor(self, tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        name = f"{self.where}: external data of tensor {tensor.name!r}"
        location, dims = os.fspath(tensor.location), list(tensor.shape.numpy())
        content = self._content(tensor, location, name)
        if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise InputError(f"{name} is of type {tensor.dtype.name}, which can't be external")
        if any(entry < 0 for entry in dims):
            raise InputError(f"{name} has negative dims {dims}")
        size = _byte_size(tensor.dtype, dims)
        if tensor.length is not None and tensor.length != size:
            raise InputError(f"{name} has length {tensor.length}, and dims {dims} need {size} bytes")
        offset = tensor.offset or 0
        if offset < 0 or offset + size > len(content):
            raise InputError(
                f"{name} needs bytes {offset} to {offset + size} of {location!r}, which has {len(content)}; "
                "the file was cut short or belongs to another model"
            )
        return _mapped(tensor, content, offset, size)

    def _content(self, tensor: ir.ExternalTensor, location: str, name: str) -> mmap.mmap | bytes:
        if self.path is not None:
            key, folder = location, self.path.parent
        else:
            key, folder = os.fspath(tensor.path), Path(tensor.base_dir)
        if key not in self.found:
            _check_location(location, name)
            self.found[key] = folder / location, self._open(folder, location, name)
        return self.found[key][1]

    def _open(self, folder: Path, location: str, name: str) -> mmap.mmap | bytes:
        # A model that is itself a link, as in the cache of Hugging Face, may have its data beside its target.
        homes = [folder] if self.path is None else [folder, Path(os.path.realpath(self.path)).parent]
        path = folder / location
        try:
            status = path.stat()
            real = Path(os.path.realpath(path))
            if not any(real.is_relative_to(os.path.realpath(home)) for home in homes):
                raise InputError(
                    f"{name}: {location!r} is a link out of the model's folder; copy the file there"
                )
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{name}: {location!r} is not a regular file")
            if status.st_nlink > 1:
                raise InputError(
                    f"{name}: {location!r} has {status.st_nlink} hard links, so it may be a file of someone "
                    "else's (onnx refuses that too); copy it"
                )
            return _map_content(path)
        except FileNotFoundError as error:
            raise InputError(f"{name}: no file {location!r} beside the model; put it there") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: {location!r} can't be read: {_reason(error)}") from error


def _check_location(location: str, name: str) -> None:
    """Only a plain relative path, on any system: a model must not choose which files are read."""
    windows = PureWindowsPath(location)  # takes both kinds of slash
    if not location or "\0" in location:
        raise InputError(f"{name} names no file")
    if windows.drive or windows.root:
        raise InputError(f"{name} has the absolute path {location!r}; only files beside the model are read")
    if ".." in windows.parts:
        raise InputError(f"{name} leaves the model's folder by {location!r}; only files in it are read")


def _mapped(
    tensor: ir.TensorProtocol | None, content: mmap.mmap | bytes, offset: int, length: int
) -> ir.TensorProtocol:
    """The tensor with its data taken from the file's bytes, without reading them."""
    assert tensor is not None
    dims = tensor.shape.numpy()
    name, doc_string, metadata = tensor.name, tensor.doc_string or None, dict(tensor.metadata_props)
    if tensor.dtype.bitwidth < 8:
        packed = np.frombuffer(content, np.uint8, length, offset)
        return ir.PackedTensor(
            packed,
            tensor.dtype,
            shape=ir.Shape(dims),
            name=name,
            doc_string=doc_string,
            metadata_props=metadata,
        )
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    array = np.frombuffer(content, dtype, math.prod(dims), offset) if length else np.empty(0, dtype)
    mapped = _MappedTensor(
        array.reshape(dims), tensor.dtype, name=name, doc_string=doc_string, metadata_props=metadata
    )
    mapped.place = content, offset, offset + length
    return mapped


class _MappedTensor(ir.Tensor):  # type: ignore[type-arg]
    """A tensor over a mapped file, which is written without ever being in memory as a whole.

    Attributes:
        place: the file's bytes, and where in them the tensor starts and ends.
    """

    place: tuple[mmap.mmap | bytes, int, int]

    def tofile(self, file: Sink) -> None:
        """Write the data, and let go of the pages that this brought into memory."""
        content, start, end = self.place
        view = memoryview(content)
        for begin in range(start, end, _CHUNK):
            stop = min(begin + _CHUNK, end)
            file.write(view[begin:stop])
            if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                page = begin // mmap.PAGESIZE * mmap.PAGESIZE
                content.madvise(mmap.MADV_DONTNEED, page, stop - page)


# --- saving -------------------------------------------------------------------------------------------------


class Sink(Protocol):
    """What a model is written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""

    def tell(self) -> int:
        """The number of bytes so far."""


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


def data_path(path: PathLike) -> Path:
    """Where `save` puts external data: ``OUT.data`` beside OUT."""
    return Path(path).with_name(Path(path).name + ".data")


def check_output(path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Refuse an output path before any work is done.

    Args:
        path: where the model is to be written.
        inputs: files that neither it nor its external data may replace, such as `Source.files`.

    Raises:
        InputError: the path is one of the inputs, also through a link; it is a folder or no regular file; its
            folder does not exist or can't be written to; its ``.data`` is one of the inputs.
    """
    out = Path(path)
    where = _show(out)
    if out.is_dir() or os.fspath(path).endswith(os.sep) or not out.name:
        raise InputError(f"{where}: is a folder; name the file to write")
    if not out.parent.exists():
        raise InputError(f"{where}: the folder {_show(out.parent)} does not exist; create it first")
    if not out.parent.is_dir():
        raise InputError(f"{where}: {_show(out.parent)} is not a folder")
    if out.exists() and not out.is_file():
        raise InputError(f"{where}: exists and is not a regular file; name another")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"{where}: no permission to write to the folder {_show(out.parent)}")
    for given in map(Path, inputs):
        if _same(out, given):
            raise InputError(f"{where}: is the input {_show(given)}; name another output")
        if _same(data_path(out), given):
            raise InputError(f"{where}: its data would replace the input {_show(given)}; name another output")


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
    if external_data == "auto":
        external = bool(source is not None and source.data_files) or _weight_bytes(model) > INLINE_LIMIT
    else:
        external = external_data == "always"
    if external:
        _save_external(model, out)
        return
    if _weight_bytes(model) > INLINE_LIMIT:
        raise InputError(f"{_show(out)}: the weights don't fit in one file of 2 GiB; allow external data")
    with _staged(out) as (file,):
        _write_model(model, file)


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
            with _staged(out) as (file,):
                file.write(_serialized(source.given, "the model"))
        else:
            save(load(source.given).model if source.given is not None else source.model, out, source=source)
        return
    moved = [] if _same(out.parent, source.path.parent) else _data_to_copy(source, out)
    with ExitStack() as undo:
        for _, target in moved:
            _make_folders(target.parent, undo)
        with _staged(*(target for _, target in moved), out) as files:
            for (origin, _), file in zip([*moved, (source.path, out)], files, strict=True):
                with open(origin, "rb") as data:
                    shutil.copyfileobj(data, file, _CHUNK)
        undo.pop_all()


def _data_to_copy(source: Source, out: Path) -> list[tuple[Path, Path]]:
    """Which data files to copy, and where to."""
    assert source.path is not None
    moved = []
    for location in source.data_files:
        origin, target = source.path.parent / location, out.parent / location
        if target == out:
            raise InputError(f"{_show(out)}: is the name of the model's external data; name another output")
        if not target.exists():
            moved.append((origin, target))
        elif not _same_content(origin, target):
            raise InputError(
                f"{_show(target)}: is in the way of the model's external data; write to another folder"
            )
    return moved


def _same_content(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as a, open(other, "rb") as b:
        while chunk := a.read(1 << 20):
            if chunk != b.read(1 << 20):
                return False
    return True


def _make_folders(folder: Path, undo: ExitStack) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir()
        except OSError as error:
            raise InputError(f"{_show(new)}: can't be created: {_reason(error)}") from error
        undo.callback(new.rmdir)


def _weight_bytes(model: ir.Model) -> int:
    """Bytes of the initializers: what can go to an external file."""
    values = (value for graph in _graphs(model) for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _save_external(model: ir.Model, out: Path) -> None:
    values = [
        value
        for graph in _graphs(model)
        for value in graph.initializers.values()
        if _is_large(value, EXTERNAL_FROM)
    ]
    if not values:  # nothing to put there
        with _staged(out) as (file,):
            _write_model(model, file)
        return
    data = data_path(out)
    if data.is_dir():
        raise InputError(f"{_show(data)}: is a folder, and the weights go to a file of that name; remove it")
    with _staged(data, out) as (data_file, file):
        stand_ins = {}
        for value in values:
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes >= _PAGE:
                data_file.write(bytes(-data_file.tell() % _PAGE))
            offset = data_file.tell()
            _write_data(tensor, data_file)
            stand_ins[value] = _reference(value, data.name, offset)
        _write_model(model, file, stand_ins)


def _is_large(value: ir.Value, limit: int) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype is not ir.DataType.STRING and tensor.nbytes >= limit


def _reference(value: ir.Value, location: str, offset: int) -> ir.ExternalTensor:
    tensor = value.const_value
    assert tensor is not None
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name or "",
        doc_string=tensor.doc_string or None,
        metadata_props=dict(tensor.metadata_props),
    )


def _write_data(tensor: ir.TensorProtocol, file: Sink) -> None:
    start = file.tell()
    write = getattr(tensor, "tofile", None)  # without a copy; the protocol doesn't ask for it
    if write is not None:
        write(file)
    else:
        file.write(tensor.tobytes())
    written = file.tell() - start
    if written != tensor.nbytes:  # the lengths in the file are made of nbytes
        raise GraphOptError(f"tensor {tensor.name!r} wrote {written} bytes instead of {tensor.nbytes}")


def _write_model(
    model: ir.Model, file: Sink, external: Mapping[ir.Value, ir.ExternalTensor] | None = None
) -> None:
    """Write the model, its large initializers straight from their arrays, without a copy in protobuf form.

    Args:
        model: the model; the same after the call as before.
        file: where to write.
        external: stand-ins for the initializers that are in an external file.
    """
    external = external or {}
    payloads = {
        value: value.const_value
        for value in model.graph.initializers.values()
        if value not in external and _is_payload(value) and value.const_value is not None
    }
    stand_ins = {**{value: _reference(value, "", 0) for value in payloads}, **external}
    proto = _to_proto(model, stand_ins)
    by_name = {value.name or "": tensor for value, tensor in payloads.items()}
    _write_proto(proto, by_name, file)


def _is_payload(value: ir.Value) -> bool:
    """Whether to write an initializer's data apart; if external, always, lest a reference dangles."""
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        return True
    typed = isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data")
    return not typed and _is_large(value, MAPPED_FROM)


def _to_proto(model: ir.Model, stand_ins: Mapping[ir.Value, ir.ExternalTensor]) -> onnx.ModelProto:
    held = [
        (value, value.const_value, value.type, value.shape)
        for graph in _graphs(model)
        for value in graph.initializers.values()
    ]
    try:
        for value, tensor, _, _ in held:
            if _is_implied(value):
                value.type = value.shape = None
            value.const_value = stand_ins.get(value, tensor)
        with _quiet():
            return ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise InputError(f"the model can't be saved: {_reason(_root(error))}") from error
    finally:
        for value, tensor, type_, shape in held:
            value.const_value, value.type, value.shape = tensor, type_, shape


def _is_implied(value: ir.Value) -> bool:
    """Whether value_info would only repeat an initializer's own type and dims.

    `onnx_ir` writes one for each initializer, so that files would grow.
    """
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or value.is_graph_output() or value.meta.get(_DECLARED):
        return False
    return value.type == ir.TensorType(tensor.dtype) and value.shape == tensor.shape


# --- the wire format ----------------------------------------------------------------------------------------
#
# Protobuf has no way to leave a field in the file, or to write one from an array, so a model of n bytes takes
# 2 n to read and 3 n to write. Its wire format is simple, though: a sequence of fields, each a tag (number
# and kind), for messages and bytes a length, and the content. What is read and written here field by field is
# what protobuf itself would read and write, byte for byte; anything unusual is left to protobuf to read.

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_GRAPH_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_TENSOR_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def _fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, start of the tag, start and end of the content.

    Raises:
        ValueError: the bytes are no message.
    """
    position = start
    while position < end:
        tag_start = position
        tag, position = _read_varint(data, position, end)
        kind = tag & 7
        content = position
        if kind == _BYTES:
            length, content = _read_varint(data, position, end)
            position = content + length
        elif kind == _VARINT:
            _, position = _read_varint(data, position, end)
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("unknown kind of field")
        if position > end:
            raise ValueError("cut short")
        yield tag >> 3, tag_start, content, position


def _read_varint(data: mmap.mmap | bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= end or shift > 63:
            raise ValueError("cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _prefix(number: int, length: int) -> bytes:
    """What stands before a message or bytes of that length."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def _split(data: mmap.mmap | bytes) -> tuple[bytes, list[tuple[int, int] | None]]:
    """The model's bytes without large `raw_data`, and the offset and length of that, by initializer.

    Raises:
        ValueError: the bytes are no model as protobuf writes it.
    """
    fields = list(_fields(data, 0, len(data)))
    if [number for number, *_ in fields].count(_MODEL_GRAPH) != 1:
        raise ValueError("protobuf merges several graphs into one")
    payloads: list[tuple[int, int] | None] = []
    parts = []
    for number, tag, start, end in fields:
        if number != _MODEL_GRAPH:
            parts.append(data[tag:end])
            continue
        graph = b"".join(_slim_graph(data, start, end, payloads))
        parts += [_prefix(number, len(graph)), graph]
    return b"".join(parts), payloads


def _slim_graph(
    data: mmap.mmap | bytes, start: int, end: int, payloads: list[tuple[int, int] | None]
) -> Iterator[bytes]:
    kept = start  # of what is taken over as it is, one slice does for many fields
    for number, tag, content, stop in _fields(data, start, end):
        if number != _GRAPH_INITIALIZER:
            continue
        payload = None
        if stop - content >= MAPPED_FROM:
            raw = [field for field in _fields(data, content, stop) if field[0] == _TENSOR_RAW_DATA]
            if len(raw) == 1 and raw[0][3] - raw[0][2] >= MAPPED_FROM:
                _, raw_tag, raw_start, raw_end = raw[0]
                payload = raw_start, raw_end - raw_start
                tensor = data[content:raw_tag] + data[raw_end:stop]
                yield data[kept:tag] + _prefix(number, len(tensor)) + tensor
                kept = stop
        payloads.append(payload)
    yield data[kept:end]


def _write_proto(proto: onnx.ModelProto, payloads: Mapping[str, ir.TensorProtocol], file: Sink) -> None:
    """Write the bytes that protobuf would, had the initializers of those names their data in `raw_data`."""
    initializers: list[tuple[bytes, ir.TensorProtocol | None, bytes]] = []
    for tensor in proto.graph.initializer:
        payload = payloads.get(tensor.name)
        if payload is None:
            initializers.append((tensor.SerializeToString(deterministic=True), None, b""))
            continue
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        before, after = _cut(tensor.SerializeToString(deterministic=True), _TENSOR_RAW_DATA)
        initializers.append((before + _prefix(_TENSOR_RAW_DATA, payload.nbytes), payload, after))
    del proto.graph.initializer[:]
    graph_before, graph_after = _cut(_serialized(proto.graph, "the model"), _GRAPH_INITIALIZER)
    proto.ClearField("graph")
    model_before, model_after = _cut(proto.SerializeToString(deterministic=True), _MODEL_GRAPH)

    sizes = [
        len(before) + (payload.nbytes if payload is not None else 0) + len(after)
        for before, payload, after in initializers
    ]
    prefixes = [_prefix(_GRAPH_INITIALIZER, size) for size in sizes]
    length = len(graph_before) + len(graph_after) + sum(sizes) + sum(map(len, prefixes))
    if len(model_before) + length + len(model_after) + 8 > FILE_LIMIT:
        raise InputError("the model doesn't fit in one file of 2 GiB; allow external data")
    file.write(model_before + _prefix(_MODEL_GRAPH, length) + graph_before)
    for prefix, (before, payload, after) in zip(prefixes, initializers, strict=True):
        file.write(prefix + before)
        if payload is not None:
            _write_data(payload, file)
        file.write(after)
    file.write(graph_after + model_after)


def _cut(data: bytes, number: int) -> tuple[bytes, bytes]:
    """A message in two, where a field of that number belongs: protobuf writes them in ascending order."""
    place = next((tag for field, tag, *_ in _fields(data, 0, len(data)) if field > number), len(data))
    return data[:place], data[place:]


def _serialized(proto: onnx.ModelProto | onnx.GraphProto, where: str) -> bytes:
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise InputError(f"{where}: protobuf can't write it: {_reason(error)}") from error
    return data


# --- files --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _staged(*targets: Path) -> Iterator[list[BinaryIO]]:
    """Temporary files that take the place of the targets, in this order, or on any exception are removed.

    Raises:
        InputError: a file can't be written.
    """
    staged: list[Path] = []
    try:
        with ExitStack() as stack:
            files: list[BinaryIO] = []
            for target in targets:
                staged.append(_beside(target))
                files.append(stack.enter_context(open(staged[-1], "xb", buffering=1 << 18)))
            yield files
        _move(list(zip(staged, targets, strict=True)))
    except OSError as error:
        raise InputError(f"{_show(targets[-1])}: can't be written: {_reason(error)}") from error
    finally:
        for path in staged:
            path.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    """A name in the target's folder that nothing else has: a rename within a folder is atomic."""
    return target.with_name(f".graphopt-{secrets.token_hex(8)}.tmp")


def _move(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename all or none: on any exception, what the targets were before is put back."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for origin, target in moves:
            backup = None
            if os.path.lexists(target):
                if target.is_file():
                    shutil.copymode(target, origin)
                backup = _beside(target)
                _keep(target, backup)
            done.append((target, backup))
            os.replace(origin, target)
    except BaseException:
        for target, backup in reversed(done):
            if backup is not None:
                os.replace(backup, target)
                backup.unlink(missing_ok=True)  # renaming a file to another of its names does nothing
            else:
                target.unlink(missing_ok=True)
        raise
    for _, backup in done:
        if backup is not None:
            backup.unlink(missing_ok=True)


def _keep(path: Path, backup: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(path, backup, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, backup, follow_symlinks=False)


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also through symbolic or hard links."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does; () when it is gone."""
    try:
        return _stamp_of(path.stat())
    except OSError:
        return ()


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _size(stamp: tuple[int, ...]) -> int:
    return stamp[0] if stamp else 0


def _show(path: Path) -> str:
    return printable(str(path))


def _root(error: BaseException) -> BaseException:
    """Where it began; `onnx_ir` wraps errors, and at times fails in doing so."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """An exception in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join((text or type(error).__name__).split())
    return line if len(line) <= 200 else line[:199] + "…"
