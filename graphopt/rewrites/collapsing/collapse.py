"""Collapse linear operators in a row into one, or into fewer, where that is cheaper.

What
    Conv, ConvTranspose, Gemm and MatMul (with the Add that is its bias) that follow each other, with nothing
    non-linear in between, become one operator where that has fewer MACs. A chain of any length is cut into
    the parts that are cheapest in total; a bottleneck such as 64 → 8 → 64 stays.

        x ─ 1x1 (64→256) ─ 1x1 (256→64) ─ y        x ─ 1x1 (64→64) ─ y
        x ─ 1x1 (64→256) ─ 3x3 (256→64) ─ y        x ─ 3x3 (64→64) ─ y
        x ─ 1x3 (64→64) ─ 3x1 (64→8) ─ y           x ─ 3x3 (64→8) ─ y

Maths
    W[o, i] = Σ_m W₂[o, m] ∗ W₁[m, i], a full convolution of kernels in which W₂ is dilated by the stride s₁:
    extent e₁ + s₁·(e₂ − 1), stride s₁·s₂, pads p₁ + s₁·p₂, bias b₂ + Σ_taps W₂ b₁. The output sizes agree,
    since ⌊⌊a / s₁⌋ / s₂⌋ = ⌊a / (s₁·s₂)⌋. With a ConvTranspose on either side its kernel runs backwards; the
    four pairs and their pads are in `rewrites.patterns.composition`.

    A bias b₁ in front of zero padding is missing at the border: the second reads 0 there and not b₁. What it
    adds to the output is Σ over the taps that land of W₂ b₁, one number a channel and border zone: 3·3 zones
    for a 3x3 with pads 1, whatever the size of the map. A ConvTranspose makes such a pattern too, by phases.
    The zones are stored, copied to their positions (Gather of a constant) and added. Where the spatial
    sizes are open, the same map comes from a convolution of one channel of ones, of the size of the input.

    The best cut of a chain is found by dynamic programming: best(j) = min over i of best(i − 1) + MACs of the
    one operator of i…j. Composition is associative, so only the cuts matter, not the order.

When it applies
    1. All have constant weights of one type.
    2. The one operator has fewer MACs than all that it replaces. A value that others read, or that is an
       output of the graph, stays: what makes it is not counted as saved, and is bypassed.
    3. Where the second pads with zeros, on that axis the first has extent 1 and no padding.
    4. Next to a ConvTranspose: no stride on a Conv; the second reads nothing that a ConvTranspose crops; the
       patches of a ConvTranspose behind a k×k do not overlap.
    5. A bias that meets a border: the operator behind them is no affine one that folds into the second first.
       With open sizes: one operator pads, and what is in front of it makes its map no larger.
    Identity and Dropout in inference mode may stand in between.

Exactness
    Exact. Kernels are composed in float64 and rounded once.

Cost
    MACs fall, or it is not done. A bias at borders costs an Add over the output (sizes known), or a
    convolution with one input channel (sizes open).

References:
    Bhardwaj et al. 2022, "Collapsible Linear Blocks for Super-Efficient Super Resolution" (SESR).
    Ding et al. 2021, "Diverse Branch Block", transforms I to VI, for 1x1 → k×k.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import chains
from graphopt.rewrites.patterns.chains import ChainSegment, Stage
from graphopt.rewrites.patterns.common import site
from graphopt.types import Candidate, Rejection, Replacement

LONGEST = 16
"""Operators that one application joins at most, so that the search is linear in a chain's length; later
rounds join what is longer. Measured by benchmarks.thresholds: with 2, 4, 16 and 64 forty in a row become
one."""


@dataclass(frozen=True)
class Collapse(ExactRewrite):
    """Collapses linear operators in a row into one."""

    name: ClassVar[str] = "collapse"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each part of a chain that pays, a rejection for each pair that stays."""
        for chain in _chains(analysis):
            yield from self._match_chain(analysis, chain)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The composed operator, on the first one's input."""
        names = set(candidate.site.nodes)
        last = anchor(analysis, candidate)
        stages = [chains.stage(analysis, last)]
        while True:
            before, _ = chains.stage_before(analysis, stages[0].linear.node.inputs[0])
            if before is None or before.name not in names:
                break
            stages.insert(0, before)
        found = chains.joined_part(analysis, stages)
        assert isinstance(found, ChainSegment)
        builder = Builder(last.dtype)
        y = chains.add_part(builder, found, stages[0].linear.x)
        return builder.replacement({stages[-1].y.name or "": y})

    def _match_chain(self, analysis: Analysis, chain: _Chain) -> Iterator[Candidate | Rejection]:
        parts, reasons = _cut(analysis, chain)
        together: set[int] = set()
        for i, j, found in parts:
            together.update(range(i + 1, j + 1))
            before = analysis.cost(chain.gone(i, j))
            yield Candidate(self.name, site(analysis, chain.nodes(i, j)), before, found.cost)
        for j, reason in reasons.items():
            if j not in together:
                pair = f"{chain.stages[j - 1].name} → {chain.stages[j].name}"
                yield Rejection(self.name, site(analysis, chain.nodes(j - 1, j)), f"{pair}: {reason}")


