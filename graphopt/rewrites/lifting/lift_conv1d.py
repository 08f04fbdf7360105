"""Lift operators along a line to maps of one row, where onnxruntime has blocked kernels.

What
    A region of operators on [N, C, L], from its first convolutions to the last operators that have a twin on
    [N, C, 1, L], with one Unsqueeze for each value that enters it and one Squeeze for each that leaves it.

        x ─ Conv(k) ─ Relu ─ Conv(1) ─ Add ─ y
        └──────────────────────────────┘

        x ─ Unsqueeze(2) ─ Conv(1×k) ─ Relu ─ Conv(1×1) ─ Add ─ Squeeze(2) ─ y
            └─────────────────────────────────────────────┘

Maths
    A kernel of one row meets the one row of a map and no padding above or below it; whatever works on
    elements, channels or windows along the length does the same where there is a row in front of the length.

When it applies
    1. Its convolutions have constant float32 weights and one spatial axis; at least one of them has a kernel
       for blocks of channels on maps of two axes.
    2. Other operators are poolings, normalisations by channel, activations, arithmetic on maps and on
       constants, Concat, Split, Pad, Slice and reductions, with constant axes and pads.
    3. By the static time model the convolutions and the changes of layout around them take clearly less time.
       Where a whole region does not, its parts do between the convolutions that gain nothing.

Exactness
    Exact. Each output is computed from the same products, which are summed in another order.

Cost
    Same MACs, same weights, and no columns to be written: a depthwise convolution takes a third of its time,
    others 0.65 to 0.95. Long kernels on short lines gain nothing: the blocked kernel computes outputs at the
    borders one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.fusions.layout import Layout
from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.lifting.regions import AXES_AS_INPUT, FIRST_OPSET, entering, judged, leaving, map_bytes
from graphopt.rewrites.lifting.twins import RANK, ROW, Twin, twin, with_row
from graphopt.rewrites.patterns.common import UNKNOWN, propose
from graphopt.types import Candidate, Cost, Rejection, Replacement

CLEARLY = 0.91
"""Part of the time of its convolutions that a region may take at most, changes of layout and all: measured by
benchmarks/aim_time.py, of what was expected there and below nothing was slower, and one expected at 0.92
took 0.96 to 1.01."""


@dataclass(frozen=True)
class LiftConv1d(ExactRewrite):
    """Lifts regions of operators along a line to maps of one row."""

    name: ClassVar[str] = "lift_conv1d"
    stage: ClassVar[Stage] = Stage.LAST
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each region that is faster with one row; the reason for each one that is not."""
        if analysis.opset < FIRST_OPSET:
            return
        found = {node: twin(analysis, node) for node in analysis.nodes.values()}
        for node, reason in found.items():
            if isinstance(reason, str):
                yield propose(self.name, analysis, [node], analysis.name(node), reason)
        twins = [node for node, its in found.items() if isinstance(its, Twin)]
        yield from judged(self.name, analysis, twins, _costs)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The twins of the region's operators, in their order."""
        region = sorted((analysis.nodes[name] for name in candidate.site.nodes), key=analysis.position)
        writer = _Writer(analysis)
        for node in region:
            writer.add(node)
        return writer.replacement(region)


class _Writer:
    """Writes the twins of a region's operators."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._builder = Builder(np.dtype(np.float32))
        self._lifted: dict[ir.Value, str] = {}
        self._rows: dict[ir.Value, str] = {}

    def add(self, node: ir.Node) -> None:
        """The twin of one operator."""
        analysis, its = self._analysis, twin(self._analysis, node)
        assert isinstance(its, Twin)
        inputs = [None if value is None else value.name for value in node.inputs]
        inputs += [None] * (1 + max(its.numbers, default=0) - len(inputs))
        for place in its.maps:
            inputs[place] = self._map(node, place)
        for place in its.rows:
            inputs[place] = self._row(node.inputs[place])
        for place, array in its.numbers.items():
            inputs[place] = self._builder.constant(array, "axes")
        number = len(node.outputs) if node.op_type == "Split" else 1
        names = self._builder.outputs(
            node.op_type, inputs, number, its.attributes, anchor=analysis.name(node)
        )
        self._lifted.update(zip(node.outputs, names, strict=False))

    def _map(self, node: ir.Node, place: int) -> str:
        """The name of a map with its row."""
        value = node.inputs[place]
        assert value is not None
        if value not in self._lifted:
            name = self._analysis.name(node)
            self._lifted[value] = self._view("Unsqueeze", value.name or "", name)
        return self._lifted[value]

    def _row(self, value: ir.Value | None) -> str:
        """The name of a constant with a row."""
        array = self._analysis.constant(value)
        assert value is not None and array is not None
        if value not in self._rows:
            self._rows[value] = self._builder.constant(with_row(array), "row", keep_type=True)
        return self._rows[value]

    def _view(self, kind: str, name: str, anchor: str) -> str:
        suffix = f"/{kind.lower()}"
        if self._analysis.opset < AXES_AS_INPUT:
            return self._builder.node(kind, [name], {"axes": (ROW,)}, suffix, anchor=anchor)
        axes = self._builder.constant(np.array([ROW]), "axes")
        return self._builder.node(kind, [name, axes], {}, suffix, anchor=anchor)

    def replacement(self, region: Sequence[ir.Node]) -> Replacement:
        """All of it, without the row where a value leaves."""
        outputs = {
            value.name or "": self._view("Squeeze", self._lifted[value], self._analysis.name(node))
            for node, value in leaving(self._analysis, region)
        }
        return self._builder.replacement(outputs)


def _costs(analysis: Analysis, region: Sequence[ir.Node]) -> str | tuple[Cost, Cost]:
    """What a region costs before and after; why it stays."""
    before = analysis.cost(region)
    if before.macs is None:
        return UNKNOWN
    linears = [linear for node in region if (linear := analysis.linear(node)) is not None]
    line = sum(analysis.linear_cost(linear).seconds for linear in linears)
    rows = sum(_lifted_seconds(analysis, linear) for linear in linears)
    rows += sum(
        time_model.reorder_seconds(map_bytes(analysis, value)) for value in Layout(analysis, region).moved
    )
    borders = [*entering(analysis, region, RANK), *leaving(analysis, region)]
    rows += time_model.SECONDS_PER_CALL * len(borders)
    if rows > CLEARLY * line:
        return (
            f"with one row it is not expected to be clearly faster ({line * 1e6:.0f} → {rows * 1e6:.0f} µs)"
        )
    return before, replace(before, seconds=before.seconds - line + rows)


def _lifted_seconds(analysis: Analysis, linear: Linear) -> float:
    """Of a convolution with a row; where that has no blocked kernel, as it is."""
    assert linear.out_channels is not None and linear.in_channels is not None
    inside = linear.in_channels // linear.group
    if linear.op != "Conv" or not time_model.blocked(linear.out_channels, inside, linear.group):
        return analysis.linear_cost(linear).seconds
    form, shape = linear.form, linear.input_shape
    assert shape is not None
    lifted = replace(
        form,
        strides=(1, *form.strides),
        pads=(0, form.pads[0], 0, form.pads[1]),
        dilations=(1, *form.dilations),
    )
    weight = (linear.out_channels, inside, 1, *linear.kernel)
    return linear_cost(lifted, weight, (*shape[:2], 1, shape[2]), linear.itemsize).seconds
