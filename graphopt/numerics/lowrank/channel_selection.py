"""Which input channels of a layer to keep, and what makes up for the others: in plain NumPy.

With S the covariance of the patches z and B the kernel that is to be approximated, dropping the channels D
and refitting the rest adds trace(B_D (Q_DD)⁻¹ B_Dᵀ) to E‖(B − B') z‖², Q = S⁻¹ (optimal brain surgeon;
Hassibi and Stork 1993, of channels in the place of weights). So they are dropped the cheapest first, and what
is left is the best kernel on what is left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.numerics.lowrank.moments import Moments, check_fit
from graphopt.types import Array, Float64

AT_ONCE = 0.01
"""Part of the channels left that is dropped before what the others cost is looked at again. Derived: after n
steps 0.99ⁿ are left, so that half of 1,152 are dropped in 69 steps and not in 576."""
AMONG = 4
"""Times as many channels are looked at as are dropped: derived, of so many that are equal to each other and
the cheapest alone, all but one go for nothing."""
RIDGE = 1e-6
"""Of the mean variance, in every direction, so that S has an inverse: derived, of 8 eps of float32, what its
rounding adds."""


class Dropped(NamedTuple):
    """The order in which channels are dropped.

    Attributes:
        order: the channels, the cheapest first.
        errors: E‖y − ŷ‖² / Var(y) when so many are gone, from none to all.
    """

    order: list[int]
    errors: list[float]

    def kept(self, count: int) -> list[int]:
        """So many channels that stay, ascending."""
        return sorted(self.order[len(self.order) - count :])


def eliminated(kernel: Array, moments: Moments, least: int) -> Dropped:
    """Drop input channels one after the other, each time those without which the rest does best.

    Args:
        kernel: B ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        least: channels that stay; their order is left as it is.

    Returns:
        The order, and the errors on the way.

    Raises:
        ValueError: the moments have another dimension than the kernel.
    """
    check_fit(kernel, moments)
    out, channels = kernel.shape[:2]
    weights = kernel.reshape(out, -1).astype(np.float64)
    taps = weights.shape[1] // channels
    variance = float(np.sum((weights @ moments.covariance) * weights))
    precision = _inverse(moments)
    left = np.arange(channels)
    order: list[int] = []
    lost = [0.0]
    while len(left) > least:
        most = max(1, min(int(AT_ONCE * len(left)), len(left) - least))
        some, costs = _cheapest(weights, precision, taps, most)
        at = (some[:, None] * taps + np.arange(taps)).ravel()
        block = np.linalg.solve(precision[np.ix_(at, at)], precision[at])
        lost += list(lost[-1] + np.cumsum(costs))
        rest = np.setdiff1d(np.arange(weights.shape[1]), at)
        weights = (weights - weights[:, at] @ block)[:, rest]
        precision = (precision - precision[:, at] @ block)[np.ix_(rest, rest)]
        order += left[some].tolist()
        left = np.delete(left, some)
    errors = [each / variance if variance > 0 else 0.0 for each in lost]
    return Dropped([*order, *left.tolist()], errors)


def refitted(kernel: Array, moments: Moments, kept: list[int]) -> Float64:
    """Return the kernel that comes nearest to another and reads some of its channels alone.

    Args:
        kernel: B ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        kept: the channels that it reads.

    Returns:
        Of the same shape, with zeros for the other channels.
    """
    check_fit(kernel, moments)
    out, channels = kernel.shape[:2]
    weights = kernel.reshape(out, -1).astype(np.float64)
    taps = weights.shape[1] // channels
    at = (np.array(kept)[:, None] * taps + np.arange(taps)).ravel()
    covariance = moments.covariance[np.ix_(at, at)] + moments.ridge(RIDGE) * np.eye(len(at))
    found = np.zeros_like(weights)
    cross = weights @ moments.covariance[:, at] + moments.ridge(RIDGE) * weights[:, at]
    found[:, at] = np.linalg.solve(covariance, cross.T).T
    return found.reshape(kernel.shape)


def _inverse(moments: Moments) -> Float64:
    covariance = moments.covariance + moments.ridge(RIDGE) * np.eye(len(moments.mean))
    found = np.linalg.inv(covariance)
    return np.asarray((found + found.T) / 2)


def _cheapest(
    weights: Float64, precision: Float64, taps: int, count: int
) -> tuple[npt.NDArray[np.intp], Float64]:
    """So many channels, each the cheapest when those before it are gone, and what each adds to the error.

    They are looked for among `AMONG` times as many that are the cheapest alone.
    """
    near = np.argsort(_costs(weights, precision, taps), kind="stable")[: AMONG * count]
    at = (near[:, None] * taps + np.arange(taps)).ravel()
    own, precise = weights[:, at], precision[np.ix_(at, at)]
    left = np.arange(len(near))
    found, added = [], []
    for _ in range(count):
        costs = _costs(own, precise, taps)
        best = int(np.argmin(costs))
        found.append(int(near[left[best]]))
        added.append(float(costs[best]))
        gone = best * taps + np.arange(taps)
        block = np.linalg.solve(precise[np.ix_(gone, gone)], precise[gone])
        rest = np.setdiff1d(np.arange(len(precise)), gone)
        own = (own - own[:, gone] @ block)[:, rest]
        precise = (precise - precise[:, gone] @ block)[np.ix_(rest, rest)]
        left = np.delete(left, best)
    return np.array(found), np.array(added)


def _costs(weights: Float64, precision: Float64, taps: int) -> Float64:
    """What dropping each channel alone adds to the error."""
    if taps == 1:
        return np.asarray((weights**2).sum(axis=0) / np.diag(precision))
    channels = weights.shape[1] // taps
    blocks = precision.reshape(channels, taps, channels, taps)[np.arange(channels), :, np.arange(channels)]
    parts = weights.reshape(len(weights), channels, taps)
    grams = np.einsum("oit,oiu->itu", parts, parts)
    return np.asarray(np.einsum("itt->i", np.linalg.solve(blocks, grams)))
