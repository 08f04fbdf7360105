"""Normalisations in pieces that onnxruntime runs as one kernel: by mean and variance, or the mean square."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.fusions.matching import beside, is_number, made_by, read_by
from graphopt.analysis.snapshot import Analysis

Nodes = tuple[ir.Node, ...]


def layer_norm(analysis: Analysis, root: ir.Node) -> Nodes:
    """s·(x − E x)/√(E(x − E x)² + ε) + t around a Sqrt; without E x and t too; empty where it is not that.

    Fused with the square by Pow and the quotient by Div (`layer_norm_fusion.cc`).
    """
    shifted = made_by(root.inputs[0], "Add")
    quotient = read_by(analysis, root, "Div")
    if shifted is None or quotient is None or quotient.inputs[1] is not root.outputs[0]:
        return ()
    means = [made_by(value, "ReduceMean") for value in shifted.inputs]
    mean = next((node for node in means if node is not None), None)
    square = None if mean is None else made_by(mean.inputs[0], "Pow")
    scale = read_by(analysis, quotient, "Mul")
    if mean is None or square is None or scale is None or not is_number(analysis, square.inputs[1], 2):
        return ()
    if not _by_constant(analysis, scale, quotient):
        return ()
    inner = (square, mean, shifted, root, quotient, scale)
    centred, divided = (made_by(value, "Sub") for value in (square.inputs[0], quotient.inputs[0]))
    shift = read_by(analysis, scale, "Add")
    if centred is None or divided is None or shift is None or not _by_constant(analysis, shift, scale):
        return inner if square.inputs[0] is quotient.inputs[0] else ()
    first = made_by(centred.inputs[1], "ReduceMean")
    if first is None or first.inputs[0] is not centred.inputs[0] or divided.inputs[0] is not first.inputs[0]:
        return inner if square.inputs[0] is quotient.inputs[0] else ()
    others = () if divided is centred else (divided,)
    return (first, centred, *others, *inner, shift)


def _by_constant(analysis: Analysis, node: ir.Node, before: ir.Node) -> bool:
    return analysis.constant(beside(node, before.outputs[0])) is not None
