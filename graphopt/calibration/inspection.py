"""What calibration inputs can tell: nothing where they are constant, flat, or one that is repeated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt

from graphopt.calibration.samples import Samples, content

MOST_COLOURS = 4
"""Channels of a picture, its transparency among them: derived."""


def distinct(samples: Samples) -> list[int]:
    """The samples without those that repeat an earlier one, by number."""
    first: dict[bytes, int] = {}
    for number, feed in enumerate(samples.feeds):
        digest = hashlib.blake2b(digest_size=16)
        for array in feed.values():
            digest.update(f"{array.shape}".encode())
            digest.update(content(array))
        first.setdefault(digest.digest(), number)
    return list(first.values())


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
        held = ", ".join(f"every value of {name!r} is {large[name][0].flat[0]:g}" for name in constant)
        return f"the inputs are constant: {held}"
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
            yield f"every value of input {name!r} is {first.flat[0]:g}"
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
    """Whether all values are one."""
    first = arrays[0]
    if first.dtype.kind not in "fiub" or not first.size:
        return False
    return all(bool((array == first.flat[0]).all()) for array in arrays)


def _flat(array: npt.NDArray[Any]) -> bool:
    """Whether a sample has the same values at all places, whether channels come first or last."""
    for places in (tuple(range(2, array.ndim)), tuple(range(1, array.ndim - 1))):
        if array.dtype.kind not in "fiub" or math.prod(array.shape[axis] for axis in places) < 2:
            continue  # of text, of no place at all, or of a single one nothing can be told
        if bool((array.max(places) == array.min(places)).all()):
            return True
    return False
