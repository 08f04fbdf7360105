"""One view of Conv, ConvTranspose, Gemm and MatMul as a convolution.

A rewrite meets a `Linear` and never asks which operator it is: weights are [out, in/group, *kernel], a bias
is [out], and a Gemm or a MatMul is a convolution without spatial axes. A `Builder` goes the other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import kernel as algebra
from graphopt.constants import Constants
from graphopt.core import Array, AttributeValue, Cost, NewNode, Replacement, Shape
from graphopt.cost import is_linear
from graphopt.timing import seconds


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
    """

    op: str
    group: int = 1
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()

    @property
    def padded(self) -> bool:
        """Whether zeros are put around the input."""
        return any(self.pads)

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
        """Spatial output sizes for spatial input sizes (ONNX Conv and ConvTranspose, explicit pads)."""
        axes = len(kernel)
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
        """The axis of the output that holds the channels, counted from the front; None where unknown."""
        if self.op == "MatMul":
            return None if self.rank is None else self.rank - 1
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
        return float(_number(self.node, "alpha", 1.0)) if self.op == "Gemm" else 1.0

    def weight(self) -> Array:
        """The weights, [out, in/group, *kernel] in float64; Gemm's alpha is multiplied in."""
        weight = self._array(1).astype(np.float64)
        if self.op == "ConvTranspose":
            return algebra.transpose_layout(weight, self.group)
        if self.op == "Gemm":
            weight = weight * _number(self.node, "alpha", 1.0)
            return weight if _number(self.node, "transB", 0) else weight.T
        return weight.T if self.op == "MatMul" else weight

    def stored_weight(self) -> Array:
        """The weights, [out, in/group, *kernel] in the type that they are stored in, without Gemm's alpha."""
        weight = self._array(1)
        if self.op == "ConvTranspose":
            return algebra.transpose_layout(weight, self.group)
        transposed = self.op == "MatMul" or (self.op == "Gemm" and not _number(self.node, "transB", 0))
        return weight.T if transposed else weight

    def bias(self) -> Array | None:
        """The bias, [out] in float64, or None; Gemm's beta is multiplied in."""
        if len(self.node.inputs) < 3 or self.node.inputs[2] is None:
            return None
        bias = self._array(2).astype(np.float64)
        if self.op == "Gemm":
            assert self.out_channels is not None
            bias = np.broadcast_to(bias.reshape(-1), (self.out_channels,)) * _number(self.node, "beta", 1.0)
        return bias

    def _array(self, index: int) -> Array:
        array = self.constants.array(self.node.inputs[index])
        assert array is not None, f"{self.name}: obstacle says that input {index} is a constant"
        return array


def view(
    node: ir.Node,
    *,
    name: str,
    graph: str,
    constants: Constants,
    input_shape: Shape | None,
    weight_shape: Shape | None,
    output_shape: Shape | None,
    macs: int | None,
    quantised: bool,
) -> Linear | None:
    """The normal view of a node; None when the node is no linear operator or its weight's rank is unknown.

    Whatever can be scanned gets a view; `Linear.obstacle` says what keeps rewrites away from it.
    """
    if not is_linear(node):
        return None
    kernel, in_channels, out_channels = _channels(node, input_shape, weight_shape)
    form, problem = _form(node, kernel, input_shape)
    blocked = _blocked(node, quantised) or problem
    x, y = node.inputs[0], node.outputs[0]
    return Linear(
        name=name,
        graph=graph,
        form=form,
        kernel=kernel,
        in_channels=in_channels,
        out_channels=out_channels,
        x=(x.name or "") if x is not None else "",
        y=y.name or "",
        input_shape=input_shape,
        output_shape=output_shape,
        params=sum(constants.size(value) or 0 for value in node.inputs[1:] if value is not None),
        bias_elements=_bias_elements(node, constants),
        macs=macs,
        blocked=blocked,
        obstacle=blocked or _obstacle(node, constants, weight_shape, out_channels),
        node=node,
        constants=constants,
    )


