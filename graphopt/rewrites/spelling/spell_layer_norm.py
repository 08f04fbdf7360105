"""Write a layer normalisation in pieces as the operator of this name.

What
    onnxruntime tells a LayerNormalization by one spelling of its pieces, and runs others as they stand, six
    to nine passes over the map.

        x ─┬─ Sub ─┬─ Mul(itself) ─ ReduceMean ─ Add(ε) ─ Sqrt ─ Reciprocal ─┐
           └─ ReduceMean   └──────────────────────────────────────────────── Mul ─ Mul(γ) ─ Add(β) ─ y

        x ─ LayerNormalization(γ, β, ε) ─ y

Maths
    y = γ·(x − E x)/√(E(x − E x)² + ε) + β, along the last axis. The same is γ·x/√… + (β − γ·E x/√…), as
    TensorFlow writes it.

When it applies
    1. The spelling is none that onnxruntime tells. Up to opset 16, which has no LayerNormalization, the one
       that it tells is written.
    2. Means are those of the last axis, kept as 1, whose size is the same in every run; ε is one number, and
       γ and β are constants of that axis.
    3. The numbers are of float32 or float16, and nothing else reads a value in between.

Exactness
    Exact, but for rounding.

Cost
    No MACs; two passes over the map.

References:
    Ba et al. 2016, "Layer normalization".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import ints
from graphopt.analysis.fusions import normalisations
from graphopt.analysis.fusions.matching import beside, made_by, read_by
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.numbers import SINGLE, is_near, scalar, type_of
from graphopt.rewrites.spelling.spelled import Pieces, Spelling, replaceable
from graphopt.types import Array

KNOWN_SINCE = 17
"""The first opset that has LayerNormalization."""


@dataclass(frozen=True, slots=True)
class _Norm(Pieces):
    """A layer normalisation, told by its root.

    Attributes:
        epsilon: what is added to the variance.
        scale: γ, by place on the last axis.
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
class _Moments:
    """The mean and the variance of a value along its last axis.

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


@dataclass(frozen=True)
class SpellLayerNorm(Spelling[_Norm]):
    """Writes layer normalisations in pieces as LayerNormalization."""

    name: ClassVar[str] = "spell_layer_norm"

    def find(self, analysis: Analysis, node: ir.Node) -> _Norm | None:
        """The normalisation around a root, or a power of −½."""
        if node.op_type not in ("Sqrt", "Pow") or not is_standard(node):
            return None
        if node.op_type == "Sqrt" and normalisations.layer_norm(analysis, node):
            return None
        moments = _moments(analysis, node.inputs[0])
        if moments is None or type_of(analysis, moments.x) not in SINGLE:
            return None
        channels = (analysis.fixed_shape(moments.x) or (None,))[-1]
        tail = _Tail(analysis, moments, channels).behind(node) if channels else None
        if tail is None or not channels:
            return None
        nodes = (node, *moments.nodes, *tail.nodes)
        if not _closed(analysis, nodes) or not replaceable(analysis, nodes, moments.x):
            return None
        scale = np.ones(channels) if tail.scale is None else tail.scale
        return _Norm(moments.x, nodes, nodes[-1].outputs[0], moments.epsilon, scale, tail.shift)

    def write(self, builder: Builder, found: _Norm, opset: int) -> str:
        """The operator, or the pieces that are run as one."""
        x, scale = found.x.name or "", builder.constant(found.scale, "scale")
        if opset < KNOWN_SINCE:
            shift = np.zeros_like(found.scale) if found.shift is None else found.shift
            return _pieces(builder, x, found.epsilon, scale, builder.constant(shift, "shift"))
        inputs = [x, scale, *([] if found.shift is None else [builder.constant(found.shift, "shift")])]
        return builder.node("LayerNormalization", inputs, {"axis": -1, "epsilon": found.epsilon})


def _pieces(builder: Builder, x: str, epsilon: float, scale: str, shift: str) -> str:
    """The normalisation in the pieces that onnxruntime runs as one kernel."""
    last = {"axes": (-1,)}
    centred = builder.node("Sub", [x, builder.node("ReduceMean", [x], last, "/mean")], {}, "/centred")
    square = builder.node("Pow", [centred, builder.constant(np.array(2.0), "two")], {}, "/square")
    variance = builder.node("ReduceMean", [square], last, "/variance")
    root = builder.node("Add", [variance, builder.constant(np.array(epsilon), "epsilon")], {}, "/plus")
    quotient = builder.node("Div", [centred, builder.node("Sqrt", [root], {}, "/root")], {}, "/quotient")
    return builder.node("Add", [builder.node("Mul", [quotient, scale], {}, "/scale"), shift], {}, "/shift")


def _moments(analysis: Analysis, value: ir.Value | None) -> _Moments | None:
    """The moments of what a value is the variance of, with ε added; None of another value."""
    plus = made_by(value, "Add")
    for variance, epsilon in () if plus is None else (plus.inputs, reversed(plus.inputs)):
        number, second = scalar(analysis, epsilon), _mean(analysis, variance)
        square = None if second is None else _squared(analysis, second.inputs[0])
        centred = None if square is None else made_by(square.inputs[0], "Sub")
        first = None if centred is None else _mean(analysis, centred.inputs[1])
        if plus is None or number is None or second is None or square is None or centred is None:
            continue
        if first is not None and first.inputs[0] is centred.inputs[0] and first.inputs[0] is not None:
            nodes = (first, centred, square, second, plus)
            return _Moments(first.inputs[0], first.outputs[0], centred.outputs[0], number, nodes)
    return None


def _mean(analysis: Analysis, value: ir.Value | None) -> ir.Node | None:
    """The operator that makes a value as the mean along the last axis."""
    node = made_by(value, "ReduceMean")
    if node is None or node.attributes.get_int("keepdims", 1) != 1:
        return None
    axes, rank = ints(node, "axes", 1, analysis.constant), len(analysis.shape(node.inputs[0]) or ())
    return node if rank > 1 and axes in ([-1], [rank - 1]) else None


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


class _Tail:
    """What makes the result of the root, as far as it has been followed.

    Args:
        analysis: the snapshot.
        moments: of what is normalised.
        channels: on its last axis.

    Attributes:
        nodes: the operators behind the root, the last one last.
        scale: γ, where it was met.
        shift: β, where it was met.
    """

    def __init__(self, analysis: Analysis, moments: _Moments, channels: int) -> None:
        self._analysis, self._moments, self._channels = analysis, moments, channels
        self.nodes: list[ir.Node] = []
        self.scale: Array | None = None
        self.shift: Array | None = None

    def behind(self, root: ir.Node) -> _Tail | None:
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
        """The numbers of a constant by place on the last axis; None of another value."""
        array = self._analysis.constant(value)
        if array is None or array.dtype.kind != "f" or array.size not in (1, self._channels):
            return None
        if array.size > 1 and array.shape[-1] != array.size:
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

    def _affine(self, last: ir.Node) -> _Tail:
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

    def _apart(self, of_x: ir.Node, of_mean: ir.Node) -> _Tail | None:
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
