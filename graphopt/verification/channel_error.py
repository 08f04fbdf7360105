"""How far apart two models are in what varies: an output by groups of channels, over batches of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.numerics.spread import Spread, added, squares_of
from graphopt.types import Array, Float64
from graphopt.verification.difference import Output, finite_gap, incomparable, parts_of


@dataclass(frozen=True, slots=True)
class Group:
    """Channels of a value that are measured together.

    Attributes:
        name: what a report calls them.
        axis: of the value, that holds the channels; None for a value that is one channel.
        start: the first of them.
        stop: behind the last; None for all.
        common: whether all are of one unit, as probabilities are.
    """

    name: str
    axis: int | None
    start: int = 0
    stop: int | None = None
    common: bool = False

    def of(self, array: Array) -> Array:
        """The group's channels of a value."""
        if self.stop is None or self.axis is None or self.axis >= array.ndim:
            return array
        return array[(*(slice(None),) * self.axis, slice(self.start, self.stop))]


class ChannelError:
    """Squared differences of a group of channels, each over its own variance.

    Args:
        group: the channels.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self._spread = Spread(group.axis, common=group.common)
        self._squares: Float64 | None = None
        self._lost = False

    def add(self, reference: Output, candidate: Output) -> None:
        """Takes in what both make of a batch; sequences are compared element by element, as one channel."""
        ours, theirs = parts_of(reference), parts_of(candidate)
        if len(ours) != len(theirs):
            self._lost = True
            return
        for exact, found in zip(ours, theirs, strict=True):
            self._add(exact, found, sequence=isinstance(reference, list))

    def _add(self, reference: Array, candidate: Array, *, sequence: bool) -> None:
        if incomparable(reference, candidate):
            self._lost = True
            return
        if reference.dtype.kind not in "fiub" or not reference.size:
            return
        flat = finite_gap(reference, candidate)
        exact, gap = (self.group.of(each.reshape(reference.shape)) for each in flat)
        if sequence:
            exact, gap = exact.reshape(-1), gap.reshape(-1)
            self._spread.axis = None
        self._spread.add(exact)
        more = squares_of(gap, self._spread.axis)
        self._squares = more if self._squares is None else added(self._squares, more)

    @property
    def error(self) -> float:
        """The mean of the channels' errors over their variances; infinite where they can't be compared."""
        if self._lost:
            return math.inf
        if self._squares is None:
            return 0.0
        return float(np.mean(self._spread.errors(self._squares)))


def worst(errors: Sequence[ChannelError]) -> dict[str, float]:
    """The largest error of each group, by name."""
    found: dict[str, float] = {}
    for each in errors:
        found[each.group.name] = max(found.get(each.group.name, 0.0), each.error)
    return found
