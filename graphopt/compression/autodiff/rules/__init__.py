"""How each operator turns the gradient of its output into the gradient of what it reads.

One function an operator: from the gradient g of an operator's output it makes, out of operators that
onnxruntime runs, Jᵀ g for each of the operator's inputs ("vector-Jacobian product"). Two things are only near
enough: of several that are the largest, or the smallest, each counts; and the slope of a few functions is
taken from a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.operators import VIEWS, is_standard
from graphopt.compression.autodiff.rules import arithmetic, linear, moves, normalisation, pool, scalar
from graphopt.compression.autodiff.tape import Gradient, Tape, UnsupportedError

Rule: TypeAlias = Callable[[Tape, ir.Node, str], Sequence[Gradient]]
"""The gradient of one operator, ``rule(tape, node, g)``.

Args:
    tape: takes down the operators that compute it.
    node: the operator of the model.
    g: name of the gradient of its output, of the output's shape.

Returns:
    A name for each input, of the input's shape; None, or nothing at the end, for one without a gradient.

Raises:
    UnsupportedError: there is no rule for this form of the operator.
"""

OLDEST = 7
"""The first operator set in which arithmetic repeats values, as the rules need it."""

RULES: dict[str, Rule] = {
    "Conv": linear.convolution,
    "ConvTranspose": linear.convolution,
    "Gemm": linear.gemm,
    "MatMul": linear.matmul,
    "Einsum": linear.einsum,
    "Add": arithmetic.add,
    "Sum": arithmetic.add,
    "Mean": arithmetic.mean,
    "Sub": arithmetic.subtract,
    "Mul": arithmetic.multiply,
    "Div": arithmetic.divide,
    "Max": arithmetic.largest,
    "Min": arithmetic.largest,
    "Where": arithmetic.where,
    "Expand": arithmetic.expand,
    "Tile": moves.tile,
    **dict.fromkeys(scalar.SLOPES, scalar.elementwise),
    "PRelu": scalar.prelu,
    "Softmax": normalisation.softmax,
    "LogSoftmax": normalisation.log_softmax,
    "BatchNormalization": normalisation.batch_norm,
    "InstanceNormalization": normalisation.instance_norm,
    "GroupNormalization": normalisation.group_norm,
    "LayerNormalization": normalisation.layer_norm,
    "RMSNormalization": normalisation.layer_norm,
    "MeanVarianceNormalization": normalisation.variance_norm,
    "LpNormalization": normalisation.unit_norm,
    "LRN": normalisation.local_norm,
    "GlobalAveragePool": normalisation.reduce,
    "GlobalMaxPool": normalisation.reduce,
    "ReduceL2": normalisation.reduce,
    "ReduceLogSumExp": normalisation.reduce,
    "ReduceMax": normalisation.reduce,
    "ReduceMean": normalisation.reduce,
    "ReduceMin": normalisation.reduce,
    "ReduceSum": normalisation.reduce,
    "ReduceSumSquare": normalisation.reduce,
    "AveragePool": pool.average_pool,
    "MaxPool": pool.max_pool,
    "Identity": moves.same,
    "Dropout": moves.dropout,
    "Cast": moves.cast,
    "CastLike": moves.cast,
    **dict.fromkeys(VIEWS, moves.reshape),
    "Transpose": moves.transpose,
    "DepthToSpace": moves.depth_to_space,
    "SpaceToDepth": moves.space_to_depth,
    "CumSum": moves.cumulative_sum,
    "Trilu": moves.triangle,
    "Concat": moves.concat,
    "Slice": moves.slices,
    "Gather": moves.gather,
    "ScatterElements": moves.scatter,
    "ScatterND": moves.scatter,
    "Crop": moves.crop,
    "Pad": moves.pad,
    "Resize": moves.resize,
    "Upsample": moves.resize,
}
"""By operator; Split is apart, since it has several outputs."""


def backward(tape: Tape, node: ir.Node, gradients: Sequence[Gradient]) -> Sequence[Gradient]:
    """The gradients of an operator's inputs, from those of its outputs; none where no rule gives them.

    Args:
        tape: takes down the operators that compute the gradients.
        node: the operator of the model.
        gradients: of each of its outputs; None where nothing comes back through it.

    Returns:
        Gradients in the order of the inputs, None where an input has none; empty where no rule gives them.
    """
    at = len(tape.nodes)
    try:
        return _backward(tape, node, gradients)
    except UnsupportedError:
        del tape.nodes[at:]
        return ()


def _backward(tape: Tape, node: ir.Node, gradients: Sequence[Gradient]) -> Sequence[Gradient]:
    first, *others = gradients
    types = {tape.analysis.sizes.dtype(v) for v, g in zip(node.outputs, gradients, strict=True) if g}
    if not is_standard(node) or tape.version < OLDEST or types - {ir.DataType.FLOAT, None}:
        return ()
    if node.op_type == "Split":
        return moves.split(tape, node, gradients)
    rule = RULES.get(node.op_type)
    if rule is None or first is None or any(others):
        return ()
    return rule(tape, node, first)
