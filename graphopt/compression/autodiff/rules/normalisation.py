"""Gradients through what is computed over axes: reductions, Softmax and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import batch_statistics
from graphopt.compression.autodiff.rules.weights import of_bias
from graphopt.compression.autodiff.tape import Gradient, Tape, UnsupportedError, count, ends, name_of

# ---------------------------------------------------------------- reductions


def reduce(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of reductions: each number gets what it counts in the result of its axes."""
    (x, y), (inside, outside) = ends(node), tape.sizes(node)
    axes = _axes(tape, node)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(inside))
    if kept != outside:
        g = tape.reshape(g, kept)
        y = y if node.op_type in ("ReduceMean", "ReduceSum") else tape.reshape(y, kept)
    match node.op_type:
        case "ReduceMean" | "GlobalAveragePool":
            return [tape.spread(tape.scaled(g, 1 / count(inside, axes)), inside, axes)]
        case "ReduceSum":
            return [tape.spread(g, inside, axes)]
        case "ReduceMax" | "GlobalMaxPool":
            return [tape.op("Mul", g, tape.at_least(x, y))]
        case "ReduceMin":
            return [tape.op("Mul", g, tape.at_least(y, x))]
        case "ReduceL2":
            return [tape.op("Mul", tape.op("Div", g, y), x)]
        case "ReduceLogSumExp":
            return [tape.op("Mul", g, tape.op("Exp", tape.op("Sub", x, y)))]
        case _:  # ReduceSumSquare
            return [tape.op("Mul", tape.scaled(g, 2.0), x)]


def _axes(tape: Tape, node: ir.Node) -> list[int]:
    rank = len(tape.shape(node.inputs[0]))
    if node.op_type.startswith("Global"):
        return list(range(2, rank))
    axes = tape.numbers(node, "axes", 1)
    if not axes:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


# ---------------------------------------------------------------- Softmax


