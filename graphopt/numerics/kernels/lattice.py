"""Which positions of a map are read: evenly spaced ones of each spatial axis, in plain integers.

A strided or cropped reader needs its input at the positions

    start, start + step, start + 2·step, …  up to  size − 1 − tail

alone. What reads a map through a window (a convolution, a pool) hands on what it needs itself, and a window
on a map of which only such positions are left is a window again, with another stride, dilation and padding.
An axis may have an unknown size (None); all answers then hold for every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Lattice:
    """Evenly spaced positions of an axis.

    Attributes:
        start: the first position.
        step: distance between two positions.
        tail: positions at the end of the axis that are left out.
    """

    start: int = 0
    step: int = 1
    tail: int = 0

    def count(self, size: int) -> int:
        """How many positions an axis of this size has in it."""
        return max((size - 1 - self.tail - self.start) // self.step + 1, 0)

    def canonical(self, size: int | None) -> Lattice:
        """The same positions in the one form by which lattices are compared, or a superset of them."""
        if size is None:  # a tail that is cut between two positions is not known to be
            return replace(self, tail=0) if self.step > 1 else self
        count = self.count(size)
        if count in (0, size):
            return EVERYTHING
        last = self.start + (count - 1) * self.step
        return replace(self, tail=max(0, size - last - self.step))


EVERYTHING = Lattice()
"""All positions of an axis."""


def hull(a: Lattice, b: Lattice, size: int | None) -> Lattice:
    """The smallest lattice that holds both.

    Args:
        a: positions of an axis.
        b: other positions of it.
        size: of the axis; None where it is unknown.

    Returns:
        A lattice in its canonical form.
    """
    step = math.gcd(a.step, b.step, a.start - b.start)
    return Lattice(min(a.start, b.start), step, min(a.tail, b.tail)).canonical(size)


def compose(outer: Lattice, inner: Lattice, size: int | None) -> Lattice:
    """The positions of an axis that are left by taking `inner` of what `outer` left.

    Args:
        outer: positions of the axis.
        inner: positions among those.
        size: of the axis.

    Returns:
        The positions, counted on the whole axis.
    """
    start, step = outer.start + outer.step * inner.start, outer.step * inner.step
    if size is None:
        return Lattice(start, step, outer.tail + outer.step * inner.tail).canonical(None)
    count = inner.count(outer.count(size))
    if not count:
        return EVERYTHING
    return Lattice(start, step, size - 1 - (start + (count - 1) * step)).canonical(size)


def composes(outer: Lattice, inner: Lattice, size: int | None) -> bool:
    """Whether `compose` is exact: at an unknown size, a tail that is cut between two positions is not.

    Args:
        outer: positions of the axis.
        inner: positions among those.
        size: of the axis; None where it is unknown.

    Returns:
        True where no position is added or lost.
    """
    return size is not None or not ((outer.tail and inner.step > 1) or (inner.tail and outer.step > 1))


@dataclass(frozen=True, slots=True)
class Cut:
    """What a Slice does to one axis; `end` is None for the end of the axis, negative counts from there."""

    start: int = 0
    end: int | None = None
    step: int = 1

    @property
    def trivial(self) -> bool:
        """Whether nothing is cut."""
        return self == Cut()


def cut(given: Lattice, wanted: Lattice, size: int | None) -> Cut:
    """How to get at the `wanted` positions of an axis of which the `given` ones are there.

    Args:
        given: positions that are there, a superset.
        wanted: positions to be left.
        size: of the whole axis.

    Returns:
        A slice of the positions that are there.
    """
    start, step = (wanted.start - given.start) // given.step, wanted.step // given.step
    if size is None:
        tail = wanted.tail - given.tail if given.step == 1 else 0
        return Cut(start, -tail if tail else None, step)
    there, count = given.count(size), wanted.count(size)
    step = step if count > 1 else 1
    end = start + (count - 1) * step + 1
    return Cut(start, None if end + step > there else end, step)


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window on one axis; output q reads q·stride + t·dilation − begin for each tap t.

    Attributes:
        taps: number of taps.
        stride: distance between two outputs.
        dilation: distance between two taps.
        begin: padding in front; negative leaves positions out.
        end: padding behind; negative leaves positions out.
    """

    taps: int
    stride: int = 1
    dilation: int = 1
    begin: int = 0
    end: int = 0

    def fits(self, size: int) -> bool:
        """Whether the window lies within a padded axis of this size."""
        return size + self.begin + self.end > self.dilation * (self.taps - 1)

    def outputs(self, size: int) -> int:
        """Number of outputs on an axis of this size."""
        reach = self.dilation * (self.taps - 1)
        return (size - 1 + self.begin + self.end - reach) // self.stride + 1

    def reads(self, wanted: Lattice, size: int | None) -> Lattice:
        """The input positions that the `wanted` outputs need, or a superset of them.

        Args:
            wanted: positions of the output.
            size: of the input.
        """
        step = math.gcd(wanted.step * self.stride, self.dilation if self.taps > 1 else 0)
        left = self.end - wanted.tail * self.stride
        if size is None:
            step = math.gcd(step, left)
        first = wanted.start * self.stride - self.begin
        start = first if first >= 0 else first % step
        return Lattice(start, step, max(0, -left)).canonical(size)

    def on(self, given: Lattice, wanted: Lattice, size: int | None) -> Window:
        """The window that makes the `wanted` outputs, no others, out of the `given` inputs.

        With input positions a + g·i and output positions o + s·j, output j reads the positions
        (o + s·j)·S + t·D − P, that is the given ones numbered j·(s·S/g) + t·(D/g) − (P + a − o·S)/g. The
        padding behind follows from ⌊⌊x/a⌋/b⌋ = ⌊x/(a·b)⌋, so that the number of outputs stays.

        Args:
            given: input positions that are there; all that `reads` names must be among them.
            wanted: output positions.
            size: of the whole input.

        Returns:
            The same taps with the stride, dilation and padding that they have on the positions given.

        Raises:
            ValueError: the given positions don't suffice.
        """
        stride, off = divmod(wanted.step * self.stride, given.step)
        dilation, between = divmod(self.dilation, given.step) if self.taps > 1 else (1, 0)
        begin, odd = divmod(given.start - wanted.start * self.stride + self.begin, given.step)
        if off or between or odd:
            raise ValueError(f"{self} can't make {wanted} from {given}")
        room = given.tail + self.end - wanted.tail * self.stride
        if size is None:
            end, rest = divmod(room, given.step)
            if rest:
                raise ValueError(f"{self} can't make {wanted} from {given} at every size")
            return Window(self.taps, stride, dilation, begin, end)
        span = size - 1 - given.tail - given.start
        end = (span + room) // given.step - span // given.step
        window = Window(self.taps, stride, dilation, begin, end)
        without = replace(window, end=0)
        there = given.count(size)
        return without if end < 0 and without.outputs(there) == window.outputs(there) else window
