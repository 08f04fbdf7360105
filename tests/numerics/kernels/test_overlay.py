"""Kernels of parallel convolutions against a naive convolution, for 0 to 3 spatial axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels import overlay
from graphopt.numerics.kernels.overlay import Row
from tests.numerics.kernels.test_algebra import convolve


@st.composite
def branches(
    draw: st.DrawFn,
) -> tuple[int, list[tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]]:
    """Number of axes, and per branch: group, taps, dilations, begin pads."""
    axes = draw(st.integers(0, 3))
    number = draw(st.integers(1, 3))

    def small(low: int, high: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    return axes, [
        (draw(st.sampled_from([1, 2, 4])), small(1, 3), small(1, 2), small(0, 2)) for _ in range(number)
    ]


@settings(max_examples=40, deadline=None)
@given(branches(), st.integers(1, 2))
def test_total_is_the_sum_of_the_branches(
    found: tuple[int, list[tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]], stride: int
) -> None:
    axes, given_ = found
    random = np.random.default_rng(0)
    x = random.standard_normal((4, *(4,) * axes))
    kernels, groups, rows = [], [], []
    for group, taps, dilations, pads in given_:
        kernels.append(random.standard_normal((8, 4 // group, *taps)))
        groups.append(group)
        rows.append([Row(-p, d, k) for p, d, k in zip(pads, dilations, taps, strict=True)])
    onto = [overlay.joined(axis) for axis in zip(*rows, strict=True)]
    whole = overlay.total(kernels, groups, rows)
    assert whole.shape[2:] == tuple(row.taps for row in onto)

    def run(weight: np.ndarray, group: int, place: list[Row]) -> np.ndarray:
        """With so much padding behind that all have five outputs an axis."""
        end = [4 * stride + row.stop - 4 for row in place]
        x_cut = x[(slice(None), *(slice(0, 4 + min(e, 0)) for e in end))]
        pads = [*(-row.start for row in place), *(max(e, 0) for e in end)]
        return convolve(
            x_cut,
            weight,
            group=group,
            stride=(stride,) * axes,
            dilation=[row.step for row in place],
            pads=pads,
        )

    expected = sum(run(*branch) for branch in zip(kernels, groups, rows, strict=True))
    np.testing.assert_allclose(run(whole, math.gcd(*groups), onto), expected, rtol=1e-10, atol=1e-12)


def test_rows_join_at_the_largest_step() -> None:
    assert overlay.joined([Row(-2, 2, 3), Row(0, 1, 1)]) == Row(-2, 2, 3)
    assert overlay.joined([Row(-2, 2, 3), Row(-1, 1, 1)]) == Row(-2, 1, 5)
    assert overlay.joined([Row(0, 3, 1)]) == Row(0, 1, 1)


def test_taps_that_stand_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="do not stand in"):
        overlay.laid_out(np.ones((1, 1, 2)), [Row(0, 1, 2)], [Row(0, 2, 2)])
    with pytest.raises(ValueError, match="1 and 2 rows"):
        overlay.laid_out(np.ones((1, 1, 2)), [Row(0, 1, 2)], [Row(0, 1, 2), Row(0, 1, 2)])
    with pytest.raises(ValueError, match="do not add up"):
        overlay.total([np.ones((1, 1)), np.ones((2, 1))], [1, 1], [[], []])
