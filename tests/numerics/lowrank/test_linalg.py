"""Linear algebra that rounding does not stop."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.lowrank.linalg import cholesky
from graphopt.types import Float64


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 2)),
        np.ones((3, 3)),  # flat
        np.array([[0.1, 2.0], [2.0, 0.1]]),  # negative by more than its trace
        np.diag([1.0, -1e-7]),
        np.diag([-1.0, -2.0]),
    ],
)
def test_matrices_that_are_not_positive_definite_are_lifted(matrix: Float64) -> None:
    lower = cholesky(matrix)
    assert np.isfinite(lower).all()
    assert np.array_equal(lower, np.tril(lower))
    lift = lower @ lower.T - matrix
    assert np.allclose(lift, lift[0, 0] * np.eye(len(matrix)), atol=1e-12)
    lowest = np.linalg.eigvalsh(matrix)[0]
    assert lift[0, 0] <= 20 * max(abs(lowest), 1e-12)


def test_positive_definite_matrices_are_not_lifted() -> None:
    factor = np.array([[2.0, 0.0], [1.0, 3.0]])
    assert np.allclose(cholesky(factor @ factor.T), factor, rtol=1e-14)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        cholesky(np.array([[np.nan]]))
