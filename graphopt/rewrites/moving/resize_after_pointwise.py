"""Convolve by a 1x1 before enlarging the map instead of behind it.

What
    A 1x1 convolution behind a Resize or Upsample that makes more pixels is done on the fewer pixels in front
    of it. Behind a Concat of resized and other maps it is split, and what meets resized maps is moved.

        x ─ Resize(×2) ─ 1x1 ─ y                  x ─ 1x1 ─ Resize(×2) ─ y

        x ─ Resize(×2) ─┐                         x ─ 1x1 ─ Resize(×2) ─┐
                      Concat ─ 1x1 ─ y                                 Add ─ y
        z ──────────────┘                         z ─ 1x1 ──────────────┘

Maths
    A resized pixel is Σ_j a_j x[j] with Σ_j a_j = 1, for each channel alike. So W (Σ_j a_j x[j]) + b
    = Σ_j a_j (W x[j] + b). Over a Concat, W [x; z] + b = W_x x + (W_z z + b).

When it applies
    1. The 1x1 has stride 1 and no padding. Its weights may be anything; over a Concat its group is 1.
    2. Nearest: operators that work pixel by pixel (Relu and the like, PRelu, per-channel arithmetic) may
       stand behind the Resize. Linear and cubic: only BatchNormalization and per-channel arithmetic.
    3. Not tf_crop_and_resize, which puts a fixed value outside of its region; the channels are not resized.
    4. There are fewer MACs. Maps that are resized by the same scales are joined before they are.

Exactness
    Exact: sums change their order.

Cost
    MACs fall by the ratio of pixels on what is resized; one Add for each other size that is joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.moving.resized_parts import ResizedInput, reading
from graphopt.rewrites.patterns.common import cheaper, propose
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.rewrites.patterns.resized import Resize, elements, resized
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class ResizeAfterPointwise(ExactRewrite):
    """Convolves by a 1x1 before enlarging the map instead of behind it."""

    name: ClassVar[str] = "resize_after_pointwise"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each 1x1 that reads resized maps."""
        for linear in analysis.linears:
            found = _reading(analysis, linear)
            if found is None:
                continue
            for node, why in found.missed.items():
                pair = f"{analysis.name(node)} → {linear.name}"
                yield propose(self.name, analysis, [linear.node, node], pair, why)
            if not found.groups:
                continue
            before = analysis.linear_cost(linear) + found.passing(analysis)
            offer = _refusal(found) or cheaper((before, _cost(analysis, found)))
            if offer:
                yield propose(self.name, analysis, [*found.nodes, *found.sizing], linear.name, offer)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The 1x1 on each size of map, what is small enlarged behind it, and the sum."""
        linear = anchor(analysis, candidate)
        found = _reading(analysis, linear)
        assert found is not None
        builder = Builder(linear.dtype)
        total = None
        if found.plain:
            weight = found.weight(builder, found.plain)
            total = builder.like(linear, linear.form, found.rest(builder), weight=weight)
        for group in found.groups:
            resize, weight = group[0].resize, found.weight(builder, group)
            assert resize is not None
            low = found.low(builder, group)
            y = builder.like(linear, linear.form, low, bias=total is None, weight=weight)
            y = resized(analysis, builder, resize, y, linear.out_channels or 1)
            total = y if total is None else builder.node("Add", [total, y], {}, "/sum")
        assert total is not None
        return builder.replacement({linear.y: total})


def _reading(analysis: Analysis, linear: Linear) -> ResizedInput | None:
    if not linear.kernel or not linear.pointwise:
        return None

    def wanted(resize: Resize, y: ir.Value) -> str:
        small, large = (elements(analysis.shape(v)) for v in (resize.x, resize.y))
        return "" if small < large else "it makes no more pixels"

    return reading(analysis, linear, wanted)


def _refusal(found: ResizedInput) -> str:
    linear = found.linear
    if linear.blocked:
        return linear.blocked
    if linear.form.padded:
        return "it pads, so its output has a border that is no resized pixel"
    if linear.form.strided:
        return f"it skips pixels (strides {list(linear.form.strides)})"
    if linear.group > 1 and not (found.whole and len(found.groups[0]) == 1):
        return f"its {linear.group} groups do not follow the Concat's parts"
    return ""


def _cost(analysis: Analysis, found: ResizedInput) -> Cost:
    linear, total = found.linear, Cost(0)
    written = elements(linear.output_shape)
    sums = len(found.groups) - (0 if found.plain else 1)
    shapes = [found.low_shape(analysis, group) for group in found.groups]
    if found.plain:
        shapes.append(found.plain_shape())
        total += pass_cost(linear.itemsize, elements(shapes[-1]), elements(shapes[-1]))
    for shape in shapes:
        inside = (shape[1] or 0) // linear.group
        weights = (linear.out_channels or 1, inside, *linear.kernel)
        total += linear_cost(linear.form, weights, shape, linear.itemsize, bias=False)
    for group in found.groups:
        resize = group[0].resize
        assert resize is not None
        total += pass_cost(linear.itemsize, resize.passes * written, written)
    for _ in range(sums):
        total += pass_cost(linear.itemsize, 2 * written, written)
    params = linear.params or 0
    return replace(total, params=params, weight_bytes=params * linear.itemsize)
