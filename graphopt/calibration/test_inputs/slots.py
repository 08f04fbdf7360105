"""The open sizes of a model's inputs by name, and the shapes of its inputs at numbers for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed, names_of

SIZES_TO_TRY = (64, 32, 96, 128, 224, 256, 320, 512, 640, 16, 8, 4, 2, 1)
"""Sizes tried, in this order, for open dimensions that nothing tells, until the model runs: derived, the
usual sizes of patches, of ImageNet and of detectors, each a multiple of 32, the stride of most networks;
then less, for those that run on small maps alone."""
USUAL_POSITIONS = 224**2
"""Positions of a map up to which sizes are tried before those with more: derived, those of a picture of
ImageNet; a map of three open axes has 32,768 at 32, and 262,144 at 64."""
MOST_POSITIONS = max(SIZES_TO_TRY) ** 2
"""Positions of a map up to which a size that nobody gave is tried: derived, those of the largest picture;
a map of three open axes has as many at 74, and at 640 would not end."""


def fed(model: ir.Model) -> list[ir.Value]:
    """The inputs that a caller has to feed."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def resolved(
    model: ir.Model, given: Mapping[str, Sequence[int]], bound: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The shape of every input.

    Args:
        model: the model.
        given: the sizes of inputs that are known.
        bound: numbers for open sizes, by name; 1 stands for those that are not there.

    Returns:
        The sizes by input; none of an input that declares no shape.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for value in fed(model):
        name = value.name or ""
        if name in given:
            sizes[name] = tuple(given[name])
        elif value.shape is not None:
            sizes[name] = tuple(
                bound.get(symbol_of(value, axis), 1) if (size := fixed(d)) is None else size
                for axis, d in enumerate(value.shape)
            )
    return sizes


def open_symbols(model: ir.Model, given: Mapping[str, Sequence[int]]) -> dict[str, bool]:
    """The open sizes of inputs that nobody gave, by symbol; whether each is a batch."""
    slots: dict[str, bool] = {}
    for value in fed(model):
        if value.name in given or value.shape is None:
            continue
        for axis, size in enumerate(value.shape):
            if fixed(size) is None:
                symbol = symbol_of(value, axis)
                slots[symbol] = slots.get(symbol, True) and axis == 0
    return slots


def symbol_of(value: ir.Value, axis: int) -> str:
    """The name of an open size of an input; one that the file does not name gets its own."""
    return names_of(value, len(value.shape or ()))[axis]


def positions(sizes: Mapping[str, Sequence[int]]) -> int:
    """Positions of the largest map [N, C, …] among the inputs; 1 where there is none."""
    return max((math.prod(shape[2:]) for shape in sizes.values()), default=1)
