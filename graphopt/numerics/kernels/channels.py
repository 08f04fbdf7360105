"""What is known of the channels of maps, and kernels on fewer of them, in plain NumPy.

A channel is *constant* when it has one value everywhere (a filter of zeros leaves its bias), and two channels
are *equal* when they have the same label. Kernels are ``[out_channels, in_channels / group, *taps]``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.types import Array, Float64

Labels: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

GLANCE = 16
"""Filters, or channels of each filter, that are looked at first: they mostly tell all, else all are looked
at, and no result depends on it."""


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of the channels of a map.

    Attributes:
        constant: ``[channels]``, the value of a constant channel, NaN for any other.
        labels: ``[channels]``, equal for channels that are equal everywhere.
    """

    constant: Float64
    labels: Labels

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.labels)

    @property
    def plain(self) -> bool:
        """Whether no channel is constant, and no two are equal."""
        return bool(np.isnan(self.constant).all()) and len(np.unique(self.labels)) == self.channels

    def at(self, index: npt.NDArray[np.int64]) -> Facts:
        """What is known of a selection of the channels."""
        return Facts(self.constant[index], self.labels[index])


class Labeller:
    """Hands out labels that were never used before."""

    def __init__(self) -> None:
        self._next: Iterator[int] = itertools.count()

    def fresh(self, channels: int) -> Labels:
        """New labels, a different one for each of so many channels."""
        return np.fromiter(self._next, np.int64, channels)

    def of_keys(self, keys: Sequence[object]) -> Labels:
        """Labels that are equal where the keys are."""
        known: dict[object, int] = {}
        return np.array(
            [known[k] if k in known else known.setdefault(k, next(self._next)) for k in keys], np.int64
        )

    def unknown(self, channels: int) -> Facts:
        """Channels of which nothing is known."""
        return Facts(np.full(channels, np.nan), self.fresh(channels))


def foldable(facts: Facts, *, padded: bool) -> Mask:
    """The constant channels that a convolution can take for a bias: any, or zeros alone where it pads."""
    constant = ~np.isnan(facts.constant)
    return constant & (facts.constant == 0.0) if padded else constant


