"""A convolution as a depthwise and a pointwise one, in either order: costs and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.rewrites.builder import Builder
from graphopt.types import Array, Choice, Cost, Replacement


def described(choice: Choice) -> str:
    """How the multiplier of a choice reads."""
    return f"depthwise ×{choice['multiplier']}"


def cost(linear: Linear, multiplier: int, *, last: bool) -> Cost:
    """The cost of depthwise → pointwise (``last``: the pointwise one comes last), or of the reverse.

    Args:
        linear: the operator.
        multiplier: depthwise kernels a channel.
        last: whether the pointwise operator comes last.

    Returns:
        Of both operators together.
    """
    shape, group, size = linear.input_shape, linear.group, linear.itemsize
    inside, out = linear.in_channels, linear.out_channels
    assert shape is not None and inside is not None and out is not None
    point, ones = replace(linear.form.pointwise(), group=group), (1,) * len(linear.kernel)
    biased = linear.bias_elements > 0
    if last:
        deep, wide = replace(linear.form, group=inside), inside * multiplier
        sizes = linear.form.output_sizes([n or 0 for n in shape[2:]], linear.kernel)
        weights = (out, wide // group, *ones)
        return linear_cost(deep, (wide, 1, *linear.kernel), shape, size, False) + linear_cost(
            point, weights, (shape[0], wide, *sizes), size, biased
        )
    deep, wide = replace(linear.form, group=out), out * multiplier
    between = (shape[0], wide, *shape[2:])
    return linear_cost(point, (wide, inside // group, *ones), shape, size, False) + linear_cost(
        deep, (out, multiplier, *linear.kernel), between, size, biased
    )


def replacement(
    linear: Linear, pairs: Sequence[tuple[Array, Array]], bias: Array | None, *, last: bool
) -> Replacement:
    """Both operators; the bias is on the second.

    Args:
        linear: the operator.
        pairs: the kernels of both in their order, for each group; a pointwise one may be a matrix.
        bias: of the second.
        last: whether the pointwise operator comes last.

    Returns:
        The nodes, under the operator's name.
    """
    assert linear.in_channels is not None and linear.out_channels is not None
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    point = replace(linear.form.pointwise(), group=linear.group)
    deep = replace(linear.form, group=linear.in_channels if last else linear.out_channels)
    builder, ones = Builder(linear.dtype), (1,) * len(linear.kernel)
    if last:
        y = builder.linear(deep, linear.x, first, None, name="/depthwise")
        y = builder.linear(point, y, second.reshape(*second.shape[:2], *ones), bias)
    else:
        y = builder.linear(point, linear.x, first.reshape(*first.shape[:2], *ones), None, name="/pointwise")
        y = builder.linear(deep, y, second, bias)
    return builder.replacement({linear.y: y})
