"""Add parallel linear operators on one input into one.

What
    A sum of convolutions of the same value, and of that value itself or its BatchNormalization, becomes one
    convolution. Sums nest, have any number of terms and hold differences; other terms stay.

        x ─┬─ Conv 3x3 ───────────── Add ─ Add ─ y        x ─ Conv 3x3 ─ y
           ├─ Conv 1x1 ───────────────┘     │
           └─ BatchNormalization (or x) ────┘

Maths
    W₁ x + W₂ x = (W₁ + W₂) x. Tap t of a Conv stands at offset −pad_begin + t·dilation of the input; kernels
    of different size, dilation and pads add up where their taps stand (`numerics.kernels.overlay`). x itself
    is a depthwise 1x1 of ones, an affine operator s·x + t a depthwise 1x1 of s with bias t. Groups g₁, g₂
    make a kernel of gcd(g₁, g₂) groups.

    A branch of several operators in a row is one of their composed kernel (see `collapse`), also where that
    alone would be dearer: beside a kernel that is as large anyway it costs nothing. So are the average of an
    AveragePool, a depthwise kernel of 1 / taps, and its 1x1:

        x ─┬─ Conv 3x3 ─────────────────── Add ─ Add ─ y        x ─ Conv 3x3 ─ y
           ├─ Conv 1x1 ─ depthwise 3x3 ────┘     │
           └─ Conv 1x1 ─ AveragePool 3x3 ────────┘

When it applies
    1. The operators are of one kind (Conv, ConvTranspose, Gemm or MatMul) with constant weights, read the
       same value, have the same strides and output channels, and outputs of one size whatever the input's.
    2. Their outputs are read by the sum alone; a value inside a branch may be read by others, and what makes
       it then stays and is not counted as saved.
    3. The one kernel has no more weights than those it replaces: 1x3 and 3x1 stay two (6 taps for 9) unless
       a 3x3 is there too. Of several, those that gain most are merged first. With branches of several
       operators it has fewer MACs.
    4. Operators in a row compose as in `collapse`, and biases that meet a border are kept as there. The
       windows of an AveragePool count their padding, or have none.

Exactness
    Exact. Kernels are added in float64 and rounded once.

Cost
    MACs fall by those of the operators that go away, or stay where only additions go away.

References:
    Ding et al. 2021, "RepVGG: Making VGG-style ConvNets great again"; Ding et al. 2019, "ACNet"; Ding et al.
    2021, "Diverse Branch Block"; Zhang et al. 2021, "Edge-oriented Convolution Block" (ECBSR); Hu et al.
    2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.merging.clusters import Cluster, add_operator, clusters
from graphopt.rewrites.merging.summed_branch import longer
from graphopt.rewrites.merging.sums import emit, sum_at, sum_roots
from graphopt.rewrites.patterns.common import site
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class MergeBranches(ExactRewrite):
    """Adds parallel linear operators on one input into one."""

    name: ClassVar[str] = "merge_branches"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each sum, however it is nested."""
        for root in sum_roots(analysis):
            found = sum_at(analysis, root)
            parts = clusters(analysis, found)
            paying = [cluster for cluster in parts if cluster.pays]
            if not paying:
                reason = _why_not(analysis, parts)
                if reason:
                    yield Rejection(self.name, site(analysis, [root]), f"{analysis.name(root)}: {reason}")
                continue
            branches = [branch for cluster in paying for branch in cluster.branches]
            read = [node for branch in branches for node in branch.nodes]
            gone = [node for branch in branches for node in branch.gone]
            left = len(found.without(_terms(paying))) + len(paying) - 1
            before = analysis.cost(list(dict.fromkeys([*found.nodes, *gone])))
            after = sum((cluster.cost(analysis) for cluster in paying), Cost(0))
            after += analysis.cost([root] * min(left, len(found.nodes)))
            place = site(analysis, list(dict.fromkeys([*found.nodes, *read])))
            yield Candidate(self.name, place, before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The merged operators and the sum of them and of the other terms."""
        found = sum_at(analysis, analysis.nodes[candidate.site.nodes[0]])
        paying = [cluster for cluster in clusters(analysis, found) if cluster.pays]
        assert paying and paying[0].stage is not None
        builder = Builder(paying[0].stage.linear.dtype)
        merged = [
            add_operator(builder, cluster, f"/merged{number or ''}") for number, cluster in enumerate(paying)
        ]
        y = emit(builder, merged, found.without(_terms(paying)), nary=found.nary)
        return builder.replacement({found.root.outputs[0].name or "": y})


def _terms(paying: Sequence[Cluster]) -> set[ir.Value]:
    return {term for cluster in paying for term in cluster.terms}


def _why_not(analysis: Analysis, parts: Sequence[Cluster]) -> str:
    """Why nothing is merged; "" where nothing could be."""
    branches = [branch for cluster in parts for branch in cluster.branches if branch.stage is not None]
    sources = Counter(branch.source for branch in branches)
    if any(count > 1 for count in sources.values()):
        names = [branch.steps[-1].name for branch in branches if sources[branch.source] > 1]
        return f"{', '.join(names)} do not fit one kernel of as few weights"
    for branch in branches:
        for source, farther in longer(analysis, branch):
            if sources[source] and isinstance(farther, str):
                return f"{branch.steps[0].name} and what it reads are no one operator: {farther}"
            if sources[source] and not isinstance(farther, str):
                row = " → ".join(step.name for step in farther.steps)
                return f"{row} would make what stands beside dearer by more than they cost"
    return ""
