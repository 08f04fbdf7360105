"""Gradients through functions of single numbers: the slope of each, times the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.compression.autodiff.tape import Gradient, Tape, UnsupportedError, ends, name_of

Slope: TypeAlias = Callable[[Tape, ir.Node], str]
"""Makes the derivative of an operator's output in its first input."""

STEP = 1e-2
"""Of a difference, as a part of the number where that is over 1. Derived: a central difference of step h is
off by h² and by eps/h of rounding, least at ∛eps = 5e-3 of float32; twice that, as the sums of a network
round more than once."""


def elementwise(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of a function of single numbers: its slope times that of the output."""
    inside, outside = tape.sizes(node)
    if inside != outside:
        raise UnsupportedError
    return [tape.op("Mul", g, SLOPES[node.op_type](tape, node))]


def prelu(tape: Tape, node: ir.Node, g: str) -> Sequence[Gradient]:
    """Gradient of PRelu, also in its slopes: there what is below 0, times that of the output."""
    found: list[Gradient] = [None, None]
    if tape.moves(node.inputs[0]):
        found[:1] = elementwise(tape, node, g)
    if tape.moves(node.inputs[1]):
        x = ends(node)[0]
        below = tape.op("Mul", x, tape.above(tape.constant(0.0), x))
        found[1] = tape.reduced(tape.op("Mul", g, below), node, 1)
    return found


def _between(tape: Tape, condition: str, then: str, otherwise: str) -> str:
    """One value where a mask is 1, another where it is 0."""
    other = tape.op("Sub", tape.constant(1.0), condition)
    return tape.op("Add", tape.op("Mul", condition, then), tape.op("Mul", other, otherwise))


def _number(tape: Tape, node: ir.Node, key: str, default: float) -> str:
    return tape.constant(node.attributes.get_float(key, default))


def _relu(tape: Tape, node: ir.Node) -> str:
    return tape.above(ends(node)[1], tape.constant(0.0))


def _leaky(tape: Tape, node: ir.Node) -> str:
    positive = tape.above(ends(node)[0], tape.constant(0.0))
    return _between(tape, positive, tape.constant(1.0), _number(tape, node, "alpha", 0.01))


def _prelu(tape: Tape, node: ir.Node) -> str:
    positive = tape.above(ends(node)[0], tape.constant(0.0))
    return _between(tape, positive, tape.constant(1.0), name_of(node.inputs[1]))


def _thresholded(tape: Tape, node: ir.Node) -> str:
    return tape.above(ends(node)[0], _number(tape, node, "alpha", 1.0))


def _clip(tape: Tape, node: ir.Node) -> str:
    x, masks = ends(node)[0], []
    for index, key in enumerate(("min", "max"), 1):
        given = node.inputs[index] if index < len(node.inputs) else None
        if given is None and key not in node.attributes:
            continue
        limit = name_of(given) if given is not None else _number(tape, node, key, 0.0)
        masks.append(tape.above(x, limit) if key == "min" else tape.above(limit, x))
    if not masks:
        return tape.constant(1.0)
    return masks[0] if len(masks) == 1 else tape.op("Mul", *masks)


def _hard_sigmoid(tape: Tape, node: ir.Node) -> str:
    y, alpha = ends(node)[1], node.attributes.get_float("alpha", 0.2)
    rising = tape.op("Mul", tape.above(y, tape.constant(0.0)), tape.above(tape.constant(1.0), y))
    return tape.scaled(rising, alpha)


def _abs(tape: Tape, node: ir.Node) -> str:
    x, zero = ends(node)[0], tape.constant(0.0)
    return tape.op("Sub", tape.above(x, zero), tape.above(zero, x))


def _factor(key: str, default: float) -> Slope:
    """The slope of a function that multiplies by an attribute."""
    return lambda tape, node: _number(tape, node, key, default)


def _exp(tape: Tape, node: ir.Node) -> str:
    return ends(node)[1]


def _log(tape: Tape, node: ir.Node) -> str:
    return tape.op("Reciprocal", ends(node)[0])


def _sqrt(tape: Tape, node: ir.Node) -> str:
    return tape.op("Div", tape.constant(0.5), ends(node)[1])


def _reciprocal(tape: Tape, node: ir.Node) -> str:
    y = ends(node)[1]
    return tape.op("Neg", tape.op("Mul", y, y))


def _power(tape: Tape, node: ir.Node) -> str:
    by = tape.content(node.inputs[1]).astype(np.float64)
    return tape.scaled(tape.op("Pow", ends(node)[0], tape.constant(by - 1)), by)


def _sigmoid(tape: Tape, node: ir.Node) -> str:
    y = ends(node)[1]
    return tape.op("Sub", y, tape.op("Mul", y, y))


def _tanh(tape: Tape, node: ir.Node) -> str:
    y = ends(node)[1]
    return tape.op("Sub", tape.constant(1.0), tape.op("Mul", y, y))


def _erf(tape: Tape, node: ir.Node) -> str:
    x = ends(node)[0]
    bell = tape.op("Exp", tape.op("Neg", tape.op("Mul", x, x)))
    return tape.scaled(bell, 2 / math.sqrt(math.pi))


def _sin(tape: Tape, node: ir.Node) -> str:
    return tape.op("Cos", ends(node)[0])


def _cos(tape: Tape, node: ir.Node) -> str:
    return tape.op("Neg", tape.op("Sin", ends(node)[0]))


def _elu(tape: Tape, node: ir.Node) -> str:
    """Below 0 alpha · eˣ, which is the output plus alpha."""
    x, y = ends(node)
    below = tape.op("Add", y, _number(tape, node, "alpha", 1.0))
    return _between(tape, tape.above(x, tape.constant(0.0)), tape.constant(1.0), below)


def _selu(tape: Tape, node: ir.Node) -> str:
    """As `_elu`, times gamma."""
    x, y = ends(node)
    alpha = node.attributes.get_float("alpha", 1.67326319217681884765625)
    gamma = node.attributes.get_float("gamma", 1.05070102214813232421875)
    below = tape.op("Add", y, tape.constant(alpha * gamma))
    return _between(tape, tape.above(x, tape.constant(0.0)), tape.constant(gamma), below)


def _softplus(tape: Tape, node: ir.Node) -> str:
    return tape.op("Sigmoid", ends(node)[0])


def _softsign(tape: Tape, node: ir.Node) -> str:
    below = tape.op("Add", tape.op("Abs", ends(node)[0]), tape.constant(1.0))
    return tape.op("Reciprocal", tape.op("Mul", below, below))


def _difference(tape: Tape, node: ir.Node) -> str:
    """A central difference, near enough for functions that are smooth near 0 and straight far from it."""
    x = ends(node)[0]
    step = tape.scaled(tape.op("Max", tape.op("Abs", x), tape.constant(1.0)), STEP)
    above, below = (tape.again(node, tape.op(kind, x, step)) for kind in ("Add", "Sub"))
    return tape.op("Div", tape.op("Sub", above, below), tape.scaled(step, 2.0))


SLOPES: dict[str, Slope] = {
    "Abs": _abs,
    "Affine": _factor("alpha", 1.0),
    "Clip": _clip,
    "Cos": _cos,
    "Elu": _elu,
    "Erf": _erf,
    "Exp": _exp,
    "HardSigmoid": _hard_sigmoid,
    "ImageScaler": _factor("scale", 1.0),
    "LeakyRelu": _leaky,
    "Log": _log,
    "Neg": lambda tape, node: tape.constant(-1.0),
    "Pow": _power,
    "PRelu": _prelu,
    "Reciprocal": _reciprocal,
    "Relu": _relu,
    "Selu": _selu,
    "Sigmoid": _sigmoid,
    "Sin": _sin,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Sqrt": _sqrt,
    "Tanh": _tanh,
    "ThresholdedRelu": _thresholded,
    **dict.fromkeys(("Celu", "Gelu", "HardSwish", "Mish", "Swish"), _difference),
}
"""By operator; each takes every number of the first input to one of the output."""