@dataclass(frozen=True, slots=True)
class _Chain:
    """Operators of which each but the last is read by the next one.

    Attributes:
        stages: the operators; only the first one may be read by others too.
        between: for each operator the nodes in front of it that hand its input on unchanged.
        shared: whether others read the first one's output too.
    """

    stages: tuple[Stage, ...]
    between: tuple[tuple[ir.Node, ...], ...]
    shared: bool

    def nodes(self, i: int, j: int) -> list[ir.Node]:
        """The nodes of stages i to j, the last operator first."""
        last = self.stages[j].nodes
        found = [*last]
        for k in range(j, i, -1):
            found += [*self.between[k], *self.stages[k - 1].nodes]
        return found

    def gone(self, i: int, j: int) -> list[ir.Node]:
        """Those of them that nothing else needs."""
        if i > 0 or not self.shared:
            return self.nodes(i, j)
        handed_on = [*self.stages[0].nodes, *reversed(self.between[1])]
        ends = [k for k, node in enumerate(handed_on) if not chains.sole(node.outputs[0])]
        kept = set(handed_on[: max(ends, default=-1) + 1])
        return [node for node in self.nodes(i, j) if node not in kept]


def _chains(analysis: Analysis) -> Iterator[_Chain]:
    """Every longest chain, each operator in one of them, besides those that several read."""
    links: dict[ir.Node, tuple[Stage, tuple[ir.Node, ...], bool]] = {}
    for linear in analysis.linears:
        before, skipped = chains.stage_before(analysis, linear.node.inputs[0])
        if before is not None:
            values = [before.y, *(node.outputs[0] for node in skipped)]
            links[linear.node] = (before, tuple(skipped), all(chains.sole(value) for value in values))
    inner = {before.linear.node for before, _, sole in links.values() if sole}
    for linear in analysis.linears:
        if linear.node in inner or linear.node not in links:
            continue
        stages = [chains.stage(analysis, linear)]
        between: list[tuple[ir.Node, ...]] = []
        sole = True
        while sole and stages[0].linear.node in links:
            before, handed_on, sole = links[stages[0].linear.node]
            stages.insert(0, before)
            between.insert(0, handed_on)
        yield _Chain(tuple(stages), ((), *between), not sole)


def _cut(analysis: Analysis, chain: _Chain) -> tuple[list[tuple[int, int, ChainSegment]], dict[int, str]]:
    """The parts of more than one operator in the cheapest cut; and by operator why it stays apart."""
    count = len(chain.stages)
    alone = [_macs(analysis, chain, k) for k in range(count)]
    best: list[int] = [0] * (count + 1)  # of the first k operators
    chosen: list[tuple[int, ChainSegment | None]] = [(0, None)] * (count + 1)
    reasons: dict[int, str] = {}
    rows = [_row(analysis, chain, i, reasons) for i in range(count)]
    for j in range(count):
        best[j + 1], chosen[j + 1] = best[j] + alone[j], (j, None)
        for i in range(j - 1, max(j - LONGEST, -1), -1):
            found = rows[i].get(j)
            if found is None or found.cost.macs is None:
                continue
            if j == i + 1:
                saved = alone[i] + alone[j]
                reasons[j] = (
                    f"one operator would cost {found.cost.macs:,} MACs, not less than the {saved:,} saved"
                )
            if best[i] + found.cost.macs < best[j + 1]:
                best[j + 1], chosen[j + 1] = best[i] + found.cost.macs, (i, found)
    parts = []
    end = count
    while end:
        start, part = chosen[end]
        if part is not None:
            parts.append((start, end - 1, part))
        end = start
    return parts[::-1], reasons


def _macs(analysis: Analysis, chain: _Chain, k: int) -> int:
    """MACs of one operator; 0 for one that stays anyway."""
    return 0 if k == 0 and chain.shared else chain.stages[k].linear.macs or 0


def _row(analysis: Analysis, chain: _Chain, i: int, reasons: dict[int, str]) -> dict[int, ChainSegment]:
    """By its last operator every part that starts at operator i."""
    found: dict[int, ChainSegment] = {}
    outline = None
    for j in range(i + 1, min(i + LONGEST, len(chain.stages))):
        extended = chains.joined_part(analysis, chain.stages[i : j + 1], outline)
        if isinstance(extended, str):
            if j == i + 1:
                reasons[j] = extended
            break
        found[j], outline = extended, extended.outline
    return found
