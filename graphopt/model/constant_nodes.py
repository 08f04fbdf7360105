"""Constant nodes: what they hold, as tensors of their own."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """What a Constant node holds; None for another node, a sparse tensor, or a function's parameter."""
    if node.op_type != "Constant" or node.domain or len(node.attributes) != 1:
        return None
    name, attribute = next(iter(node.attributes.items()))
    if attribute.is_ref():
        return None
    if name == "value":
        return attribute.as_tensor()
    if name in ("value_float", "value_floats"):
        return ir.tensor(np.array(attribute.value, dtype=np.float32))
    if name in ("value_int", "value_ints"):
        return ir.tensor(np.array(attribute.value, dtype=np.int64))
    if name in ("value_string", "value_strings"):
        text = np.array(attribute.value, dtype=np.object_)
        encoded = [item.encode() if isinstance(item, str) else item for item in text.ravel().tolist()]
        return ir.StringTensor(encoded, shape=ir.Shape(text.shape))
    return None


def is_equal(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    """Whether two tensors of one type and shape hold the same."""
    if one.dtype is ir.DataType.STRING:
        return bool(np.array_equal(one.numpy(), other.numpy()))
    return one.tobytes() == other.tobytes()


def initializer(constant: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    """A value of the name, with a tensor of its own: that of the node may be another model's too."""
    assert constant.name is not None
    return ir.Value(
        name=constant.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        doc_string=constant.doc_string,
        const_value=_copy(tensor),
        metadata_props=dict(constant.metadata_props),
    )


def _copy(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor that can have another name; its data is shared where it can be."""
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        raw = onnx.TensorProto()
        raw.CopyFrom(tensor.raw)
        return ir.serde.TensorProtoTensor(raw)
    return copy.copy(tensor)
