"""Write a 3x3 convolution as 16 pointwise ones of a quarter of the map: Winograd's minimal filtering.

What
    A dense 3x3 convolution of many channels becomes operators that onnxruntime runs in its blocks of
    channels: 16 depthwise 2x2 of stride 2, a pointwise convolution behind each, and sums.

        x ─ 3x3 ─ Relu ─ y

           ┌ depthwise 2x2 ─ 1x1 ┐        ┌ Relu ┐
        x ─┤  …   16 of them   … ├─ sums ─┤  4   ├─ Concat ─ DepthToSpace ─ y
           └ depthwise 2x2 ─ 1x1 ┘        └ Relu ┘

Maths
    F(2x2, 3x3) makes 2x2 outputs of 4x4 inputs with 16 products a channel instead of 36:
    y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ d B)]A, where Bᵀ d B reads each tile's inputs, G w Gᵀ is computed once, and A sums.
    See `numerics.kernels.minimal_filtering`. The bias goes into a product that each output adds once.

When it applies
    1. The kernel is 3x3 with stride and dilation 1 and one group, its weights are finite float32 constants.
    2. Height and width are the same in every run: where tiles end depends on them. The batch may be any.
    3. The static time model expects at most ``most`` of the time, from about 256 channels on. That the
       weights are read counts, and what the convolution no longer takes with it (an activation, a sum).
    4. Neither a budget nor a gate asks for bytes or parameters, of which there are 16 / 9.
    5. Nothing else is left to do, and approximate rewrites have made their plan: they see the convolution.

Exactness
    Exact. Kernels are transformed in float64 and rounded once; on random inputs results differ by 3e-7 of the
    largest. A number that is infinite or NaN reaches the whole tile that reads it.

Cost
    0.53 to 0.65 of the MACs, 16 / 9 of the weights' bytes. Measured in onnxruntime at one thread with AVX2,
    between two 1x1 (several runs): 512 channels on 14x14 0.67 to 0.71 of the time, 256 on 28x28 0.70 to 0.76,
    512 on 8x8 0.74 to 0.77, 256 on 14x14 0.76 to 0.85, 192 on 16x16 0.91. What the time model leaves: 128 on
    28x28 0.88, 512 on 7x7 0.89 to 0.92, 64 on 56x56 1.04. VGG-19 without its classifier takes 0.76 to 0.79,
    ResNet-18 0.97. It makes no 3x3 convolution, so there is an end.

References:
    Winograd 1980, "Arithmetic complexity of computations"; Lavin and Gray 2016, "Fast algorithms for
    convolutional neural networks" (arXiv 1509.09308).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.fusions.convolutions import BLOCKED_ACTIVATIONS
from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import minimal_filtering as minimal
from graphopt.numerics.kernels.minimal_filtering import PRODUCTS, TILE, Window
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.rewrites.patterns.pixelwise import pass_cost
from graphopt.rewrites.patterns.slicing import add_slice
from graphopt.types import AttributeValue, Candidate, Cost, Rejection, Replacement

SUMS = 16
"""Sums of the products: derived, two for each column of them, then four for each row of the outputs."""
SUM_PASSES = 56
"""Maps of a tile that they read and write: derived, 8 for each of four columns, 12 for each of two rows."""
NEGATED = 10
"""Products by −1 in them: derived, one for each column, then three for each row."""


@dataclass(frozen=True)
class ConvToWinograd(ExactRewrite):
    """Writes 3x3 convolutions as pointwise ones, by Winograd's minimal filtering."""

    name: ClassVar[str] = "conv_to_winograd"
    stage: ClassVar[Stage] = Stage.FINAL
    time_alone: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    most: float = 0.9
    """The part of the time up to which it is taken, measured by the cases of benchmarks/aim_time.py: where
    0.84 to 0.89 are expected of a 3x3, it takes with two 1x1 around it 0.86 to 0.91."""

    def __post_init__(self) -> None:
        """Raises ValueError for a part of the time that is none."""
        if not 0 < self.most <= 1:
            raise ValueError("expected a part of the time, above 0 and at most 1")

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each 3x3 convolution, with the Relu behind it."""
        for linear in analysis.linears:
            if linear.op != "Conv" or linear.kernel != (3, 3) or linear.group != 1:
                continue
            if linear.form.strided or linear.form.dilations != (1, 1):
                continue
            found = _refusal(analysis, linear) or self._costs(analysis, linear)
            yield propose(self.name, analysis, _nodes(analysis, linear), linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """Transformed inputs, their products, sums, and the outputs of all tiles in turn."""
        linear = anchor(analysis, candidate)
        writer = _Writer(Builder(linear.dtype), linear)
        outputs = writer.outputs(writer.products(_tiling(linear)))
        node = _relu(analysis, linear)
        if node is not None:
            outputs = [writer.builder.node("Relu", [y], {}, "/relu") for y in outputs]
        y = writer.builder.node("Concat", outputs, {"axis": 1}, "/tiles")
        y = writer.builder.node("DepthToSpace", [y], {"blocksize": TILE}, "/interleave")
        sizes = _outputs(linear)
        crops = {axis: (0, size, 1) for axis, size in enumerate(sizes, start=2) if size % TILE}
        y = add_slice(writer.builder, analysis, y, crops, 4)
        replaced = linear.y if node is None else node.outputs[0].name or ""
        return writer.builder.replacement({replaced: y})

    def _costs(self, analysis: Analysis, linear: Linear) -> tuple[Cost, Cost] | str:
        before = _weights_read(analysis.linear_cost(linear))
        node = _relu(analysis, linear)
        if node is not None:
            before += replace(analysis.cost([node]), seconds=0.0)  # it is computed in the convolution
        after = _after(linear) + _behind(analysis, linear)
        if after.seconds > self.most * before.seconds:
            part = after.seconds / before.seconds
            return f"as pointwise ones it is expected to take {part:.2f} of the time, not {self.most:g}"
        return before, after


class _Tiling(NamedTuple):
    """The filters that make what the products read, along rows and columns."""

    rows: tuple[Window, ...]
    columns: tuple[Window, ...]

    def form(self, row: int, column: int, channels: int) -> Form:
        """The form of the depthwise convolution that makes what one product reads."""
        y, x = self.rows[row], self.columns[column]
        pads = (y.pad_begin, x.pad_begin, y.pad_end, x.pad_end)
        return Form("Conv", channels, (TILE, TILE), pads, (y.dilation, x.dilation))


def _tiling(linear: Linear) -> _Tiling:
    pads, (rows, columns) = linear.form.pads, _outputs(linear)
    return _Tiling(minimal.windows(pads[0], pads[2], rows), minimal.windows(pads[1], pads[3], columns))


def _outputs(linear: Linear) -> tuple[int, ...]:
    """Height and width of what a convolution of known sizes makes."""
    assert linear.input_shape is not None
    return linear.form.output_sizes([size or 0 for size in linear.input_shape[2:]], linear.kernel)


# ---------------------------------------------------------------- where


def _refusal(analysis: Analysis, linear: Linear) -> str:
    """Why a 3x3 convolution stays, whatever it costs; "" where nothing is against it."""
    if linear.obstacle:
        return linear.obstacle
    if linear.dtype != np.float32:
        return f"its weights are {linear.dtype.name}: onnxruntime's blocks of channels are of float32"
    fixed = analysis.fixed_shape(linear.node.inputs[0])
    if fixed is None or None in fixed[2:] or linear.form.auto_pad:
        return "its height and width are not the same in every run, and where its tiles end depends on them"
    shape = linear.input_shape
    if shape is None or None in shape or min(_outputs(linear)) < 1:
        return "its sizes are unknown, or its map is empty"
    return "" if np.isfinite(linear.stored_weight()).all() else "its weights are not finite"


def _relu(analysis: Analysis, linear: Linear) -> ir.Node | None:
    """The Relu behind a convolution that nothing else reads."""
    node = _reader(analysis, linear.node)
    return node if node is not None and node.op_type == "Relu" else None


def _reader(analysis: Analysis, node: ir.Node) -> ir.Node | None:
    """The operator of the same graph that alone reads what a node makes."""
    reader = analysis.sole_consumer(node.outputs[0])
    return reader if reader is not None and reader.graph is node.graph and is_standard(reader) else None


def _nodes(analysis: Analysis, linear: Linear) -> list[ir.Node]:
    node = _relu(analysis, linear)
    return [linear.node] if node is None else [linear.node, node]


# ---------------------------------------------------------------- cost


def _weights_read(cost: Cost) -> Cost:
    """A cost in which the time to read the weights counts."""
    return replace(cost, seconds=cost.seconds + cost.weight_bytes / time_model.BYTES_PER_SECOND)


def _after(linear: Linear) -> Cost:
    """What takes the place of a convolution costs."""
    shape, item = linear.input_shape, linear.itemsize
    inside, out = linear.in_channels or 1, linear.out_channels or 1
    assert shape is not None
    tiling, sizes = _tiling(linear), _outputs(linear)
    count = math.prod(minimal.tiles(size) for size in sizes)
    tiled = (shape[0], inside, *(minimal.tiles(size) for size in sizes))
    total, kernels = Cost(0), set[tuple[tuple[int, ...], ...]]()
    for row, column in product(range(PRODUCTS), repeat=2):
        taps = tiling.rows[row].taps, tiling.columns[column].taps
        form = tiling.form(row, column, inside)
        read = linear_cost(form, (inside, 1, *map(len, taps)), shape, item, bias=False)
        total += read if taps not in kernels else replace(read, params=0, weight_bytes=0)
        kernels.add(taps)
        total += _weights_read(linear_cost(form.pointwise(), (out, inside, 1, 1), tiled, item, bias=False))
    part = (shape[0] or 1) * count * out
    moved = SUM_PASSES * part * item / time_model.BYTES_PER_SECOND + SUMS * time_model.SECONDS_PER_CALL
    bias = linear.bias_elements
    total += Cost(NEGATED * part, out + bias, (out + bias) * item, SUMS * part * item, moved)
    written = TILE**2 * part
    for _ in range(3 if any(size % TILE for size in sizes) else 2):  # Concat, DepthToSpace, Slice
        total += pass_cost(item, written, written)
    interleaving = 2 * written * item / time_model.INTERLEAVED_BYTES_PER_SECOND
    reordering = pass_cost(item, written, written)  # out of the blocks of channels, and back
    return replace(total, seconds=total.seconds + interleaving + 2 * reordering.seconds)


def _behind(analysis: Analysis, linear: Linear) -> Cost:
    """What was computed in the convolution, and is not any more: a sum, an activation, or both.

    A Relu alone is computed in the last of the sums.
    """
    written = math.prod(size or 1 for size in linear.output_shape or ())
    node, total = _reader(analysis, linear.node), Cost(0)
    if node is not None and node.op_type == "Relu":
        return total
    if node is not None and node.op_type in ("Add", "Sum"):
        total += replace(pass_cost(linear.itemsize, 2 * written, written), activation_bytes=0)
        node = _reader(analysis, node)
    if node is not None and node.op_type in BLOCKED_ACTIVATIONS:
        total += replace(pass_cost(linear.itemsize, written, written), activation_bytes=0)
    return total


# ---------------------------------------------------------------- build


class _Writer:
    """Adds the operators in the place of one convolution; equal constants once."""

    def __init__(self, builder: Builder, linear: Linear) -> None:
        self.builder = builder
        self._linear = linear
        self._kernels: dict[tuple[tuple[int, ...], ...], str] = {}
        self._channels = linear.out_channels or 1
        self._minus = builder.constant(-np.ones((self._channels, 1, 1, 1)), "minus")

    def products(self, tiling: _Tiling) -> list[list[str]]:
        """The pointwise convolutions of the transformed input, by row and column of the tile."""
        linear = self._linear
        inside, weights, bias = linear.in_channels or 1, minimal.products(linear.weight()), linear.bias()
        found: list[list[str]] = [[] for _ in range(PRODUCTS)]
        for row, column in product(range(PRODUCTS), repeat=2):
            form = tiling.form(row, column, inside)
            taps = tiling.rows[row].taps, tiling.columns[column].taps
            v = self._filter(linear.x, form, taps)
            weight = weights[row, column][:, :, None, None]
            shift = bias if (row, column) == (1, 1) else None  # which each output adds once
            found[row].append(self.builder.linear(form.pointwise(), v, weight, shift, name="/product"))
        return found

    def outputs(self, products: list[list[str]]) -> list[str]:
        """The four outputs of all tiles, by row and column, of the products with their signs."""
        tops, bottoms = [], []
        for first, second, third, fourth in zip(*products, strict=True):
            tops.append(self._add(first, self._add(second, third)))
            bottoms.append(self._add(fourth, self._less(second, third)))
        found = []
        for first, second, third, fourth in (tops, bottoms):
            found.append(self._less(self._add(second, third), first))
            found.append(self._less(self._less(second, third), fourth))
        return found

    def _add(self, a: str, b: str) -> str:
        return self.builder.node("Add", [a, b], {}, "/sum")

    def _less(self, a: str, b: str) -> str:
        """The difference a − b, which onnxruntime runs as one convolution."""
        form = Form("Conv", self._channels, (1, 1), (0, 0, 0, 0), (1, 1))
        return self._add(self._conv(b, form, self._minus, (1, 1), "/minus"), a)

    def _filter(self, x: str, form: Form, taps: tuple[tuple[int, ...], ...]) -> str:
        if taps not in self._kernels:
            kernel = np.multiply.outer(*map(np.array, taps)).astype(np.float64)
            kernel = np.broadcast_to(kernel, (form.group, 1, *kernel.shape))
            self._kernels[taps] = self.builder.constant(kernel, "filter")
        return self._conv(x, form, self._kernels[taps], tuple(map(len, taps)), "/filter")

    def _conv(self, x: str, form: Form, weight: str, kernel: tuple[int, ...], name: str) -> str:
        attributes: dict[str, AttributeValue] = {
            "kernel_shape": kernel,
            "strides": form.strides,
            "pads": form.pads,
            "dilations": form.dilations,
            "group": form.group,
        }
        return self.builder.node("Conv", [x, weight], attributes, name)
