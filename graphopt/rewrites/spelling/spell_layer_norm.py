"""Write a layer normalisation in pieces as the operator of this name.

What
    onnxruntime tells a LayerNormalization by one spelling of its pieces, and runs others as they stand, six
    to nine passes over the map.

        x ─┬─ Sub ─┬─ Mul(itself) ─ ReduceMean ─ Add(ε) ─ Sqrt ─ Reciprocal ─┐
           └─ ReduceMean   └──────────────────────────────────────────────── Mul ─ Mul(γ) ─ Add(β) ─ y

        x ─ LayerNormalization(γ, β, ε) ─ y

Maths
    y = γ·(x − E x)/√(E(x − E x)² + ε) + β, along the last axis. The same is γ·x/√… + (β − γ·E x/√…), as
    TensorFlow writes it.

When it applies
    1. The spelling is none that onnxruntime tells. Up to opset 16, which has no LayerNormalization, the one
       that it tells is written.
    2. Means are those of the last axis, kept as 1, whose size is the same in every run; ε is one number, and
       γ and β are constants of that axis.
    3. The numbers are of float32 or float16, and nothing else reads a value in between.

Exactness
    Exact, but for rounding.

Cost
    No MACs; two passes over the map.

References:
    Ba et al. 2016, "Layer normalization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.fusions import normalisations
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.normalised import Norm, Over, normalisation
from graphopt.rewrites.spelling.pieces.numbers import SINGLE, type_of
from graphopt.rewrites.spelling.pieces.spelled import Spelling

KNOWN_SINCE = 17
"""The first opset that has LayerNormalization."""


@dataclass(frozen=True)
class SpellLayerNorm(Spelling[Norm]):
    """Writes layer normalisations in pieces as LayerNormalization."""

    name: ClassVar[str] = "spell_layer_norm"

    def find(self, analysis: Analysis, node: ir.Node) -> Norm | None:
        """The normalisation around a root, or a power of −½."""
        if node.op_type not in ("Sqrt", "Pow") or not is_standard(node):
            return None
        if node.op_type == "Sqrt" and normalisations.layer_norm(analysis, node):
            return None
        rank = len(analysis.shape(node.inputs[0]) or ())
        found = normalisation(analysis, node, Over(rank, (rank - 1,), rank - 1)) if rank > 1 else None
        return found if found is not None and type_of(analysis, found.x) in SINGLE else None

    def write(self, builder: Builder, found: Norm, opset: int) -> str:
        """The operator, or the pieces that are run as one."""
        x, scale = found.x.name or "", builder.constant(found.scale, "scale")
        if opset < KNOWN_SINCE:
            shift = np.zeros_like(found.scale) if found.shift is None else found.shift
            return _pieces(builder, x, found.epsilon, scale, builder.constant(shift, "shift"))
        inputs = [x, scale, *([] if found.shift is None else [builder.constant(found.shift, "shift")])]
        return builder.node("LayerNormalization", inputs, {"axis": -1, "epsilon": found.epsilon})


def _pieces(builder: Builder, x: str, epsilon: float, scale: str, shift: str) -> str:
    """The normalisation in the pieces that onnxruntime runs as one kernel."""
    last = {"axes": (-1,)}
    centred = builder.node("Sub", [x, builder.node("ReduceMean", [x], last, "/mean")], {}, "/centred")
    square = builder.node("Pow", [centred, builder.constant(np.array(2.0), "two")], {}, "/square")
    variance = builder.node("ReduceMean", [square], last, "/variance")
    root = builder.node("Add", [variance, builder.constant(np.array(epsilon), "epsilon")], {}, "/plus")
    quotient = builder.node("Div", [centred, builder.node("Sqrt", [root], {}, "/root")], {}, "/quotient")
    return builder.node("Add", [builder.node("Mul", [quotient, scale], {}, "/scale"), shift], {}, "/shift")
