"""Shrink the map before a 1x1 convolution instead of behind it.

What
    A 1x1 convolution in front of a Resize that makes fewer pixels is done on those.

        x ─ 1x1 ─ Resize(×½) ─ y        x ─ Resize(×½) ─ 1x1 ─ y

Maths
    As in resize_after_pointwise: Σ_j a_j (W x[j] + b) = W (Σ_j a_j x[j]) + b where Σ_j a_j = 1.

When it applies
    1. The 1x1 has no padding; a stride becomes a Slice in front. Nobody else reads its output, or what stands
       in between: its weights may be anything.
    2. Nearest: operators that work pixel by pixel (Relu and the like, PRelu, per-channel arithmetic) may
       stand in between. Linear and cubic, also with antialias: only BatchNormalization and per-channel Mul,
       Add, Sub, Div and Neg; a Relu of a mean is not the mean of Relus.
    3. Not tf_crop_and_resize, which puts a fixed value outside of its region; the channels are not resized.
    4. No run leaves no pixel at all: on an empty map no convolution runs.
    5. There are fewer MACs.

Exactness
    Exact: sums change their order.

Cost
    MACs fall by the ratio of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.patterns.least_sizes import MAY_BE_EMPTY, LeastSizes
from graphopt.rewrites.patterns.pixelwise import dying, operators_before, pass_cost, replay, subsampled
from graphopt.rewrites.patterns.resized import Resize, elements, resize_cost, resize_of, resized
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class ResizeBeforePointwise(ExactRewrite):
    """Shrinks the map before a 1x1 convolution instead of behind it."""

    name: ClassVar[str] = "resize_before_pointwise"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each resizing behind a 1x1."""
        for node in analysis.nodes.values():
            found = _found(analysis, node)
            if found is None:
                continue
            resize, linear, chain = found
            small, large = (elements(analysis.shape(value)) for value in (resize.y, resize.x))
            if small >= large:
                continue
            where = site(analysis, [node, linear.node, *chain, *resize.sizing])
            reason = _refusal(analysis, resize, linear)
            if reason:
                yield Rejection(self.name, where, f"{linear.name} → {analysis.name(node)}: {reason}")
                continue
            before = Cost(0)
            for each in dying(analysis, [node, linear.node, *chain]):
                at = each is linear.node
                before += analysis.linear_cost(linear) if at else resize_cost(analysis, each, linear.itemsize)
            after = _cost(analysis, resize, linear, chain)
            if before.macs is None or after.macs is None:
                yield Rejection(self.name, where, f"{linear.name}: its sizes are unknown")
            elif after.macs >= before.macs:
                reason = f"{linear.name} has other readers, so its {after.macs:,} MACs would come on top"
                yield Rejection(self.name, where, reason)
            else:
                yield Candidate(self.name, where, before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The resized input, the 1x1 on it, and what stood in between."""
        found = _found(analysis, analysis.nodes[candidate.site.nodes[0]])
        assert found is not None
        resize, linear, chain = found
        builder = Builder(linear.dtype)
        x = subsampled(analysis, builder, linear.x, linear.form.strides)
        x = resized(analysis, builder, resize, x, linear.in_channels or 1)
        y = builder.like(linear, replace(linear.form, strides=(1,) * len(linear.kernel)), x)
        y = replay(builder, chain, linear.node.outputs[0], y)
        return builder.replacement({resize.y.name or "": y})


def _found(analysis: Analysis, node: ir.Node) -> tuple[Resize, Linear, list[ir.Node]] | None:
    """A resizing, the 1x1 in front of it, and the operators in between, first one first."""
    resize = resize_of(analysis, node)
    if resize is None:
        return None
    value, chain = operators_before(analysis, resize.x, node.graph, mixing=not resize.nearest)
    linear = analysis.linear(value.producer())
    if linear is None or linear.op != "Conv" or not linear.pointwise or linear.node.graph is not node.graph:
        return None
    return resize, linear, chain


def _refusal(analysis: Analysis, resize: Resize, linear: Linear) -> str:
    if linear.blocked or resize.obstacle:
        return linear.blocked or resize.obstacle
    if linear.form.padded:
        return f"{linear.name} pads, so its output has a border that its input has not"
    if linear.in_channels is None:
        return f"the input channels of {linear.name} are unknown"
    if analysis.cached(LeastSizes).may_be_empty(resize.y):
        return MAY_BE_EMPTY
    return ""


def _cost(analysis: Analysis, resize: Resize, linear: Linear, chain: list[ir.Node]) -> Cost:
    shape = analysis.shape(resize.y)
    if shape is None or linear.input_shape is None:
        return Cost(None)
    small = (shape[0], linear.in_channels, *shape[2:])
    weights = (linear.out_channels or 1, (linear.in_channels or 1) // linear.group, *linear.kernel)
    form = replace(linear.form, strides=(1,) * len(linear.kernel))
    cost = linear_cost(form, weights, small, linear.itemsize)
    cost = replace(cost, params=linear.params, weight_bytes=linear.params * linear.itemsize)
    cost += pass_cost(linear.itemsize, resize.passes * elements(small), elements(small))
    if linear.form.strided:
        cost += pass_cost(
            linear.itemsize, elements(analysis.shape(resize.x)), elements(analysis.shape(resize.x))
        )
    for _ in chain:
        cost += pass_cost(linear.itemsize, elements(shape), elements(shape))
    return cost
