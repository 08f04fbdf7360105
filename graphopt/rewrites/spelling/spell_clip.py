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
    Exact for finite numbers, bit by bit; Clip makes infinite ones the largest finite one.

Cost
    No MACs; a pass over the map that is saved where a convolution comes before, and each but the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.spelling.clamps import Clamp, clamp
from graphopt.rewrites.spelling.numbers import SINGLE, float_type
from graphopt.rewrites.spelling.products import multiple
from graphopt.rewrites.spelling.sites import costs, replaceable
from graphopt.types import Candidate, Rejection, Replacement

CLIP_BY_INPUTS = 11
"""The opset from which the bounds of a Clip are inputs."""


@dataclass(frozen=True, slots=True)
class _Leaky:
    """The larger, or the smaller, of x and s·x.

    Attributes:
        x: the value.
        nodes: the Max or Min, and what multiplies.
        slope: of negative numbers.
    """

    x: ir.Value
    nodes: tuple[ir.Node, ...]
    slope: float


@dataclass(frozen=True)
class SpellClip(ExactRewrite):
    """Writes Max and Min as Clip, Relu or LeakyRelu."""

    name: ClassVar[str] = "spell_clip"
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each value that Max or Min bound."""
        for node in analysis.nodes.values():
            found = _find(analysis, node)
            if found is not None:
                yield Candidate(self.name, site(analysis, found.nodes), *costs(analysis, found.nodes))

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The Clip, Relu or LeakyRelu."""
        node = analysis.nodes[candidate.site.nodes[0]]
        found = _find(analysis, node)
        assert found is not None
        dtype = float_type(analysis, found.nodes)
        assert dtype is not None
        builder, x = Builder(dtype), found.x.name or ""
        if isinstance(found, _Leaky):
            y = builder.node("LeakyRelu", [x], {"alpha": found.slope})
        elif (found.low, found.high) == (0, math.inf):
            y = builder.node("Relu", [x])
        else:
            y = _clip(builder, x, found, analysis.opset)
        return builder.replacement({node.outputs[0].name or "": y})


def _clip(builder: Builder, x: str, found: Clamp, opset: int) -> str:
    bounds = {"min": found.low, "max": found.high}
    given = {name: number for name, number in bounds.items() if math.isfinite(number)}
    if opset < CLIP_BY_INPUTS:
        return builder.node("Clip", [x], given)
    inputs = [
        builder.constant(np.array(number), name) if name in given else None for name, number in bounds.items()
    ]
    return builder.node("Clip", [x, *(inputs if "max" in given else inputs[:1])])


def _find(analysis: Analysis, node: ir.Node) -> Clamp | _Leaky | None:
    """What bounds a value up to a node, if a Max or Min takes part and no more follows."""
    found = _leaky(analysis, node) or clamp(analysis, node)
    if found is None or float_type(analysis, found.nodes) not in SINGLE:
        return None
    if isinstance(found, Clamp):
        bounded = any(math.isfinite(number) for number in (found.low, found.high))
        if not bounded or not any(each.op_type in ("Max", "Min") for each in found.nodes):
            return None
        reader = analysis.sole_consumer(node.outputs[0])
        further = None if reader is None else clamp(analysis, reader)
        if further is not None and node in further.nodes:
            return None
    return found if replaceable(analysis, found.nodes, found.x) else None


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
        if 0 <= slope <= 1 if node.op_type == "Max" else 1 <= slope < math.inf:
            return _Leaky(x, (node, *by), slope)
    return None
