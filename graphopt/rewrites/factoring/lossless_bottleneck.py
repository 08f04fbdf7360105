"""Split a convolution whose weights have low numerical rank into cheaper ones, without loss.

What
    A convolution whose input or output channels span fewer dimensions than there are channels becomes
    1x1 → k×k, k×k → 1x1 or 1x1 → k×k → 1x1; a 1x1 convolution, a Gemm or a MatMul becomes two thinner ones.

        x ─ 5x5 (192→32) ─ y        x ─ 1x1 (192→16) ─ 5x5 (16→32) ─ y
        x ─ Gemm (1024→1024) ─ y    x ─ MatMul (1024→8) ─ Gemm (8→1024) ─ y

Maths
    The input rank is the rank of W unfolded to [in, out·taps], the output rank that of [out, in·taps]. With
    orthonormal bases E [r₁, in] and U [out, r₂] of those spaces, W = U ∘ (Uᵀ W Eᵀ) ∘ E (Tucker-2, exact when
    no direction is cut). Directions count as absent below twice the norm that rounding gives a matrix of
    such weights: stored in float32, an exact rank 16 shows a 17th singular value of 3e-8 of the first.

When it applies
    1. The weights are constants of a Conv, ConvTranspose, Gemm or MatMul. Groups are split each for itself,
       at the highest rank of all; a depthwise convolution has nothing to cut.
    2. The factors have fewer MACs than the operator.
    3. In a matrix with more than 1024 rows and columns ranks above 512 are not looked for: whether there
       may be a lower one shows in a part of it, and a randomised range finder then gives the factors.

Exactness
    Exact: what is cut is below the rounding of the weights of each output channel, as small as they may be
    beside others.

Cost
    5x5, 192→32 on 28×28 at input rank 16: 120,422,400 → 12,443,648 MACs. The 1x1 runs at the input's
    resolution also where the k×k strides.

References:
    Tucker 1966; De Lathauwer et al. 2000, "A multilinear singular value decomposition".
    Halko, Martinsson and Tropp 2011, "Finding structure with randomness".
    Szegedy et al. 2015, "Going deeper with convolutions", for the 1x1 in front of a 5x5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank import exact_factors, tucker
from graphopt.numerics.lowrank.balance import Balanced, balanced
from graphopt.numerics.lowrank.tucker import Factors
from graphopt.rewrites.factoring import factored
from graphopt.rewrites.factoring.factored import LosslessSplit
from graphopt.types import Candidate, Choice, Cost, Replacement


@dataclass(frozen=True)
class LosslessBottleneck(LosslessSplit):
    """Splits a convolution of low numerical rank into cheaper ones, without loss."""

    name: ClassVar[str] = "lossless_bottleneck"

    def ways(self, linear: Linear) -> list[tuple[Choice, Cost]] | str:
        """Up to three: cut the input side, the output side, or both."""
        if linear.depthwise:
            return factored.unmixed(linear)
        pays = _break_even(linear)
        cuts = _choices(linear, *_ranks(linear, *pays))
        ways: list[tuple[Choice, Cost]] = [
            ({"rank_in": a or 0, "rank_out": b or 0}, factored.cost(linear, a, b)) for a, b in cuts
        ]
        return ways or _too_high(linear, *pays)

    def describe(self, choice: Choice) -> str:
        """The two ranks."""
        return factored.described(choice)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The factors, from singular value decompositions in float64."""
        linear = anchor(analysis, candidate)
        rank_in, rank_out = (int(candidate.choice[key]) or None for key in ("rank_in", "rank_out"))
        if not linear.kernel and rank_in is not None:
            eps = tucker.epsilon(linear.dtype)
            whole = balanced(linear.stored_weight())
            expand, reduce = exact_factors.thin_factors(whole.kernel, eps, rank_in, whole.levels)
            found = Factors(whole.first(reduce), whole.last(expand) * linear.alpha, None)
        else:
            wholes = map(balanced, algebra.blocks(linear.weight(), linear.group))
            parts = ((whole, tucker.exact_factors(whole.kernel, rank_in, rank_out)) for whole in wholes)
            found = factored.joined([_unbalanced(whole, factors) for whole, factors in parts])
        return factored.replacement(linear, found, linear.bias())


def _unbalanced(whole: Balanced, factors: Factors) -> Factors:
    """The factors of a kernel from those of it with its channels at one scale."""
    reduce, core, expand = factors.reduce, factors.core, factors.expand
    reduce, core = (None, whole.first(core)) if reduce is None else (whole.first(reduce), core)
    core, expand = (whole.last(core), None) if expand is None else (core, whole.last(expand))
    return Factors(reduce, core, expand).balanced()


def _ranks(linear: Linear, pays_in: int, pays_out: int) -> tuple[int | None, int | None]:
    """The rank of the input and the output side; None where it is above what pays."""
    if linear.pointwise:  # both sides are one matrix
        rank = factored.highest_rank(
            linear,
            "out",
            lambda block, levels: [(tucker.output_unfolding(block), levels)],
            max(pays_in, pays_out),
        )
        if rank is None:
            return None, None
        return (rank if rank <= pays_in else None), (rank if rank <= pays_out else None)
    return (
        factored.highest_rank(
            linear, "in", lambda block, levels: [(tucker.input_unfolding(block).T, levels)], pays_in
        ),
        factored.highest_rank(
            linear, "out", lambda block, levels: [(tucker.output_unfolding(block), levels)], pays_out
        ),
    )


def _break_even(linear: Linear) -> tuple[int, int]:
    """The largest input and output rank a group at which cutting that side alone saves MACs; 0 for none."""
    assert linear.in_channels is not None and linear.out_channels is not None and linear.macs is not None

    def largest(channels: int, one: int, macs: int) -> int:
        return min(channels // linear.group - 1, (macs - 1) // one) if one else 0

    unit_in = factored.cost(linear, 1, None).macs
    assert unit_in is not None  # MACs are proportional to the rank
    pays_in = largest(linear.in_channels, unit_in, linear.macs)
    if not linear.kernel:
        return pays_in, 0
    unit_out = factored.cost(linear, None, 1).macs
    assert unit_out is not None
    return pays_in, largest(linear.out_channels, unit_out, linear.macs)


def _too_high(linear: Linear, pays_in: int, pays_out: int) -> str:
    """Why no rank pays."""
    reason = f"its rank pays from {pays_in} of {linear.in_channels} input channels down"
    if linear.kernel:
        reason += f", or {pays_out} of {linear.out_channels} output channels"
    return f"{reason}, and is not that low"


def _choices(
    linear: Linear, rank_in: int | None, rank_out: int | None
) -> list[tuple[int | None, int | None]]:
    """The ways of cutting that save MACs."""
    ways = [(rank_in, rank_out), (rank_in, None), (None, rank_out)]
    useful = dict.fromkeys(way for way in ways if way != (None, None))
    return [way for way in useful if (factored.cost(linear, *way).macs or 0) < (linear.macs or 0)]
