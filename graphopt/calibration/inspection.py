"""What calibration inputs can tell: nothing where they are constant, flat, or one that is repeated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibration.samples import Samples, content
from graphopt.runtime.session import Feeds

MOST_COLOURS = 4
"""Channels of a picture, its transparency among them: derived."""
FINE = float(np.sqrt(np.finfo(np.float32).eps))
"""Part of what values reach by which they differ no more than noise: derived, squares of such differences are
lost in float32 beside the squares of the values."""
COPIED = 2 / 255
"""Part of what a channel spans by which two copies of a sample may differ where most places differ: derived,
two steps of 8 bits, a step of rounding or of noise in each. Where less than that tells samples apart, one
measures nothing that was not fitted to the other; what differs in few places shows something else there."""
LEAST, MOST = float(np.finfo(np.float32).tiny) ** 0.5, float(np.finfo(np.float32).max) ** 0.5
"""What values have to reach, and may: derived, float32 holds the squares of no others."""
LOOKED_AT = 16
"""Values of a sample that are compared before all are: derived, two samples that differ in every other one
pass with a chance of 2⁻¹⁶."""
LEVELS = 48
"""Steps from the lowest to the highest value of a channel of whole numbers that has a picture: derived, as
many as pixels of 8 bits have that are dimmed to a fifth."""
ROUNDED = 1 / LEVELS
"""Part of its reach by which a value of such a picture may be off for rounding: derived. The value and an end
are off by half a step each, and between the ends both count in part, so that it is a step in all."""

_Alike: TypeAlias = "Callable[[Feeds, Feeds], bool]"
"""Whether two samples are the same."""


def distinct(samples: Samples) -> list[int]:
    """The samples without those that repeat an earlier one, but for noise, by number."""
    return _distinct(samples, dict, COPIED, _repeats)


def _distinct(samples: Samples, seen: Callable[[Feeds], Feeds], fine: float, alike: _Alike) -> list[int]:
    """The same by what is seen of each, which differs in those alike by no more than that of its reach."""
    first: dict[bytes, int] = {}
    for number, each in enumerate(samples.feeds):
        feed = seen(each)
        digest = hashlib.blake2b(digest_size=16)
        for array in feed.values():
            digest.update(f"{array.shape}".encode())
            digest.update(content(array))
        first.setdefault(digest.digest(), number)
    kept: list[int] = []
    looks = np.empty((len(first), len(samples.names) * LOOKED_AT))
    for number in first.values():
        feed = samples.feeds[number]
        arrays = seen(feed).values()
        look = np.concatenate([_some(array) for array in arrays])
        reach = np.repeat([_reach(array) for array in arrays], LOOKED_AT)
        near = np.nonzero((np.abs(looks[: len(kept)] - look) <= fine * reach).all(axis=1))[0]
        if not any(alike(feed, samples.feeds[kept[place]]) for place in near):
            looks[len(kept)] = look
            kept.append(number)
    return kept


def _some(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A few values of a sample, as many of each; of what has no floats, none."""
    if array.dtype.kind != "f" or not array.size:
        return np.zeros(LOOKED_AT)
    places = np.linspace(0, array.size - 1, LOOKED_AT).astype(np.intp)
    return array.reshape(-1)[places].astype(np.float64)


def _reach(array: npt.NDArray[Any]) -> float:
    """No less than what any channel of a sample spans."""
    return 2 * float(np.abs(array).max()) if array.dtype.kind == "f" and array.size else 0.0


def _repeats(feed: Feeds, other: Feeds) -> bool:
    """Whether two samples are the same, but for noise beside what each channel spans in one of them."""
    for one, two in zip(feed.values(), other.values(), strict=True):
        if one is two:
            continue
        if one.shape != two.shape or one.dtype.kind != "f":
            if not np.array_equal(one, two):
                return False
            continue
        gap = np.abs(one.astype(np.float64) - two)
        noise = FINE if np.count_nonzero(gap) < gap.size / 2 else COPIED
        if not all((gap <= noise * span).all() for span in _spans(one.astype(np.float64))):
            return False
    return True


