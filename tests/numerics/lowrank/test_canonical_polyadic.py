"""Kernels as pointwise → depthwise → pointwise, and the minimisation behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.numerics.lowrank import canonical_polyadic, separable
from graphopt.numerics.lowrank.lbfgs import lbfgs
from graphopt.numerics.lowrank.moments import Moments, relative_error

OUT, INSIDE, TAPS = 20, 12, (3, 3)


def kernel(seed: int = 0) -> np.ndarray:
    """Taps and channels that go together, as those of trained kernels do."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((40, OUT)), rng.standard_normal((40, INSIDE)), rng.standard_normal((40, 9))
    return np.einsum("r,ro,rc,rt->oct", np.exp(-np.arange(40) / 12), *parts).reshape(OUT, INSIDE, *TAPS)


def moments(seed: int = 1, taps: int = 9) -> Moments:
    """Of correlated patches."""
    rng = np.random.default_rng(seed)
    size = INSIDE * taps
    rows = rng.standard_normal((4 * size, size)) @ rng.standard_normal((size, size))
    rows *= np.linspace(2.0, 0.2, size)
    return Moments(rows.mean(axis=0), np.cov(rows.T), len(rows))


def macs(rank: int) -> int:
    return rank * (INSIDE + math.prod(TAPS) + OUT)


@pytest.mark.parametrize("rank", [6, 18, 30])
def test_the_kernel_is_the_product_and_its_error_what_was_predicted(rank: int) -> None:
    weight, data = kernel(), moments()
    triple = canonical_polyadic.fit(weight, data, rank)
    assert triple.reduce.shape == (rank, INSIDE) and triple.depth.shape == (rank, 1, *TAPS)
    assert triple.expand.shape == (OUT, rank)
    product = np.einsum("or,rtu,rc->octu", triple.expand, triple.depth[:, 0], triple.reduce)
    np.testing.assert_allclose(product, triple.kernel, rtol=1e-9, atol=1e-12)
    (predicted,) = canonical_polyadic.errors(weight, data, [rank])
    lost = relative_error(weight, triple.kernel, data)
    assert predicted / 3 < lost < predicted  # the prediction searches for a shorter time
    for inner in (triple.reduce, triple.depth.reshape(rank, -1)):
        np.testing.assert_allclose(np.linalg.norm(inner, axis=1), 1.0)


def test_it_loses_less_than_depthwise_kernels_at_the_same_macs() -> None:
    weight, data = kernel(), moments()
    pair = separable.fit_depthwise(weight, data, 3)
    rank = 3 * INSIDE * (9 + OUT) // (INSIDE + 9 + OUT)
    assert macs(rank) <= 3 * INSIDE * (9 + OUT)
    ours = relative_error(weight, canonical_polyadic.fit(weight, data, rank).kernel, data)
    assert ours < 0.7 * relative_error(weight, pair.kernel, data)


def test_a_longer_search_and_a_higher_rank_lose_no_more() -> None:
    weight, data = kernel(), moments()
    searched = [
        relative_error(weight, canonical_polyadic.fit(weight, data, 18, refine=refine).kernel, data)
        for refine in (0, 1, 2)
    ]
    assert searched[0] > searched[1] >= searched[2]
    predicted = canonical_polyadic.errors(weight, data, [6, 30, 18, 12])
    assert predicted[0] > predicted[3] > predicted[2] > predicted[1]


def test_what_has_so_few_components_loses_nothing() -> None:
    rng = np.random.default_rng(3)
    weight = np.einsum(
        "or,rc,t->oct",
        rng.standard_normal((OUT, 5)),
        rng.standard_normal((5, INSIDE)),
        rng.standard_normal(9),
    ).reshape(OUT, INSIDE, *TAPS)
    white = Moments.white(INSIDE * 9)
    assert relative_error(weight, canonical_polyadic.fit(weight, white, 5).kernel, white) < 1e-20
    assert (
        canonical_polyadic.errors(weight, white, [5])[0]
        < 1e-3
        < canonical_polyadic.errors(weight, white, [4])[0]
    )


def test_outputs_may_be_mixed() -> None:
    triple = canonical_polyadic.fit(kernel(), moments(), 10)
    matrix = np.random.default_rng(4).standard_normal((OUT, OUT))
    mixed = triple.mixed(matrix)
    np.testing.assert_allclose(mixed.kernel, np.tensordot(matrix, triple.kernel, axes=1))
    np.testing.assert_allclose(mixed.expand, matrix @ triple.expand)


def test_a_spectrum_is_in_parts_and_descends() -> None:
    parts = canonical_polyadic.spectrum(kernel(), moments())
    assert len(parts) == INSIDE * 9 and sum(parts) == pytest.approx(1.0)
    assert list(parts) == sorted(parts, reverse=True)


def test_very_wide_kernels_take_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, data = kernel(), moments()
    whole = relative_error(weight, canonical_polyadic.fit(weight, data, 18).kernel, data)
    monkeypatch.setattr(canonical_polyadic, "WORK", (0.0, 0.0, 0.0))
    assert relative_error(weight, canonical_polyadic.fit(weight, data, 18).kernel, data) > 1.02 * whole


def test_dead_channels_and_bad_numbers() -> None:
    weight, data = kernel(), moments()
    covariance = data.covariance.copy()
    covariance[:9] = covariance[:, :9] = 0.0
    dead = Moments(data.mean, covariance, data.count)
    assert relative_error(weight, canonical_polyadic.fit(weight, dead, 18).kernel, dead) < 0.2
    weight[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        canonical_polyadic.fit(weight, data, 4)
    with pytest.raises(ValueError, match="expected"):
        canonical_polyadic.errors(kernel(), Moments.white(7), [4])


# ---------------------------------------------------------------- the minimisation


def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
    """A curved valley whose lowest point is at ones."""
    rise, step = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[1:] += 200 * rise
    gradient[:-1] += -400 * rise * x[:-1] - 2 * step
    return float((100 * rise**2 + step**2).sum()), gradient


def test_a_curved_valley_is_followed_to_its_lowest_point() -> None:
    assert rosenbrock(lbfgs(rosenbrock, np.array([-1.2, 1.0, -0.5, 0.8]), 300))[0] < 1e-3


def test_no_step_goes_up() -> None:
    start = np.array([-1.2, 1.0, -0.5, 0.8])
    values = [rosenbrock(lbfgs(rosenbrock, start, steps))[0] for steps in range(12)]
    assert values[0] == rosenbrock(start)[0]
    assert values == sorted(values, reverse=True)


def test_the_lowest_point_is_left_alone() -> None:
    np.testing.assert_array_equal(lbfgs(rosenbrock, np.ones(4), 10), np.ones(4))
