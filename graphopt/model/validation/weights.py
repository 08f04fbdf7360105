"""Whether data fits the dims that it states, and weights fit their operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir

_VALUES_PER_FIELD = {
    "float_data": {ir.DataType.FLOAT: 1, ir.DataType.COMPLEX64: 2},
    "double_data": {ir.DataType.DOUBLE: 1, ir.DataType.COMPLEX128: 2},
}
"""How many entries of a typed field one element of a tensor takes, by the ONNX standard."""


def data_problem(tensor: ir.TensorProtocol | None) -> str | None:
    """How a tensor's data differs from the size that its dims and type state; None when it fits."""
    if isinstance(tensor, ir.StringTensor):
        held, wanted = len(tensor.string_data()), tensor.size
        return None if held == wanted else f"has dims {_dims(tensor)}, {wanted} strings, but holds {held}"
    if not isinstance(tensor, ir.serde.TensorProtoTensor):
        return None  # an array fits its own shape
    proto = tensor.raw
    if proto.data_type == onnx.TensorProto.UNDEFINED:
        return "has no element type"
    if any(size < 0 for size in proto.dims):
        return f"has negative dims {_dims(tensor)}"
    if proto.HasField("raw_data"):
        held = len(proto.raw_data)
        return (
            None
            if held == tensor.nbytes
            else f"has dims {_dims(tensor)}, {tensor.nbytes} bytes, but holds {held}"
        )
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        held = len(getattr(proto, field))
        if held:
            break
    wanted = tensor.size * _VALUES_PER_FIELD.get(field, {}).get(tensor.dtype, 1)
    if tensor.dtype.bitwidth < 8:  # several elements share one entry of int32_data
        wanted = tensor.nbytes
    return None if held == wanted else f"has dims {_dims(tensor)}, {wanted} values, but holds {held}"


def _dims(tensor: ir.TensorProtocol) -> list[int]:
    return list(tensor.shape.numpy())


def _static_dims(node: ir.Node, position: int) -> list[int] | None:
    """The dims of an input that is a constant; None where it is left out or not constant."""
    value = node.inputs[position] if position < len(node.inputs) else None
    return None if value is None or value.const_value is None else _dims(value.const_value)


def _padding_problem(node: ir.Node) -> str | None:
    """Whether both auto_pad and pads say how much a convolution pads; amounts of 0 do as well."""
    given = [node.attributes[key] for key in ("auto_pad", "pads") if key in node.attributes]
    if any(attribute.is_ref() for attribute in given):  # of a function's call
        return None
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    unset = ("NOTSET",) if node.op_type == "ConvTranspose" else ("NOTSET", "")
    if automatic in unset or "pads" not in node.attributes:
        return None
    pads = list(node.attributes.get_ints("pads", ()))
    return f"has auto_pad={automatic} beside pads={pads}, which onnxruntime refuses; take one of them away"


def _conv_problem(node: ir.Node) -> str | None:
    problem, dims = _padding_problem(node), _static_dims(node, 1)
    if problem or dims is None:
        return problem
    group = node.attributes.get_int("group", 1)
    if len(dims) < 3:
        return f"its weight has dims {dims}; a convolution needs [out, in / group, kernel…]"
    transposed = node.op_type == "ConvTranspose"
    if group < 1 or dims[0] % group:
        return f"its weight has dims {dims}, and group {group} doesn't divide {dims[0]}"
    return _window_problem(node, dims) or _bias_problem(node, dims[1] * group if transposed else dims[0])


def _window_problem(node: ir.Node, dims: list[int]) -> str | None:
    """Whether kernel_shape, strides, dilations and pads have the lengths that the weight's rank asks for."""
    spatial = len(dims) - 2
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is not None and list(kernel) != dims[2:]:
        return f"kernel_shape is {list(kernel)}, and the weight has dims {dims}"
    for name, length in (("strides", spatial), ("dilations", spatial), ("pads", 2 * spatial)):
        values = node.attributes.get_ints(name)
        if values is None:
            continue
        if len(values) != length:
            return f"{name} {list(values)} should have {length} entries for a weight of dims {dims}"
        if name != "pads" and min(values) < 1:
            return f"{name} {list(values)} should be at least 1"
    return None


def _bias_problem(node: ir.Node, channels: int) -> str | None:
    bias = _static_dims(node, 2)
    return None if bias in (None, [channels]) else f"its bias has dims {bias}, and should have [{channels}]"


def _gemm_problem(node: ir.Node) -> str | None:
    dims = _static_dims(node, 1)
    return None if dims is None or len(dims) == 2 else f"its weight has dims {dims}, and should have two"


WEIGHT_CHECKS = {
    "Conv": _conv_problem,
    "ConvInteger": _padding_problem,
    "ConvTranspose": _conv_problem,
    "Gemm": _gemm_problem,
    "QLinearConv": _padding_problem,
}
