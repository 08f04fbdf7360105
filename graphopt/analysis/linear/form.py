"""Strides, pads and the like: what a linear operator does besides its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """What a linear operator does besides its weights; all tuples have one entry a spatial axis.

    Attributes:
        op: Conv, ConvTranspose, Gemm or MatMul.
        group: number of groups.
        strides: step between two output positions (ConvTranspose: between two input positions).
        pads: (begin…, end…) zero padding, two entries a spatial axis.
        dilations: distance between two taps.
        output_padding: rows that a ConvTranspose adds behind its output.
        auto_pad: SAME_UPPER or SAME_LOWER where a caller chooses a size that the pads follow from; ``pads``
            are then those of the sizes assumed, 0 where there are none. "" where the pads hold for every run.
    """

    op: str
    group: int = 1
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    auto_pad: str = ""

    @property
    def padded(self) -> bool:
        """Whether zeros are put around the input, at any size."""
        return any(self.pads) or bool(self.auto_pad)

    @property
    def strided(self) -> bool:
        """Whether any step is larger than 1."""
        return any(s != 1 for s in self.strides)

    def pointwise(self) -> Form:
        """The form of a 1x1 operator that keeps every position, on as many axes."""
        axes = len(self.strides)
        op = "Conv" if self.op == "ConvTranspose" else self.op
        return Form(op, 1, (1,) * axes, (0,) * 2 * axes, (1,) * axes, ())

    def output_sizes(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Spatial output sizes for spatial input sizes (ONNX Conv and ConvTranspose)."""
        axes = len(kernel)
        if self.auto_pad:
            return tuple(-(-n // s) for n, s in zip(sizes, self.strides, strict=True))
        extents = [d * (k - 1) + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        pads = [self.pads[i] + self.pads[i + axes] for i in range(axes)]
        if self.op == "ConvTranspose":
            added = self.output_padding or (0,) * axes
            return tuple(
                (n - 1) * s + e - p + a
                for n, s, e, p, a in zip(sizes, self.strides, extents, pads, added, strict=True)
            )
        return tuple(
            (n + p - e) // s + 1 for n, p, e, s in zip(sizes, pads, extents, self.strides, strict=True)
        )
