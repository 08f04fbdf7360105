"""Operators that run in the kernel of the convolution or Gemm before them."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.fusions.matching import beside
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis

ACTIVATIONS = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
"""Activations that a kernel applies itself (`conv_activation_fusion.cc`, `nchwc_transformer.cc`)."""
BLOCKED_ACTIVATIONS = ACTIVATIONS | {"HardSwish"}
"""Those that a blocked one does; HardSwish of opset 22 and later is run as two kernels."""


def absorbed(analysis: Analysis) -> set[ir.Node]:
    """The operators that take no pass of their own, as a convolution or a Gemm before them does their work.

    These are what its weights take in (BatchNormalization, Add and Mul of constants), the sum with another
    map where its kernel is a blocked one, and an activation at the end.
    """
    return {
        node
        for linear in analysis.linears
        if linear.op in ("Conv", "Gemm")
        for node in _behind(analysis, linear)
    }


def _behind(analysis: Analysis, linear: Linear) -> list[ir.Node]:
    """Those behind one convolution or Gemm."""
    found: list[ir.Node] = []
    value, summed = linear.node.outputs[0], False
    while (reader := analysis.sole_consumer(value)) is not None and is_standard(reader):
        if reader.op_type in ACTIVATIONS:
            return [*found, reader]
        if linear.op != "Conv" or summed:
            return found
        if reader.op_type in ("Add", "Mul"):
            other = beside(reader, value)
            if analysis.constant(other) is None:
                same = other is not value and analysis.shape(other) == analysis.shape(value)
                summed = reader.op_type == "Add" and same and _blocked(linear)
                if not summed:
                    return found
        elif reader.op_type != "BatchNormalization" or not _constant(analysis, linear.node, reader):
            return found
        found.append(reader)
        value = reader.outputs[0]
    return found


def _constant(analysis: Analysis, *nodes: ir.Node) -> bool:
    """Whether operators read nothing but constants besides their first input."""
    read = (value for node in nodes for value in node.inputs[1:] if value is not None)
    return all(analysis.constant(value) is not None for value in read)


def _blocked(linear: Linear) -> bool:
    """Whether a convolution has a blocked kernel."""
    if len(linear.kernel) != 2 or linear.in_channels is None or linear.out_channels is None:
        return False
    return time_model.blocked(linear.out_channels, linear.in_channels // linear.group, linear.group)
