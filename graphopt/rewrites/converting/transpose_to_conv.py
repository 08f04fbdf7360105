"""Turn a ConvTranspose of stride 1 into a convolution.

What
    A ConvTranspose that moves one output position an input position is a Conv with its taps in reverse order.

        x ─ ConvTranspose 1x1 (64→32) ─ y        x ─ Conv 1x1 (64→32) ─ y

Maths
    y[q] = Σ_t W[t] x[q + p − t·d] at stride 1. With t' = k − 1 − t it is Σ_t' W'[t'] x[q + t'·d − p'] with
    W'[t'] = W[k − 1 − t'] and p' = d·(k − 1) − p in front; behind, the output padding adds to it.

When it applies
    1. All strides are 1 and the weights are constants.
    2. No p' is negative: the ConvTranspose crops no more than its kernel adds.
    3. The MACs don't rise. A ConvTranspose multiplies each input position, a Conv each output position, so a
       kernel that enlarges the map stays.

Exactness
    Exact. Weights are reordered, not computed.

Cost
    Same MACs or fewer. onnxruntime computes a ConvTranspose by scattering, about as fast as a Conv or slower;
    and a Conv is what other rewrites compose. No rewrite makes a ConvTranspose of stride 1, so there is an
    end.

References:
    Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class TransposeToConv(ExactRewrite):
    """Turns a ConvTranspose of stride 1 into a convolution."""

    name: ClassVar[str] = "transpose_to_conv"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each ConvTranspose of stride 1."""
        for linear in analysis.linears:
            if linear.op != "ConvTranspose" or linear.form.strided:
                continue
            found = linear.obstacle or _refusal(linear) or _costs(analysis, linear)
            yield propose(self.name, analysis, [linear.node], linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolution with its taps reversed."""
        linear = anchor(analysis, candidate)
        builder = Builder(linear.dtype)
        weight = np.flip(linear.weight(), axis=tuple(range(2, 2 + len(linear.kernel))))
        return builder.replacement({linear.y: builder.linear(_form(linear), linear.x, weight, linear.bias())})


def _costs(analysis: Analysis, linear: Linear) -> tuple[Cost, Cost] | str:
    before = analysis.linear_cost(linear)
    assert linear.in_channels is not None and linear.out_channels is not None
    shape = (linear.out_channels, linear.in_channels // linear.group, *linear.kernel)
    biased = linear.bias_elements > 0
    after = linear_cost(_form(linear), shape, linear.input_shape, linear.itemsize, biased)
    if after.macs is None or before.macs is None or after.macs > before.macs:
        return f"a convolution would have {after.macs} MACs, the ConvTranspose has {before.macs}"
    return before, replace(after, seconds=min(after.seconds, before.seconds))


def _refusal(linear: Linear) -> str:
    pads = _form(linear).pads
    return f"it crops more than its kernel adds (pads {list(linear.form.pads)})" if min(pads) < 0 else ""


def _form(linear: Linear) -> Form:
    """The form of the convolution."""
    form, axes = linear.form, len(linear.kernel)
    added = form.output_padding or (0,) * axes
    extra = [d * (k - 1) for k, d in zip(linear.kernel, form.dilations, strict=True)]
    begin = [e - p for e, p in zip(extra, form.pads[:axes], strict=True)]
    end = [e - p + a for e, p, a in zip(extra, form.pads[axes:], added, strict=True)]
    return replace(form, op="Conv", pads=(*begin, *end), output_padding=())
