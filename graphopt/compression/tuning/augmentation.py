"""Other inputs of images: mirrored, moved, and mixed with others, where the original takes them as its own.

A network that is fitted to few inputs learns them by heart; what the original makes of inputs that were
changed a little tells more of it. Whether a change leaves an input one of its kind, the original itself says:
what it makes of mirrored inputs is what it makes of the inputs, or that mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.samples import Samples, rows
from graphopt.runtime.session import Feeds
from graphopt.types import Array

COLOURS = (1, 3)
"""Channels of an image: derived, grey and colour."""
SMALLEST = 16
"""Rows and columns of an image at least: derived, what a move by an eighth of them needs to be two pixels."""
MOVED = 8
"""An image is moved by up to one part in so many of its size: derived, 4 of 32 pixels, as networks for such
images are trained (He et al. 2016)."""
MIXED = 0.5
"""Part of the images that are mixed with another, and the most that this one counts: derived, up to there an
image is more its own than another's (Zhang et al. 2018)."""
ALIKE = 0.5
"""Least correlation of what the original makes of an input and of the same one changed. Derived: more of what
varies is common to both than is not."""
JUDGED_ON = 64
"""Inputs that are looked at for that: derived, a correlation of 0.5 is told to 0.1 by 64."""


@dataclass(frozen=True)
class Augmentation:
    """Changes of images.

    Attributes:
        name: of the input that holds them.
        axes: of it that hold rows and columns.
        mirrored: whether half of them are mirrored, left to right.
        moved: whether they are moved.
        others: images to mix with ``[n, ...]``.
    """

    name: str
    axes: tuple[int, int]
    mirrored: bool
    moved: bool
    others: Array

    @property
    def described(self) -> str:
        """What is done, in words."""
        done = [word for word, is_done in (("mirrored", self.mirrored), ("moved", self.moved)) if is_done]
        return ", ".join([*done, "mixed"])

    def __call__(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """The inputs changed, each in its own way.

        Args:
            samples: the inputs.
            rng: draws the changes.

        Returns:
            As many inputs.
        """
        images = np.concatenate(samples.arrays(self.name))
        if self.mirrored:
            chosen = _each(rng.random(len(images)) < 0.5, images)
            images = np.where(chosen, np.flip(images, self.axes[1]), images)
        if self.moved:
            images = moved(images, self.axes, rng)
        return rows({self.name: np.ascontiguousarray(self._mixed(images, rng), dtype=np.float32)})

    def _mixed(self, images: Array, rng: np.random.Generator) -> Array:
        count = len(images)
        weight = np.where(rng.random(count) < MIXED, MIXED * rng.random(count), 0.0)
        part: Array = _each(weight.astype(np.float32), images)
        mixed: Array = (1 - part) * images + part * self.others[rng.integers(0, len(self.others), count)]
        return mixed


def moved(images: Array, axes: Sequence[int], rng: np.random.Generator) -> Array:
    """Images moved by up to a `MOVED`th of their size, each by its own way; zeros come in from outside.

    Args:
        images: ``[n, ...]``.
        axes: of rows and columns.
        rng: draws the ways.

    Returns:
        Images of the same shape.
    """
    most = [images.shape[axis] // MOVED for axis in axes]
    pads = [(0, 0)] * images.ndim
    for axis, by in zip(axes, most, strict=True):
        pads[axis] = (by, by)
    wide, found = np.pad(images, pads), np.empty_like(images)
    ways = [rng.integers(0, 2 * by + 1, len(images)) for by in most]
    for number in range(len(images)):
        cut = [slice(None)] * images.ndim
        cut[0] = slice(number, number + 1)
        for axis, way in zip(axes, ways, strict=True):
            cut[axis] = slice(way[number], way[number] + images.shape[axis])
        found[number : number + 1] = wide[tuple(cut)]
    return found


def suited(samples: Samples, respond: Callable[[Feeds], Sequence[Array]]) -> Augmentation | None:
    """The changes that leave inputs of their kind.

    Args:
        samples: inputs of one size.
        respond: what the original makes of inputs: the values that judge.

    Returns:
        The changes; None where the input is no image, or where the original takes no changed one as such.
    """
    axes = _image(samples)
    if axes is None:
        return None
    (name,) = samples.names
    some = samples[:JUDGED_ON]
    images = np.concatenate(some.arrays(name))
    plain = [np.concatenate(parts) for parts in zip(*(respond(feed) for feed in some.feeds), strict=True)]

    def taken(changed: Array, back: Callable[[Array], Array]) -> bool:
        rows = (respond({name: changed[i : i + 1]}) for i in range(len(changed)))
        found = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        pairs = zip(plain, found, strict=True)
        return all(max(_common(a, b), _common(a, back(b))) >= ALIKE for a, b in pairs)

    mirrored = taken(np.flip(images, axes[1]), lambda value: np.flip(value, -1))
    rolled = np.roll(images, images.shape[axes[1]] // MOVED, axes[1])
    shifted = taken(rolled, lambda value: np.roll(value, -(value.shape[-1] // MOVED), -1))
    if not (mirrored or shifted):
        return None
    return Augmentation(name, axes, mirrored, shifted, np.concatenate(samples.arrays(name)))


def _image(samples: Samples) -> tuple[int, int] | None:
    """The axes of rows and columns of the only input, where it holds images; None where it does not."""
    if len(samples.names) != 1 or samples.axes is None or samples.axes[samples.names[0]] != 0:
        return None
    shape, kind = samples.feeds[0][samples.names[0]].shape, samples.kinds[samples.names[0]]
    if len(shape) != 4 or shape[0] != 1 or kind != np.float32:
        return None
    for channels, axes in ((1, (2, 3)), (3, (1, 2))):
        if shape[channels] in COLOURS and min(shape[axis] for axis in axes) >= SMALLEST:
            return axes
    return None


def _common(a: Array, b: Array) -> float:
    """How values of inputs go together: the correlation over inputs, of all places together."""
    if a.shape != b.shape:
        return -1.0
    one, other = ((x - x.mean(axis=0)).astype(np.float64) for x in (a, b))
    size = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / size if size else -1.0


def _each(numbers: npt.NDArray[Any], images: Array) -> npt.NDArray[Any]:
    """One number an image, in a shape that spreads over it."""
    return numbers.reshape(-1, *(1,) * (images.ndim - 1))
