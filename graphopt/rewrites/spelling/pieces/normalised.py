"""Normalisations in pieces: the mean and the variance over some axes, and what follows on their root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import ints
from graphopt.analysis.fusions.matching import beside, made_by, read_by
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.spelling.pieces.numbers import is_near, scalar
from graphopt.rewrites.spelling.pieces.spelled import Pieces, replaceable
from graphopt.types import Array


@dataclass(frozen=True, slots=True)
class Over:
    """Axes of a normalisation, of a value of so many.

    Attributes:
        rank: axes of the value.
        axes: those that means are taken over, in order.
        channel: the axis along which scale and shift vary.
    """

    rank: int
    axes: tuple[int, ...]
    channel: int


@dataclass(frozen=True, slots=True)
class Norm(Pieces):
    """A normalisation, told by its root.

    Attributes:
        epsilon: what is added to the variance.
        scale: γ, by place on the axis of channels.
        shift: β; None where nothing is added.
    """

    epsilon: float
    scale: Array
    shift: Array | None

    @property
    def passes(self) -> int:
        """One for the moments, and one for the result."""
        return 2


@dataclass(frozen=True, slots=True)
class Moments:
    """The mean and the variance of a value.

    Attributes:
        x: the value.
        mean: E x.
        centred: x − E x.
        epsilon: what is added to the variance.
        nodes: the operators, up to the sum.
    """

    x: ir.Value
    mean: ir.Value
    centred: ir.Value
    epsilon: float
    nodes: tuple[ir.Node, ...]


def normalisation(analysis: Analysis, node: ir.Node, over: Over) -> Norm | None:
    """The normalisation around a root, or a power of −½.

    Args:
        analysis: the snapshot.
        node: the root.
        over: the axes.

    Returns:
        The normalisation; None where there is none whose pieces nothing else reads.
    """
    found = moments(analysis, node.inputs[0], over)
    channels = None if found is None else (analysis.fixed_shape(found.x) or (None,) * over.rank)[over.channel]
    if found is None or not channels:
        return None
    tail = Tail(analysis, found, channels, over).behind(node)
    if tail is None:
        return None
    nodes = (node, *found.nodes, *tail.nodes)
    if not _closed(analysis, nodes) or not replaceable(analysis, nodes, found.x):
        return None
    scale = np.ones(channels) if tail.scale is None else tail.scale
    return Norm(found.x, nodes, nodes[-1].outputs[0], found.epsilon, scale, tail.shift)


def moments(analysis: Analysis, value: ir.Value | None, over: Over) -> Moments | None:
    """The moments of what a value is the variance of, with ε added; None of another value.

    Args:
        analysis: the snapshot.
        value: the value.
        over: the axes.

    Returns:
        The moments, or None.
    """
    plus = made_by(value, "Add")
    for variance, epsilon in () if plus is None else (plus.inputs, reversed(plus.inputs)):
        number, second = scalar(analysis, epsilon), _mean(analysis, variance, over)
        square = None if second is None else _squared(analysis, second.inputs[0])
        centred = None if square is None else made_by(square.inputs[0], "Sub")
        first = None if centred is None else _mean(analysis, centred.inputs[1], over)
        if plus is None or number is None or second is None or square is None or centred is None:
            continue
        if first is not None and first.inputs[0] is centred.inputs[0] and first.inputs[0] is not None:
            nodes = (first, centred, square, second, plus)
            return Moments(first.inputs[0], first.outputs[0], centred.outputs[0], number, nodes)
    return None


def _mean(analysis: Analysis, value: ir.Value | None, over: Over) -> ir.Node | None:
    """The operator that makes a value as the mean over the axes, which stay."""
    pooled = made_by(value, "GlobalAveragePool")
    node = pooled or made_by(value, "ReduceMean")
    if node is None or len(analysis.shape(node.inputs[0]) or ()) != over.rank:
        return None
    if pooled is not None:
        return node if over.axes == tuple(range(2, over.rank)) else None
    axes = ints(node, "axes", 1, analysis.constant)
    if node.attributes.get_int("keepdims", 1) != 1 or not axes:
        return None
    return node if tuple(sorted(axis % over.rank for axis in axes)) == over.axes else None


def _squared(analysis: Analysis, value: ir.Value | None) -> ir.Node | None:
    """The operator that makes a value as a square."""
    power, product = made_by(value, "Pow"), made_by(value, "Mul")
    if power is not None and is_near(analysis, power.inputs[1], 2):
        return power
    return product if product is not None and product.inputs[0] is product.inputs[1] else None


def _closed(analysis: Analysis, nodes: Sequence[ir.Node]) -> bool:
    """Whether nothing else reads what operators make, but for the last one."""
    inside = {*nodes}
    made = [value for node in nodes[:-1] for value in node.outputs]
    return all(not v.is_graph_output() and inside.issuperset(analysis.consumers(v)) for v in made)


class Tail:
    """What makes the result of the root, as far as it has been followed.

    Args:
        analysis: the snapshot.
        moments: of what is normalised.
        channels: on the axis along which scale and shift vary.
        over: the axes.

    Attributes:
        nodes: the operators behind the root, the last one last.
        scale: γ, where it was met.
        shift: β, where it was met.
    """

    def __init__(self, analysis: Analysis, moments: Moments, channels: int, over: Over) -> None:
        self._analysis, self._moments, self._channels = analysis, moments, channels
        self._behind = over.rank - over.channel
        self.nodes: list[ir.Node] = []
        self.scale: Array | None = None
        self.shift: Array | None = None

    def behind(self, root: ir.Node) -> Tail | None:
        """What follows on a root, to its end; None where that is no normalisation."""
        last = self._inverse(root)
        if last is None:
            return None
        if last.op_type == "Div" and last.inputs[0] is self._moments.centred:
            return self._affine(last)
        value = last.outputs[0]
        times = read_by(self._analysis, last, "Mul")
        if times is not None and self.vector(beside(times, value)) is not None:
            self.scale = self.vector(beside(times, value))
            self.nodes.append(times)
            value = times.outputs[0]
        readers = self._analysis.consumers(value)
        if not all(each.op_type == "Mul" and is_standard(each) for each in readers):
            return None
        by = {beside(each, value): each for each in readers}
        if by.keys() == {self._moments.centred}:
            return self._affine(by[self._moments.centred])
        if by.keys() == {self._moments.x, self._moments.mean}:
            return self._apart(by[self._moments.x], by[self._moments.mean])
        return None

    def vector(self, value: ir.Value | None) -> Array | None:
        """The numbers of a constant by place on the axis of channels; None of another value."""
        array = self._analysis.constant(value)
        if array is None or array.dtype.kind != "f" or array.size not in (1, self._channels):
            return None
        if array.size > 1 and (array.ndim < self._behind or array.shape[-self._behind] != array.size):
            return None
        return np.broadcast_to(array.reshape(-1), self._channels).astype(array.dtype)

    def _inverse(self, root: ir.Node) -> ir.Node | None:
        """The operator that makes the inverse of the root, or divides by it."""
        if root.op_type == "Pow":
            return root if is_near(self._analysis, root.inputs[1], -0.5) else None
        reader = self._analysis.sole_consumer(root.outputs[0])
        if reader is None or not is_standard(reader):
            return None
        divides = reader.op_type == "Div" and reader.inputs[1] is root.outputs[0]
        centred = divides and reader.inputs[0] is self._moments.centred
        inverts = divides and scalar(self._analysis, reader.inputs[0]) == 1
        if reader.op_type != "Reciprocal" and not centred and not inverts:
            return None
        self.nodes.append(reader)
        return reader

    def _affine(self, last: ir.Node) -> Tail:
        """With what multiplies the normalised value, and what is added."""
        if last not in self.nodes:
            self.nodes.append(last)
        times = read_by(self._analysis, last, "Mul") if self.scale is None else None
        if times is not None and (scale := self.vector(beside(times, last.outputs[0]))) is not None:
            self.scale, last = scale, times
            self.nodes.append(times)
        plus = read_by(self._analysis, last, "Add")
        if plus is not None and (shift := self.vector(beside(plus, last.outputs[0]))) is not None:
            self.shift = shift
            self.nodes.append(plus)
        return self

    def _apart(self, of_x: ir.Node, of_mean: ir.Node) -> Tail | None:
        """Of the two products, of the value and of its mean, the sum."""
        self.nodes += [of_x, of_mean]
        less = read_by(self._analysis, of_mean, "Sub")
        if less is None:
            return None
        if less.inputs[1] is of_mean.outputs[0] and less.inputs[0] is of_x.outputs[0]:
            return self._affine(less)
        plus, shift = read_by(self._analysis, less, "Add"), self.vector(less.inputs[0])
        if plus is None or shift is None or beside(plus, less.outputs[0]) is not of_x.outputs[0]:
            return None
        self.shift = shift
        self.nodes += [less, plus]
        return self