def _channels(
    node: ir.Node, x: Shape | None, w: Shape | None
) -> tuple[tuple[int, ...], int | None, int | None]:
    """Kernel, input and output channels, from the shapes of input and weight."""
    if node.op_type in ("Gemm", "MatMul"):
        rows = None if x is None else x[0 if _number(node, "transA", 0) else -1]
        if w is None:
            return (), rows, None
        if node.op_type == "MatMul" and len(w) == 1:
            return (), w[0] if rows is None else rows, 1
        inner, outer = (w[-1], w[-2]) if _number(node, "transB", 0) else (w[-2], w[-1])
        return (), inner if rows is None else rows, outer
    group = _number(node, "group", 1)
    attribute = node.attributes.get("kernel_shape")
    kernel: tuple[int, ...] = tuple(attribute.as_ints()) if attribute is not None else ()
    if w is None:
        return kernel, None if x is None else x[1], None
    if not kernel:
        kernel = tuple(k or 0 for k in w[2:])
    if node.op_type == "Conv":
        return kernel, None if w[1] is None else w[1] * group, w[0]
    return kernel, w[0], None if w[1] is None else w[1] * group


def _form(node: ir.Node, kernel: tuple[int, ...], x: Shape | None) -> tuple[Form, str]:
    """The form, and what about it can't be put into explicit pads ("" when nothing)."""
    if node.op_type in ("Gemm", "MatMul"):
        return Form(node.op_type), ""
    axes = len(kernel)
    strides = _ints(node, "strides", (1,) * axes)
    dilations = _ints(node, "dilations", (1,) * axes)
    pads = _ints(node, "pads", (0,) * 2 * axes)
    added = _ints(node, "output_padding", (0,) * axes) if node.op_type == "ConvTranspose" else ()
    form = Form(node.op_type, _number(node, "group", 1), strides, pads, dilations, added)
    if "output_shape" in node.attributes:
        return form, "its output_shape attribute decides the pads"
    mode = node.attributes.get("auto_pad")
    name = "NOTSET" if mode is None else mode.as_string()
    if name == "NOTSET":
        return form, ""
    if name == "VALID":
        return replace(form, pads=(0,) * 2 * axes), ""
    if node.op_type == "ConvTranspose":
        return form, f"auto_pad={name} on a ConvTranspose"
    same = _same_pads(kernel, form, None if x is None else x[2:], upper=name == "SAME_UPPER")
    if same is None:
        return form, f"auto_pad={name} with strides {list(strides)} and an unknown input size"
    return replace(form, pads=same), ""


def _same_pads(
    kernel: tuple[int, ...], form: Form, sizes: Shape | None, *, upper: bool
) -> tuple[int, ...] | None:
    """Explicit pads of SAME_UPPER or SAME_LOWER; None where they depend on an unknown size."""
    begin, end = [], []
    for axis, (k, s, d) in enumerate(zip(kernel, form.strides, form.dilations, strict=True)):
        size = sizes[axis] if sizes is not None else None
        if s == 1:
            total = d * (k - 1)
        elif size is None:
            return None
        else:
            total = max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if upper else large)
        end.append(large if upper else small)
    return (*begin, *end)


def _blocked(node: ir.Node, quantised: bool) -> str:
    """Why the operator may not be touched at all; "" when it may."""
    if quantised:
        return "it is in a quantised region (QuantizeLinear/DequantizeLinear), which is left alone"
    if _number(node, "transA", 0):
        return "its input is transposed (transA=1)"
    return ""


def _obstacle(
    node: ir.Node, constants: Constants, weight_shape: Shape | None, out_channels: int | None
) -> str:
    """Why the weights may not be read and replaced; "" when they may."""
    for value in node.inputs[1:3]:
        if value is not None and not constants.is_constant(value):
            return why_no_constant(constants, value)
    weight = node.inputs[1]
    kind = None if weight is None else constants.dtype(weight)
    if weight is None or kind is None or kind.kind not in "fV":
        return "its weight has no float type"
    if node.op_type == "MatMul" and (weight_shape is None or len(weight_shape) != 2):
        return f"{weight.name} is no matrix"
    if node.op_type == "Gemm" and _bias_elements(node, constants):
        return _gemm_bias_problem(node, constants, out_channels)
    return ""


