"""Collapse a linear operator into all that read it, through a Split too, so that it goes away.

What
    A linear operator that only linear operators read becomes one with each of them where that is cheaper in
    total, even if no single one of them would pay. A Split of its output channels may be in between.

        x ─ 1x1 (64→64) ┬ 1x1 (64→32) ─ y        x ┬ 1x1 (64→32) ─ y
                        └ 1x1 (64→32) ─ z          └ 1x1 (64→32) ─ z

        x ─ 1x1 (64→256) ─ Split ┬ 1x1 (128→32) ─ y        x ┬ 1x1 (64→32) ─ y
                                 └ 3x3 (128→32) ─ z          └ 3x3 (64→32) ─ z

Maths
    What a Split takes are rows of the first one's weights and bias; with them it is the composition of
    `collapse`, whose conditions and border zones hold.

When it applies
    1. As in `collapse`, for every reader; a first operator behind which channels are split has one group.
    2. All together have fewer MACs than the first operator and its readers. Otherwise those readers behind a
       Split are composed that have fewer MACs so than by themselves, and the first operator stays.

Exactness
    Exact. Kernels are composed in float64 and rounded once.

Cost
    MACs fall, or it is not done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import chains
from graphopt.rewrites.patterns.chains import ChainSegment, Stage
from graphopt.rewrites.patterns.common import is_passthrough, site
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class CollapseFanout(ExactRewrite):
    """Collapses a linear operator into all that read it."""

    name: ClassVar[str] = "collapse_fanout"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each linear operator whose readers can take it in."""
        for linear in analysis.linears:
            fan = _fan(analysis, chains.stage(analysis, linear))
            if fan is None:
                continue
            parts = [_part(analysis, fan, reader) for reader in fan.readers]
            chosen = _chosen(fan, parts)
            place = site(analysis, fan.nodes)
            if isinstance(chosen, str):
                yield Rejection(self.name, place, f"{linear.name}: {chosen}")
                continue
            whole = len(chosen) == len(fan.readers) and fan.closed
            gone = fan.nodes if whole else [n for k in chosen for n in fan.readers[k].second.nodes]
            after = Cost(0)
            for k in chosen:
                part = parts[k]
                assert isinstance(part, ChainSegment)
                after += part.cost
            yield Candidate(self.name, place, analysis.cost(gone), after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The composed operators, each on the first one's input."""
        linear = anchor(analysis, candidate)
        fan = _fan(analysis, chains.stage(analysis, linear))
        assert fan is not None
        parts = [_part(analysis, fan, reader) for reader in fan.readers]
        chosen = _chosen(fan, parts)
        builder = Builder(linear.dtype)
        outputs = {}
        for k in chosen:
            part = parts[int(k)]
            assert isinstance(part, ChainSegment)
            outputs[part.stages[-1].y.name or ""] = chains.add_part(builder, part, linear.x)
        return builder.replacement(outputs)


@dataclass(frozen=True, slots=True)
class _Reader:
    """A linear operator that reads another one.

    Attributes:
        second: the operator.
        rows: the first one's output channels that it reads; None for all.
    """

    second: Stage
    rows: slice | None


@dataclass(frozen=True, slots=True)
class _Fan:
    """A linear operator and those that read it.

    Attributes:
        first: the operator.
        between: what hands its output on, or splits it.
        readers: the linear operators that read it.
        closed: whether nothing else reads it.
    """

    first: Stage
    between: tuple[ir.Node, ...]
    readers: tuple[_Reader, ...]
    closed: bool

    @property
    def nodes(self) -> list[ir.Node]:
        """All nodes, the first operator first."""
        behind = [node for reader in self.readers for node in reader.second.nodes]
        return [*self.first.nodes, *self.between, *behind]


def _fan(analysis: Analysis, first: Stage) -> _Fan | None:
    """The operator with its readers; None where one alone reads it whole, or none does."""
    between: list[ir.Node] = []
    readers: list[_Reader] = []
    closed = True
    pending: list[tuple[ir.Value, slice | None]] = [(first.y, None)]
    while pending:
        value, rows = pending.pop(0)
        closed = closed and not value.is_graph_output()
        for node in analysis.consumers(value):
            linear = analysis.linear(node)
            parts = _split(analysis, first, node) if rows is None and node.inputs[0] is value else None
            if node.graph is not first.linear.node.graph:
                closed = False
            elif (
                linear is not None
                and node.inputs[0] is value
                and not any(v is value for v in node.inputs[1:])
            ):
                readers.append(_Reader(chains.stage(analysis, linear), rows))
            elif is_passthrough(analysis, node):
                between.append(node)
                pending.append((node.outputs[0], rows))
            elif parts is not None:
                between.append(node)
                pending += [(v, part) for v, part in parts if v.uses() or v.is_graph_output()]
            else:
                closed = False
    splits = any(reader.rows is not None for reader in readers)
    if not readers or (len(readers) < 2 and not splits) or not (closed or splits):
        return None
    return _Fan(first, tuple(between), tuple(readers), closed)


def _split(analysis: Analysis, first: Stage, node: ir.Node) -> list[tuple[ir.Value, slice]] | None:
    """What a Split of the first one's channels gives; None where the node is none."""
    rank, wanted = first.linear.rank, first.linear.channel_axis
    if node.op_type != "Split" or not is_standard(node) or rank is None or wanted is None:
        return None
    if node.attributes.get_int("axis", 0) % rank != wanted:
        return None
    found, start = [], 0
    for value in node.outputs:
        shape = analysis.fixed_shape(value)
        size = shape[wanted] if shape is not None and len(shape) == rank else None
        if not size:
            return None
        found.append((value, slice(start, start + size)))
        start += size
    return found if start == first.linear.out_channels else None


def _part(analysis: Analysis, fan: _Fan, reader: _Reader) -> ChainSegment | str:
    """The first operator and a reader as one; or why not."""
    if reader.rows is not None and fan.first.linear.group != 1:
        return f"{fan.first.name} has {fan.first.linear.group} groups, and its channels are split"
    first = replace(fan.first, rows=reader.rows)
    return chains.joined_part(analysis, [first, reader.second])


def _chosen(fan: _Fan, parts: list[ChainSegment | str]) -> list[int] | str:
    """Which readers take the first operator in; or why none does."""
    found = {k: part for k, part in enumerate(parts) if isinstance(part, ChainSegment)}
    alone = {k: fan.readers[k].second.linear.macs or 0 for k in found}
    costs = {k: part.cost.macs or 0 for k, part in found.items()}
    first = fan.first.linear.macs
    if fan.closed and len(found) == len(parts) and first is not None:
        total = sum(costs.values())
        if total < first + sum(alone.values()):
            return list(found)
    single = [k for k in found if fan.readers[k].rows is not None and costs[k] < alone[k]]
    if single:
        return single
    refused = next((part for part in parts if isinstance(part, str)), "")
    return refused or "the operators would cost no fewer MACs together with it"
