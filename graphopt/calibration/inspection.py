"""What calibration inputs can tell: nothing where they are constant, flat, or one that is repeated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Calibration inputs by name; the first axis counts samples."""

MOST_COLOURS = 4
"""Channels of a picture, its transparency among them: derived."""


def distinct(arrays: Arrays) -> list[int]:
    """The samples without those that repeat an earlier one, by number."""
    first: dict[bytes, int] = {}
    for number in range(min((len(array) for array in arrays.values()), default=0)):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array[number]).tobytes())
        first.setdefault(digest.digest(), number)
    return list(first.values())


def emptiness(arrays: Arrays) -> str:
    """Why nothing can be learnt of the inputs; "" where something can.

    Scalars and the like say nothing by themselves: an input with several values a sample has to vary.
    """
    large = {name: array for name, array in arrays.items() if array[:1].size > 1} or arrays
    constant = [name for name, array in large.items() if _constant(array)]
    if len(constant) == len(large):
        held = ", ".join(f"every value of {name!r} is {large[name].flat[0]:g}" for name in constant)
        return f"the inputs are constant: {held}"
    maps = {name: array for name, array in large.items() if array.ndim > 2}
    if maps and len(maps) == len(large) and all(_flat(array).all() for array in maps.values()):
        names = ", ".join(map(repr, maps))
        return f"the inputs are flat: in each sample of {names} all places have the same values"
    return ""


def doubts(arrays: Arrays) -> Iterator[str]:
    """What is odd about inputs of which something can be learnt."""
    for name, array in arrays.items():
        if array[:1].size < 2:
            continue
        if _constant(array):
            yield f"every value of input {name!r} is {array.flat[0]:g}"
            continue
        if array.ndim < 3:
            continue
        flat = int(_flat(array).sum())
        if flat:
            yield f"{flat} of {len(array)} samples of input {name!r} are flat, the same at all places"
        for axis in (1, array.ndim - 1):
            if array.shape[axis] < min(array.shape[2:]) and array.shape[axis] <= MOST_COLOURS:
                still = [
                    channel for channel in range(array.shape[axis]) if _constant(array.take(channel, axis))
                ]
                if still:
                    yield f"channel {still[0]} of input {name!r} is the same in all samples and places"


def _constant(array: npt.NDArray[Any]) -> bool:
    """Whether all values are one."""
    return array.dtype.kind in "fiub" and array.size > 0 and bool(array.max() == array.min())


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which samples have the same values at all places, whether channels come first or last."""
    flat = np.zeros(len(array), np.bool_)
    for places in (tuple(range(2, array.ndim)), tuple(range(1, array.ndim - 1))):
        if array.dtype.kind not in "fiub" or math.prod(array.shape[axis] for axis in places) < 2:
            continue  # of text, of no place at all, or of a single one nothing can be told
        still = array.max(places) == array.min(places)
        flat |= still.reshape(len(array), -1).all(axis=1)
    return flat
