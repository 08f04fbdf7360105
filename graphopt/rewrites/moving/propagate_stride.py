"""Compute only the positions that are read: push strides and crops up to the convolutions above.

What
    A map that is read at every second position only (by 1x1 convolutions of stride 2, a strided Slice, a pool
    with kernel 1), or apart from its border only (by a Slice or a negative Pad), is computed only there.

        x ─ 3x3 ─ Relu ─ 1x1 stride 2 ─ y                   x ─ 3x3 stride 2 ─ Relu ─ 1x1 ─ y

        x ┬ 3x3 ─ Add ─ Relu ┬ 1x1 stride 2 ─ y             x ┬ 3x3 stride 2 ─ Add ─ Relu ┬ 1x1 ─ y
          └───────┘          └ 1x1 stride 2 ─ z               └ Slice [::2] ───┘          └ 1x1 ─ z

        x ─ 3x3 pads 1 ─ Slice [2:-2] ─ y                   x ─ Slice [1:-1] ─ 3x3 ─ y

Maths
    Readers need evenly spaced positions: start + step·i. Those of several readers lie in the smallest such
    set that holds them all, step = gcd of the steps and of the differences of the starts. From the outputs
    up, activations, sums, Concat and 1x1 convolutions hand on what they need themselves; a convolution of
    stride S and dilation D with more than one tap needs the step gcd(S·step, D), so that a k×k without
    dilation needs everything: there the stride stays. Wherever a convolution makes a map of which only part
    is read, it makes that part: outputs o + s·j of stride S and pads P are those of stride s·S and pads
    P − o·S. On inputs of which every g-th is left, stride and dilation are divided by g.
    All of the connected region changes at once. An operand of a sum that is whole (the identity shortcut of
    a residual block) is cut by a Slice; a constant one is cut in the file.

When it applies
    1. No reader needs all positions, and the map is no output of the graph. So one reader of stride 2 beside
       one of stride 1 changes nothing.
    2. A convolution with fewer outputs is won, or an operator less at the same MACs.
    3. Where sizes are open, no run has a map of which a moved crop leaves nothing, and no pooling one that is
       smaller than its window.
    4. Operands that are broadcast have known sizes of 1; two operands of unknown size are as large as each
       other because they come from the same value.
    Weights need not be constant, sizes need not be known; odd sizes are exact (⌊⌊a/s⌋/t⌋ = ⌊a/(s·t)⌋).

Exactness
    Exact; the values that are computed do not change at all.

Cost
    MACs of each convolution fall with its outputs. A Slice for each whole operand is new. Each application
    lowers the MACs, or keeps them and has fewer operators, and nothing raises either again.

References:
    He et al. 2015, "Deep Residual Learning for Image Recognition" (blocks with the stride on the first 1x1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.attributes import TO_THE_END
from graphopt.analysis.linear import linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.lattice import EVERYTHING, Cut, Lattice, Window, cut
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.moving.positions import Positions
from graphopt.rewrites.patterns.common import UNKNOWN, attributes_of, joined, propose
from graphopt.rewrites.patterns.position_roles import Grid, Pointwise, Sample, Windowed
from graphopt.rewrites.patterns.slicing import add_slice
from graphopt.types import Candidate, Cost, Rejection, Replacement

ELEMENT_BYTES = 4
"""Bytes of an element of a map, for the time model: derived, of float32."""


@dataclass(frozen=True)
class PropagateStride(ExactRewrite):
    """Pushes strides and crops up to the convolutions above."""

    name: ClassVar[str] = "propagate_stride"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each connected region in which fewer positions are computed."""
        found = analysis.cached(Positions)
        for nodes in _regions(found):
            anchor = next((node for node in nodes if analysis.linear(node) is not None), nodes[0])
            region = _SampledRegion(analysis, found, nodes)
            before, after = analysis.cost(nodes), region.cost
            known = before.macs is not None and after.macs is not None
            if not known or (after.macs, region.operators) < (before.macs, len(nodes)):
                whole = [anchor, *(n for n in nodes if n is not anchor)]
                offer = (before, after) if known else UNKNOWN
                yield propose(self.name, analysis, whole, analysis.name(anchor), offer)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The region with its strides moved."""
        found = analysis.cached(Positions)
        wanted = {analysis.nodes[name] for name in candidate.site.nodes}
        region = _SampledRegion(analysis, found, [node for node in found.order if node in wanted])
        return region.builder.replacement(region.outputs)


def _regions(found: Positions) -> list[list[ir.Node]]:
    """The changed operators, those that share a map of which less is made together, in the graph's order."""
    changed = [node for node in found.order if found.is_changed(node)]
    return joined(changed, found.made)


