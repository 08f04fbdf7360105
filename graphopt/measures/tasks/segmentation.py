"""Segmentation: how far the areas of each class overlap with the right ones, or the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.measures.base import Measure, Numbers, Row, Sample, is_real, is_whole, per_input, the_output
from graphopt.types import Figure

IGNORED = 255
"""The label of pixels that do not count, as in Pascal VOC (Everingham et al. 2010)."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Where maps are.

    Attributes:
        output: the output.
        axis: of its classes; None where it holds their numbers.
        line: for one score a pixel, the value from which on it is of the class; None where there are more.
    """

    output: str
    axis: int | None
    line: float | None = None


@dataclass(frozen=True, kw_only=True)
class Segmentation(Measure[Maps, Numbers]):
    """The class of every pixel. An answer is a map of their numbers."""

    FIGURES = (
        Figure("miou", "intersection over union, mean over the classes that there are"),
        Figure("pixels", "pixels of the right class"),
    )
    EXPECTS = "scores [N, K, H, W], [N, H, W, K] or of one class, or a map of class numbers [N, H, W]"
    LABELS = f"a map of class numbers for each input, {IGNORED} where nothing is said"

    def layout(self, sample: Sample) -> Maps:
        """How maps are read."""
        name = the_output(sample, _is_map)
        array = sample.outputs[name]
        if array.ndim == 3 or (array.dtype.kind in "iub" and 1 in (array.shape[1], array.shape[3])):
            return Maps(name, None)
        axis = 1 if array.shape[1] <= array.shape[3] else 3
        if array.shape[axis] > 1:
            return Maps(name, axis)
        return Maps(name, None, 0.5 if array.min() >= 0 and array.max() <= 1 else 0.0)

    def read(self, outputs: Mapping[str, Numbers], layout: Maps) -> Numbers:
        """The class of every pixel."""
        array = outputs[layout.output][0]
        if layout.axis is not None:
            return np.asarray(array.argmax(layout.axis - 1))
        flat = array.squeeze(0 if len(array) == 1 else -1) if array.ndim == 3 else array
        return np.asarray(flat if layout.line is None else flat > layout.line, np.int64)

    def compared(self, row: Row, layout: Maps) -> dict[int, tuple[int, int]]:
        """By class, the pixels that both have of it, and that either has."""
        truth, got = np.asarray(row.truth).reshape(-1), row.got.reshape(-1)
        if row.label is not None:
            truth, got = truth[truth != IGNORED], got[truth != IGNORED]
        areas = {number: (truth == number, got == number) for number in np.union1d(truth, got).tolist()}
        return {number: (int((a & b).sum()), int((a | b).sum())) for number, (a, b) in areas.items()}

    def combined(self, compared: Sequence[dict[int, tuple[int, int]]], layout: Maps) -> dict[str, float]:
        """How far areas overlap; classes that neither has at any pixel do not count."""
        both: dict[int, int] = {}
        either: dict[int, int] = {}
        for number, (shared, all_of_it) in (item for areas in compared for item in areas.items()):
            both[number] = both.get(number, 0) + shared
            either[number] = either.get(number, 0) + all_of_it
        hits = sum(both.values())
        # A pixel that differs is in the union of two classes.
        count = (sum(either.values()) + hits) / 2
        ratios = [both[number] / either[number] for number in either]
        return {
            "miou": float(np.mean(ratios)) if ratios else np.nan,
            "pixels": hits / count if count else np.nan,
        }

    def labelled(self, labels: Numbers, count: int) -> Numbers:
        """A map for each input."""
        maps = per_input(labels, count)
        if maps.ndim < 3 or not is_whole(maps):
            raise ValueError("expected maps of class numbers [N, H, W]")
        return maps


def _is_map(array: Numbers) -> bool:
    if array.ndim not in (3, 4) or len(array) != 1 or min(array.shape[-2:]) < 1:
        return False
    if array.dtype.kind in "iub":
        return array.ndim == 3 or 1 in (array.shape[1], array.shape[3])
    return is_real(array) and ((array.ndim == 4 and array[0].size > max(array.shape)) or _numbers(array))


def _numbers(array: Numbers) -> bool:
    """Whether a map of floats holds numbers of classes."""
    return array.ndim == 3 and min(array.shape[1:]) > 1 and is_whole(array) and bool(array.min() >= 0)


MEASURE = Segmentation
