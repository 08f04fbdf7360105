"""What fits ask of a linear operator: whether there can be one, and the bias and the error of a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.analysis.linear import Linear, operator
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank import tucker_fit
from graphopt.numerics.lowrank.moments import Statistics, losses
from graphopt.types import Array, Float64

WIDEST = 10_240
"""Numbers of a patch (channels of a group times taps) at most: derived, a covariance of so many takes 0.8
GB."""


def unusable(linear: Linear) -> str:
    """Why no rank of the weights can be told; "" where it can."""
    weight = plain(linear.stored_weight().ravel())
    if not weight.any():
        return "its weights are 0"
    wide = weight.astype(np.float32) if weight.dtype == np.float16 else weight
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.dot(wide, wide)
    return "" if np.isfinite(squared) else "its weights are not finite, or their squares are not"


def plain(weight: Array) -> Array:
    """Weights in a type that NumPy computes with: it does not with bfloat16, which float32 holds."""
    return weight.astype(np.float32) if weight.dtype.kind == "V" else weight


def bias_and_error(linear: Linear, given: Statistics, kernels: Sequence[Float64]) -> tuple[Float64, float]:
    """The bias that makes up for the means where kernels take an operator's place, and what is lost then.

    Args:
        linear: the operator.
        given: what is known of what it reads, and of what it should make.
        kernels: of each group ``[out, in, *taps]``, what takes the place of its own.

    Returns:
        ``[out_channels]``, and E‖y − ŷ‖² / Var(y).
    """
    own, weights = linear.bias(), algebra.blocks(linear.weight(), linear.group)
    biases, lost, total = [], 0.0, 0.0
    for number, (weight, moments, kernel) in enumerate(zip(weights, given.groups, kernels, strict=True)):
        made = kernel.reshape(len(weight), -1) @ moments.mean
        if given.targets:
            target = given.targets[number]
            biases.append(target.mean - made)
            lost += tucker_fit.target_error(kernel, moments, target)
            total += target.variance
        else:
            flat = weight.reshape(len(weight), -1)
            rows = slice(number * len(weight), (number + 1) * len(weight))
            biases.append(flat @ moments.mean - made + (0.0 if own is None else own[rows]))
            more, variance = losses(weight, kernel, moments)
            lost += more
            total += variance
    return np.concatenate(biases), lost / total if total > 0 else 0.0


def too_wide(linear: Linear) -> str:
    """That an operator's patches have too many numbers for a covariance; "" where they don't."""
    dimension = operator.dimension(linear)
    if dimension <= WIDEST:
        return ""
    size = f"{8 * dimension**2 / 1e9:.1f} GB"
    return f"its patches have {dimension:,} numbers, whose covariance takes {size}: at most {WIDEST:,}"


def shared(analysis: Analysis, linear: Linear) -> bool:
    """Whether other operators read an operator's weights, which then stay besides."""
    return analysis.own_cost(linear).params < analysis.linear_cost(linear).params
