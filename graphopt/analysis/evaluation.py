"""Evaluates small deterministic operators: on constants, and on sizes on their way to a Reshape or Pad."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.analysis.attributes import slice_ranges, taken
from graphopt.analysis.operators import BROADCASTING, FUNCTIONS, VIEWS, is_standard

SMALL_SIZE = 4096
"""Arithmetic is done on tensors of at most this many elements: sizes, axes and scales, never weights.
Measured by benchmarks.thresholds: any value from 16 to 1,000,000 gives the same on nine architectures."""

AnyArray: TypeAlias = npt.NDArray[Any]

LAYOUT_OPS = VIEWS | {"Identity", "Transpose", "Cast"}
"""Keep every element of their first input: followed on tensors of any size."""

MOVING_OPS = LAYOUT_OPS | {"Gather", "Slice", "Expand", "Tile"}
"""Each element of the output is one of the first input, chosen by the other inputs."""

ELEMENTWISE_OPS = frozenset({"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Neg", "Abs", "Floor", "Ceil"})
"""Each element of the output depends on the elements in its place."""

_SMALL_OPS = frozenset(
    {"And", "Clip", "ConstantOfShape", "Concat", "CumSum", "Equal", "Exp", "GatherElements", "GatherND"}
    | {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Not", "Or", "Pow", "Range", "Reciprocal"}
    | {"ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Round", "ScatterElements", "ScatterND", "Shape"}
    | {"Sign", "Size", "Sqrt", "Where"}
)

FOLDABLE_OPS = MOVING_OPS | ELEMENTWISE_OPS | _SMALL_OPS
"""Every operator of the default domain that `evaluate` computes. Quantisation and random numbers are not."""


WEIGHT_OPS = (
    MOVING_OPS
    | ELEMENTWISE_OPS
    | (FUNCTIONS - {"Gelu"})  # which onnx's reference lacks
    | {"CastLike", "Clip", "Concat", "ConstantOfShape", "MatMul", "Pow", "Shape", "Split", "Sum", "Where"}
    | {"Max", "Mean", "Min", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}
    | {"ReduceSum", "ReduceSumSquare", "BatchNormalization", "InstanceNormalization", "LpNormalization"}
    | {"And", "DepthToSpace", "Einsum", "Equal", "GatherND", "Gemm", "Greater", "GreaterOrEqual"}
    | {"LayerNormalization", "Less", "LessOrEqual", "Not", "Or", "Pad", "ReduceLogSum"}
    | {"ReduceLogSumExp", "ScatterElements", "ScatterND", "Softmax", "SpaceToDepth", "Trilu"}
)
"""What weights are computed by, such as normalised or standardised ones, whatever their size: operators of
whose output a bound is known before it is made."""

NARROW = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Types that onnxruntime computes in float32 and rounds at the end, with the part of a number that takes."""

_SEVERAL_OUTPUTS = frozenset({"BatchNormalization", "Split"})


def computes(node: ir.Node) -> bool:
    """Whether `evaluate` knows the operator for constants, also where it has several outputs."""
    if foldable(node):
        return True
    if not is_standard(node) or node.op_type not in WEIGHT_OPS:
        return False
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return False
    return len(node.outputs) == 1 or node.op_type in _SEVERAL_OUTPUTS


def node_proto(node: ir.Node) -> onnx.NodeProto:
    """The node, its inputs called i0, i1, … ("" where one is left out) and its outputs o0, o1 and so on."""
    return onnx.NodeProto(
        op_type=node.op_type,
        domain=node.domain,
        input=["" if value is None else f"i{i}" for i, value in enumerate(node.inputs)],
        output=[f"o{i}" for i in range(len(node.outputs))],
        attribute=[ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values()],
    )


def foldable(node: ir.Node) -> bool:
    """Whether `evaluate` knows the operator, in the form that the node has."""
    if not is_standard(node) or node.op_type not in FOLDABLE_OPS or len(node.outputs) != 1:
        return False
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return False
    return node.op_type != "Cast" or _cast_type(node) is not None


def evaluate(
    node: ir.Node,
    inputs: Sequence[AnyArray | None],
    opset: int,
    *,
    output: int = 0,
    most: int = SMALL_SIZE,
) -> AnyArray | None:
    """An output of a node on these inputs.

    Args:
        node: a node that is `foldable`, or that `computes`.
        inputs: an array for each input; None for an optional input that is left out.
        opset: the version of the default domain that the model imports.
        output: which of its outputs.
        most: elements that it may have, unless it is a mere change of layout.

    Returns:
        The output; None where it can't be computed, or would have more elements.
    """
    try:
        with np.errstate(all="ignore"):
            if node.op_type not in LAYOUT_OPS and _output_size(node, inputs) > most:
                return None
            if node.op_type in MOVING_OPS:
                return _made(node, inputs, opset, output)
            wide = [array if array is None else widened(array) for array in inputs]
            made = _made(node, wide, opset, output)
            kind = next((a.dtype for a in inputs if a is not None and _is_float(a)), made.dtype)
            return made.astype(kind) if kind.name in NARROW and made.dtype == np.float32 else made
    except Exception:
        # The rules and onnx's reference raise whatever NumPy raises. A node that can't be computed here is no
        # constant; if it is wrong, shape inference says so with a better message.
        return None


