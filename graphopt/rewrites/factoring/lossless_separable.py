"""Split a convolution along its axes, k×k → k×1 → 1×k, where its weights allow that without loss.

What
    A convolution whose kernel is separable, with few channels in between, becomes one along some axes and one
    along the others, in the cheaper order.

        x ─ 3x3 (64→64) ─ y        x ─ 3x1 (64→16) ─ 1x3 (16→64) ─ y
        x ─ 5x5 depthwise ─ y      x ─ 5x1 depthwise ─ 1x5 depthwise ─ y

Maths
    W[o, i, a, b] = Σ_r B[o, r, b] A[r, i, a] exactly when the matrix with rows (o, b) and columns (i, a) has
    rank r. Both operators take stride, pads and dilation of their own axes, so the result is the same at
    every border. Groups are split each for itself, at one rank. In 3-D the axes fall into two sets; what is
    left of more than one axis is split again in a later round.

When it applies
    1. The weights are constants of a Conv or ConvTranspose with more than one tap along two axes.
    2. The numerical rank, as in lossless_bottleneck, is low enough for the two to have fewer MACs.

Exactness
    Exact: what is cut is below the rounding of the weights of each output channel, as small as they may be
    beside others.

Cost
    3x3, 64→64 at rank 16: 36,864 → 6,144 MACs an output pixel.

References:
    Rigamonti et al. 2013, "Learning separable filters".
    Jaderberg et al. 2014, "Speeding up convolutional neural networks with low rank expansions", scheme 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank import exact_factors
from graphopt.numerics.lowrank.balance import balanced
from graphopt.rewrites.factoring import factored, separated
from graphopt.rewrites.factoring.factored import LosslessSplit
from graphopt.types import Candidate, Choice, Cost, Replacement


@dataclass(frozen=True)
class LosslessSeparable(LosslessSplit):
    """Splits a convolution along its axes where its weights allow that without loss."""

    name: ClassVar[str] = "lossless_separable"

    def takes(self, linear: Linear) -> bool:
        """Convolutions with several taps on two axes or more."""
        return any(separated.orders(linear))

    def ways(self, linear: Linear) -> list[tuple[Choice, Cost]] | str:
        """One for each order of the axes that pays."""
        found = ((first, _rank(linear, first)) for first in separated.orders(linear))
        return [
            ({"first": separated.named(first), "rank": rank}, separated.cost(linear, first, rank))
            for first, rank in found
            if rank is not None
        ] or "its rank across axes is too high to pay"

    def describe(self, choice: Choice) -> str:
        """The rank."""
        return separated.described(choice)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """Both operators."""
        linear = anchor(analysis, candidate)
        rank = int(candidate.choice["rank"])
        first = separated.axes(candidate.choice["first"])
        wholes = map(balanced, algebra.blocks(linear.weight(), linear.group))
        parts = ((whole, exact_factors.separate(whole.kernel, first, rank)) for whole in wholes)
        pairs = [(whole.first(a), whole.last(b)) for whole, (a, b) in parts]
        return separated.replacement(linear, first, pairs, linear.bias())


def _rank(linear: Linear, first: tuple[int, ...]) -> int | None:
    """The numerical rank across the axes where it pays; the highest of all groups."""
    unit = separated.cost(linear, first, 1).macs
    assert unit is not None and linear.macs is not None  # MACs are proportional to the rank
    return factored.highest_rank(
        linear,
        ("axes", first),
        lambda block, levels: [(exact_factors.separable_matrix(block, first), levels)],
        (linear.macs - 1) // max(unit, 1),
    )
