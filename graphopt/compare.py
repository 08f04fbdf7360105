"""Figures of how far apart two arrays are: pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ZERO_REFERENCE = 1e-6
"""Absolute difference that still passes where the reference is zero everywhere."""


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

    def add(self, reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> None:
        """Takes in one pair of outputs."""
        self.feeds += 1
        problem = _incomparable(reference, candidate)
        if problem:
            self.max_abs = self.max_rel = self.noise = math.inf
            self.note = problem
            return
        if reference.dtype.kind not in "fiub" or not reference.size:
            return
        wide, other = reference.astype(np.float64), candidate.astype(np.float64)
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        wide, other = (
            np.where(same & ~np.isfinite(wide), 0.0, wide),
            np.where(same, np.where(np.isfinite(wide), wide, 0.0), other),
        )
        gap = np.abs(wide - other)
        largest, scale = float(gap.max()), float(np.abs(wide).max())
        relative = largest / scale if scale > 0 else (0.0 if largest <= ZERO_REFERENCE else math.inf)
        self.max_abs, self.max_rel = max(self.max_abs, largest), max(self.max_rel, relative)
        self.signal += float(np.vdot(wide, wide))
        self.noise += float(np.vdot(gap, gap))

    @property
    def sqnr(self) -> float:
        """10·log10(Σ a² / Σ (a − b)²) in dB; infinite when equal, −infinite when nothing is left."""
        if self.noise == 0.0:
            return math.inf
        if self.signal == 0.0 or math.isinf(self.noise):
            return -math.inf
        return 10.0 * math.log10(self.signal / self.noise)


def _incomparable(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> str:
    if reference.shape != candidate.shape:
        return f"shape {list(candidate.shape)} instead of {list(reference.shape)}"
    if reference.dtype != candidate.dtype:
        return f"type {candidate.dtype} instead of {reference.dtype}"
    if reference.dtype.kind not in "fiub":
        return "" if np.array_equal(reference, candidate) else "values differ"
    if reference.dtype.kind == "f":
        bad = ~np.isfinite(candidate) & ~(
            (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
        )
        if bad.any():
            return f"{int(bad.sum())} values are not finite"
    return ""


def agreement(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> float | None:
    """Fraction of equal argmax over axis 1 for outputs [N, K] or [N, K, 1, 1]; None for other outputs."""
    if not is_class_scores(reference.shape) or reference.shape != candidate.shape:
        return None
    first, second = (array.reshape(len(array), -1).argmax(axis=1) for array in (reference, candidate))
    return float((first == second).mean())


def is_class_scores(shape: tuple[int | None, ...]) -> bool:
    """Whether an output may hold class scores: [N, K] or [N, K, 1, 1] with at least two classes."""
    if len(shape) not in (2, 4) or any(size != 1 for size in shape[2:]):
        return False
    return shape[1] is None or shape[1] > 1
