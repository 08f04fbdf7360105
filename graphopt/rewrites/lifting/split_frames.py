"""Write three-dimensional convolutions as sums of two-dimensional ones, a tensor a frame.

What
    A region of operators on [N, C, T, H, W], from its first convolutions to the last operators that have a
    form on single frames. The maps that enter it are taken apart into T frames [N, C, H, W] once, those that
    leave it are put together.

        x ─ Conv(3×k×k) ─ Relu ─ Conv(3×k×k) ─ Add ─ y

              x₀ ─ Conv(k×k) + Conv(k×k)(x₁) ─ Relu ─ …
        x ─ ┤ x₁ ─ Conv(k×k) + Conv(k×k)(x₀) + Conv(k×k)(x₂) ─ Relu ─ …  ├ Concat ─ y
              …

Maths
    A frame of the output sums what each tap in time makes of the frame that it meets:
    yⱼ = Σₖ W[:, :, k] ∗ x[j·s + k·d − p]. Frames of the padding are zero, so that their taps are left out.
    Whatever works on elements, channels or windows within frames does the same on each of them; the mean or
    the maximum over frames is that of the frames' own.

When it applies
    1. Its convolutions have constant float32 weights and three spatial axes. Their maps have the same size in
       every run, but for the batch, and at most 32 frames.
    2. Other operators are poolings, normalisations by channel, activations, arithmetic on maps and on
       constants that are the same in all frames, and Concat along the channels.
    3. By the static time model the convolutions, the changes of layout, the calls and the frames that are
       taken apart and put together take less time. Where a whole region does not gain, its parts do
       between the convolutions that gain nothing.
    4. Approximate rewrites have made their plan: they see the convolutions.

Exactness
    Exact. Each output is computed from the same products, which are summed in another order.

Cost
    Fewer MACs, by the taps on zero frames; the same weights, each tap's stored once for all frames. No
    columns are written, and sums are computed within the blocked kernels; a residual sum goes in front of
    the taps. There are many times as many operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from graphopt.rewrites.lifting.frames import (
    RANK,
    TIME,
    Framed,
    Reads,
    forms,
    frames,
    needed,
    without_time,
)
from graphopt.rewrites.lifting.regions import (
    AXES_AS_INPUT,
    FIRST_OPSET,
    MAP_BYTES,
    entering,
    judged,
    leaving,
    map_bytes,
)
from graphopt.rewrites.patterns.common import UNKNOWN, propose
from graphopt.types import Candidate, Cost, Rejection, Replacement

CLEARLY = 0.95
"""Part of the time of its convolutions that a region may take at most, changes of layout and all: measured by
paired runs of single regions (docs/exact.md), of those expected at 0.90 to 0.96 all took 0.71 to 0.79. What
is expected to be slower was not measured. Regions of the kind are in benchmarks/aim_time.py."""


@dataclass(frozen=True)
class SplitFrames(ExactRewrite):
    """Writes regions of three-dimensional convolutions with a tensor a frame."""

    name: ClassVar[str] = "split_frames"
    stage: ClassVar[Stage] = Stage.FINAL
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each region that is faster so; the reason for each one that is not."""
        if analysis.opset < FIRST_OPSET:
            return
        found = analysis.cached(forms)
        for node, reason in found.items():
            if isinstance(reason, str):
                yield propose(self.name, analysis, [node], analysis.name(node), reason)
        fit = [node for node, its in found.items() if isinstance(its, Framed)]
        yield from judged(self.name, analysis, fit, _costs)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The forms of the region's operators on each frame, in their order."""
        region = sorted((analysis.nodes[name] for name in candidate.site.nodes), key=analysis.position)
        writer = _Writer(analysis, region)
        for node in region:
            writer.add(node)
        return writer.replacement(region)


