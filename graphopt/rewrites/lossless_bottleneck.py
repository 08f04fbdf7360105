"""Split a convolution whose weights have low numerical rank into cheaper ones, without loss.

What
    A convolution whose input or output channels span fewer dimensions than there are channels becomes
    1x1 → k×k, k×k → 1x1 or 1x1 → k×k → 1x1; a 1x1 convolution becomes two thinner ones.

        x ─ 5x5 (192→32) ─ y        x ─ 1x1 (192→16) ─ 5x5 (16→32) ─ y

Maths
    The input rank is the rank of W unfolded to [in, out·taps], the output rank that of [out, in·taps]. With
    orthonormal bases E [r₁, in] and U [out, r₂] of those spaces, W = U ∘ (Uᵀ W Eᵀ) ∘ E (Tucker-2, exact when
    no direction is cut). Directions count as absent below twice the norm that rounding gives a matrix of
    such weights: stored in float32, an exact rank 16 shows a 17th singular value of 3e-8 of the first.

When it applies
    1. The weights are constants, and the operator is a Conv or ConvTranspose with one group.
    2. The factors have fewer MACs than the operator.

Exactness
    Exact: what is cut is below the rounding of the weights.

Cost
    5x5, 192→32 on 28×28 at input rank 16: 120,422,400 → 12,443,648 MACs. The 1x1 runs at the input's
    resolution also where the k×k strides.

References:
    Tucker 1966; De Lathauwer et al. 2000, "A multilinear singular value decomposition".
    Szegedy et al. 2015, "Going deeper with convolutions", for the 1x1 in front of a 5x5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt import lowrank
from graphopt.analysis import Analysis
from graphopt.conv import Linear
from graphopt.core import Array, Candidate, Exactness, Rejection, Replacement
from graphopt.lowrank import Moments
from graphopt.rewrites import factored
from graphopt.rewrites.common import site


@dataclass(frozen=True)
class LosslessBottleneck:
    """Splits a convolution of low numerical rank into cheaper ones, without loss."""

    name: ClassVar[str] = "lossless_bottleneck"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    reads_weights: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """Up to three candidates for each convolution: cut the input side, the output side, or both."""
        for linear in analysis.linears:
            if not linear.kernel:
                continue
            place = site(analysis, [linear.node])
            reason = factored.refusal(linear)
            if reason:
                yield Rejection(self.name, place, f"{linear.name}: {reason}")
                continue
            before = analysis.linear_cost(linear)
            pays_in, pays_out = _break_even(linear)
            rank_in, rank_out = _ranks(linear, pays_in, pays_out)
            choices = _choices(linear, rank_in, rank_out)
            for cut_in, cut_out in choices:
                after = factored.cost(linear, cut_in, cut_out)
                choice = {"rank_in": cut_in or 0, "rank_out": cut_out or 0}
                yield Candidate(self.name, place, before, after, choice=choice)
            if not choices:
                reason = f"its rank pays from {pays_in} of {linear.in_channels} input channels down"
                reason += f", or {pays_out} of {linear.out_channels} output channels, and is not that low"
                yield Rejection(self.name, place, f"{linear.name}: {reason}")

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Moments] | None = None
    ) -> Replacement:
        """The factors, from singular value decompositions in float64."""
        linear = analysis.linear(analysis.nodes[candidate.site.nodes[0]])
        assert linear is not None
        rank_in, rank_out = (int(candidate.choice[key]) or None for key in ("rank_in", "rank_out"))
        factors = lowrank.exact_factors(linear.weight(), rank_in, rank_out)
        return factored.replacement(linear, factors, linear.bias())


def _break_even(linear: Linear) -> tuple[int, int]:
    """The largest input and output rank at which cutting that side alone saves MACs; 0 where none does."""
    assert linear.in_channels is not None and linear.out_channels is not None and linear.macs is not None

    def largest(channels: int, one: int, macs: int) -> int:
        return min(channels - 1, (macs - 1) // one) if one else 0

    unit_in, unit_out = factored.cost(linear, 1, None).macs, factored.cost(linear, None, 1).macs
    assert unit_in is not None and unit_out is not None  # MACs are proportional to the rank
    return largest(linear.in_channels, unit_in, linear.macs), largest(
        linear.out_channels, unit_out, linear.macs
    )


def _ranks(linear: Linear, pays_in: int, pays_out: int) -> tuple[int | None, int | None]:
    """Numerical rank of the input and the output side; None where it is above what pays."""
    if not pays_in and not pays_out:
        return None, None
    weight = linear.weight()
    eps = float(np.finfo(linear.dtype).eps)
    rank_in = _rank(lowrank.input_unfolding(weight), eps, pays_in)
    return rank_in, _rank(lowrank.output_unfolding(weight), eps, pays_out)


def _rank(matrix: Array, eps: float, pays: int) -> int | None:
    if not pays:
        return None
    rank = lowrank.numerical_rank(matrix, eps, stop=pays + 1)
    return max(rank, 1) if rank <= pays else None


def _choices(
    linear: Linear, rank_in: int | None, rank_out: int | None
) -> list[tuple[int | None, int | None]]:
    """The ways of cutting that save MACs."""
    ways = [(rank_in, rank_out), (rank_in, None), (None, rank_out)]
    useful = dict.fromkeys(way for way in ways if way != (None, None))
    return [way for way in useful if (factored.cost(linear, *way).macs or 0) < (linear.macs or 0)]
