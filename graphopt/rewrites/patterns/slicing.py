"""Slices and pads as operators, in the form that each opset has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.analysis.attributes import TO_THE_END
from graphopt.analysis.constants import default_opset
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder

LAST_OPSET_WITHOUT_STEPS = 9
"""Up to this opset a Slice has no steps; a MaxPool of kernel 1 has, on the spatial axes."""


def add_slice(
    builder: Builder, analysis: Analysis, name: str, ranges: Mapping[int, Sequence[int]], rank: int
) -> str:
    """Adds a Slice of a map.

    Args:
        builder: what it is added to.
        analysis: tells the opset.
        name: the map.
        ranges: start, end and step by axis.
        rank: of the map.

    Returns:
        The local name of what is left; the map's where there are no ranges.
    """
    if not ranges:
        return name
    if default_opset(analysis.model) > LAST_OPSET_WITHOUT_STEPS:
        columns = [list(ranges), *zip(*ranges.values(), strict=True)]
        axes, starts, ends, steps = (
            builder.constant(np.array(column, np.int64), "slice") for column in columns
        )
        return builder.node("Slice", [name, starts, ends, axes, steps], {}, "/slice")
    crops = {axis: entry for axis, entry in ranges.items() if list(entry[:2]) != [0, TO_THE_END]}
    if crops:
        starts_ends = {"starts": [e[0] for e in crops.values()], "ends": [e[1] for e in crops.values()]}
        attributes = {"axes": tuple(crops), **{key: tuple(values) for key, values in starts_ends.items()}}
        name = builder.node("Slice", [name], attributes, "/slice")
    strides = tuple(ranges[axis][2] if axis in ranges else 1 for axis in range(2, rank))
    if all(stride == 1 for stride in strides):
        return name
    kernel = (1,) * len(strides)
    return builder.node("MaxPool", [name], {"kernel_shape": kernel, "strides": strides}, "/slice")


def add_pad(builder: Builder, analysis: Analysis, name: str, pads: Sequence[int]) -> str:
    """Adds a Pad of the spatial axes of a map with zeros.

    Args:
        builder: what it is added to.
        analysis: tells the opset.
        name: the map.
        pads: (begin…, end…) by axis; those below 0 crop, which comes first.

    Returns:
        The result's local name.
    """
    axes = len(pads) // 2
    amounts = (0, 0, *pads[:axes], 0, 0, *pads[axes:])
    if default_opset(analysis.model) < 11:
        return builder.node("Pad", [name], {"pads": amounts}, "/pad")
    return builder.node("Pad", [name, builder.constant(np.array(amounts, np.int64), "pads")], {}, "/pad")