class _Writer:
    """Writes the operators of a region on each frame."""

    def __init__(self, analysis: Analysis, region: Sequence[ir.Node]) -> None:
        self._analysis = analysis
        self._builder = Builder(np.dtype(np.float32))
        self._needed = needed(analysis, region)
        self._frames: dict[ir.Value, dict[int, str]] = {}
        self._kernels: dict[tuple[ir.Value, int], str] = {}
        self._operands: dict[ir.Value, str] = {}
        self._places: dict[int, str] = {}
        self._summed = {node: conv for node in region if (conv := _ending(analysis, node, region))}
        self._later = set(self._summed.values())

    def add(self, node: ir.Node) -> None:
        """The forms of one operator; of a convolution that a sum ends on, together with that."""
        if node in self._later:
            return
        conv = self._summed.get(node)
        if conv is not None:
            other = next(value for value in node.inputs if value is not conv.outputs[0])
            made = self._convolved(conv, self._of(node, other))
        elif self._analysis.linear(node) is not None:
            made = self._convolved(node, {})
        else:
            made = self._each(node, self._form(node))
        self._frames[node.outputs[0]] = made

    def _form(self, node: ir.Node) -> Framed:
        its = self._analysis.cached(forms)[node]
        assert isinstance(its, Framed)
        return its

    def _read(self, node: ir.Node) -> list[tuple[int, Reads]]:
        """The frames of an operator that are read, with what each of them reads."""
        return _read(self._form(node), self._needed[node.outputs[0]])

    def _of(self, node: ir.Node, value: ir.Value | None) -> dict[int, str]:
        """The names of the frames that are read of a map."""
        assert value is not None
        if value not in self._frames:
            name = self._analysis.name(node)
            self._frames[value] = {
                i: self._builder.node(
                    "Gather", [value.name, self._place(i)], {"axis": TIME}, f"/frame{i}", anchor=name
                )
                for i in sorted(self._needed[value])
            }
        return self._frames[value]

    def _place(self, frame: int) -> str:
        if frame not in self._places:
            self._places[frame] = self._builder.constant(np.array(frame), "frame")
        return self._places[frame]

    def _convolved(self, node: ir.Node, totals: Mapping[int, str]) -> dict[int, str]:
        """The sums of a convolution's taps, added to what is there."""
        its, name, x = self._form(node), self._analysis.name(node), self._of(node, node.inputs[0])
        bias = [value.name for value in node.inputs[2:] if value is not None]
        made: dict[int, str] = {}
        for place, reads in self._read(node):
            total = totals.get(place, "")
            for tap, frame in reads:
                inputs = [x[frame], self._kernel(node, tap), *(bias if tap == reads[0][0] else [])]
                suffix = f"/frame{place}.{tap}"
                y = self._builder.node("Conv", inputs, its.attributes, suffix, anchor=name)
                total = (
                    self._builder.node("Add", [total, y], {}, f"{suffix}/sum", anchor=name) if total else y
                )
            made[place] = total
        return made

    def _kernel(self, node: ir.Node, tap: int) -> str:
        """The name of the kernel of a tap in time."""
        weight, linear = node.inputs[1], self._analysis.linear(node)
        assert weight is not None and linear is not None
        if (weight, tap) not in self._kernels:
            part = linear.stored_weight()[:, :, tap]
            self._kernels[weight, tap] = self._builder.constant(part, "kernel", keep_type=True)
        return self._kernels[weight, tap]

    def _each(self, node: ir.Node, its: Framed) -> dict[int, str]:
        """An operator on each frame, and one frame of several where it joins them."""
        name, values = self._analysis.name(node), [node.inputs[place] for place in its.maps]
        given = [self._of(node, value) for value in values]
        inputs = [None if value is None else value.name for value in node.inputs]
        inputs = inputs[:1] if its.op else inputs
        for place in its.squeezed:
            inputs[place] = self._operand(node.inputs[place])
        wanted = self._read(node)
        parts: dict[int, str] = {}
        for frame in dict.fromkeys(frame for _, reads in wanted for _, frame in reads):
            for place, value, maps in zip(its.maps, values, given, strict=True):
                inputs[place] = maps[0 if frames(self._analysis, value) == 1 else frame]
            kind = its.op or node.op_type
            parts[frame] = self._builder.node(kind, inputs, its.attributes, f"/frame{frame}", anchor=name)
        made = {}
        for place, reads in wanted:
            several = [parts[frame] for _, frame in reads]
            made[place] = several[0]
            if len(several) > 1:
                made[place] = self._builder.node(its.join, several, {}, f"/frame{place}", anchor=name)
        return made

    def _operand(self, value: ir.Value | None) -> str:
        """The name of a constant without its axis of frames."""
        array = self._analysis.constant(value)
        assert value is not None and array is not None
        if value not in self._operands:
            self._operands[value] = self._builder.constant(without_time(array), "operand", keep_type=True)
        return self._operands[value]

    def replacement(self, region: Sequence[ir.Node]) -> Replacement:
        """All of it, with the frames put together where a map leaves."""
        outputs = {}
        for node, value in leaving(self._analysis, region):
            name = self._analysis.name(node)
            parts = [self._with_time(frame, name) for frame in self._frames[value].values()]
            whole = parts[0]
            if len(parts) > 1:
                whole = self._builder.node("Concat", parts, {"axis": TIME}, "/frames", anchor=name)
            outputs[value.name or ""] = whole
        return self._builder.replacement(outputs)

    def _with_time(self, frame: str, anchor: str) -> str:
        if self._analysis.opset < AXES_AS_INPUT:
            return self._builder.node("Unsqueeze", [frame], {"axes": (TIME,)}, "/unsqueeze", anchor=anchor)
        axes = self._builder.constant(np.array([TIME]), "axes")
        return self._builder.node("Unsqueeze", [frame, axes], {}, "/unsqueeze", anchor=anchor)


def _read(its: Framed, wanted: Iterable[int]) -> list[tuple[int, Reads]]:
    """The frames that are wanted of what an operator makes, with what each of them reads."""
    return [(place, its.reads[place]) for place in sorted(wanted)]


