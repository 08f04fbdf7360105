"""Write hard swish and hard sigmoid in pieces as the operators of these names.

What
    onnxruntime puts HardSigmoid, and x·HardSigmoid, into the convolution before; the pieces are passes
    outside of its blocks of channels.

        x ─┬─ Add(3) ─ Clip(0, 6) ─ Mul ─ Div(6) ─ y      x ─ HardSwish ─ y
           └─────────────────────────┘

        x ─ Mul(a) ─ Add(b) ─ Clip(0, m) ─ Mul(1/m) ─ y      x ─ HardSigmoid(a/m, b/m) ─ y

Maths
    clip(a·x + b, 0, m)/m = clip((a/m)·x + b/m, 0, 1); with a = 1, b = 3 and m = 6, x times that is hard
    swish.

When it applies
    1. Something is added, or multiplied by 1/m, or both; factors in any order, Clip in any spelling.
    2. Each number is one of float32 or float16, and has no more axes than the map.
    3. Nothing else reads a value in between.

    Up to opset 13, and with other numbers, hard swish is x·HardSigmoid(a/m, b/m).

Exactness
    Exact; the order of the roundings changes.

Cost
    No MACs; one pass over the map instead of two to five, or none behind a convolution.

References:
    Howard et al. 2019, "Searching for MobileNetV3".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from graphopt.analysis.fusions.matching import made_by
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.clamps import clamp
from graphopt.rewrites.spelling.pieces.numbers import SINGLE, float_type, near, scalar
from graphopt.rewrites.spelling.pieces.products import multiple, products
from graphopt.rewrites.spelling.pieces.spelled import Pieces, Spelling, replaceable

HARD_SWISH = 14
"""The first opset that has HardSwish."""


class _Line(NamedTuple):
    """slope·x + shift.

    Attributes:
        x: the value.
        slope: what multiplies it.
        shift: what is added.
        nodes: the operators, the last one first.
    """

    x: ir.Value
    slope: float
    shift: float
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, slots=True)
class _Hard(Pieces):
    """A hard sigmoid in pieces, told by its upper or lower bound.

    Attributes:
        alpha: what multiplies x.
        beta: what is added.
        times: whether x multiplies the result.
    """

    alpha: float
    beta: float
    times: bool

    @property
    def passes(self) -> int:
        """HardSigmoid, and the product."""
        return 1 + self.times


@dataclass(frozen=True)
class SpellHardSwish(Spelling[_Hard]):
    """Writes hard swish and hard sigmoid as the operators of these names."""

    name: ClassVar[str] = "spell_hard_swish"

    def find(self, analysis: Analysis, node: ir.Node) -> _Hard | None:
        """The hard swish or hard sigmoid around what bounds a value; the one of most operators."""
        bounded = clamp(analysis, node)
        if bounded is None or bounded.low != 0:
            return None
        best = None
        for line in _lines(analysis, bounded.x, bounded.nodes[-1]):
            for outer in products(analysis, node, line.x):
                nodes = (*bounded.nodes, *line.nodes, *outer.nodes)
                dtype = float_type(analysis, nodes)
                if dtype not in SINGLE or not near(dtype, bounded.high * outer.factor, 1):
                    continue
                others = len(nodes) - len(bounded.nodes) - outer.times
                if not others or not replaceable(analysis, nodes, line.x):
                    continue
                alpha, beta = line.slope / bounded.high, line.shift / bounded.high
                y = (outer.nodes or [node])[-1].outputs[0]
                found = _Hard(line.x, nodes, y, alpha, beta, bool(outer.times))
                if best is None or (found.times, len(nodes)) > (best.times, len(best.nodes)):
                    best = found
        return best

    def write(self, builder: Builder, found: _Hard, opset: int) -> str:
        """The operator, or x times it."""
        x, dtype = found.x.name or "", builder.dtype
        exact = near(dtype, found.alpha, 1 / 6) and near(dtype, found.beta, 1 / 2)
        if found.times and exact and opset >= HARD_SWISH:
            return builder.node("HardSwish", [x])
        numbers = (1 / 6, 0.5) if exact else (found.alpha, found.beta)
        y = builder.node("HardSigmoid", [x], dict(zip(("alpha", "beta"), numbers, strict=True)))
        return builder.node("Mul", [x, y], {}, "/times") if found.times else y


def _lines(analysis: Analysis, value: ir.Value, reader: ir.Node) -> Iterator[_Line]:
    """A value as slope·x + shift, what is no part of it read by nothing else; the value itself first."""
    line = _Line(value, 1.0, 0.0, ())
    yield line
    shifted = _shifted(analysis, value) if analysis.sole_consumer(value) is reader else None
    if shifted is not None:
        line = shifted
        yield line
    reader = line.nodes[-1] if line.nodes else reader
    scaled = multiple(analysis, line.x) if analysis.sole_consumer(line.x) is reader else None
    if scaled is not None:
        x, slope, nodes = scaled
        yield _Line(x, slope, line.shift, (*line.nodes, *nodes))


def _shifted(analysis: Analysis, value: ir.Value) -> _Line | None:
    """Value = x + number, or x − number."""
    if (node := made_by(value, "Add")) is not None:
        for x, number in (node.inputs, reversed(node.inputs)):
            shift = scalar(analysis, number)
            if x is not None and shift is not None:
                return _Line(x, 1.0, shift, (node,))
    if (node := made_by(value, "Sub")) is not None:
        shift, x = scalar(analysis, node.inputs[1]), node.inputs[0]
        return None if shift is None or x is None else _Line(x, 1.0, -shift, (node,))
    return None
