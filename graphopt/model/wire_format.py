"""The protobuf wire format, read and written by hand for one purpose: that weights are mapped, not copied.

The protobuf library can't leave a field in the file, nor write one from an array: it copies all weights when
it parses a model, and again when it serialises one. Measured on a model of 102 MB, that takes 465 MB of
memory at the peak, and 150 ms to load. Here the weights stay in the file, as arrays over a memory map, and go
from there to the next file: 96 MB at the peak, and 12 ms.

Only the way to the `raw_data` of the main graph's initializers is known here. `read` cuts out the large ones
and lets the library parse the rest; `write` lets the library serialise the rest and puts them in. Everything
else goes through the library, and so does a whole file with anything unusual on that way.

The format (https://protobuf.dev/programming-guides/encoding) is a sequence of fields, each a tag (number and
kind) and its content, which for messages and bytes has its length in front. What is relied on:

- The library writes the fields of a message in ascending order of their numbers, the same in every process
  (``deterministic=True``). So what `write` puts in goes where the library would have written it, and the file
  is the same byte for byte. A reader takes any order; with another one only the bytes would differ.
- A field that occurs twice is merged, or the last one counts. Such files are the unusual ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeAlias

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from graphopt.errors import GraphOptError, InputError
from graphopt.files import Content, reason

FILE_LIMIT = 2**31 - 1
"""Bytes that a protobuf file may have."""
MAPPED_FROM = 4096
"""Bytes from which an initializer is neither read nor held in the protobuf form."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""The wire types of protobuf."""
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


class Sink(Protocol):
    """What a model is written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""

    def tell(self) -> int:
        """The number of bytes so far."""


# --- reading ------------------------------------------------------------------------------------------------


def read(content: Content, where: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A model without the data of its large initializers.

    Args:
        content: the file.
        where: what to call it in a message.

    Returns:
        The model, and where in the file the data that it lacks begins, by initializer of the main graph.

    Raises:
        InputError: the file is no ONNX model.
    """
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
    offsets = {}
    for tensor, payload in zip(proto.graph.initializer, payloads, strict=False):
        if payload is None:
            continue
        if _is_plain(tensor, payload.end - payload.start):
            offsets[tensor.name] = payload.start
        else:  # of an odd type or size: as if it had never been cut out
            tensor.raw_data = content[payload.start : payload.end]
    return proto, offsets


