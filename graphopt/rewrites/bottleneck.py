"""Replace a trained k×k convolution by 1x1 → k×k → 1x1 of lower rank, fitted to calibration inputs.

What
    A k×k convolution becomes a 1x1 that reduces the channels, a k×k on the few channels that are left, and a
    1x1 that expands them again; or one of the two 1x1 alone.

        x ─ 3x3 (64→64) ─ y        x ─ 1x1 (64→24) ─ 3x3 (24→32) ─ 1x1 (32→64) ─ y

Maths
    Tucker-2: W ≈ U ∘ C ∘ E, fitted in closed form so that E‖y − ŷ‖² is least over the inputs that the
    convolution sees: E spans the input directions that matter most to the output in the metric of the input
    covariance, C is the least-squares map from the reduced input, and U the leading directions of the
    response (reduced-rank regression). The bias absorbs (W − Ŵ)·mean. Without calibration inputs the
    covariance is taken to be the identity, which makes it a fit of the weights alone.

When it applies
    1. The weights are constants, one group, more than one tap, and at least ``min_channels`` channels a side.
    2. The factors have fewer MACs.
    The ranks are chosen by a plan over the whole model, or fixed by ``rank_in`` and ``rank_out``.

Exactness
    Approximate. The predicted error is E‖y − ŷ‖² / Var(y); the measured one comes from held-out inputs.

Cost
    At ranks r₁, r₂: (c·r₁·input pixels + r₁·taps·r₂·output pixels + r₂·o·output pixels) MACs.

References:
    Kim et al. 2016, "Compression of deep convolutional neural networks" (Tucker-2).
    Izenman 1975, "Reduced-rank regression for the multivariate linear model".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt import lowrank
from graphopt.analysis import Analysis
from graphopt.conv import Linear
from graphopt.core import Candidate, Exactness, Rejection, Replacement
from graphopt.lowrank import Moments
from graphopt.patterns import factored
from graphopt.patterns.common import site

STEPS = 8
"""Ranks a side from which the plan chooses: the eighths of the channels."""


@dataclass(frozen=True)
class Bottleneck:
    """Replaces a k×k convolution by 1x1 → k×k → 1x1 of lower rank, under a budget."""

    name: ClassVar[str] = "bottleneck"
    exactness: ClassVar[Exactness] = Exactness.APPROXIMATE

    rank_in: int | None = None
    """Channels behind the first 1x1; the plan chooses where neither rank is given."""
    rank_out: int | None = None
    """Channels in front of the last 1x1."""
    min_channels: int = 8
    """Convolutions with fewer input or output channels are left alone."""

    @property
    def fixed(self) -> bool:
        """Whether the user chose the ranks."""
        return self.rank_in is not None or self.rank_out is not None

    def inputs_needed(self, analysis: Analysis) -> Iterator[Linear]:
        """The linear operators whose input statistics `match` and `build` use."""
        yield from (linear for linear in _anchors(analysis) if not self._refusal(linear))

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """For each k×k convolution one candidate a pair of ranks, those that no other pair beats."""
        for linear in _anchors(analysis):
            place = site(analysis, [linear.node])
            reason = self._refusal(linear)
            found = False
            if not reason:
                before = analysis.linear_cost(linear)
                for rank_in, rank_out, error in self._options(analysis, linear):
                    found = True
                    choice = {"rank_in": rank_in or 0, "rank_out": rank_out or 0}
                    after = factored.cost(linear, rank_in, rank_out)
                    yield Candidate(self.name, place, before, after, error, choice)
            if not found:
                yield Rejection(self.name, place, f"{linear.name}: {reason or 'no such ranks save MACs'}")

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Moments] | None = None
    ) -> Replacement:
        """The fitted factors."""
        linear = analysis.linear(analysis.nodes[candidate.site.nodes[0]])
        assert linear is not None
        rank_in, rank_out = (int(candidate.choice[key]) or None for key in ("rank_in", "rank_out"))
        moments = _moments(linear, statistics or analysis.moments)
        fit = lowrank.fit(linear.weight(), moments, rank_in, rank_out)
        bias = linear.bias()
        shifted = fit.bias_shift if bias is None else bias + fit.bias_shift
        return factored.replacement(linear, fit.factors, shifted)

    def _refusal(self, linear: Linear) -> str:
        if not linear.obstacle and min(linear.in_channels or 0, linear.out_channels or 0) < self.min_channels:
            channels = f"{linear.in_channels}→{linear.out_channels}"
            return f"{channels} channels are fewer than {self.min_channels}, too few to reduce"
        return factored.refusal(linear)

    def _options(self, analysis: Analysis, linear: Linear) -> list[tuple[int | None, int | None, float]]:
        """Pairs of ranks that save MACs and that no other pair beats in both MACs and error."""
        ranks_in, ranks_out = self._ranks(linear)
        macs = {(a, b): factored.cost(linear, a, b).macs or 0 for a in ranks_in for b in ranks_out}
        limit = linear.macs or 0
        if not any(count < limit for count in macs.values()):
            return []
        errors = lowrank.errors(linear.weight(), _moments(linear, analysis.moments), ranks_in, ranks_out)
        saving = sorted(
            (macs[a, b], error, a, b) for a, b, error in errors if macs[a, b] < limit and (a or b)
        )
        return [(a, b, error) for _, error, a, b in _front(saving)]

    def _ranks(self, linear: Linear) -> tuple[list[int | None], list[int | None]]:
        assert linear.in_channels is not None and linear.out_channels is not None
        if self.fixed:
            cut_in = self.rank_in if self.rank_in and self.rank_in < linear.in_channels else None
            cut_out = self.rank_out if self.rank_out and self.rank_out < linear.out_channels else None
            return [cut_in], [cut_out]
        return _grid(linear.in_channels), _grid(linear.out_channels)


def _anchors(analysis: Analysis) -> Iterator[Linear]:
    """Convolutions with more than one tap."""
    yield from (linear for linear in analysis.linears if linear.kernel and not linear.pointwise)


def _grid(channels: int) -> list[int | None]:
    step = max(1, channels // STEPS)
    return [None, *range(step, channels, step)]


def _front(
    options: list[tuple[int, float, int | None, int | None]],
) -> Iterator[tuple[int, float, int | None, int | None]]:
    """Of options sorted by MACs, those with less error than every cheaper one."""
    best = math.inf
    for option in options:
        if option[1] < best:
            best = option[1]
            yield option


def _moments(linear: Linear, statistics: Mapping[str, Moments] | None) -> Moments:
    found = None if statistics is None else statistics.get(linear.name)
    assert linear.in_channels is not None
    return found if found is not None else Moments.white(linear.in_channels * math.prod(linear.kernel))
