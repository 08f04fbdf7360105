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
    Exact: what is cut is below the rounding of the weights.

Cost
    3x3, 64→64 at rank 16: 36,864 → 6,144 MACs an output pixel.

References:
    Rigamonti et al. 2013, "Learning separable filters".
    Jaderberg et al. 2014, "Speeding up convolutional neural networks with low rank expansions", scheme 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import numpy as np

from graphopt import factors
from graphopt.analysis import Analysis
from graphopt.conv import Builder, Form, Linear, linear_cost
from graphopt.core import Candidate, Cost, Exactness, Rejection, Replacement
from graphopt.lowrank import Moments
from graphopt.patterns import factored
from graphopt.patterns.common import site


@dataclass(frozen=True)
class LosslessSeparable:
    """Splits a convolution along its axes where its weights allow that without loss."""

    name: ClassVar[str] = "lossless_separable"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    reads_weights: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each order of the axes that pays."""
        for linear in analysis.linears:
            orders = list(_orders(linear))
            if not orders:
                continue
            place = site(analysis, [linear.node])
            reason = factored.lossless_refusal(analysis, linear)
            if reason:
                yield Rejection(self.name, place, f"{linear.name}: {reason}")
                continue
            found = False
            for first in orders:
                rank = _rank(linear, first)
                if rank is not None:
                    found = True
                    choice: dict[str, int | float | str] = {"first": ",".join(map(str, first)), "rank": rank}
                    before, after = analysis.linear_cost(linear), _cost(linear, first, rank)
                    yield Candidate(self.name, place, before, after, choice=choice)
            if not found:
                yield Rejection(self.name, place, f"{linear.name}: its rank across axes is too high to pay")

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Moments] | None = None
    ) -> Replacement:
        """Both operators; the bias is on the second, whose padding comes after the first."""
        linear = analysis.linear(analysis.nodes[candidate.site.nodes[0]])
        assert linear is not None
        rank = int(candidate.choice["rank"])
        first = tuple(int(axis) for axis in str(candidate.choice["first"]).split(","))
        pairs = [
            factors.separate(block, first, rank) for block in factored.blocks(linear.weight(), linear.group)
        ]
        builder = Builder(linear.dtype)
        form_first, form_second = _forms(linear, first)
        y = builder.linear(form_first, linear.x, np.concatenate([a for a, _ in pairs]), None, name="/first")
        y = builder.linear(form_second, y, np.concatenate([b for _, b in pairs]), linear.bias())
        return builder.replacement({linear.y: y})


def _orders(linear: Linear) -> Iterator[tuple[int, ...]]:
    """The sets of axes that the first operator may take: some, not all, of those with several taps."""
    wide = [axis for axis, k in enumerate(linear.kernel) if k > 1]
    for count in range(1, len(wide)):
        yield from combinations(wide, count)


def _forms(linear: Linear, first: tuple[int, ...]) -> tuple[Form, Form]:
    """Stride, pads and dilation of each axis go to the operator that takes it; the other steps by one."""
    axes = len(linear.kernel)
    ours = [axis in first for axis in range(axes)]
    return _part(linear.form, ours), _part(linear.form, [not taken for taken in ours])


def _part(form: Form, taken: list[bool]) -> Form:
    def of(values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return tuple(v if t else other for v, t in zip(values, taken * 2, strict=False))

    return replace(
        form,
        strides=of(form.strides, 1),
        pads=of(form.pads, 0),
        dilations=of(form.dilations, 1),
        output_padding=of(form.output_padding, 0),
    )


def _cost(linear: Linear, first: tuple[int, ...], rank: int) -> Cost:
    shape, group = linear.input_shape, linear.group
    assert shape is not None and linear.in_channels is not None and linear.out_channels is not None
    ours = tuple(k if axis in first else 1 for axis, k in enumerate(linear.kernel))
    theirs = tuple(1 if axis in first else k for axis, k in enumerate(linear.kernel))
    form_first, form_second = _forms(linear, first)
    weights = (group * rank, linear.in_channels // group, *ours)
    between = (shape[0], group * rank, *form_first.output_sizes([n or 0 for n in shape[2:]], ours))
    biased = linear.bias_elements > 0
    return linear_cost(form_first, weights, shape, linear.itemsize, False) + linear_cost(
        form_second, (linear.out_channels, rank, *theirs), between, linear.itemsize, biased
    )


def _rank(linear: Linear, first: tuple[int, ...]) -> int | None:
    """The numerical rank across the axes where it pays; the highest of all groups."""
    unit = _cost(linear, first, 1).macs
    assert unit is not None and linear.macs is not None  # MACs are proportional to the rank
    return factored.highest_rank(
        linear, lambda block: [factors.separable_matrix(block, first)], (linear.macs - 1) // max(unit, 1)
    )
