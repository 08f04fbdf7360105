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
    Exact: what is cut is below the rounding of the weights.

Cost
    3x3, 64→64 at m = 1: 36,864 → 4,672 MACs an output pixel.

References:
    Sifre 2014, "Rigid-motion scattering for image classification", chapter 6; Chollet 2017, "Xception".
    Guo et al. 2018, "Network decoupling", for the sum of m depthwise-separable parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt import factors
from graphopt.analysis import Analysis
from graphopt.conv import Builder, Linear, linear_cost
from graphopt.core import Candidate, Cost, Exactness, Rejection, Replacement
from graphopt.lowrank import Moments
from graphopt.patterns import factored
from graphopt.patterns.common import site


@dataclass(frozen=True)
class LosslessDepthwise:
    """Splits a convolution into a depthwise and a pointwise one where that loses nothing."""

    name: ClassVar[str] = "lossless_depthwise"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    reads_weights: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each side of the depthwise operator that pays."""
        for linear in analysis.linears:
            if linear.pointwise:
                continue
            place = site(analysis, [linear.node])
            reason = factored.lossless_refusal(analysis, linear)
            if reason:
                yield Rejection(self.name, place, f"{linear.name}: {reason}")
                continue
            for last in (True, False):
                multiplier = _multiplier(linear, last)
                if multiplier is not None:
                    before, after = analysis.linear_cost(linear), _cost(linear, last, multiplier)
                    choice = {"pointwise": "last" if last else "first", "multiplier": multiplier}
                    yield Candidate(self.name, place, before, after, choice=choice)

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Moments] | None = None
    ) -> Replacement:
        """Both operators; the bias is on the second."""
        linear = analysis.linear(analysis.nodes[candidate.site.nodes[0]])
        assert linear is not None and linear.in_channels is not None and linear.out_channels is not None
        multiplier, last = int(candidate.choice["multiplier"]), candidate.choice["pointwise"] == "last"
        split = factors.depthwise_then_pointwise if last else factors.pointwise_then_depthwise
        pairs = [split(block, multiplier) for block in factored.blocks(linear.weight(), linear.group)]
        first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
        point = replace(linear.form.pointwise(), group=linear.group)
        deep = replace(linear.form, group=linear.in_channels if last else linear.out_channels)
        builder, ones = Builder(linear.dtype), (1,) * len(linear.kernel)
        if last:
            y = builder.linear(deep, linear.x, first, None, name="/depthwise")
            y = builder.linear(point, y, second.reshape(*second.shape, *ones), linear.bias())
        else:
            y = builder.linear(point, linear.x, first.reshape(*first.shape, *ones), None, name="/pointwise")
            y = builder.linear(deep, y, second, linear.bias())
        return builder.replacement({linear.y: y})


def _cost(linear: Linear, last: bool, multiplier: int) -> Cost:
    """The cost of depthwise → pointwise, or of pointwise → depthwise."""
    shape, group, size = linear.input_shape, linear.group, linear.itemsize
    inside, out = linear.in_channels, linear.out_channels
    assert shape is not None and inside is not None and out is not None
    point, ones = replace(linear.form.pointwise(), group=group), (1,) * len(linear.kernel)
    biased = linear.bias_elements > 0
    if last:
        deep, wide = replace(linear.form, group=inside), inside * multiplier
        sizes = linear.form.output_sizes([n or 0 for n in shape[2:]], linear.kernel)
        weights = (out, wide // group, *ones)
        return linear_cost(deep, (wide, 1, *linear.kernel), shape, size, False) + linear_cost(
            point, weights, (shape[0], wide, *sizes), size, biased
        )
    deep, wide = replace(linear.form, group=out), out * multiplier
    between = (shape[0], wide, *shape[2:])
    return linear_cost(point, (wide, inside // group, *ones), shape, size, False) + linear_cost(
        deep, (out, multiplier, *linear.kernel), between, size, biased
    )


def _multiplier(linear: Linear, last: bool) -> int | None:
    """Kernels a channel, where that pays: the highest rank of all channels."""
    unit = _cost(linear, last, 1).macs
    assert unit is not None and linear.macs is not None  # MACs are proportional to the multiplier
    pays = (linear.macs - 1) // max(unit, 1)
    return factored.highest_rank(linear, lambda block: factors.depthwise_slices(block, last=last), pays)
