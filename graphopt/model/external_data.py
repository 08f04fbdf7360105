"""Weights outside of the protobuf form: arrays over mapped files, and the external data of the ONNX standard.

A model must not choose which files are read, so that external data is only taken from the model's own folder.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

import numpy as np
import onnx_ir as ir

from graphopt.errors import InputError
from graphopt.files import CHUNK, Content, Stamp, map_file, reason, stamp_of
from graphopt.model import wire_format
from graphopt.model.carried import SparseTensor

EXTERNAL_FROM = 1024
"""Bytes from which a weight goes to the external file; as in `onnx.save`. The small ones may be shapes."""
_PAGE = 4096
"""Larger tensors start on a page in the external file, as the ONNX standard advises for memory mapping."""


# --- reading ------------------------------------------------------------------------------------------------


class DataFiles:
    """The external data of one model: checks each reference, and maps each file once.

    Args:
        where: what to call the model in a message.
        path: the model's file; None when it was given in memory and its tensors know their folders.
    """

    def __init__(self, where: str, path: Path | None = None) -> None:
        self.where = where
        self.path = path
        self._found: dict[str, tuple[Path, Content]] = {}

    @property
    def locations(self) -> tuple[str, ...]:
        """The files as the model spells them, joined to the tensor's own folder when it has one."""
        return tuple(self._found)

    @property
    def stamps(self) -> dict[Path, Stamp]:
        """The files as they are now."""
        return {path: stamp_of(path) for path, _ in self._found.values()}

    def tensor(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """An external tensor as one over its mapped file; any other as it is.

        Raises:
            InputError: the file can't be read, may not be read, or does not hold the tensor.
        """
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        name = f"{self.where}: external data of tensor {tensor.name!r}"
        location, dims = os.fspath(tensor.location), list(tensor.shape.numpy())
        content = self._content(tensor, location, name)
        if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise InputError(f"{name} is of type {tensor.dtype.name}, which can't be external")
        if any(entry < 0 for entry in dims):
            raise InputError(f"{name} has negative dims {dims}")
        size = wire_format.byte_size(tensor.dtype, dims)
        if tensor.length is not None and tensor.length != size:
            raise InputError(f"{name} has length {tensor.length}, and dims {dims} need {size} bytes")
        offset = tensor.offset or 0
        if offset < 0 or offset + size > len(content):
            raise InputError(
                f"{name} needs bytes {offset} to {offset + size} of {location!r}, which has {len(content)}; "
                "the file was cut short or belongs to another model"
            )
        return mapped(tensor, content, offset)

    def _content(self, tensor: ir.ExternalTensor, location: str, name: str) -> Content:
        if self.path is not None:
            key, folder = location, self.path.parent
        else:
            key, folder = os.fspath(tensor.path), Path(tensor.base_dir)
        if key not in self._found:
            _check_location(location, name)
            self._found[key] = folder / location, self._open(folder, location, name)
        return self._found[key][1]

    def _open(self, folder: Path, location: str, name: str) -> Content:
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
            return map_file(path)
        except FileNotFoundError as error:
            raise InputError(f"{name}: no file {location!r} beside the model; put it there") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: {location!r} can't be read: {reason(error)}") from error


def _check_location(location: str, name: str) -> None:
    """Only a plain relative path, on any system."""
    windows = PureWindowsPath(location)  # takes both kinds of slash
    if not location or "\0" in location:
        raise InputError(f"{name} names no file")
    if windows.drive or windows.root:
        raise InputError(f"{name} has the absolute path {location!r}; only files beside the model are read")
    if ".." in windows.parts:
        raise InputError(f"{name} leaves the model's folder by {location!r}; only files in it are read")


def mapped(tensor: ir.TensorProtocol, content: Content, offset: int) -> ir.TensorProtocol:
    """The tensor with its data taken from a file's bytes, without reading them.

    Args:
        tensor: gives type, dims and name.
        content: bytes of the file.
        offset: where the data begins, in bytes.

    Returns:
        A tensor that reads the bytes when it is asked for them.
    """
    dims = tensor.shape.numpy()
    length = wire_format.byte_size(tensor.dtype, dims)
    name, doc_string, metadata = tensor.name, tensor.doc_string or None, dict(tensor.metadata_props)
    if tensor.dtype.bitwidth < 8:
        return ir.PackedTensor(
            np.frombuffer(content, np.uint8, length, offset),
            tensor.dtype,
            shape=ir.Shape(dims),
            name=name,
            doc_string=doc_string,
            metadata_props=metadata,
        )
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    array = np.frombuffer(content, dtype, math.prod(dims), offset) if length else np.empty(0, dtype)
    made = _MappedTensor(
        array.reshape(dims), tensor.dtype, name=name, doc_string=doc_string, metadata_props=metadata
    )
    made.place = content, offset, offset + length
    return made


class _MappedTensor(ir.Tensor):  # type: ignore[type-arg]
    """A tensor over a mapped file, which is written without ever being in memory as a whole.

    Attributes:
        place: the file's bytes, and where in them the tensor starts and ends.
    """

    place: tuple[Content, int, int]

    def tofile(self, file: wire_format.Sink) -> None:
        """Write the data, and let go of the pages that this brought into memory."""
        content, start, end = self.place
        view = memoryview(content)
        for begin in range(start, end, CHUNK):
            stop = min(begin + CHUNK, end)
            file.write(view[begin:stop])
            if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                page = begin // mmap.PAGESIZE * mmap.PAGESIZE
                content.madvise(mmap.MADV_DONTNEED, page, stop - page)


# --- writing ------------------------------------------------------------------------------------------------


def is_large(value: ir.Value, limit: int) -> bool:
    """Whether an initializer has that many bytes of data, and these are of a kind to be written apart."""
    tensor = value.const_value
    if tensor is None or tensor.dtype is ir.DataType.STRING or isinstance(tensor, SparseTensor):
        return False
    return tensor.nbytes >= limit


def write(
    values: Iterable[ir.Value], file: wire_format.Sink, location: str
) -> dict[ir.Value, ir.ExternalTensor]:
    """Write the data of initializers to an external file, and return the references to it.

    Args:
        values: the initializers.
        file: where to write.
        location: its name beside the model.

    Returns:
        For each initializer the tensor that refers to the file.
    """
    references = {}
    for value in values:
        tensor = value.const_value
        assert tensor is not None
        if tensor.nbytes >= _PAGE:
            file.write(bytes(-file.tell() % _PAGE))
        references[value] = reference(value, location, file.tell())
        wire_format.write_data(tensor, file)
    return references


def reference(value: ir.Value, location: str = "", offset: int = 0) -> ir.ExternalTensor:
    """A stand-in for an initializer's tensor whose data is written elsewhere.

    Args:
        value: the initializer.
        location: name of the file beside the model.
        offset: where the data begins there, in bytes.

    Returns:
        The stand-in, of the same type, shape and name.
    """
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
