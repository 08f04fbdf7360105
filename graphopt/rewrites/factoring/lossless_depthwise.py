"""Split a convolution into a depthwise and a pointwise one, where its weights allow that without loss.

What
    A convolution that filters each channel by few kernels and then mixes channels becomes depthwise → 1x1, or
    1x1 → depthwise where it mixes first.

        x ─ 3x3 (64→64) ─ y        x ─ 3x3 depthwise (64) ─ 1x1 (64→64) ─ y

Maths
    W[o, i, t] = Σ_m P[o, (i, m)] D[(i, m), t] with m kernels an input channel exactly when for each input i
    the matrix W[:, i, :], [out, taps], has at most rank m. The mirror image, W[o, i, t] = Σ_m D[o, m, t]
    P[(o, m), i], needs that of W[o, :, :], [in, taps], for each output o. Groups are split each for itself.

When it applies
    1. The weights are constants of a Conv or ConvTranspose with more than one tap.
    2. The highest numerical rank of those matrices is low enough for the two to have fewer MACs.

Exactness
    Exact: what is cut is below the rounding of the weights of each output channel, as small as they may be
    beside others.

Cost
    3x3, 64→64 at m = 1: 36,864 → 4,672 MACs an output pixel.

References:
    Sifre 2014, "Rigid-motion scattering for image classification", chapter 6; Chollet 2017, "Xception".
    Guo et al. 2018, "Network decoupling", for the sum of m depthwise-separable parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank import exact_factors
from graphopt.numerics.lowrank.balance import balanced
from graphopt.rewrites.factoring import deepened, factored
from graphopt.rewrites.factoring.factored import LosslessSplit
from graphopt.types import Array, Candidate, Choice, Cost, Float64, Replacement


@dataclass(frozen=True)
class LosslessDepthwise(LosslessSplit):
    """Splits a convolution into a depthwise and a pointwise one where that loses nothing."""

    name: ClassVar[str] = "lossless_depthwise"

    def takes(self, linear: Linear) -> bool:
        """Convolutions with more than one tap."""
        return not linear.pointwise

    def ways(self, linear: Linear) -> list[tuple[Choice, Cost]]:
        """One for each side of the depthwise operator that pays."""
        found = ((last, _multiplier(linear, last)) for last in (True, False))
        return [
            (
                {"pointwise": "last" if last else "first", "multiplier": multiplier},
                deepened.cost(linear, multiplier, last=last),
            )
            for last, multiplier in found
            if multiplier is not None
        ]

    def describe(self, choice: Choice) -> str:
        """The multiplier."""
        return deepened.described(choice)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """Both operators."""
        linear = anchor(analysis, candidate)
        multiplier, last = int(candidate.choice["multiplier"]), candidate.choice["pointwise"] == "last"
        split = exact_factors.depthwise_then_pointwise if last else exact_factors.pointwise_then_depthwise
        wholes = map(balanced, algebra.blocks(linear.weight(), linear.group))
        parts = ((whole, split(whole.kernel, multiplier)) for whole in wholes)
        pairs = [(whole.first(a, 0 if last else 1), whole.last(b)) for whole, (a, b) in parts]
        return deepened.replacement(linear, pairs, linear.bias(), last=last)


def _multiplier(linear: Linear, last: bool) -> int | None:
    """Kernels a channel, where that pays: the highest rank of all channels."""
    unit = deepened.cost(linear, 1, last=last).macs
    assert unit is not None and linear.macs is not None  # MACs are proportional to the multiplier
    pays = (linear.macs - 1) // max(unit, 1)

    def matrices(block: Array, levels: Float64) -> Iterator[tuple[Array, Float64]]:
        for index, matrix in enumerate(exact_factors.depthwise_slices(block, last=last)):
            yield matrix, levels if last else levels[index : index + 1]

    return factored.highest_rank(linear, ("slices", last), matrices, pays)
