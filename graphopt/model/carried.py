"""What `onnx_ir` has no form for, carried beside its values: sparse tensors, and the types of maps.

A sparse tensor is an ordinary one in memory, made dense when something reads it; a map has no type there.
`put_aside` takes both out of the protobuf form before `onnx_ir` reads it, `restore` notes them on what it
made, and `put_back` writes what is still there as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto

from graphopt.model.traversal import subgraphs

_TYPE = "graphopt.type"
"""In `Value.meta`: the type in protobuf form, where `onnx_ir` has none for it."""
SPARSE_VALUE = "sparse_value"
"""The attribute of a Constant that holds a sparse tensor."""
_DENSE_VALUE = "value"

_Pair: TypeAlias = "tuple[GraphProto | onnx.FunctionProto, ir.Graph]"


class SparseTensor(ir.LazyTensor):
    """A tensor that the file holds as its elements other than 0; as an array it is dense.

    Args:
        proto: the tensor in its protobuf form.
    """

    def __init__(self, proto: SparseTensorProto) -> None:
        kind, shape = ir.DataType(proto.values.data_type), ir.Shape(list(proto.dims))
        super().__init__(self._dense, kind, shape, cache=True, name=proto.values.name)
        self.proto = proto

    def _dense(self) -> ir.TensorProtocol:
        return ir.tensor(dense(self.proto), dtype=self.dtype)

    @property
    def stored(self) -> int:
        """The bytes of the elements and their places, as they are in the file."""
        return sum(
            part.nbytes for part in map(ir.serde.deserialize_tensor, (self.proto.values, self.proto.indices))
        )


def stored_bytes(tensor: ir.TensorProtocol) -> int:
    """The bytes that a tensor takes in a file."""
    return tensor.stored if isinstance(tensor, SparseTensor) else tensor.nbytes


def dense(proto: SparseTensorProto) -> npt.NDArray[Any]:
    """A sparse tensor as an array."""
    dims = tuple(proto.dims)
    values, places = _parts(proto)
    made = np.zeros(dims, values.dtype)
    made[np.unravel_index(places, dims) if places.ndim == 1 else tuple(places.T)] = values
    return made


def check(proto: SparseTensorProto) -> None:
    """Looks whether values, places and dims of a sparse tensor fit each other.

    Raises:
        ValueError: they do not.
    """
    dims = tuple(proto.dims)
    values, places = _parts(proto)
    if min(dims, default=0) < 0:
        raise ValueError(f"its dims are {list(dims)}")
    forms = (values.size,), (values.size, len(dims))
    if values.ndim != 1 or places.dtype != np.int64 or places.shape not in forms:
        raise ValueError(f"values {list(values.shape)} at places {list(places.shape)} of {places.dtype}")
    limits = elements(proto) if places.ndim == 1 else np.array(dims, np.int64)
    if not np.all((places >= 0) & (places < limits)):
        raise ValueError(f"it has places outside of dims {list(dims)}")


def _parts(proto: SparseTensorProto) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The values, and their places."""
    return onnx.numpy_helper.to_array(proto.values), onnx.numpy_helper.to_array(proto.indices)


def elements(proto: SparseTensorProto) -> int:
    """How many elements a sparse tensor has, those of 0 included."""
    return math.prod(proto.dims)


def is_map(type_: TypeProto) -> bool:
    """Whether a type is that of a map, or of a sequence of some: none that `onnx_ir` has."""
    kind = type_.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return is_map(getattr(type_, kind).elem_type)
    return kind in ("map_type", "opaque_type")


def put_aside(proto: ModelProto) -> ModelProto:
    """The model as `onnx_ir` reads it: the same one where it holds nothing else, else a copy.

    A sparse tensor is a dense one without data there, and what has a map's type has none.
    """
    bodies = (proto.graph, *proto.functions)
    if not any(_holds(graph) for body in bodies for graph in _nested(body)):
        return proto
    copy = ModelProto()
    copy.CopyFrom(proto)
    for body in (copy.graph, *copy.functions):
        for graph in _nested(body):
            _strip(graph)
    return copy


def restore(proto: ModelProto, model: ir.Model) -> None:
    """Notes on a model what was put aside of its protobuf form.

    Args:
        proto: the model as it was given.
        model: what `onnx_ir` made of what was left; it is changed.
    """
    for graph, made in _pairs(proto, model):
        for sparse in getattr(graph, "sparse_initializer", ()):
            made.initializers[sparse.values.name].const_value = SparseTensor(sparse)
        for node, own in zip(graph.node, made, strict=True):
            for attribute in _sparse_attributes(node):
                tensor = SparseTensor(attribute.sparse_tensor)
                own.attributes.pop(SPARSE_VALUE, None)
                own.attributes[_DENSE_VALUE] = ir.AttrTensor(_DENSE_VALUE, tensor)
        values = _values(made)
        for info in _infos(graph):
            if is_map(info.type) and info.name in values:
                values[info.name].meta[_TYPE] = info.type.SerializeToString(deterministic=True)


