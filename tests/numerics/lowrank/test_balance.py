"""Kernels with their channels at one scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.numerics.lowrank import exact_factors, tucker
from graphopt.numerics.lowrank.balance import balanced


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("taps", [(), (3,), (3, 2)])
def test_every_channel_comes_to_one_scale_and_no_digit_changes(
    dtype: npt.DTypeLike, taps: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((6, 4, *taps)) + 2
    kernel[1] *= 1000
    kernel[:, 2] /= 100
    kernel[3], kernel[:, 1] = 0, 0  # what is zero stays so
    kernel = kernel.astype(dtype)
    whole = balanced(kernel)
    peaks = [np.abs(whole.kernel).max(tuple(a for a in range(kernel.ndim) if a != axis)) for axis in (0, 1)]
    for peak, zero in zip(peaks, (3, 1), strict=True):
        others = np.delete(peak, zero)
        assert peak[zero] == 0
        assert ((others >= 0.25) & (others <= 2)).all()
    ones = [1] * len(taps)
    scales = whole.rows.reshape(-1, 1, *ones) * whole.columns.reshape(-1, *ones)
    np.testing.assert_array_equal(whole.kernel * scales, kernel.astype(np.float64))
    assert whole.levels.shape == (6,)


@pytest.mark.parametrize("size", [64, 1500])
def test_a_channel_that_is_small_beside_another_counts_for_the_rank(size: int) -> None:
    """Of a large matrix, whose rank is searched, as well."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((size, 10)), rng.standard_normal((10, size + 7))
    left[: size // 2, 5:] = 0
    left[size // 2 :] *= 1e-8  # these alone read the last five directions
    whole = balanced((left @ right).astype(np.float32))
    eps = float(np.finfo(np.float32).eps)
    assert exact_factors.find_rank(whole.kernel, eps, 20, whole.levels) == 10
    assert exact_factors.find_rank(whole.kernel, eps, 9, whole.levels) is None
    a, b = exact_factors.thin_factors(whole.kernel, eps, 10, whole.levels)
    made, exact = whole.last(a) @ whole.first(b), left @ right
    lost = np.linalg.norm(made - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert lost.max() < 1e-6


def test_what_is_cut_of_one_output_channel_is_its_rounding() -> None:
    """Noise of the whole matrix, gathered in one of many rows, is no rounding of that row."""
    rng = np.random.default_rng(1)
    rows = np.outer(rng.standard_normal(4096), rng.standard_normal(8)).astype(np.float32)
    eps = float(np.finfo(np.float32).eps)
    rows[7] += 40 * eps * np.linalg.norm(rows[7]) * rng.standard_normal(8).astype(np.float32)
    levels = np.sqrt(np.mean(rows.astype(np.float64) ** 2, axis=1))
    assert tucker.numerical_rank(rows, eps) == 1
    assert tucker.numerical_rank(rows, eps, levels=levels) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rank", [5, 12, 20])
@pytest.mark.parametrize("shape", [(24, 30), (40, 24)])
def test_what_is_certified_without_scaling_is_so_with_it(
    dtype: npt.DTypeLike, rank: int, shape: tuple[int, int]
) -> None:
    """Of matrices of known rank, channels of which differ by decades."""
    rng = np.random.default_rng(rank)
    rows, columns = (10 ** rng.uniform(-2, 2, size) for size in shape)
    product = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    matrix = (product * rows[:, None] * columns / 100).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    for pays in range(1, min(shape)):
        above = exact_factors.is_above(matrix, eps, pays)
        assert not (above and pays >= rank)
        if above:
            whole = balanced(matrix)
            assert exact_factors.find_rank(whole.kernel, eps, pays, whole.levels) is None
    assert exact_factors.is_above(matrix, eps, 1)
