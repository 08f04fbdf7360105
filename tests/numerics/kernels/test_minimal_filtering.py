"""Minimal filtering, products and sums by hand, against a naive convolution."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from graphopt.numerics.kernels import minimal_filtering as minimal
from tests.numerics.kernels.test_algebra import convolve


def filtered(x: np.ndarray, window: minimal.Window, axis: int, tiles: int) -> np.ndarray:
    """What a filter of stride 2 makes along one axis of [channels, height, width]."""
    pads = [(0, 0)] * 3
    pads[axis] = (window.pad_begin, window.pad_end)
    padded = np.moveaxis(np.pad(x, pads), axis, 0)
    reach = window.dilation * (len(window.taps) - 1) + 1
    assert (len(padded) - reach) // 2 + 1 == tiles, "as many outputs as there are tiles"
    starts = np.arange(tiles) * 2
    total = sum(tap * padded[starts + i * window.dilation] for i, tap in enumerate(window.taps))
    return np.moveaxis(total, 0, axis)


def by_tiles(x: np.ndarray, kernel: np.ndarray, pads: tuple[int, ...]) -> np.ndarray:
    sizes = [n + pads[a] + pads[a + 2] - 2 for a, n in enumerate(x.shape[1:])]
    windows = [minimal.windows(pads[a], pads[a + 2], sizes[a]) for a in (0, 1)]
    tiles = [minimal.tiles(size) for size in sizes]
    weights = minimal.products(kernel)
    m = {}
    for row, column in product(range(4), repeat=2):
        v = filtered(filtered(x, windows[0][row], 1, tiles[0]), windows[1][column], 2, tiles[1])
        m[row, column] = np.einsum("oi,iyx->oyx", weights[row, column], v)
    tops = [m[0, c] + (m[1, c] + m[2, c]) for c in range(4)]
    bottoms = [m[3, c] + (m[1, c] - m[2, c]) for c in range(4)]
    y = np.zeros((len(kernel), 2 * tiles[0], 2 * tiles[1]))
    for row, (a, b, c, d) in enumerate((tops, bottoms)):
        y[:, row::2, 0::2] = (b + c) - a
        y[:, row::2, 1::2] = (b - c) - d
    return y[:, : sizes[0], : sizes[1]]


@pytest.mark.parametrize("height", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("width", [2, 5, 8])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (1, 0, 0, 1), (0, 2, 2, 1), (2, 1, 0, 0), (3, 3, 3, 3)])
def test_tiles_make_what_the_convolution_makes(height: int, width: int, pads: tuple[int, ...]) -> None:
    if min(height + pads[0] + pads[2], width + pads[1] + pads[3]) < 3:
        pytest.skip("the convolution makes nothing")
    rng = np.random.default_rng(height * 10 + width)
    x, kernel = rng.standard_normal((3, height, width)), rng.standard_normal((2, 3, 3, 3))
    expected = convolve(x, kernel, pads=pads)
    np.testing.assert_allclose(by_tiles(x, kernel, pads), expected, atol=1e-12)


def test_of_same_padding_each_filter_has_two_taps_and_four_kernels_serve_all() -> None:
    windows = minimal.windows(1, 1, 8)
    assert {len(window.taps) for window in windows} == {2}
    assert len({window.taps for window in windows}) == 2
    assert [window.dilation for window in windows] == [2, 1, 1, 2]


def test_four_products_make_two_outputs() -> None:
    assert [minimal.tiles(outputs) for outputs in (1, 2, 7, 8)] == [1, 1, 4, 4]
