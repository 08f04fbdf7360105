"""Samples of a model's inputs, and how they are told apart in the arrays that a caller gives.

An array has the samples on the axis on which the model has its batch (the first, or the one with the batch's
name, as in a recurrent state ``[2, batch, 128]``), or on a new first axis where the model has none. An array
of the very shape that the model takes, beside others of many samples, is the same for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed, symbol
from graphopt.errors import InputError
from graphopt.runtime.session import Feeds


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a model's inputs.

    Attributes:
        feeds: one a sample: what the model takes at once, a batch of one where it takes batches.
        axes: of each input that along which samples are put together; None where each is fed alone.
    """

    feeds: tuple[Feeds, ...]
    axes: Mapping[str, int | None]

    def __len__(self) -> int:
        return len(self.feeds)

    def __getitem__(self, which: slice) -> Samples:
        return Samples(self.feeds[which], self.axes)

    def chosen(self, which: Iterable[int]) -> Samples:
        """Those of these numbers, in this order."""
        return Samples(tuple(self.feeds[number] for number in which), self.axes)

    def arrays(self, name: str) -> list[npt.NDArray[Any]]:
        """What the samples have for one input."""
        return [feed[name] for feed in self.feeds]

    def joined(self) -> Feeds:
        """All of them as one run; of an input that is fed alone the first."""
        if len(self.feeds) == 1:
            return dict(self.feeds[0])
        return {
            name: self.feeds[0][name] if axis is None else np.concatenate(self.arrays(name), axis)
            for name, axis in self.axes.items()
        }

    def cut(self, size: int) -> Iterator[Samples]:
        """So many at a time; what is left over at the end are fewer."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def kinds(self) -> dict[str, np.dtype[Any]]:
        """The type of each input."""
        return {name: array.dtype for name, array in self.feeds[0].items()}

    @property
    def alike(self) -> bool:
        """Whether all of them have the same sizes."""
        return len({_sizes(feed) for feed in self.feeds}) < 2

    @property
    def usual(self) -> Feeds:
        """The first of those of the sizes that most have, the larger ones where as many have others."""
        count = Counter(map(_sizes, self.feeds))
        most = max(count, key=lambda sizes: (count[sizes], sum(int(np.prod(s)) for _, s in sizes)))
        return next(feed for feed in self.feeds if _sizes(feed) == most)

    @property
    def of_one_size(self) -> Samples:
        """Those of the sizes that most have."""
        usual = _sizes(self.usual)
        return Samples(tuple(feed for feed in self.feeds if _sizes(feed) == usual), self.axes)


def rows(arrays: Feeds) -> Samples:
    """A sample for each row of arrays whose first axis counts them."""
    count = min((len(array) for array in arrays.values()), default=0)
    feeds = tuple({n: array[i : i + 1] for n, array in arrays.items()} for i in range(count))
    return Samples(feeds, dict.fromkeys(arrays, 0))


def together(parts: Sequence[Samples]) -> Samples:
    """The samples of several files or feeds; what they are not all put together along is fed alone."""
    axes = dict(parts[0].axes)
    for part in parts[1:]:
        axes = {name: axis if part.axes[name] == axis else None for name, axis in axes.items()}
    return Samples(tuple(feed for part in parts for feed in part.feeds), axes)


def _sizes(feed: Feeds) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape) for name, array in feed.items())


# ---------------------------------------------------------------- in arrays


@dataclass(frozen=True, slots=True)
class Slot:
    """An input, and the axis on which the model has its samples.

    Attributes:
        name: of the input.
        declared: its sizes, None for open ones; None where its rank is unknown.
        words: the same as a message has them.
        axis: of the samples; None where there is none.
    """

    name: str
    declared: tuple[int | None, ...] | None
    words: tuple[str, ...]
    axis: int | None

    @property
    def at_once(self) -> int | None:
        """How many samples a run takes; None where any number."""
        return None if self.declared is None or self.axis is None else self.declared[self.axis]

    def is_whole(self, array: npt.NDArray[Any]) -> bool:
        """Whether the model takes an array as it is."""
        return self.declared is None or _fits(array.shape, self.declared)

    def is_each(self, array: npt.NDArray[Any]) -> bool:
        """Whether it has an axis more, in front, and the model takes each part along that."""
        return self.declared is not None and array.ndim > 0 and _fits(array.shape[1:], self.declared)

    def has_axis(self, array: npt.NDArray[Any]) -> bool:
        """Whether the model takes parts of it along the axis of samples."""
        if self.axis is None or array.ndim <= self.axis:
            return False
        if self.declared is None:
            return True
        return _fits(array.shape, tuple(None if a == self.axis else d for a, d in enumerate(self.declared)))

    def count(self, array: npt.NDArray[Any], size: int) -> int:
        """How many samples it holds, of so many places each along the axis."""
        if self.is_each(array):
            return len(array)
        return array.shape[self.axis] // size if self.axis is not None else 1

    def part(self, array: npt.NDArray[Any], number: int, size: int) -> npt.NDArray[Any]:
        """One of its samples.

        Args:
            array: what was given.
            number: which.
            size: places of a sample along the axis.

        Returns:
            What the model takes at once.
        """
        if self.is_each(array):
            return np.asarray(array[number])
        where = (slice(None),) * (self.axis or 0)
        return array[(*where, slice(number * size, (number + 1) * size))]

    def varies(self, array: npt.NDArray[Any]) -> bool:
        """Whether it holds more than one run, so that it is not the same for all samples."""
        if self.is_each(array):
            return True
        return self.has_axis(array) and array.shape[self.axis or 0] != (self.at_once or 1)

    @property
    def forms(self) -> str:
        """The shapes that arrays for it may have."""
        each = ", ".join(("N", *self.words))
        if self.axis is None or self.axis > 0:
            along = ["N" if axis == self.axis else word for axis, word in enumerate(self.words)]
            first = f"[{', '.join(along)}] or " if self.axis is not None else ""
            return f"{first}[{each}] for N samples, or [{', '.join(self.words)}] for one that all share"
        return f"[{', '.join(('N', *self.words[1:]))}] for N samples"


def _fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    return len(shape) == len(declared) and all(
        d is None or d == n for d, n in zip(declared, shape, strict=True)
    )


def slots(inputs: Mapping[str, ir.Value]) -> list[Slot]:
    """The inputs with the axes of their samples, by what the model declares.

    That is the first one, where it is open or nothing else tells; of an input whose first axis is fixed the
    one with the name of a batch. The only axis of a vector is none where another input has it further back.
    """
    shapes = {name: tuple(v.shape) for name, v in inputs.items() if v.shape is not None}
    inner = {symbol(dim) for shape in shapes.values() for dim in shape[1:]}
    batches = {symbol(shape[0]) for shape in shapes.values() if shape and fixed(shape[0]) is None}
    found = []
    for name in inputs:
        shape = shapes.get(name)
        if shape is None:
            found.append(Slot(name, None, ("…",), 0))
            continue
        axis: int | None = 0 if shape else None
        if len(shape) == 1 and symbol(shape[0]) in inner - {None}:
            axis = None
        elif shape and fixed(shape[0]) is not None:
            named = (a for a, dim in enumerate(shape) if fixed(dim) is None and symbol(dim) in batches)
            axis = next(named, 0)
        words = tuple(str(d) if fixed(d) is not None else symbol(d) or "?" for d in shape)
        found.append(Slot(name, tuple(map(fixed, shape)), words, axis))
    return found


def told_apart(
    where: str, slots: Sequence[Slot], arrays: Feeds, *, several: bool
) -> tuple[Samples, int | None]:
    """The samples in arrays by input.

    Args:
        where: the arrays come from.
        slots: the inputs.
        arrays: one for each.
        several: whether there are more such arrays, so that these may be one sample.

    Returns:
        The samples, and how many a run takes; None where any number.

    Raises:
        InputError: a shape is none that the input takes, or the arrays hold different numbers of samples.
    """
    for slot in slots:
        array = arrays[slot.name]
        if not (slot.is_each(array) or slot.has_axis(array) or slot.is_whole(array)):
            shape = list(array.shape)
            raise InputError(
                f"{where}: array for input {slot.name!r} has shape {shape}, the model takes "
                f"[{', '.join(slot.words)}]: give {slot.forms}"
            )
        if not array.size and 0 not in (slot.declared or ()):
            raise InputError(f"{where}: array for input {slot.name!r} holds no samples")
    if several and _is_one(slots, arrays):
        return Samples((dict(arrays),), dict.fromkeys(arrays)), 1
    found = _by_rows(slots, arrays) or _by_runs(slots, arrays)
    if found is not None:
        return found
    counts = {slot.name: slot.count(arrays[slot.name], 1) for slot in slots if slot.varies(arrays[slot.name])}
    wanted = "; ".join(f"{slot.name!r} takes {slot.forms}" for slot in slots if slot.name in counts)
    raise InputError(f"{where}: the inputs have different numbers of samples: {counts} ({wanted})")


def _by_rows(slots: Sequence[Slot], arrays: Feeds) -> tuple[Samples, int | None] | None:
    """A sample for each place along the axes; None where the arrays do not agree on that."""
    found = _shared(slots, arrays, runs=False)
    if found is None:
        return None
    count, shared = found
    along = [slot for slot in slots if slot.name not in shared and not slot.is_each(arrays[slot.name])]
    fixed_sizes = {slot.at_once for slot in along} - {None}
    each = any(slot.is_each(arrays[slot.name]) for slot in slots)
    if len(fixed_sizes) > 1 or (each and fixed_sizes - {1}):
        return None

    def part(slot: Slot, number: int) -> npt.NDArray[Any]:
        return arrays[slot.name] if slot.name in shared else slot.part(arrays[slot.name], number, 1)

    axes = {slot.name: slot.axis if slot.at_once is None or slot in along else None for slot in slots}
    batch = next(iter(fixed_sizes), None)
    if batch is None and None in axes.values():
        batch = 1
    return Samples(_feeds(slots, count, part), axes), batch


def _by_runs(slots: Sequence[Slot], arrays: Feeds) -> tuple[Samples, int | None] | None:
    """A sample for each run of the model, which takes several places along an axis at once; None likewise."""
    found = _shared(slots, arrays, runs=True)
    if found is None:
        return None
    count, shared = found

    def part(slot: Slot, number: int) -> npt.NDArray[Any]:
        array, size = arrays[slot.name], slot.at_once or 1
        return array if slot.name in shared else slot.part(array, number, size)

    return Samples(_feeds(slots, count, part), dict.fromkeys(arrays)), 1


def _feeds(
    slots: Sequence[Slot], count: int, part: Callable[[Slot, int], npt.NDArray[Any]]
) -> tuple[Feeds, ...]:
    return tuple({slot.name: part(slot, number) for slot in slots} for number in range(count))


def _shared(slots: Sequence[Slot], arrays: Feeds, *, runs: bool) -> tuple[int, frozenset[str]] | None:
    """How many samples there are, and the inputs for which all share one array.

    Args:
        slots: the inputs.
        arrays: one for each.
        runs: whether a sample is what the model takes at once, and not one place along the axis.

    Returns:
        None where the arrays hold different numbers of samples.
    """
    counts = {
        slot.name: slot.count(arrays[slot.name], (slot.at_once or 1) if runs else 1)
        for slot in slots
        if slot.has_axis(arrays[slot.name]) or slot.is_each(arrays[slot.name])
    }
    sure = {counts[slot.name] for slot in slots if slot.varies(arrays[slot.name])}
    if not sure:
        sure = {1} if runs else set(counts.values()) or {1}
    if len(sure) > 1:
        return None
    (count,) = sure
    return count, frozenset(slot.name for slot in slots if counts.get(slot.name) != count)


def _is_one(slots: Sequence[Slot], arrays: Feeds) -> bool:
    """Whether the model takes the arrays as they are, and they are no rows of several samples."""
    open_axes = (slot for slot in slots if slot.axis is not None and slot.at_once is None)
    counts = {slot.count(arrays[slot.name], 1) for slot in open_axes}
    if len(counts) < 2 or not all(slot.is_whole(arrays[slot.name]) for slot in slots):
        return False
    sizes: dict[str, int] = {}  # those of one name are the same in all of them
    named = ((w, n) for slot in slots for w, n in zip(slot.words, arrays[slot.name].shape, strict=False))
    return all(sizes.setdefault(word, size) == size for word, size in named if word not in ("?", "…"))
