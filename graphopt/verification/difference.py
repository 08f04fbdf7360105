"""Figures of how far apart two arrays are, and of how much they tell of the inputs: pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.numerics.spread import Spread, added, squares_by_sample
from graphopt.planning.intervals import GROUPS
from graphopt.types import Array, Float64

Output: TypeAlias = Any
"""What a model returns: an array, or for a sequence a list of arrays."""
ZERO_REFERENCE = 1e-6
"""Absolute difference that still passes where the reference is zero everywhere: derived, 8 eps of float32,
the rounding of terms about 1 that cancel."""
SQUARED = 1e-12, 1e12
"""Values between these have squares that can be summed up in float32: derived, 1e24 times 1e14 elements is
its largest, 1e-24 is far above its least, 1e-38."""
TOLD_APART = 10.0
"""What other inputs change in a value has to be more than this many times what two models may differ by, or
else it tells nothing. Derived: at 1, a model that answers another input would pass; at 10, one passes that is
off by less than a tenth of what inputs change, as one channel of ten does. Outputs of networks that are fed
noise change by 0.04 of their largest value and more (ten architectures), 40 times what 1e-4 asks for."""


@dataclass(slots=True)
class Difference:
    """Differences between reference and candidate, gathered over feeds.

    Attributes:
        max_abs: largest absolute difference.
        max_rel: largest max|a − b| / max|a| of a feed; infinite where shapes or NaNs differ.
        signal: Σ a².
        noise: Σ (a − b)².
        feeds: number of feeds seen.
        note: why the figures are infinite; "" otherwise.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    feeds: int = 0
    note: str = ""

    def add(self, reference: Output, candidate: Output) -> None:
        """Takes in one pair of outputs; sequences are compared element by element."""
        self.feeds += 1
        if isinstance(reference, list) and len(reference) != len(candidate):
            self._fail(f"{len(candidate)} elements instead of {len(reference)}")
            return
        pairs = (
            zip(reference, candidate, strict=True)
            if isinstance(reference, list)
            else [(reference, candidate)]
        )
        for exact, other in pairs:
            self._add_array(exact, other)

    def _fail(self, problem: str) -> None:
        self.max_abs = self.max_rel = self.noise = math.inf
        self.note = problem

    def _add_array(self, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> None:
        problem = incomparable(reference, candidate)
        if problem:
            self._fail(problem)
            return
        if reference.dtype.kind not in "fiub" or not reference.size:
            return
        exact, gap = finite_gap(reference, candidate)
        largest, scale = _largest(gap), _largest(exact)
        relative = largest / scale if scale > 0 else (0.0 if largest <= ZERO_REFERENCE else math.inf)
        self.max_abs, self.max_rel = max(self.max_abs, largest), max(self.max_rel, relative)
        self.signal += _energy(exact, scale)
        self.noise += _energy(gap, largest)

    @property
    def sqnr(self) -> float:
        """10·log10(Σ a² / Σ (a − b)²) in dB; infinite when equal, −infinite when nothing is left."""
        if self.noise == 0.0:
            return math.inf
        if self.signal == 0.0 or math.isinf(self.noise):
            return -math.inf
        return 10.0 * math.log10(self.signal / self.noise)


@dataclass(slots=True)
class Agreement:
    """How often two models rank the same place first, gathered over feeds.

    Attributes:
        axis: that is ranked along; None for outputs that are class scores by their shape alone, along axis 1.
        least: whether the least comes first.
        equal: rows that agree.
        rows: all rows that there are in one of the two; a row that the other does not have never agrees.
        other: whether something was no class scores.
        inputs: inputs that were taken in, where that was said.
        places: two of the places that come first in the reference's rows, where there are several.
    """

    axis: int | None = None
    least: bool = False
    equal: int = 0
    rows: int = 0
    other: bool = False
    inputs: int = 0
    places: set[int] = field(default_factory=set)
    _groups: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, reference: Output, candidate: Output, samples: int = 0) -> None:
        """Takes in one pair of outputs.

        Args:
            reference: what the original makes.
            candidate: what the other makes.
            samples: of so many inputs; 0 where that is not known.
        """
        exact, found = self._rows(reference), self._rows(candidate)
        if exact is None or found is None:
            self.other = True
            return
        if len(self.places) < 2:
            self.places.update(map(int, np.unique(exact)[:2]))
        same = exact == found if reference.shape == candidate.shape else np.zeros(max(exact.size, found.size))
        self.rows += same.size
        self.equal += int(same.sum())
        parts = same if same.ndim and len(same) == samples else same[None]
        for number, part in enumerate(parts, start=self.inputs):
            equal, rows = self._groups.get(number % GROUPS, (0, 0))
            self._groups[number % GROUPS] = equal + int(part.sum()), rows + part.size
        self.inputs += samples

    @property
    def left_out(self) -> list[float]:
        """The part that agrees without each group of inputs; none where each input is one row."""
        if self.rows <= self.inputs:
            return []
        others = [(self.equal - equal, self.rows - rows) for equal, rows in self._groups.values()]
        return [equal / rows for equal, rows in others if rows]

    @property
    def known(self) -> bool:
        """Whether all that was taken in could be ranked, as far as there were rows."""
        return not (self.other and self.rows)

    @property
    def tells(self) -> bool:
        """Whether the reference's rows differ in what comes first, so that it means something to agree."""
        return self.rows < 2 or len(self.places) > 1

    @property
    def part(self) -> float | None:
        """The part of the rows that agree; None where there are none, or something can't be ranked."""
        return None if self.other or not self.rows else self.equal / self.rows

    def _rows(self, output: Output) -> npt.NDArray[np.intp] | None:
        """The place that comes first in each row; None where the output has no such rows."""
        if isinstance(output, list) or not (self.axis is not None or is_class_scores(output.shape)):
            return None
        axis = 1 if self.axis is None else self.axis
        if not -output.ndim <= axis < output.ndim:
            return None
        if output.shape[axis] < 2 or not output.size:  # there is nothing to choose from
            return np.zeros(0, np.intp)
        return np.asarray((output.argmin if self.least else output.argmax)(axis=axis))


