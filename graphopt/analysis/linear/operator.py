"""A linear operator in its normal form, with its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.linear.form import Form
from graphopt.numerics.kernels import algebra
from graphopt.types import Array, Shape

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Linear:
    """A Conv, ConvTranspose, Gemm or MatMul in its normal form.

    Attributes:
        name: the node's name.
        graph: the path of its graph.
        form: strides, pads and the like.
        kernel: spatial extents; () for Gemm and MatMul.
        in_channels: channels (features) of the input; None where unknown.
        out_channels: channels (features) of the output; None where unknown.
        x: name of the input value.
        y: name of the output value.
        input_shape: shape of the input, as far as known.
        output_shape: shape of the output, as far as known.
        params: elements of constant weight and bias.
        bias_elements: those of the bias; 0 where there is none.
        macs: multiply-accumulates; None where a size is unknown.
        blocked: why no rewrite may touch it or move it; "" when they may.
        obstacle: why its weights may not be read and replaced; "" when they may.
        fixed: why not even channels may be scaled, which no pads matter to; "" when they may.
        node: the operator itself.
    """

    name: str
    graph: str
    form: Form
    kernel: tuple[int, ...]
    in_channels: int | None
    out_channels: int | None
    x: str
    y: str
    input_shape: Shape | None
    output_shape: Shape | None
    params: int
    bias_elements: int
    macs: int | None
    blocked: str
    obstacle: str
    fixed: str
    node: ir.Node = field(repr=False)
    constants: Constants = field(repr=False)

    @property
    def op(self) -> str:
        """The operator type."""
        return self.form.op

    @property
    def group(self) -> int:
        """Number of groups."""
        return self.form.group

    @property
    def flops(self) -> int | None:
        """Floating-point operations: 2 × MACs."""
        return None if self.macs is None else 2 * self.macs

    @property
    def pointwise(self) -> bool:
        """Whether each output position reads one input position."""
        return all(k == 1 for k in self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether each group has one input channel."""
        return self.group > 1 and self.group == self.in_channels

    @property
    def rank(self) -> int | None:
        """Rank of the output; None where unknown."""
        if self.op == "MatMul":
            return None if self.output_shape is None else len(self.output_shape)
        return 2 + len(self.kernel)

    @property
    def channel_axis(self) -> int | None:
        """The axis of the output that holds the channels, from the front; None where unknown, or a number."""
        if self.op == "MatMul":
            return self.rank - 1 if self.rank else None
        return 1

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of the weights, where they are constants."""
        weight = self.node.inputs[1]
        assert weight is not None
        return self.constants.dtype(weight) or np.dtype(np.float32)

    @property
    def itemsize(self) -> int:
        """Bytes of one element of the weights."""
        return self.dtype.itemsize

    @property
    def alpha(self) -> float:
        """What a Gemm multiplies its product by; 1 for all others."""
        return float(number(self.node, "alpha", 1.0)) if self.op == "Gemm" else 1.0

    def weight(self) -> Array:
        """The weights, [out, in/group, *kernel] in float64; Gemm's alpha is multiplied in."""
        weight = self._array(1).astype(np.float64)
        if self.op == "ConvTranspose":
            return algebra.transpose_layout(weight, self.group)
        if self.op == "Gemm":
            weight = weight * number(self.node, "alpha", 1.0)
            return weight if number(self.node, "transB", 0) else weight.T
        return weight.T if self.op == "MatMul" else weight

    def stored_weight(self) -> Array:
        """The weights, [out, in/group, *kernel] in the type that they are stored in, without Gemm's alpha."""
        weight = self._array(1)
        if self.op == "ConvTranspose":
            return algebra.transpose_layout(weight, self.group)
        transposed = self.op == "MatMul" or (self.op == "Gemm" and not number(self.node, "transB", 0))
        return weight.T if transposed else weight

    def found_in_weight(self, what: Hashable, find: Callable[[], Made]) -> Made:
        """What is found in `stored_weight`: once, also where other operators or snapshots share it."""
        weight, transposed = self.node.inputs[1], bool(number(self.node, "transB", 0))
        assert weight is not None
        return self.constants.once(weight, (self.op, self.group, transposed, what), find)

    def bias(self) -> Array | None:
        """The bias, [out] in float64, or None; Gemm's beta is multiplied in."""
        if len(self.node.inputs) < 3 or self.node.inputs[2] is None:
            return None
        bias = self._array(2).astype(np.float64)
        if self.op == "Gemm":
            assert self.out_channels is not None
            bias = np.broadcast_to(bias.reshape(-1), (self.out_channels,)) * number(self.node, "beta", 1.0)
        return bias

    def _array(self, index: int) -> Array:
        array = self.constants.array(self.node.inputs[index])
        assert array is not None, f"{self.name}: obstacle says that input {index} is a constant"
        return array


def number(node: ir.Node, name: str, default: int | float) -> int:
    """A scalar attribute; typed int because nearly all of them are.

    Args:
        node: the operator.
        name: of the attribute.
        default: what holds where it is missing.

    Returns:
        The attribute's value.
    """
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value  # type: ignore[return-value]


def dimension(linear: Linear) -> int:
    """Numbers in the patch of one group: in_channels / group · taps."""
    return (linear.in_channels or 1) // linear.group * math.prod(linear.kernel)
