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


ROWS_AT_ONCE = 4096
"""Bounds the copy of the patches, and the length of a sum in float32. Derived: 4,096 terms are off by
√4096·eps, 4e-6, of their size."""


def _precision(rows: Array) -> type[np.floating]:
    return np.float64 if rows.dtype == np.float64 else np.float32


@np.errstate(over="ignore", invalid="ignore")  # who reads what comes of it checks it
def _shift(rows: Array) -> Float64:
    """Their mean, through float32, so that all later differences are taken from the same number."""
    return np.asarray(rows.mean(axis=0, dtype=np.float64).astype(_precision(rows)).astype(np.float64))


@np.errstate(over="ignore", invalid="ignore")
def _less(rows: Array, shift: Float64) -> npt.NDArray[np.floating]:
    return np.asarray(rows.astype(_precision(rows)) - shift.astype(_precision(rows)))


class MomentsAccumulator:
    """Gathers `Moments` from batches of patches.

    Patches are shifted by the mean of the first batch before they are multiplied, or the products would drown
    the variance in the square of the mean. Products are taken in float32 and summed in float64; patches that
    come in float64 are multiplied in float64.
    """

    def __init__(self, dimension: int) -> None:
        self._shift: Float64 | None = None
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))
        self._count = 0

    @property
    def count(self) -> int:
        """Patches so far."""
        return self._count

    @np.errstate(over="ignore", invalid="ignore")  # who reads the covariance checks it
    def add(self, rows: Array) -> None:
        """Take in patches ``[n, d]``.

        Raises:
            ValueError: the patches have another dimension.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self._sum):
            raise ValueError(f"patches of shape {rows.shape}: expected [n, {len(self._sum)}]")
        if not len(rows):
            return
        if self._shift is None:
            self._shift = _shift(rows)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            centred = _less(rows[start : start + ROWS_AT_ONCE], self._shift)
            self._products += centred.T @ centred
            self._sum += centred.sum(axis=0, dtype=np.float64)
        self._count += len(rows)

    @np.errstate(over="ignore", invalid="ignore")
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
class Joint:
    """What one group of an operator reads, and what it should make of it, on the same samples.

    Nothing in it is as large as the square of the outputs, of which there may be thousands.

    Attributes:
        inputs: moments of the patches, of dimension d.
        target: of the wanted outputs.
        root: R, ``[o, o]`` or its diagonal ``[o]``: an error e in the outputs counts ‖R e‖²; None where all
            count the same.
        counted: the variance of the wanted outputs as they count, E‖R (y − E y)‖².
    """

    inputs: Moments
    target: Target
    root: Float64 | None
    counted: float

    def merged(self, other: Joint) -> Joint:
        """Return the same of both sets of samples together."""
        count = self.inputs.count + other.inputs.count
        ours, theirs = self.inputs.count / count, other.inputs.count / count
        mean, target = self.target.mean, other.target
        gap = target.mean - mean
        cross = ours * self.target.cross + theirs * target.cross
        cross += ours * theirs * np.outer(gap, other.inputs.mean - self.inputs.mean)
        variance, counted = (
            ours * first + theirs * second + ours * theirs * float(np.sum(moved**2))
            for first, second, moved in (
                (self.target.variance, target.variance, gap),
                (self.counted, other.counted, rooted(self.root, gap)),
            )
        )
        merged = Target(mean + theirs * gap, cross, variance)
        return Joint(self.inputs.merged(other.inputs), merged, self.root, counted)

    def lost(self, flat: Float64, *, as_counted: bool = True) -> float:
        """Return E‖R (y − ŷ)‖² of a kernel ``[o, d]`` whose bias is corrected for the means.

        Args:
            flat: the kernel.
            as_counted: with R; else E‖y − ŷ‖².
        """
        root = self.root if as_counted else None
        weights, cross = rooted(root, flat), rooted(root, self.target.cross)
        made = float(np.sum((weights @ self.inputs.covariance) * weights))
        variance = self.counted if as_counted else self.target.variance
        return max(variance - 2 * float(np.sum(weights * cross)) + made, 0.0)


def rooted(root: Float64 | None, rows: Float64) -> Float64:
    """R times what belongs to each output, ``[o, …]``.

    Args:
        root: R, ``[o, o]`` or its diagonal ``[o]``; None for one that changes nothing.
        rows: of each output.
    """
    if root is None:
        return rows
    if root.ndim == 1:
        return root.reshape(-1, *(1,) * (rows.ndim - 1)) * rows
    return np.asarray(np.tensordot(root, rows, axes=1))


def unrooted(root: Float64) -> Float64:
    """Return what undoes R, in the form that R has."""
    return 1 / root if root.ndim == 1 else np.asarray(np.linalg.inv(root))


class JointAccumulator:
    """Gathers `Joint` from batches of patches and the outputs that are wanted for them.

    Args:
        dimension: d, of a patch.
        out: o, outputs.
        root: R, see `Joint`.
    """

    def __init__(self, dimension: int, out: int, root: Float64 | None) -> None:
        self._inputs = MomentsAccumulator(dimension)
        self._root = root
        self._shifts: tuple[Float64, Float64] | None = None
        self._sums = np.zeros(dimension), np.zeros(out)
        self._cross = np.zeros((out, dimension))
        self._squares = self._counted = 0.0

    def add(self, rows: Array, wanted: Array) -> None:
        """Take in patches ``[n, d]`` and outputs ``[n, o]``."""
        if not len(rows):
            return
        self._inputs.add(rows)
        if self._shifts is None:
            self._shifts = _shift(rows), _shift(wanted)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            x, y = (_less(each[part], s) for each, s in zip((rows, wanted), self._shifts, strict=True))
            with np.errstate(over="ignore", invalid="ignore"):  # who reads the covariance checks it
                self._cross += y.T @ x
                wide = np.asarray(y, np.float64)
                self._squares += float(np.sum(wide**2))
                self._counted += float(np.sum(rooted(self._root, wide.T) ** 2))
            for total, each in zip(self._sums, (x, y), strict=True):
                total += each.sum(axis=0, dtype=np.float64)

    def result(self) -> Joint:
        """Return what is known of all samples so far.

        Raises:
            ValueError: there were none.
        """
        inputs = self._inputs.result()
        assert self._shifts is not None
        x, y = (total / inputs.count for total in self._sums)
        squares, counted = (
            total / inputs.count - float(np.sum(moved**2))
            for total, moved in ((self._squares, y), (self._counted, rooted(self._root, y)))
        )
        target = Target(self._shifts[1] + y, self._cross / inputs.count - np.outer(y, x), squares)
        return Joint(inputs, target, self._root, counted)


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What is known of the inputs of one linear operator, and of what it should make of them.

    Attributes:
        groups: moments of the patches of each group, dimension in_channels / group · taps.
        targets: of each group, where the outputs to come near to are others than the operator's own on these
            inputs: those of the original network on its inputs. Empty where they are its own.
        kernels: of each group the kernel ``[o / group, c / group, *taps]`` that comes nearest to its target;
            empty where that is the operator's own.
        weighting: of each group R ``[o / group, o / group]``, or its diagonal ``[o / group]``: an error e in
            the outputs counts ‖R e‖² (`compression.curvature`). Empty where all count the same.
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
