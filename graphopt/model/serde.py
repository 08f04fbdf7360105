"""Between the protobuf form of a model and the in-memory form, without what `onnx_ir` loses or adds.

Graphs are changed in `model.edit`, and besides only here: `from_proto` sorts the one that it makes,
`replace_tensors` puts the same weights in another form, and so does `to_proto` while it writes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.errors import InputError
from graphopt.files import reason
from graphopt.model import carried
from graphopt.model.traversal import graphs, is_sorted
from graphopt.model.validation import validate
from graphopt.types import NewNode

_DECLARED = "graphopt.value_info"
"""In `Value.meta` of an initializer: the file describes it in value_info too, so keep that."""


def from_proto(proto: onnx.ModelProto, where: str) -> ir.Model:
    """The in-memory form, sorted, with what `onnx_ir` would lose noted on its values.

    Args:
        proto: the model, which shares its weights with what is made of it.
        where: what to call it in a message.

    Raises:
        InputError: `onnx_ir` can't hold the model.
    """
    declared = set(_declared(proto.graph))
    with _quiet():
        try:
            model = ir.from_proto(carried.put_aside(proto))
            carried.restore(proto, model)
        except Exception as error:  # onnx_ir raises of every kind; whatever it is, the model caused it
            raise InputError(f"{where}: onnx_ir can't hold the model: {reason(_root(error))}") from error
    for body in (model.graph, *(function.graph for function in model.functions.values())):
        if "ai.onnx" in body.opset_imports:
            body.opset_imports[""] = body.opset_imports.pop("ai.onnx")
    for graph in graphs(model):
        if not is_sorted(graph):
            with contextlib.suppress(ValueError):  # a cycle, which is for `validate` to name
                graph.sort()
        for value in graph.initializers.values():
            if value.name in declared:
                value.meta[_DECLARED] = True
    return model


def _declared(graph: onnx.GraphProto) -> Iterator[str]:
    """The names in value_info, also of subgraphs."""
    for info in graph.value_info:
        yield info.name
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _declared(attribute.g)


def clone(model: ir.Model) -> ir.Model:
    """A copy, sorted, which shares the weights."""
    try:
        return model.clone()
    except Exception:
        # A clone needs a sound, sorted graph. `validate` names what is unsound; unsorted nodes are fine.
        validate(model, None)
        with _quiet():
            return from_proto(ir.to_proto(model), "the model")


def replace_tensors(model: ir.Model, change: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Put what `change` makes of each tensor, of initializers and of attributes, in its place."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _metadata_once(change(value.const_value))
        for node in graph:
            for name, attribute in node.attributes.items():
                old = _tensors(attribute)
                new = [_metadata_once(change(tensor)) for tensor in old]
                if all(one is other for one, other in zip(old, new, strict=True)):
                    continue
                single = attribute.type is ir.AttributeType.TENSOR
                content = new[0] if single else new
                node.attributes[name] = ir.Attr(
                    name, attribute.type, content, doc_string=attribute.doc_string
                )


def _tensors(attribute: ir.Attr) -> Sequence[ir.TensorProtocol]:
    if attribute.is_ref() or attribute.value is None:
        return ()
    if attribute.type is ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    return attribute.as_tensors() if attribute.type is ir.AttributeType.TENSORS else ()


def _metadata_once(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Have `onnx_ir` write a tensor's metadata once: it writes the proto's own and those of its view."""
    if not isinstance(tensor, ir.serde.TensorProtoTensor) or not tensor.raw.metadata_props:
        return tensor
    raw = onnx.TensorProto()
    raw.CopyFrom(tensor.raw)
    raw.ClearField("metadata_props")
    once = ir.serde.TensorProtoTensor(raw)
    once.metadata_props.update(tensor.metadata_props)
    return once


def to_proto(model: ir.Model, stand_ins: Mapping[ir.Value, ir.TensorProtocol]) -> onnx.ModelProto:
    """The protobuf form.

    Args:
        model: the model; the same after the call as before.
        stand_ins: what to write instead of the tensors of some initializers.

    Raises:
        InputError: `onnx_ir` can't write the model.
    """
    held = [
        (value, value.const_value, value.type, value.shape)
        for graph in graphs(model)
        for value in graph.initializers.values()
    ]
    try:
        for value, tensor, _, _ in held:
            if _is_implied(value):
                value.type = value.shape = None
            value.const_value = stand_ins.get(value, tensor)
        with _quiet():
            proto = ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise InputError(f"the model can't be saved: {reason(_root(error))}") from error
    finally:
        for value, tensor, type_, shape in held:
            value.const_value, value.type, value.shape = tensor, type_, shape
    carried.put_back(proto, model)
    return proto


def _is_implied(value: ir.Value) -> bool:
    """Whether value_info would only repeat an initializer's own type and dims.

    `onnx_ir` writes one for each initializer, so that files would grow.
    """
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or value.is_graph_output() or value.meta.get(_DECLARED):
        return False
    return value.type == ir.TensorType(tensor.dtype) and value.shape == tensor.shape


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


def _root(error: BaseException) -> BaseException:
    """Where it began; `onnx_ir` wraps errors, and at times fails in doing so."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def new_proto(node: NewNode, rename: Callable[[str | None], str]) -> onnx.NodeProto:
    """A new node as it stands in a file, with its values renamed."""
    attributes: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in node.attributes.items()
    }
    empty = [name for name, value in attributes.items() if value == []]  # whose kind its values don't tell
    made = onnx.helper.make_node(
        node.op_type,
        [rename(name) for name in node.inputs],
        [rename(name) for name in node.outputs],
        domain=node.domain,
        **{name: value for name, value in attributes.items() if name not in empty},
    )
    made.attribute.extend(onnx.AttributeProto(name=name, type=_kind_of_list(node, name)) for name in empty)
    return made


def new_attributes(node: NewNode) -> dict[str, Any]:
    """What attributes of a new node hold, for a graph; an empty list of floats or texts stays one."""
    return {
        name: ir.Attr(name, ir.AttributeType(int(_kind_of_list(node, name))), ()) if value == () else value
        for name, value in node.attributes.items()
    }


def _kind_of_list(node: NewNode, name: str) -> onnx.AttributeProto.AttributeType:
    """Of what an attribute is a list, by the operator's definition; of integers where it has none."""
    kinds = onnx.defs.OpSchema.AttrType
    others = {kinds.FLOATS: onnx.AttributeProto.FLOATS, kinds.STRINGS: onnx.AttributeProto.STRINGS}
    if onnx.defs.has(node.op_type, node.domain):
        declared = onnx.defs.get_schema(node.op_type, node.domain).attributes.get(name)
        if declared is not None:
            return others.get(declared.type, onnx.AttributeProto.INTS)
    return onnx.AttributeProto.INTS
