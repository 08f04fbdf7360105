"""The signatures of operators, and what is wrong with a node of one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
import onnx.defs
import onnx_ir as ir

_KINDS = {
    getattr(onnx.defs.OpSchema.AttrType, kind.name): kind
    for kind in ir.AttributeType
    if kind is not ir.AttributeType.UNDEFINED
}


TYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
"""The attributes that name the type of an output by its number."""
DATA = ("value_", "default_string")
"""How the names of attributes begin whose texts are data, so that any bytes will do."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What `onnx.defs` says of an operator, in a form that is quick to check thousands of nodes against."""

    deprecated_since: int | None
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed: tuple[int, ...]
    """Positions of the inputs that may not be left out."""
    kinds: Mapping[str, ir.AttributeType]
    required: tuple[str, ...]

    def problem(self, node: ir.Node) -> str | None:
        """What is wrong with a node of this operator; None when nothing is."""
        if self.deprecated_since is not None:
            return f"the operator is gone since opset {self.deprecated_since}; export for an older one"
        inputs, outputs = len(node.inputs), _used(node.outputs)
        if not self.inputs[0] <= inputs <= self.inputs[1]:
            return f"has {inputs} inputs, and the operator takes {_span(self.inputs)}"
        if not self.outputs[0] <= outputs <= self.outputs[1]:
            return f"has {outputs} outputs, and the operator gives {_span(self.outputs)}"
        for position in self.needed:
            if node.inputs[position] is None:
                return f"input {position} is left out, and the operator needs it"
        for attribute in node.attributes.values():
            kind = self.kinds.get(attribute.name)
            if kind is None:
                if not attribute.name.startswith("__"):  # the standard leaves these to tools
                    return f"has no attribute {attribute.name!r}"
            elif kind != attribute.type:
                return f"attribute {attribute.name!r} is {attribute.type.name}, and must be {kind.name}"
            elif not attribute.is_ref() and (problem := _value_problem(attribute)):
                return f"attribute {attribute.name!r} is {attribute.value!r:.40}, which is {problem}"
        for name in self.required:
            if name not in node.attributes:
                return f"attribute {name!r} is missing"
        parts = node.attributes.get("num_outputs")
        if parts is not None and not parts.is_ref() and parts.value != len(node.outputs):
            return f"attribute 'num_outputs' is {parts.value}, and it has {len(node.outputs)} outputs"
        return None


def _value_problem(attribute: ir.Attr) -> str:
    """What is wrong with the value of an attribute of the right kind; "" when nothing is."""
    if attribute.type is ir.AttributeType.STRING:
        data = attribute.name.startswith(DATA)
        return "no text" if isinstance(attribute.value, bytes) and not data else ""
    if attribute.type is ir.AttributeType.STRINGS and attribute.name == "activations":
        return "no text" if any(isinstance(each, bytes) for each in attribute.value) else ""
    if attribute.name not in TYPES or attribute.type is not ir.AttributeType.INT:
        return ""
    optional = attribute.name.startswith("output_")  # 0 says that nothing is said
    known = any(attribute.value == each.value and (each.value or optional) for each in ir.DataType)
    return "" if known else "no type of tensors"


def _used(outputs: Iterable[ir.Value]) -> int:
    """The number of outputs up to the last one with a name; ONNX leaves optional ones at the end unnamed."""
    return max((i for i, value in enumerate(outputs, 1) if value.name), default=0)


def _span(limits: tuple[int, int]) -> str:
    low, high = limits
    if low == high:
        return str(low)
    return f"{low} to {high}" if high < 2**31 - 1 else f"at least {low}"


@functools.lru_cache(maxsize=4096)
def signature_of(domain: str, op_type: str, version: int) -> Signature | None:
    """The operator as of an opset; None when the standard has none of that name.

    Args:
        domain: of the operator; "" for the standard one.
        op_type: its name.
        version: of the operator set.

    Returns:
        How many inputs and outputs it takes, and which attributes, or None.
    """
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    needed = tuple(
        i for i, parameter in enumerate(schema.inputs) if parameter.option == single and i < schema.min_input
    )
    return Signature(
        deprecated_since=schema.since_version if schema.deprecated else None,
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        needed=needed,
        kinds={name: _KINDS[attribute.type] for name, attribute in schema.attributes.items()},
        required=tuple(name for name, attribute in schema.attributes.items() if attribute.required),
    )


@functools.lru_cache(maxsize=1)
def runtime_operators() -> Mapping[tuple[str, str], int]:
    """What onnxruntime runs, and since which opset.

    Beyond the standard, these are legacy operators such as ImageScaler, Crop and Affine.
    """
    try:
        import onnxruntime as ort

        schemas = ort.capi.onnxruntime_pybind11_state.get_all_operator_schema()
    except (ImportError, AttributeError):  # a build without Python's view of the schemas
        return {}
    since: dict[tuple[str, str], int] = {}
    for schema in schemas:
        key = plain_domain(schema.domain), schema.name
        since[key] = min(schema.since_version, since.get(key, schema.since_version))
    return since


def plain_domain(domain: str) -> str:
    """A domain by the shorter of its names: that of the standard has two."""
    return "" if domain == "ai.onnx" else domain
