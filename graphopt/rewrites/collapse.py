"""Collapse two linear operators in a row into one.

What
    Conv → Conv, Gemm → Gemm or MatMul → MatMul without anything non-linear in between become one operator,
    where that has fewer MACs.

        x ─ 1x1 (64→256) ─ 1x1 (256→64) ─ y        x ─ 1x1 (64→64) ─ y
        x ─ 1x1 (64→256) ─ 3x3 (256→64) ─ y        x ─ 3x3 (64→64) ─ y

Maths
    W[o, i] = Σ_m W₂[o, m] ∗ W₁[m, i], a full convolution of kernels in which W₂ is dilated by the stride s₁:
    extent e₁ + s₁·(e₂ − 1), stride s₁·s₂, pads p₁ + s₁·p₂, bias b₂ + Σ_taps W₂ b₁. The output sizes agree,
    since ⌊⌊a / s₁⌋ / s₂⌋ = ⌊a / (s₁·s₂)⌋.

When it applies
    1. Both have constant weights; the first's output is no output of the graph.
    2. The one operator has fewer MACs than the two (than the second alone, where others read the first too).
       A bottleneck such as 64 → 8 → 64 therefore stays.
    3. Where the second pads with zeros, on that axis the first must have extent 1 and no padding, and no bias
       at all: the second would pad the first's output with 0, the one operator pads with W₂ b₁.
    Identity and Dropout in inference mode may stand in between.

Exactness
    Exact. Kernels are composed in float64 and rounded once.

Cost
    MACs fall, or it is not done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import kernel
from graphopt.analysis import Analysis
from graphopt.conv import Builder, Form, Linear, linear_cost
from graphopt.core import Array, Candidate, Exactness, Rejection, Replacement
from graphopt.lowrank import Moments
from graphopt.rewrites.common import linear_before, site

COMPOSABLE = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Collapse:
    """Collapses two linear operators in a row into one."""

    name: ClassVar[str] = "collapse"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each linear operator that reads another one's output."""
        for second in analysis.linears:
            source = second.node.inputs[0]
            first, between = linear_before(analysis, source) if source is not None else (None, [])
            if first is None or first.op not in COMPOSABLE or second.op != first.op:
                continue
            chain = [first.node, *reversed(between), second.node]
            place = site(analysis, [second.node, *chain[:-1]])
            reason = _refusal(first, second, chain)
            if reason:
                yield Rejection(self.name, place, f"{first.name} → {second.name}: {reason}")
                continue
            form, shape = _composed(first, second)
            after = linear_cost(form, shape, first.input_shape, first.dtype.itemsize)
            gone = [node for node in chain if node is second.node or _read_here_only(analysis, node, chain)]
            before = analysis.cost(gone)
            if after.macs is None or before.macs is None:
                yield Rejection(self.name, place, f"{first.name} → {second.name}: their sizes are unknown")
            elif after.macs >= before.macs:
                reason = (
                    f"one operator would cost {after.macs:,} MACs, not less than the {before.macs:,} saved"
                )
                yield Rejection(self.name, place, f"{first.name} → {second.name}: {reason}")
            else:
                yield Candidate(self.name, place, before, after)

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Moments] | None = None
    ) -> Replacement:
        """The composed operator, on the first one's input."""
        names = candidate.site.nodes
        second, first = analysis.linear(analysis.nodes[names[0]]), analysis.linear(analysis.nodes[names[1]])
        assert first is not None and second is not None
        composed, group, dilations = kernel.compose(
            first.weight(),
            second.weight(),
            group_first=first.group,
            group_second=second.group,
            stride_first=first.form.strides,
            dilation_first=first.form.dilations,
            dilation_second=second.form.dilations,
        )
        form = _form(first, second, group, dilations)
        builder = Builder(second.dtype)
        y = builder.linear(form, first.x, composed, _bias(first, second), rank=second.rank)
        return builder.replacement({second.y: y})


def _read_here_only(analysis: Analysis, node: ir.Node, chain: list[ir.Node]) -> bool:
    """Whether a node goes away with the chain: nothing else reads it, nor what follows it in the chain."""
    following = chain[chain.index(node) :]
    return all(analysis.sole_consumer(link.outputs[0]) is not None for link in following[:-1])


def _refusal(first: Linear, second: Linear, chain: list[ir.Node]) -> str:
    """Why the two can't be one operator, whatever it costs; "" when they can."""
    if any(node.graph is not second.node.graph for node in chain):
        return "they are in different graphs"
    for linear in (first, second):
        if linear.obstacle:
            return f"{linear.name}: {linear.obstacle}"
    if first.dtype != second.dtype:
        return f"their types differ ({first.dtype}, {second.dtype})"
    if first.op == "MatMul" and (first.rank is None or first.rank < 2):
        return "the rank of its input is unknown"
    axes = len(second.kernel)
    padded = [a for a in range(axes) if second.form.pads[a] or second.form.pads[a + axes]]
    if not padded:
        return ""
    for axis in padded:
        if first.kernel[axis] != 1 or first.form.pads[axis] or first.form.pads[axis + axes]:
            return f"the second pads axis {axis}, where the first has more than one tap or pads too"
    bias = first.bias()
    if bias is not None and np.any(bias):
        return "the second pads with zeros, which the first one's bias would have to shift at the border"
    return ""


def _form(first: Linear, second: Linear, group: int, dilations: tuple[int, ...]) -> Form:
    axes = len(second.kernel)
    steps = first.form.strides * 2
    return Form(
        second.op,
        group,
        tuple(a * b for a, b in zip(first.form.strides, second.form.strides, strict=True)),
        tuple(p + s * q for p, s, q in zip(first.form.pads, steps, second.form.pads, strict=True)),
        dilations or (1,) * axes,
    )


def _composed(first: Linear, second: Linear) -> tuple[Form, tuple[int, ...]]:
    """Form and weight shape of the one operator, without reading any weight."""
    group, extents, dilations = kernel.composed_shape(
        first.kernel,
        second.kernel,
        groups=(first.group, second.group),
        stride_first=first.form.strides,
        dilation_first=first.form.dilations,
        dilation_second=second.form.dilations,
    )
    shape = (second.out_channels or 1, (first.in_channels or 1) // group, *extents)
    return _form(first, second, group, dilations), shape


def _bias(first: Linear, second: Linear) -> Array | None:
    ours, theirs = first.bias(), second.bias()
    return theirs if ours is None else kernel.compose_bias(ours, second.weight(), theirs, second.group)
