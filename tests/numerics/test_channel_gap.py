"""Differences by channel, beside what rounding explains."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.channel_gap import ChannelGap, rounded

EPS = float(np.finfo(np.float32).eps)


def value(*peaks: float) -> np.ndarray:
    signs = np.sign(np.random.default_rng(0).standard_normal((2, len(peaks), 5)))
    return np.asarray(signs * np.array(peaks)[:, None], np.float32)


@pytest.mark.parametrize("peaks", [(1.0, 1e-8), (1e20, 1e-20), (1.0, 1.0)])
def test_a_channel_is_judged_by_its_own_scale(peaks: tuple[float, float]) -> None:
    reference = value(*peaks)
    other = reference.copy()
    other[:, 1] = 0
    gap = ChannelGap(1)
    gap.add(reference, other)
    assert gap.error == 1


def test_terms_that_cancel_are_the_scale_of_their_difference() -> None:
    reference = value(1.0, 1e-6)
    other = reference.copy()
    other[:, 1] += 1e-7
    gap = ChannelGap(1)
    gap.add(reference, other)
    assert gap.error == pytest.approx(0.1, rel=1e-3)
    moved = reference.copy()
    moved[:, 1] += EPS  # of terms of 1
    gap.move(reference, moved, EPS)
    assert gap.error == pytest.approx(1e-7, rel=0.1)


def test_what_has_no_scale_of_its_own_says_nothing() -> None:
    """A channel of zeros, whole numbers, other sizes, and numbers that are not finite."""
    gap = ChannelGap(1)
    gap.add(value(1.0, 0.0), value(1.0, 1e-9))
    gap.add(np.ones((1, 2), np.int64), np.zeros((1, 2), np.int64))
    gap.add(value(1.0), value(2.0))
    gap.add(np.full((1, 2), np.nan, np.float32), np.full((1, 2), np.nan, np.float32))
    gap.add(np.ones(3, np.float32), np.zeros(3, np.float32))
    assert gap.error == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_each_number_moves_by_one_rounding(dtype: type[np.floating]) -> None:
    eps = float(np.finfo(dtype).eps)
    array = np.asarray(np.random.default_rng(1).uniform(1, 2, 100), dtype)
    moved = np.abs(rounded(array, 0.0, np.random.default_rng(0)).astype(np.float64) / array - 1)
    assert ((moved >= eps / 4) & (moved <= 2 * eps)).all()
    assert not rounded(array * 0, eps, np.random.default_rng(0)).any()
    whole = np.arange(3)
    assert rounded(whole, eps, np.random.default_rng(0)) is whole
