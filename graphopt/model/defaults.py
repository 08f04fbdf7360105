"""Initializers that are inputs too: defaults, which a caller may override, or what an old format lists."""

from __future__ import annotations

import onnx_ir as ir

_LAST_IR_WITH_FORCED_INPUTS = 3
"""By the standard, in which IR version 4 made defaults of initializers that are inputs."""


def forced(model: ir.Model) -> bool:
    """Whether the model's IR version lists all initializers among the inputs; later, that makes a default."""
    return (model.ir_version or 0) <= _LAST_IR_WITH_FORCED_INPUTS


def overridable(model: ir.Model) -> list[ir.Value]:
    """The initializers that a caller may override, in the order of the inputs."""
    return [] if forced(model) else [value for value in model.graph.inputs if value.is_initializer()]