def _spans(array: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """From the lowest to the highest value of each channel, wherever those are; 0 of vectors."""
    found = [array.max(places, keepdims=True) - array.min(places, keepdims=True) for places in _places(array)]
    return found or [np.zeros(1)]


def _places(array: npt.NDArray[Any]) -> list[tuple[int, ...]]:
    """The axes of the places of a sample, as channels come first or last, where there are several places."""
    layouts = tuple(range(2, array.ndim)), tuple(range(1, array.ndim - 1))
    return [places for places in layouts if math.prod(array.shape[axis] for axis in places) > 1]


def pictures(samples: Samples) -> int:
    """How many samples differ in more than brightness and contrast, each channel's scale and offset.

    Those of the layout of channels that tells the fewest; only maps of at least `LOOKED_AT` places have a
    picture.
    """
    found = len(samples)
    for last in (False, True):
        maps = {name for name in samples.names if all(_is_map(a, last=last) for a in samples.arrays(name))}
        fine = ROUNDED + FINE if any(samples.kinds[name].kind in "iu" for name in maps) else FINE
        if maps:
            seen = partial(_normalised, maps=maps, last=last)
            alike = partial(_one_picture, maps=maps, last=last)
            found = min(found, len(_distinct(samples, seen, fine, alike)))
    return found


def _one_picture(feed: Feeds, other: Feeds, maps: Collection[str], *, last: bool) -> bool:
    """Whether two samples have the same picture in their maps, and are the same in all else."""
    pairs, rest = [(feed[name], other[name]) for name in maps], [name for name in feed if name not in maps]
    if any(one.shape != two.shape for one, two in pairs):
        return False
    for one, two in pairs:
        off = FINE + _rounding(one, last=last) + _rounding(two, last=last)
        if (np.abs(_stretched(one, last=last) - _stretched(two, last=last)) > off).any():
            return False
    return _repeats({name: feed[name] for name in rest}, {name: other[name] for name in rest})


def _is_map(array: npt.NDArray[Any], *, last: bool) -> bool:
    """Whether a sample has a picture in each channel; one of whole numbers needs levels to tell it by."""
    places = _layout(array, last=last)
    if (
        array.ndim < 3
        or array.dtype.kind not in "fiu"
        or math.prod(array.shape[a] for a in places) < LOOKED_AT
    ):
        return False
    if array.dtype.kind == "f":
        return True
    return bool((_rounding(array, last=last) <= ROUNDED).all())


def _layout(array: npt.NDArray[Any], *, last: bool) -> tuple[int, ...]:
    """The axes of the places of a sample whose channels come first, or last."""
    return tuple(range(1, array.ndim - 1) if last else range(2, array.ndim))


def _normalised(feed: Feeds, maps: Collection[str], *, last: bool) -> Feeds:
    """A sample whose maps reach from 0 to 1 in each channel, or are 0 where a channel is flat."""
    return {n: _stretched(array, last=last) if n in maps else array for n, array in feed.items()}


def _stretched(array: npt.NDArray[Any], *, last: bool) -> npt.NDArray[np.float64]:
    """The same of one map."""
    wide, places = array.astype(np.float64), _layout(array, last=last)
    low, high = wide.min(places, keepdims=True), wide.max(places, keepdims=True)
    still = _still(low, high)
    return np.where(still, 0.0, (wide - low) / np.where(still, 1.0, high - low))


def _rounding(array: npt.NDArray[Any], *, last: bool) -> Any:
    """By how much values of a stretched map may be off for rounding: a step of whole numbers, by channel."""
    if array.dtype.kind == "f":
        return 0.0
    places = _layout(array, last=last)
    span = array.max(places, keepdims=True).astype(np.float64) - array.min(places, keepdims=True)
    return 1 / np.maximum(span, 1.0)


def emptiness(samples: Samples) -> str:
    """Why nothing can be learnt of the inputs; "" where something can.

    Scalars, and what is the same array for all samples, say nothing by themselves: an input with several
    values a sample has to vary.
    """
    named = {name: samples.arrays(name) for name in samples.names}
    large = {name: arrays for name, arrays in named.items() if arrays[0].size > 1 and not _one(arrays)}
    large = large or {name: arrays for name, arrays in named.items() if arrays[0].size > 1} or named
    constant = [name for name, arrays in large.items() if _constant(arrays)]
    if len(constant) == len(large):
        held = ", ".join(f"every value of {name!r} is {_value(large[name])}" for name in constant)
        return f"the inputs are constant: {held}"
    reaches = {n: max(map(_reach, a)) / 2 for n, a in large.items() if a[0].dtype.kind == "f"}
    beyond = [0 < reach < LEAST or reach > MOST for reach in reaches.values()]
    if len(beyond) == len(large) and all(beyond):
        name, reach = next(iter(reaches.items()))
        return f"the inputs are too {'large' if reach > 1 else 'small'}: {name!r} reaches {reach:.2g}"
    maps = {name: arrays for name, arrays in large.items() if arrays[0].ndim > 2}
    if maps and len(maps) == len(large) and all(all(map(_flat, arrays)) for arrays in maps.values()):
        names = ", ".join(map(repr, maps))
        return f"the inputs are flat: in each sample of {names} all places have the same values"
    return ""


def doubts(samples: Samples) -> Iterator[str]:
    """What is odd about inputs of which something can be learnt."""
    for name in samples.names:
        arrays = samples.arrays(name)
        first = arrays[0]
        if first.size < 2 or _one(arrays):
            continue
        if _constant(arrays):
            yield f"every value of input {name!r} is {_value(arrays)}"
            continue
        if first.ndim < 3:
            continue
        flat = sum(map(_flat, arrays))
        if flat:
            yield f"{flat} of {len(arrays)} samples of input {name!r} are flat, the same at all places"
        for axis in (1, first.ndim - 1):
            size = first.shape[axis]
            same = all(array.shape[axis] == size for array in arrays)
            others = [n for other, n in enumerate(first.shape) if other not in (0, axis)]
            if same and size < min(others) and size <= MOST_COLOURS:
                still = (c for c in range(size) if _constant([a.take(c, axis) for a in arrays]))
                channel = next(still, None)
                if channel is not None:
                    yield f"channel {channel} of input {name!r} is the same in all samples and places"


def _one(arrays: Sequence[npt.NDArray[Any]]) -> bool:
    """Whether all samples share one array, as it was given."""
    return len(arrays) > 1 and all(array is arrays[0] for array in arrays)


def _constant(arrays: Sequence[npt.NDArray[Any]]) -> bool:
    """Whether all values are one, but for noise."""
    if arrays[0].dtype.kind not in "fiub" or not all(array.size for array in arrays):
        return False
    return bool(_still(min(array.min() for array in arrays), max(array.max() for array in arrays)))


def _value(arrays: Sequence[npt.NDArray[Any]]) -> str:
    """The one value that arrays have, in words."""
    value = arrays[0].flat[0]
    return (
        f"{float(value):g}"
        if all((array == value).all() for array in arrays)
        else f"{float(value):.3g}, but for noise"
    )


def _still(low: Any, high: Any) -> Any:
    """Whether what lies between two values is noise beside them; whole numbers are told exactly."""
    low, high = np.asarray(low), np.asarray(high)
    if low.dtype.kind != "f":
        return low == high
    with np.errstate(over="ignore"):  # of float16
        return high - low <= FINE * np.maximum(np.abs(low), np.abs(high))


def _flat(array: npt.NDArray[Any]) -> bool:
    """Whether a sample has the same values at all places, whether channels come first or last.

    Of a few beside many, those are the channels: equal ones have no place in common.
    """
    if array.dtype.kind not in "fiub":  # of text nothing can be told
        return False
    first, last = array.shape[1], array.shape[-1]
    layouts = _places(array)
    if 0 < min(first, last) <= MOST_COLOURS < max(first, last) and array.size:
        layouts = [_layout(array, last=last < first)]
    return any(bool(_still(array.min(places), array.max(places)).all()) for places in layouts)
