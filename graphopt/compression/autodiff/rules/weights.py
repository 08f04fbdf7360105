"""Gradients in the weights and biases of products, by windows: one product of two maps for each tap.

The derivative of a convolution in its weight at a tap is the sum over all positions of what the tap reads
times the gradient of what it makes; for a ConvTranspose the two change places.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.compression.autodiff.tape import Tape


@dataclass(frozen=True, slots=True)
class Windows:
    """A map that a window slides over, and how.

    Attributes:
        name: of the map ``[N, C, *sizes]``.
        shape: its shape.
        kernel: sizes of the window.
        strides: its steps.
        dilations: distances of its taps.
        begin: zeros in front of each axis.
    """

    name: str
    shape: Sequence[int]
    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begin: Sequence[int]

    def taps(self, tape: Tape, counts: Sequence[int]) -> list[str]:
        """What each tap reads, ``[N, C, *counts]``, in the order of the kernel.

        Args:
            tape: takes down the operators.
            counts: how often the window is laid along each axis.

        Returns:
            The names, one a tap.
        """
        axes = range(len(self.kernel))
        extents = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        covered = [(counts[a] - 1) * self.strides[a] + extents[a] for a in axes]
        end = [covered[a] - self.shape[2 + a] - self.begin[a] for a in axes]
        image = tape.padded(self.name, [0, 0, *self.begin], [0, 0, *end])
        found = []
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            start = [t * d for t, d in zip(tap, self.dilations, strict=True)]
            stop = [s + (n - 1) * step + 1 for s, n, step in zip(start, counts, self.strides, strict=True)]
            found.append(tape.sliced(image, start, stop, [2 + a for a in axes], self.strides, covered))
        return found


def of_convolution(tape: Tape, windows: Windows, other: str, other_shape: Sequence[int], groups: int) -> str:
    """The gradient in a convolution's weight ``[rows, columns / groups, *kernel]``.

    Args:
        tape: takes down the operators.
        windows: the map that the weight's second axis stands for, ``[N, columns, *sizes]``.
        other: name of the map that its first axis stands for, ``[N, rows, *counts]``.
        other_shape: the shape of that.
        groups: of the convolution.

    Returns:
        The name of the gradient.
    """
    samples, rows, *counts = other_shape
    columns, places = windows.shape[1] // groups, math.prod(counts)
    left = tape.reshape(other, [samples, groups, rows // groups, places])
    taps = []
    for tap in windows.taps(tape, counts):
        if columns == 1:  # sums of products, where a matrix product would have one column
            right = tape.reshape(tap, [samples, groups, 1, places])
            taps.append(tape.reshape(tape.total(tape.op("Mul", left, right), [0, 3]), [rows, 1, 1]))
            continue
        right = tape.reshape(tap, [samples, groups, columns, places])
        product = tape.op("MatMul", left, tape.op("Transpose", right, perm=[0, 1, 3, 2]))
        taps.append(tape.reshape(tape.total(product, [0]), [rows, columns, 1]))
    whole = taps[0] if len(taps) == 1 else tape.op("Concat", *taps, axis=2)
    return tape.reshape(whole, [rows, columns, *windows.kernel])


def of_bias(tape: Tape, g: str, shape: Sequence[int]) -> str:
    """The gradient in a bias of one number a channel, from that of the output ``[N, channels, *sizes]``.

    Args:
        tape: takes down the operators.
        g: name of the output's gradient.
        shape: its shape.

    Returns:
        The name of the gradient ``[channels]``.
    """
    axes = [axis for axis in range(len(shape)) if axis != 1]
    return tape.reshape(tape.total(g, axes), [shape[1]])
