"""Drop ceil_mode from a pooling in which it adds no window.

What
    A pooling whose last window would start behind its input has no such window in onnxruntime, with or
    without ceil_mode; onnx's rules up to opset 21 count it all the same. Without it all agree on the size.

        x (5x5) ─ MaxPool 3x3/3 pads 1 ceil_mode ─ y        x (5x5) ─ MaxPool 3x3/3 pads 1 ─ y (2x2)

Maths
    Of r = n + pads − extent a pooling of stride s makes ⌊r/s⌋ + 1 outputs, with ceil_mode ⌈r/s⌉ + 1, less one
    where (⌈r/s⌉)·s ≥ n + pad_begin. Where that is so on every axis that has a rest, the numbers are the same.

When it applies
    1. The spatial sizes are the same at every run, and onnx's rule gives another output than onnxruntime's.
    2. No axis gains a window by ceil_mode.

Exactness
    Exact; the windows do not change.

Cost
    None. Operators behind it can be joined then: a map for their border has to have the size that both
    onnxruntime's inference, which is onnx's, and its run tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import WINDOWS, is_standard
from graphopt.analysis.shapes.windows import PoolShape
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import attributes_of, propose
from graphopt.types import Candidate, Rejection, Replacement


@dataclass(frozen=True)
class DropCeilMode(ExactRewrite):
    """Drops ceil_mode from a pooling in which it adds no window."""

    name: ClassVar[str] = "drop_ceil_mode"
    stage: ClassVar[Stage] = Stage.FIRST

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each pooling whose size is told in two ways."""
        for node in analysis.nodes.values():
            if _adds_nothing(analysis, node):
                cost = analysis.cost([node])
                yield propose(self.name, analysis, [node], analysis.name(node), (cost, cost))

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The same pooling without it."""
        node = analysis.nodes[candidate.site.nodes[0]]
        builder = Builder(np.dtype(np.float32))
        inputs = [None if value is None else value.name for value in node.inputs]
        attributes = {key: value for key, value in (attributes_of(node) or {}).items() if key != "ceil_mode"}
        made = builder.outputs(node.op_type, inputs, len(node.outputs), attributes)
        return builder.replacement({y.name or "": ours for y, ours in zip(node.outputs, made, strict=True)})


def _adds_nothing(analysis: Analysis, node: ir.Node) -> bool:
    if node.op_type not in WINDOWS or not is_standard(node) or attributes_of(node) is None:
        return False
    window, shape = PoolShape.of(node), analysis.fixed_shape(node.inputs[0])
    if window is None or not window.ceil or shape is None or None in shape[2:]:
        return False
    same = replace(window, ceil=False).outputs(shape[2:]) == window.outputs(shape[2:])
    return same and analysis.disputed(node.outputs[0])
