"""Covariances of few patches, drawn to what patches of other inputs have."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.lowrank.moments import Moments, MomentsAccumulator
from graphopt.numerics.lowrank.shrinkage import PARTS, drawn, likeliest

DIMENSION = 64


def moments(count: int, spectrum: np.ndarray, seed: int) -> Moments:
    found = MomentsAccumulator(len(spectrum))
    found.add(np.random.default_rng(seed).standard_normal((count, len(spectrum))) * np.sqrt(spectrum))
    return found.result()


def unseen(model: Moments, truth: np.ndarray, part: float) -> float:
    """What is said of the variance in the directions that vary least, over what there is."""
    found = drawn(model, part).covariance
    _, vectors = np.linalg.eigh(model.covariance)
    last = vectors[:, : len(truth) // 2]
    said, there = (np.einsum("ij,ij->", last, matrix @ last) for matrix in (found, np.diag(truth)))
    return float(said / there)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_directions_that_few_patches_do_not_show_get_the_variance_that_they_have(decay: float) -> None:
    spectrum = np.arange(1, DIMENSION + 1) ** -decay
    halves = [moments(16, spectrum, seed) for seed in (0, 1)]
    whole = halves[0].merged(halves[1])
    part = likeliest(halves)
    assert unseen(whole, spectrum, 0.0) < 1e-3
    assert 0.5 < unseen(whole, spectrum, part) < 4


def test_many_patches_are_taken_at_their_word() -> None:
    spectrum = np.linspace(0.1, 1, DIMENSION)
    assert likeliest([moments(20000, spectrum, seed) for seed in (0, 1)]) < 0.02


def test_the_sum_of_the_variances_stays() -> None:
    whole = moments(16, np.linspace(0.1, 1, DIMENSION), 0)
    for part in (0.0, 0.3, 1.0):
        assert np.trace(drawn(whole, part).covariance) == pytest.approx(np.trace(whole.covariance))
    np.testing.assert_allclose(drawn(whole, 1.0).covariance, np.eye(DIMENSION) * whole.ridge(1.0), atol=1e-12)


def test_halves_that_say_nothing_are_drawn_whole() -> None:
    still = moments(16, np.zeros(DIMENSION), 0)
    assert likeliest([still, moments(16, np.ones(DIMENSION), 1)]) == 1.0 == PARTS[-1]
