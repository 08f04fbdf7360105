"""What operators on each channel by itself make of constant channels and of equal ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attributes import EPSILON
from graphopt.analysis.operators import POOLS, REDUCTIONS
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.channels import Facts, Labeller, merged_labels
from graphopt.rewrites.patterns.affine import ignores_padding
from graphopt.rewrites.patterns.channel_roles import Own
from graphopt.rewrites.patterns.common import is_passthrough
from graphopt.types import Float64


def facts_of(
    analysis: Analysis, node: ir.Node, role: Own, maps: Mapping[int, Facts], labeller: Labeller
) -> Facts:
    """What is known of the operator's output channels.

    Args:
        analysis: tells the constants.
        node: the operator.
        role: which inputs have its channels.
        maps: what is known of those, by input number.
        labeller: hands out labels.

    Returns:
        Constants and labels ``[channels]``.
    """
    count = next(iter(maps.values())).channels
    operands: list[Float64] = []
    columns: list[Sequence[object] | npt.NDArray[np.generic]] = []
    for index, value in enumerate(node.inputs):
        array = analysis.constant(value)
        if index in maps:
            operands.append(maps[index].constant)
            columns.append(maps[index].labels)
        elif array is not None and array.size and array.dtype.kind == "f" and index in role.constants:
            rows = np.moveaxis(np.asarray(array, np.float64), role.constants[index], 0).reshape(count, -1)
            equal = (rows == rows[:, :1]).all(axis=1)
            operands.append(np.where(equal, rows[:, 0], np.nan))
            columns.append([row.tobytes() for row in rows])
        elif array is not None and array.dtype.kind == "f" and array.size == 1:
            operands.append(np.full(count, float(array.reshape(()))))
        else:
            operands.append(np.full(count, np.nan))
    with np.errstate(all="ignore"):
        constant = _constant(analysis, node, operands)
    constant = np.where(np.isfinite(constant), constant, np.nan)
    labels = merged_labels(columns, labeller)
    return Facts(constant, labels)


def _constant(analysis: Analysis, node: ir.Node, operands: Sequence[Float64]) -> Float64:
    """The value of each output channel, from those of the operands; NaN is unknown."""
    x, number = operands[0], node.attributes.get_float
    if is_passthrough(analysis, node) or node.op_type in KEEPING:
        return x
    match node.op_type:
        case "LeakyRelu":
            return np.where(x < 0, x * number("alpha", 0.01), x)
        case "HardSigmoid":
            return np.clip(x * number("alpha", 0.2) + number("beta", 0.5), 0.0, 1.0)
        case "Elu":
            return np.where(x < 0, number("alpha", 1.0) * np.expm1(x), x)
        case "PRelu":
            return np.where(x < 0, x * operands[1], x)
        case "Clip":
            return _clip(node, operands)
        case "BatchNormalization":
            _, gamma, beta, mean, variance = operands
            scale = gamma / np.sqrt(variance + number("epsilon", EPSILON))
            return np.where(scale == 0, beta, scale * (x - mean) + beta)
        case "InstanceNormalization":  # of another constant rounding is left, and divided by √ε
            _, gamma, beta = operands
            return np.where((x == 0) | (gamma == 0), beta, np.nan)
        case "Mul":
            product = operands[0] * operands[1]
            return np.where((operands[0] == 0) | (operands[1] == 0), 0.0, product)
        case "AveragePool":
            return x if ignores_padding(node) else np.where(x == 0, x, np.nan)
        case "Concat":
            first = operands[0]
            return np.where(reduce(np.logical_and, [o == first for o in operands]), first, np.nan)
        case "Pad":
            return _pad(node, operands)
        case "Resize" | "Upsample":
            mode = node.attributes.get_string("coordinate_transformation_mode", "")
            return np.full_like(x, np.nan) if mode == "tf_crop_and_resize" else x
        case "ReduceSum":
            return np.where(x == 0, x, np.nan)
        case "Sum" | "Mean":
            total = reduce(np.add, operands)
            return total / len(operands) if node.op_type == "Mean" else total
        case _:
            function = FUNCTIONS.get(node.op_type)
            return np.full_like(x, np.nan) if function is None else function(*operands)


def _clip(node: ir.Node, operands: Sequence[Float64]) -> Float64:
    number = node.attributes.get_float
    low, high = number("min", -math.inf), number("max", math.inf)
    bounds = list(operands[1:])
    given = list(node.inputs[1:])
    lower = bounds[0] if len(given) > 0 and given[0] is not None else np.full_like(operands[0], low)
    upper = bounds[1] if len(given) > 1 and given[1] is not None else np.full_like(operands[0], high)
    return np.minimum(np.maximum(operands[0], lower), upper)


def _pad(node: ir.Node, operands: Sequence[Float64]) -> Float64:
    """A constant stays one where it is padded with itself."""
    x = operands[0]
    if node.attributes.get_string("mode", "constant") != "constant":
        return x
    fill = np.full_like(x, node.attributes.get_float("value", 0.0))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        fill = operands[2]
    return np.where(x == fill, x, np.nan)


KEEPING = (POOLS | REDUCTIONS | {"Slice", "Squeeze"}) - {"AveragePool", "ReduceSum"}
"""Operators that make of a constant channel the same constant."""

FUNCTIONS: Mapping[str, Callable[..., Float64]] = {
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Tanh": np.tanh,
    "Neg": np.negative,
    "Abs": np.abs,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Softplus": lambda x: np.logaddexp(0.0, x),
    "HardSwish": lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Add": np.add,
    "Sub": np.subtract,
    "Div": np.divide,
    "Pow": np.power,
    "Max": lambda *values: reduce(np.maximum, values),
    "Min": lambda *values: reduce(np.minimum, values),
}
"""What the other operators compute."""
