"""Remove a convolution that hands its input on.

What
    A convolution whose only numbers are ones, from each channel to itself at the tap that meets its own
    position, goes away; its bias stays as an Add.

        x ─ 3x3 (dirac) ─ y        x ─ y
        x ─ 1x1 (identity), b ─ y  x ─ Add(b) ─ y

Maths
    y[o, q] = Σ W[o, i, t] x[i, q + t·d − p] = x[o, q] where W[o, o, t] = 1 at t·d = p and 0 elsewhere.

When it applies
    1. The weights are constants, ones and zeros exactly; Conv, ConvTranspose, Gemm or MatMul, any groups.
    2. Stride 1, and the output is as large as the input.

Exactness
    Exact.

Cost
    All its MACs.

References:
    Zagoruyko and Komodakis 2017, "DiracNets".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.simplification.noops import needs_a_copy
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class IdentityConvolution(ExactRewrite):
    """Removes a convolution that hands its input on."""

    name: ClassVar[str] = "identity_convolution"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each convolution that is the identity, up to its bias."""
        for linear in analysis.linears:
            if not linear.obstacle and _is_identity(linear):
                before = analysis.linear_cost(linear)
                bias = linear.bias()
                added = 0 if bias is None or not np.any(bias) else len(bias)
                after = Cost(0, added, added * linear.itemsize)
                yield Candidate(self.name, site(analysis, [linear.node]), before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The input itself, an Identity of it where an output of the graph needs one, or an Add."""
        linear = anchor(analysis, candidate)
        assert linear.node.inputs[0] is not None
        builder, bias, y = Builder(linear.dtype), linear.bias(), linear.x
        if bias is not None and np.any(bias):
            constant = bias.reshape(-1, *(1,) * len(linear.kernel))
            y = builder.node("Add", [linear.x, builder.constant(constant, "bias")])
        elif needs_a_copy(linear.node.outputs[0], linear.node.inputs[0]):
            y = builder.node("Identity", [linear.x])
        return builder.replacement({linear.y: y})


def _is_identity(linear: Linear) -> bool:
    form, axes, out = linear.form, len(linear.kernel), linear.out_channels
    if out is None or out != linear.in_channels or form.strided:
        return False
    taps = []
    added = form.output_padding or (0,) * axes
    for axis, (k, d) in enumerate(zip(linear.kernel, form.dilations, strict=True)):
        begin, end = form.pads[axis], form.pads[axis + axes]
        if begin + end != d * (k - 1) + added[axis] or begin % d or begin // d >= k:
            return False
        taps.append(begin // d)
    if np.count_nonzero(linear.stored_weight()) != out:
        return False
    weight = linear.weight()
    per_group = out // linear.group
    tap = int(np.ravel_multi_index(taps, linear.kernel)) if taps else 0
    own = weight.reshape(out, per_group, -1)[:, :, tap]
    return np.array_equal(own, np.tile(np.eye(per_group), (linear.group, 1)))
