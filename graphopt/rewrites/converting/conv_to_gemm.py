"""Turn a convolution whose kernel covers its whole input into a fully connected layer.

What
    A convolution with one output position is a matrix product over all that it reads.

        x [N, 512, 7, 7] ─ Conv 7x7 (512→4096) ─ y        x ─ Flatten ─ Gemm (25088→4096) ─ Reshape ─ y

Maths
    y[o] = Σ over i, t of W[o, i, t] · x[i, t] + b[o]: with W and x flattened over channels and taps, a
    product.

When it applies
    1. On every spatial axis the kernel is as large as the input is in every run, and nothing is padded; one
       axis at least is larger than 1.
    2. One group, and the weights are constants.
    3. Nothing else is left to do: a convolution is what the other rewrites fold into and compose.

Exactness
    Exact. Weights are reshaped, not computed.

Cost
    Same MACs, and two operators more: a Flatten in front and a Reshape behind name the axes. They copy
    nothing, and where a Flatten or Reshape follows anyway one of the two goes. Measured in onnxruntime at one
    thread: 256→512 at 7x7, 4.3 → 1.7 ms for 8 samples, since the weights are read once for all of them; for
    one sample 0 to 50 % slower. So the aim of time takes it for several samples only. No rewrite makes such a
    convolution of a Gemm, so there is an end.

References:
    Long et al. 2015, "Fully convolutional networks for semantic segmentation", for the way back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.analysis import time_model
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class ConvToGemm(ExactRewrite):
    """Turns a convolution whose kernel covers its whole input into a fully connected layer."""

    name: ClassVar[str] = "conv_to_gemm"
    stage: ClassVar[Stage] = Stage.LAST

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each convolution with a kernel as large as its input."""
        for linear in analysis.linears:
            if linear.op != "Conv" or linear.pointwise or not _covers(analysis, linear):
                continue
            reason = linear.obstacle or (f"it has {linear.group} groups" if linear.group != 1 else "")
            found = reason or _costs(analysis, linear)
            yield propose(self.name, analysis, [linear.node], linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """Flatten, Gemm (MatMul where there is no bias) and Reshape."""
        linear = anchor(analysis, candidate)
        weight = linear.weight()
        builder = Builder(linear.dtype)
        x = builder.node("Flatten", [linear.x], {"axis": 1}, "/flatten")
        y = builder.linear(Form("MatMul"), x, weight.reshape(len(weight), -1), linear.bias(), rank=2)
        sizes = np.array([0, len(weight), *(1 for _ in linear.kernel)], np.int64)
        y = builder.node("Reshape", [y, builder.constant(sizes, "shape")], {}, "/reshape")
        return builder.replacement({linear.y: y})


def _covers(analysis: Analysis, linear: Linear) -> bool:
    """Whether the kernel is as large as the input is in every run."""
    shape = analysis.fixed_shape(linear.node.inputs[0])
    if shape is None or linear.form.padded or linear.input_shape is None:
        return False
    return tuple(shape[2:]) == linear.kernel and all(
        k == 1 or d == 1 for k, d in zip(linear.kernel, linear.form.dilations, strict=True)
    )


def _costs(analysis: Analysis, linear: Linear) -> tuple[Cost, Cost]:
    """Costs in which the time to read the weights counts, for each sample or once."""
    assert linear.input_shape is not None and linear.in_channels is not None
    samples = linear.input_shape[0] or 1
    inside, out = linear.in_channels * math.prod(linear.kernel), linear.out_channels or 1
    before = analysis.linear_cost(linear)
    after = linear_cost(
        Form("Gemm"), (out, inside), (samples, inside), linear.itemsize, linear.bias_elements > 0
    )
    once = before.weight_bytes / time_model.BYTES_PER_SECOND
    calls = 2 * time_model.SECONDS_PER_CALL
    return (
        replace(before, seconds=before.seconds + samples * once),
        replace(after, seconds=after.seconds + once + calls),
    )
