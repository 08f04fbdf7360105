"""Write an instance normalisation in pieces as the operator of this name.

What
    Exporters write a normalisation over the places of a map in pieces, six to nine passes over it.

        x ─┬─ Sub ─┬─ Mul(itself) ─ ReduceMean ─ Add(ε) ─ Sqrt ─┐
           └─ ReduceMean   └──────────────────────────────────── Div ─ Mul(γ) ─ Add(β) ─ y

        x ─ InstanceNormalization(γ, β, ε) ─ y

Maths
    y = γ·(x − E x)/√(E(x − E x)² + ε) + β, with the means of each channel over all of its places.

When it applies
    1. Means are those of all axes behind the channels, kept as 1, or of a GlobalAveragePool; ε is one number,
       and γ and β are constants of the channels, whose number is the same in every run.
    2. The numbers are of float32, and nothing else reads a value in between.

Exactness
    Exact, but for rounding.

Cost
    No MACs; two passes over the map.

References:
    Ulyanov et al. 2016, "Instance normalization: the missing ingredient for fast stylization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.spelling.pieces.normalised import Norm, Over, normalisation
from graphopt.rewrites.spelling.pieces.numbers import type_of
from graphopt.rewrites.spelling.pieces.spelled import Spelling


@dataclass(frozen=True)
class SpellInstanceNorm(Spelling[Norm]):
    """Writes instance normalisations in pieces as InstanceNormalization."""

    name: ClassVar[str] = "spell_instance_norm"

    def find(self, analysis: Analysis, node: ir.Node) -> Norm | None:
        """The normalisation around a root, or a power of −½."""
        if node.op_type not in ("Sqrt", "Pow") or not is_standard(node):
            return None
        rank = len(analysis.shape(node.inputs[0]) or ())
        over = Over(rank, tuple(range(2, rank)), 1)
        found = normalisation(analysis, node, over) if rank > 2 else None
        return found if found is not None and type_of(analysis, found.x) == np.float32 else None

    def write(self, builder: Builder, found: Norm, opset: int) -> str:
        """The operator, which has a shift always."""
        shift = np.zeros_like(found.scale) if found.shift is None else found.shift
        inputs = [
            found.x.name or "",
            builder.constant(found.scale, "scale"),
            builder.constant(shift, "shift"),
        ]
        return builder.node("InstanceNormalization", inputs, {"epsilon": found.epsilon})
