"""What `onnx_ir` would lose or trip over when it reads the protobuf form of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from graphopt.errors import InputError
from graphopt.files import reason
from graphopt.model import carried
from graphopt.model.validation.operators import plain_domain

_DEVICES_SINCE_IR = 11
"""The first IR version in which a model may name devices."""
_ATTRIBUTE = onnx.AttributeProto
_TENSORS = {_ATTRIBUTE.TENSOR, _ATTRIBUTE.TENSORS}
_SPARSE_CONSTANT = "Constant", carried.SPARSE_VALUE
_SPARSE = {_ATTRIBUTE.SPARSE_TENSOR, _ATTRIBUTE.SPARSE_TENSORS}


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model that the in-memory form can't carry without loss.

    Args:
        proto: the model; the data of its initializers is not looked at.
        where: what to call it in a message: its file.

    Raises:
        InputError: no graph; no or too new an IR version; sparse tensors that are none, or attributes of
            them but of a Constant; `training_info`, attributes without a type; a name or a function that is
            defined or an attribute that is given twice; text that is not UTF-8.
    """
    if not proto.HasField("graph"):
        raise InputError(f"{where}: holds no graph; it is not an ONNX model, or was cut short")
    if proto.ir_version < 1:
        raise InputError(f"{where}: states no IR version; it is not an ONNX model, or was cut short")
    if proto.ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{where}: has IR version {proto.ir_version}, and onnx {onnx.__version__} knows up to "
            f"{onnx.IR_VERSION}; upgrade onnx"
        )
    if proto.training_info:
        raise InputError(f"{where}: holds training_info, which would be lost; export the model for inference")
    if proto.ir_version < _DEVICES_SINCE_IR and proto.configuration:
        raise InputError(
            f"{where}: device configurations need IR version {_DEVICES_SINCE_IR}; set ir_version"
        )
    check_metadata(proto, where)
    _check_imports(proto.opset_import, where)
    _check_proto_graph(proto.graph, where)
    _check_unique(proto.functions, where)
    for function in proto.functions:
        _check_imports(function.opset_import, where)
        _check_proto_nodes(function.node, set(function.input), where)
        defined = {*function.input, *(name for node in function.node for name in node.output)}
        for output in function.output:
            if output not in defined:
                raise InputError(
                    f"{where}: nothing in function {function.name!r} produces its output {output!r}"
                )


