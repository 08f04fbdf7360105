"""Figures of how far apart two arrays are: pure NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Output: TypeAlias = Any
"""What a model returns: an array, or for a sequence a list of arrays."""
ZERO_REFERENCE = 1e-6
"""Absolute difference that still passes where the reference is zero everywhere: derived, 8 eps of float32,
the rounding of terms about 1 that cancel."""
SQUARED = 1e-12, 1e12
"""Values between these have squares that can be summed up in float32: derived, 1e24 times 1e14 elements is
its largest, 1e-24 is far above its least, 1e-38."""


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
        problem = _incomparable(reference, candidate)
        if problem:
            self._fail(problem)
            return
        if reference.dtype.kind not in "fiub" or not reference.size:
            return
        exact, gap = _finite_gap(reference, candidate)
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


def _incomparable(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> str:
    """Why no difference can be taken; "" when it can."""
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


def _finite_gap(
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


def agreement(reference: Output, candidate: Output) -> float | None:
    """Fraction of equal argmax over axis 1 for outputs [N, K] or [N, K, 1, 1]; None for other outputs."""
    if (
        isinstance(reference, list)
        or not is_class_scores(reference.shape)
        or reference.shape != candidate.shape
    ):
        return None
    first, second = (array.reshape(len(array), -1).argmax(axis=1) for array in (reference, candidate))
    return float((first == second).mean())


def is_class_scores(shape: tuple[int | None, ...]) -> bool:
    """Whether an output may hold class scores: [N, K] or [N, K, 1, 1] with at least two classes."""
    if len(shape) not in (2, 4) or any(size != 1 for size in shape[2:]):
        return False
    return shape[1] is None or shape[1] > 1
