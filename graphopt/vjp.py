"""How each operator turns the gradient of its output into the gradient of what it reads.

One function an operator: from the gradient g of an operator's output it makes, out of operators that
onnxruntime runs, Jᵀ g for each of the operator's inputs ("vector-Jacobian product"). Three of the rules are
approximate, near enough for statistics: elementwise functions are differentiated by a central difference,
a Resize counts as one to the nearest neighbour, and ties in a MaxPool count for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.analysis import Analysis
from graphopt.conv import Linear
from graphopt.core import Shape

Gradient: TypeAlias = "str | None"
"""The name of a gradient; None where an input has none."""

STEP = 1e-2
"""Of the central difference of an elementwise function."""
ELEMENTWISE = frozenset(
    [
        "Affine",
        "Abs",
        "Celu",
        "Clip",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "ImageScaler",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Pow",
        "PRelu",
        "Reciprocal",
        "Selu",
        "Sigmoid",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tanh",
        "ThresholdedRelu",
    ]
)
"""Operators that take each number of their first input to one of the output, the others being constant."""


WHOLE = frozenset(
    [
        "ArgMax",
        "ArgMin",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "NonZero",
        "Not",
        "Shape",
        "Size",
    ]
)
"""Operators that make whole numbers or truth values, through which no gradient goes."""


class UnsupportedError(Exception):
    """There is no rule for an operator, or not for this form of it."""


class Tape:
    """Takes down operators that make gradients.

    Args:
        analysis: a snapshot of the model.
        moving: names of the values whose gradients are of interest.

    Attributes:
        nodes: the operators so far.
        constants: their constants, by name.
    """

    def __init__(self, analysis: Analysis, moving: Collection[str]) -> None:
        self.analysis = analysis
        self._moving = moving
        self.version = analysis.model.opset_imports.get("", 1)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}

    def moves(self, value: ir.Value | None) -> bool:
        """Whether a value's gradient is of interest."""
        return value is not None and value.name in self._moving

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """An operator; returns the name of its output."""
        output = f"gradient/{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """A constant; returns its name."""
        name = f"gradient/constant/{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def sum(self, parts: Sequence[str]) -> str:
        """The sum of values."""
        return parts[0] if len(parts) == 1 else self.op("Sum", *parts)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """A value in another shape; 0 stands for the size as it is."""
        return self.op("Reshape", x, self.constant(shape, np.int64))

    def like(self, x: str, other: str) -> str:
        """A value in the shape of another one of as many numbers."""
        return self.op("Reshape", x, self.op("Shape", other))

    def total(self, x: str, axes: Sequence[int], *, mean: bool = False) -> str:
        """The sum or mean over axes, which are kept."""
        kind, since = ("ReduceMean", 18) if mean else ("ReduceSum", 13)
        if self.version >= since:
            return self.op(kind, x, self.constant(axes, np.int64), keepdims=1)
        return self.op(kind, x, axes=list(axes), keepdims=1)

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """A value's shape, the batch of the snapshot.

        Raises:
            UnsupportedError: it is not known.
        """
        shape = self.analysis.shape(value)
        return _known(shape)

    def along(self, g: str, rank: int, axis: int, matrix: npt.NDArray[Any]) -> str:
        """Multiplies an axis by a matrix ``[n, m]``: n numbers on it become m."""
        order = [a for a in range(rank) if a != axis] + [axis]
        turned = self.op("Transpose", g, perm=order)
        product = self.op("MatMul", turned, self.constant(matrix))
        return self.op("Transpose", product, perm=[order.index(a) for a in range(rank)])

    def reduced(self, g: str, node: ir.Node, index: int) -> str:
        """A gradient summed over the axes on which an input was repeated."""
        ours, theirs = self.shape(node.inputs[index]), self.shape(node.outputs[0])
        more = len(theirs) - len(ours)
        if axes := [a for a, n in enumerate(theirs) if n > 1 and (a < more or ours[a - more] == 1)]:
            g = self.total(g, axes)
        return self.like(g, _name(node.inputs[index])) if more else g


def _known(shape: Shape | None) -> tuple[int, ...]:
    if shape is None or None in shape:
        raise UnsupportedError
    return tuple(int(size or 0) for size in shape)


def _name(value: ir.Value | None) -> str:
    if value is None or not value.name:
        raise UnsupportedError
    return value.name


Rule: TypeAlias = Callable[[Tape, ir.Node, str], Sequence[Gradient]]


# ---------------------------------------------------------------- linear operators


def _convolution(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    linear = tape.analysis.linear(node)
    if linear is None:
        raise UnsupportedError
    weight, kernel, (inside, outside) = _name(node.inputs[1]), linear.kernel, _sizes(tape, node)
    strides, dilations = linear.form.strides, linear.form.dilations
    form = {"strides": strides, "dilations": dilations, "group": linear.group}
    if linear.op == "ConvTranspose":
        begin = _begin(linear, inside, outside)
        pads = _transposed(outside, inside, kernel, strides, dilations, begin)["pads"]
        return [tape.op("Conv", g, weight, pads=pads, **form)]
    if linear.blocked:
        raise UnsupportedError
    back = _transposed(inside, outside, kernel, strides, dilations, linear.form.pads)
    return [tape.op("ConvTranspose", g, weight, **form, **back)]


def _begin(linear: Linear, inside: Sequence[int], outside: Sequence[int]) -> Sequence[int]:
    """What a ConvTranspose cuts off at the start of each axis; an output_shape decides it."""
    if "output_shape" not in linear.node.attributes:
        return linear.form.pads
    upper = linear.node.attributes.get_string("auto_pad", "NOTSET") == "SAME_UPPER"
    found = []
    for axis, (n, m, k) in enumerate(zip(inside, outside, linear.kernel, strict=True)):
        spare = (n - 1) * linear.form.strides[axis] + linear.form.dilations[axis] * (k - 1) + 1 - m
        found.append(max(spare, 0) // 2 if upper else -(-max(spare, 0) // 2))
    return found


def _sizes(tape: Tape, node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The spatial sizes of what an operator reads and makes."""
    return tape.shape(node.inputs[0])[2:], tape.shape(node.outputs[0])[2:]


