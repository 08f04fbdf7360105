"""Fit a layer that keeps its form anew to what the layers before it have become, under a budget.

What
    Behind layers that got cheaper the others read inputs that are a little off. Each of them keeps its form
    and its cost, and gets the kernel and the bias that come nearest to what it made in the original.

        x ─ 1x1 (80→312) ─ depthwise 5x5 ─ 1x1 (312→80) ─ 1x1 (80→480) ─ y
        x ─ 1x1 (80→312) ─ depthwise 5x5 ─ 1x1 (312→80) ─ 1x1 (80→480), fitted anew ─ y

Maths
    With x what the layer reads by now, S its covariance and y what the layer made in the original, the kernel
    is least squares drawn towards the layer's own W: (S_yx + λ W)(S + λ)⁻¹, of each group alone. Where
    patches are few the ridge λ is the one that does best on inputs that it was not fitted to; where none does
    better than W, W stays, and the bias makes up for the mean.

When it applies
    1. The weights are constant, and no other operator reads them.
    2. The layer stands in the outermost graph, behind layers that a budget made cheaper.

Exactness
    Approximate: fitted to the budget's calibration inputs, and measured on held-out ones.

Cost
    The same as before. A plan does not choose it: it comes along with what a plan chose.

References:
    Zhang et al. 2016, "Accelerating very deep convolutional networks for classification and detection",
    section 3.3.
    He et al. 2017, "Channel pruning for accelerating very deep neural networks".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.input_statistics import known
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.rewrites.base import ApproximateRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import fits
from graphopt.rewrites.patterns.common import site
from graphopt.types import Candidate, Choice, Fitted, Rejection


@dataclass(frozen=True)
class RefitLayer(ApproximateRewrite):
    """Fits layers that keep their form anew, behind those that a budget made cheaper."""

    name: ClassVar[str] = "refit_layer"
    saves: ClassVar[bool] = False

    def describe(self, choice: Choice) -> str:
        """That it is fitted anew."""
        return "fitted anew"

    def operators(self, choice: Choice) -> int:
        """None more than before."""
        return 0

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """Every layer whose weights are its own, at no saving."""
        for linear in analysis.linears:
            place, reason = site(analysis, [linear.node]), _refusal(analysis, linear)
            if reason:
                yield Rejection(self.name, place, f"{linear.name}: {reason}")
            else:
                cost = analysis.own_cost(linear)
                yield Candidate(self.name, place, cost, cost)

    def priced(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """Nothing: it saves nothing."""
        return iter(())

    def fit(
        self,
        analysis: Analysis,
        candidate: Candidate,
        statistics: Mapping[str, Statistics] | None = None,
        *,
        refine: int = 2,
    ) -> Fitted:
        """The layer with the kernel that comes nearest to its target."""
        linear = anchor(analysis, candidate)
        given = known(linear, analysis.statistics if statistics is None else statistics)
        own = algebra.blocks(linear.weight(), linear.group)
        kernels = given.kernels or [block.astype(np.float64) for block in own]
        bias, error = fits.bias_and_error(linear, given, kernels)
        builder, kernel = Builder(linear.dtype), np.concatenate(kernels)
        y = builder.linear(linear.form, linear.x, kernel, bias, rank=linear.rank)
        return Fitted(builder.replacement({linear.y: y}), kernel, bias, error, {})


def _refusal(analysis: Analysis, linear: Linear) -> str:
    """Why a layer stays as it is; "" where it can be fits."""
    reason = linear.obstacle or fits.unusable(linear) or fits.too_wide(linear)
    return reason or ("others read its weights too" if fits.shared(analysis, linear) else "")
