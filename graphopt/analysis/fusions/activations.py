"""Activations in pieces that onnxruntime runs as one kernel: GELU by erf and by tanh, and SiLU."""

from __future__ import annotations

import math

import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, is_number, made_by, read_by, scaled
from graphopt.analysis.snapshot import Analysis

Nodes = tuple[ir.Node, ...]
CUBIC = 0.044715
"""Of the cube in GELU by tanh (Hendrycks and Gimpel 2016)."""


def gelu(analysis: Analysis, erf: ir.Node) -> Nodes:
    """(x·(1 + erf(x/√2)))·½ or (½·x)·(1 + erf(x/√2)) around an Erf; empty where it is not that.

    Fused in these two orders, and with a Div (`gelu_fusion.cc`).
    """
    scale = made_by(erf.inputs[0], "Div")
    plus = read_by(analysis, erf, "Add")
    if scale is None or plus is None or not is_number(analysis, scale.inputs[1], math.sqrt(2)):
        return ()
    times = read_by(analysis, plus, "Mul")
    if times is None or not is_number(analysis, beside(plus, erf.outputs[0]), 1):
        return ()
    x, other = scale.inputs[0], beside(times, plus.outputs[0])
    inner = (scale, erf, plus, times)
    if other is x:
        half = read_by(analysis, times, "Mul")
        return (*inner, half) if half is not None and _halves(analysis, half, times) else ()
    halved = scaled(analysis, other, 0.5)
    return (*inner, halved[0]) if halved is not None and halved[1] is x else ()


def _halves(analysis: Analysis, node: ir.Node, before: ir.Node) -> bool:
    return is_number(analysis, beside(node, before.outputs[0]), 0.5)


def fast_gelu(analysis: Analysis, tanh: ir.Node) -> Nodes:
    """(½·x)·(1 + tanh(√(2/π)·(x + 0.044715·x³))) around a Tanh, x³ by Pow; empty where it is not that.

    Fused in this order (`fast_gelu_fusion.cc`).
    """
    outer = scaled(analysis, tanh.inputs[0], math.sqrt(2 / math.pi))
    total = None if outer is None else made_by(outer[1], "Add")
    plus = read_by(analysis, tanh, "Add")
    times = None if plus is None else read_by(analysis, plus, "Mul")
    if outer is None or total is None or plus is None or times is None:
        return ()
    if not is_number(analysis, beside(plus, tanh.outputs[0]), 1):
        return ()
    halved = scaled(analysis, beside(times, plus.outputs[0]), 0.5)
    for x, term in (total.inputs, reversed(total.inputs)):
        cubic = scaled(analysis, term, CUBIC)
        power = None if cubic is None else made_by(cubic[1], "Pow")
        if cubic is None or power is None or halved is None:
            continue
        if power.inputs[0] is x and halved[1] is x and is_number(analysis, power.inputs[1], 3):
            return power, cubic[0], total, outer[0], tanh, plus, times, halved[0]
    return ()


def silu(analysis: Analysis, sigmoid: ir.Node) -> Nodes:
    """x·Sigmoid(x) around a Sigmoid; empty where it is not that (`quick_gelu_fusion.cc`)."""
    times = read_by(analysis, sigmoid, "Mul")
    if times is None or beside(times, sigmoid.outputs[0]) is not sigmoid.inputs[0]:
        return ()
    return sigmoid, times