def _transposed(
    inside: Sequence[int],
    outside: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> dict[str, list[int]]:
    """Pads with which a ConvTranspose makes the inside of a sliding window out of its outside."""
    begin, end, added = list(pads[: len(kernel)]), [], []
    for axis, (n, m, k) in enumerate(zip(inside, outside, kernel, strict=True)):
        covered = (m - 1) * strides[axis] + dilations[axis] * (k - 1) + 1 - begin[axis]
        end.append(max(covered - n, 0))
        added.append(max(n - covered, 0))
    if any(more >= max(s, d) for more, s, d in zip(added, strides, dilations, strict=True)):
        raise UnsupportedError
    return {"pads": begin + end, "output_padding": added}


def _gemm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    if node.attributes.get_int("transA", 0):
        raise UnsupportedError
    alpha, turned = node.attributes.get_float("alpha", 1.0), node.attributes.get_int("transB", 0)
    weight = _name(node.inputs[1])
    product = tape.op("MatMul", g, weight if turned else tape.op("Transpose", weight, perm=[1, 0]))
    return [product if alpha == 1 else tape.op("Mul", product, tape.constant(alpha))]


def _matmul(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    shapes = [tape.shape(value) for value in node.inputs]
    if min(map(len, shapes)) < 2:
        raise UnsupportedError
    a, b = node.inputs
    left, right = None, None
    if tape.moves(a):
        left = _reduced_rows(tape, tape.op("MatMul", g, _turned(tape, _name(b), len(shapes[1]))), node, 0)
    if tape.moves(b):
        right = _reduced_rows(tape, tape.op("MatMul", _turned(tape, _name(a), len(shapes[0])), g), node, 1)
    return [left, right]


def _turned(tape: Tape, x: str, rank: int) -> str:
    return tape.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _reduced_rows(tape: Tape, g: str, node: ir.Node, index: int) -> str:
    """A gradient summed over the leading axes on which a matrix was repeated."""
    ours, theirs = tape.shape(node.inputs[index])[:-2], tape.shape(node.outputs[0])[:-2]
    more = len(theirs) - len(ours)
    if axes := [a for a, n in enumerate(theirs) if a < more or (n > 1 and ours[a - more] == 1)]:
        g = tape.total(g, axes)
        return tape.like(g, _name(node.inputs[index]))
    return g


# ---------------------------------------------------------------- arithmetic


def _elementwise(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    step = tape.constant(STEP)
    ends = []
    for moved in (tape.op("Add", _name(node.inputs[0]), step), tape.op("Sub", _name(node.inputs[0]), step)):
        copy = ir.to_proto(node)
        copy.input[0] = moved
        copy.output[0] = f"{moved}/through"
        copy.name = ""
        tape.nodes.append(copy)
        ends.append(copy.output[0])
    slope = tape.op("Mul", tape.op("Sub", *ends), tape.constant(1 / (2 * STEP)))
    return [tape.op("Mul", g, slope)]


def _relu(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    return [_where(tape, g, tape.op("Greater", _name(node.outputs[0]), tape.constant(0.0)))]


def _where(tape: Tape, g: str, condition: str) -> str:
    """A gradient where a condition holds, and 0 elsewhere."""
    return tape.op("Mul", g, tape.op("Cast", condition, to=onnx.TensorProto.FLOAT))


def _add(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    return [tape.reduced(g, node, i) if tape.moves(v) else None for i, v in enumerate(node.inputs)]


def _subtract(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    return [
        tape.reduced(g, node, 0) if tape.moves(node.inputs[0]) else None,
        tape.reduced(tape.op("Neg", g), node, 1) if tape.moves(node.inputs[1]) else None,
    ]


def _multiply(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    a, b = node.inputs
    return [
        tape.reduced(tape.op("Mul", g, _name(b)), node, 0) if tape.moves(a) else None,
        tape.reduced(tape.op("Mul", g, _name(a)), node, 1) if tape.moves(b) else None,
    ]


def _divide(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    a, b = node.inputs
    above = tape.op("Div", g, _name(b))
    below = tape.op("Neg", tape.op("Mul", above, _name(node.outputs[0])))
    return [
        tape.reduced(above, node, 0) if tape.moves(a) else None,
        tape.reduced(below, node, 1) if tape.moves(b) else None,
    ]


def _softmax(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    rank, y = len(tape.shape(node.outputs[0])), _name(node.outputs[0])
    axis = node.attributes.get_int("axis", -1 if tape.version >= 13 else 1) % rank
    axes = [axis] if tape.version >= 13 else range(axis, rank)
    mean = tape.total(tape.op("Mul", g, y), axes)
    return [tape.op("Mul", y, tape.op("Sub", g, mean))]


# ---------------------------------------------------------------- normalisation


def _batch_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    if node.attributes.get_int("training_mode", 0) or not node.attributes.get_int("spatial", 1):
        raise UnsupportedError
    scale, variance = (tape.analysis.constant(node.inputs[i]) for i in (1, 4))
    if scale is None or variance is None:
        raise UnsupportedError
    factor = np.asarray(scale) / np.sqrt(
        variance.astype(np.float64) + node.attributes.get_float("epsilon", 1e-5)
    )
    spatial = len(tape.shape(node.inputs[0])) - 2
    return [tape.op("Mul", g, tape.constant(factor.reshape(-1, *(1,) * spatial)))]


def _instance_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    rank = len(tape.shape(node.inputs[0]))
    scale = tape.analysis.constant(node.inputs[1])
    if scale is None:
        raise UnsupportedError
    return [_normalised(tape, node, g, range(2, rank), scale.reshape(-1, *(1,) * (rank - 2)))]


def _layer_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    rank = len(tape.shape(node.inputs[0]))
    scale = tape.analysis.constant(node.inputs[1])
    if scale is None or any(value.uses() for value in node.outputs[1:]):
        raise UnsupportedError
    axes = range(node.attributes.get_int("axis", -1) % rank, rank)
    return [_normalised(tape, node, g, axes, scale)]


def _normalised(tape: Tape, node: ir.Node, g: str, axes: Sequence[int], scale: npt.NDArray[Any]) -> str:
    """Through x̂ = (x − mean) / deviation, times a scale: (g − mean(g) − x̂ · mean(g · x̂)) / deviation."""
    x, epsilon = _name(node.inputs[0]), node.attributes.get_float("epsilon", 1e-5)
    centred = tape.op("Sub", x, tape.total(x, axes, mean=True))
    variance = tape.total(tape.op("Mul", centred, centred), axes, mean=True)
    deviation = tape.op("Sqrt", tape.op("Add", variance, tape.constant(epsilon)))
    unit = tape.op("Div", centred, deviation)
    g = tape.op("Mul", g, tape.constant(scale))
    along = tape.op("Mul", unit, tape.total(tape.op("Mul", g, unit), axes, mean=True))
    rest = tape.op("Sub", tape.op("Sub", g, tape.total(g, axes, mean=True)), along)
    return tape.op("Div", rest, deviation)


# ---------------------------------------------------------------- pooling


def _average_pool(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    channels, kernel, form = _pool(tape, node)
    window = np.full((channels, 1, *kernel), 1 / math.prod(kernel))
    return [tape.op("ConvTranspose", g, tape.constant(window), group=channels, **form)]


def _max_pool(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Each place of the window in turn: its inputs, where they are the largest, take the gradient."""
    if any(value.uses() for value in node.outputs[1:]):
        raise UnsupportedError
    channels, kernel, form = _pool(tape, node)
    taps, outside = math.prod(kernel), tape.shape(node.outputs[0])[2:]
    places = tape.constant(np.tile(np.eye(taps), (channels, 1)).reshape(channels * taps, 1, *kernel))
    flat = [0, channels, 1, -1]
    forward = {key: value for key, value in form.items() if key != "output_padding"}
    spread = tape.op("Conv", _name(node.inputs[0]), places, group=channels, **forward)
    spread = tape.reshape(spread, [0, channels, taps, -1])
    lower = tape.op("Less", spread, tape.reshape(_name(node.outputs[0]), flat))
    parts = _where(tape, tape.reshape(g, flat), tape.op("Not", lower))
    parts = tape.reshape(parts, [0, channels * taps, *outside])
    return [tape.op("ConvTranspose", parts, places, group=channels, **form)]


def _pool(tape: Tape, node: ir.Node) -> tuple[int, tuple[int, ...], dict[str, list[int]]]:
    """Channels, kernel, and the form of a ConvTranspose that goes the pool's way back."""
    attributes = node.attributes
    kernel = tuple(attributes["kernel_shape"].as_ints())
    mode = attributes.get_string("auto_pad", "NOTSET")
    ones = [1] * len(kernel)
    strides, dilations = (list(attributes.get_ints(key, ones)) for key in ("strides", "dilations"))
    inside, outside = _sizes(tape, node)
    pads = list(attributes.get_ints("pads", [0] * 2 * len(kernel)))
    if mode.startswith("SAME"):
        for axis, (n, m, k) in enumerate(zip(inside, outside, kernel, strict=True)):
            spare = max((m - 1) * strides[axis] + dilations[axis] * (k - 1) + 1 - n, 0)
            pads[axis] = spare // 2 if mode == "SAME_UPPER" else spare - spare // 2
    form = {"strides": strides, "dilations": dilations}
    back = _transposed(inside, outside, kernel, strides, dilations, pads)
    return tape.shape(node.inputs[0])[1], kernel, {**form, **back}


def _global_average(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    x, shape = _name(node.inputs[0]), tape.shape(node.inputs[0])
    return [_spread(tape, g, x, range(2, len(shape)), shape, mean=True)]


def _global_max(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    lower = tape.op("Less", _name(node.inputs[0]), _name(node.outputs[0]))
    return [_where(tape, g, tape.op("Not", lower))]


def _reduce(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    shape = tape.shape(node.inputs[0])
    axes = _from_either(tape, node, "axes", 1)
    chosen = range(len(shape)) if axes is None else sorted(int(a) % len(shape) for a in axes)
    if 0 in chosen:
        raise UnsupportedError
    kept = tape.reshape(g, [1 if axis in chosen else 0 if axis == 0 else n for axis, n in enumerate(shape)])
    return [_spread(tape, kept, _name(node.inputs[0]), chosen, shape, mean=node.op_type == "ReduceMean")]


def _spread(tape: Tape, g: str, x: str, axes: Sequence[int], shape: Sequence[int], *, mean: bool) -> str:
    """A gradient repeated along axes."""
    if mean:
        g = tape.op("Mul", g, tape.constant(1 / math.prod(shape[axis] for axis in axes)))
    return tape.op("Add", tape.op("Mul", x, tape.constant(0.0)), g)


# ---------------------------------------------------------------- moving numbers about


def _same(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    return [g]


def _reshape(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    return [tape.like(g, _name(node.inputs[0]))]


def _cast(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    if node.attributes.get_int("to") != onnx.TensorProto.FLOAT:
        raise UnsupportedError
    return [g]


def _transpose(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    rank = len(tape.shape(node.inputs[0]))
    order = list(node.attributes.get_ints("perm", range(rank)[::-1]))
    return [tape.op("Transpose", g, perm=[order.index(axis) for axis in range(rank)])]


def _concat(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    rank = len(tape.shape(node.outputs[0]))
    axis = node.attributes.get_int("axis", 1) % rank
    sizes = [tape.shape(value)[axis] for value in node.inputs]
    parts = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1])
    return [
        tape.along(g, rank, axis, part.T) if tape.moves(value) else None
        for part, value in zip(parts, node.inputs, strict=True)
    ]


def _select(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Slice, Gather, Pad, Crop and Resize: an axis at a time, linear in what lies along it."""
    shape, found = tape.shape(node.inputs[0]), _matrices(tape, node)
    for axis, matrix in found.items():
        if axis == 0:
            raise UnsupportedError
        g = tape.along(g, len(shape), axis, matrix)
    return [g]


def _matrices(tape: Tape, node: ir.Node) -> dict[int, npt.NDArray[Any]]:
    """By axis the matrix ``[outputs, inputs]`` that takes what lies along it to what is made of it."""
    inside = tape.shape(node.inputs[0])
    if node.op_type == "Slice":
        return _sliced(tape, node, inside)
    if node.op_type == "Gather":
        axis = node.attributes.get_int("axis", 0) % len(inside)
        index = tape.analysis.constant(node.inputs[1])
        if index is None or index.ndim != 1:
            raise UnsupportedError
        return {axis: np.eye(inside[axis])[index]}
    if node.op_type == "Pad":
        return _padded(tape, node, inside)
    outside = tape.shape(node.outputs[0])
    changed = [axis for axis, (n, m) in enumerate(zip(inside, outside, strict=True)) if n != m]
    if node.op_type == "Crop":
        left, top, *_ = node.attributes.get_ints("border", [0, 0, 0, 0])
        start = {2: top, 3: left}
        return {axis: np.eye(inside[axis])[start[axis] :][: outside[axis]] for axis in changed}
    return {  # Resize and Upsample
        axis: np.eye(inside[axis])[np.arange(outside[axis]) * inside[axis] // outside[axis]]
        for axis in changed
    }


def _sliced(tape: Tape, node: ir.Node, inside: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    given = [_from_either(tape, node, key, i) for i, key in enumerate(("starts", "ends", "axes", "steps"), 1)]
    starts, ends, axes, steps = given
    if starts is None or ends is None:
        raise UnsupportedError
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = inside[axis]
        stop: int | None = max(end, -size - 1) if step > 0 or end >= -size else None
        found[axis % len(inside)] = np.eye(size)[start:stop:step]
    return found


def _padded(tape: Tape, node: ir.Node, inside: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    pads = _from_either(tape, node, "pads", 1)
    chosen = _from_either(tape, node, "axes", 3) if len(node.inputs) > 3 else None
    if pads is None:
        raise UnsupportedError
    axes = list(range(len(inside))) if chosen is None else [axis % len(inside) for axis in chosen]
    mode = node.attributes.get_string("mode", "constant")
    found = {}
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if (begin, end) == (0, 0):
            continue
        rows = np.pad(np.eye(inside[axis]), ((max(begin, 0), max(end, 0)), (0, 0)), _PADDING[mode])
        found[axis] = rows[max(-begin, 0) : len(rows) - max(-end, 0)]
    return found


_PADDING: dict[str, Any] = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _from_either(tape: Tape, node: ir.Node, key: str, index: int) -> list[int] | None:
    """Whole numbers that older operator sets keep in an attribute, and newer ones take as an input."""
    if key in node.attributes:
        return list(node.attributes[key].as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    array = tape.analysis.constant(value)
    if array is None:
        raise UnsupportedError
    return [int(number) for number in array.ravel()]


def _split(tape: Tape, node: ir.Node, gradients: Sequence[Gradient]) -> Sequence[Gradient]:
    parts = [
        tape.op("Mul", _name(value), tape.constant(0.0)) if g is None else g
        for value, g in zip(node.outputs, gradients, strict=True)
    ]
    return [tape.op("Concat", *parts, axis=node.attributes.get_int("axis", 0))]


def _depth_to_space(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    size, channels = node.attributes.get_int("blocksize"), tape.shape(node.inputs[0])[1]
    back = tape.op("SpaceToDepth", g, blocksize=size)
    if node.attributes.get_string("mode", "DCR") == "CRD":
        order = np.arange(channels).reshape(size * size, -1).T.ravel()
        back = tape.op("Gather", back, tape.constant(order, np.int64), axis=1)
    return [back]


def _space_to_depth(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    return [tape.op("DepthToSpace", g, blocksize=node.attributes.get_int("blocksize"))]


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Relu": _relu,
    "Add": _add,
    "Sum": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Softmax": _softmax,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    **dict.fromkeys(("Slice", "Gather", "Pad", "Crop", "Resize", "Upsample"), _select),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}
"""By operator; `split` is apart, since it has several outputs."""


def backward(tape: Tape, node: ir.Node, gradients: Sequence[Gradient]) -> Sequence[Gradient]:
    """The gradients of an operator's inputs, from those of its outputs; none where no rule gives them."""
    rule = RULES.get(node.op_type)
    at = len(tape.nodes)
    try:
        if node.domain not in ("", "ai.onnx"):
            return ()
        if node.op_type == "Split":
            return _split(tape, node, gradients)
        if rule is None or gradients[0] is None:
            return ()
        return rule(tape, node, gradients[0])
    except UnsupportedError:
        del tape.nodes[at:]
        return ()
