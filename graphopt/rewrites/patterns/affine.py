"""Per-channel affine operators, and the operators through which scale and shift can be moved.

An affine operator is y ↦ scale·y + shift with constant arrays that have the rank of y and broadcast over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import EPSILON, batch_statistics, ints
from graphopt.analysis.linear import why_no_constant
from graphopt.analysis.operators import AFFINE, ARITHMETIC, HOMOGENEOUS, MAXIMA, MEANS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.patterns.common import is_passthrough
from graphopt.types import Array, Shape


@dataclass(frozen=True, slots=True)
class Affine:
    """y ↦ scale·y + shift.

    Attributes:
        scale: float64 array of the rank of y that broadcasts over it.
        shift: another one.
    """

    scale: Array
    shift: Array

    def then(self, after: Affine) -> Affine:
        """This one, followed by another."""
        return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)

    @property
    def positive(self) -> bool:
        """Whether no scale is negative."""
        return bool(np.all(self.scale >= 0))

    @property
    def shifts(self) -> bool:
        """Whether any shift is there."""
        return bool(np.any(self.shift))


def operand(analysis: Analysis, node: ir.Node) -> ir.Value | None:
    """The value that an affine operator works on; None when the node is none."""
    if node.op_type not in AFFINE | {"Neg"} or not is_standard(node):
        return None
    if node.op_type in ("BatchNormalization", "Neg"):
        return node.inputs[0]
    first, second = node.inputs[:2]
    fixed = [analysis.constants.is_constant(first), analysis.constants.is_constant(second)]
    if fixed == [False, True]:
        return first
    return second if fixed == [True, False] else None


def read(
    analysis: Analysis, node: ir.Node, value: ir.Value, shape: Shape | None, axis: int | None = None
) -> Affine | str:
    """What an operator does to ``value``; else why that is not affine ("" when it is no anchor).

    Args:
        analysis: the snapshot.
        node: the operator.
        value: its input.
        shape: what is known of the value's shape; None where not even the rank is.
        axis: the only axis along which scale and shift may vary, whose size is known; None for all.

    Returns:
        Scale and shift, or the reason.
    """
    name = analysis.name(node)
    if not is_standard(node):
        return ""
    if node.op_type == "BatchNormalization":
        return _batch_normalization(analysis, node, shape, axis)
    if node.op_type not in ARITHMETIC | {"Neg"}:
        return ""
    if node.op_type == "Neg":
        return f"{name}: its rank is unknown" if shape is None else _affine(-1.0, 0.0, len(shape))
    if node.inputs[0] is node.inputs[1]:
        return f"{name}: {value.name} meets itself, which is no affine operator"
    first = node.inputs[0] is value
    other = node.inputs[1] if first else node.inputs[0]
    constant = analysis.constant(other)
    if other is None:
        return ""
    if constant is None:
        overridable = analysis.constants.overridable(other)
        return f"{name}: {why_no_constant(analysis.constants, other)}" if overridable else ""
    aligned = _aligned(np.asarray(constant, dtype=np.float64), shape, axis)
    if isinstance(aligned, str):
        return f"{name}: {other.name} {aligned}"
    if node.op_type == "Div":
        if not first:
            return f"{name}: a constant divided by {value.name} is no affine operator"
        return f"{name}: division by zero" if not np.all(aligned) else _affine(1.0 / aligned, 0.0)
    match node.op_type:
        case "Mul":
            return _affine(aligned, 0.0)
        case "Add":
            return _affine(1.0, aligned)
        case _:
            return _affine(1.0, -aligned) if first else _affine(-1.0, aligned)


def _affine(scale: Array | float, shift: Array | float, rank: int | None = None) -> Affine:
    """Both as arrays of one rank, that of the array among them where ``rank`` does not say it."""
    axes = (1,) * max(np.ndim(scale), np.ndim(shift), rank or 0)
    return Affine(*(np.asarray(a, np.float64).reshape(np.shape(a) or axes) for a in (scale, shift)))


def _aligned(constant: Array, shape: Shape | None, axis: int | None) -> Array | str:
    """The constant with leading axes of size 1, so that it has the value's rank; else what else it does."""
    if shape is None:
        return "meets an output of unknown rank"
    if constant.ndim > len(shape):
        return f"has rank {constant.ndim}, which raises the output's rank {len(shape)}"
    aligned = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    if axis is not None:
        wide = [i for i, size in enumerate(aligned.shape) if size != 1 and i != axis]
        if wide:
            along = f"varies along axis {wide[0]}, not only along the channels"
            return f"of shape {list(constant.shape)} {along}"
        if aligned.shape[axis] not in (1, shape[axis]):
            return f"of shape {list(constant.shape)} does not fit {shape[axis]} channels"
    grows = [i for i, n in enumerate(aligned.shape) if n != 1 and n != shape[i]]
    if grows:
        return f"of shape {list(constant.shape)} may widen axis {grows[0]}, of size {shape[grows[0]]}"
    return aligned


