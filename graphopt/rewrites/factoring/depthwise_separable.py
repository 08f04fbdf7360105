"""Replace a trained k×k convolution by a depthwise k×k and a 1x1, fitted to calibration inputs.

What
    A k×k convolution becomes a depthwise one, with m kernels for each channel, and a 1x1 that mixes what
    they make.

        x ─ 3x3 (64→64) ─ y        x ─ depthwise 3x3 (64→128) ─ 1x1 (128→64) ─ y

Maths
    W[o, i, t] ≈ Σ over m of P[o, (i, m)] · D[(i, m), t]. D holds for each channel the leading directions of
    its slice of the weights in the metric of that channel's covariance over the taps; P is the least-squares
    map from what they make of the inputs to the output, all channels together. Then D and P alternate.

When it applies
    1. The weights are constants, with more than one tap, the operator is not depthwise, and each group has at
       least ``min_channels`` channels a side, or 7 taps or more on an axis.
    2. No linear operator with more channels directly feeds it or reads it: then it is part of a bottleneck.
    3. The factors have fewer MACs.

Exactness
    Approximate. The predicted error is E‖y − ŷ‖² / Var(y); the measured one comes from held-out inputs.

Cost
    c·m·(taps + o) MACs an output pixel. onnxruntime takes longer over a depthwise convolution than its MACs
    say, so that a plan by measured time seldom takes this form.

References:
    Guo et al. 2018, "Network decoupling: from regular to depthwise separable convolutions".
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
from graphopt.rewrites.factoring import deepened, fitted
from graphopt.rewrites.factoring.fitted import GroupFit, Split
from graphopt.types import Array, Choice, Cost, Replacement


@dataclass(frozen=True)
class DepthwiseSeparable(Split):
    """Replaces a k×k convolution by a depthwise k×k with a multiplier and a 1x1, under a budget."""

    name: ClassVar[str] = "depthwise_separable"

    multiplier: int | None = None
    """Depthwise kernels for each channel; the plan chooses where it is not given."""
    min_channels: int = 8
    """Operators with fewer input or output channels in a group are left alone."""

    def choices(self, linear: Linear) -> list[Choice]:
        """Multipliers below the number of taps."""
        taps = math.prod(linear.kernel)
        if self.multiplier is not None:
            return [{"multiplier": self.multiplier}] if self.multiplier < taps else []
        return [{"multiplier": multiplier} for multiplier in range(1, taps)]

    def describe(self, choice: Choice) -> str:
        """The multiplier."""
        return deepened.described(choice)

    def cost(self, linear: Linear, choice: Choice) -> Cost:
        """The cost of both operators."""
        return deepened.cost(linear, int(choice["multiplier"]), last=True)

    def errors(self, kernel: Array, moments: Moments, choices: Sequence[Choice]) -> list[float]:
        """The predicted relative error of each multiplier for one group."""
        multipliers = [int(choice["multiplier"]) for choice in choices]
        return separable.depthwise_errors(kernel, moments, multipliers)

    def fit_group(self, kernel: Array, moments: Moments, choice: Choice, refine: int) -> GroupFit:
        """Both kernels of one group."""
        pair = separable.fit_depthwise(kernel, moments, int(choice["multiplier"]), refine=refine)
        return GroupFit(pair, pair.kernel)

    def blank(self, kernel: Array, choice: Choice) -> Pair:
        """Kernels of the right shapes for one group."""
        out, inside, *taps = kernel.shape
        wide = inside * int(choice["multiplier"])
        return Pair(fitted.noise(wide, 1, *taps), fitted.noise(out, wide), kernel.astype(float))

    def spectra(self, kernel: Array, moments: Moments, choice: Choice) -> dict[str, tuple[float, ...]]:
        """What each further kernel a channel carries."""
        return {"multiplier": separable.depthwise_spectrum(kernel, moments)}

    def assemble(self, linear: Linear, choice: Choice, parts: Sequence[Pair], bias: Array) -> Replacement:
        """The nodes of all groups together."""
        return deepened.replacement(linear, [(pair.first, pair.second) for pair in parts], bias, last=True)