def check_metadata(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model with metadata that is no text."""
    for entry in proto.metadata_props:
        _text(entry.key, "its metadata", where)
        _text(entry.value, "its metadata", where)


def _check_unique(functions: Iterable[onnx.FunctionProto], where: str) -> None:
    defined = set[tuple[str, str, str]]()
    for function in functions:
        parts = function.domain, function.name, function.overload
        domain, name, overload = (_text(part, "a function", where) for part in parts)
        identifier = plain_domain(domain), name, overload
        if identifier in defined:
            which = f"{name!r} of domain {domain!r}" + (f", overload {overload!r}," if overload else "")
            raise InputError(f"{where}: function {which} is defined twice; keep one")
        defined.add(identifier)


def _check_imports(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> None:
    versions: dict[str, int] = {}
    for entry in imports:
        domain = plain_domain(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InputError(
                f"{where}: imports the operators of domain {domain!r} in versions {versions[domain]} and "
                f"{entry.version}; keep one"
            )


def _check_proto_graph(graph: onnx.GraphProto, where: str) -> None:
    defined: set[str] = set()
    for info in graph.input:
        _define(info.name, f"input of graph {graph.name!r}", defined, where)
    sparse = [each.values for each in graph.sparse_initializer]
    tensors = [*graph.initializer, *sparse]
    names = {_text(tensor.name, "an initializer", where) for tensor in tensors}
    if "" in names:
        raise InputError(f"{where}: an initializer of graph {graph.name!r} has no name")
    if len(names) != len(tensors):
        counted: set[str] = set()
        for tensor in tensors:
            _define(tensor.name, f"initializer of graph {graph.name!r}", counted, where)
    defined |= names
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_reference(tensor, where)
    for each in graph.sparse_initializer:
        _check_sparse(each, f"sparse_initializer {each.values.name!r}", where)
    _check_proto_nodes(graph.node, defined, where)


MOST_ELEMENTS = 2**31 - 1
"""Elements that a sparse tensor may stand for: derived, kernels of onnxruntime count them in 32 bits."""


def _check_sparse(sparse: onnx.SparseTensorProto, what: str, where: str) -> None:
    """Whether a sparse tensor is one, and of a size that can be made dense, as onnxruntime does at once."""
    parts = (sparse.values, sparse.indices)
    if any(part.data_location == onnx.TensorProto.EXTERNAL for part in parts):
        raise InputError(f"{where}: {what} is in external data, which is not read; make it dense")
    if sparse.values.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        raise InputError(f"{where}: {what} has no type of numbers; make it dense")
    if carried.elements(sparse) > MOST_ELEMENTS:
        raise InputError(
            f"{where}: {what} has dims {list(sparse.dims)}, and {MOST_ELEMENTS:,} elements are the most"
        )
    try:
        carried.check(sparse)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where}: {what} is damaged: {reason(error)}") from error


def _check_proto_nodes(nodes: Iterable[onnx.NodeProto], defined: set[str], where: str) -> None:
    for node in nodes:
        for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _text(text, "a node", where)
        for name in node.output:
            if name:
                _define(name, f"output of node {(node.name or node.op_type)!r}", defined, where)
        given = [_text(attribute.name, "a node", where) for attribute in node.attribute]
        if len(set(given)) < len(given):
            twice = next(name for name in given if given.count(name) > 1)
            raise InputError(
                f"{where}: node {node.name or node.op_type!r} has attribute {twice!r} twice; keep one"
            )
        for attribute in node.attribute:
            kind = attribute.type
            if kind == _ATTRIBUTE.GRAPH:
                _check_proto_graph(attribute.g, where)
            elif kind == _ATTRIBUTE.GRAPHS:
                for graph in attribute.graphs:
                    _check_proto_graph(graph, where)
            elif kind in _TENSORS:
                for tensor in (attribute.t,) if kind == _ATTRIBUTE.TENSOR else attribute.tensors:
                    if tensor.data_type == onnx.TensorProto.UNDEFINED and not attribute.ref_attr_name:
                        raise InputError(
                            f"{where}: node {node.name or node.op_type!r}: attribute {attribute.name!r} "
                            "has no element type"
                        )
            elif kind == _ATTRIBUTE.SPARSE_TENSOR and (node.op_type, attribute.name) == _SPARSE_CONSTANT:
                held = f"node {node.name or node.op_type!r}: attribute {attribute.name!r}"
                _check_sparse(attribute.sparse_tensor, held, where)
            elif kind in _SPARSE or (kind == _ATTRIBUTE.UNDEFINED and not attribute.ref_attr_name):
                what = "a sparse tensor, which onnx_ir can't carry" if kind in _SPARSE else "of no type"
                raise InputError(
                    f"{where}: node {node.name or node.op_type!r}: attribute {attribute.name!r} is {what}"
                )


def _check_reference(tensor: onnx.TensorProto, where: str) -> None:
    """Whether offset and length of external data are sizes; the file is for `model.io` to check."""
    for entry in tensor.external_data:
        _text(entry.key, "external data", where)
        _text(entry.value, "external data", where)
        if entry.key in ("offset", "length") and not re.fullmatch(r"[0-9]+", entry.value):
            raise InputError(
                f"{where}: external data of tensor {tensor.name!r} has {entry.key} {entry.value!r}, "
                "which is no number of bytes"
            )


def _text(text: str | bytes, what: str, where: str) -> str:
    """A name or another text; protobuf hands out one that is no UTF-8 as bytes."""
    if isinstance(text, bytes):
        raise InputError(f"{where}: the text {text[:40]!r} in {what} is not UTF-8; the file is damaged")
    return text


def _define(name: str, role: str, defined: set[str], where: str) -> None:
    if _text(name, "a graph", where) in defined:
        raise InputError(f"{where}: value {name!r} is defined twice, the second time as {role}")
    defined.add(name)