FREEZE = "--freeze-initializers"
"""The option that makes constants of initializers that are inputs too."""


def why_no_constant(constants: Constants, value: ir.Value) -> str:
    """What a value that is no constant is instead."""
    if constants.overridable(value):
        return f"{value.name} is an initializer that a caller may override; {FREEZE} makes it a constant"
    return f"{value.name} is computed at run time"


def _gemm_bias_problem(node: ir.Node, constants: Constants, out_channels: int | None) -> str:
    """Why Gemm's third input is no bias with one number a channel; "" when it is."""
    bias = constants.array(node.inputs[2])
    if bias is not None and bias.size in (1, out_channels) and (bias.ndim < 2 or bias.shape[0] == 1):
        return ""
    return f"{node.inputs[2].name if node.inputs[2] is not None else 'C'} is no bias per channel"


def _bias_elements(node: ir.Node, constants: Constants) -> int:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return 0 if bias is None else constants.size(bias) or 0


def _number(node: ir.Node, name: str, default: int | float) -> int:
    """A scalar attribute; typed int because nearly all of them are."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value  # type: ignore[return-value]


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return default if attribute is None else tuple(attribute.as_ints())


def linear_cost(
    form: Form, weight_shape: Sequence[int], input_shape: Shape | None, itemsize: int, bias: bool = True
) -> Cost:
    """The cost of a linear operator with weights [out, in/group, *kernel] on an input of this shape.

    MACs are None where a size of the input is unknown. The seconds come from the static time model.
    """
    params = math.prod(weight_shape) + (weight_shape[0] if bias else 0)
    if input_shape is None or any(size is None for size in input_shape):
        return Cost(None, params, params * itemsize)
    sizes = [size for size in input_shape if size is not None]
    kernel = tuple(weight_shape[2:])
    if not kernel:  # Gemm and MatMul: all axes but the last are positions
        read = written = math.prod(sizes[:-1])
    else:
        read = sizes[0] * math.prod(sizes[2:])
        written = sizes[0] * math.prod(form.output_sizes(sizes[2:], kernel))
    macs = (read if form.op == "ConvTranspose" else written) * math.prod(weight_shape)
    out, inside = weight_shape[0], weight_shape[1]
    moved = (read * inside * form.group + written * out) * itemsize
    expected = seconds(
        *(macs, out, inside, form.group, moved),
        column_bytes=_columns(form, weight_shape, read, written) * itemsize,
        planar=form.op == "Conv" and len(kernel) == 2,
    )
    return Cost(macs, params, params * itemsize, written * out * itemsize, expected)


def _columns(form: Form, weight_shape: Sequence[int], read: int, written: int) -> int:
    """Elements of the matrix of taps: what outputs read, or what a ConvTranspose's inputs make."""
    taps = math.prod(weight_shape[2:])
    if form.op == "ConvTranspose":
        return read * weight_shape[0] * taps
    if taps == 1 and not form.strided and not form.padded:  # the input is that matrix
        return 0
    return written * weight_shape[1] * form.group * taps


