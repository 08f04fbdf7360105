"""Fits across axes and depthwise ones, in NumPy: exact where the rank allows, predicted as measured."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.lowrank import exact_factors, separable
from graphopt.numerics.lowrank.moments import Moments, relative_error
from tests.builders import Array


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def moments(dimension: int) -> Moments:
    root = rng().normal(size=(dimension, dimension)) * np.linspace(2, 0.1, dimension)
    return Moments(rng().normal(size=dimension), root @ root.T / dimension, 1000)


def kernel_of_rank(out: int, inside: int, taps: tuple[int, ...], first: tuple[int, ...], rank: int) -> Array:
    left = rng().normal(size=(rank, inside, *(k if a in first else 1 for a, k in enumerate(taps))))
    right = rng().normal(size=(out, rank, *(1 if a in first else k for a, k in enumerate(taps))))
    return np.einsum("or...,ri...->oi...", right, left)


@pytest.mark.parametrize(
    ("taps", "first"), [((3, 3), (0,)), ((3, 5), (1,)), ((2, 3, 3), (0, 2)), ((3, 2, 2), (1,))]
)
def test_a_split_of_the_kernels_rank_is_exact(taps: tuple[int, ...], first: tuple[int, ...]) -> None:
    kernel = kernel_of_rank(7, 4, taps, first, 3)
    seen = moments(kernel[0].size)
    pair = separable.fit_separable(kernel, seen, first, 3)
    assert relative_error(kernel, pair.kernel, seen) < 1e-9
    product = np.einsum("or...,ri...->oi...", pair.second, pair.first)
    np.testing.assert_allclose(product, pair.kernel, atol=1e-9)
    assert separable.separable_errors(kernel, seen, first, [3])[0] < 1e-9
    spectrum = separable.separable_spectrum(kernel, seen, first)
    assert sum(spectrum[:3]) == pytest.approx(1.0, abs=1e-3)


def test_predictions_of_a_split_are_what_its_fit_loses() -> None:
    kernel = rng().normal(size=(8, 6, 3, 3))
    seen = moments(54)
    ranks = [2, 5, 9, 14]
    predicted = separable.separable_errors(kernel, seen, (0,), ranks)
    assert predicted == sorted(predicted, reverse=True)
    for rank, error in zip(ranks, predicted, strict=True):
        pair = separable.fit_separable(kernel, seen, (0,), rank, refine=0)
        assert relative_error(kernel, pair.kernel, seen) == pytest.approx(error, rel=1e-2)
        better = separable.fit_separable(kernel, seen, (0,), rank, refine=2)
        assert relative_error(kernel, better.kernel, seen) <= error * 1.001


@pytest.mark.parametrize("taps", [(5,), (3, 3), (2, 2, 3)])
def test_a_depthwise_fit_of_the_kernels_rank_is_exact(taps: tuple[int, ...]) -> None:
    deep, mix = rng().normal(size=(6, 2, *taps)), rng().normal(size=(9, 6, 2))
    kernel = np.einsum("oim,im...->oi...", mix, deep)
    seen = moments(kernel[0].size)
    pair = separable.fit_depthwise(kernel, seen, 2)
    assert pair.first.shape == (12, 1, *taps) and pair.second.shape[:2] == (9, 12)
    assert relative_error(kernel, pair.kernel, seen) < 1e-9
    point, each = pair.second.reshape(9, 6, 2), pair.first.reshape(6, 2, *taps)
    np.testing.assert_allclose(np.einsum("oim,im...->oi...", point, each), pair.kernel, atol=1e-9)
    assert sum(separable.depthwise_spectrum(kernel, seen)[:2]) == pytest.approx(1.0, abs=1e-3)


def test_predictions_of_a_depthwise_fit_are_what_it_loses() -> None:
    kernel = rng().normal(size=(8, 6, 3, 3))
    seen = moments(54)
    predicted = separable.depthwise_errors(kernel, seen, [1, 3, 6, 8])
    assert predicted == sorted(predicted, reverse=True)
    for multiplier, error in zip([1, 3, 6, 8], predicted, strict=True):
        closed = separable.fit_depthwise(kernel, seen, multiplier, refine=0)
        assert relative_error(kernel, closed.kernel, seen) == pytest.approx(error, rel=1e-2)
        improved = relative_error(kernel, separable.fit_depthwise(kernel, seen, multiplier).kernel, seen)
        assert improved < 0.9 * error  # all channels' kernels together


def test_a_depthwise_fit_beats_one_that_knows_nothing_of_the_data() -> None:
    kernel = rng().normal(size=(8, 6, 3, 3))
    seen = moments(54)
    blind = separable.fit_depthwise(kernel, Moments.white(54), 2).kernel
    fitted = separable.fit_depthwise(kernel, seen, 2).kernel
    assert relative_error(kernel, fitted, seen) < 0.7 * relative_error(kernel, blind, seen)


def test_factors_of_zeros_are_zeros() -> None:
    """A tap that a kernel does not read, no factor reads either, whatever rounding would leave there."""
    kernel = np.zeros((12, 3, 9))
    kernel[:, :, [0, 2, 3, 5]] = np.random.default_rng(4).standard_normal((12, 3, 4))
    depthwise, pointwise = exact_factors.depthwise_then_pointwise(kernel.reshape(12, 3, 3, 3), 4)
    product = np.einsum("oim,imt->oit", pointwise.reshape(12, 3, 4), depthwise.reshape(3, 4, 9))
    np.testing.assert_allclose(product, kernel, atol=1e-12)
    assert not depthwise.reshape(12, 9)[:, [1, 4, 6, 7, 8]].any()
