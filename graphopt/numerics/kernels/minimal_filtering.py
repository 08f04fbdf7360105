"""Convolutions by minimal filtering: fewer products for tiles of outputs; plain NumPy.

Winograd's F(2, 3) makes two outputs of a filter of three taps with four products instead of six. Of four
inputs d and the taps g it multiplies

    d0 − d2   by  g0
    d1 + d2   by  (g0 + g1 + g2) / 2
    d1 − d2   by  (g1 − g0 − g2) / 2
    d1 − d3   by  g2

and of these products m the outputs are m0 + (m1 + m2) and (m1 − m2) − m3. Nested, F(2x2, 3x3) makes 2x2
outputs with 16 products instead of 36: over a map each product is a pointwise convolution, whose input is
what a filter of two taps an axis and stride 2 makes.

Signs are put where sums are cheap: along rows m3 is made negated, so that it is added; along columns m0 is,
so that both outputs end with a subtraction, which is a product by −1 and a sum that it takes with it.

Kernels are ``[out_channels, in_channels, 3, 3]``.
Sources: Winograd 1980, "Arithmetic complexity of computations"; Lavin and Gray 2016, "Fast algorithms for
convolutional neural networks" (arXiv 1509.09308).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphopt.types import Array, Float64

TILE = 2
"""Outputs of a tile an axis, by the definition of F(2, 3)."""
PRODUCTS = 4
"""Products of a tile an axis, by that definition."""
FILTER = 3
"""Taps an axis, by that definition."""

_READS = ((0, 2, -1), (1, 2, 1), (1, 2, -1), (1, 3, -1))
"""First and last input that each product reads, and the factor of the last, by the definition of F(2, 3)."""
_TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [-0.5, 0.5, -0.5], [0, 0, 1]])
"""What each product multiplies by, of the filter's taps, by the definition of F(2, 3)."""
_ROWS, _COLUMNS = (np.array(signs)[:, None] * _TAPS for signs in ((1, 1, 1, -1), (-1, 1, 1, 1)))
"""The same with the signs of rows and of columns: derived, so that sums end as they are cheap."""


class Window(NamedTuple):
    """The filter of stride `TILE` that makes what one product reads along one axis.

    Attributes:
        taps: its taps.
        dilation: the distance between two of them.
        pad_begin: zeros in front of the map.
        pad_end: zeros behind it.
    """

    taps: tuple[int, ...]
    dilation: int
    pad_begin: int
    pad_end: int


def tiles(outputs: int) -> int:
    """How many tiles cover so many outputs of an axis."""
    return -(-outputs // TILE)


def windows(pad_begin: int, pad_end: int, outputs: int) -> tuple[Window, ...]:
    """The filters of all products along one axis.

    Args:
        pad_begin: zeros that the convolution puts in front of the map.
        pad_end: those behind it.
        outputs: of the convolution; where they are odd the last tile makes one too many.

    Returns:
        One for each product; each makes one number a tile.
    """
    surplus = TILE * tiles(outputs) - outputs
    return tuple(_window(*reads, pad_begin, pad_end + surplus) for reads in _READS)


def _window(first: int, last: int, factor: int, pad_begin: int, pad_end: int) -> Window:
    """What reads two inputs of each tile; from the map's first pixel on where the tile begins there."""
    end = max(0, pad_end + last - FILTER)  # what is left over behind the last tile is less than a step
    if first <= pad_begin:
        return Window((1, factor), last - first, pad_begin - first, end)
    taps = [0] * (last - pad_begin + 1)
    taps[first - pad_begin], taps[-1] = 1, factor
    return Window(tuple(taps), 1, 0, end)


def products(weight: Array) -> Float64:
    """What the products multiply by: ``[4, 4, out_channels, in_channels]``, by row and column of the tile."""
    rows = np.tensordot(_ROWS, weight.astype(np.float64), (1, 2))
    found: Float64 = np.tensordot(_COLUMNS, rows, (1, 3)).swapaxes(0, 1)
    return found
