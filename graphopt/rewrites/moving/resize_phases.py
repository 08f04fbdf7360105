"""Convolve the map in front of a nearest-neighbour enlargement, one phase at a time.

What
    A k×k convolution behind a Resize or Upsample that repeats each pixel s times is done on the small map: as
    one ConvTranspose of stride s, or as one small convolution for each phase that differs, interleaved.

        x ─ Resize(×2) ─ 3x3 ─ y        x ─ ConvTranspose(4x4, stride 2) ─ y

                                               ┌ 2x2, 2x1, 2x2 ┐
        x ─ Resize(×8) ─ 3x3 ─ y        x ─────┤ 1x2, 1x1, 1x2 ├─ Concat ─ DepthToSpace(8) ─ y
                                               └ 2x2, 2x1, 2x2 ┘

    Behind a Concat of maps that are repeated 8, 4, 2 and 1 times (the DB text-detection head) the convolution
    is split by input channels, each part done at its own size, and the results added.

Maths
    Position q·s + r of the output reads, at tap t, pixel q + ⌊(r + t·d − p) / s⌋: for each phase r a fixed
    offset, so taps with the same offset add up; zero padding of the large map is zero padding of the small
    one. A 3x3 at s = 2 has four phases of 2·2 taps, 16 for 36; at s = 8 phases 1 to 6 are the same, so
    (2 + 1 + 2)² = 25 taps serve 576. As a ConvTranspose: (s + d·(k − 1))² taps. See
    `numerics.kernels.phases`.

When it applies
    1. The factors are whole numbers, and pixel ⌊y / s⌋ stands at y: asymmetric with floor, half_pixel with
       either rounding, tf_half_pixel_for_nn with floor.
    2. The weights are constants; over a Concat the group is 1. Each stride divides s or is a multiple.
    3. Operators that work pixel by pixel may stand behind the Resize.
    4. Phases of equal factors on two axes interleave by DepthToSpace; others need a static size, or else the
       ConvTranspose, which pads no further than its kernel.

Exactness
    Exact: taps are added in float64 and rounded once.

Cost
    The form with fewer MACs is taken; where they are equal (s up to k) the one that the static time model
    expects to be faster. Parts of a Concat that phases do not make cheaper stay as they are.

References:
    Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?" (arXiv 1609.07009);
    Liao et al. 2019, "Real-time scene text detection with differentiable binarization" (arXiv 1911.08947).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import phases
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.moving.resized_parts import ChannelRange, ResizedInput, reading
from graphopt.rewrites.patterns.common import cheaper, propose
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.rewrites.patterns.resized import Resize, elements
from graphopt.rewrites.patterns.slicing import add_slice
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement, Shape


@dataclass(frozen=True, slots=True)
class _PhaseForm:
    """How one group of parts is convolved.

    Attributes:
        axes: the phases of each spatial axis.
        transposed: whether it is one ConvTranspose.
        low: shape of the small map.
        cost: what it costs.
    """

    axes: tuple[phases.Axis, ...]
    transposed: bool
    low: Shape
    cost: Cost


@dataclass(frozen=True)
class ResizePhases(ExactRewrite):
    """Convolves the map in front of a nearest-neighbour enlargement, one phase at a time."""

    name: ClassVar[str] = "resize_phases"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each convolution that reads repeated pixels."""
        for linear in analysis.linears:
            found = _reading(analysis, linear)
            if found is None:
                continue
            for node, why in found.missed.items():
                pair = f"{analysis.name(node)} → {linear.name}"
                yield propose(self.name, analysis, [linear.node, node], pair, why)
            if not found.groups:
                continue
            found = _cheaper(analysis, found)
            before, forms = analysis.linear_cost(linear) + found.passing(analysis), _forms(analysis, found)
            dearer = "its phases cost {after:,} MACs, not less than {before:,}"
            offer = forms if isinstance(forms, str) else cheaper((before, _cost(found, forms)), dearer)
            yield propose(self.name, analysis, [*found.nodes, *found.sizing], linear.name, offer)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolutions on the small maps, and the sum with what meets the other maps."""
        linear = anchor(analysis, candidate)
        everything = _reading(analysis, linear)
        assert everything is not None
        found = _cheaper(analysis, everything)
        forms = _forms(analysis, found)
        assert not isinstance(forms, str)
        builder = Builder(linear.dtype)
        weight, bias = linear.weight(), linear.bias()
        total = None
        if found.plain:
            total = builder.linear(linear.form, found.rest(builder), _of(weight, found.plain, linear), bias)
        for group, form in zip(found.groups, forms, strict=True):
            shift = bias if total is None else None
            x, part = found.low(builder, group), _of(weight, group, linear)
            if form.transposed:
                y = _transposed(builder, linear, form, x, part, shift)
            else:
                y = _interleaved(analysis, builder, linear, form, x, part, shift)
            total = y if total is None else builder.node("Add", [total, y], {}, "/sum")
        assert total is not None
        return builder.replacement({linear.y: total})


def _reading(analysis: Analysis, linear: Linear) -> ResizedInput | None:
    if not linear.kernel or linear.pointwise:
        return None

    def wanted(resize: Resize, y: ir.Value) -> str:
        if resize.repeats is None:
            return "it does not repeat pixels a whole number of times"
        return "" if max(resize.repeats) > 1 else "it repeats no pixel"

    return reading(analysis, linear, wanted)


def _of(weight: Array, parts: tuple[ChannelRange, ...], linear: Linear) -> Array:
    """The weights that some parts meet."""
    if linear.group > 1:  # of a single part
        return weight
    return weight[:, [part.start + i for part in parts for i in range(part.channels)]]


# ---------------------------------------------------------------- which form, and what it costs


def _forms(analysis: Analysis, found: ResizedInput) -> tuple[_PhaseForm, ...] | str:
    """The cheaper form of each group, or why there is none."""
    linear = found.linear
    if linear.obstacle:
        return linear.obstacle
    if linear.group > 1 and not (found.whole and len(found.groups[0]) == 1):
        return f"its {linear.group} groups do not follow the Concat's parts"
    if linear.form.auto_pad:
        return "auto_pad=SAME with a stride, and the size is not static"
    forms = []
    for group in found.groups:
        resize = group[0].resize
        assert resize is not None and resize.repeats is not None
        axes = _axes(linear, resize.repeats)
        if axes is None:
            return f"strides {linear.form.strides} and factors {resize.repeats} have no common period"
        low = found.low_shape(analysis, group)
        if None in low:
            return "its sizes are unknown"
        options = []
        if _interleaves(axes, analysis.fixed_shape(resize.x)):
            options.append(_PhaseForm(axes, False, low, _phase_cost(linear, axes, low)))
        if _transposes(linear, axes):
            options.append(_PhaseForm(axes, True, low, _transposed_cost(linear, axes, low)))
        if not options:
            return "its phases can't be interleaved at sizes that are not static"
        forms.append(min(options, key=lambda form: (form.cost.macs or 0, form.cost.seconds)))
    return tuple(forms)


def _cheaper(analysis: Analysis, found: ResizedInput) -> ResizedInput:
    """What is read, less the groups whose phases cost no less than the convolution as it is; or all of it."""
    linear = found.linear
    forms = _forms(analysis, found)
    if isinstance(forms, str) or linear.macs is None or linear.in_channels is None:
        return found
    kept = [
        group
        for group, form in zip(found.groups, forms, strict=True)
        if (form.cost.macs or 0) < linear.macs * (form.low[1] or 0) // linear.in_channels
    ]
    return found.keeping(kept) if kept else found


def _axes(linear: Linear, repeats: tuple[int, ...]) -> tuple[phases.Axis, ...] | None:
    form, count = linear.form, len(linear.kernel)
    axes = [
        phases.axis(
            repeats[a],
            linear.kernel[a],
            stride=form.strides[a],
            dilation=form.dilations[a],
            pad_begin=form.pads[a],
            pad_end=form.pads[a + count],
        )
        for a in range(count)
    ]
    known = tuple(axis for axis in axes if axis is not None)
    return known if len(known) == count else None


def _interleaves(axes: tuple[phases.Axis, ...], shape: Shape | None) -> bool:
    """Whether the phases can be put together."""
    periods = [axis.period for axis in axes]
    if max(periods) == 1 or (len(periods) == 2 and periods[0] == periods[1]):
        return True
    return shape is not None and None not in shape[2:]


def _transposes(linear: Linear, axes: tuple[phases.Axis, ...]) -> bool:
    return not linear.form.strided and min(_transposed_pads(linear)) >= 0


def _transposed_pads(linear: Linear) -> tuple[int, ...]:
    reach = [d * (k - 1) for k, d in zip(linear.kernel, linear.form.dilations, strict=True)]
    return tuple(r - p for r, p in zip(reach * 2, linear.form.pads, strict=True))


def _transposed_form(linear: Linear, axes: tuple[phases.Axis, ...]) -> Form:
    spread = zip(axes, linear.form.dilations, strict=True)
    return Form(
        "ConvTranspose",
        linear.group,
        tuple(axis.scale for axis in axes),
        _transposed_pads(linear),
        tuple(1 if axis.scale > 1 else d for axis, d in spread),
        (0,) * len(axes),
    )


def _transposed_cost(linear: Linear, axes: tuple[phases.Axis, ...], low: Shape) -> Cost:
    reach = zip(axes, linear.kernel, linear.form.dilations, strict=True)
    taps = [axis.scale + d * (k - 1) if axis.scale > 1 else k for axis, k, d in reach]
    weights = (linear.out_channels or 1, (low[1] or 0) // linear.group, *taps)
    return linear_cost(_transposed_form(linear, axes), weights, low, linear.itemsize, bias=False)


def _phase_form(linear: Linear, axes: tuple[phases.Axis, ...], chosen: tuple[phases.Phase, ...]) -> Form:
    ends = [axis.pad_end[axis.phases.index(phase)] for axis, phase in zip(axes, chosen, strict=True)]
    return Form(
        "Conv",
        linear.group,
        tuple(axis.step for axis in axes),
        (*(-phase.first for phase in chosen), *ends),
        tuple(phase.dilation for phase in chosen),
    )


def _phase_cost(linear: Linear, axes: tuple[phases.Axis, ...], low: Shape) -> Cost:
    total = Cost(0)
    for chosen in product(*(axis.distinct for axis in axes)):
        taps = tuple(phase.taps for phase in chosen)
        weights = (linear.out_channels or 1, (low[1] or 0) // linear.group, *taps)
        form = _phase_form(linear, axes, chosen)
        total += linear_cost(form, weights, low, linear.itemsize, bias=False)
    if max(axis.period for axis in axes) > 1:
        sizes = [axis.positions(n or 0) * axis.period for axis, n in zip(axes, low[2:], strict=True)]
        written = math.prod((low[0] or 0, linear.out_channels or 0, *sizes))
        for _ in range(2 if any(axis.surplus for axis in axes) else 1):  # Concat, Slice
            total += pass_cost(linear.itemsize, written, written)
        interleaving = 2 * written * linear.itemsize / time_model.INTERLEAVED_BYTES_PER_SECOND
        total = replace(total, seconds=total.seconds + interleaving)
    return total


def _cost(found: ResizedInput, forms: tuple[_PhaseForm, ...]) -> Cost:
    linear, total = found.linear, Cost(0)
    written = elements(linear.output_shape)
    for form in forms:
        total += form.cost
    if found.plain:
        shape = found.plain_shape()
        weights = (linear.out_channels or 1, shape[1] or 0, *linear.kernel)
        total += linear_cost(linear.form, weights, shape, linear.itemsize, bias=False)
        if len(found.plain) > 1:
            total += pass_cost(linear.itemsize, elements(shape), elements(shape))
    for _ in range(len(forms) - (0 if found.plain else 1)):
        total += pass_cost(linear.itemsize, 2 * written, written)
    bias = linear.bias_elements
    return replace(
        total, params=total.params + bias, weight_bytes=total.weight_bytes + bias * linear.itemsize
    )


# ---------------------------------------------------------------- build


def _transposed(
    builder: Builder, linear: Linear, form: _PhaseForm, x: str, weight: Array, bias: Array | None
) -> str:
    scales = [axis.scale for axis in form.axes]
    taps, _ = phases.transposed_kernel(weight, scales, linear.form.dilations)
    return builder.linear(_transposed_form(linear, form.axes), x, taps, bias)


def _interleaved(
    analysis: Analysis,
    builder: Builder,
    linear: Linear,
    form: _PhaseForm,
    x: str,
    weight: Array,
    bias: Array | None,
) -> str:
    """A convolution for each phase that differs, and their outputs in turn."""
    axes = form.axes
    made: dict[tuple[phases.Phase, ...], str] = {}
    for chosen in product(*(axis.phases for axis in axes)):
        if chosen not in made:
            taps = phases.phase_kernel(weight, chosen)
            made[chosen] = builder.linear(_phase_form(linear, axes, chosen), x, taps, bias, name="/phase")
    outputs = [made[chosen] for chosen in product(*(axis.phases for axis in axes))]
    if len(outputs) == 1:
        return outputs[0]
    y = builder.node("Concat", outputs, {"axis": 1}, "/phases")
    periods = [axis.period for axis in axes]
    if len(periods) == 2 and periods[0] == periods[1]:
        y = builder.node("DepthToSpace", [y], {"blocksize": periods[0]}, "/interleave")
    else:
        sizes = [axis.positions(n or 0) for axis, n in zip(axes, form.low[2:], strict=True)]
        y = _interleave(builder, y, linear.out_channels or 1, periods, sizes)
    return _cropped(analysis, builder, y, axes)


def _interleave(builder: Builder, y: str, channels: int, periods: list[int], sizes: list[int]) -> str:
    """[N, phases·O, spatial…] to [N, O, periods·spatial…] at static sizes."""
    count = len(periods)
    apart = builder.constant(np.array([0, *periods, channels, *sizes], np.int64), "apart")
    together = builder.constant(
        np.array([0, channels, *(p * n for p, n in zip(periods, sizes, strict=True))], np.int64), "together"
    )
    order = [0, count + 1]
    for a in range(count):
        order += [count + 2 + a, 1 + a]
    y = builder.node("Reshape", [y, apart], {}, "/apart")
    y = builder.node("Transpose", [y], {"perm": tuple(order)}, "/interleave")
    return builder.node("Reshape", [y, together], {}, "/together")


def _cropped(analysis: Analysis, builder: Builder, y: str, axes: tuple[phases.Axis, ...]) -> str:
    """Without the outputs that the phases make too many."""
    ranges = {a: (0, -axis.surplus, 1) for a, axis in enumerate(axes, start=2) if axis.surplus}
    return add_slice(builder, analysis, y, ranges, 2 + len(axes))
