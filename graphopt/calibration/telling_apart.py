"""The samples in the arrays that a caller gives.

An array has the samples on the axis on which the model has its batch (`calibration.batch_axis`), or on one
more, in front, where the model takes what lies along it. An array of the very shape that the model takes,
beside others of many samples, is the same for all of them.

Samples may be run together only where each input has them on one axis, which the model calls the same in all
of them, or on which it takes so many at once; else they are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.calibration.batch_axis import CONSTANT, Slot
from graphopt.calibration.samples import Samples
from graphopt.errors import InputError, Named
from graphopt.runtime.session import Feeds

_Size = TypeVar("_Size", int, "int | None")


@dataclass(frozen=True, slots=True)
class Given:
    """An array for an input, and where its samples lie.

    Attributes:
        slot: the input.
        array: what was given.
        axis: of the array along which they lie; None where it is what the model takes, as it is.
        stacked: whether that is an axis more than the model takes.
    """

    slot: Slot
    array: npt.NDArray[Any]
    axis: int | None
    stacked: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the model takes the array as it is."""
        return self.slot.declared is None or _fits(self.array.shape, self.slot.declared)

    @property
    def at_once(self) -> int | None:
        """How many samples of it a run takes along an axis of the model's; None where any number, or none."""
        return None if self.axis is None or self.stacked else self.slot.at_once

    def count(self, size: int) -> int:
        """How many samples it holds, of so many places each along the axis of the model's."""
        if self.axis is None:
            return 1
        places: int = self.array.shape[self.axis]
        return places if self.stacked else places // size

    def part(self, number: int, size: int) -> npt.NDArray[Any]:
        """One of its samples, as the model takes it.

        Args:
            number: which.
            size: places of a sample along the axis of the model's.
        """
        if self.axis is None:
            return self.array
        if self.stacked:
            return np.asarray(self.array.take(number, self.axis), self.array.dtype)
        where = (slice(None),) * self.axis
        return self.array[(*where, slice(number * size, (number + 1) * size))]

    @property
    def varies(self) -> bool:
        """Whether it holds more than one run, so that it is not the same for all samples."""
        return self.axis is not None and (
            self.stacked or self.array.shape[self.axis] != (self.slot.at_once or 1)
        )


def _fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    return len(shape) == len(declared) and all(
        d is None or d == n for d, n in zip(declared, shape, strict=True)
    )


def told_apart(
    where: str, slots: Sequence[Slot], arrays: Feeds, *, several: bool
) -> tuple[Samples, int | None]:
    """The samples in arrays by input.

    Args:
        where: the arrays come from.
        slots: the inputs.
        arrays: one for each.
        several: whether there are more such arrays, so that these may be one sample. Where it is not sure
            where the samples lie, they are then.

    Returns:
        The samples, and how many a run takes; None where any number.

    Raises:
        InputError: a shape is none that the input takes, the arrays hold different numbers of samples, or
            whether all share an array can't be told.
    """
    given = [_given(where, slot, arrays[slot.name]) for slot in slots]
    whole = several and all(each.is_whole for each in given)
    if whole and not _agree(given):
        return Samples((dict(arrays),), None), 1
    found = _by_rows(given) or _by_runs(given)
    if found is None:
        raise _different(where, given)
    (count, shared), samples, batch = found
    for each in (each for each in given if each.slot.name in shared):
        axis = each.slot.ambiguous(each.array.shape, count)
        if axis is not None and whole:
            return Samples((dict(arrays),), None), 1
        if axis is not None:
            raise _ambiguous(where, each, axis, count)
    return samples, batch


def _agree(given: Sequence[Given]) -> bool:
    """Whether what the model tells of the axes is enough to cut arrays that it takes as they are.

    It is not where an axis is not sure, unless it has a single place, nor where axes that the model calls
    otherwise have different numbers of places.
    """
    along = [each for each in given if each.axis is not None]
    symbols, counts = {each.slot.symbol for each in along}, {each.count(1) for each in along}
    sure = all(each.slot.sure or each.count(1) == 1 for each in along)
    return sure and (len(symbols) < 2 or len(counts) < 2)


