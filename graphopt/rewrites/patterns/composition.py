"""How linear operators in a row join into one: their forms, their kernels, and their biases at borders.

With n input positions, tap t, stride s, dilation d, pads p and extent E = d·(k − 1) on one axis:

    Conv            reads   input q·s + t·d − p                    for output q
    ConvTranspose   writes  output i·s + t·d − p                   from input i

    first          second         tap of the one operator          stride   begin pads (end pads alike)
    Conv           Conv           t₁d₁ + s₁·t₂d₂                   s₁·s₂    p₁ + s₁·p₂
    ConvTranspose  ConvTranspose  s₂·t₁d₁ + t₂d₂                   s₁·s₂    p₂ + s₂·p₁
    Conv           ConvTranspose  s₂·(E₁ − t₁d₁) + t₂d₂            s₂       p₂ + s₂·(E₁ − p₁)
    ConvTranspose  Conv           t₁d₁ + (E₂ − t₂d₂)               s₁       p₁ − p₂ + E₂

The one operator differs where the second reads what the first does not make: zero padding next to more than
one tap or next to padding, or what a ConvTranspose crops. `join` refuses those. Biases do not enter there;
`first_uneven` and `constant_term` follow them, by border zones (`numerics.kernels.borders`) where those are
needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from graphopt.analysis.linear import Form, Linear
from graphopt.numerics.kernels import algebra
from graphopt.numerics.kernels.borders import ZonedMap, conv_reads_per_axis, transpose_reads
from graphopt.types import Array

FLAT = frozenset({"Gemm", "MatMul"})
"""The operators that have no spatial axes."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A linear operator without its weights.

    Attributes:
        form: its strides, pads and the like.
        kernel: taps per spatial axis.
        in_channels: channels of its input.
        out_channels: channels of its output.
    """

    form: Form
    kernel: tuple[int, ...]
    in_channels: int
    out_channels: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``[out, in / group, *kernel]``."""
        return (self.out_channels, self.in_channels // self.form.group, *self.kernel)

    @property
    def pointwise(self) -> bool:
        """Whether it reads one position for each that it writes, and pads none."""
        return self.form.op != "ConvTranspose" and all(k == 1 for k in self.kernel) and not self.form.padded

    @property
    def shifts_evenly(self) -> bool:
        """Whether a constant per input channel becomes one per output channel, at borders too."""
        if self.form.op != "ConvTranspose":
            return not self.form.padded
        return all(k == 1 for k in self.kernel) and not self.form.strided and not self.form.padded


class WeightedOperator(NamedTuple):
    """A linear operator with its weights, [out, in / group, *kernel], and its bias, [out]."""

    outline: Outline
    weight: Array
    bias: Array | None


def outline(linear: Linear) -> Outline:
    """The outline of an operator whose weights may be read."""
    assert linear.in_channels is not None and linear.out_channels is not None
    return Outline(linear.form, linear.kernel, linear.in_channels, linear.out_channels)


def operator(linear: Linear) -> WeightedOperator:
    """The operator with its weights in float64."""
    return WeightedOperator(outline(linear), linear.weight(), linear.bias())


def join(first: Outline, second: Outline) -> Outline | str:
    """The one operator that does what both do, biases aside; or why there is none."""
    if (first.form.op in FLAT) != (second.form.op in FLAT) or len(first.kernel) != len(second.kernel):
        return "they have different numbers of spatial axes"
    if first.out_channels != second.in_channels:
        return f"{first.out_channels} channels come out, {second.in_channels} go in"
    if first.form.op in FLAT:
        return Outline(Form(second.form.op), (), first.in_channels, second.out_channels)
    reason = _refusal(first, second)
    if reason:
        return reason
    group, taps, dilations = _composed_shape(first, second)
    transposed = "ConvTranspose" in (first.form.op, second.form.op)
    axes = [_axis(first, second, axis) for axis in range(len(first.kernel))]
    if not transposed:
        pads = (*(begin for _, begin, _ in axes), *(end for *_, end in axes))
        form = Form("Conv", group, tuple(stride for stride, *_ in axes), pads, dilations)
        return Outline(form, taps, first.in_channels, second.out_channels)
    for axis, (stride, begin, end) in enumerate(axes):
        if begin < 0 or -end >= stride:
            return f"on axis {axis} the one operator would need pads of {begin} and {end}"
    pads = (*(begin for _, begin, _ in axes), *(max(end, 0) for *_, end in axes))
    added = tuple(max(-end, 0) for *_, end in axes)
    form = Form("ConvTranspose", group, tuple(stride for stride, *_ in axes), pads, dilations, added)
    return Outline(form, taps, first.in_channels, second.out_channels)


def join_operators(first: WeightedOperator, second: WeightedOperator) -> WeightedOperator:
    """Outline and weights of the one operator; its bias is what it is away from borders.

    Raises:
        ValueError: `join` refuses.
    """
    joined = join(first.outline, second.outline)
    if isinstance(joined, str):
        raise ValueError(joined)
    options = _steps(first.outline, second.outline)
    ours, theirs = first.weight, second.weight
    ops = (first.outline.form.op, second.outline.form.op)
    if ops == ("Conv", "ConvTranspose"):
        ours = _reversed(ours)
    elif ops == ("ConvTranspose", "Conv"):
        theirs = _reversed(theirs)
    groups = first.outline.form.group, second.outline.form.group
    composed = algebra.compose(ours, theirs, group_first=groups[0], group_second=groups[1], **options)
    bias = (
        second.bias
        if first.bias is None
        else algebra.compose_bias(first.bias, second.weight, second.bias, groups[1])
    )
    return WeightedOperator(joined, composed.kernel, bias)


def joined(operators: Sequence[WeightedOperator]) -> WeightedOperator:
    """All of them in a row as one; see `join_operators`."""
    result = operators[0]
    for following in operators[1:]:
        result = join_operators(result, following)
    return result


# ---------------------------------------------------------------- biases


def biased(bias: Array | None) -> bool:
    """Whether a bias is there and does something."""
    return bias is not None and bool(np.any(bias))


def first_uneven(outlines: Sequence[Outline], biases: Sequence[Array | None]) -> tuple[int, int] | None:
    """The first operator with a bias that a later one does not pass on evenly, and that later one.

    None where the bias of the one operator is the same everywhere.
    """
    start = next((i for i, bias in enumerate(biases) if biased(bias)), None)
    if start is None:
        return None
    uneven = (j for j in range(start + 1, len(outlines)) if not outlines[j].shifts_evenly)
    later = next(uneven, None)
    return None if later is None else (start, later)


def constant_term(operators: Sequence[WeightedOperator], start: int, sizes: Sequence[int]) -> ZonedMap:
    """What the biases from operator `start` on make of the last one's output, border by border.

    Args:
        operators: the operators in a row.
        start: the first with a bias.
        sizes: spatial sizes of that one's output.

    Returns:
        One number a channel and border zone.
    """
    bias = operators[start].bias
    assert bias is not None
    zoned = ZonedMap.uniform_map(bias, sizes)
    for following in operators[start + 1 :]:
        zoned = through(zoned, following)
    return zoned


def through(zoned: ZonedMap, following: WeightedOperator) -> ZonedMap:
    """What a constant map becomes behind an operator, its bias included."""
    form, taps = following.outline.form, following.outline.kernel
    sizes = [len(zone) for zone in zoned.zones]
    axes = len(taps)
    if form.op != "ConvTranspose":
        reads = conv_reads_per_axis(sizes, taps, form.strides, form.pads, form.dilations)
        return zoned.convolved(following.weight, reads, form.group).shifted(following.bias)
    added = form.output_padding or (0,) * axes
    reads = [
        transpose_reads(
            sizes[a],
            taps[a],
            stride=form.strides[a],
            pad_begin=form.pads[a],
            pad_end=form.pads[a + axes],
            dilation=form.dilations[a],
            output_padding=added[a],
        )
        for a in range(axes)
    ]
    return zoned.convolved(following.weight, reads, form.group).shifted(following.bias)


def constant_outline(outlined: Outline) -> Outline | str:
    """The operator that makes a constant of an image of ones: as many positions as an operator has, of 1 tap.

    For sizes that are not known before the run. Where an operator makes fewer positions than a pointwise one,
    the other taps are there, and 0.

    Args:
        outlined: the operator.

    Returns:
        An operator with one input channel, the same strides and no pads; or why there is none.
    """
    form, axes = outlined.form, len(outlined.kernel)
    pads = [form.pads[axis] + form.pads[axis + axes] for axis in range(axes)]
    taps = tuple(_extent(outlined, axis) + 1 - pads[axis] for axis in range(axes))
    if form.op != "Conv" or any(size < 1 for size in taps):
        return "what stands before the operator that pads makes its map larger"
    form = Form("Conv", 1, form.strides, (0,) * 2 * axes, (1,) * axes)
    return Outline(form, taps, 1, outlined.out_channels)


def constant_operator(outlined: Outline, values: Array) -> WeightedOperator:
    """What `constant_outline` describes, for one number a channel, ``[out]``.

    Raises:
        ValueError: there is none.
    """
    made = constant_outline(outlined)
    if isinstance(made, str):
        raise ValueError(made)
    weight = np.zeros((len(values), math.prod(made.kernel)))
    weight[:, 0] = values
    return WeightedOperator(made, weight.reshape(made.weight_shape), None)


def ones_outline(outlines: Sequence[Outline], later: int) -> Outline | str:
    """The outline of `ones_operator`; or why the constant term can't come from an image of ones.

    Args:
        outlines: the operators in a row.
        later: the first behind a bias that pads.

    Returns:
        The outline, or the reason.
    """
    if not all(each.shifts_evenly for each in outlines[later + 1 :]):
        return "two operators pad behind a bias"
    before: Outline | str = outlines[0]
    for each in outlines[1:later]:
        before = before if isinstance(before, str) else join(before, each)
    made = before if isinstance(before, str) else constant_outline(before)
    for each in outlines[later:]:
        made = made if isinstance(made, str) else join(made, each)
    return made


def ones_operator(operators: Sequence[WeightedOperator], later: int) -> WeightedOperator:
    """The operator that makes the constant term from one channel of ones, as large as the input.

    For sizes that are not known before the run. Before operator `later` the constant is one number a channel.

    Args:
        operators: the operators in a row.
        later: the operator that pads.
    """
    before = joined(operators[:later])
    assert before.bias is not None
    return joined([constant_operator(before.outline, before.bias), *operators[later:]])


# ---------------------------------------------------------------- one axis


def _extent(side: Outline, axis: int) -> int:
    """Positions from the first tap to the last."""
    return side.form.dilations[axis] * (side.kernel[axis] - 1)


def _ends(side: Outline, axis: int) -> tuple[int, int]:
    """Begin and end pads; rows that a ConvTranspose adds count as pads below zero."""
    axes = len(side.kernel)
    added = side.form.output_padding[axis] if side.form.output_padding else 0
    return side.form.pads[axis], side.form.pads[axis + axes] - added


def _axis(first: Outline, second: Outline, axis: int) -> tuple[int, int, int]:
    """Stride, begin pads and end pads of the one operator; end pads below zero are rows to add."""
    s1, s2 = first.form.strides[axis], second.form.strides[axis]
    ours, theirs = _ends(first, axis), _ends(second, axis)
    pairs = list(zip(ours, theirs, strict=True))
    match (first.form.op, second.form.op):
        case ("Conv", "Conv"):
            begin, end = (p1 + s1 * p2 for p1, p2 in pairs)
            return s1 * s2, begin, end
        case ("ConvTranspose", "ConvTranspose"):
            begin, end = (p2 + s2 * p1 for p1, p2 in pairs)
            return s1 * s2, begin, end
        case ("Conv", _):
            begin, end = (p2 + s2 * (_extent(first, axis) - p1) for p1, p2 in pairs)
            return s2, begin, end
        case _:
            begin, end = (p1 - p2 + _extent(second, axis) for p1, p2 in pairs)
            return s1, begin, end


def _refusal(first: Outline, second: Outline) -> str:
    """Why no one operator equals both; "" when one does."""
    for axis in range(len(first.kernel)):
        reason = _axis_refusal(first, second, axis)
        if reason:
            return reason
    return ""


def _axis_refusal(first: Outline, second: Outline, axis: int) -> str:
    ours, theirs = _ends(first, axis), _ends(second, axis)
    extent = _extent(second, axis)
    match (first.form.op, second.form.op):
        case ("Conv", "Conv"):
            if any(theirs) and (first.kernel[axis] != 1 or any(ours)):
                return f"the second pads axis {axis}, where the first has more than one tap or pads too"
        case ("Conv", "ConvTranspose"):
            if first.form.strides[axis] != 1:
                return f"the first has stride {first.form.strides[axis]} in front of a ConvTranspose"
            overlaps = extent >= second.form.strides[axis]
            if overlaps and (first.kernel[axis] != 1 or any(ours)):
                return f"on axis {axis} the patches of the ConvTranspose overlap at the border"
        case ("ConvTranspose", "ConvTranspose"):
            if extent >= second.form.strides[axis] and any(p > 0 for p in ours):
                return f"on axis {axis} the second would read what the first crops"
        case _:
            if second.form.strides[axis] != 1:
                return f"the second has stride {second.form.strides[axis]} behind a ConvTranspose"
            if any(crop > 0 and pad > 0 for crop, pad in zip(ours, theirs, strict=True)):
                return f"the second pads axis {axis}, which the ConvTranspose crops"
    return ""


def _steps(first: Outline, second: Outline) -> dict[str, tuple[int, ...]]:
    """Distances between taps of either in positions of the one operator, as `algebra.compose` takes them."""
    ours, theirs = first.form.dilations, second.form.dilations
    if second.form.op == "ConvTranspose":
        ours = tuple(s * d for s, d in zip(second.form.strides, ours, strict=True))
    elif first.form.op == "Conv":
        theirs = tuple(s * d for s, d in zip(first.form.strides, theirs, strict=True))
    return {"dilation_first": ours, "dilation_second": theirs}


def _composed_shape(first: Outline, second: Outline) -> algebra.ComposedShape:
    groups = first.form.group, second.form.group
    return algebra.composed_shape(first.kernel, second.kernel, groups=groups, **_steps(first, second))


def _reversed(weight: Array) -> Array:
    """The kernel with all taps in reverse order."""
    return np.flip(weight, tuple(range(2, weight.ndim)))
