"""Replace a trained k×k convolution by 1x1 → depthwise k×k → 1x1, fitted to calibration inputs.

What
    A k×k convolution becomes a 1x1 to r channels, a depthwise k×k on them, and a 1x1 to the output: the block
    that mobile networks are designed from. In a convolution of several groups each group is split alone.

        x ─ 3x3 (64→64) ─ y        x ─ 1x1 (64→104) ─ depthwise 3x3 (104) ─ 1x1 (104→64) ─ y

Maths
    W[o, c, t] ≈ Σ over r of U[o, r] · D[r, t] · E[r, c], a canonical polyadic decomposition, fitted so that
    E‖y − ŷ‖² is least over the inputs that the convolution sees. U has a closed form for given D and E; those
    are found by L-BFGS, from the principal directions of input and taps
    (`numerics.lowrank.canonical_polyadic`).

When it applies
    1. The weights are constants, with more than one tap, the operator is not depthwise, and each group has at
       least ``min_channels`` channels a side, or 7 taps or more on an axis.
    2. No linear operator with more channels directly feeds it or reads it: then it is part of a bottleneck.
    3. A group's patch has at most 2,560 numbers (284 channels of 3x3): beyond, the search takes too long.
    4. The factors have fewer MACs.

Exactness
    Approximate. The predicted error is E‖y − ŷ‖² / Var(y); the measured one comes from held-out inputs.

Cost
    r·(c·input pixels + (taps + o)·output pixels) MACs. At the same MACs it loses about half of what the other
    forms lose. onnxruntime takes longer over a depthwise convolution than its MACs say.

References:
    Lebedev et al. 2015, "Speeding-up convolutional neural networks using fine-tuned CP-decomposition".
    Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.analysis.linear import Linear, linear_cost, operator
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.lowrank import canonical_polyadic
from graphopt.numerics.lowrank.canonical_polyadic import Triple
from graphopt.numerics.lowrank.moments import Moments
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.factoring import fitted
from graphopt.rewrites.factoring.fitted import GroupFit, Split
from graphopt.types import Array, Choice, Cost, Replacement

RANKS = 10
"""Ranks from which a plan chooses, about; each takes a search. Measured by benchmarks.thresholds: with 5, 10
and 20 a network kept 39.7, 40.1 and 40.0 dB."""
MOST = 0.8
"""Part of the MACs that the highest of them takes. Measured by benchmarks.thresholds: with 0.6, 0.8 and 1 a
network at half of its MACs kept 40.2, 40.1 and 39.6 dB."""
WIDE = 2_560
"""Numbers of a patch (channels of a group times taps) at most. Derived: 1e10 / (256 · 2560²) are
six steps, so that up to rank 256 `canonical_polyadic.WORK` leaves its fewest."""


@dataclass(frozen=True)
class InvertedBottleneck(Split):
    """Replaces a k×k convolution by 1x1 → depthwise k×k → 1x1, under a budget."""

    name: ClassVar[str] = "inverted_bottleneck"

    rank: int | None = None
    """Channels of each group between the two 1x1; the plan chooses where it is not given."""
    min_channels: int = 8
    """Operators with fewer input or output channels in a group are left alone."""

    def refusal(self, analysis: Analysis, linear: Linear) -> str:
        """Why an operator is not split, whatever the rank; "" when it can be."""
        dimension = operator.dimension(linear)
        if dimension > WIDE:
            return f"its patches have {dimension:,} numbers: the search is for {WIDE:,} at most"
        return super().refusal(analysis, linear)

    def choices(self, linear: Linear) -> list[Choice]:
        """Ranks that may save MACs, evenly spaced; whole blocks of channels where there are many."""
        if self.rank is not None:
            return [{"rank": self.rank}]
        assert linear.in_channels is not None and linear.out_channels is not None
        inside, out = linear.in_channels // linear.group, linear.out_channels // linear.group
        taps = math.prod(linear.kernel)
        most = int(MOST * inside * taps * out / (inside + taps + out))
        step = max(1, most // RANKS)
        if step > fitted.BLOCK // 2:
            step = max(1, round(step / fitted.BLOCK)) * fitted.BLOCK
        return [{"rank": rank} for rank in range(step, most + 1, step)]

    def describe(self, choice: Choice) -> str:
        """The channels of the depthwise operator."""
        return f"1x1 → depthwise {choice['rank']} → 1x1"

    def cost(self, linear: Linear, choice: Choice) -> Cost:
        """The cost of the three operators."""
        shape, group, size = linear.input_shape, linear.group, linear.itemsize
        assert shape is not None and linear.in_channels is not None and linear.out_channels is not None
        rank, ones = int(choice["rank"]), (1,) * len(linear.kernel)
        point, wide = replace(linear.form.pointwise(), group=group), group * rank
        sizes = linear.form.output_sizes([n or 0 for n in shape[2:]], linear.kernel)
        deep, read, made = (wide, 1, *linear.kernel), (shape[0], wide, *shape[2:]), (shape[0], wide, *sizes)
        expand, biased = (linear.out_channels, rank, *ones), linear.bias_elements > 0
        return (
            linear_cost(point, (wide, linear.in_channels // group, *ones), shape, size, False)
            + linear_cost(replace(linear.form, group=wide), deep, read, size, False)
            + linear_cost(point, expand, made, size, biased)
        )

    def errors(self, kernel: Array, moments: Moments, choices: Sequence[Choice]) -> list[float]:
        """The predicted relative error of each rank for one group."""
        return canonical_polyadic.errors(kernel, moments, [int(choice["rank"]) for choice in choices])

    def fit_group(self, kernel: Array, moments: Moments, choice: Choice, refine: int) -> GroupFit:
        """The three kernels of one group."""
        triple = canonical_polyadic.fit(kernel, moments, int(choice["rank"]), refine=refine)
        return GroupFit(triple, triple.kernel)

    def blank(self, kernel: Array, choice: Choice) -> Triple:
        """Kernels of the right shapes for one group."""
        (out, inside, *taps), rank = kernel.shape, int(choice["rank"])
        shapes = (rank, inside), (rank, 1, *taps), (out, rank)
        reduce, depth, expand = (fitted.noise(*shape) for shape in shapes)
        return Triple(reduce, depth, expand, kernel.astype(float))

    def spectra(self, kernel: Array, moments: Moments, choice: Choice) -> dict[str, tuple[float, ...]]:
        """What each component carries where the fit begins."""
        return {"rank": canonical_polyadic.spectrum(kernel, moments)}

    def assemble(self, linear: Linear, choice: Choice, parts: Sequence[Triple], bias: Array) -> Replacement:
        """The nodes: ``…/reduce`` (1x1), ``…/depthwise`` (k×k), and the last 1x1 under the old name."""
        reduce, depth, expand = (np.concatenate([part[at] for part in parts]) for at in range(3))
        builder, ones = Builder(linear.dtype), (1,) * len(linear.kernel)
        point = replace(linear.form.pointwise(), group=linear.group)
        y = builder.linear(point, linear.x, reduce.reshape(*reduce.shape, *ones), None, name="/reduce")
        y = builder.linear(replace(linear.form, group=len(depth)), y, depth, None, name="/depthwise")
        y = builder.linear(point, y, expand.reshape(*expand.shape, *ones), bias)
        return builder.replacement({linear.y: y})
