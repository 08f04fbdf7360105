"""The linear algebra that fits share, in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from graphopt.types import Float64

FLAT = 1e-12
"""Directions whose variance is below this, relative to the largest, carry no signal. Derived: eigenvalues
of n rows are off by n·eps of float64 of the largest (Weyl 1912); this is 4,500 rows."""
CONJUGATE_GRADIENT_STEPS = 8
"""Measured by benchmarks.thresholds: with 2, 8 and 32 steps depthwise fits lost 0.0085, 0.0074 and 0.0071 on
other inputs, Tucker's 0.0140 each time."""
CONVERGED = 1e-8
"""Part of the first residual's energy below which conjugate gradients end: derived, what is left to gain is a
hundredth of `canonical_polyadic.NEGLIGIBLE`, an error that no plan tells from none."""


class Whitening(NamedTuple):
    """A root L of a covariance C = L Lᵀ, and its inverse, both ``[c, c]``."""

    root: Float64
    inverse: Float64

    @classmethod
    def of(cls, covariance: Float64) -> Whitening:
        """Return the whitening of a covariance C ``[c, c]``; flat directions are lifted."""
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        deviations = np.sqrt(np.maximum(values, FLAT * values[-1]))
        return cls(vectors * deviations, (vectors / deviations).T)


def conjugate_gradients(
    operator: Callable[[Float64], Float64], target: Float64, start: Float64, steps: int
) -> Float64:
    """Improve `start` as a solution of operator(x) = target, for a symmetric positive semi-definite operator.

    (Hestenes & Stiefel 1952.) It stops where rounding has made the curvature useless, rather than step into
    it.

    Args:
        operator: linear, on arrays of the shape of `start`.
        target: what it should give.
        start: where to begin.
        steps: steps to take at the most.

    Returns:
        The better solution.
    """
    solution = start
    residual = target - operator(start)
    direction = residual
    energy = first_energy = float(np.sum(residual**2))
    for _ in range(steps):
        image = operator(direction)
        curvature = float(np.sum(direction * image))
        if not (curvature > 0 and math.isfinite(energy / curvature)):
            break
        length = energy / curvature
        solution = solution + length * direction
        residual = residual - length * image
        previous, energy = energy, float(np.sum(residual**2))
        if energy < CONVERGED * first_energy:
            break
        direction = residual + energy / previous * direction
    return solution


def cholesky(matrix: Float64) -> Float64:
    """Lower triangular L with L Lᵀ = `matrix`, which is lifted in all directions as little as needed.

    Flat directions need it, and those that rounding has made negative: of a covariance that was summed up in
    float32, in coordinates in which a channel that hardly varies counts as much as any other.

    Raises:
        ValueError: a number is not finite.
    """
    scale = float(np.abs(np.diagonal(matrix)).mean()) or 1.0
    lift = 0.0
    while math.isfinite(lift * scale):
        try:
            lifted = matrix + lift * scale * np.eye(len(matrix)) if lift else matrix
            return np.asarray(np.linalg.cholesky(lifted), np.float64)
        except np.linalg.LinAlgError:
            lift = max(FLAT, 10 * lift)
    raise ValueError("a number of a covariance is not finite")


def solve_lower(lower: Float64, target: Float64, block: int = 128) -> Float64:
    """L⁻¹ · target by blocks; NumPy has no triangular solver, and its general one takes twice the work.

    Args:
        lower: L, lower triangular, ``[n, n]``.
        target: ``[n, m]``.
        block: rows that are solved at a time.

    Returns:
        ``[n, m]``.
    """
    solution = np.empty_like(target)
    for start in range(0, len(lower), block):
        rows = slice(start, start + block)
        known = lower[rows, :start] @ solution[:start]
        solution[rows] = np.linalg.solve(lower[rows, rows], target[rows] - known)
    return solution


def descending_eigenvalues(matrix: Float64) -> Float64:
    """Eigenvalues of a positive semi-definite matrix, largest first, no rounding below zero."""
    values = np.asarray(np.linalg.eigvalsh((matrix + matrix.T) / 2), np.float64)
    return np.maximum(values[::-1], 0.0)


def leading_eigenvectors(matrix: Float64, count: int) -> Float64:
    """Eigenvectors of the `count` largest eigenvalues of a symmetric matrix, as columns."""
    vectors: Float64 = np.linalg.eigh((matrix + matrix.T) / 2)[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :count])
