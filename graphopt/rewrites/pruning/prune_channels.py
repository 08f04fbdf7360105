"""Prune channels that are not read, zero, constant, or equal to others, through the whole graph at once.

What
    One analysis of the graph finds the channels that make a difference; all convolutions, and what stands
    between them, are made with those alone.

        x ─ Conv (64→64) ─ Slice [:16] ─ y                 x ─ Conv (64→16) ─ y

        x ─ Conv (64→64, 16 filters 0) ─ Relu ─ Conv       x ─ Conv (64→48) ─ Relu ─ Conv (48→64)

        x ─ Conv ─ BatchNormalization (16 γ are 0) ─ Relu ─ Conv       the same, and β goes into a bias

Maths
    Forward. A filter of zeros leaves its bias b, so that its channel is b everywhere, relu(b) behind a Relu,
    β behind a BatchNormalization with γ = 0. Two channels are equal where equal filters meet equal channels.
    Backward. An output channel of a convolution needs the input channels where its weights are not 0; of
    equal ones the first, with the sum of the weights; none of those with a constant c, which adds c·Σ W to
    the bias. Under zero padding that holds for c = 0 alone; there, constant channels are multiples of each
    other, and one serves for all of them, W' = Σ (cᵢ/c) Wᵢ.
    Together. A sum of maps keeps a channel that any of its operands or readers needs. Groups keep equal
    sizes; groups none of whose channels is needed go. Selections (Slice, Gather, Split) that are left with
    nothing to select go, and so do empty parts of a Concat, a constant part of zeros among them.

When it applies
    1. Weights are constant, and BatchNormalization is in inference mode.
    2. Inputs and outputs of the graph, what unknown operators read or make, and what a subgraph captures stay
       whole. A convolution that ignores channels of such a map reads it through a Slice or a Gather.
    Between convolutions: activations and other operators on single elements, sums and products of maps,
    poolings, InstanceNormalization, Resize by factors, Pad, Concat, Split, Flatten in front of a Gemm.

Exactness
    Exact. Sums of weights and biases are made in float64 and rounded once.

Cost
    MACs fall with the channels on either side. Linear in the graph and its weights. Each application lowers
    the MACs, or keeps them and removes an operator.

References:
    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming" (γ that became 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.patterns.channel_roles import Lin, View
from graphopt.rewrites.patterns.common import UNKNOWN, joined, propose
from graphopt.rewrites.pruning.channel_region import NarrowedRegion
from graphopt.rewrites.pruning.liveness import Liveness, witnesses
from graphopt.types import Candidate, Rejection, Replacement


@dataclass(frozen=True)
class PruneChannels(ExactRewrite):
    """Prunes channels that are not read, zero, constant, or equal to others."""

    name: ClassVar[str] = "prune_channels"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each connected region with fewer channels."""
        found = analysis.cached(Liveness)
        regions = analysis.cached(_regions)
        for nodes in (region for first, region in regions.items() if region[0] is first):
            anchor = next((node for node in nodes if analysis.linear(node) is not None), nodes[0])
            region = NarrowedRegion(analysis, found, nodes, None)
            before, after = analysis.cost(nodes), region.cost
            known = before.macs is not None and after.macs is not None
            if not known or (after.macs, region.operators) < (before.macs, len(nodes)):
                whole = [anchor, *(n for n in nodes if n is not anchor), *witnesses(found, nodes)]
                offer = (before, after) if known else UNKNOWN
                yield propose(self.name, analysis, whole, analysis.name(anchor), offer)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The region with the channels that stay."""
        found = analysis.cached(Liveness)
        anchor = analysis.nodes[candidate.site.nodes[0]]
        nodes = analysis.cached(_regions)[anchor]
        kinds = (linear.dtype for node in nodes if (linear := analysis.linear(node)) is not None)
        region = NarrowedRegion(analysis, found, nodes, next(kinds, np.dtype(np.float32)))
        return region.replacement()


def _changed(found: Liveness, node: ir.Node) -> bool:
    """Whether an operator reads or makes fewer channels than before."""
    role = found.roles.get(node)
    if role is None:
        return False
    if isinstance(role, View) and all(
        len(index) == len(found.known(node.inputs[0]).labels)  # type: ignore[arg-type]
        and (index == np.arange(len(index))).all()
        for index in role.parts.values()
    ):
        return True
    if any(value in found.keep for value in (*node.inputs, *node.outputs) if value is not None):
        return True
    if not isinstance(role, Lin) or node not in found.readings or not found.readings[node].needed.any():
        return False
    return len(found.columns(node)) < role.linear.in_channels  # type: ignore[operator]


def _regions(analysis: Analysis) -> dict[ir.Node, list[ir.Node]]:
    """By each changed operator those that share a map with fewer channels with it, in the graph's order."""
    found = analysis.cached(Liveness)
    changed = [node for node in found.order if _changed(found, node)]
    return {node: nodes for nodes in joined(changed, found.keep) for node in nodes}
