"""What is known of the inputs of a linear operator, and what errors in its outputs count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.analysis.linear import Linear, operator
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank.moments import Statistics, losses, rooted
from graphopt.types import Array, Float64


def counted(kernels: Sequence[Array], weighting: Sequence[Float64]) -> Sequence[Array]:
    """Each group's kernel times R: its plain error is the weighted one, see `Statistics.weighting`."""
    if not weighting:
        return kernels
    pairs = zip(weighting, kernels, strict=True)
    return [rooted(root, np.asarray(kernel, np.float64)) for root, kernel in pairs]


def counted_error(linear: Linear, kernel: Array, statistics: Statistics) -> float:
    """E‖R (y − ŷ)‖² / Var(R y) of an approximate kernel ``[out, in / group, *taps]``.

    Args:
        linear: the operator.
        kernel: what takes the place of its kernel, ``[out, in / group, *taps]``.
        statistics: of its inputs, with R where errors are weighted.

    Returns:
        The relative error; 0.0 where the outputs don't vary.
    """
    lost = total = 0.0
    both = (algebra.blocks(each, linear.group) for each in (linear.weight(), kernel))
    exact, approximate = (counted(each, statistics.weighting) for each in both)
    for ours, theirs, moments in zip(exact, approximate, statistics.groups, strict=True):
        more, variance = losses(ours, theirs, moments)
        lost, total = lost + more, total + variance
    return lost / total if total > 0 else 0.0


def known(linear: Linear, statistics: Mapping[str, Statistics] | None) -> Statistics:
    """The statistics of an operator's inputs; white ones where nothing is known."""
    found = None if statistics is None else statistics.get(linear.name)
    if found is not None:
        return found
    return Statistics.white(operator.dimension(linear), linear.group)