def widened(array: AnyArray) -> AnyArray:
    """The same numbers in float32 where the type is narrower; other arrays as they are."""
    return array.astype(np.float32) if array.dtype.name in NARROW else array


def _is_float(array: AnyArray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name in NARROW  # bfloat16 is no kind of NumPy's


def _made(node: ir.Node, inputs: Sequence[AnyArray | None], opset: int, output: int) -> AnyArray:
    """An output of the node, in the types that its inputs have."""
    rule = _RULES.get(node.op_type)
    if rule is None:
        return _by_reference(node, inputs, opset, output)
    return np.asarray(rule(node, *inputs))


def _output_size(node: ir.Node, inputs: Sequence[AnyArray | None]) -> int:
    """An upper bound on the output's elements, so that nothing large is made of small inputs."""
    arrays = [array for array in inputs if array is not None]
    if node.op_type == "ConstantOfShape":
        return math.prod(int(size) for size in arrays[0])
    if node.op_type in ("Shape", "Size"):
        return arrays[0].ndim + 1
    if node.op_type == "MatMul":
        first, second = (array.shape if array.ndim > 1 else (1, array.size) for array in arrays)
        return int(math.prod(np.broadcast_shapes(first[:-2], second[:-2])) * first[-2] * second[-1])
    if node.op_type == "Expand":
        return math.prod(np.broadcast_shapes(arrays[0].shape, tuple(arrays[1].tolist())))
    if node.op_type == "Tile":
        return int(arrays[0].size * math.prod(arrays[1].tolist()))
    if node.op_type == "Range":
        start, limit, delta = (float(array) for array in arrays)
        return max(0, math.ceil((limit - start) / delta))
    if node.op_type == "Gather":
        axis = node.attributes.get_int("axis", 0)
        return int(arrays[1].size * (arrays[0].size // max(1, arrays[0].shape[axis])))
    if node.op_type == "Gemm":
        first, second = (array.shape for array in arrays[:2])
        rows, columns = (node.attributes.get_int(name, 0) for name in ("transA", "transB"))
        return int(first[1 if rows else 0] * second[0 if columns else 1])
    if node.op_type == "Pad":
        added = _ints(node, "pads", inputs[1] if len(inputs) > 1 else None) or ()
        rank = arrays[0].ndim
        axes = _ints(node, "axes", inputs[3] if len(inputs) > 3 else None) or range(rank)
        widths = dict(
            zip(
                (a % rank for a in axes),
                zip(added[: len(axes)], added[len(axes) :], strict=True),
                strict=True,
            )
        )
        return math.prod(max(n, n + sum(widths.get(a, (0, 0)))) for a, n in enumerate(arrays[0].shape))
    if node.op_type == "GatherND":
        chosen = arrays[1].shape[-1] + node.attributes.get_int("batch_dims", 0)
        return int(arrays[1].size // max(1, arrays[1].shape[-1])) * math.prod(arrays[0].shape[chosen:])
    if node.op_type == "Einsum":
        return _einsum_size(node.attributes.get_string("equation", ""), arrays)
    if node.op_type == "Concat":
        return sum(array.size for array in arrays)
    if node.op_type in ELEMENTWISE_OPS or node.op_type in BROADCASTING:
        return math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    return max(array.size for array in arrays)


def _einsum_size(equation: str, arrays: Sequence[AnyArray]) -> int:
    """The elements of a sum of products of arrays, or of the largest MatMul that takes as many steps."""
    given, arrow, made = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    rests: list[tuple[int, ...]] = []
    for term, array in zip(given.split(","), arrays, strict=True):
        before, ellipsis, after = term.partition("...")
        rests.append(array.shape[len(before) : array.ndim - len(after)] if ellipsis else ())
        named = [*zip(before, array.shape, strict=False)]
        named += zip(reversed(after), reversed(array.shape), strict=False)
        sizes.update({label: max(size, sizes.get(label, 1)) for label, size in named})
    sizes["..."] = math.prod(np.broadcast_shapes(*rests))
    kept = [label for label in sizes if label in made or (not arrow and given.count(label) == 1)]
    steps = math.prod(sizes.values())
    return max(math.prod(sizes[label] for label in kept), math.ceil(math.pow(steps, 2 / 3)))


def _by_reference(node: ir.Node, inputs: Sequence[AnyArray | None], opset: int, output: int) -> AnyArray:
    """Run the node in onnx's reference implementation."""
    from onnx.reference import ReferenceEvaluator  # takes 40 ms to import; most models never need it

    feeds = {f"i{i}": array for i, array in enumerate(inputs) if array is not None}
    outputs = list(ReferenceEvaluator(node_proto(node), opsets={"": opset}).run(None, feeds))
    return np.asarray(outputs[output])


def _ints(node: ir.Node, name: str, given: AnyArray | None = None) -> tuple[int, ...] | None:
    """What older opsets keep in an attribute and newer ones take as an input."""
    if given is not None:
        return tuple(given.ravel().tolist())
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def _cast_type(node: ir.Node) -> np.dtype[Any] | None:
    """What the Cast casts to, where NumPy casts in the same way: not to text or to 4- and 8-bit floats."""
    attribute = node.attributes.get("to")
    if attribute is None or attribute.type != ir.AttributeType.INT:
        return None  # up to opset 5 it was the type's name
    target = ir.DataType(attribute.as_int())
    if target == ir.DataType.STRING or target.bitwidth < 8:
        return None
    if target.is_floating_point() and target.bitwidth < 16:
        return None
    return target.numpy()


def _cast(node: ir.Node, x: AnyArray) -> AnyArray:
    target = _cast_type(node)
    if target is None or x.dtype.kind in "OSU":
        raise TypeError("text")
    return x.astype(target)


def _transpose(node: ir.Node, x: AnyArray) -> AnyArray:
    return np.transpose(x, _ints(node, "perm"))


def _unsqueeze(node: ir.Node, x: AnyArray, axes: AnyArray | None = None) -> AnyArray:
    return np.expand_dims(x, _ints(node, "axes", axes) or ())


def _squeeze(node: ir.Node, x: AnyArray, axes: AnyArray | None = None) -> AnyArray:
    return np.squeeze(x, _ints(node, "axes", axes))


def _reshape(node: ir.Node, x: AnyArray, shape: AnyArray | None = None) -> AnyArray:
    sizes = _ints(node, "shape", shape) or ()
    if not node.attributes.get_int("allowzero", 0):
        sizes = tuple(x.shape[i] if size == 0 else size for i, size in enumerate(sizes))
    return x.reshape(sizes)


def _flatten(node: ir.Node, x: AnyArray) -> AnyArray:
    axis = node.attributes.get_int("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim]), -1)


def _gather(node: ir.Node, x: AnyArray, indices: AnyArray) -> AnyArray:
    return np.take(x, indices, axis=node.attributes.get_int("axis", 0))


def _slice(node: ir.Node, x: AnyArray, *inputs: AnyArray | None) -> AnyArray:
    known = dict(zip(node.inputs, (x, *inputs), strict=False))
    for axis, entry in (slice_ranges(node, known.get) or {}).items():
        found = taken(entry, x.shape[axis])
        x = np.moveaxis(np.moveaxis(x, axis, 0)[list(found)], 0, axis)
    return x


def _concat(node: ir.Node, *arrays: AnyArray) -> AnyArray:
    return np.concatenate(arrays, axis=node.attributes.get_int("axis", 1))


def _divide(node: ir.Node, a: AnyArray, b: AnyArray) -> AnyArray:
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    if not b.all():
        raise ZeroDivisionError
    quotient = np.floor_divide(np.abs(a), np.abs(b))  # whole numbers divide towards zero
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def _constant_of_shape(node: ir.Node, shape: AnyArray) -> AnyArray:
    tensor = node.attributes.get_tensor("value")
    value = np.zeros(1, dtype=np.float32) if tensor is None else tensor.numpy()
    return np.full(tuple(shape.tolist()), value.ravel()[0], dtype=value.dtype)


def _lp_normalization(node: ir.Node, x: AnyArray) -> AnyArray:
    """By onnx's text, and onnxruntime's: its reference sums without absolute values where p is 1."""
    order, axis = node.attributes.get_int("p", 2), node.attributes.get_int("axis", -1)
    norm = np.linalg.norm(x.astype(np.float64), order, axis, keepdims=True)
    parts: AnyArray = np.divide(x, norm, out=np.zeros_like(x, np.float64), where=norm != 0)
    return parts.astype(x.dtype)


_RULES: dict[str, Callable[..., AnyArray]] = {
    "Identity": lambda node, x: x,
    "Cast": _cast,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Add": lambda node, a, b: np.add(a, b),
    "Sub": lambda node, a, b: np.subtract(a, b),
    "Mul": lambda node, a, b: np.multiply(a, b),
    "Div": _divide,
    "LpNormalization": _lp_normalization,
}
"""The most common operators in NumPy: a hundredth of the time that onnx's reference takes."""
