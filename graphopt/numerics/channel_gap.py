"""How far apart two values are, channel by channel, beside what rounding explains, in plain NumPy.

Next to a channel of large numbers another may be lost whole, and the largest difference over the largest
number says nothing of it. So each channel is judged by its own scale: its largest number, or, where that is
the small difference of large terms, the size of those. How large they are shows in how far the channel moves
when all that it is computed from is off by one rounding: sums whose terms cancel are no more precise than
that, whoever computes them (Higham 2002, "Accuracy and stability of numerical algorithms", section 1.6).
"""

from __future__ import annotations

import numpy as np

from graphopt.types import Array, Float64

DRAWS = 8
"""Times that inputs are rounded to see how far a channel moves. Derived: of a channel of one number, a draw
from a normal distribution is under a fifth of its deviation, the least that 5 eps of float16 allow for, with
probability 0.16; all eight are in one of two million."""


class ChannelGap:
    """Differences between two values by channel, gathered over inputs.

    Args:
        axis: that holds the channels.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._gaps = self._peaks = self._moves = np.zeros(0)

    def add(self, reference: Array, candidate: Array) -> None:
        """Take in what both are; what is no array of finite floats of that many axes says nothing here."""
        if self._counts(reference, candidate):
            self._gaps = _largest(self._gaps, self._by_channel(reference, candidate))
            self._peaks = _largest(self._peaks, self._by_channel(reference))

    def move(self, reference: Array, moved: Array, rounding: float) -> None:
        """Take in how far the reference moves by one rounding of all that it is computed from.

        Args:
            reference: as it is.
            moved: with rounded inputs.
            rounding: by what part of themselves those were off.
        """
        if self._counts(reference, moved):
            self._moves = _largest(self._moves, self._by_channel(reference, moved) / rounding)

    @property
    def error(self) -> float:
        """The largest difference of a channel over its scale; one that is 0 everywhere has none."""
        scales = _largest(self._peaks, self._moves)
        known = (self._peaks > 0) & (self._gaps > 0)
        return float((self._gaps[known] / scales[known]).max(initial=0.0))

    def _counts(self, one: Array, other: Array) -> bool:
        if one.dtype.kind != "f" or one.shape != other.shape or one.ndim <= self._axis or not one.size:
            return False
        return len(self._peaks) in (0, one.shape[self._axis])

    def _by_channel(self, one: Array, other: Array | None = None) -> Float64:
        """The largest number, or difference, of each channel; not finite ones are for others to judge."""
        wide = np.float32 if one.dtype.itemsize <= np.dtype(np.float32).itemsize else np.float64
        with np.errstate(over="ignore", invalid="ignore"):
            apart = one.astype(wide) if other is None else one.astype(wide) - other.astype(wide)
        others = tuple(axis for axis in range(one.ndim) if axis != self._axis)
        found = np.abs(apart, out=apart).max(others, where=np.isfinite(apart), initial=0.0)
        return np.asarray(found, np.float64)


def rounded(array: Array, rounding: float, rng: np.random.Generator) -> Array:
    """The array with each number larger or smaller by one rounding; whole numbers and texts as they are.

    Args:
        array: any array.
        rounding: as a part of the number; that of the array's own type, if it is coarser.
        rng: draws the signs.

    Returns:
        An array of the same shape and type.
    """
    if array.dtype.kind != "f":
        return array
    step = max(rounding, float(np.finfo(array.dtype).eps))
    signs = rng.integers(0, 2, array.shape).astype(array.dtype) * 2 - 1
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array * (1 + step * signs), array.dtype)


def _largest(one: Float64, other: Float64) -> Float64:
    return other if not len(one) else one if not len(other) else np.maximum(one, other)
