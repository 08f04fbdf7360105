"""Replace a trained k×k convolution by kh×1 → 1×kw, fitted to calibration inputs.

What
    A k×k convolution becomes two that take different axes, with r channels a group between them, in either
    order. A 3-D one may be split in any way into two.

        x ─ 3x3 (64→64) ─ y        x ─ 3x1 (64→48) ─ 1x3 (48→64) ─ y

Maths
    W[o, i, a, b] ≈ Σ over r of B[o, r, b] · A[r, i, a]: the encoder-decoder of ``bottleneck`` with pairs of a
    channel and a tap on the first axes as channels, and the taps on the other axes as taps, fitted in the
    same way: E‖y − ŷ‖² is least over the inputs that the convolution sees.

When it applies
    1. The weights are constants, with more than one tap on two axes or more, the operator is not depthwise,
       and each group has at least ``min_channels`` channels a side, or 7 taps or more on an axis.
    2. No linear operator with more channels directly feeds it or reads it: then it is part of a bottleneck.
    3. The factors have fewer MACs.

Exactness
    Approximate. The predicted error is E‖y − ŷ‖² / Var(y); the measured one comes from held-out inputs.

Cost
    r·(c·kh·positions between + o·kw·output pixels) MACs. Stride, pads and dilation of an axis go to the
    operator that takes it.

References:
    Jaderberg et al. 2014, "Speeding up convolutional neural networks with low rank expansions", section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.linear import Linear
from graphopt.numerics.lowrank import separable
from graphopt.numerics.lowrank.moments import Moments
from graphopt.numerics.lowrank.separable import Pair
from graphopt.rewrites.factoring import fitted, separated
from graphopt.rewrites.factoring.fitted import GroupFit, Split
from graphopt.types import Array, Choice, Cost, Replacement


@dataclass(frozen=True)
class Separable(Split):
    """Replaces a k×k convolution by kh×1 → 1×kw of lower rank, under a budget."""

    name: ClassVar[str] = "separable"

    rank: int | None = None
    """Channels of each group between the two; the plan chooses where it is not given."""
    min_channels: int = 8
    """Operators with fewer input or output channels in a group are left alone."""

    def takes(self, linear: Linear) -> bool:
        """Convolutions with several taps on two axes or more."""
        return sum(k > 1 for k in linear.kernel) > 1

    def choices(self, linear: Linear) -> list[Choice]:
        """Orders of the axes with ranks a group; a fixed rank goes with the cheapest order."""
        found: list[Choice] = [
            {"first": separated.named(first), "rank": rank}
            for first in separated.orders(linear)
            for rank in self._ranks(linear, first)
        ]
        return [min(found, key=lambda c: self.cost(linear, c).macs or 0)] if self.fixed and found else found

    def _ranks(self, linear: Linear, first: tuple[int, ...]) -> list[int]:
        assert linear.in_channels is not None and linear.out_channels is not None
        inside, out = linear.in_channels // linear.group, linear.out_channels // linear.group
        highest = min(
            inside * math.prod(linear.kernel[axis] for axis in first),
            out * math.prod(k for axis, k in enumerate(linear.kernel) if axis not in first),
        )
        if self.rank is not None:
            return [self.rank] if self.rank < highest else []
        channels = min(inside, out)
        if channels < self.min_channels:  # of a long kernel
            return fitted.grid(highest)
        wider = [channels + rank for rank in (0, *fitted.grid(channels))]
        return [rank for rank in (*fitted.grid(channels), *wider) if rank < highest]

    def describe(self, choice: Choice) -> str:
        """The rank."""
        return separated.described(choice)

    def cost(self, linear: Linear, choice: Choice) -> Cost:
        """The cost of both operators."""
        return separated.cost(linear, separated.axes(choice["first"]), int(choice["rank"]))

    def errors(self, kernel: Array, moments: Moments, choices: Sequence[Choice]) -> list[float]:
        """The predicted relative error of each choice for one group."""
        found: dict[tuple[str, int], float] = {}
        for name in dict.fromkeys(str(choice["first"]) for choice in choices):
            ranks = [int(choice["rank"]) for choice in choices if choice["first"] == name]
            errors = separable.separable_errors(kernel, moments, separated.axes(name), ranks)
            found.update(((name, rank), error) for rank, error in zip(ranks, errors, strict=True))
        return [found[str(choice["first"]), int(choice["rank"])] for choice in choices]

    def fit_group(self, kernel: Array, moments: Moments, choice: Choice, refine: int) -> GroupFit:
        """Both kernels of one group."""
        first, rank = separated.axes(choice["first"]), int(choice["rank"])
        pair = separable.fit_separable(kernel, moments, first, rank, refine=refine)
        return GroupFit(pair, pair.kernel)

    def blank(self, kernel: Array, choice: Choice) -> Pair:
        """Kernels of the right shapes for one group."""
        first, rank = separated.axes(choice["first"]), int(choice["rank"])
        out, inside, *taps = kernel.shape
        ours = [k if axis in first else 1 for axis, k in enumerate(taps)]
        theirs = [1 if axis in first else k for axis, k in enumerate(taps)]
        return Pair(fitted.noise(rank, inside, *ours), fitted.noise(out, rank, *theirs), kernel.astype(float))

    def spectra(self, kernel: Array, moments: Moments, choice: Choice) -> dict[str, tuple[float, ...]]:
        """The spectrum of the channels between the two."""
        first = separated.axes(choice["first"])
        return {"rank": separable.separable_spectrum(kernel, moments, first)}

    def assemble(self, linear: Linear, choice: Choice, parts: Sequence[Pair], bias: Array) -> Replacement:
        """The nodes of all groups together."""
        pairs = [(pair.first, pair.second) for pair in parts]
        return separated.replacement(linear, separated.axes(choice["first"]), pairs, bias)
