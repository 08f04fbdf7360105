"""How much the channels of a value vary with the inputs, and errors in proportion to it, in plain NumPy.

Numbers of different kinds lie side by side: boxes in pixels beside scores up to 1, an offset that is the same
for all inputs beside what tells them apart. So each channel is compared with its own variance about its own
mean, at each place where all inputs have the same places.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.types import Array, Float64

STILL = 1e-10
"""Channels that vary by less than this part of the loudest don't vary: derived, five decades in amplitude,
where float32 beside the loudest has two digits left."""


class Spread:
    """What varies in a value, channel by channel, gathered over batches of inputs.

    Args:
        axis: that holds the channels; None for a value that is one channel.
        common: whether all channels are of one unit, so that their errors count alike.
    """

    def __init__(self, axis: int | None, *, common: bool = False) -> None:
        self.axis = axis
        self._common = common
        self._count = self._mean = self._squares = np.zeros(0)
        self._places: Float64 | None = None
        self._samples = 0
        self._placed = True
        self._along: int | None = None

    def add(self, batch: Array, samples: int | None = None) -> None:
        """Take in what the value is for a batch of inputs.

        Args:
            batch: the value.
            samples: how many inputs; the size of the first axis where not given.
        """
        if not batch.size:
            return
        rows = _by_channel(batch, self.axis)
        if len(self._count) and rows.shape[1] != len(self._count):
            self._one_channel()
        if len(self._count) == 1:
            rows = rows.reshape(-1, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # who reads a variance checks it
            shift = rows.mean(axis=0)
            apart = np.square(rows - shift).sum(axis=0)
            self._merge(np.full(rows.shape[1], float(len(rows))), shift, apart)
            self._place(batch, (len(batch) if batch.ndim else 1) if samples is None else samples)

    def _merge(self, count: Float64, mean: Float64, squares: Float64) -> None:
        """Take in counts, means and squared distances from them (Chan et al. 1979)."""
        if not len(self._count):
            self._count, self._mean, self._squares = count, mean, squares
            return
        total, gap = self._count + count, mean - self._mean
        self._squares = self._squares + squares + gap**2 * self._count * count / total
        self._mean = self._mean + gap * count / total
        self._count = total

    def _one_channel(self) -> None:
        """The axis has other sizes at other inputs: what it holds are no channels."""
        self.axis, self._placed = None, False
        total = self._count.sum()
        mean = float(self._count @ self._mean) / total
        squares = self._squares.sum() + self._count @ (self._mean - mean) ** 2
        self._count, self._mean, self._squares = (np.array([float(x)]) for x in (total, mean, squares))

    def _place(self, batch: Array, samples: int) -> None:
        """Sum up what is at each place, while all inputs have the same and lie along the same axis.

        A value of one input may have none.
        """
        along = along_samples(batch, self.axis, samples)
        total = np.asarray(batch, np.float64) if along is None else batch.sum(axis=along, dtype=np.float64)
        same = self._places is None or (along == self._along and total.shape == self._places.shape)
        self._placed = self._placed and same and (along is not None or samples == 1)
        if not self._placed:
            self._places = None
            return
        self._along = along
        self._places = total if self._places is None else self._places + total
        self._samples += samples

    @property
    def count(self) -> Float64:
        """Numbers of each channel."""
        return self._count

    @property
    def total(self) -> float:
        """The sum of all squared distances from the means of the channels."""
        return float(self._squares.sum())

    @property
    def variances(self) -> Float64:
        """Of each channel, what its errors are in proportion to: its variance.

        Channels that don't vary count as the others do on average; where none does, as after a single input,
        their mean square stands for it.
        """
        if not len(self._count):
            return np.zeros(0)
        with np.errstate(over="ignore", invalid="ignore"):
            return self._variances()

    def _variances(self) -> Float64:
        found = self._squares / self._count
        if self._places is not None and self._samples > 1:
            mean = self._places / self._samples
            before = self._along is not None and self.axis is not None and self._along < self.axis
            rows = _by_channel(mean, None if self.axis is None else self.axis - before)
            found = found - np.square(rows - self._mean).mean(axis=0)
            found = np.maximum(found, 0.0) * self._samples / (self._samples - 1)
        if not found.any():
            return np.full(len(found), np.square(self._mean).mean())
        if self._common:
            return np.full(len(found), found.mean())
        still = found <= STILL * found.max()
        if still.any() and not still.all():
            found = np.where(still, found[~still].mean(), found)
        return np.asarray(found)

    def errors(self, squares: Float64, without: float = 0.0) -> Float64:
        """Errors of each channel over its variance.

        Args:
            squares: of the differences, summed up channel by channel (`squares_of`).
            without: so many numbers of each channel are not in those sums.

        Returns:
            Relative errors; infinite where nothing varies and something differs.
        """
        if len(squares) != len(self._count):
            squares = np.array([squares.sum()])
        variances = self.variances
        with np.errstate(divide="ignore", invalid="ignore"):
            found = squares / (self._count - without) / variances
        return np.where(squares > 0, found, 0.0)


def along_samples(batch: Array, axis: int | None, samples: int) -> int | None:
    """The axis along which the inputs of a batch lie in a value: of so many places, one of the first two.

    Args:
        batch: the value.
        axis: that holds the channels, and is not meant; None for one channel.
        samples: how many inputs.

    Returns:
        The axis; None where there is no such one.
    """
    sizes = enumerate(batch.shape[:2])
    return next((place for place, size in sizes if place != axis and size == samples), None)


def squares_of(gap: Array, axis: int | None) -> Float64:
    """The sum of squares of each channel.

    Args:
        gap: differences of two values.
        axis: that holds the channels; None for one channel.
    """
    return np.asarray(np.square(_by_channel(gap, axis)).sum(axis=0))


def squares_by_sample(gap: Array, axis: int | None, samples: int) -> Float64:
    """The sums of squares of each channel, a row for each input; one row where nothing tells inputs apart.

    Args:
        gap: differences of two values.
        axis: that holds the channels; None for one channel.
        samples: how many inputs.

    Returns:
        The sums [inputs, channels].
    """
    along = along_samples(gap, axis, samples)
    if along is None:
        return squares_of(gap, axis)[None]
    inner = None if axis is None else axis - (along < axis)
    return np.array([squares_of(each, inner) for each in np.moveaxis(gap, along, 0)])


def added(total: Float64, more: Float64) -> Float64:
    """Two sums, channel by channel; where they have other channels, of all together."""
    if len(total) == len(more):
        return total + more
    return np.array([total.sum() + more.sum()])


def decibels(error: float) -> float:
    """A relative error as a ratio of signal to noise, −10·log10(error), in dB."""
    if error == 0.0:
        return math.inf
    return -10.0 * math.log10(error) if math.isfinite(error) else -math.inf


def _by_channel(array: Array, axis: int | None) -> Float64:
    """Rows of channels, in float64: what varies may be far less than what is the same."""
    wide = array.astype(np.float64, copy=False)
    if axis is None or axis >= array.ndim:
        return wide.reshape(-1, 1)
    return np.moveaxis(wide, axis, -1).reshape(-1, array.shape[axis])
