"""What a linear operator reads through a Concat of channels, branch by branch."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.patterns import chains, composition
from graphopt.rewrites.patterns.chains import Stage
from graphopt.rewrites.patterns.common import is_passthrough


@dataclass(frozen=True, slots=True)
class ConcatBranch:
    """A part of what the operator reads.

    Attributes:
        value: the part.
        start: its first channel.
        channels: its channels.
        stage: the linear operator that makes it, where there is one.
        between: nodes behind that operator that hand the part on unchanged.
        alone: whether that operator goes away when this branch does not read it any more.
    """

    value: ir.Value
    start: int
    channels: int
    stage: Stage | None
    between: tuple[ir.Node, ...]
    alone: bool

    @property
    def window(self) -> slice:
        """Its channels in the operator's input."""
        return slice(self.start, self.start + self.channels)


@dataclass(frozen=True, slots=True)
class Joint:
    """A linear operator and the Concat that it reads.

    Attributes:
        stage: the operator.
        concats: the Concat, those that feed it, and what hands them on unchanged.
        axis: the Concat's axis attribute.
        branches: what they join.
        sole: whether nothing else reads the Concats.
        input: the operator's input.
    """

    stage: Stage
    concats: tuple[ir.Node, ...]
    axis: int
    branches: tuple[ConcatBranch, ...]
    sole: bool
    input: ir.Value


def joint(analysis: Analysis, found: Stage) -> Joint | None:
    """The operator with the Concat of channels that it reads; None where it reads none."""
    linear = found.linear
    value = linear.node.inputs[0]
    rank = len(linear.input_shape) if linear.input_shape is not None else 0
    if value is None or linear.group != 1 or linear.obstacle or rank < 2:
        return None
    wanted = rank - 1 if linear.op in composition.FLAT else 1
    concats: list[ir.Node] = []
    producer = value.producer()
    while producer is not None and is_passthrough(analysis, producer) and producer.inputs[0] is not None:
        concats.append(producer)
        producer = producer.inputs[0].producer()
    axis = _concat_axis(producer, rank)
    if producer is None or axis is None or axis % rank != wanted or producer.graph is not linear.node.graph:
        return None
    parts: list[ir.Value] = []
    _flatten(analysis, producer, wanted, rank, concats, parts)
    sole = all(chains.sole(node.outputs[0]) for node in concats)
    branches, start = [], 0
    for part in parts:
        shape = analysis.shape(part)
        channels = shape[wanted] if shape is not None and len(shape) == rank else None
        if not channels:
            return None
        before, between = chains.stage_before(analysis, part)
        if before is not None and before.linear.node.graph is not linear.node.graph:
            before = None
        alone = before is not None and all(
            chains.sole(v) for v in (before.y, *(n.outputs[0] for n in between))
        )
        branches.append(ConcatBranch(part, start, channels, before, tuple(between), sole and alone))
        start += channels
    if start != linear.in_channels:
        return None
    return Joint(found, tuple(concats), axis, tuple(branches), sole, value)


def _flatten(
    analysis: Analysis, node: ir.Node, axis: int, rank: int, concats: list[ir.Node], parts: list[ir.Value]
) -> None:
    """Collects what a Concat joins; a Concat of the same axis that feeds it alone counts as its parts."""
    concats.append(node)
    for value in node.inputs:
        if value is None:
            continue
        inner = value.producer()
        found = _concat_axis(inner, rank)
        if inner is not None and found is not None and found % rank == axis and chains.sole(value):
            _flatten(analysis, inner, axis, rank, concats, parts)
        else:
            parts.append(value)


def _concat_axis(node: ir.Node | None, rank: int) -> int | None:
    if node is None or node.op_type != "Concat" or not is_standard(node):
        return None
    axis = node.attributes.get_int("axis", 1)
    return axis if -rank <= axis < rank else None