class _SampledRegion:
    """What takes a region's place.

    Args:
        analysis: the snapshot.
        found: its positions.
        nodes: the region's operators, in the graph's order.

    Attributes:
        builder: holds the new operators.
        outputs: names of the region's values that are whole → local names.
        cost: of the new operators.
    """

    def __init__(self, analysis: Analysis, found: Positions, nodes: Sequence[ir.Node]) -> None:
        self._analysis = analysis
        self._found = found
        self._names: dict[ir.Value, str] = {}
        self._cuts: dict[tuple[str, tuple[Cut, ...]], str] = {}
        self.builder = Builder(np.dtype(np.float32))
        self.cost = Cost(0)
        for node in nodes:
            self._add(node)
        self.outputs = {
            output.name or "": self._names[output]
            for node in nodes
            for output in node.outputs[:1]
            if output not in found.made
        }

    @property
    def operators(self) -> int:
        """Number of the new operators."""
        return len(self.builder.replacement({}).nodes)

    def _add(self, node: ir.Node) -> None:
        role = self._found.roles[node]
        if isinstance(role, Windowed):
            name = self._window(node, role)
        elif isinstance(role, Pointwise):
            name = self._pointwise(node)
        else:
            name = self._sample(node, role)
        self._names[node.outputs[0]] = name

    def _name(self, value: ir.Value | None) -> str | None:
        return None if value is None else self._names.get(value, value.name or "")

    # ------------------------------------------------------------ the three kinds

    def _window(self, node: ir.Node, role: Windowed) -> str:
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        given, made, sizes = self._found.grid(x), self._found.grid(y), self._found.sizes(x)
        axes = zip(role.windows, given, made, sizes, strict=True)
        windows = [window.on(there, wanted, size) for window, there, wanted, size in axes]
        crops = tuple(Cut(max(-w.begin, 0), min(w.end, 0) or None) for w in windows)
        source = self._cut(self._name(x) or "", crops, x, given)
        windows = [replace(w, begin=max(w.begin, 0), end=max(w.end, 0)) for w in windows]
        linear = self._analysis.linear(node)
        if linear is None and all(w == Window(1) for w in windows):
            return source
        strides, dilations = tuple(w.stride for w in windows), tuple(w.dilation for w in windows)
        pads = (*(w.begin for w in windows), *(w.end for w in windows))
        if linear is not None:
            form = replace(linear.form, strides=strides, dilations=dilations, pads=pads)
            assert linear.out_channels is not None and linear.in_channels is not None
            shape = (linear.out_channels, linear.in_channels // linear.group, *linear.kernel)
            assumed = self._analysis.shape(x)
            sizes_now = None if assumed is None else self._counted(assumed, given, crops)
            after = linear_cost(form, shape, sizes_now, linear.itemsize)
            stored = linear.params
            self.cost += replace(after, params=stored, weight_bytes=stored * linear.itemsize)
            return self.builder.like(linear, form, source)
        attributes = dict(attributes_of(node) or {})
        attributes.pop("auto_pad", None)
        attributes.update(strides=strides, pads=pads)
        if "dilations" in attributes or any(d != 1 for d in dilations):
            attributes["dilations"] = dilations
        self._count(y, made)
        return self.builder.node(node.op_type, [source], attributes, f"/{node.op_type}")

    def _pointwise(self, node: ir.Node) -> str:
        wanted = dict(self._found.followed(node))
        inputs = [
            self._operand(value, wanted[value]) if value in wanted else self._name(value)
            for value in node.inputs
        ]
        self._count(node.outputs[0], self._found.grid(node.outputs[0]))
        return self.builder.node(node.op_type, inputs, attributes_of(node) or {}, f"/{node.op_type}")

    def _operand(self, value: ir.Value | None, wanted: Grid) -> str | None:
        """An input with the wanted positions alone."""
        assert value is not None
        given = self._found.grid(value)
        constant = self._analysis.constant(value)
        if constant is not None and value not in self._found.made:
            return self._cut_constant(constant, wanted)
        cuts = tuple(cut(*axis) for axis in zip(given, wanted, self._found.sizes(value), strict=True))
        return self._cut(self._name(value) or "", cuts, value, given)

    def _cut_constant(self, constant: npt.NDArray[np.generic], wanted: Grid) -> str:
        axes: list[slice] = []
        for lattice, size in zip(reversed(wanted), reversed(constant.shape), strict=False):
            kept = EVERYTHING if size == 1 else lattice
            axes.insert(0, slice(kept.start, size - kept.tail, kept.step))
        whole = [slice(None)] * (constant.ndim - len(axes))
        array = constant[(*whole, *axes)]
        self.cost += Cost(0, array.size, array.nbytes)
        return self.builder.constant(array, "map", keep_type=True)

    def _sample(self, node: ir.Node, role: Sample) -> str:
        x = node.inputs[0]
        assert x is not None
        given, wanted, sizes = self._found.grid(x), self._found.sampled(node), self._found.sizes(x)
        cuts = tuple(cut(*axis) for axis in zip(given, wanted, sizes, strict=True))
        return self._cut(self._name(x) or "", cuts, x, given, role.others)

    # ------------------------------------------------------------ cutting

    def _cut(
        self,
        name: str,
        cuts: tuple[Cut, ...],
        value: ir.Value,
        given: Grid,
        others: Mapping[int, tuple[int, int, int]] | None = None,
    ) -> str:
        """A value with what the cuts leave of it; itself where they leave all."""
        ranges = {axis: list(entry) for axis, entry in (others or {}).items()}
        for axis, each in enumerate(cuts, start=2):
            if not each.trivial:
                ranges[axis] = [each.start, TO_THE_END if each.end is None else each.end, each.step]
        if not ranges:
            return name
        if others or (name, cuts) not in self._cuts:
            self._cuts[name, cuts] = self._slice(name, ranges, value, given, cuts)
        return self._cuts[name, cuts]

    def _slice(
        self, name: str, ranges: dict[int, list[int]], value: ir.Value, given: Grid, cuts: Sequence[Cut]
    ) -> str:
        shape = self._analysis.shape(value)
        left = None if shape is None else self._counted(shape, given, cuts)
        self._spend(math.prod(n or 0 for n in left or ()))
        return add_slice(self.builder, self._analysis, name, ranges, 2 + len(cuts))

    # ------------------------------------------------------------ counting

    @staticmethod
    def _counted(
        shape: Sequence[int | None], given: Grid, cuts: Sequence[Cut] = ()
    ) -> tuple[int | None, ...]:
        """The shape that is left of an assumed one."""
        sizes = [None if n is None else g.count(n) for n, g in zip(shape[2:], given, strict=True)]
        for axis, each in enumerate(cuts):
            size = sizes[axis]
            if size is not None:
                sizes[axis] = len(range(*slice(each.start, each.end, each.step).indices(size)))
        return (*shape[:2], *sizes)

    def _count(self, value: ir.Value, grid: Sequence[Lattice]) -> None:
        shape = self._analysis.shape(value)
        self._spend(0 if shape is None else math.prod(n or 0 for n in self._counted(shape, tuple(grid))))

    def _spend(self, size: int) -> None:
        """Counts an operator that is not linear, with so many outputs."""
        moved = ELEMENT_BYTES * size
        self.cost += Cost(0, 0, 0, moved, time_model.seconds(0, 1, 1, 1, 2 * moved))