class Builder:
    """Collects the nodes and constants of one `Replacement`.

    Args:
        dtype: the float type of the constants that are made.
    """

    def __init__(self, dtype: np.dtype[np.floating]) -> None:
        self._dtype = dtype
        self._nodes: list[NewNode] = []
        self._constants: dict[str, npt.NDArray[np.generic]] = {}

    def constant(self, array: npt.NDArray[np.generic], hint: str, *, keep_type: bool = False) -> str:
        """Adds a constant; float arrays are cast to the builder's type, unless they keep their own."""
        name = f"%{hint}{len(self._constants)}"
        kind = self._dtype if array.dtype.kind == "f" and not keep_type else array.dtype
        self._constants[name] = np.asarray(array, dtype=kind, order="C")
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str | None],
        attributes: Mapping[str, AttributeValue] | None = None,
        name: str = "",
    ) -> str:
        """Adds a node with one output and returns the output's local name."""
        return self.outputs(op_type, inputs, 1, attributes, name)[0]

    def outputs(
        self,
        op_type: str,
        inputs: Sequence[str | None],
        number: int,
        attributes: Mapping[str, AttributeValue] | None = None,
        name: str = "",
    ) -> tuple[str, ...]:
        """Adds a node with several outputs and returns their local names."""
        made = tuple(f"%y{len(self._nodes)}{f'_{i}' if i else ''}" for i in range(number))
        self._nodes.append(NewNode(op_type, tuple(inputs), made, attributes or {}, "", name))
        return made

    def linear(
        self,
        form: Form,
        x: str,
        weight: Array,
        bias: Array | None,
        *,
        rank: int | None = None,
        name: str = "",
    ) -> str:
        """Adds a linear operator with weights [out, in/group, *kernel] and bias [out].

        Args:
            form: its strides, pads and the like.
            x: the input's name.
            weight: the weights.
            bias: the bias; None or all zero adds none.
            rank: rank of the output, which decides what carries the bias of a MatMul.
            name: suffix of the node's name.

        Returns:
            The output's local name.
        """
        if bias is not None and not np.any(bias):
            bias = None
        if form.op == "MatMul":
            return self._matmul(x, weight, bias, rank, name)
        if form.op == "ConvTranspose":
            weight = algebra.transpose_layout(weight, form.group)
        if form.op == "Gemm" and bias is None:
            bias = np.zeros(len(weight))  # up to opset 10 a Gemm has to have one
        inputs: list[str | None] = [x, self.constant(weight, "weight")]
        if bias is not None:
            inputs.append(self.constant(bias, "bias"))
        return self.node(form.op, inputs, _attributes(form, weight.shape[2:]), name)

    def like(
        self, linear: Linear, form: Form, x: str, *, bias: bool = True, weight: str | None = None
    ) -> str:
        """Adds a linear operator of another form that reads the very weights of one that is there.

        Args:
            linear: the operator whose weights and bias are read.
            form: the new operator's strides, pads and the like.
            x: the input's name.
            bias: whether it has the bias too.
            weight: name of another value with the weights, of the same layout.

        Returns:
            The output's local name.
        """
        weights = [
            None if value is None else value.name for value in linear.node.inputs[1 : 3 if bias else 2]
        ]
        if weight is not None:
            weights[0] = weight
        return self.node(form.op, [x, *weights], _attributes(form, linear.kernel))

    def again(self, linear: Linear) -> str:
        """Adds a copy of a linear operator, attributes, weights and all; returns its output's local name."""
        names = [None if value is None else value.name for value in linear.node.inputs]
        attributes: dict[str, AttributeValue] = {}
        for key, attribute in linear.node.attributes.items():
            value = attribute.value
            attributes[key] = tuple(value) if isinstance(value, (list, tuple)) else value
        return self.node(linear.op, names, attributes)

    def _matmul(self, x: str, weight: Array, bias: Array | None, rank: int | None, name: str) -> str:
        if bias is None:
            return self.node("MatMul", [x, self.constant(weight.T, "weight")], {}, name)
        constant = self.constant(weight.T, "weight")
        if rank == 2:
            return self.node("Gemm", [x, constant, self.constant(bias, "bias")], {}, name)
        product = self.node("MatMul", [x, constant], {}, name)
        return self.node("Add", [product, self.constant(bias, "bias")], {}, f"{name}/bias")

    def replacement(self, outputs: Mapping[str, str]) -> Replacement:
        """What was collected; ``outputs`` maps each replaced value to its replacement's name."""
        return Replacement(tuple(self._nodes), dict(self._constants), dict(outputs))


def _attributes(form: Form, kernel: Sequence[int]) -> dict[str, AttributeValue]:
    if form.op == "Gemm":
        return {"transB": 1}
    attributes: dict[str, AttributeValue] = {
        "kernel_shape": tuple(kernel),
        "strides": form.strides,
        "pads": form.pads,
        "dilations": form.dilations,
        "group": form.group,
    }
    if any(form.output_padding):
        attributes["output_padding"] = form.output_padding
    return attributes
