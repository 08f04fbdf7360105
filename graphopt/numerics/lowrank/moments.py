"""First and second moments of what linear operators read and of what they should make, in plain NumPy.

A patch is channel-major, then tap: d = channels · taps numbers. An operator of several groups has moments for
each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.numerics.lowrank.linalg import FLAT
from graphopt.types import Array, Float64


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """First and second moments of the patches that a convolution reads.

    Attributes:
        mean: ``[d]`` with d = channels · taps, channel-major.
        covariance: ``[d, d]``, divided by the count (not by count − 1).
        count: number of patches; 0 where the moments are assumed, not measured.
    """

    mean: Float64
    covariance: Float64
    count: int

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of patches together, one of which has some."""
        count = self.count + other.count
        ours, theirs = self.count / count, other.count / count
        gap = other.mean - self.mean
        covariance = ours * self.covariance + theirs * other.covariance
        covariance += ours * theirs * np.outer(gap, gap)
        return Moments(self.mean + theirs * gap, covariance, count)

    def part(self, index: slice | npt.NDArray[np.intp]) -> Moments:
        """Return the moments of some of the numbers, in the order of the index."""
        covariance = self.covariance[index][:, index]
        return Moments(self.mean[index], covariance, self.count)

    def ridge(self, part: float) -> float:
        """Return the variance to add in every direction: a part of the mean one.

        No variance at all says nothing: then every direction counts the same.
        """
        mean = float(np.trace(self.covariance)) / max(1, len(self.covariance))
        return part * mean if mean > 0 else 1.0

    @classmethod
    def white(cls, dimension: int) -> Moments:
        """Return what to assume without data: zero mean, uncorrelated numbers of variance 1."""
        return cls(np.zeros(dimension), np.eye(dimension), 0)


class MomentsAccumulator:
    """Gathers `Moments` from batches of patches.

    Patches are shifted by the mean of the first batch before they are multiplied, or the products would drown
    the variance in the square of the mean. Products are taken in float32 and summed in float64; patches that
    come in float64 are multiplied in float64.
    """

    ROWS_AT_ONCE = 4096
    """Bounds the copy of the patches, and the length of a sum in float32."""

    def __init__(self, dimension: int) -> None:
        self._shift: Float64 | None = None
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))
        self._count = 0

    def add(self, rows: Array) -> None:
        """Take in patches ``[n, d]``.

        Raises:
            ValueError: the patches have another dimension.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self._sum):
            raise ValueError(f"patches of shape {rows.shape}: expected [n, {len(self._sum)}]")
        if not len(rows):
            return
        precision: type[np.floating] = np.float64 if rows.dtype == np.float64 else np.float32
        if self._shift is None:
            # through float32, so that all later differences are taken from the same number
            self._shift = rows.mean(axis=0, dtype=np.float64).astype(precision).astype(np.float64)
        shift = self._shift.astype(precision)
        for start in range(0, len(rows), self.ROWS_AT_ONCE):
            centred = rows[start : start + self.ROWS_AT_ONCE].astype(precision) - shift
            with np.errstate(over="ignore", invalid="ignore"):  # who reads the covariance checks it
                self._products += centred.T @ centred
            self._sum += centred.sum(axis=0, dtype=np.float64)
        self._count += len(rows)

    def result(self) -> Moments:
        """Return the moments of all patches so far; what to assume where there were none."""
        if self._shift is None:
            return Moments.white(len(self._sum))
        offset = self._sum / self._count
        covariance = self._products / self._count
        covariance -= np.outer(offset, offset)
        return Moments(self._shift + offset, covariance, self._count)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What one group of an operator should make of its inputs.

    Attributes:
        mean: ``[o]`` of the wanted outputs.
        cross: ``[o, d]``, covariance of wanted outputs and patches.
        variance: trace of the covariance of the wanted outputs.
    """

    mean: Float64
    cross: Float64
    variance: float


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What is known of the inputs of one linear operator, and of what it should make of them.

    Attributes:
        groups: moments of the patches of each group, dimension in_channels / group · taps.
        targets: of each group, where the outputs to come near to are others than the operator's own on these
            inputs: those of the original network on its inputs. Empty where they are its own.
        kernels: of each group the kernel ``[o / group, c / group, *taps]`` that comes nearest to its target;
            empty where that is the operator's own.
        weighting: of each group R ``[o / group, o / group]``: an error e in the outputs counts ‖R e‖²
            (`compression.curvature`). Empty where all count the same.
    """

    groups: tuple[Moments, ...]
    targets: tuple[Target, ...] = ()
    kernels: tuple[Float64, ...] = ()
    weighting: tuple[Float64, ...] = ()

    @property
    def count(self) -> int:
        """Number of patches; 0 where the moments are assumed."""
        return self.groups[0].count

    @classmethod
    def white(cls, dimension: int, group: int = 1) -> Statistics:
        """Return what to assume without data, see `Moments.white`."""
        return cls((Moments.white(dimension),) * group)


def losses(kernel: Array, approximation: Array, moments: Moments) -> tuple[float, float]:
    """Return E‖y − ŷ‖² of an approximate kernel whose bias is corrected for the mean, and Var(y).

    Args:
        kernel: ``[out, in, *taps]``.
        approximation: what takes its place, of the same shape.
        moments: of the patches, dimension in · taps.

    Returns:
        Both summed over the outputs, and at least 0.

    Raises:
        ValueError: the moments have another dimension than the kernel.
    """
    check_dimension(kernel, moments)
    weight = kernel.reshape(len(kernel), -1).astype(np.float64)
    difference = weight - approximation.reshape(len(approximation), -1)
    variance, lost = (float(np.sum((w @ moments.covariance) * w)) for w in (weight, difference))
    return max(lost, 0.0), max(variance, 0.0)


def relative_error(kernel: Array, approximation: Array, moments: Moments) -> float:
    """Return E‖y − ŷ‖² / Var(y), see `losses`.

    An output that does not vary has no scale to compare with: 0.0 where the approximation's does not vary
    either, else infinity.

    Args:
        kernel: ``[out, in, *taps]``.
        approximation: what takes its place, of the same shape.
        moments: of the patches, dimension in · taps.

    Returns:
        The error, from 0; more than 1 is worse than outputs that don't vary.

    Raises:
        ValueError: the moments have another dimension than the kernel.
    """
    lost, variance = losses(kernel, approximation, moments)
    squares = float(np.sum(kernel.astype(np.float64) ** 2))
    flat = FLAT * squares * float(np.trace(moments.covariance)) / len(moments.mean)
    if variance <= flat:
        return 0.0 if lost <= flat else math.inf
    return lost / variance


def check_fit(kernel: Array, moments: Moments) -> None:
    """Raise ValueError unless the moments are those of the kernel's patches, and all numbers are finite."""
    check_dimension(kernel, moments)
    if not (np.isfinite(kernel).all() and np.isfinite(moments.covariance).all()):
        raise ValueError(f"weights or moments of a kernel {kernel.shape} are not finite")


def check_dimension(kernel: Array, moments: Moments) -> None:
    """Raise ValueError unless the moments are those of the kernel's patches."""
    dimension = math.prod(kernel.shape[1:])
    if moments.mean.shape != (dimension,) or moments.covariance.shape != (dimension, dimension):
        raise ValueError(
            f"moments of dimension {len(moments.mean)} for a kernel {kernel.shape}: expected {dimension}"
        )