def softmax(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of Softmax: y · (g − Σ g · y)."""
    y = ends(node)[1]
    mean = tape.total(tape.op("Mul", g, y), _softmax_axes(tape, node))
    return [tape.op("Mul", y, tape.op("Sub", g, mean))]


def log_softmax(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of LogSoftmax: g − e^y · Σ g."""
    total = tape.total(g, _softmax_axes(tape, node))
    return [tape.op("Sub", g, tape.op("Mul", tape.op("Exp", ends(node)[1]), total))]


def _softmax_axes(tape: Tape, node: ir.Node) -> Sequence[int]:
    """One axis; up to opset 12 all from there on."""
    if tape.version >= 13:
        return [tape.axis(node, -1)]
    return range(tape.axis(node, 1), len(tape.shape(node.inputs[0])))


# ---------------------------------------------------------------- normalisation


def batch_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of BatchNormalization: times a factor that is fixed once the network is trained."""
    if batch_statistics(node, tape.version) or not node.attributes.get_int("spatial", 1):
        raise UnsupportedError
    x, scale, _, mean, variance = (name_of(value) for value in node.inputs[:5])
    deviation = _deviation(tape, node, variance, 1e-5)
    found: Gradient = None
    if tape.moves(node.inputs[0]):
        found = tape.op("Mul", g, _by_channel(tape, node, tape.op("Div", scale, deviation)))

    def unit() -> str:
        centred = tape.op("Sub", x, _by_channel(tape, node, mean))
        return tape.op("Div", centred, _by_channel(tape, node, deviation))

    return [found, *_scale_and_bias(tape, node, g, unit)]


def _by_channel(tape: Tape, node: ir.Node, factor: str) -> str:
    """One number a channel in a shape that spreads over the positions."""
    return tape.reshape(factor, [-1, *(1,) * (len(tape.shape(node.inputs[0])) - 2)])


def _scale_and_bias(tape: Tape, node: ir.Node, g: str, unit: Callable[[], str]) -> Sequence[Gradient]:
    """The gradients in one scale and one bias a channel; unit makes what the scale multiplies."""
    shape, (scale, bias) = tape.shape(node.inputs[0]), node.inputs[1:3]
    return [
        of_bias(tape, tape.op("Mul", g, unit()), shape) if tape.moves(scale) else None,
        of_bias(tape, g, shape) if tape.moves(bias) else None,
    ]


def _deviation(tape: Tape, node: ir.Node, variance: str, default: float) -> str:
    epsilon = tape.constant(node.attributes.get_float("epsilon", default))
    return tape.op("Sqrt", tape.op("Add", variance, epsilon))


def instance_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of InstanceNormalization: over the positions, with a scale a channel."""
    form = _Unit(tape, node, ends(node)[0], range(2, len(tape.shape(node.inputs[0]))))
    scaled = tape.op("Mul", g, _by_channel(tape, node, name_of(node.inputs[1])))
    return [form.back(scaled), *_scale_and_bias(tape, node, g, lambda: form.unit)]


def layer_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of LayerNormalization over the last axes, and of RMSNormalization, which takes off no mean."""
    axes = range(tape.axis(node, -1), len(tape.shape(node.inputs[0])))
    form = _Unit(tape, node, ends(node)[0], axes, centre=node.op_type == "LayerNormalization")
    _, scale, bias, *_ = (*node.inputs, None, None)
    return [
        form.back(tape.op("Mul", g, name_of(scale))),
        tape.reduced(tape.op("Mul", g, form.unit), node, 1) if tape.moves(scale) else None,
        tape.reduced(g, node, 2) if tape.moves(bias) else None,
    ]


def group_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of GroupNormalization, whose scale is one a channel, up to opset 20 one a group."""
    shape, groups = tape.shape(node.inputs[0]), node.attributes.get_int("num_groups", 1)
    flat = [shape[0], groups, count(shape, range(1, len(shape))) // max(1, groups)]
    form = _Unit(tape, node, tape.reshape(ends(node)[0], flat), [2])
    scale = name_of(node.inputs[1])
    if tape.version < 21:
        if any(map(tape.moves, node.inputs[1:])):
            raise UnsupportedError
        scaled = tape.op("Mul", tape.reshape(g, flat), tape.reshape(scale, [groups, 1]))
        return [tape.reshape(form.back(scaled), shape)]
    scaled = tape.reshape(tape.op("Mul", g, _by_channel(tape, node, scale)), flat)
    parameters = _scale_and_bias(tape, node, g, lambda: tape.reshape(form.unit, shape))
    return [tape.reshape(form.back(scaled), shape), *parameters]


def variance_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of MeanVarianceNormalization: over any axes, without a scale."""
    rank = len(tape.shape(node.inputs[0]))
    axes = [axis % rank for axis in node.attributes.get_ints("axes", [0, 2, 3])]
    return [_Unit(tape, node, ends(node)[0], axes, epsilon=1e-9).back(g)]


class _Unit:
    """x̂ = (x − mean) / deviation over some axes.

    Args:
        tape: takes down the operators.
        node: the operator, which may name an epsilon.
        x: what is normalised.
        axes: over which.
        centre: whether the mean is taken off.
        epsilon: what is added to the variance where the operator names none.

    Attributes:
        unit: the name of x̂.
    """

    def __init__(
        self,
        tape: Tape,
        node: ir.Node,
        x: str,
        axes: Sequence[int],
        *,
        centre: bool = True,
        epsilon: float = 1e-5,
    ) -> None:
        self._tape, self._axes, self._centre = tape, axes, centre
        centred = tape.op("Sub", x, tape.total(x, axes, mean=True)) if centre else x
        variance = tape.total(tape.op("Mul", centred, centred), axes, mean=True)
        self._deviation = _deviation(tape, node, variance, epsilon)
        self.unit = tape.op("Div", centred, self._deviation)

    def back(self, g: str) -> str:
        """The gradient in x: (g − mean(g) − x̂ · mean(g · x̂)) / deviation."""
        tape = self._tape
        along = tape.op("Mul", self.unit, tape.total(tape.op("Mul", g, self.unit), self._axes, mean=True))
        across = tape.op("Sub", g, tape.total(g, self._axes, mean=True)) if self._centre else g
        return tape.op("Div", tape.op("Sub", across, along), self._deviation)


def unit_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of LpNormalization with p = 2: (g − y · Σ g · y) / ‖x‖."""
    if node.attributes.get_int("p", 2) != 2:
        raise UnsupportedError
    (x, y), axes = ends(node), [tape.axis(node, -1)]
    norm = tape.op("Sqrt", tape.total(tape.op("Mul", x, x), axes))
    along = tape.op("Mul", y, tape.total(tape.op("Mul", g, y), axes))
    return [tape.op("Div", tape.op("Sub", g, along), norm)]


def local_norm(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of LRN, y = x · d^−β with d = bias + α / size · (sum of squares of the channels near).

    So g · d^−β − 2 α β / size · x · (g · y / d of the channels near, added up).
    """
    (x, y), shape = ends(node), tape.shape(node.inputs[0])
    size, values = node.attributes.get_int("size", 1), node.attributes
    alpha, beta = values.get_float("alpha", 1e-4), values.get_float("beta", 0.75)
    places = np.arange(shape[1])
    gap = places[None, :] - places[:, None]
    near = (gap >= -((size - 1) // 2)) & (gap <= size - 1 - (size - 1) // 2)
    squares = tape.along(tape.op("Mul", x, x), len(shape), 1, near.T)
    d = tape.op("Add", tape.scaled(squares, alpha / size), tape.constant(values.get_float("bias", 1.0)))
    own = tape.op("Mul", g, tape.op("Pow", d, tape.constant(-beta)))
    others = tape.along(tape.op("Div", tape.op("Mul", g, y), d), len(shape), 1, near)
    return [tape.op("Sub", own, tape.op("Mul", tape.scaled(x, 2 * alpha * beta / size), others))]
