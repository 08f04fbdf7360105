"""Compute several linear operators on one input as one wide operator, and split its output.

What
    Convolutions (or Gemm, MatMul) of the same value with the same attributes become one with all their output
    channels, followed by a Split. What follows each of them alike, such as a Relu or the Add of a bias, is
    moved in front of the Split and done once.

        x ─┬─ Conv(W₁) ─ Relu ─ y₁        x ─ Conv([W₁; W₂; W₃]) ─ Relu ─ Split ─┬─ y₁
           ├─ Conv(W₂) ─ Relu ─ y₂                                               ├─ y₂
           └─ Conv(W₃) ─ Relu ─ y₃                                               └─ y₃

Maths
    [W₁ x; W₂ x] = [W₁; W₂] x, and f([a; b]) = [f(a); f(b)] for elementwise f.

When it applies
    1. Operators of one kind with constant weights and one group read the same value with the same strides,
       pads, dilations and kernel.
    2. Fewer operators are left, the Split counted: three or more, or two that the same elementwise operator
       follows. Of all siblings and of those that are followed alike, the choice that leaves fewest is taken.
    3. The moved operators are read alone, and have no operand but constants: equal ones, or for Add, Sub,
       Mul, Div and PRelu one number a channel.

Exactness
    Exact. No arithmetic changes; weights are copied.

Cost
    Same MACs; the input is read once, a Split copies the outputs. The number of linear operators falls with
    each application. Whether that is faster depends on the sizes: by default the time model decides.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import default_opset
from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.operators import ALIKE, ARITHMETIC, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.affine import per_channel
from graphopt.rewrites.patterns.common import attributes_of, site
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.types import Array, AttributeValue, Candidate, Choice, Cost, Rejection, Replacement

BY_CHANNEL = ARITHMETIC | {"PRelu"}
"""Operators whose other operand may differ from channel to channel."""
CONSTANT_FIRST = "constant first"


@dataclass(frozen=True, slots=True)
class _Sibling:
    """A linear operator and what follows it alone.

    Attributes:
        linear: the linear operator.
        followers: elementwise operators, in order.
        kinds: what followers of several siblings have to have in common.
    """

    linear: Linear
    followers: tuple[ir.Node, ...]
    kinds: tuple[Hashable, ...]

    def cut(self, number: int) -> _Sibling:
        """The same with the first followers alone."""
        return replace(self, followers=self.followers[:number], kinds=self.kinds[:number])

    @property
    def end(self) -> ir.Value:
        """The value behind the followers."""
        return (self.followers[-1] if self.followers else self.linear.node).outputs[0]

    @property
    def nodes(self) -> list[ir.Node]:
        """The operators."""
        return [self.linear.node, *self.followers]


@dataclass(frozen=True)
class MergeSiblings(ExactRewrite):
    """Computes several linear operators on one input as one wide operator."""

    name: ClassVar[str] = "merge_siblings"
    stage: ClassVar[Stage] = Stage.WEIGHTS
    """It reads none, but what shrinks one sibling alone should come first."""

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each value that several linear operators read alike."""
        alike: dict[Hashable, list[Linear]] = {}
        for linear in analysis.linears:
            key = _key(analysis, linear)
            if key is not None:
                alike.setdefault(key, []).append(linear)
        for linears in alike.values():
            if len(linears) > 1:
                siblings = _choice([_sibling(analysis, linear) for linear in linears])
                if siblings:
                    nodes = [node for sibling in siblings for node in sibling.nodes]
                    before = analysis.cost(nodes)
                    choice = {"followers": len(siblings[0].followers)}
                    after = _cost(analysis, siblings)
                    yield Candidate(self.name, site(analysis, nodes), before, after, choice=choice)

    def describe(self, choice: Choice) -> str:
        """The operators that are merged besides the siblings."""
        number = int(choice["followers"])
        return (
            f"with the {number} operators behind each" if number > 1 else "with the one behind each" * number
        )

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The wide operator, what follows it, and the Split."""
        nodes = [analysis.nodes[name] for name in candidate.site.nodes]
        number = int(candidate.choice["followers"])
        linears = [linear for node in nodes[:: number + 1] if (linear := analysis.linear(node)) is not None]
        siblings = [_sibling(analysis, linear).cut(number) for linear in linears]
        first = linears[0]
        channels = [linear.out_channels or 0 for linear in linears]
        biases = [linear.bias() for linear in linears]
        bias = None
        if any(each is not None for each in biases):
            parts = [np.zeros(n) if b is None else b for n, b in zip(channels, biases, strict=True)]
            bias = np.concatenate(parts)
        builder = Builder(first.dtype)
        weight = np.concatenate([linear.weight() for linear in linears])
        y = builder.linear(first.form, first.x, weight, bias, rank=first.rank)
        for index in range(number):
            y = _follow(analysis, builder, y, siblings, index)
        parts_made = _split(analysis, builder, y, first, channels)
        ends = [sibling.end.name or "" for sibling in siblings]
        return builder.replacement(dict(zip(ends, parts_made, strict=True)))


def _key(analysis: Analysis, linear: Linear) -> Hashable | None:
    """What siblings have in common; None for an operator that can have none."""
    source = linear.node.inputs[0]
    if linear.obstacle or linear.group != 1 or not linear.out_channels or linear.channel_axis is None:
        return None
    if source is None or analysis.constants.is_constant(source):
        return None
    return source, linear.node.graph, linear.form, linear.kernel, linear.dtype


def _sibling(analysis: Analysis, linear: Linear) -> _Sibling:
    """The operator with all followers that could be moved over a Split."""
    followers: list[ir.Node] = []
    kinds: list[Hashable] = []
    value = linear.node.outputs[0]
    while (node := analysis.sole_consumer(value)) is not None and node.graph is linear.node.graph:
        kind = _kind(analysis, linear, node, value)
        if kind is None:
            break
        followers.append(node)
        kinds.append(kind)
        value = node.outputs[0]
    return _Sibling(linear, tuple(followers), tuple(kinds))


def _kind(analysis: Analysis, linear: Linear, node: ir.Node, value: ir.Value) -> Hashable | None:
    """What followers of all siblings have to have in common; None where it can't be moved."""
    attributes = attributes_of(node)
    if not is_standard(node) or attributes is None or len(node.outputs) != 1:
        return None
    own = node.op_type, tuple(sorted(attributes.items()))
    if node.op_type in BY_CHANNEL and sum(each is value for each in node.inputs) == 1:
        if _operand(analysis, linear, node, value) is None:
            return None
        return (*own, node.inputs[0] is not value and CONSTANT_FIRST)
    if node.op_type not in ALIKE or node.inputs[0] is not value:
        return None
    others = [None if each is None else analysis.constant(each) for each in node.inputs[1:]]
    if any(each is not None and found is None for each, found in zip(node.inputs[1:], others, strict=True)):
        return None
    return (*own, tuple(None if found is None else found.tobytes() for found in others))


