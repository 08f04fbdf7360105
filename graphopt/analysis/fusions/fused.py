"""The fused kernels of a model: what onnxruntime runs as one, by the operators that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.fusions import activations, normalisations
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis

KERNELS: dict[str, tuple[str, Callable[[Analysis, ir.Node], tuple[ir.Node, ...]]]] = {
    "Erf": ("GELU", activations.gelu),
    "Tanh": ("GELU", activations.fast_gelu),
    "Sigmoid": ("SiLU", activations.silu),
    "Sqrt": ("LayerNormalization", normalisations.layer_norm),
}
"""What is fused around operators of a kind, and how it is told."""


@dataclass(frozen=True, slots=True)
class Fused:
    """Operators that onnxruntime runs as one kernel.

    Attributes:
        kernel: what that computes.
        nodes: the operators.
    """

    kernel: str
    nodes: tuple[ir.Node, ...]


class Fusions:
    """The fused kernels of a snapshot."""

    def __init__(self, analysis: Analysis) -> None:
        self.kernels: list[Fused] = []
        for node in analysis.nodes.values():
            if node.op_type in KERNELS and is_standard(node):
                kernel, around = KERNELS[node.op_type]
                if nodes := around(analysis, node):
                    self.kernels.append(Fused(kernel, nodes))
        self._of = {node: fused for fused in self.kernels for node in fused.nodes}

    def of(self, node: ir.Node) -> Fused | None:
        """The kernel that an operator is a part of; None where it is of none."""
        return self._of.get(node)

    def broken(self, nodes: Iterable[ir.Node]) -> Fused | None:
        """The first kernel of which some operators are among these and others are not; None where none is.

        Args:
            nodes: operators that go away.
        """
        gone = dict.fromkeys(nodes)
        for node in gone:
            fused = self._of.get(node)
            if fused is not None and not gone.keys() >= {*fused.nodes}:
                return fused
        return None
