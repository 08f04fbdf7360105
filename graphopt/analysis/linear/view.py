"""How the normal view of a node is made, and what keeps rewrites away from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.costs import is_linear
from graphopt.analysis.linear.form import Form
from graphopt.analysis.linear.operator import Linear, number
from graphopt.analysis.shapes.windows import same_pads, split_pads
from graphopt.types import Shape


def view(
    node: ir.Node,
    *,
    name: str,
    graph: str,
    constants: Constants,
    input_shape: Shape | None,
    weight_shape: Shape | None,
    output_shape: Shape | None,
    fixed_shape: Callable[[], Shape | None],
    macs: int | None,
    quantised: bool,
) -> Linear | None:
    """The normal view of a node; None when the node is no linear operator or its weight's rank is unknown.

    Whatever can be scanned gets a view; `Linear.obstacle` says what keeps rewrites away from it.

    Args:
        node: any node.
        name: what the snapshot calls it.
        graph: path of the graph that it is in.
        constants: the model's.
        input_shape: of its first input; None where unknown, as all that follow.
        weight_shape: of its weights, as they are stored.
        output_shape: of its output.
        fixed_shape: that of its first input as far as it holds for every run.
        macs: what it was counted to take.
        quantised: whether it reads or writes quantised values.

    Returns:
        Channels, kernel and form, and what keeps rewrites away, or None.
    """
    if not is_linear(node):
        return None
    kernel, in_channels, out_channels = _channels(node, input_shape, weight_shape)
    input_shape = _with_channels(node, input_shape, in_channels)
    form, problem = _form(node, kernel, input_shape, fixed_shape)
    untouchable, too_large = _blocked(node, quantised), _too_large(input_shape, output_shape)
    unreadable = _obstacle(node, constants, weight_shape, out_channels)
    blocked = untouchable or problem or too_large
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
        obstacle=blocked or unreadable,
        fixed=untouchable or too_large or unreadable,
        node=node,
        constants=constants,
    )


def _channels(
    node: ir.Node, x: Shape | None, w: Shape | None
) -> tuple[tuple[int, ...], int | None, int | None]:
    """Kernel, input and output channels, from the shapes of input and weight."""
    if node.op_type in ("Gemm", "MatMul"):
        rows = None if x is None else x[0 if number(node, "transA", 0) else -1]
        if w is None:
            return (), rows, None
        if node.op_type == "MatMul" and len(w) == 1:
            return (), w[0] if rows is None else rows, 1
        inner, outer = (w[-1], w[-2]) if number(node, "transB", 0) else (w[-2], w[-1])
        return (), inner if rows is None else rows, outer
    group = number(node, "group", 1)
    kernel: tuple[int, ...] = tuple(node.attributes.get_ints("kernel_shape", ()))
    if w is None:
        return kernel, None if x is None else x[1], None
    if not kernel:
        kernel = tuple(k or 0 for k in w[2:])
    if node.op_type == "Conv":
        return kernel, None if w[1] is None else w[1] * group, w[0]
    return kernel, w[0], None if w[1] is None else w[1] * group


def _with_channels(node: ir.Node, shape: Shape | None, channels: int | None) -> Shape | None:
    """The input's shape with the channels that the weight tells, where nothing else does."""
    if not shape:
        return shape
    inner = 0 if number(node, "transA", 0) else len(shape) - 1
    axis = inner if node.op_type in ("Gemm", "MatMul") else 1
    return tuple(channels if size is None and a == axis else size for a, size in enumerate(shape))


def _form(
    node: ir.Node, kernel: tuple[int, ...], x: Shape | None, fixed: Callable[[], Shape | None]
) -> tuple[Form, str]:
    """The form, and what about it can't be put into explicit pads ("" when nothing)."""
    if node.op_type in ("Gemm", "MatMul"):
        return Form(node.op_type), ""
    axes = len(kernel)
    ints = node.attributes.get_ints
    strides, dilations = (tuple(ints(key, (1,) * axes)) for key in ("strides", "dilations"))
    pads = tuple(ints("pads", (0,) * 2 * axes))
    added = tuple(ints("output_padding", (0,) * axes)) if node.op_type == "ConvTranspose" else ()
    form = Form(node.op_type, number(node, "group", 1), strides, pads, dilations, added)
    name = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    if node.op_type == "ConvTranspose" and "output_shape" in node.attributes:
        return _of_output_shape(form, kernel, ints("output_shape", ())[-axes:], fixed(), name)
    if name == "NOTSET":
        return form, ""
    if name not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        return form, f"auto_pad={name} is none"
    if name == "VALID":
        return replace(form, pads=(0,) * 2 * axes), ""
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose":  # as many outputs as inputs times the stride, where taps reach so far
        totals = [max(e + a - s, 0) for e, a, s in zip(extents, added, strides, strict=True)]
        return replace(form, pads=split_pads(totals, upper=name == "SAME_UPPER")), ""

    def same(shape: Shape | None) -> tuple[int, ...] | None:
        return same_pads(extents, strides, None if shape is None else shape[2:], upper=name == "SAME_UPPER")

    holding = same(None) or same(fixed())
    if holding is not None:
        return replace(form, pads=holding), ""
    return replace(form, pads=same(x) or (0,) * 2 * axes, auto_pad=name), ""


