"""Join the same convolution on each part of a Split into one grouped convolution.

What
    Split along the channels, the same operators on each part, and Concat along the channels: they become one
    chain of operators with grouped convolutions.

        x ─ Split ─┬─ 3x3 ─ Relu ─┬─ Concat ─ y        x ─ 3x3 (group 2) ─ Relu ─ y
                   └─ 3x3 ─ Relu ─┘

Maths
    A grouped convolution is just that: group i reads part i of the input's channels and makes part i of the
    output's. Its weights are the parts' weights one below the other; branches of g groups each make g groups
    a branch. What works on each element by itself commutes with Concat.

When it applies
    1. The Split gives equal parts along axis 1, in the order in which Concat joins their branches.
    2. Branch for branch the operators are the same: convolutions of one form and shape with constant weights,
       and elementwise operators of one input with the same attributes.
    3. Nothing between Split and Concat is read elsewhere.

Exactness
    Exact. Weights are joined, not computed.

Cost
    Same MACs; Split, Concat and all branches but one go, and with them two copies of the activations.

References:
    Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.operators import ELEMENTWISE, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, propose
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class JoinSplitBranches(ExactRewrite):
    """Joins the same convolution on each part of a Split into one grouped convolution."""

    name: ClassVar[str] = "join_split_branches"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each Concat whose branches all come from one Split."""
        for node in analysis.nodes.values():
            if node.op_type != "Concat" or not is_standard(node) or len(node.inputs) < 2:
                continue
            found = _branches(analysis, node)
            if found is None:
                continue
            split, branches = found
            nodes = [node, *(n for branch in branches for n in branch), split]
            reason = _refusal(analysis, node, split, branches)
            layers = () if reason else zip(*branches, strict=True)
            after = sum((_joined_cost(analysis, layer, len(branches)) for layer in layers), Cost(0))
            costs = analysis.cost(nodes), after
            yield propose(self.name, analysis, nodes, analysis.name(node), reason or costs)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """One chain of operators."""
        concat = analysis.nodes[candidate.site.nodes[0]]
        found = _branches(analysis, concat)
        assert found is not None
        split, branches = found
        linears = [linear for node in branches[0] if (linear := analysis.linear(node)) is not None]
        builder = Builder(linears[0].dtype)
        assert split.inputs[0] is not None
        y = split.inputs[0].name or ""
        for layer in zip(*branches, strict=True):
            convolutions = [linear for node in layer if (linear := analysis.linear(node)) is not None]
            if not convolutions:
                y = builder.node(
                    layer[0].op_type, [y], attributes_of(layer[0]), f"/{layer[0].outputs[0].name}"
                )
                continue
            first = convolutions[0]
            form = replace(first.form, group=first.group * len(layer))
            weight = np.concatenate([linear.weight() for linear in convolutions])
            y = builder.linear(form, y, weight, _joined_bias(convolutions), name=f"/{first.name}")
        return builder.replacement({concat.outputs[0].name or "": y})


def _branches(analysis: Analysis, concat: ir.Node) -> tuple[ir.Node, list[list[ir.Node]]] | None:
    """The Split, and the operators of each branch from it to the Concat; None where it is no such pattern."""
    split: ir.Node | None = None
    branches = []
    for number, value in enumerate(concat.inputs):
        branch: list[ir.Node] = []
        while value is not None:
            node = value.producer()
            if node is None or node.graph is not concat.graph or not is_standard(node):
                return None
            if node.op_type == "Split":
                if (split is not None and node is not split) or value is not _output(node, number):
                    return None
                split = node
                break
            unary = node.op_type in ELEMENTWISE and len(node.inputs) == 1 and attributes_of(node) is not None
            if not unary and node.op_type not in ("Conv", "ConvTranspose"):
                return None
            branch.insert(0, node)
            value = node.inputs[0]
        branches.append(branch)
    if split is None or len(split.outputs) != len(branches):
        return None
    return (split, branches) if any(analysis.linear(n) is not None for n in branches[0]) else None


def _output(node: ir.Node, number: int) -> ir.Value | None:
    return node.outputs[number] if number < len(node.outputs) else None


def _refusal(analysis: Analysis, concat: ir.Node, split: ir.Node, branches: list[list[ir.Node]]) -> str:
    """Why the branches can't be one; "" when they can."""
    axes = [node.attributes.get_int("axis", 0) for node in (concat, split)]
    if axes != [1, 1]:
        return f"it joins along axis {axes[0]}, {analysis.name(split)} splits along axis {axes[1]}"
    if len({len(branch) for branch in branches}) > 1:
        return "the branches have different numbers of operators"
    between = list(split.outputs) + [n.outputs[0] for branch in branches for n in branch]
    shared = next((value for value in between if analysis.sole_consumer(value) is None), None)
    if shared is not None:
        return f"{shared.name} is read elsewhere too, or is an output of the graph"
    for layer in zip(*branches, strict=True):
        reason = _different(analysis, layer)
        if reason:
            return reason
    return ""


def _different(analysis: Analysis, layer: tuple[ir.Node, ...]) -> str:
    """How the operators at one place of the branches differ; "" when they are the same."""
    names = f"{analysis.name(layer[0])} and the operators beside it"
    linears = [analysis.linear(node) for node in layer]
    known = [linear for linear in linears if linear is not None]
    if not known:
        kinds = {(node.op_type, repr(sorted((attributes_of(node) or {}).items()))) for node in layer}
        return f"{names} are not the same" if len(kinds) > 1 else ""
    if len(known) < len(layer):
        return f"{names} are not the same"
    for linear in known:
        if linear.obstacle:
            return f"{linear.name}: {linear.obstacle}"
    forms = {(linear.form, linear.kernel, linear.in_channels, linear.out_channels) for linear in known}
    if len(forms) > 1 or len({linear.dtype for linear in known}) > 1:
        return f"{names} differ in shape or form"
    return ""


def _joined_cost(analysis: Analysis, layer: tuple[ir.Node, ...], parts: int) -> Cost:
    linear = analysis.linear(layer[0])
    if linear is None:
        return analysis.cost(layer)
    assert linear.in_channels is not None and linear.out_channels is not None
    shape = linear.input_shape
    wide = None if shape is None else (shape[0], parts * linear.in_channels, *shape[2:])
    weights = (parts * linear.out_channels, linear.in_channels // linear.group, *linear.kernel)
    form = replace(linear.form, group=linear.group * parts)
    return linear_cost(form, weights, wide, linear.itemsize, linear.bias_elements > 0)


def _joined_bias(linears: list[Linear]) -> Array | None:
    biases = [linear.bias() for linear in linears]
    if all(bias is None for bias in biases):
        return None
    return np.concatenate(
        [
            np.zeros(linear.out_channels or 0) if b is None else b
            for b, linear in zip(biases, linears, strict=True)
        ]
    )
