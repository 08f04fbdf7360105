"""Sliding windows of poolings, and the pads of auto_pad=SAME."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operators import POOLS
from graphopt.types import Dims, Shape


@dataclass(frozen=True, slots=True)
class PoolShape:
    """What the attributes of an AveragePool, LpPool or MaxPool say of its window, by axis.

    Attributes:
        kernel: taps.
        strides: steps.
        dilations: distances between taps.
        explicit: the pads attribute, (begin…, end…).
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        ceil: whether the last window may hang over (ceil_mode).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    explicit: tuple[int, ...]
    auto_pad: str
    ceil: bool

    @classmethod
    def of(cls, node: ir.Node) -> PoolShape | None:
        """The window of a pooling; None where the node has no kernel_shape."""
        attributes = node.attributes
        kernel = tuple(attributes.get_ints("kernel_shape", ()) or ())
        if not kernel:
            return None
        axes = len(kernel)
        return cls(
            kernel,
            tuple(attributes.get_ints("strides", ()) or (1,) * axes),
            tuple(attributes.get_ints("dilations", ()) or (1,) * axes),
            tuple(attributes.get_ints("pads", ()) or (0,) * 2 * axes),
            attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
            attributes.get_int("ceil_mode", 0) == 1,
        )

    def pads(self, sizes: Shape | None) -> tuple[int, ...] | None:
        """Explicit pads (begin…, end…) on a map of these spatial sizes; None where an unknown one decides.

        onnxruntime leaves the dilation out of those of SAME.
        """
        if self.auto_pad == "NOTSET":
            return self.explicit
        if self.auto_pad == "VALID":
            return (0,) * len(self.explicit)
        return same_pads(self.kernel, self.strides, sizes, upper=self.auto_pad == "SAME_UPPER")

    def outputs(self, sizes: Shape) -> Shape:
        """Spatial sizes of the output, None where unknown; below 0 where onnxruntime refuses to run."""
        return tuple(None if n is None else self.axis_outputs(axis, n) for axis, n in enumerate(sizes))

    def axis_outputs(self, axis: int, size: int) -> int:
        """The outputs along one axis of so many inputs.

        As C++ does, onnxruntime divides towards zero: a window that is larger than its padded map by less
        than a stride has one output. A last window that would start behind the input is dropped, at every
        opset.
        """
        pads = self.pads((size,) * len(self.kernel))
        assert pads is not None
        begin, end, stride = pads[axis], pads[axis + len(self.kernel)], self.strides[axis]
        room = size + begin + end - self.dilations[axis] * (self.kernel[axis] - 1) - 1
        if not self.ceil:
            return math.trunc(room / stride) + 1
        count = -(-room // stride) + 1
        return count - 1 if (count - 1) * stride >= size + begin else count


def same_pads(
    extents: Sequence[int], strides: Sequence[int], sizes: Shape | None, *, upper: bool
) -> tuple[int, ...] | None:
    """Explicit pads (begin…, end…) of SAME_UPPER or SAME_LOWER; None where they depend on an unknown size.

    Args:
        extents: rows that a window spans, one entry a spatial axis.
        strides: its steps.
        sizes: spatial sizes of what it slides over.
        upper: whether the odd row is put behind.

    Returns:
        One number for either end of each axis, or None.
    """
    totals = []
    for size, stride, extent in zip(sizes or (None,) * len(extents), strides, extents, strict=True):
        if stride == 1 or extent == 1:
            totals.append(extent - 1)
        elif size is None:
            return None
        else:
            totals.append(max((-(-size // stride) - 1) * stride + extent - size, 0))
    return split_pads(totals, upper=upper)


def split_pads(totals: Sequence[int], *, upper: bool) -> tuple[int, ...]:
    """Pads (begin…, end…) of so many rows an axis in all, the odd one behind where ``upper`` says so."""
    begin = [total // 2 if upper else total - total // 2 for total in totals]
    return (*begin, *(total - first for total, first in zip(totals, begin, strict=True)))


def keeps_size(node: ir.Node, kernel: Dims) -> tuple[bool, ...]:
    """Whether a convolution or pooling has as many outputs as inputs, whatever their number, by axis.

    Args:
        node: the operator.
        kernel: the taps of its weight, for a convolution that does not name them.

    Returns:
        One truth value a spatial axis; nothing for other operators.
    """
    if node.op_type not in POOLS | {"Conv"}:
        return ()
    ints = node.attributes.get_ints
    taps = ints("kernel_shape", ()) or kernel
    axes = len(taps)
    strides, dilations = (ints(key, ()) or (1,) * axes for key in ("strides", "dilations"))
    mode = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    pads = (ints("pads", ()) if mode == "NOTSET" else ()) or (0,) * 2 * axes
    kept = []
    for axis, size in enumerate(taps):
        whole = isinstance(size, int) and pads[axis] + pads[axis + axes] == dilations[axis] * (size - 1)
        same = mode.startswith("SAME") and dilations[axis] == 1
        kept.append(strides[axis] == 1 and (whole or same))
    return tuple(kept)
