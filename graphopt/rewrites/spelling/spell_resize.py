"""Write a Resize that repeats pixels as the one that onnxruntime has a kernel for.

What
    By a whole factor, most ways to find the nearest pixel find the same one. onnxruntime has a kernel for one
    of them, in blocks of channels too; for others it looks up every pixel.

        x ─ Resize(half_pixel, round_prefer_floor) ─ y      x ─ Resize(asymmetric, floor) ─ y

Maths
    floor(i/k) for pixel i by a factor of k; round((i + 1/2)/k − 1/2) is the same, since that is not half way
    between two pixels by more than rounding.

When it applies
    1. The scales are known to be whole, of every run, and the way to find the pixel repeats each of them.
    2. It is not written so already.

Exactness
    Exact, to the bit.

Cost
    None; a fourth of the time where the factor is 2, or where convolutions are around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.analysis import time_model
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, site
from graphopt.rewrites.patterns.resized import elements, resize_of
from graphopt.rewrites.spelling.pieces.numbers import type_of
from graphopt.types import Candidate, Rejection, Replacement

FAST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""How the Resize finds its pixels that has a kernel."""
ASKED = 11
"""The first opset in which a Resize says how."""


@dataclass(frozen=True)
class SpellResize(ExactRewrite):
    """Writes Resizes that repeat pixels as the one that onnxruntime has a kernel for."""

    name: ClassVar[str] = "spell_resize"
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each that repeats pixels, in another way."""
        for node in analysis.nodes.values() if analysis.opset >= ASKED else ():
            resize = resize_of(analysis, node) if node.op_type == "Resize" else None
            if resize is None or resize.repeats is None or type_of(analysis, resize.x) is None:
                continue
            if {name: node.attributes.get_string(name, "") for name in FAST} == FAST:
                continue
            after = analysis.cost([node])
            seconds = time_model.LOOKED_UP_SECONDS * elements(analysis.shape(resize.y))
            before = replace(after, seconds=after.seconds + seconds)
            yield Candidate(self.name, site(analysis, (node, *resize.sizing)), before, after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The Resize in the other way."""
        node = analysis.nodes[candidate.site.nodes[0]]
        resize = resize_of(analysis, node)
        assert resize is not None
        dtype = type_of(analysis, resize.x)
        assert dtype is not None
        builder = Builder(dtype)
        inputs = [None if value is None else value.name for value in node.inputs]
        y = builder.node("Resize", inputs, {**(attributes_of(node) or {}), **FAST})
        return builder.replacement({node.outputs[0].name or "": y})
