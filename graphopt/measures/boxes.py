"""Boxes: how far they overlap, which of many are left, and how well some find others.

A box is (left, top, right, bottom); left and top may change places with each other in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.measures.base import Numbers

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps at which average precision is taken, as in COCO (Lin et al. 2014)."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read off, as in COCO."""
AT_ONCE = 256
"""Boxes whose overlaps with all others are held at once, for memory; no result depends on it."""


class Boxes(NamedTuple):
    """Boxes [A, 4], the score of each, and the number of its class."""

    corners: Numbers
    scores: Numbers
    classes: Numbers

    def chosen(self, which: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> Boxes:
        """Those of these numbers."""
        return Boxes(self.corners[which], self.scores[which], self.classes[which])


NONE = Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
"""No box."""


def corners(centred: Numbers) -> Numbers:
    """Boxes of which centre and size are given."""
    return np.concatenate([centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2], axis=1)


def overlap(a: Numbers, b: Numbers) -> Numbers:
    """Intersection over union of each of [A, 4] with each of [B, 4]."""
    both, areas = np.ones((len(a), len(b))), [np.ones((len(a), 1)), np.ones((1, len(b)))]
    for low, high in ((0, 2), (1, 3)):
        sides = np.minimum(a[:, None, high], b[None, :, high]) - np.maximum(a[:, None, low], b[None, :, low])
        both *= np.maximum(sides, 0)
        areas[0] *= a[:, None, high] - a[:, None, low]
        areas[1] *= b[None, :, high] - b[None, :, low]
    union = areas[0] + areas[1] - both
    found: Numbers = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return found


def suppressed(found: Boxes, line: float) -> Boxes:
    """The boxes, best first, without those that overlap as far with a better one of their class."""
    kept = np.ones(len(found.scores), bool)
    for start in range(0, len(kept), AT_ONCE):
        rows = start + np.flatnonzero(kept[start : start + AT_ONCE])
        near = overlap(found.corners[rows], found.corners) > line
        near &= found.classes[rows, None] == found.classes
        for row, drops in zip(rows, near, strict=True):
            if kept[row]:
                kept[row + 1 :] &= ~drops[row + 1 :]
    return found.chosen(kept)


def matched(truth: Numbers, found: Numbers, line: float) -> npt.NDArray[np.bool_]:
    """Which of the boxes that were found are one of the true ones; each of those is found once.

    Args:
        truth: the true boxes.
        found: those that were found, best first.
        line: the overlap from which on a box is the same.

    Returns:
        A mark for each that was found.
    """
    hit = np.zeros(len(found), bool)
    near = overlap(found, truth)
    for i in np.flatnonzero((near >= line).any(axis=1)):
        best = near[i].argmax()
        if near[i, best] >= line:
            hit[i] = True
            near[:, best] = -1
    return hit


class Found(NamedTuple):
    """Boxes of a class that were found in an image, best first.

    Attributes:
        scores: of each.
        hits: whether each is a true one, a row for each of `THRESHOLDS`.
        true: true boxes that there are.
    """

    scores: Numbers
    hits: npt.NDArray[np.bool_]
    true: int


def found_of(truth: Boxes, found: Boxes) -> dict[int, Found]:
    """How well the boxes of an image are found, by class.

    Args:
        truth: the true boxes.
        found: those that were found, best first.
    """
    told = {}
    for kind in np.union1d(truth.classes, found.classes).tolist():
        true, boxes = truth.chosen(truth.classes == kind), found.chosen(found.classes == kind)
        hits = np.array([matched(true.corners, boxes.corners, line) for line in THRESHOLDS])
        told[kind] = Found(boxes.scores, hits, len(true.scores))
    return told


def precision_of(images: Sequence[dict[int, Found]]) -> Numbers:
    """COCO's average precision at each of `THRESHOLDS`, mean over the classes that there are in truth.

    Args:
        images: how well the boxes of each are found (`found_of`).

    Returns:
        A value for each threshold; NaN where there is no true box.
    """
    kinds = sorted({kind for image in images for kind, found in image.items() if found.true})
    each = [_of_class([image[kind] for image in images if kind in image]) for kind in kinds]
    return np.mean(each, axis=0) if each else np.full(len(THRESHOLDS), np.nan)


def _of_class(images: Sequence[Found]) -> Numbers:
    count = sum(image.true for image in images)
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    hits = np.concatenate([image.hits for image in images], axis=1)
    return np.array([_area(row[order], count) for row in hits])


def _area(hits: npt.NDArray[np.bool_], count: int) -> float:
    """The mean precision at `RECALLS` of what was found, best first."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best at this recall or more
    place = np.searchsorted(right / count, RECALLS)
    return float(np.concatenate([precision, [0.0]])[np.minimum(place, len(precision))].mean())
