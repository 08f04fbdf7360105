"""A convolution as two that take different spatial axes: forms, costs and nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.rewrites.builder import Builder
from graphopt.types import Array, Choice, Cost, Replacement


def orders(linear: Linear) -> Iterator[tuple[int, ...]]:
    """The sets of axes that the first operator may take: some, not all, of those with several taps."""
    wide = [axis for axis, k in enumerate(linear.kernel) if k > 1]
    for count in range(1, len(wide)):
        yield from combinations(wide, count)


def named(first: tuple[int, ...]) -> str:
    """The axes as a choice gives them: ``0,1``."""
    return ",".join(map(str, first))


def axes(name: object) -> tuple[int, ...]:
    """The axes that a choice names."""
    return tuple(int(axis) for axis in str(name).split(","))


def forms(linear: Linear, first: tuple[int, ...]) -> tuple[Form, Form]:
    """Stride, pads and dilation of each axis go to the operator that takes it; the other steps by one."""
    count = len(linear.kernel)
    ours = [axis in first for axis in range(count)]
    return _part(linear.form, ours), _part(linear.form, [not taken for taken in ours])


def _part(form: Form, taken: list[bool]) -> Form:
    def of(values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return tuple(v if t else other for v, t in zip(values, taken * 2, strict=False))

    return replace(
        form,
        strides=of(form.strides, 1),
        pads=of(form.pads, 0),
        dilations=of(form.dilations, 1),
        output_padding=of(form.output_padding, 0),
    )


def described(choice: Choice) -> str:
    """How the rank of a choice reads."""
    return f"split {choice['rank']}"


def cost(linear: Linear, first: tuple[int, ...], rank: int) -> Cost:
    """The cost of both operators with ``rank`` channels a group between them.

    Args:
        linear: the operator.
        first: the spatial axes that the first operator takes.
        rank: channels a group between the two.

    Returns:
        Of both together.
    """
    shape, group = linear.input_shape, linear.group
    assert shape is not None and linear.in_channels is not None and linear.out_channels is not None
    ours = tuple(k if axis in first else 1 for axis, k in enumerate(linear.kernel))
    theirs = tuple(1 if axis in first else k for axis, k in enumerate(linear.kernel))
    form_first, form_second = forms(linear, first)
    weights = (group * rank, linear.in_channels // group, *ours)
    between = (shape[0], group * rank, *form_first.output_sizes([n or 0 for n in shape[2:]], ours))
    biased = linear.bias_elements > 0
    return linear_cost(form_first, weights, shape, linear.itemsize, False) + linear_cost(
        form_second, (linear.out_channels, rank, *theirs), between, linear.itemsize, biased
    )


def replacement(
    linear: Linear, first: tuple[int, ...], pairs: Sequence[tuple[Array, Array]], bias: Array | None
) -> Replacement:
    """``…/first``, then the other axes under the old name with the bias: zero padding comes after the first.

    Args:
        linear: the operator.
        first: the axes that the first operator takes.
        pairs: the kernels of both, for each group.
        bias: of the second.

    Returns:
        The nodes, under the operator's name.
    """
    builder = Builder(linear.dtype)
    form_first, form_second = forms(linear, first)
    y = builder.linear(form_first, linear.x, np.concatenate([a for a, _ in pairs]), None, name="/first")
    y = builder.linear(form_second, y, np.concatenate([b for _, b in pairs]), bias)
    return builder.replacement({linear.y: y})