def incomparable(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> str:
    """Why no difference of two arrays can be taken; "" when it can."""
    if reference.shape != candidate.shape:
        return f"shape {list(candidate.shape)} instead of {list(reference.shape)}"
    if reference.dtype != candidate.dtype:
        return f"type {candidate.dtype} instead of {reference.dtype}"
    if reference.dtype.kind not in "fiub":
        return "" if np.array_equal(reference, candidate) else "values differ"
    if reference.dtype.kind == "f" and not (np.isfinite(candidate).all() and np.isfinite(reference).all()):
        equal = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
        bad = ~(np.isfinite(candidate) & np.isfinite(reference)) & ~equal
        if bad.any():
            return f"{int(bad.sum())} values are not finite in one of the two"
    return ""


def finite_gap(
    reference: npt.NDArray[Any], candidate: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Reference and difference, flat; 0 where both are the same infinity or NaN.

    float32 is precise enough for differences of float32 and float16, all else is taken in float64.
    """
    kind = np.float32 if reference.dtype in (np.float32, np.float16) else np.float64
    exact: npt.NDArray[Any] = reference.astype(kind, copy=False).ravel()
    other: npt.NDArray[Any] = candidate.astype(kind, copy=False).ravel()
    if reference.dtype.kind in "iu":  # large ones that differ may be the same number in float64
        return exact, np.where((reference == candidate).ravel(), 0.0, np.maximum(np.abs(other - exact), 1.0))
    finite = np.isfinite(exact)
    if not finite.all():
        exact, other = np.where(finite, exact, 0), np.where(finite, other, 0)
    return exact, other - exact


def _energy(array: npt.NDArray[Any], largest: float) -> float:
    """The sum of squares of values up to the largest, also where the array's type has no such squares."""
    if SQUARED[0] <= largest <= SQUARED[1] or not 0.0 < largest < math.inf:
        return float(np.dot(array, array))
    scaled = array / array.dtype.type(largest)
    return float(np.dot(scaled, scaled)) * largest * largest


def _largest(array: npt.NDArray[Any]) -> float:
    return max(float(array.max()), -float(array.min()))


def is_class_scores(shape: tuple[int | None, ...]) -> bool:
    """Whether an output may hold class scores: [N, K] or [N, K, 1, 1] with at least two classes."""
    if len(shape) not in (2, 4) or any(size != 1 for size in shape[2:]):
        return False
    return shape[1] is None or shape[1] > 1


# ---------------------------------------------------------------- channel by channel


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
        self._groups: dict[int, tuple[Float64, float]] = {}
        self._seen = 0
        self._lost = False

    def add(self, reference: Output, candidate: Output, samples: int | None = None) -> None:
        """Takes in what both make of a batch; sequences are compared element by element, as one channel.

        Args:
            reference: what the original makes.
            candidate: what the other makes.
            samples: how many inputs; the size of the first axis where not given.
        """
        ours, theirs = parts_of(reference), parts_of(candidate)
        if len(ours) != len(theirs):
            self._lost = True
            return
        for exact, found in zip(ours, theirs, strict=True):
            self._add(exact, found, samples, sequence=isinstance(reference, list))
        self._seen += samples or 1

    def _add(self, reference: Array, candidate: Array, samples: int | None, *, sequence: bool) -> None:
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
        self._spread.add(exact, samples)
        known = len(gap) if samples is None and gap.ndim else samples or 0
        rows = squares_by_sample(gap, self._spread.axis, 0 if sequence else known)
        for number, more in enumerate(rows, start=self._seen):
            self._squares = more if self._squares is None else added(self._squares, more)
            squares, numbers = self._groups.get(number % GROUPS, (np.zeros_like(more), 0.0))
            self._groups[number % GROUPS] = added(squares, more), numbers + gap.size / len(rows)

    @property
    def error(self) -> float:
        """The mean of the channels' errors over their variances; infinite where they can't be compared."""
        if self._lost:
            return math.inf
        if self._squares is None:
            return 0.0
        return float(np.mean(self._spread.errors(self._squares)))

    def left_out(self) -> dict[int, float]:
        """The error without each of the groups of inputs that there are, by their numbers."""
        if self._lost or self._squares is None:
            return {}
        channels = len(self._spread.count)
        return {
            number: float(np.mean(self._spread.errors(added(self._squares, -squares), numbers / channels)))
            for number, (squares, numbers) in self._groups.items()
        }


def worst(errors: Sequence[ChannelError]) -> dict[str, float]:
    """The largest error of each group of channels, by name."""
    found: dict[str, float] = {}
    for each in errors:
        error = math.inf if math.isnan(each.error) else each.error
        found[each.group.name] = max(found.get(each.group.name, 0.0), error)
    return found


def worst_left_out(errors: Sequence[ChannelError]) -> list[float]:
    """The largest error of all without each group of inputs that the worst of them tells apart."""
    parts = [(math.inf if math.isnan(each.error) else each.error, each.left_out()) for each in errors]
    _, told = max(parts, key=lambda part: part[0], default=(0.0, {}))
    return [max(left.get(number, error) for error, left in parts) for number in told]


# ---------------------------------------------------------------- how much a value tells of the inputs


def change(outputs: Sequence[Output]) -> float:
    """The largest difference that other inputs make to an output, as a part of its largest value.

    Outputs of several sizes are compared where they overlap; with one input alone, its samples are, and with
    one sample the values at different places.

    Args:
        outputs: of one value, for each input.

    Returns:
        0 where nothing changes it, or nothing in it is finite; 1 where only its size does.
    """
    found = 0.0
    for one, other in _pairs([parts_of(output) for output in outputs]):
        if len(one) != len(other):
            return 1.0
        found = max((found, *(_relative(a, b) for a, b in zip(one, other, strict=True))))
    return found


def finite(output: Output) -> bool:
    """Whether all numbers of an output are finite."""
    return all(part.dtype.kind != "f" or bool(np.isfinite(part).all()) for part in parts_of(output))


def parts_of(output: Output) -> list[npt.NDArray[Any]]:
    """The arrays of a sequence, or the array that an output is."""
    return output if isinstance(output, list) else [output]


def _pairs(
    outputs: list[list[npt.NDArray[Any]]],
) -> Iterator[tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]]:
    """Outputs for inputs that follow each other; of a single input, its samples, else its places."""
    if len(outputs) > 1:
        yield from pairwise(outputs)
        return
    for part in outputs[0]:
        if part.ndim and len(part) > 1:
            yield [part[:1]], [part[1:]]
        elif part.size > 1:
            yield [part.ravel()[:-1]], [part.ravel()[1:]]


def _relative(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """How far apart two arrays are where they overlap, as a part of the largest value."""
    if one.ndim != other.ndim or (one.size == 0) != (other.size == 0):
        return 1.0
    common = tuple(slice(0, min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    one, other = one[common], other[common]
    if one.dtype.kind not in "fiubV" or one.dtype != other.dtype:
        return float(not np.array_equal(one, other))
    if not one.size:
        return 0.0
    a, b = (each.astype(np.float64) for each in (one, other))
    known = np.isfinite(a) & np.isfinite(b)
    if not known.all():
        a, b = (np.where(known, each, 0.0) for each in (a, b))
    scale = max(_largest(a), _largest(b))
    return _largest(a - b) / scale if scale > 0 else 0.0