def behind_kernel(
    kernel: Array, bias: Array | None, group: int, given: Facts, labeller: Labeller, *, padded: bool
) -> Facts:
    """What is known of the output channels of a convolution.

    Args:
        kernel: ``[out_channels, in_channels / group, *taps]``.
        bias: ``[out_channels]``; None for none.
        group: number of groups.
        given: what is known of the input channels.
        labeller: hands out labels.
        padded: whether zero padding is read, so that constants are not seen everywhere.

    Returns:
        Constants and labels ``[out_channels]``.
    """
    out_channels, per_group = kernel.shape[:2]
    shift = np.zeros(out_channels) if bias is None else bias.astype(np.float64)
    folded = foldable(given, padded=padded)
    weights = kernel.reshape(out_channels, per_group, -1)

    def by_filter(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(values.reshape(group, per_group), out_channels // group, axis=0)

    if folded.any():
        values = np.where(folded, given.constant, 0.0)
        shift = shift + (weights.sum(axis=2) * by_filter(values)).sum(axis=1)
        weights = np.where(by_filter(folded)[:, :, None], 0.0, weights)
    distinct = len(np.unique(given.labels)) == given.channels
    alike = np.arange(out_channels)
    for part in (weights[:, :GLANCE], weights) if distinct else (weights,):
        alike = alike[_alike(part[alike], shift[alike])]
    keys: list[object] = [(channel,) for channel in range(out_channels)]
    labels = given.labels.reshape(group, per_group)
    zero = np.zeros(out_channels, np.bool_)
    for channel in alike.tolist():
        read, filter_ = _met(labels[channel // (out_channels // group)], weights[channel])
        zero[channel] = not read
        keys[channel] = (read, filter_, shift[channel])
    return Facts(np.where(zero, shift, np.nan), labeller.of_keys(keys))


def _alike(filters: Array, shift: Float64) -> list[int]:
    """The filters ``[filters, channels, taps]`` that are zero, or may equal another.

    Equal ones have equal extremes, and so have their parts where they read the same channels.
    """
    largest, smallest = (extreme(axis=(1, 2)).tolist() for extreme in (filters.max, filters.min))
    marks = list(zip(shift.tolist(), largest, smallest, strict=True))
    times = Counter(marks)
    return [i for i, mark in enumerate(marks) if times[mark] > 1 or mark[1] == mark[2] == 0]


def _met(labels: Labels, weights: Array) -> tuple[bytes, bytes]:
    """What a filter does to which channels; equal for equal ones."""
    used = np.flatnonzero(weights.any(axis=1))
    return labels[used].tobytes(), (weights[used] + 0.0).tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How a convolution without groups may read its input: from which channels, for which it stands in.

    Attributes:
        needed: ``[in_channels]``, the channels to be read.
        source: ``[in_channels]``, the channel that is read for each; −1 where none is.
        factor: ``[in_channels]``, what the channel that is read has to be multiplied by.
    """

    needed: Mask
    source: npt.NDArray[np.int64]
    factor: Float64


def reading(kernel: Array, rows: Mask, given: Facts, *, padded: bool) -> Reading:
    """The fewest input channels that the given output channels need; of equal ones the first.

    Constant channels are taken for a bias; under padding, where that does not hold at the border, one of them
    serves for all, since they are multiples of each other.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        rows: ``[out_channels]``, the outputs that are needed.
        given: what is known of the input channels.
        padded: whether zero padding is read, so that constants are not seen everywhere.

    Returns:
        The channels that are needed, and what stands for those that are not.
    """
    asking = kernel if rows.all() else kernel[rows]
    others = tuple(i for i in range(kernel.ndim) if i != 1)
    used = asking[:GLANCE].any(axis=others)
    if not used.all():
        used = asking.any(axis=others)
    used &= ~foldable(given, padded=padded)
    first: dict[int, int] = {}
    source = np.array([first.setdefault(label, c) for c, label in enumerate(given.labels.tolist())], np.int64)
    factor = np.ones(given.channels)
    constant = used & ~np.isnan(given.constant)
    if constant.any():
        strongest = int(np.argmax(np.where(constant, np.abs(given.constant), -1.0)))
        source[constant] = strongest
        factor[constant] = given.constant[constant] / given.constant[strongest]
    source[~used] = -1
    needed = np.zeros(given.channels, np.bool_)
    needed[source[used]] = True
    return Reading(needed, source, factor)


def narrowed(
    kernel: Array, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], read: Reading
) -> Float64:
    """The kernel ``[len(rows), len(columns), *taps]`` of some outputs on some of the inputs.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        rows: the output channels.
        columns: the input channels that are there.
        read: which of them stand for which; those that are there stand for themselves.

    Returns:
        ``[len(rows), len(columns), *taps]``.
    """
    position = {int(c): i for i, c in enumerate(columns)}
    result = np.zeros((len(rows), len(columns), *kernel.shape[2:]))
    for channel, (source, factor) in enumerate(zip(read.source.tolist(), read.factor.tolist(), strict=True)):
        if channel in position:
            result[:, position[channel]] += kernel[rows, channel]
        elif source >= 0:
            result[:, position[source]] += factor * kernel[rows, channel]
    return result


def folded_bias(
    kernel: Array, bias: Array | None, columns: npt.NDArray[np.int64], given: Facts, *, padded: bool
) -> Float64:
    """The bias ``[out_channels]`` with what the constant channels add that are no longer read.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        bias: ``[out_channels]``; None for none.
        columns: the input channels that are still read.
        given: what is known of the input channels.
        padded: whether zero padding is read, so that constants are not seen everywhere.

    Returns:
        ``[out_channels]``.
    """
    gone = foldable(given, padded=padded)
    gone[columns] = False
    values = np.where(gone, given.constant, 0.0)
    shift = kernel.reshape(*kernel.shape[:2], -1).sum(axis=2) @ values
    total: Float64 = shift if bias is None else shift + bias
    return total


def even_groups(outputs: Mask, inputs: Mask, group: int) -> tuple[Mask, Mask]:
    """Adds channels until every group that is left has as many outputs, and as many inputs, as any other.

    Args:
        outputs: ``[out_channels]``, the outputs to be kept.
        inputs: ``[in_channels]``, the inputs to be kept.
        group: number of groups.

    Returns:
        Both masks with the channels that were added; a group of which nothing is kept stays empty.
    """
    out, ins = outputs.reshape(group, -1).copy(), inputs.reshape(group, -1).copy()
    alive = out.any(axis=1) | ins.any(axis=1)
    for side in (out, ins):
        most = int(side.sum(axis=1).max(initial=0)) or int(alive.any())
        for row in np.flatnonzero(alive):
            missing = most - int(side[row].sum())
            side[row, np.flatnonzero(~side[row])[:missing]] = True
    return out.reshape(-1), ins.reshape(-1)


def narrowed_groups(kernel: Array, outputs: Mask, inputs: Mask, group: int) -> tuple[Array, int]:
    """The kernel of a grouped convolution on the channels that `even_groups` left, and its groups.

    Args:
        kernel: ``[out_channels, in_channels / group, *taps]``.
        outputs: ``[out_channels]``, the outputs that are kept.
        inputs: ``[in_channels]``, the inputs that are kept.
        group: number of groups.

    Returns:
        The kernel of the kept channels, and the number of groups that are left.
    """
    per_group, rows = kernel.shape[1], kernel.shape[0] // group
    parts = []
    for g in range(group):
        out = np.flatnonzero(outputs[g * rows : (g + 1) * rows]) + g * rows
        ins = np.flatnonzero(inputs[g * per_group : (g + 1) * per_group])
        if len(out):
            parts.append(kernel[out][:, ins])
    return np.concatenate(parts), len(parts)


def merged_labels(
    columns: Sequence[Sequence[object] | npt.NDArray[np.generic]], labeller: Labeller
) -> Labels:
    """Labels of an operator on each channel by itself: equal where all that goes in is."""
    return labeller.of_keys(list(zip(*(list(column) for column in columns), strict=True)))
