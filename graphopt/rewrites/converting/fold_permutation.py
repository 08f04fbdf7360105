"""Fold a permutation of channels into the weights of the convolutions around it.

What
    A Gather of channels, or the Reshape ─ Transpose ─ Reshape of a channel shuffle, goes into the
    convolutions that read it, else into the one that makes its input. Activations, poolings and depthwise
    convolutions may stand in between. A shuffle may be written with the pixels in one axis, or with the
    channels last, between two more Transposes.

        x ─ Gather(π) ─ Conv(W) ─ y                        x ─ Conv(W') ─ y

        x ─ Conv(V) ─ Relu ─ Gather(π) ─ y                 x ─ Conv(V') ─ Relu ─ y

Maths
    (W ∘ Gather) x = Σ_j W[:, j] x[π(j)], so W'[:, i] = Σ of W[:, j] over j with π(j) = i. In front,
    V'[j] = V[π(j)], and the bias alike. An operator on each channel by itself commutes with the permutation;
    a depthwise convolution does when its filters are permuted too. A shuffle of g times n channels is
    π(j) = (j mod g)·n + ⌊j / g⌋.

When it applies
    1. The indices are constant and select on the channel axis; a shuffle permutes channels only, on a map of
       known spatial size.
    2. Behind: all readers at the end of the chain are convolutions with constant weights, without groups, or
       with groups that the permutation does not leave. The map has no more channels than are gathered.
    3. In front: the convolution is alike, nothing else reads it, and no channel is gathered twice.
    4. No value in between is an output of the graph or read elsewhere.

Exactness
    Exact; weights only move (and add up where a channel is gathered twice).

Cost
    Same MACs or fewer, and the operators of the permutation less.

References:
    Zhang et al. 2018, "ShuffleNet", section 3.1 (channel shuffle).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.operators import POOLS, UNARY, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, is_passthrough, site
from graphopt.types import Array, Candidate, Rejection, Replacement

Index: TypeAlias = npt.NDArray[np.int64]
MOVES = frozenset({"Reshape", "Transpose"})
"""The operators that a shuffle of channels is made of."""
LONGEST = 5
"""Of them that are followed at most. Derived: a Reshape, a Transpose and a Reshape, between the two
Transposes of one that is written on the last axis."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A permutation and the operators that it moves through.

    Attributes:
        source: what is permuted.
        index: the source's channel for each channel behind it.
        nodes: its operators, in order.
        chain: the operators between it and the convolutions that take it, in the graph's order.
        takers: those convolutions.
        behind: whether they read it.
    """

    source: ir.Value
    index: Index
    nodes: tuple[ir.Node, ...]
    chain: tuple[ir.Node, ...] = ()
    takers: tuple[Linear, ...] = ()
    behind: bool = True

    @property
    def output(self) -> ir.Value:
        """The permuted value."""
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class FoldPermutation(ExactRewrite):
    """Folds a permutation of channels into the weights around it."""

    name: ClassVar[str] = "fold_permutation"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each permutation of channels."""
        for node in analysis.nodes.values():
            bare = _permutation(analysis, node)
            if bare is None:
                continue
            place = _behind(analysis, bare) or _in_front(analysis, bare)
            if place is None:
                reason = f"{analysis.name(node)}: no convolution around it can take the permutation"
                yield Rejection(self.name, site(analysis, bare.nodes), reason)
                continue
            takers = [linear.node for linear in place.takers]
            nodes = [takers[0], *place.nodes, *place.chain, *takers[1:]]
            after = analysis.cost(place.chain)
            for linear in place.takers:
                made, read = linear.out_channels or 1, linear.in_channels or 1
                if place.behind:
                    read = _channels(analysis, place.source)
                else:
                    made = len(place.index)
                shape = (made, read // linear.group, *linear.kernel)
                bias = linear.bias_elements > 0
                after += linear_cost(linear.form, shape, linear.input_shape, linear.itemsize, bias)
            yield Candidate(self.name, site(analysis, nodes), analysis.cost(nodes), after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolutions and what stands between, without the permutation."""
        bare = _permutation(analysis, analysis.nodes[candidate.site.nodes[1]])
        assert bare is not None
        place = _behind(analysis, bare) or _in_front(analysis, bare)
        assert place is not None
        builder = Builder(place.takers[0].dtype)
        if place.behind:
            name = _chain(analysis, builder, place, place.source.name or "", _inverse(place.index))
            outputs = {}
            for linear in place.takers:
                weight = _gathered(linear, place.index, _channels(analysis, place.source))
                outputs[linear.y] = builder.linear(linear.form, name, weight, linear.bias(), rank=linear.rank)
            return builder.replacement(outputs)
        (linear,) = place.takers
        bias = linear.bias()
        weight, bias = linear.weight()[place.index], None if bias is None else bias[place.index]
        name = builder.linear(linear.form, linear.x, weight, bias, rank=linear.rank)
        return builder.replacement(
            {place.output.name or "": _chain(analysis, builder, place, name, place.index)}
        )


def _channels(analysis: Analysis, value: ir.Value) -> int:
    shape = analysis.fixed_shape(value)
    assert shape is not None and shape[1] is not None
    return shape[1]


# ---------------------------------------------------------------- the permutation


def _permutation(analysis: Analysis, node: ir.Node) -> _Place | None:
    """The permutation that begins with this operator."""
    if not is_standard(node) or not node.inputs or node.inputs[0] is None:
        return None
    shape = analysis.fixed_shape(node.inputs[0])
    if shape is None or len(shape) < 2 or shape[1] is None:
        return None
    if node.op_type == "Gather":
        index = analysis.constant(node.inputs[1])
        axis = node.attributes.get("axis")
        if index is None or index.ndim != 1 or axis is None or axis.as_int() % len(shape) != 1:
            return None
        return _Place(node.inputs[0], np.asarray(index, np.int64) % shape[1], (node,))
    return _shuffle(analysis, node) if node.op_type in MOVES else None


def _shuffle(analysis: Analysis, first: ir.Node) -> _Place | None:
    """Reshapes and Transposes from this one on that keep the shape and move channels alone."""
    x = first.inputs[0]
    shape = analysis.fixed_shape(x)
    nodes: list[ir.Node] = []
    node: ir.Node | None = first
    while node is not None and node.graph is first.graph and len(nodes) < LONGEST:
        if node.op_type not in MOVES or not is_standard(node):
            return None
        nodes.append(node)
        after = analysis.fixed_shape(node.outputs[0])
        if x is None or shape is None or after is None or None in shape[1:]:
            return None
        if after[1:] == shape[1:] and {each.op_type for each in nodes} == MOVES:
            index = _moved(analysis, nodes, [size or 0 for size in shape[1:]])
            if index is not None:
                return _Place(x, index, tuple(nodes))
        node = analysis.sole_consumer(node.outputs[0])
    return None


def _moved(analysis: Analysis, nodes: Sequence[ir.Node], sizes: Sequence[int]) -> Index | None:
    """The channel of a sample of these sizes for each behind the operators; None where more is moved."""
    places = np.arange(math.prod(sizes)).reshape(sizes)
    for node in nodes:
        after, order = analysis.fixed_shape(node.outputs[0]), node.attributes.get("perm")
        if node.op_type == "Transpose":
            perm = list(range(places.ndim + 1))[::-1] if order is None else list(order.as_ints())
            if perm[0] != 0:
                return None
            places = places.transpose([axis - 1 for axis in perm[1:]])
        else:
            inside = [size or 0 for size in (after or ())[1:]]
            if math.prod(inside) != places.size:
                return None
            places = places.reshape(inside)
    pixels = max(1, math.prod(sizes[1:]))
    rows = places.reshape(sizes[0], pixels)
    index: Index = rows[:, 0] // pixels
    return index if np.array_equal(rows, index[:, None] * pixels + np.arange(pixels)) else None


def _inverse(index: Index) -> Index:
    """For each channel of the source, where it comes behind the permutation (if every one does once)."""
    return np.argsort(index, kind="stable")


def _is_bijection(index: Index, channels: int) -> bool:
    return len(index) == channels and len(np.unique(index)) == channels


# ---------------------------------------------------------------- where it can go


def _commutes(analysis: Analysis, node: ir.Node, bijective: bool) -> bool:
    """Whether an operator on its first input works on each channel by itself."""
    if node.op_type in UNARY or is_passthrough(analysis, node) or node.op_type in POOLS:
        single = not any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
        return is_standard(node) and single and attributes_of(node) is not None
    linear = analysis.linear(node)
    if linear is None or linear.obstacle or linear.op != "Conv" or not bijective:
        return False
    return linear.group == linear.in_channels == linear.out_channels and linear.group > 1


def _behind(analysis: Analysis, place: _Place) -> _Place | None:
    """The permutation with the convolutions behind it that take it."""
    index, channels = place.index, _channels(analysis, place.source)
    if channels > len(index):
        return None
    chain: list[ir.Node] = []
    value = place.output
    while True:
        readers = analysis.consumers(value)
        if (
            not readers
            or value.is_graph_output()
            or any(r.graph is not place.nodes[0].graph for r in readers)
        ):
            return None
        views = [analysis.linear(reader) for reader in readers]
        takers = [v for v in views if v is not None and _takes(v, value, index, channels)]
        if len(takers) == len(readers):
            break
        (node, *others) = readers
        if (
            others
            or not _commutes(analysis, node, _is_bijection(index, channels))
            or node.inputs[0] is not value
        ):
            return None
        chain.append(node)
        value = node.outputs[0]
    if len({taker.dtype for taker in takers}) > 1:
        return None
    return _Place(place.source, index, place.nodes, tuple(chain), tuple(takers))


def _takes(linear: Linear, value: ir.Value, index: Index, channels: int) -> bool:
    """Whether a convolution's weights can take the permutation of its input."""
    inputs = linear.node.inputs
    if linear.obstacle or linear.op not in ("Conv", "ConvTranspose", "Gemm") or inputs[0] is not value:
        return False
    if linear.in_channels != len(index) or any(other is value for other in inputs[1:]):
        return False
    return linear.group == 1 or (_is_bijection(index, channels) and _within(index, linear.group))


def _within(index: Index, group: int) -> bool:
    """Whether a permutation leaves every channel in its group."""
    per_group = len(index) // group
    return bool((index // per_group == np.arange(len(index)) // per_group).all())


def _in_front(analysis: Analysis, place: _Place) -> _Place | None:
    """The permutation with the convolution in front of it that takes it."""
    index, channels = place.index, _channels(analysis, place.source)
    if len(np.unique(index)) != len(index):
        return None
    chain: list[ir.Node] = []
    value: ir.Value | None = place.source
    while value is not None and analysis.sole_consumer(value) is not None:
        node = value.producer()
        if node is None or node.graph is not place.nodes[0].graph:
            return None
        linear = analysis.linear(node)
        bijective = _is_bijection(index, channels)
        stays = linear is not None and (linear.group == 1 or (bijective and _within(index, linear.group)))
        if linear is not None and stays and not linear.obstacle and linear.op != "MatMul":
            return _Place(place.source, index, place.nodes, tuple(reversed(chain)), (linear,), False)
        if not _commutes(analysis, node, bijective):
            return None
        chain.append(node)
        value = node.inputs[0]
    return None


# ---------------------------------------------------------------- the new operators


def _chain(analysis: Analysis, builder: Builder, place: _Place, name: str, order: Index) -> str:
    """The operators in between, on permuted channels; filters of depthwise ones in the given order."""
    for node in place.chain:
        linear = analysis.linear(node)
        if linear is None:
            inputs = [name, *(None if v is None else v.name for v in node.inputs[1:])]
            name = builder.node(node.op_type, inputs, attributes_of(node) or {}, f"/{node.op_type}")
        else:
            bias = linear.bias()
            moved = None if bias is None else bias[order]
            name = builder.linear(linear.form, name, linear.weight()[order], moved, name=f"/{node.op_type}")
    return name


def _gathered(linear: Linear, index: Index, channels: int) -> Array:
    """The weights on the source's channels."""
    weight = linear.weight()
    if linear.group == 1:
        result = np.zeros((weight.shape[0], channels, *weight.shape[2:]))
        for channel, source in enumerate(index.tolist()):
            result[:, source] += weight[:, channel]
        return result
    inverse, per_group = _inverse(index), weight.shape[1]
    rows = weight.shape[0] // linear.group
    parts = [
        weight[g * rows : (g + 1) * rows][:, inverse[g * per_group : (g + 1) * per_group] - g * per_group]
        for g in range(linear.group)
    ]
    return np.concatenate(parts)
