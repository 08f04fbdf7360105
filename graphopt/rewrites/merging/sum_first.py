"""Add the inputs of linear operators that share their weights, instead of their outputs.

What
    Convolutions with the same weights on different values, whose results are added or subtracted, become one
    convolution of the sum of those values. Sums nest; other terms stay.

        x ─ Conv(W, b) ─ Add ─ y        x ─ Add ─ Conv(W, b + c) ─ y
        z ─ Conv(W, c) ──┘              z ──┘

Maths
    W x + b ± (W z + c) = W (x ± z) + (b ± c).

When it applies
    1. The operators have equal constant weights (of the same initializer or not), strides, pads, dilations
       and groups; biases may differ.
    2. Their outputs are read by the sum alone, once each.
    3. The values have the same size on every spatial axis (for a MatMul: the same shape but for the first
       axis), whatever a caller feeds: a size of 1 would broadcast in front of the taps otherwise.

Exactness
    Exact.

Cost
    MACs fall by those of all operators but one; the addition moves from the outputs to the inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.merging.sums import Sum, emit, sum_at, sum_roots
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class SumFirst(ExactRewrite):
    """Adds the inputs of linear operators that share their weights."""

    name: ClassVar[str] = "sum_first"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each sum in which operators share their weights."""
        for root in sum_roots(analysis):
            found = sum_at(analysis, root)
            groups = _groups(analysis, found)
            if not groups:
                continue
            linears = [linear for group in groups for _, linear in group]
            before = analysis.cost([*found.nodes, *(linear.node for linear in linears)])
            after = Cost(0)
            for group in groups:
                first = group[0][1]
                after += analysis.linear_cost(first) + _additions(analysis, first, len(group) - 1)
            left = len(found.terms) - len(linears) + len(groups) - 1
            after += analysis.cost([root] * min(left, len(found.nodes)))
            nodes = [*found.nodes, *(linear.node for linear in linears)]
            yield Candidate(self.name, site(analysis, nodes), before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The sums of the inputs, the operators on them, and the sum of those and the other terms."""
        found = sum_at(analysis, analysis.nodes[candidate.site.nodes[0]])
        groups = _groups(analysis, found)
        builder = Builder(groups[0][0][1].dtype)
        made: list[str] = []
        for group in groups:
            first = group[0][1]
            flip = 1 if any(factor > 0 for factor, _ in group) else -1
            added = [linear.x for factor, linear in group if factor == flip]
            taken = [(-1, linear.x) for factor, linear in group if factor != flip]
            x = emit(builder, added, taken, nary=found.nary)
            biases = [factor * bias for factor, linear in group if (bias := linear.bias()) is not None]
            bias = np.sum(biases, axis=0) if biases else None
            name = f"/shared{len(made) or ''}"
            made.append(
                builder.linear(first.form, x, flip * first.weight(), bias, rank=first.rank, name=name)
            )
        merged = {linear.node.outputs[0] for group in groups for _, linear in group}
        y = emit(builder, made, found.without(merged), nary=found.nary)
        return builder.replacement({found.root.outputs[0].name or "": y})


def _additions(analysis: Analysis, linear: Linear, number: int) -> Cost:
    """The cost of adding inputs of a linear operator."""
    shape = linear.input_shape
    if shape is None or None in shape:
        return Cost(0)
    elements = int(np.prod([size or 0 for size in shape]))
    return pass_cost(linear.itemsize, *[3 * elements] * number)


def _groups(analysis: Analysis, found: Sum) -> list[list[tuple[int, Linear]]]:
    """Terms whose operators share their weights and whose inputs can be added, with their factors."""
    alike: dict[tuple[object, ...], list[tuple[int, Linear]]] = {}
    for term, factor in found.factors.items():
        linear = analysis.linear(term.producer())
        if linear is None or linear.obstacle or abs(factor) != 1 or not found.owns(term):
            continue
        if linear.node.graph is not found.root.graph:
            continue
        shape = (linear.in_channels, linear.out_channels, linear.kernel, linear.rank)
        alike.setdefault((linear.form, linear.dtype, shape), []).append((factor, linear))
    groups: list[list[tuple[int, Linear]]] = []
    for same_form in alike.values():
        if len(same_form) > 1:
            groups += _sharing(analysis, same_form)
    return groups


def _sharing(analysis: Analysis, linears: Sequence[tuple[int, Linear]]) -> list[list[tuple[int, Linear]]]:
    """Those with equal weights on inputs of equal sizes."""
    equal: dict[str, list[list[tuple[int, Linear]]]] = {}
    for factor, linear in linears:
        key = hashlib.blake2b(np.ascontiguousarray(linear.weight()).tobytes()).hexdigest()
        for group in equal.setdefault(key, []):
            if _adds_up(analysis, group[0][1], linear):
                group.append((factor, linear))
                break
        else:
            equal[key].append([(factor, linear)])
    return [group for groups in equal.values() for group in groups if len(group) > 1]


def _adds_up(analysis: Analysis, first: Linear, second: Linear) -> bool:
    """Whether the inputs have the same shape, but for the batch, which broadcasts either way."""
    x, z = first.node.inputs[0], second.node.inputs[0]
    ours, theirs = analysis.fixed_shape(x), analysis.fixed_shape(z)
    if x is z or (ours is None or theirs is None or len(ours) != len(theirs)):
        return x is z
    inner = range(2 if first.kernel else 1, len(ours) - (0 if first.kernel else 1))
    return all(ours[i] == theirs[i] is not None or _same_symbol(x, z, i) for i in inner)


def _same_symbol(x: ir.Value | None, z: ir.Value | None, axis: int) -> bool:
    """Whether the model says that an axis of both has one size."""
    if x is None or z is None or x.shape is None or z.shape is None:
        return False
    ours, theirs = x.shape[axis], z.shape[axis]
    return isinstance(ours, ir.SymbolicDim) and ours.value is not None and ours == theirs
