"""Shrink a kernel to the taps that do something.

What
    Taps whose weights are all 0, and taps that only ever meet padding, are left out: a smaller kernel, a
    single column, a dilated kernel, a single tap.

        5x5 pads 2, zeros around 3x3           →  3x3 pads 1
        3x3 pads 1, right column only          →  3x1 pads 1, 0 (left) and 1 (right)
        5x5 pads 2, zeros at odd taps          →  3x3 pads 2 dilation 2
        3x3 pads 12 dilation 12 on 7x7         →  1x1
        3x3 pads 1, first tap only             →  Slice [:-1, :-1] ─ 1x1 pads 1, 1, 0, 0

Maths
    y[q] = Σ_t W[t] x[q·S + t·D − P]. If W[t] counts only for t = f + g·u, u < k, then W'[u] = W[f + g·u],
    D' = g·D, P' = P − f·D in front, and behind P − D·(taps behind the last). A negative pad is a crop: a
    Slice in front; a Pad that crops on one side and pads on the other, where a map may be smaller than what
    goes. ConvTranspose: y[q·S + t·D − P] += W[t] x[q], the same P' and D', where a negative pad
    behind is output padding; in front it is none, so taps stay that would need one.
    Tap t lands on an input of size n when 0 ≤ q·S + t·D − P < n for some output q.

When it applies
    1. The weights are constant.
    2. On each axis, the taps that count have a regular distance. Landing counts only on axes whose size is
       the same at every run.
    3. Pads of auto_pad=SAME that follow from a size hold at every run only where that size is fixed.

Exactness
    Exact; terms that are 0 go.

Cost
    MACs fall with the number of taps; a Slice or Pad is new where pads become negative. Each application
    lowers the number of taps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.analysis import time_model
from graphopt.analysis.attributes import TO_THE_END
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels.borders import conv_reads, transpose_reads
from graphopt.numerics.kernels.lattice import Window
from graphopt.numerics.kernels.taps import Span, span, take, used_taps
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.rewrites.patterns.least_sizes import LeastSizes
from graphopt.rewrites.patterns.slicing import add_pad, add_slice
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class ShrinkKernel(ExactRewrite):
    """Shrinks a kernel to the taps that do something."""

    name: ClassVar[str] = "shrink_kernel"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each convolution with taps that do nothing."""
        for linear in analysis.linears:
            if linear.obstacle or math.prod(linear.kernel) < 2:
                continue
            spans = _spans(analysis, linear)
            if all(each.taps == k for each, k in zip(spans, linear.kernel, strict=True)):
                continue
            found: str | tuple[Cost, Cost] = "its pads (auto_pad) depend on a size that may change"
            if not linear.form.auto_pad:
                found = analysis.linear_cost(linear), _cost(analysis, linear, spans)
            yield propose(self.name, analysis, [linear.node], linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolution with fewer taps, on a cropped input where it no longer reaches the border."""
        linear = anchor(analysis, candidate)
        spans = _spans(analysis, linear)
        form, crops, shifts = _form(analysis, linear, spans)
        builder = Builder(linear.dtype)
        x = add_slice(builder, analysis, linear.x, crops, 2 + len(spans))
        x = add_pad(builder, analysis, x, shifts) if any(shifts) else x
        return builder.replacement(
            {linear.y: builder.linear(form, x, take(linear.weight(), spans), linear.bias())}
        )


def _spans(analysis: Analysis, linear: Linear) -> list[Span]:
    """The taps of each axis that stay."""
    used = used_taps(
        linear.weight(), [_landing(analysis, linear, axis) for axis in range(len(linear.kernel))]
    )
    if not used[0].any():  # no tap counts: a constant, which other rewrites take
        return [Span(0, k, 1) for k in linear.kernel]
    if linear.op == "Conv":
        return [span(each) for each in used]
    form, spans, axes = linear.form, [], len(linear.kernel)
    for axis, each in enumerate(used):
        step, k = form.dilations[axis], linear.kernel[axis]
        # Behind, a missing pad is output padding, of which there may be less than a stride.
        free = form.strides[axis] - 1 - (form.output_padding[axis] if form.output_padding else 0)
        behind = max(form.pads[axis + axes] + max(free, 0), 0) // step
        spans.append(span(each, form.pads[axis] // step, k - 1 - behind))
    return spans


def _landing(analysis: Analysis, linear: Linear, axis: int) -> npt.NDArray[np.bool_]:
    """Whether each tap of an axis ever meets the input; all do where the size is not fixed."""
    shape = analysis.fixed_shape(linear.node.inputs[0])
    size = None if shape is None else shape[2 + axis]
    form, k = linear.form, linear.kernel[axis]
    if size is None:
        return np.ones(k, np.bool_)
    begin, end = form.pads[axis], form.pads[axis + len(linear.kernel)]
    stride, dilation = form.strides[axis], form.dilations[axis]
    try:
        if linear.op == "Conv":
            reads = conv_reads(size, k, stride=stride, pad_begin=begin, pad_end=end, dilation=dilation)
        else:
            added = form.output_padding[axis] if form.output_padding else 0
            reads = transpose_reads(
                size, k, stride=stride, pad_begin=begin, pad_end=end, dilation=dilation, output_padding=added
            )
    except ValueError:  # no output at all
        return np.ones(k, np.bool_)
    lands: npt.NDArray[np.bool_] = np.asarray((reads >= 0).any(axis=0))
    return lands


def _form(
    analysis: Analysis, linear: Linear, spans: list[Span]
) -> tuple[Form, dict[int, list[int]], tuple[int, ...]]:
    """Strides and pads with these taps; to what the input is cropped, by axis; pads of a Pad behind that."""
    form, axes = linear.form, len(spans)
    shape = analysis.fixed_shape(linear.node.inputs[0])
    least = analysis.cached(LeastSizes).of(linear.node.inputs[0])
    begins, ends, dilations, added = [], [], [], []
    shifts = [0] * 2 * axes
    crops: dict[int, list[int]] = {}
    for axis, (each, k) in enumerate(zip(spans, linear.kernel, strict=True)):
        step = form.dilations[axis]
        begin, end = form.pads[axis] - each.first * step, form.pads[axis + axes] - (k - 1 - each.last) * step
        dilations.append(step * each.step if each.taps > 1 else 1)
        extra = form.output_padding[axis] if form.output_padding else 0
        if linear.op == "ConvTranspose":
            extra, end = extra + max(-end, 0), max(end, 0)
        else:
            size = None if shape is None else shape[2 + axis]
            end = _enough(Window(each.taps, form.strides[axis], dilations[-1], begin, end), size)
            if min(begin, end) < 0 < max(begin, end) and least[axis] < -min(begin, end):
                shifts[axis], shifts[axis + axes] = begin, end
                begin, end = 0, 0
            elif min(begin, end) < 0:
                crops[2 + axis] = [max(-begin, 0), min(end, 0) or TO_THE_END, 1]
        begins.append(max(begin, 0))
        ends.append(max(end, 0))
        added.append(extra)
    padding = tuple(added) if any(added) else ()
    pads = (*begins, *ends)
    found = replace(form, pads=pads, dilations=tuple(dilations), output_padding=padding)
    return found, crops, tuple(shifts)


def _enough(window: Window, size: int | None) -> int:
    """The window's padding behind; 0 for a negative one where that makes no further output."""
    whole = replace(window, end=0)
    if window.end < 0 and size is not None and whole.outputs(size) == window.outputs(size):
        return 0
    return window.end


def _cost(analysis: Analysis, linear: Linear, spans: list[Span]) -> Cost:
    form, crops, shifts = _form(analysis, linear, spans)
    shape = linear.input_shape
    cost = Cost(0)
    if (crops or any(shifts)) and shape is not None and None not in shape:
        sizes = [n or 0 for n in shape]
        for axis, (start, end, step) in crops.items():
            sizes[axis] = len(range(*slice(start, end, step).indices(sizes[axis])))
        for axis in range(len(spans)):
            sizes[2 + axis] += shifts[axis] + shifts[axis + len(spans)]
        moved = math.prod(sizes) * linear.itemsize
        cost, shape = Cost(0, 0, 0, moved, time_model.seconds(0, 1, 1, 1, 2 * moved)), tuple(sizes)
    weights = (linear.out_channels or 1, (linear.in_channels or 1) // linear.group)
    taps = tuple(each.taps for each in spans)
    return cost + linear_cost(form, (*weights, *taps), shape, linear.itemsize, linear.bias_elements > 0)
