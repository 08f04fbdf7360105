"""One view of the operators that average over positions: AveragePool, GlobalAveragePool and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import ints
from graphopt.analysis.operators import is_standard
from graphopt.analysis.shapes.windows import PoolShape
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.borders import landing
from graphopt.types import Shape


@dataclass(frozen=True, slots=True)
class PoolWindow:
    """The window of an AveragePool, one entry a spatial axis.

    Attributes:
        kernel: extents in taps.
        strides: steps.
        dilations: distances between taps.
        pads: (begin…, end…), `auto_pad` resolved; None where that needs an unknown size.
        counts_padding: whether padding counts in the mean.
        overhangs: whether the last window may reach behind the padded input (ceil_mode).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    counts_padding: bool
    overhangs: bool

    @property
    def plain(self) -> bool:
        """Whether each window lies within the input, so that all weights are one over its size."""
        return self.pads is not None and not any(self.pads) and not self.overhangs

    def always_lands(self) -> bool:
        """Whether each window has a tap on the input, so that the mean without padding is a mean."""
        if self.pads is None:
            return True  # SAME centres the windows on the input
        axes = range(len(self.kernel))
        extents = [self.dilations[a] * (self.kernel[a] - 1) + 1 for a in axes]
        if any(d > 1 and k > 1 for d, k in zip(self.dilations, self.kernel, strict=True)) and any(self.pads):
            return False
        begin, end = self.pads[: len(extents)], self.pads[len(extents) :]
        late = [s if self.overhangs else 1 for s in self.strides]
        return all(b < e and p + s <= e for b, p, e, s in zip(begin, end, extents, late, strict=True))

    def coverage(self, sizes: Sequence[int], outputs: Sequence[int]) -> np.ndarray | None:
        """The part of each window that lands on the input, ``[*outputs]``; None where that is not known."""
        if self.pads is None or self.overhangs:
            return None
        result = np.ones(())
        axes = len(self.kernel)
        for a, size in enumerate(sizes):
            taps = landing(
                size,
                self.kernel[a],
                stride=self.strides[a],
                pad_begin=self.pads[a],
                pad_end=self.pads[a + axes],
                dilation=self.dilations[a],
                outputs=outputs[a],
            )
            result = result[..., None] * taps.mean(axis=1)
        return np.asarray(result)


@dataclass(frozen=True, slots=True)
class Pool:
    """An operator that averages over positions.

    Attributes:
        node: the operator.
        x: its input.
        y: its output.
        window: of an AveragePool; None where whole axes are averaged.
        axes: those axes, counted from the front.
        keeps_axes: whether they stay with size 1.
        sums: whether it adds up instead.
    """

    node: ir.Node
    x: ir.Value
    y: ir.Value
    window: PoolWindow | None
    axes: tuple[int, ...]
    keeps_axes: bool = True
    sums: bool = False


def pool_of(analysis: Analysis, node: ir.Node) -> Pool | None:
    """The view of an operator; None when it does not average, or over axes that are not known."""
    x = node.inputs[0] if node.inputs else None
    shape = analysis.shape(x)
    if not is_standard(node) or x is None or shape is None:
        return None
    y, rank = node.outputs[0], len(shape)
    if node.op_type == "GlobalAveragePool":
        return Pool(node, x, y, None, tuple(range(2, rank)))
    if node.op_type == "AveragePool":
        window = _window(node, analysis.fixed_shape(x))
        return None if window is None else Pool(node, x, y, window, tuple(range(2, rank)))
    if node.op_type not in ("ReduceMean", "ReduceSum"):
        return None
    axes = ints(node, "axes", 1, analysis.constant)
    if not axes:
        return None
    keeps = node.attributes.get_int("keepdims", 1) == 1
    return Pool(node, x, y, None, tuple(sorted(a % rank for a in axes)), keeps, node.op_type == "ReduceSum")


def _window(node: ir.Node, shape: Shape | None) -> PoolWindow | None:
    found = PoolShape.of(node)
    if found is None:
        return None
    sizes = None if shape is None else shape[2:]
    pads, axes = found.pads(sizes), len(found.kernel)
    extents = [d * (k - 1) + 1 for k, d in zip(found.kernel, found.dilations, strict=True)]
    ceil = found.ceil
    if ceil and pads is not None and sizes is not None:
        padded = [None if n is None else n + pads[a] + pads[a + axes] for a, n in enumerate(sizes)]
        steps = zip(padded, extents, found.strides, strict=True)
        ceil = any(n is None or (n - e) % s for n, e, s in steps)
    ceil = ceil and any(s > 1 for s in found.strides)
    counts = node.attributes.get_int("count_include_pad", 0) == 1
    return PoolWindow(found.kernel, found.strides, found.dilations, pads, counts, ceil)
