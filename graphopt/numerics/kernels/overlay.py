"""Kernels of parallel convolutions laid over each other, in plain NumPy, for any number of spatial axes.

Convolutions of one input at one stride add up tap by tap. On one axis, tap t of a Conv reads input position
q·stride + t·dilation − pad_begin for output q; so its taps stand at the offsets −pad_begin + t·dilation, and
the sum of several has a tap wherever one of them has. Those offsets are put into the smallest arithmetic row
that holds all. For a ConvTranspose they are offsets in the output; nothing else changes.

    rows = [Row(-1, 1, 3), Row(0, 1, 1)]          # a 3-tap kernel with pad 1, and one tap
    total = joined(rows)                          # Row(start=-1, step=1, taps=3)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.numerics.kernels.algebra import regroup
from graphopt.types import Array


class Row(NamedTuple):
    """Where the taps of a kernel stand on one axis.

    Attributes:
        start: offset of the first tap.
        step: distance between two taps.
        taps: their number.
    """

    start: int
    step: int
    taps: int

    @property
    def stop(self) -> int:
        """The offset behind the last tap."""
        return self.start + (self.taps - 1) * self.step + 1


def joined(rows: Sequence[Row]) -> Row:
    """The shortest row that has a tap wherever one of the rows has."""
    start, last = min(row.start for row in rows), max(row.stop for row in rows) - 1
    distances = [row.start - start for row in rows] + [row.step for row in rows if row.taps > 1]
    step = math.gcd(*distances) or 1
    return Row(start, step, (last - start) // step + 1)


def laid_out(kernel: Array, rows: Sequence[Row], onto: Sequence[Row]) -> Array:
    """The kernel ``[out, in / group, *taps]`` with its taps moved to where they stand in other rows.

    Args:
        kernel: ``[out, in / group, *taps]``.
        rows: where its taps stand, per spatial axis.
        onto: the rows to move them into.

    Returns:
        ``[out, in / group, *taps]`` with the taps of `onto`; zeros where none was.

    Raises:
        ValueError: the number of axes differs, or a tap does not stand in its new row.
    """
    if not len(rows) == len(onto) == kernel.ndim - 2:
        raise ValueError(f"{len(rows)} and {len(onto)} rows for a kernel of shape {kernel.shape}")
    wide = np.zeros((*kernel.shape[:2], *(row.taps for row in onto)), kernel.dtype)
    places = []
    for row, target in zip(rows, onto, strict=True):
        offsets = row.start - target.start + row.step * np.arange(row.taps)
        if np.any(offsets % target.step) or offsets[0] < 0 or offsets[-1] // target.step >= target.taps:
            raise ValueError(f"the taps of {row} do not stand in {target}")
        places.append(offsets // target.step)
    channels = (np.arange(size) for size in kernel.shape[:2])
    wide[np.ix_(*channels, *places)] = kernel
    return wide


def total(
    kernels: Sequence[Array], groups: Sequence[int], rows: Sequence[Sequence[Row]]
) -> npt.NDArray[np.float64]:
    """The kernel of a sum of convolutions, ``[out, in / group, *taps]`` in the rows that `joined` gives.

    Its group is the greatest common divisor of all groups.

    Args:
        kernels: of each convolution ``[out, in / group, *taps]``.
        groups: their groups.
        rows: of each, where its taps stand, per spatial axis.

    Returns:
        ``[out, in / group, *taps]``.

    Raises:
        ValueError: the kernels do not fit each other.
    """
    group = math.gcd(*groups)
    onto = [joined(axis) for axis in zip(*rows, strict=True)]
    parts = [
        laid_out(regroup(kernel.astype(np.float64), own, group), place, onto)
        for kernel, own, place in zip(kernels, groups, rows, strict=True)
    ]
    if len({part.shape for part in parts}) != 1:
        raise ValueError(f"kernels of shapes {[part.shape for part in parts]} do not add up")
    result: npt.NDArray[np.float64] = np.sum(parts, axis=0)
    return result
