"""Gradients through AveragePool and MaxPool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.shapes.windows import PoolShape
from graphopt.compression.autodiff.rules.linear import window_back
from graphopt.compression.autodiff.tape import Gradient, Tape, UnsupportedError, ends


@dataclass(frozen=True, slots=True)
class _PoolWindow:
    """A sliding window; all tuples have one entry a spatial axis, ``pads`` two.

    Attributes:
        kernel: its sizes.
        strides: its steps.
        dilations: distances of its taps.
        pads: around what it slides over, as far as it is padded.
        inside: sizes of what it slides over.
        outside: sizes of what it makes.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    inside: tuple[int, ...]
    outside: tuple[int, ...]

    @property
    def back(self) -> dict[str, list[int]]:
        """The form of a ConvTranspose that goes its way back."""
        sizes = (self.inside, self.outside, self.kernel)
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            **window_back(*sizes, self.strides, self.dilations, self.pads),
        }

    def axes(self) -> list[_PoolWindow]:
        """Windows along one axis each, which together are this one."""
        rank, found = len(self.kernel), []
        for axis in range(rank):

            def alone(sizes: tuple[int, ...], axis: int = axis, other: int = 1) -> tuple[int, ...]:
                return tuple(size if i % rank == axis else other for i, size in enumerate(sizes))

            inside = (*self.outside[:axis], *self.inside[axis:])
            outside = (*self.outside[: axis + 1], *self.inside[axis + 1 :])
            forms = (alone(self.kernel), alone(self.strides), alone(self.dilations))
            found.append(_PoolWindow(*forms, alone(self.pads, other=0), inside, outside))
        return found

    def pooling(self) -> dict[str, list[int]]:
        """The form of a pool with explicit pads.

        Raises:
            UnsupportedError: they are as wide as the window, which no pool allows.
        """
        begin, end = list(self.pads[: len(self.kernel)]), []
        for axis, (n, m, k) in enumerate(zip(self.inside, self.outside, self.kernel, strict=True)):
            reach = (m - 1) * self.strides[axis] + self.dilations[axis] * (k - 1) + 1
            end.append(max(reach - begin[axis] - n, 0))
        if any(pad >= k for pads in (begin, end) for pad, k in zip(pads, self.kernel, strict=True)):
            raise UnsupportedError
        form = {"kernel_shape": list(self.kernel), "strides": list(self.strides), "pads": begin + end}
        if any(d > 1 for d in self.dilations):  # there is no such attribute in old operator sets
            form["dilations"] = list(self.dilations)
        return form

    def taps(self, *, padding: bool) -> npt.NDArray[np.float64]:
        """Taps that count ``[*outside]``: those on the input, or on the padding too."""
        counts = []
        for axis, (n, m, k) in enumerate(zip(self.inside, self.outside, self.kernel, strict=True)):
            begin, end = self.pads[axis], self.pads[axis + len(self.kernel)]
            start = np.arange(m) * self.strides[axis] - begin
            at = start[:, None] + np.arange(k) * self.dilations[axis]
            low, high = (-begin, n + end) if padding else (0, n)
            counts.append(((at >= low) & (at < high)).sum(axis=1))
        return np.asarray(reduce(np.multiply.outer, counts), np.float64)


def _window(tape: Tape, node: ir.Node) -> _PoolWindow:
    found = PoolShape.of(node)
    inside, outside = (shape[2:] for shape in tape.sizes(node))
    if found is None or len(found.kernel) != len(inside):
        raise UnsupportedError
    return _PoolWindow(
        found.kernel, found.strides, found.dilations, found.pads(inside) or (), inside, outside
    )


def average_pool(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of AveragePool: each input of a window gets its part."""
    window, channels = _window(tape, node), tape.shape(node.inputs[0])[1]
    taps = window.taps(padding=bool(node.attributes.get_int("count_include_pad", 0)))
    part = tape.scaled(g, 1 / np.maximum(taps, 1))
    ones = tape.constant(np.ones((channels, 1, *window.kernel)))
    return [tape.op("ConvTranspose", part, ones, group=channels, **window.back)]


def max_pool(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of MaxPool, an axis at a time: the largest of a window is the largest of those of its rows."""
    (x, y), (batch, channels, *_) = ends(node), tape.shape(node.inputs[0])
    windows = _window(tape, node).axes()
    values = [x]
    for window in windows[:-1]:
        values.append(tape.op("MaxPool", values[-1], **window.pooling()))
    values.append(y)
    for window, before, after in reversed(list(zip(windows, values, values[1:], strict=False))):
        g = _largest_back(tape, window, before, after, g, (batch, channels))
    return [g]


def _largest_back(tape: Tape, window: _PoolWindow, x: str, y: str, g: str, leading: tuple[int, int]) -> str:
    """Each place of the window in turn: its inputs, where they are the largest, take the gradient."""
    (batch, channels), taps, back = leading, math.prod(window.kernel), window.back
    places = np.tile(np.eye(taps), (channels, 1)).reshape(channels * taps, 1, *window.kernel)
    each = tape.constant(places)
    forward = {key: value for key, value in back.items() if key != "output_padding"}
    spread = tape.op("Conv", x, each, group=channels, **forward)
    spread = tape.reshape(spread, [batch, channels, taps, -1])
    flat = [batch, channels, 1, -1]
    parts = tape.op("Mul", tape.reshape(g, flat), tape.at_least(spread, tape.reshape(y, flat)))
    parts = tape.reshape(parts, [batch, channels * taps, *window.outside])
    return tape.op("ConvTranspose", parts, each, group=channels, **back)
