"""What a model must be before anything is done to it; every refusal is one line with file, node and value.

Two checks, because a model passes through two forms:

- `check_proto`: what `onnx_ir` would lose or trip over when it reads the protobuf form.
- `validate`: the in-memory form, with what onnxruntime would refuse.

`onnx.checker` is no base for the second: it needs the serialised model (weights included), refuses models
that onnxruntime runs (unsorted nodes, graphs without a name, legacy operators such as ImageScaler), and its
messages span lines without always naming the node. The signatures of the operators are those of `onnx.defs`.
"""

from __future__ import annotations

from graphopt.model.validation.graph import validate
from graphopt.model.validation.proto import check_metadata, check_proto

__all__ = ["check_metadata", "check_proto", "validate"]