def _of_output_shape(
    form: Form, kernel: Sequence[int], wanted: Sequence[int], x: Shape | None, auto_pad: str
) -> tuple[Form, str]:
    """The form of a ConvTranspose that names the sizes it makes, and why it is none."""
    if x is None or None in x[2:] or len(wanted) < len(kernel):
        return form, "its output_shape attribute decides the pads, and the size of its input is open"
    whole = replace(form, pads=(0,) * len(form.pads)).output_sizes([size or 0 for size in x[2:]], kernel)
    totals = [made - size for made, size in zip(whole, wanted, strict=True)]
    added = tuple(a + max(-total, 0) for a, total in zip(form.output_padding, totals, strict=True))
    if any(rows >= stride for rows, stride in zip(added, form.strides, strict=True) if rows):
        return (
            form,
            f"its output_shape attribute asks for {list(wanted)}, more than the {list(whole)} that it makes",
        )
    pads = split_pads([max(total, 0) for total in totals], upper=auto_pad == "SAME_UPPER")
    return replace(form, pads=pads, output_padding=added), ""


def _blocked(node: ir.Node, quantised: bool) -> str:
    """Why the operator may not be touched at all; "" when it may."""
    if quantised:
        return "it is in a quantised region (QuantizeLinear/DequantizeLinear), which is left alone"
    if number(node, "transA", 0):
        return "its input is transposed (transA=1)"
    return ""


FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
"""The types of weights that may be read and replaced."""


LARGEST_MAP = 2**31 - 1
"""Elements that a map may have: derived, kernels of onnxruntime count them in 32 bits."""


def _too_large(*shapes: Shape | None) -> str:
    """Why an operator between maps can't be run; "" when it can."""
    for shape in shapes:
        if shape is not None and math.prod(size for size in shape if size is not None) > LARGEST_MAP:
            return f"a map of {'x'.join('?' if size is None else str(size) for size in shape)} is too large"
    return ""


def _obstacle(
    node: ir.Node, constants: Constants, weight_shape: Shape | None, out_channels: int | None
) -> str:
    """Why the weights may not be read and replaced; "" when they may."""
    for value in node.inputs[1:3]:
        if value is not None and not constants.is_constant(value):
            return why_no_constant(constants, value)
        if value is not None and constants.size(value) == 0:
            return f"{value.name} is empty"
        if value is not None and constants.is_sparse(value):
            return f"{value.name} is stored sparse, and would be stored dense"
    weight = node.inputs[1]
    kind = None if weight is None else constants.dtype(weight)
    if weight is None or kind is None or kind.name not in FLOATS:
        return "its weight has no float type"
    if node.op_type == "MatMul" and (weight_shape is None or len(weight_shape) != 2):
        return f"{weight.name} is no matrix"
    if node.op_type == "Gemm" and _bias_elements(node, constants):
        return _gemm_bias_problem(node, constants, out_channels)
    return ""


FREEZE = '"freeze_initializers"'
"""The option that makes constants of initializers that are inputs too, as reasons and notes name options."""


def why_no_constant(constants: Constants, value: ir.Value) -> str:
    """What a value that is no constant is instead."""
    if constants.overridable(value):
        return f"{value.name} is an initializer that a caller may override; {FREEZE} makes it a constant"
    operator = constants.uncomputed(value)
    if operator and constants.unsettled(value):
        return (
            f"{value.name} is computed from constants by {operator}, in a range where it depends on the "
            "machine how its type rounds"
        )
    if operator:
        return f"{value.name} is computed from constants by {operator}, in a way that is not followed"
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
