"""What onnx's own rules say of one operator: its schema, and the types of its outputs."""

from __future__ import annotations

import functools
import re
from typing import Any

import onnx
import onnx_ir as ir
from onnx import shape_inference

from graphopt.analysis.evaluation import node_proto

_FAILURES = (
    *(shape_inference.InferenceError, onnx.checker.ValidationError),
    *(RuntimeError, ValueError, MemoryError),  # whatever C++ raises on odd attributes
)


class DoesNotFitError(Exception):
    """By onnx's rules an operator's inputs do not fit it; as text the reason, in one line."""


@functools.lru_cache(maxsize=1024)
def schema_of(op_type: str, domain: str, version: int) -> Any:
    """The operator's schema; None where onnx has none, or none any more.

    Args:
        op_type: the operator.
        domain: its domain, "" for the standard one.
        version: of the operator set.

    Returns:
        An `onnx.defs.OpSchema`, or None.
    """
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def output_types(
    node: ir.Node,
    schema: Any,
    types: dict[str, onnx.TypeProto],
    contents: dict[str, onnx.TensorProto],
    imports: list[onnx.OperatorSetIdProto],
    ir_version: int,
) -> list[onnx.TypeProto | None]:
    """The types of an operator's outputs by onnx's rule, None for each of which it says nothing.

    Args:
        node: the operator.
        schema: its schema.
        types: those of its inputs, by number: ``i0``, ``i1``; inputs that are left out are not there.
        contents: what inputs hold, where that is known.
        imports: the operator sets of the model.
        ir_version: the model's.

    Returns:
        A type for each output.

    Raises:
        DoesNotFitError: the inputs do not fit the operator.
    """
    try:
        found = shape_inference.infer_node_outputs(
            schema, node_proto(node), types, contents, opset_imports=imports, ir_version=ir_version
        )
    except _FAILURES as error:
        raise DoesNotFitError(_one_line(error)) from error
    return [found.get(f"o{i}") for i in range(len(node.outputs))]


def _one_line(error: Exception) -> str:
    """An error of onnx without its tags, the operator and the line breaks."""
    text = re.sub(r"\[\w+\]|\(op_type:[^)]*\):?", " ", str(error))
    return " ".join(text.split()).rstrip(".")
