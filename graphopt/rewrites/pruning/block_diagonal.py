"""Turn a convolution whose weights fall into blocks into a grouped one, or into one for each block.

What
    Where each output channel depends on a few input channels only, and those on no other outputs, a
    convolution has more groups than it says; up to one group a channel.

        x ─ 3x3 (64→64), block-diagonal in 4 ─ y        x ─ 3x3 (64→64, group 4) ─ y
        x ─ 1x1 of blocks 48→16 and 16→48 ─ y           x ─┬─ Gather ─ 1x1 (48→16) ─┬─ Concat ─ y
                                                           └─ Gather ─ 1x1 (16→48) ─┘

Maths
    The blocks are the connected parts of the graph that joins output o and input i where some tap of W[o, i]
    is not zero. Equal blocks in their order are the groups of one convolution. Equal blocks whose channels
    are mixed become groups behind a Gather of the inputs, before a Gather that puts the outputs in order.
    Other blocks become one operator each, on the channels that they read, and a Concat.

When it applies
    1. The weights are constants; zeros are exact zeros.
    2. There is more than one block (than groups, where the operator has groups).
    3. Gemm and MatMul have no groups: they are split into at most 8 parts.
    4. The MACs fall. A Gather copies its input, which the time of the candidate counts.

Exactness
    Exact. Products with zero are left out, the weights stay.

Cost
    n equal blocks: a n-th of the MACs. A dense 3x3 that is depthwise, 64 channels: a 64th.

References:
    Krizhevsky et al. 2012, section 3.5 (groups); Howard et al. 2017, "MobileNets" (depthwise).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.analysis import time_model
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra, blocks
from graphopt.numerics.kernels.blocks import Block, Mask
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.types import Array, Candidate, Choice, Cost, Rejection, Replacement

MOST_PARTS = 8
"""Operators into which one is split at most at once; each needs a Gather, and may be split again. Measured by
benchmarks.thresholds: a MatMul of 32 blocks ends in 41 operators and 0.8 of the time so, with 2 in 63 and
1.5, with 64 in 33 and 0.5."""
LARGEST_MASK = 1 << 25
"""Pairs of channels up to which blocks are looked for: derived, 32 MB of booleans."""


@dataclass(frozen=True)
class BlockDiagonal(ExactRewrite):
    """Turns a convolution whose weights fall into blocks into a grouped one, or one for each block."""

    name: ClassVar[str] = "block_diagonal"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each way of grouping an operator whose weights fall into blocks."""
        for linear in analysis.linears:
            if not _may_have_blocks(linear):
                continue
            ways = _ways(linear)
            place = site(analysis, [linear.node])
            before = analysis.linear_cost(linear)
            for number, way in enumerate(ways):
                after = way.cost(linear)
                if after.macs is None or before.macs is None or after.macs >= before.macs:
                    reason = f"{way.described} would cost {after.macs} MACs, the operator costs {before.macs}"
                    yield Rejection(self.name, place, f"{linear.name}: {reason}")
                else:
                    choice = {"way": number, "parts": len(way.parts), "gathers": way.gathers}
                    yield Candidate(self.name, place, before, after, choice=choice)

    def describe(self, choice: Choice) -> str:
        """The number of blocks."""
        return f"{choice['parts']} blocks"

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The grouped operator between Gathers, or the operators of the blocks and a Concat."""
        linear = anchor(analysis, candidate)
        return _ways(linear)[int(candidate.choice["way"])].built(linear)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way of using the blocks.

    Attributes:
        parts: the blocks; each output is in one, and each input that is read.
        grouped: whether they become the groups of one operator.
    """

    parts: tuple[Block, ...]
    grouped: bool

    @property
    def described(self) -> str:
        """What it makes, for a message."""
        return f"{len(self.parts)} groups" if self.grouped else f"{len(self.parts)} operators"

    @property
    def rows(self) -> list[int]:
        """The output channels in the order in which they are made."""
        return [i for part in self.parts for i in part.rows]

    @property
    def columns(self) -> list[int]:
        """The input channels in the order in which they are read."""
        return [i for part in self.parts for i in part.columns]

    @property
    def gathers(self) -> int:
        """How many Gathers it needs."""
        reordered = int(self.rows != list(range(len(self.rows))))
        return reordered + (blocks.moved(self.parts) - reordered if self.grouped else len(self.parts))

    def cost(self, linear: Linear) -> Cost:
        """The operators, and a copy of what each Gather and the Concat move."""
        shape, biased = linear.input_shape, linear.bias_elements > 0
        axis = _axis(linear)
        total, copied = Cost(0), 0
        for out, inside, group in self._operators():
            read = None if shape is None else (*shape[:axis], inside, *shape[axis + 1 :])
            if linear.op == "MatMul" and shape is not None:
                read = (*shape[:-1], inside)
            weights = (out, inside // group, *linear.kernel)
            cost = linear_cost(replace(linear.form, group=group), weights, read, linear.itemsize, biased)
            copied += cost.activation_bytes
            total += cost
        steps = self.gathers + int(not self.grouped)
        moved = 2 * copied * min(steps, 2)
        return total + Cost(0, seconds=time_model.seconds(0, 1, 1, 1, moved) * bool(steps))

    def _operators(self) -> Iterator[tuple[int, int, int]]:
        """Output channels, input channels and groups of each operator."""
        if self.grouped:
            yield len(self.rows), len(self.columns), len(self.parts)
        else:
            yield from ((len(part.rows), len(part.columns), 1) for part in self.parts)

    def built(self, linear: Linear) -> Replacement:
        """The operators, reading their channels and putting the outputs in order."""
        builder, axis = Builder(linear.dtype), _axis(linear)
        weight, bias = linear.weight(), linear.bias()
        if linear.group > 1:
            weight = algebra.to_dense(weight, linear.group)
        slices = [weight[np.ix_(part.rows, part.columns)] for part in self.parts]
        if self.grouped:
            x = _gathered(builder, linear.x, self.columns, axis, "/inputs")
            form = replace(linear.form, group=len(self.parts))
            y = builder.linear(form, x, np.concatenate(slices), None if bias is None else bias[self.rows])
        else:
            made = []
            for number, (part, w) in enumerate(zip(self.parts, slices, strict=True)):
                x = _gathered(builder, linear.x, part.columns, axis, f"/inputs{number}", always=True)
                b = None if bias is None else bias[list(part.rows)]
                form = replace(linear.form, group=1) if linear.kernel else Form("MatMul")
                made.append(builder.linear(form, x, w, b, rank=linear.rank, name=f"/block{number}"))
            y = builder.node("Concat", made, {"axis": axis})
        y = _gathered(builder, y, np.argsort(self.rows).tolist(), axis, "/outputs")
        return builder.replacement({linear.y: y})


def _gathered(
    builder: Builder, x: str, channels: Sequence[int], axis: int, name: str, *, always: bool = False
) -> str:
    """The channels in this order; nothing is added where that is their order."""
    if not always and list(channels) == list(range(len(channels))):
        return x
    return builder.node("Gather", [x, builder.constant(np.array(channels), "channels")], {"axis": axis}, name)


def _axis(linear: Linear) -> int:
    """The axis of the channels, of input and output."""
    if linear.op != "MatMul":
        return 1
    assert linear.rank is not None
    return linear.rank - 1


def _may_have_blocks(linear: Linear) -> bool:
    """Whether it is worth to look for blocks; one look at the first row and column tells in most cases."""
    out, inside = linear.out_channels, linear.in_channels
    if linear.obstacle or linear.macs is None or out is None or inside is None or linear.rank is None:
        return False
    if linear.op == "MatMul" and linear.rank < 2:
        return False
    per_group = (out // linear.group, inside // linear.group)
    if min(per_group) < 2 or out * inside > LARGEST_MASK:
        return False
    weight = linear.stored_weight()
    return not (np.all(_used(weight[:1])) and np.all(_used(weight[: per_group[0], :1])))


def _used(weight: Array) -> Mask:
    """Where some tap is not zero, [out, in/group]."""
    return np.asarray(np.any(weight != 0, axis=tuple(range(2, weight.ndim))))


def _ways(linear: Linear) -> list[_Way]:
    """The ways of using the blocks, cheapest first to build."""
    mask = _used(linear.stored_weight())
    if linear.group > 1:
        mask = algebra.to_dense(mask.astype(np.float32), linear.group) != 0
    found = blocks.components(mask)
    ways = []
    groups = blocks.equal_groups(mask)
    if not linear.kernel:
        groups = max((n for n in range(1, MOST_PARTS + 1) if groups % n == 0), default=1)
    if groups > linear.group:
        ways.append(_Way(_equal(mask.shape, groups), bool(linear.kernel)))
    sizes = {(len(block.rows), len(block.columns)) for block in found}
    whole = sum(len(block.rows) for block in found) == len(mask)
    read = sum(len(block.columns) for block in found) == mask.shape[1]
    if linear.kernel and whole and read and len(sizes) == 1 and len(found) > max(groups, linear.group):
        ways.append(_Way(tuple(blocks.aligned(found)), True))
    if (
        whole
        and max(groups, linear.group) < len(found) <= MOST_PARTS
        and not (linear.kernel and len(sizes) == 1)
    ):
        ways.append(_Way(tuple(found), False))
    return ways


def _equal(shape: tuple[int, ...], groups: int) -> tuple[Block, ...]:
    """Equal blocks along the diagonal."""
    height, width = (size // groups for size in shape)
    return tuple(
        Block(tuple(range(g * height, (g + 1) * height)), tuple(range(g * width, (g + 1) * width)))
        for g in range(groups)
    )
