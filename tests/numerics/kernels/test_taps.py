"""Shrunken kernels against a naive convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.numerics.kernels.taps import Span, span, take, used_taps
from tests.numerics.kernels.test_algebra import convolve


@given(st.integers(0, 2**20), st.lists(st.integers(1, 5), min_size=1, max_size=2), st.integers(1, 3))
def test_the_taps_that_count_compute_the_same(seed: int, taps: list[int], stride: int) -> None:
    random = np.random.default_rng(seed)
    kernel = random.standard_normal((2, 3, *taps))
    for axis, k in enumerate(taps):
        gone = random.permutation(k)[: random.integers(0, k)]
        kernel[(slice(None), slice(None), *[slice(None)] * axis, gone)] = 0
    axes = len(taps)
    x = random.standard_normal((3, *(9 for _ in taps)))
    pads = [int(p) for p in random.integers(0, 3, 2 * axes)]
    spans = [span(used) for used in used_taps(kernel, [np.ones(k, np.bool_) for k in taps])]
    small = take(kernel, spans)
    begin = [p - s.first for p, s in zip(pads[:axes], spans, strict=True)]
    end = [p - (k - 1 - s.last) for p, k, s in zip(pads[axes:], taps, spans, strict=True)]
    cropped = x[
        (slice(None), *(slice(max(-b, 0), min(e, 0) or None) for b, e in zip(begin, end, strict=True)))
    ]
    found = convolve(
        cropped,
        small,
        stride=[stride] * axes,
        dilation=[s.step for s in spans],
        pads=[max(p, 0) for p in (*begin, *end)],
    )
    np.testing.assert_allclose(found, convolve(x, kernel, stride=[stride] * axes, pads=pads), atol=1e-12)


@pytest.mark.parametrize(
    ("used", "limits", "expected"),
    [
        ([0, 1, 1, 1, 0], {}, Span(1, 3, 1)),
        ([1, 0, 1, 0, 1], {}, Span(0, 3, 2)),
        ([0, 0, 0, 0, 1], {}, Span(4, 1, 1)),
        ([0, 1, 0, 0, 1], {}, Span(1, 2, 3)),
        ([1, 1, 0, 0, 1], {}, Span(0, 5, 1)),
        ([0, 0, 0, 0, 0], {}, Span(0, 1, 1)),
        ([0, 0, 1, 0, 0], {"most_first": 1}, Span(1, 2, 1)),
        ([0, 0, 1, 0, 1], {"most_first": 1}, Span(0, 3, 2)),
        ([1, 0, 0, 0, 0], {"least_last": 3}, Span(0, 4, 1)),
        ([1, 0, 1, 0, 0], {"least_last": 3}, Span(0, 3, 2)),
    ],
)
def test_spans(used: list[int], limits: dict[str, int], expected: Span) -> None:
    found = span(np.array(used, np.bool_), **limits)
    assert found == expected
    assert all(t in range(len(used))[found.indices()] for t in np.flatnonzero(used))


def test_a_tap_that_only_a_late_filter_uses() -> None:
    kernel = np.ones((3, 2, 3), np.float32)
    kernel[:2, :, 0] = 0.0
    np.testing.assert_array_equal(used_taps(kernel, [np.ones(3, np.bool_)])[0], [True, True, True])
