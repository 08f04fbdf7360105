"""Which channels of a layer to keep."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphopt.numerics.lowrank import channel_selection
from graphopt.numerics.lowrank.moments import Moments, MomentsAccumulator, relative_error


def drawn(channels: int, taps: int, seed: int = 0) -> Moments:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((channels * taps, channels * taps))
    found = MomentsAccumulator(channels * taps)
    found.add(rng.standard_normal((5000, channels * taps)) @ mixing)
    return found.result()


def kernel(out: int, channels: int, taps: int) -> np.ndarray:
    shape = (out, channels, taps) if taps > 1 else (out, channels)
    return np.random.default_rng(1).standard_normal(shape)


@pytest.mark.parametrize("taps", [1, 3])
def test_the_channel_that_is_dropped_is_the_one_without_which_the_rest_does_best(taps: int) -> None:
    moments, weights = drawn(6, taps), kernel(4, 6, taps)
    found = channel_selection.eliminated(weights, moments, 5)
    errors = {
        dropped: relative_error(
            weights,
            channel_selection.refitted(weights, moments, [c for c in range(6) if c != dropped]),
            moments,
        )
        for dropped in range(6)
    }
    assert found.order[0] == min(errors, key=errors.__getitem__)
    assert found.errors[1] == pytest.approx(min(errors.values()), rel=1e-3)


@pytest.mark.parametrize("taps", [1, 9])
def test_errors_on_the_way_are_those_of_the_kernels_that_are_left(taps: int) -> None:
    moments, weights = drawn(12, taps), kernel(8, 12, taps)
    found = channel_selection.eliminated(weights, moments, 3)
    for count in (12, 9, 6, 3):
        left = channel_selection.refitted(weights, moments, found.kept(count))
        assert found.errors[12 - count] == pytest.approx(
            relative_error(weights, left, moments), rel=1e-3, abs=1e-5
        )
    assert found.errors == sorted(found.errors) and sorted(found.order) == list(range(12))


def test_the_choice_is_near_to_the_best_of_all() -> None:
    moments, weights = drawn(8, 1), kernel(3, 8, 1)
    found = channel_selection.eliminated(weights, moments, 4).errors[4]
    every = (
        relative_error(weights, channel_selection.refitted(weights, moments, list(kept)), moments)
        for kept in itertools.combinations(range(8), 4)
    )
    assert found < 1.5 * min(every)


def test_what_others_make_is_not_needed() -> None:
    """A channel that is a sum of others is dropped for nothing, and they make up for it."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 6))
    rows[:, 2] = rows[:, 0] - 2 * rows[:, 5]
    gathered = MomentsAccumulator(6)
    gathered.add(rows)
    weights = kernel(5, 6, 1)
    found = channel_selection.eliminated(weights, gathered.result(), 5)
    assert found.order[0] in (0, 2, 5) and found.errors[1] < 1e-4


def test_of_channels_that_are_equal_one_stays() -> None:
    """Among so many that several go at once."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 400))
    rows[:, 1:4] = rows[:, :1]
    gathered = MomentsAccumulator(400)
    gathered.add(rows)
    weights = kernel(30, 400, 1)
    weights[:, :4] *= 0.3
    weights[:, 4:24] *= 0.05
    found = channel_selection.eliminated(weights, gathered.result(), 380)
    assert len(set(found.order[:20]) & {0, 1, 2, 3}) <= 3
    assert found.errors[20] < 0.005
