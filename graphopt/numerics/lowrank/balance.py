"""Kernels with their channels at one scale, in which rounding is the same for all, in plain NumPy.

A kernel is W[o, i, t] = r_o · c_i · B[o, i, t] with powers of two r_o for each output channel and c_i for
each input channel, so that the largest weight of every channel in B is about 1. B has the ranks of W, and
factors of B are those of W once c and r are taken up at both ends. No digit changes, so that the rounding of
stored weights stays the same part of each (van der Sluis 1969, "Condition numbers and equilibration of
matrices").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.types import Array, Float64


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """A kernel whose channels are at one scale.

    Attributes:
        kernel: B, ``[out_channels, in_channels, *taps]``, in float32 or float64.
        rows: r, ``[out_channels]``.
        columns: c, ``[in_channels]``.
    """

    kernel: Array
    rows: Float64
    columns: Float64

    @property
    def levels(self) -> Float64:
        """Root mean square of the weights of each output channel of B; 0 for one of zeros."""
        flat = self.kernel.reshape(len(self.kernel), -1)
        squares = np.einsum("ij,ij->i", flat, flat, dtype=np.float64)
        return np.asarray(np.sqrt(squares / max(1, flat.shape[1])))

    def first(self, kernel: Float64, axis: int = 1) -> Float64:
        """The first factor of W from that of B.

        Args:
            kernel: reads the inputs.
            axis: that holds them, several positions in a row for each where a channel is read more than once.
        """
        return _times(kernel, self.columns, axis)

    def last(self, kernel: Float64) -> Float64:
        """The last factor of W from that of B, whose first axis holds the outputs."""
        return _times(kernel, self.rows, 0)


def balanced(kernel: Array) -> Balanced:
    """Return the kernel with its channels at one scale: outputs, then inputs, and outputs once more.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``, finite.
    """
    made = kernel.astype(
        kernel.dtype if kernel.dtype.itemsize >= np.dtype(np.float32).itemsize else np.float32
    )
    exponents = [np.zeros(size, np.int64) for size in kernel.shape[:2]]
    for axis in (0, 1, 0):
        others = tuple(a for a in range(made.ndim) if a != axis)
        peak = np.maximum(made.max(others, initial=0), -made.min(others, initial=0))
        steps = np.frexp(peak)[1]
        exponents[axis] += steps
        np.ldexp(made, -steps.reshape([-1 if a == axis else 1 for a in range(made.ndim)]), out=made)
    rows, columns = (np.ldexp(1.0, exponent) for exponent in exponents)
    return Balanced(made, rows, columns)


def _times(kernel: Float64, scales: Float64, axis: int) -> Float64:
    repeated = np.repeat(scales, kernel.shape[axis] // max(1, len(scales)))
    return kernel * repeated.reshape([-1 if a == axis else 1 for a in range(kernel.ndim)])
