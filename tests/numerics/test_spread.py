"""What varies in the channels of a value, and errors in proportion to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.numerics.spread import Spread, added, decibels, squares_of


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def spread(*batches: np.ndarray, axis: int | None = 1, common: bool = False) -> Spread:
    found = Spread(axis, common=common)
    for batch in batches:
        found.add(batch)
    return found


def test_each_channel_has_its_own_variance_however_loud_the_others_are() -> None:
    loud = drawn(200, 3) * np.array([100.0, 1.0, 0.01], np.float32) + np.array([0.0, 50.0, 1.0], np.float32)
    expected = loud.astype(np.float64).var(axis=0, ddof=1)
    np.testing.assert_allclose(spread(loud[:90], loud[90:]).variances, expected, rtol=1e-4)


def test_what_is_the_same_for_all_inputs_is_no_signal() -> None:
    grid = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) * 10
    varying = drawn(300, 2, 8, 8)
    found = spread(grid + varying[:100], grid + varying[100:]).variances
    np.testing.assert_allclose(found, 1.0, rtol=0.02)


def test_maps_of_several_sizes_vary_about_the_mean_of_the_channel() -> None:
    parts = drawn(20, 2, 6, 6), drawn(20, 2, 9, 5, seed=1) + 3
    whole = np.concatenate([np.moveaxis(part, 1, 0).reshape(2, -1) for part in parts], axis=1)
    np.testing.assert_allclose(spread(*parts).variances, whole.var(axis=1), rtol=1e-5)


def test_an_axis_of_several_sizes_holds_no_channels() -> None:
    parts = drawn(4, 5), drawn(4, 7, seed=1) + 2
    flat = np.concatenate([part.ravel() for part in parts])
    found = spread(*parts)
    np.testing.assert_allclose(found.variances, [flat.var()], rtol=1e-5)
    squares = added(squares_of(parts[0], 1), squares_of(parts[1], 1))
    np.testing.assert_allclose(found.errors(squares), np.square(flat).mean() / flat.var(), rtol=1e-5)


def test_one_input_varies_from_place_to_place() -> None:
    one = drawn(1, 2, 30, 30)
    np.testing.assert_allclose(spread(one).variances, one.var(axis=(0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(("common", "expected"), [(False, [1.0, 1.0]), (True, [2.0, 2e-4])])
def test_channels_of_one_unit_count_alike(common: bool, expected: list[float]) -> None:
    values = drawn(4000, 2) * np.array([1.0, 0.01], np.float32)
    squares = squares_of(values - values.mean(axis=0), 1)
    np.testing.assert_allclose(spread(values, common=common).errors(squares), expected, rtol=0.05)


def test_a_channel_that_does_not_vary_counts_like_the_others() -> None:
    values = drawn(100, 3)
    values[:, 1] = 7
    found = spread(values).variances
    assert found[1] == pytest.approx((found[0] + found[2]) / 2)


def test_where_nothing_varies_the_mean_square_is_the_scale() -> None:
    still = spread(np.full((5, 2), 3, np.float32))
    np.testing.assert_allclose(still.errors(np.array([0.0, 45.0])), [0.0, 1.0])
    zeros = spread(np.zeros((5, 2), np.float32))
    assert list(zeros.errors(np.array([0.0, 1.0]))) == [0.0, math.inf]
    assert list(spread(np.zeros((0, 2), np.float32)).variances) == []


def test_one_vector_has_no_other_scale() -> None:
    one = drawn(1, 50)
    np.testing.assert_allclose(spread(one).variances, np.square(one, dtype=np.float64).mean())


@pytest.mark.parametrize("axis", [0, 1])
def test_samples_lie_on_the_axis_that_has_as_many_places(axis: int) -> None:
    """[N, T, C], and [T, N, C] with time first; what each place is on average is no signal."""
    values = drawn(30, 7, 3) * np.array([1, 10, 100], np.float32) + 1000 * drawn(1, 7, 3, seed=1)
    found = Spread(2)
    for start in range(0, 30, 10):
        found.add(values[start : start + 10].swapaxes(0, axis), 10)
    expected = values.astype(np.float64).var(axis=0, ddof=1).mean(axis=0)
    np.testing.assert_allclose(found.variances, expected, rtol=1e-3)


def test_channels_first_without_an_axis_of_samples() -> None:
    values = drawn(40, 4, 25) * np.array([1, 10, 100, 1000], np.float32)[:, None]
    found = Spread(0)
    for each in values:
        found.add(each, 1)
    expected = values.astype(np.float64).var(axis=0, ddof=1).mean(axis=1)
    np.testing.assert_allclose(found.variances, expected, rtol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_that_float32_does_not_have(size: float) -> None:
    values = drawn(50, 2) * np.float32(size)
    expected = np.square(drawn(50, 2), dtype=np.float64)
    np.testing.assert_allclose(squares_of(values, 1) / size**2, expected.sum(axis=0), rtol=1e-5)
    found = spread(values).variances / size**2
    np.testing.assert_allclose(found, drawn(50, 2).astype(np.float64).var(axis=0, ddof=1), rtol=1e-5)


def test_decibels() -> None:
    assert [decibels(x) for x in (0.0, 0.01, math.inf)] == [math.inf, pytest.approx(20.0), -math.inf]