def _operand(analysis: Analysis, linear: Linear, node: ir.Node, value: ir.Value) -> Array | None:
    """The constant operand of a follower as one number a channel; None where it is none."""
    if node.op_type == "PRelu" and node.inputs[0] is not value:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    constant = analysis.constant(other)
    if constant is None or linear.rank is None or constant.ndim > linear.rank or not linear.out_channels:
        return None
    assert linear.channel_axis is not None
    aligned = constant.reshape((1,) * (linear.rank - constant.ndim) + constant.shape)
    return per_channel(aligned.astype(np.float64), linear.channel_axis, linear.out_channels)


def _choice(siblings: Sequence[_Sibling]) -> list[_Sibling]:
    """Those that are merged, cut to their common followers; empty where no operator would go away."""
    by_first: dict[Hashable, list[_Sibling]] = {}
    for sibling in siblings:
        by_first.setdefault(sibling.kinds[:1], []).append(sibling)
    options = [list(siblings), *by_first.values()]
    cut = [_common(option) for option in options if len(option) > 1]
    best = max(cut, key=_saved, default=[])
    return best if best and _saved(best) > 0 else []


def _common(siblings: Sequence[_Sibling]) -> list[_Sibling]:
    """The siblings with the followers that all of them have in common."""
    number = 0
    for kinds in zip(*(sibling.kinds for sibling in siblings), strict=False):
        if len(set(kinds)) > 1:
            break
        number += 1
    return [sibling.cut(number) for sibling in siblings]


def _saved(siblings: Sequence[_Sibling]) -> int:
    """How many operators fewer there are."""
    followers = len(siblings[0].followers)
    return (len(siblings) - 1) * (1 + followers) - 1


def _follow(analysis: Analysis, builder: Builder, y: str, siblings: Sequence[_Sibling], index: int) -> str:
    """Adds the follower of all siblings on the wide output."""
    first = siblings[0]
    node = first.followers[index]
    name = f"/{node.op_type}{index}"
    if node.op_type not in BY_CHANNEL:
        others = [None if each is None else each.name for each in node.inputs[1:]]
        return builder.node(node.op_type, [y, *others], attributes_of(node), name)
    parts = []
    for sibling in siblings:
        value = (sibling.linear.node, *sibling.followers)[index].outputs[0]
        part = _operand(analysis, sibling.linear, sibling.followers[index], value)
        assert part is not None
        parts.append(part)
    rank, axis = first.linear.rank or 0, first.linear.channel_axis or 0
    wide = np.concatenate(parts).reshape(-1, *(1,) * (rank - axis - 1))
    constant = builder.constant(wide, "operand")
    value = (first.linear.node, *first.followers)[index].outputs[0]
    operands = [y, constant] if node.inputs[0] is value else [constant, y]
    return builder.node(node.op_type, operands, attributes_of(node), name)


def _split(
    analysis: Analysis, builder: Builder, y: str, linear: Linear, sizes: Sequence[int]
) -> tuple[str, ...]:
    """Adds a Split along the channels."""
    assert linear.channel_axis is not None
    if default_opset(analysis.model) < 13:
        attributes: dict[str, AttributeValue] = {"axis": linear.channel_axis, "split": tuple(sizes)}
        return builder.outputs("Split", [y], len(sizes), attributes, "/split")
    lengths = builder.constant(np.array(sizes, np.int64), "sizes")
    return builder.outputs("Split", [y, lengths], len(sizes), {"axis": linear.channel_axis}, "/split")


def _cost(analysis: Analysis, siblings: Sequence[_Sibling]) -> Cost:
    """The cost of the wide operator, of what follows it, and of the Split."""
    first = siblings[0].linear
    wide = sum(sibling.linear.out_channels or 0 for sibling in siblings)
    shape = (wide, first.in_channels or 1, *first.kernel)
    bias = any(sibling.linear.bias_elements for sibling in siblings)
    cost = linear_cost(first.form, shape, first.input_shape, first.itemsize, bias)
    outputs = [sibling.linear.output_shape for sibling in siblings]
    elements = sum(math.prod(n or 0 for n in shape) for shape in outputs if shape is not None)
    for index in range(len(siblings[0].followers)):
        params = analysis.cost([sibling.followers[index] for sibling in siblings]).params
        cost += pass_cost(first.itemsize, elements, elements, params=params)
    return cost + pass_cost(first.itemsize, elements, elements)
