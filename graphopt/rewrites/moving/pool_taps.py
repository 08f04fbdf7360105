"""The averages of a convolution's input that its taps see, and the convolution on them.

Behind an average over a window, the convolution needs the same average of its input wherever a tap may
read; over a whole axis, one mean a tap. See `rewrites.moving.pool_first`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from graphopt.analysis.attributes import TO_THE_END
from graphopt.analysis.constants import default_opset
from graphopt.analysis.linear import Form, Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.moving.pooling import PoolWindow
from graphopt.rewrites.patterns.slicing import add_pad, add_slice
from graphopt.types import AttributeValue, Shape

# ---------------------------------------------------------------- several taps, a window


def box_dilations(linear: Linear, window: PoolWindow) -> tuple[int, ...]:
    """Distances between the positions of x that one window averages."""
    strides = linear.form.strides
    return tuple(
        s * d if k > 1 else 1 for k, s, d in zip(window.kernel, strides, window.dilations, strict=True)
    )


def _box_strides(linear: Linear, window: PoolWindow) -> tuple[int, ...]:
    """Steps of the average of x: the longest that no tap falls between."""
    form, taps = linear.form, linear.kernel
    steps = []
    for a, extent in enumerate(window.kernel):
        whole = form.strides[a] * window.strides[a]
        longest = whole if taps[a] == 1 else math.gcd(whole, form.dilations[a])
        steps.append(longest if extent > 1 else 1)
    return tuple(steps)


def _box_pads(linear: Linear, window: PoolWindow) -> tuple[int, ...]:
    """The convolution's pads on the axes where x is averaged; on the others they stay its own."""
    wide = [extent > 1 for extent in window.kernel] * 2
    return tuple(p if averaged else 0 for p, averaged in zip(linear.form.pads, wide, strict=True))


def box_form(linear: Linear, window: PoolWindow) -> Form:
    """The convolution on the averages: it takes the pooling's steps too."""
    form, steps, moved = linear.form, _box_strides(linear, window), _box_pads(linear, window)
    taps = linear.kernel
    return replace(
        form,
        strides=tuple(s * t // g for s, t, g in zip(form.strides, window.strides, steps, strict=True)),
        dilations=tuple(d // g if k > 1 else 1 for k, d, g in zip(taps, form.dilations, steps, strict=True)),
        pads=tuple(p - q for p, q in zip(form.pads, moved, strict=True)),
    )


def box_shape(linear: Linear, window: PoolWindow) -> Shape:
    """The shape of the averages."""
    pads = _box_pads(linear, window)
    assert linear.input_shape is not None
    box = Form("Conv", 1, _box_strides(linear, window), pads, box_dilations(linear, window))
    sizes = [size or 0 for size in linear.input_shape[2:]]
    return (linear.input_shape[0], linear.in_channels, *box.output_sizes(sizes, window.kernel))


def box(analysis: Analysis, builder: Builder, linear: Linear, window: PoolWindow) -> str:
    """The average of the zero-padded x on every window that a tap may need.

    Args:
        analysis: the snapshot.
        builder: collects the nodes.
        linear: the convolution.
        window: the pooling behind it.

    Returns:
        The local name of the averages.
    """
    dilations = box_dilations(linear, window)
    given: dict[str, AttributeValue] = {
        "kernel_shape": window.kernel,
        "strides": _box_strides(linear, window),
    }
    if any(d != 1 for d in dilations):
        given["dilations"] = dilations
    return _average(analysis, builder, linear.x, given, _box_pads(linear, window))


def _average(
    analysis: Analysis, builder: Builder, x: str, given: dict[str, AttributeValue], pads: tuple[int, ...]
) -> str:
    """An AveragePool of the zero-padded x; pads as wide as its window, which it refuses, in a Pad."""
    kernel = given["kernel_shape"]
    assert isinstance(kernel, tuple)
    if any(pads):
        if default_opset(analysis.model) >= 7 and all(p < k for p, k in zip(pads, kernel * 2, strict=True)):
            given |= {"pads": pads, "count_include_pad": 1}
        else:
            x = add_pad(builder, analysis, x, pads)
    return builder.node("AveragePool", [x], given, "/pool")


# ---------------------------------------------------------------- several taps, whole axes


def whole_form(linear: Linear, pooled: tuple[int, ...]) -> Form:
    """The convolution on one mean a tap: nothing to step over on the axes that were averaged."""
    form, done = linear.form, [a - 2 for a in pooled]
    axes = len(form.strides)

    def kept(values: tuple[int, ...], rest: int) -> tuple[int, ...]:
        return tuple(rest if a % axes in done else value for a, value in enumerate(values))

    return replace(
        form, strides=kept(form.strides, 1), dilations=kept(form.dilations, 1), pads=kept(form.pads, 0)
    )


def whole(analysis: Analysis, builder: Builder, linear: Linear, pooled: tuple[int, ...]) -> str:
    """The means that the taps see, axis by axis: [N, C, spatial…] with as many entries as taps.

    Args:
        analysis: the snapshot.
        builder: collects the nodes.
        linear: the convolution.
        pooled: the axes of the map that are averaged whole, from 2.

    Returns:
        The local name of the means.
    """
    x = linear.x
    form, count = linear.form, len(linear.kernel)
    outputs = analysis.fixed_shape(linear.node.outputs[0])
    for axis in pooled:
        a = axis - 2
        size = None if outputs is None else outputs[axis]
        ends = (form.pads[a], form.pads[a + count])
        pads = tuple(ends[i // count] if i % count == a else 0 for i in range(2 * count))
        if size is not None and form.strides[a] == 1 and max(ends) < size:
            given: dict[str, AttributeValue] = {
                "kernel_shape": tuple(size if i == a else 1 for i in range(count)),
                "strides": tuple(form.dilations[a] if i == a else 1 for i in range(count)),
            }
            x = _average(analysis, builder, x, given, pads)
        else:
            x = add_pad(builder, analysis, x, pads) if any(ends) else x
            x = _tap_means(analysis, builder, x, axis, linear)
    return x


def _tap_means(analysis: Analysis, builder: Builder, x: str, axis: int, linear: Linear) -> str:
    """The mean of what each tap meets along one axis, at any size."""
    form, taps = linear.form, linear.kernel[axis - 2]
    stride, dilation = form.strides[axis - 2], form.dilations[axis - 2]
    means = []
    for t in range(taps):
        end = -(taps - 1 - t) * dilation or TO_THE_END
        ranges = {axis: (t * dilation, end, stride)} if (taps, stride) != (1, 1) else {}
        part = add_slice(builder, analysis, x, ranges, 2 + len(linear.kernel))
        means.append(_mean(analysis, builder, part, axis))
    return means[0] if taps == 1 else builder.node("Concat", means, {"axis": axis}, "/taps")


def _mean(analysis: Analysis, builder: Builder, x: str, axis: int) -> str:
    if default_opset(analysis.model) < 18:
        return builder.node("ReduceMean", [x], {"axes": (axis,), "keepdims": 1}, "/mean")
    named = builder.constant(np.array([axis], np.int64), "axes")
    return builder.node("ReduceMean", [x, named], {"keepdims": 1}, "/mean")