def _guess(head: bytes) -> str:
    """What a file that is no ONNX model probably is."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`"
    if head.startswith(b"PK\x03\x04"):
        return "is a zip archive (perhaps a PyTorch checkpoint), not an ONNX model; export it to ONNX"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is a text file, not a binary ONNX model"
    return "is not an ONNX model, or was cut short or damaged; export or download it again"


def _is_plain(tensor: onnx.TensorProto, length: int) -> bool:
    """Whether the tensor can be an array over `raw_data` of that length."""
    if tensor.HasField("segment") or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return False
    whole = dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING) and dtype.bitwidth % 8 == 0
    return whole and all(size >= 0 for size in tensor.dims) and length == byte_size(dtype, tensor.dims)


def byte_size(dtype: ir.DataType, dims: Iterable[int]) -> int:
    """The bytes of a tensor; elements of less than a byte are packed."""
    return -(-math.prod(dims) * dtype.bitwidth // 8)


class _Field(NamedTuple):
    """A field of a message, by its place: where its tag begins, and from where to where its content goes."""

    number: int
    tag: int
    start: int
    end: int


def _split(data: Content) -> tuple[bytes, list[_Field | None]]:
    """The model's bytes without large `raw_data`, and where that is, by initializer.

    Raises:
        ValueError: the bytes are no model as protobuf writes it.
    """
    fields = list(_fields(data, 0, len(data)))
    if [field.number for field in fields].count(_GRAPH) != 1:
        raise ValueError("protobuf merges several graphs into one")
    payloads: list[_Field | None] = []
    parts = []
    for field in fields:
        if field.number == _GRAPH:
            graph = b"".join(_slim_graph(data, field, payloads))
            parts += [_prefix(_GRAPH, len(graph)), graph]
        else:
            parts.append(data[field.tag : field.end])
    return b"".join(parts), payloads


def _slim_graph(data: Content, graph: _Field, payloads: list[_Field | None]) -> Iterator[bytes]:
    kept = graph.start  # of what is taken over as it is, one slice does for many fields
    for field in _fields(data, graph.start, graph.end):
        if field.number != _INITIALIZER:
            continue
        payload = _payload(data, field)
        payloads.append(payload)
        if payload is not None:
            tensor = data[field.start : payload.tag] + data[payload.end : field.end]
            yield data[kept : field.tag] + _prefix(_INITIALIZER, len(tensor)) + tensor
            kept = field.end
    yield data[kept : graph.end]


def _payload(data: Content, tensor: _Field) -> _Field | None:
    """The `raw_data` of a tensor; None when it is small, or there is not just one."""
    if tensor.end - tensor.start < MAPPED_FROM:
        return None
    found = [field for field in _fields(data, tensor.start, tensor.end) if field.number == _RAW_DATA]
    return found[0] if len(found) == 1 and found[0].end - found[0].start >= MAPPED_FROM else None


def _fields(data: Content, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message.

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
        yield _Field(tag >> 3, tag_start, content, position)


def _read_varint(data: Content, position: int, end: int) -> tuple[int, int]:
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


# --- writing ------------------------------------------------------------------------------------------------

_Part: TypeAlias = "bytes | ir.TensorProtocol"
"""Bytes of a message: as they are, or those of a tensor."""


def write(proto: onnx.ModelProto, payloads: Mapping[str, ir.TensorProtocol], file: Sink) -> None:
    """Write the bytes that protobuf would, had the initializers of those names their data in `raw_data`.

    Args:
        proto: the model, which is used up.
        payloads: by initializer of the main graph, its data; what the model has instead is a reference.
        file: where to write.

    Raises:
        InputError: the model is over `FILE_LIMIT`.
    """
    initializers: list[_Part] = []
    for tensor in proto.graph.initializer:
        payload = payloads.get(tensor.name)
        if payload is None:
            parts: list[_Part] = [serialized(tensor)]
        else:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            parts = _insert(_field(_RAW_DATA, [payload]), _RAW_DATA, serialized(tensor))
        initializers += _field(_INITIALIZER, parts)
    del proto.graph.initializer[:]
    graph = _insert(initializers, _INITIALIZER, serialized(proto.graph))
    proto.ClearField("graph")
    model = _insert(_field(_GRAPH, graph), _GRAPH, serialized(proto))
    if _size(model) > FILE_LIMIT:
        raise InputError("the model doesn't fit in one file of 2 GiB; allow external data")
    for part in model:
        if isinstance(part, bytes):
            file.write(part)
        else:
            write_data(part, file)


def serialized(proto: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto) -> bytes:
    """The message's bytes as the library writes them, the same in every process."""
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise InputError(f"the model: protobuf can't write it: {reason(error)}") from error
    return data


def write_data(tensor: ir.TensorProtocol, file: Sink) -> None:
    """Write a tensor's `nbytes` bytes."""
    start = file.tell()
    write = getattr(tensor, "tofile", None)  # without a copy; the protocol doesn't ask for it
    if write is not None:
        write(file)
    else:
        file.write(tensor.tobytes())
    written = file.tell() - start
    if written != tensor.nbytes:  # the lengths in the file are made of nbytes
        raise GraphOptError(f"tensor {tensor.name!r} wrote {written} bytes instead of {tensor.nbytes}")


def _insert(parts: list[_Part], number: int, message: bytes) -> list[_Part]:
    """The message with parts where a field of that number belongs."""
    later = (field.tag for field in _fields(message, 0, len(message)) if field.number > number)
    place = next(later, len(message))
    return [message[:place], *parts, message[place:]]


def _field(number: int, parts: list[_Part]) -> list[_Part]:
    """The parts as the content of a field."""
    return [_prefix(number, _size(parts)), *parts]


def _size(parts: list[_Part]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)


def _prefix(number: int, length: int) -> bytes:
    """What stands before a message or bytes of that length."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
