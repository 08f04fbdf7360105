"""Replace a trained k×k convolution by 1x1 → k×k → 1x1 of lower rank, fitted to calibration inputs.

What
    A k×k convolution becomes a 1x1 that reduces the channels, a k×k on the few channels that are left, and a
    1x1 that expands them again; or one of the two 1x1 alone. A 1x1 convolution, a Gemm or a MatMul becomes
    two thinner ones. In a convolution of several groups each group is cut alone, to the same ranks.

        x ─ 3x3 (64→64) ─ y        x ─ 1x1 (64→24) ─ 3x3 (24→32) ─ 1x1 (32→64) ─ y

Maths
    Tucker-2: W ≈ U ∘ C ∘ E, fitted in closed form so that E‖y − ŷ‖² is least over the inputs that the
    convolution sees: E spans the input directions that matter most to the output in the metric of the input
    covariance, C is the least-squares map from the reduced input, and U the leading directions of the
    response (reduced-rank regression). The bias absorbs (W − Ŵ)·mean. The chosen layers are then fitted again
    in the order of the network, to what the original makes of the original inputs, from the inputs that the
    layers before, compressed by then, really give. Without calibration inputs the statistics are those of
    synthetic inputs.

When it applies
    1. The weights are constants, the operator is not depthwise, and each group has at least ``min_channels``
       channels a side, or 7 taps or more on an axis.
    2. No linear operator with more channels directly feeds it or reads it: then it is part of a bottleneck.
    3. The factors have fewer MACs.
    The ranks are chosen by a plan over the whole model, or fixed by ``rank_in`` and ``rank_out``.

Exactness
    Approximate. The predicted error is E‖y − ŷ‖² / Var(y); the measured one comes from held-out inputs.

Cost
    At ranks r₁, r₂: (c·r₁·input pixels + r₁·taps·r₂·output pixels + r₂·o·output pixels) MACs.

References:
    Zhang et al. 2016, "Accelerating very deep convolutional networks" (fit in order).
    Kim et al. 2016, "Compression of deep convolutional neural networks" (Tucker-2).
    Izenman 1975, "Reduced-rank regression for the multivariate linear model".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.linear import Linear
from graphopt.numerics.lowrank import tucker_fit
from graphopt.numerics.lowrank.moments import Moments
from graphopt.numerics.lowrank.tucker import Factors
from graphopt.rewrites.factoring import factored, fitted
from graphopt.rewrites.factoring.fitted import GroupFit, Split
from graphopt.types import Array, Choice, Cost, Replacement


@dataclass(frozen=True)
class Bottleneck(Split):
    """Replaces a convolution by 1x1 → k×k → 1x1 of lower rank, under a budget."""

    name: ClassVar[str] = "bottleneck"

    rank_in: int | None = None
    """Channels of each group behind the first 1x1; the plan chooses where neither rank is given."""
    rank_out: int | None = None
    """Channels of each group in front of the last 1x1."""
    min_channels: int = 8
    """Operators with fewer input or output channels in a group are left alone."""

    def takes(self, linear: Linear) -> bool:
        """Every linear operator; with fixed ranks those with more than one tap."""
        return not (linear.pointwise and self.fixed)

    def choices(self, linear: Linear) -> list[Choice]:
        """Pairs of ranks a group, 0 for a side that is not cut; a pointwise operator is cut only once."""
        assert linear.in_channels is not None and linear.out_channels is not None
        inside, out = linear.in_channels // linear.group, linear.out_channels // linear.group
        if self.fixed:
            cut_in = self.rank_in if self.rank_in and self.rank_in < inside else 0
            cut_out = self.rank_out if self.rank_out and self.rank_out < out else 0
            pairs = [(cut_in, cut_out)]
        elif linear.pointwise:
            pairs = [(rank, 0) for rank in fitted.grid(min(inside, out))]
        else:
            pairs = [(a, b) for a in (0, *fitted.grid(inside)) for b in (0, *fitted.grid(out))]
        return [{"rank_in": a, "rank_out": b} for a, b in pairs if a or b]

    def describe(self, choice: Choice) -> str:
        """The two ranks."""
        return factored.described(choice)

    def operators(self, choice: Choice) -> int:
        """One for each side that is cut."""
        return len(self.ranks(choice))

    def cost(self, linear: Linear, choice: Choice) -> Cost:
        """The cost of the factors."""
        return factored.cost(linear, *_ranks(choice))

    def errors(self, kernel: Array, moments: Moments, choices: Sequence[Choice]) -> list[float]:
        """The predicted relative error of each pair of ranks for one group."""
        wanted = [_ranks(choice) for choice in choices]
        sides = (list(dict.fromkeys(side)) for side in zip(*wanted, strict=True))
        found = {(a, b): error for a, b, error in tucker_fit.errors(kernel, moments, *sides)}
        return [found[pair] for pair in wanted]

    def fit_group(self, kernel: Array, moments: Moments, choice: Choice, refine: int) -> GroupFit:
        """The factors of one group."""
        factors = tucker_fit.fit_factors(kernel, moments, *_ranks(choice), refine=refine)
        return GroupFit(factors, factors.kernel())

    def blank(self, kernel: Array, choice: Choice) -> Factors:
        """Factors of the right shapes for one group."""
        (rank_in, rank_out), (out, inside, *taps) = _ranks(choice), kernel.shape
        core = fitted.noise(rank_out or out, rank_in or inside, *taps)
        return Factors(
            fitted.noise(rank_in, inside) if rank_in else None,
            core,
            fitted.noise(out, rank_out) if rank_out else None,
        )

    def spectra(self, kernel: Array, moments: Moments, choice: Choice) -> dict[str, tuple[float, ...]]:
        """The spectrum of each side that is cut."""
        sides = {"rank_in": tucker_fit.input_spectrum, "rank_out": tucker_fit.output_spectrum}
        return {key: find(kernel, moments) for key, find in sides.items() if choice[key]}

    def assemble(self, linear: Linear, choice: Choice, parts: Sequence[Factors], bias: Array) -> Replacement:
        """The nodes of all groups together."""
        return factored.replacement(linear, factored.joined(parts), bias)


def _ranks(choice: Choice) -> tuple[int | None, int | None]:
    return int(choice["rank_in"]) or None, int(choice["rank_out"]) or None
