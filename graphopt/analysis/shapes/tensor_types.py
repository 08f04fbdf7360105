"""Types of tensors as onnx's shape inference takes and gives them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.types import Dim, Dims, Shape

# --- types ---


@functools.lru_cache(maxsize=4096)
def tensor_type(element: int, shape: Dims | None) -> onnx.TypeProto:
    """A tensor type, of sizes and names; shared, so not to be changed."""
    return onnx.helper.make_tensor_type_proto(element, shape)


def tensor_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a tensor, all of whose sizes are known."""
    return tuple(tensor.shape.numpy())


def tensor_proto(array: npt.NDArray[Any]) -> onnx.TensorProto:
    """The array as onnx takes it; a tenth of the time of onnx's own helper."""
    element = ir.DataType.from_numpy(array.dtype).value
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return onnx.TensorProto(data_type=element, dims=array.shape, raw_data=little.tobytes())


def shape_of(type_: onnx.TypeProto) -> Shape | None:
    """The shape in a tensor type; None where it has none, and for other types.

    A size below 0, which onnx's rules give to what does not run, is unknown.
    """
    if not type_.tensor_type.HasField("shape"):
        return None
    dims = type_.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims)


def dims_of(type_: onnx.TypeProto | None) -> Dims | None:
    """The shape in a tensor type, with the names of sizes that have one."""
    shape = None if type_ is None else shape_of(type_)
    if type_ is None or shape is None:
        return None
    names = [dim.dim_param or None for dim in type_.tensor_type.shape.dim]
    return named(shape, names)


def named(shape: Shape, names: Sequence[Dim]) -> Dims:
    """A shape whose unknown sizes have names, where another of the same rank has them."""
    if len(names) != len(shape):
        return shape
    pairs = zip(shape, names, strict=True)
    return tuple(name if size is None and isinstance(name, str) else size for size, name in pairs)


def completed(shape: Shape | None, other: Shape | None) -> Shape | None:
    """A shape, its unknown sizes taken from another of the same rank; that one where there is none."""
    if shape is None or other is None or len(other) != len(shape):
        return other if shape is None else shape
    return tuple(theirs if ours is None else ours for ours, theirs in zip(shape, other, strict=True))


def contradict(a: Shape, b: Shape) -> bool:
    """Whether two shapes can't be of one value."""
    pairs = zip(a, b, strict=False)
    return len(a) != len(b) or any(None not in pair and pair[0] != pair[1] for pair in pairs)


def merged(a: onnx.TypeProto | None, b: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """What two types have in common."""
    if a is None or b is None or a == b:
        return a if a == b else None
    if not a.HasField("tensor_type") or not b.HasField("tensor_type"):
        return None
    ours, theirs = dims_of(a), dims_of(b)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return without_shape(a)
    common = tuple(x if x == y else None for x, y in zip(ours, theirs, strict=True))
    return tensor_type(a.tensor_type.elem_type, common)


def without_shape(type_: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """The type of a tensor of any shape with the same elements."""
    if type_ is None or not type_.HasField("tensor_type"):
        return type_
    return tensor_type(type_.tensor_type.elem_type, None)


def stacked(type_: onnx.TypeProto, axis: int, length: Dim) -> onnx.TypeProto:
    """The type of `length` such tensors, joined along a new axis.

    Args:
        type_: of each tensor.
        axis: where the new axis goes; negative counts from the end.
        length: its size, by number or by name; None where unknown.

    Returns:
        The type; that given where its rank is unknown.
    """
    shape = dims_of(type_)
    if shape is None:
        return type_
    at = axis if axis >= 0 else axis + len(shape) + 1
    return tensor_type(type_.tensor_type.elem_type, (*shape[:at], length, *shape[at:]))


def sliced(type_: onnx.TypeProto | None, axis: int) -> tuple[onnx.TypeProto | None, Dim]:
    """The type of one slice of a tensor along an axis, and the number of slices, or its name."""
    shape = dims_of(type_)
    if type_ is None or not shape:
        return without_shape(type_), None
    at = axis % len(shape)
    return tensor_type(type_.tensor_type.elem_type, (*shape[:at], *shape[at + 1 :])), shape[at]
