"""The operators that onnxruntime computes, by the types of what they read."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir

from graphopt.analysis.operators import KEEPS_TYPE
from graphopt.analysis.snapshot import Analysis
from graphopt.runtime.session import PROVIDER
from graphopt.types import Change


class _Kernel(NamedTuple):
    """One kernel: the versions of the operator that it is for, and the types it takes by parameter."""

    first: int
    last: int
    types: Mapping[str, Sequence[str]]


def missing(analysis: Analysis, change: Change) -> str:
    """Why onnxruntime can't run what takes a candidate's place; "" where it has a kernel for all of it.

    Only types that are known for certain count: those of constants, of the values that the site reads or
    makes, and of what operators make of them that keep the type.
    """
    nodes = [analysis.nodes[name] for name in change.candidate.site.nodes]
    ports = [value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]
    types = {value.name or "": analysis.sizes.dtype(value) for value in ports}
    constants = change.replacement.constants
    types |= {name: ir.DataType.from_numpy(array.dtype) for name, array in constants.items()}
    opset = analysis.model.opset_imports.get("", 0)
    for node in change.replacement.nodes:
        read = [None if name is None else types.get(name) for name in node.inputs]
        if not node.domain and not _runs(node.op_type, opset, read):
            kind = next((kind.name.lower() for kind in read if kind is not None), "this type")
            return f"onnxruntime has no {node.op_type} of {kind} at opset {opset}"
        types[node.outputs[0]] = read[0] if read and node.op_type in KEEPS_TYPE else None
    return ""


def _runs(op_type: str, opset: int, types: Sequence[ir.DataType | None]) -> bool:
    """Whether there is a kernel for an operator of these inputs, or nothing is known of its kernels."""
    try:
        schema: Any = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return True
    kernels = [k for k in _kernels().get(op_type, ()) if k.first <= schema.since_version <= k.last]
    if not kernels or schema.has_function or schema.has_context_dependent_function:
        return True
    parameters = [parameter.type_str for parameter in schema.inputs]
    parameters += parameters[-1:] * (len(types) - len(parameters))  # the last one may be repeated
    named = [(p, _spellings(kind)) for p, kind in zip(parameters, types, strict=False) if kind is not None]
    return any(
        all(not kernel.types.get(p) or not names.isdisjoint(kernel.types[p]) for p, names in named)
        for kernel in kernels
    )


def _spellings(kind: ir.DataType) -> frozenset[str]:
    """A type as kernels name it; where none takes float16, onnxruntime puts casts around one of float32."""
    plain = {ir.DataType.FLOAT: ("float",), ir.DataType.FLOAT16: ("float16", "float")}
    return frozenset(f"tensor({name})" for name in plain.get(kind, (kind.name.lower(),)))


@functools.lru_cache(maxsize=1)
def _kernels() -> Mapping[str, Sequence[_Kernel]]:
    """The kernels of standard operators on the processor, by operator."""
    try:
        import onnxruntime as ort

        every = ort.capi.onnxruntime_pybind11_state.get_all_opkernel_def()
    except (ImportError, AttributeError):  # a build without Python's view of the kernels
        return {}
    found: dict[str, list[_Kernel]] = {}
    for kernel in every:
        if kernel.domain in ("", "ai.onnx") and kernel.provider == PROVIDER:
            found.setdefault(kernel.op_name, []).append(
                _Kernel(kernel.version_range[0], kernel.version_range[1], dict(kernel.type_constraints))
            )
    return found
