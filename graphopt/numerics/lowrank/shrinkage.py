"""Covariances of too few patches, drawn towards one that is the same in all directions, in plain NumPy.

A covariance of fewer patches than it has dimensions knows no variance in most directions, so that whatever
leaves them out looks free. (1 − a) S + a t I with t the mean variance knows some in each (Ledoit and Wolf
2004, "A well-conditioned estimator for large-dimensional covariance matrices"). a is the one under which
patches of other inputs are likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphopt.numerics.lowrank.moments import Moments
from graphopt.types import Float64

PARTS = tuple(10.0 ** (power / 4) for power in range(-20, 1))
"""Of the mean variance, that is taken. Derived: below 1e-5 `tucker_fit` adds as much anyway; four a decade
are as near as a likelihood of some hundred patches tells."""


def drawn(moments: Moments, part: float) -> Moments:
    """Moments of which a part of the variance is spread over all directions; the sum of it stays.

    Args:
        moments: of patches.
        part: from 0, which changes nothing, to 1.
    """
    covariance = (1 - part) * moments.covariance
    covariance[np.diag_indices_from(covariance)] += part * moments.ridge(1.0)
    return replace(moments, covariance=covariance)


def likeliest(halves: Sequence[Moments]) -> float:
    """The part of `PARTS` under which the patches of each half are likeliest, by the moments of the other.

    Args:
        halves: moments of the patches of different inputs.

    Returns:
        The part; 1.0 where a half is empty or does not vary.
    """
    first, second = halves
    if min(half.count for half in halves) == 0 or not all(np.trace(h.covariance) > 0 for h in halves):
        return 1.0
    total = _surprises(first, second) + _surprises(second, first)
    best: float = PARTS[int(np.argmin(total))]
    return best


def _surprises(model: Moments, seen: Moments) -> Float64:
    """For each part twice the mean negative log-likelihood of patches, but for a constant.

    The patches are taken to be normally distributed as the other moments have it, drawn so far.
    """
    values, vectors = np.linalg.eigh(model.covariance)
    gap = (seen.mean - model.mean) @ vectors
    spread = np.einsum("ij,ij->j", vectors, seen.covariance @ vectors) + gap**2
    parts = np.array(PARTS)[:, None]
    variances = (1 - parts) * np.maximum(values, 0.0) + parts * model.ridge(1.0)
    return np.asarray((np.log(variances) + spread / variances).sum(axis=1))
