"""Operators that add a constant map with border zones (`kernels.borders`) to a convolution's output."""

from __future__ import annotations

import numpy as np

from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.builder import Builder

MOST_ZONED = 4
"""A map is stored in full where that takes at most so many times what its zones take. Derived: two Gathers
take 800 bytes of a file (`planning.spending.NODE_BYTES`), and of 8 channels the 9 zones of a 3x3 take 288, so
that four times as many cost the same. Measured by benchmarks.thresholds: a map of 114 times as many takes 8 %
less time and eleven times the bytes of a model."""


def add_map(builder: Builder, y: str, zoned: ZonedMap) -> str:
    """Adds ``y + map`` for y ``[batch, channels, *sizes]`` whose spatial sizes are those of the map.

    The file holds one number a channel and zone. Gather copies it to the positions, which onnxruntime does
    once, when it loads the model.

    Args:
        builder: collects the nodes.
        y: the map to add to.
        zoned: what to add.

    Returns:
        The sum's local name.
    """
    sizes = [len(zone) for zone in zoned.zones]
    values, copied = zoned.values, zoned.zones
    if np.prod(sizes) <= MOST_ZONED * np.prod(values.shape[1:]):
        values, copied = zoned.expanded(), ()
    name = builder.constant(values[None], "border")
    for axis, zone in enumerate(copied, start=2):
        if values.shape[axis - 1] > 1:  # a single zone broadcasts
            positions = builder.constant(zone, "zone")
            name = builder.node("Gather", [name, positions], {"axis": axis}, f"/border{axis}")
    return builder.node("Add", [y, name], {}, "/border")