def with_batch(where: str, slot: Slot, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of a list or folder as the model takes it: a sample without the axis of samples gets it.

    Args:
        where: the array comes from.
        slot: its input.
        array: what was given.

    Returns:
        The array, with that axis.

    Raises:
        InputError: the shape of the sample is none that the input takes.
    """
    if slot.dims is None or slot.axis is None or array.ndim != len(slot.dims) - 1:
        return array
    found = np.expand_dims(array, slot.axis)
    _given(where, slot, found, array)
    return found


def _given(where: str, slot: Slot, array: npt.NDArray[Any], single: npt.NDArray[Any] | None = None) -> Given:
    """Where the samples of an array lie.

    Args:
        where: the array comes from.
        slot: its input.
        array: as the model takes it.
        single: the same without an axis of samples, where it was given so.

    Raises:
        InputError: its shape is none that the input takes.
    """
    if not array.size and 0 not in (slot.declared or ()):
        raise InputError(f"{where}: array for input {slot.name!r} holds no samples")
    shape = list(array.shape if single is None else single.shape)
    has = f"{where}: array for input {slot.name!r} has shape {shape}, the model takes {slot.shown}"
    own = replace(slot, axis=slot.own, said=None) if slot.own is not None else slot
    turned = _turned(own, array) if single is None else _turned(own, single, enough=True)
    if isinstance(slot.said, int) and array.ndim == len(slot.dims or ()) > slot.said:
        said = Named("sample_axis", str(slot.said), slot.name)
        if slot.contradicts(array.shape, slot.said):
            raise InputError(
                f"{has}, and {said} would cut an axis of a fixed size: {turned or f'give {own.forms}'}"
            )
    found = _placed(slot, array)
    if found is None:
        fitting = [] if turned else _axes_that_fit(slot, array)
        other = f"; or say {Named('sample_axis', str(fitting[0]), slot.name)}" if fitting else ""
        raise InputError(f"{has}: {turned or f'give {slot.forms}'}{other}")
    return found


def _placed(slot: Slot, array: npt.NDArray[Any]) -> Given | None:
    """The same; None where the input takes no such shape."""
    shape, declared = array.shape, slot.declared
    whole = Given(slot, array, None)
    if slot.said == CONSTANT:
        return whole if whole.is_whole else None
    if declared is not None and len(shape) == len(declared) + 1:
        axis = slot.said or 0
        return Given(slot, array, axis, True) if _fits(_without(shape, axis), declared) else None
    if slot.axis is None:
        return whole if whole.is_whole and slot.said is None else None
    if len(shape) <= slot.axis:
        return None
    along = declared is None or _fits(shape, _opened(declared, slot.axis))
    return Given(slot, array, slot.axis) if along else None


def _axes_that_fit(slot: Slot, array: npt.NDArray[Any]) -> list[int]:
    """Axes that make an array one of samples, where the user says so."""
    shape, declared = array.shape, slot.declared
    if declared is None or slot.said is not None:
        return []
    if len(shape) == len(declared) + 1:
        return [axis for axis in range(len(shape)) if _fits(_without(shape, axis), declared)]
    return [
        axis
        for axis in range(len(declared))
        if _fits(shape, _opened(declared, axis)) and not slot.contradicts(shape, axis)
    ]


def _turned(slot: Slot, array: npt.NDArray[Any], *, enough: bool = False) -> str:
    """What to give of an array that has its channels first where the model has them last, or the other way.

    Args:
        slot: its input.
        array: what was given.
        enough: whether a sample without an axis of samples will do.

    Returns:
        The transpose in words, with all that is to be given; "" where none fits.
    """
    declared, shape = slot.declared, array.shape
    if declared is None or slot.said is not None:
        return ""
    if len(shape) == len(declared) + 1:
        wanted, samples = [None, *declared], [0]
    elif len(shape) == len(declared):
        samples = [] if slot.axis is None else [slot.axis]
        wanted = _opened(declared, *samples)
    elif len(shape) == len(declared) - 1 and slot.axis is not None:
        wanted, samples = _without(declared, slot.axis), []
    else:
        return ""
    if _fits(shape, wanted):
        return ""
    others = [axis for axis in range(len(shape)) if axis not in samples]
    for start, stop in ((others[-1], others[0]), (others[0], others[-1])) if len(others) > 1 else ():
        order = [axis for axis in others if axis != start]
        order.insert(0 if stop == others[0] else len(order), start)
        for axis in samples:
            order.insert(axis, axis)
        if wanted[stop] is not None and _fits([shape[axis] for axis in order], wanted):
            name = slot.name if slot.name.isidentifier() else "array"
            turned = f"{name}.transpose({', '.join(map(str, order))})"
            single = f", and {slot.forms}" if len(shape) < len(declared) and not enough else ""
            return f"give {turned}{single}, as its channels lie on another axis"
    return ""


def _without(shape: Sequence[_Size], axis: int) -> list[_Size]:
    return [size for other, size in enumerate(shape) if other != axis]


def _opened(declared: Sequence[int | None], *axes: int) -> list[int | None]:
    return [None if axis in axes else size for axis, size in enumerate(declared)]


# ---------------------------------------------------------------- samples

_Shared = tuple[int, frozenset[str]]
"""How many samples there are, and the inputs for which all share one array."""


def _by_rows(given: Sequence[Given]) -> tuple[_Shared, Samples, int | None] | None:
    """A sample for each place along the axes; None where the arrays do not agree on that."""
    found = _shared(given, runs=False)
    if found is None:
        return None
    count, shared = found
    along = [each for each in given if each.slot.name not in shared and not each.stacked]
    fixed_sizes = {each.at_once for each in along} - {None}
    if len(fixed_sizes) > 1 or (any(each.stacked for each in given) and fixed_sizes - {1}):
        return None
    batch = next(iter(fixed_sizes), None)
    axes = _axes(given, shared, batch)
    samples = Samples(_feeds(given, shared, count, lambda each: 1), axes)
    return found, samples, 1 if axes is None else batch


def _by_runs(given: Sequence[Given]) -> tuple[_Shared, Samples, int | None] | None:
    """A sample for each run of the model, which takes several places along an axis at once; None likewise."""
    found = _shared(given, runs=True)
    if found is None:
        return None
    count, shared = found
    return found, Samples(_feeds(given, shared, count, lambda each: each.at_once or 1), None), 1


def _axes(given: Sequence[Given], shared: frozenset[str], batch: int | None) -> dict[str, int | None] | None:
    """Along which axes samples are put together for one run; None where they are run one by one."""
    if batch == 1 or any(each.stacked for each in given):
        return None
    if batch is not None:
        return {each.slot.name: None if each.slot.name in shared else each.axis for each in given}
    symbols = {each.slot.symbol for each in given if each.slot.said is None or each.slot.symbol is not None}
    together = len(given) == 1 or (len(symbols) < 2 and None not in symbols)
    if not together or any(each.axis is None for each in given):
        return None
    return {each.slot.name: each.axis for each in given}


def _feeds(
    given: Sequence[Given], shared: frozenset[str], count: int, size: Callable[[Given], int]
) -> tuple[Feeds, ...]:
    def part(each: Given, number: int) -> npt.NDArray[Any]:
        return each.array if each.slot.name in shared else each.part(number, size(each))

    return tuple({each.slot.name: part(each, number) for each in given} for number in range(count))


def _shared(given: Sequence[Given], *, runs: bool) -> _Shared | None:
    """How many samples there are, and the inputs for which all share one array.

    Args:
        given: the arrays.
        runs: whether a sample is what the model takes at once, and not one place along the axis.

    Returns:
        None where the arrays hold different numbers of samples.
    """
    counts = {each.slot.name: each.count((each.at_once or 1) if runs else 1) for each in given}
    sure = {counts[each.slot.name] for each in given if each.varies}
    if not sure:
        sure = {1} if runs else {counts[each.slot.name] for each in given if each.axis is not None} or {1}
    if len(sure) > 1:
        return None
    (count,) = sure
    whole = (each.slot.name for each in given if each.axis is None or counts[each.slot.name] != count)
    return count, frozenset(whole)


# ---------------------------------------------------------------- what can't be told


def _different(where: str, given: Sequence[Given]) -> InputError:
    """That arrays hold different numbers of samples, or of runs where the model takes several at once."""
    varying = [each for each in given if each.varies]
    most = max((each.at_once or 1 for each in varying), default=1)
    counts = ", ".join(f"{each.slot.name!r} {_counted(each, most)}" for each in varying)
    forms = "; ".join(f"{each.slot.name!r} takes {each.slot.forms}" for each in varying)
    what = "samples" if most == 1 else "runs"
    example = Named("sample_axis", "AXIS", varying[-1].slot.name)
    return InputError(
        f"{where}: the inputs have different numbers of {what}: {counts} ({forms}; "
        f"{example} says where they lie, and constant in its place that all share an array)"
    )


def _counted(given: Given, most: int) -> str:
    size = given.at_once or 1
    if most == 1 or size == 1:
        return str(given.count(1))
    return f"{given.count(size)}, with {given.count(1)} samples and {size} at once"


def _ambiguous(where: str, given: Given, axis: int, count: int) -> InputError:
    """That an array may hold a part for each sample, or be the same for all."""
    slot = given.slot
    each = ", ".join(("N", *slot.words))
    return InputError(
        f"{where}: array for input {slot.name!r} has shape {list(given.array.shape)}, the model takes "
        f"{slot.shown}, and there are {count} samples: say {Named('sample_axis', str(axis), slot.name)} "
        f"where each has its part, and constant in its place where all share the array; or give [{each}]"
    )
