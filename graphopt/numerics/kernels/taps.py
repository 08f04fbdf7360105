"""Which taps of a kernel do anything, and the smaller kernel of those that do, in plain NumPy.

On each spatial axis the taps that count are first, first + step, …: a kernel of that extent, dilated by the
step, computes the same. With P zeros in front and D between taps, P − first·D zeros in front remain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.types import Array


class Span(NamedTuple):
    """Evenly spaced taps of one axis.

    Attributes:
        first: the first tap.
        taps: how many there are.
        step: distance between two, 1 where there is one only.
    """

    first: int
    taps: int
    step: int

    @property
    def last(self) -> int:
        """The last tap."""
        return self.first + (self.taps - 1) * self.step

    def indices(self) -> slice:
        """The taps as an index."""
        return slice(self.first, self.last + 1, self.step)


def span(used: npt.NDArray[np.bool_], most_first: int | None = None, least_last: int = 0) -> Span:
    """The fewest evenly spaced taps of an axis that hold all used ones; the first one where none is.

    Args:
        used: ``[taps]``, whether a tap does anything.
        most_first: the first tap must not lie behind this one.
        least_last: the last tap must not lie in front of this one.

    Returns:
        The span; its step is 1 where it has one tap only.
    """
    where = [int(t) for t in np.flatnonzero(used)] or [0]
    step = math.gcd(*(b - where[0] for b in where[1:])) or 1
    first, last = where[0], where[-1]
    if most_first is not None and first > most_first:
        step = step if len(where) > 1 else first - most_first or 1
        first -= -(-(first - most_first) // step) * step
        if first < 0:
            first, step = most_first, 1
    if last < least_last:
        reach = last + -(-(least_last - last) // step) * step
        last, step = (reach, step) if reach < len(used) else (least_last, 1)
    count = (last - first) // step + 1
    return Span(first, count, step if count > 1 else 1)


def used_taps(kernel: Array, landing: Sequence[npt.NDArray[np.bool_]]) -> list[npt.NDArray[np.bool_]]:
    """For each axis, the taps that have a weight other than 0 and that ever land on the input.

    Args:
        kernel: ``[out_channels, in_channels / group, *taps]``.
        landing: for each axis ``[taps]``, whether the tap ever meets the input.
    """
    weights: npt.NDArray[np.bool_] = np.asarray(kernel[:1].any(axis=(0, 1)))  # mostly, one filter has all
    if not weights.all():
        weights = np.asarray(kernel.any(axis=(0, 1)))
    for axis, lands in enumerate(landing):
        weights = weights & lands.reshape(-1, *(1,) * (weights.ndim - 1 - axis))
    others = range(weights.ndim)
    return [np.asarray(weights.any(axis=tuple(a for a in others if a != axis))) for axis in others]


def take(kernel: Array, spans: Sequence[Span]) -> Array:
    """The kernel of the chosen taps, ``[out_channels, in_channels / group, *taps]``."""
    return kernel[(slice(None), slice(None), *(each.indices() for each in spans))]