def put_back(proto: ModelProto, model: ir.Model, *, sparse: bool = True) -> None:
    """Writes into a protobuf form what `onnx_ir` left out of it.

    Args:
        proto: what `onnx_ir` made of the model; it is changed.
        model: the model.
        sparse: whether sparse tensors, which are dense there, become sparse again.
    """
    for graph, own in _pairs(proto, model):
        if sparse:
            _put_sparse_back(graph, own)
        if isinstance(graph, GraphProto):
            _put_types_back(graph, own)


def _put_sparse_back(graph: GraphProto | onnx.FunctionProto, own: ir.Graph) -> None:
    held = {n: v.const_value for n, v in own.initializers.items() if isinstance(v.const_value, SparseTensor)}
    if held and isinstance(graph, GraphProto):
        others = [tensor for tensor in graph.initializer if tensor.name not in held]
        del graph.initializer[:]
        graph.initializer.extend(others)
        for name, tensor in held.items():
            graph.sparse_initializer.add().CopyFrom(tensor.proto)
            graph.sparse_initializer[-1].values.name = name
    for node, made in zip(graph.node, own, strict=True):
        attribute = made.attributes.get(_DENSE_VALUE) if made.op_type == "Constant" else None
        if attribute is None or not isinstance(attribute.value, SparseTensor):
            continue
        (written,) = (each for each in node.attribute if each.name == _DENSE_VALUE)
        written.ClearField("t")
        written.name, written.type = SPARSE_VALUE, AttributeProto.SPARSE_TENSOR
        written.sparse_tensor.CopyFrom(attribute.value.proto)


def _put_types_back(graph: GraphProto, own: ir.Graph) -> None:
    types = {n: TypeProto.FromString(v.meta[_TYPE]) for n, v in _values(own).items() if _TYPE in v.meta}
    for info in _infos(graph):
        if info.name in types:
            info.type.CopyFrom(types.pop(info.name))
    graph.value_info.extend(onnx.ValueInfoProto(name=name, type=type_) for name, type_ in types.items())


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values that a graph defines, by name."""
    made = (value for node in graph for value in node.outputs)
    return {value.name: value for value in (*graph.inputs, *made) if value.name}


def _infos(graph: GraphProto | onnx.FunctionProto) -> list[onnx.ValueInfoProto]:
    ends = (*graph.input, *graph.output) if isinstance(graph, GraphProto) else ()
    return [*ends, *graph.value_info]


def _sparse_attributes(node: NodeProto) -> Iterator[AttributeProto]:
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        yield from (each for each in node.attribute if each.type == AttributeProto.SPARSE_TENSOR)


def _holds(graph: GraphProto | onnx.FunctionProto) -> bool:
    if isinstance(graph, GraphProto) and graph.sparse_initializer:
        return True
    sparse = any(True for node in graph.node for _ in _sparse_attributes(node))
    return sparse or any(is_map(info.type) for info in _infos(graph))


def _strip(graph: GraphProto | onnx.FunctionProto) -> None:
    if isinstance(graph, GraphProto):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_empty(sparse))
        del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in _sparse_attributes(node):
            attribute.t.CopyFrom(_empty(attribute.sparse_tensor))
            attribute.ClearField("sparse_tensor")
            attribute.name, attribute.type = _DENSE_VALUE, AttributeProto.TENSOR
    for info in _infos(graph):
        if is_map(info.type):
            info.ClearField("type")


def _empty(sparse: SparseTensorProto) -> TensorProto:
    """A dense tensor in the place of a sparse one, without data."""
    return TensorProto(name=sparse.values.name, dims=sparse.dims, data_type=sparse.values.data_type)


def _nested(graph: GraphProto | onnx.FunctionProto) -> Iterator[GraphProto | onnx.FunctionProto]:
    """The graph, then those in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from _nested(body)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH and not attribute.ref_attr_name:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _pairs(proto: ModelProto, model: ir.Model) -> Iterator[_Pair]:
    """Each graph of the protobuf form with the same one of the model, whose nodes are in the same order."""
    yield from _paired(proto.graph, model.graph)
    for function, own in zip(proto.functions, model.functions.values(), strict=True):
        yield from _paired(function, own.graph)


def _paired(graph: GraphProto | onnx.FunctionProto, own: ir.Graph) -> Iterator[_Pair]:
    yield graph, own
    for node, made in zip(graph.node, own, strict=True):
        for body, inner in zip(_bodies(node), subgraphs(made), strict=True):
            yield from _paired(body, inner)