def _ending(analysis: Analysis, node: ir.Node, region: Sequence[ir.Node]) -> ir.Node | None:
    """The last convolution that a sum of two maps of a region reads, and nothing else does."""
    if node.op_type != "Add" or node.inputs[0] is node.inputs[1]:
        return None
    constant = any(analysis.constants.is_constant(value) for value in node.inputs)
    if constant or len({analysis.shape(value) for value in node.inputs}) > 1:
        return None
    makers = (value.producer() for value in node.inputs if value is not None)
    convs = [
        maker
        for maker in makers
        if maker in region
        and maker is not None
        and analysis.linear(maker) is not None
        and analysis.sole_consumer(maker.outputs[0]) is node
    ]
    return max(convs, key=analysis.position, default=None)


def _costs(analysis: Analysis, region: Sequence[ir.Node]) -> str | tuple[Cost, Cost]:
    """What a region costs before and after; why it stays."""
    before = analysis.cost(region)
    if before.macs is None:
        return UNKNOWN
    whole = single = 0.0
    macs = params = 0
    wanted = needed(analysis, region)
    for node in region:
        its, linear = analysis.cached(forms)[node], analysis.linear(node)
        assert isinstance(its, Framed)
        reads = [each for _, each in _read(its, wanted[node.outputs[0]])]
        if linear is None:
            single += _joining(analysis, node, reads)
            continue
        assert linear.macs is not None and linear.out_channels is not None
        whole += analysis.linear_cost(linear).seconds
        single += _summing(analysis, linear, reads)
        taps, used = linear.kernel[0], {tap for each in reads for tap, _ in each}
        macs += linear.macs // taps // len(its.reads) * sum(map(len, reads))
        params += (linear.params - linear.bias_elements) // taps * (taps - len(used))
    single += sum(_reordering(analysis, value) for value in Layout(analysis, region).moved)
    borders = [*entering(analysis, region, RANK), *(value for _, value in leaving(analysis, region))]
    single += sum(_moving(analysis, value) for value in borders)
    if single > CLEARLY * whole:
        return (
            "a tensor a frame is not expected to be clearly faster "
            f"({whole * 1e6:.0f} → {single * 1e6:.0f} µs)"
        )
    return before, replace(
        before,
        macs=macs,
        params=before.params - params,
        weight_bytes=before.weight_bytes - MAP_BYTES * params,
        seconds=before.seconds - whole + single,
    )


def _summing(analysis: Analysis, linear: Linear, reads: Sequence[Reads]) -> float:
    """Seconds of a convolution's taps on all frames, and of their sums."""
    assert linear.out_channels is not None and linear.in_channels is not None
    form, shape, inside = linear.form, linear.input_shape, linear.in_channels // linear.group
    assert shape is not None
    flat = replace(
        form,
        strides=form.strides[1:],
        pads=(*form.pads[1:3], *form.pads[4:6]),
        dilations=form.dilations[1:],
    )
    weight = (linear.out_channels, inside, *linear.kernel[1:])
    one = linear_cost(flat, weight, (*shape[:TIME], *shape[TIME + 1 :]), linear.itemsize).seconds
    blocked = time_model.blocked(linear.out_channels, inside, linear.group)
    pairs, frame = sum(map(len, reads)), _frame_bytes(analysis, linear.node.outputs[0])
    sums = (pairs - len(reads)) * frame / time_model.BYTES_PER_SECOND
    return pairs * one + (sums if blocked else 3 * sums)


def _joining(analysis: Analysis, node: ir.Node, reads: Sequence[Reads]) -> float:
    """Seconds that another operator takes more on single frames."""
    pairs = sum(map(len, reads))
    calls = (pairs - 1) * time_model.SECONDS_PER_CALL
    if pairs == len(reads):
        return calls
    frame = _frame_bytes(analysis, node.outputs[0])
    passes = (pairs + len(reads)) * frame / time_model.BYTES_PER_SECOND
    plain = 2 * time_model.reorder_seconds(pairs * frame)
    return passes + plain + calls + len(reads) * time_model.SECONDS_PER_CALL


def _frame_bytes(analysis: Analysis, value: ir.Value) -> int:
    return map_bytes(analysis, value) // (frames(analysis, value) or 1)


def _reordering(analysis: Analysis, value: ir.Value) -> float:
    """Seconds of a change of layout of all frames of a map."""
    calls = (frames(analysis, value) or 1) - 1
    return time_model.reorder_seconds(map_bytes(analysis, value)) + calls * time_model.SECONDS_PER_CALL


def _moving(analysis: Analysis, value: ir.Value) -> float:
    """Seconds of taking a map apart into frames, or putting it together."""
    count, bytes_ = frames(analysis, value) or 1, map_bytes(analysis, value)
    return 2 * bytes_ / time_model.BYTES_PER_SECOND + count * time_model.SECONDS_PER_CALL
