"""Write Max and Min by numbers as Clip, and the larger of x and s·x as LeakyRelu.

What
    onnxruntime puts Clip, Relu and LeakyRelu into the convolution before; Max and Min leave its blocks of
    channels.

        x ─ Max(a) ─ Min(b) ─ y      x ─ Clip(a, b) ─ y
        x ─┬─ Mul(s) ─ Max ─ y       x ─ LeakyRelu(s) ─ y
           └───────────┘

Maths
    min(max(x, a), b) = max(min(x, b), a) for a < b. For s from 0 to 1, max(x, s·x) is s·x where x is negative
    and x elsewhere; for s of at least 1, min(x, s·x) is the same.

When it applies
    1. The bounds are one number each, the lower one less than the upper one; or
    2. s is one number, and nothing else reads s·x.
    3. The numbers are of float32 or float16, and have no more axes than the map.

Exactness
    Exact, to the bit but for the sign of a zero.

Cost
    No MACs; a pass over the map that is saved where a convolution comes before, and each but the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.clamps import clamp
from graphopt.rewrites.spelling.pieces.numbers import SINGLE, float_type
from graphopt.rewrites.spelling.pieces.products import multiple
from graphopt.rewrites.spelling.pieces.spelled import Pieces, Spelling, replaceable

CLIP_BY_INPUTS = 11
"""The opset from which the bounds of a Clip are inputs."""


@dataclass(frozen=True, slots=True)
class _Bounded(Pieces):
    """What is kept between two numbers.

    Attributes:
        low: the lower one; −∞ where there is none.
        high: the upper one; ∞ where there is none.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Leaky(Pieces):
    """The larger, or the smaller, of x and s·x.

    Attributes:
        slope: of negative numbers.
    """

    slope: float


@dataclass(frozen=True)
class SpellClip(Spelling["_Bounded | _Leaky"]):
    """Writes Max and Min as Clip, Relu or LeakyRelu."""

    name: ClassVar[str] = "spell_clip"

    def find(self, analysis: Analysis, node: ir.Node) -> _Bounded | _Leaky | None:
        """What bounds a value up to a node, if a Max or Min takes part and no more follows."""
        found = _leaky(analysis, node) or _bounded(analysis, node)
        if found is None or float_type(analysis, found.nodes) not in SINGLE:
            return None
        return found if replaceable(analysis, found.nodes, found.x) else None

    def write(self, builder: Builder, found: _Bounded | _Leaky, opset: int) -> str:
        """The Clip, Relu or LeakyRelu."""
        x = found.x.name or ""
        if isinstance(found, _Leaky):
            return builder.node("LeakyRelu", [x], {"alpha": found.slope})
        if (found.low, found.high) == (0, math.inf):
            return builder.node("Relu", [x])
        return _clip(builder, x, found, opset)


def _clip(builder: Builder, x: str, found: _Bounded, opset: int) -> str:
    bounds = {"min": found.low, "max": found.high}  # without one it would be the largest finite number
    if opset < CLIP_BY_INPUTS:
        return builder.node("Clip", [x], bounds)
    inputs = [builder.constant(np.array(number), name) for name, number in bounds.items()]
    return builder.node("Clip", [x, *inputs])


def _bounded(analysis: Analysis, node: ir.Node) -> _Bounded | None:
    found = clamp(analysis, node)
    if found is None or not any(math.isfinite(number) for number in (found.low, found.high)):
        return None
    if not any(each.op_type in ("Max", "Min") for each in found.nodes):
        return None
    reader = analysis.sole_consumer(node.outputs[0])
    further = None if reader is None else clamp(analysis, reader)
    if further is not None and node in further.nodes:
        return None
    return _Bounded(found.x, found.nodes, node.outputs[0], found.low, found.high)


def _leaky(analysis: Analysis, node: ir.Node) -> _Leaky | None:
    if node.op_type not in ("Max", "Min") or not is_standard(node) or len(node.inputs) != 2:
        return None
    for x, scaled in (node.inputs, reversed(node.inputs)):
        if x is None or scaled is None or analysis.sole_consumer(scaled) is not node:
            continue
        found = multiple(analysis, scaled)
        if found is None or found[0] is not x:
            continue
        _, slope, by = found
        if 0 < slope <= 1 if node.op_type == "Max" else 1 <= slope < math.inf:
            return _Leaky(x, (node, *by), node.outputs[0], slope)
    return None