def _batch_normalization(
    analysis: Analysis, node: ir.Node, shape: Shape | None, axis: int | None
) -> Affine | str:
    name = analysis.name(node)
    trains = batch_statistics(node, analysis.opset)
    if trains:
        return f"{name}: {trains}"
    if not node.attributes.get_int("spatial", 1):
        return f"{name}: spatial=0, so it normalises each position apart"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return f"{name}: its statistics are read"
    if shape is None or len(shape) < 2:
        return f"{name}: the rank of its input is unknown or below 2"
    if axis not in (None, 1):
        return f"{name}: it normalises axis 1, the channels of its input are on axis {axis}"
    for value in node.inputs[1:5]:
        if value is not None and analysis.constant(value) is None:
            return f"{name}: {why_no_constant(analysis.constants, value)}"
    constants = [analysis.constant(value) for value in node.inputs[1:5]]
    gamma, beta, mean, variance = (np.asarray(c, dtype=np.float64) for c in constants)
    if not all(np.all(np.isfinite(numbers)) for numbers in (gamma, beta, mean, variance)):
        return f"{name}: its parameters are not all finite numbers"
    lifted = variance + node.attributes.get_float("epsilon", EPSILON)
    if np.any(lifted <= 0):
        return f"{name}: its variance is {variance.min():.3g} in a channel, which has no root"
    scale = gamma / np.sqrt(lifted)
    if scale.ndim != 1 or shape[1] not in (None, len(scale)) or not np.all(np.isfinite(scale)):
        return f"{name}: its parameters do not give one finite scale for each of {shape[1]} channels"
    axes = (1, -1, *(1,) * (len(shape) - 2))
    return Affine(scale.reshape(axes), (beta - scale * mean).reshape(axes))


def per_channel(array: Array, axis: int, channels: int) -> Array | None:
    """An aligned array as one number a channel, [channels]; None where it varies along another axis.

    Args:
        array: of the rank of the map, of size 1 where it does not vary.
        axis: the channel axis.
        channels: its size.

    Returns:
        ``[channels]``, or None.
    """
    if array.shape[axis] not in (1, channels) or array.size != array.shape[axis]:
        return None
    return np.broadcast_to(array.reshape(-1), (channels,))


def commutes(analysis: Analysis, node: ir.Node, affine: Affine) -> str:
    """Why ``node(scale·x + shift)`` is not ``scale·node(x) + shift``; "" when it is, for any x.

    The arrays are the same on both sides: only for operators that keep the axes.

    Args:
        analysis: the snapshot.
        node: the operator.
        affine: scale and shift of what it reads.

    Returns:
        The reason, or "".
    """
    name = analysis.name(node)
    if is_passthrough(analysis, node):
        return ""
    if not is_standard(node) or node.op_type not in HOMOGENEOUS | MAXIMA | MEANS:
        return f"{name} ({node.op_type}) does not commute with a scale"
    if node.op_type not in MEANS and not affine.positive:
        return f"{name}: {node.op_type} does not commute with a negative scale"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return f"{name}: its second output is read"
    if node.op_type in HOMOGENEOUS:
        return f"{name}: {node.op_type} does not commute with a shift" if affine.shifts else ""
    fixed = affine.scale, affine.shift
    if any(array.size != array.shape[1] for array in fixed):
        return f"{name}: the scale is not the same at all positions"
    if node.op_type == "ReduceMean":
        return _mean_problem(analysis, node, affine.scale.ndim)
    if node.op_type == "AveragePool" and affine.shifts and not ignores_padding(node):
        return f"{name}: it counts padding, which the shift would meet"
    return ""


def _mean_problem(analysis: Analysis, node: ir.Node, rank: int) -> str:
    """Why a ReduceMean is no mean over positions that keeps the axes."""
    name = analysis.name(node)
    axes = ints(node, "axes", 1, analysis.constant)
    if axes is None or any(a % rank < 2 for a in axes) or not node.attributes.get_int("keepdims", 1):
        return f"{name}: it is no mean over positions that keeps the axes"
    return ""


def ignores_padding(node: ir.Node) -> bool:
    """Whether an AveragePool divides by the number of values that it adds, at the border too."""
    if not node.attributes.get_int("count_include_pad", 0):
        return True
    padded = any(node.attributes.get_ints("pads", ()))
    automatic = node.attributes.get_string("auto_pad", "NOTSET") not in ("", "NOTSET", "VALID")
    return not padded and not automatic and not node.attributes.get_int("ceil_mode", 0)
