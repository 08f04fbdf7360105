"""Other inputs of the same sizes, for outputs that the first ones tell nothing about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.calibration import synthetic
from graphopt.errors import InputError
from graphopt.runtime.session import Feeds

LOGISTIC = 1.702
"""Slope of the logistic function that comes nearest to the normal distribution (Camilli 1994): normal numbers
become nearly uniform ones, and none is at an end of the range, where a logarithm or a root may fail."""
RANGES = ((0.0, 1.0), (0.0, 255.0))
"""Ranges of images, as fractions and as bytes: derived, networks that don't normalise take one of them."""
FACTORS = (16.0, 256.0, 4096.0, 1 / 16, 1 / 256)
"""What inputs are multiplied by: derived, steps of four bits, up to the level of 16-bit sound and down to
bytes that were made fractions."""


def others(model: ir.Model, feeds: Sequence[Feeds]) -> Iterator[list[Feeds]]:
    """The same numbers in other ranges, the likeliest first; whole numbers and truth values stay.

    The first is what the first BatchNormalization expects of the first input, where one is left.

    Args:
        model: the model to be fed.
        feeds: inputs for it.

    Returns:
        Inputs of the same shapes and types, all in the same range.
    """
    try:
        expected = synthetic.expected_scale(model, feeds[0])
    except InputError:
        return
    if expected != 1.0:
        yield [scaled(feed, expected) for feed in feeds]
    for low, high in RANGES:
        yield [_mapped(feed, low, high) for feed in feeds]
    for factor in FACTORS:
        yield [scaled(feed, factor) for feed in feeds]


@np.errstate(over="ignore")  # what leaves its type's range is seen where the model is run
def scaled(feeds: Feeds, factor: float) -> Feeds:
    """Inputs with all that is no whole number multiplied."""
    return {n: (a * factor).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in feeds.items()}


@np.errstate(over="ignore")
def _mapped(feeds: Feeds, low: float, high: float) -> Feeds:
    return {
        name: (low + (high - low) / (1.0 + np.exp(-LOGISTIC * array))).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in feeds.items()
    }
